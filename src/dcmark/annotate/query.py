"""Annotations as tables for SQL: entry-point group ``dcmark.tables``, used by ``dcmark.archive.query``.

``annotations`` has a row an annotation, ``annotation_frames`` a row for every frame that one marks; ``measures`` and
``frame_measures`` hold what they measure, computed when a query names them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa

from dcmark.annotate.log import Log
from dcmark.annotate.measure import Measures
from dcmark.annotate.model import annotation_of
from dcmark.annotate.places import Places
from dcmark.archive.events import frames_of_planes
from dcmark.archive.store import Archive

ANNOTATIONS = pa.schema(
    [
        ("id", pa.string()), ("kind", pa.string()), ("level", pa.string()), ("label", pa.string()),
        ("code", pa.string()), ("scheme", pa.string()), ("status", pa.string()), ("patient_id", pa.string()),
        ("study_instance_uid", pa.string()), ("series_instance_uid", pa.string()), ("volume", pa.string()),
        ("target_file", pa.string()), ("target_frame", pa.int32()), ("value", pa.float64()), ("unit", pa.string()),
        ("text", pa.string()), ("author", pa.string()), ("tool", pa.string()), ("made", pa.string()),
        ("changed", pa.timestamp("ms", "UTC")), ("changed_by", pa.string()), ("origin", pa.string()),
        ("derived_from", pa.list_(pa.string())), ("event", pa.int64()),
    ]
)  # fmt: skip
FRAMES = pa.schema([("id", pa.string()), ("sha256", pa.string()), ("frame", pa.int32())])
MEASURES = pa.schema(
    [
        ("id", pa.string()), ("frames", pa.int32()), ("pixels", pa.int64()), ("volume_ml", pa.float64()),
        ("longest_diameter_mm", pa.float64()), ("mean_hu", pa.float64()), ("mean", pa.float64()),
        ("quantity", pa.string()), ("unit", pa.string()),
    ]
)  # fmt: skip
FRAME_MEASURES = pa.schema(
    [
        ("id", pa.string()), ("sha256", pa.string()), ("frame", pa.int32()), ("pixels", pa.int64()),
        ("area_mm2", pa.float64()), ("longest_diameter_mm", pa.float64()), ("mean_hu", pa.float64()),
        ("mean", pa.float64()), ("quantity", pa.string()), ("unit", pa.string()),
    ]
)  # fmt: skip


def annotation_table(archive: Archive, sql: str = "") -> pa.Table:
    """The annotations there are, rejected ones too."""
    del sql
    import json

    rows = []
    for row in Log(archive).state().rows().to_pylist():
        plain = json.loads(row["body"])
        code, _, scheme = row["code"].partition("^")
        rows.append(
            {
                "id": row["annotation"], "kind": row["kind"], "level": row["level"], "label": row["label"],
                "code": code or None, "scheme": scheme or None, "status": row["status"],
                "patient_id": row["patient"] or None, "study_instance_uid": row["study"] or None,
                "series_instance_uid": row["series"] or None, "volume": row["volume"] or None,
                "target_file": row["file"] or None, "target_frame": row["frame"], "value": row["value"],
                "unit": row["unit"] or None, "text": plain.get("text"), "author": plain.get("author"),
                "tool": plain.get("tool"), "made": plain.get("time"),
                "changed": datetime.fromtimestamp(row["time_ns"] / 1e9, UTC), "changed_by": row["author"] or None,
                "origin": plain.get("origin"), "derived_from": plain.get("derived_from", []), "event": row["seq"],
            }
        )  # fmt: skip
    return pa.Table.from_pylist(rows, ANNOTATIONS)


def annotation_frames(archive: Archive, sql: str = "") -> pa.Table:
    """Every frame that an annotation marks."""
    del sql
    rows: list[dict[str, Any]] = []
    for row in Log(archive).state().rows().to_pylist():
        if row["planes"]:
            found = frames_of_planes(archive, row["batch"], row["first_row"], row["planes"])
        else:
            found = list(annotation_of(row).frames)
        rows += [{"id": row["annotation"], "sha256": file, "frame": frame} for file, frame in found]
    return pa.Table.from_pylist(rows, FRAMES)


def measures(archive: Archive, sql: str = "") -> pa.Table:
    """What annotations measure; means are computed where the query asks for one (``mean`` or ``*``)."""
    rows = [
        {
            "id": name, "frames": whole.frames, "pixels": whole.pixels, "volume_ml": whole.volume_ml,
            "longest_diameter_mm": whole.longest_diameter_mm, "mean_hu": whole.mean_hu, "mean": whole.mean,
            "quantity": whole.quantity or None, "unit": whole.unit or None,
        }
        for name, whole, _ in _measured(archive, sql)
    ]  # fmt: skip
    return pa.Table.from_pylist(rows, MEASURES)


def frame_measures(archive: Archive, sql: str = "") -> pa.Table:
    """What annotations measure on each of their frames."""
    rows = [
        {
            "id": name, "sha256": one.frame.file, "frame": one.frame.frame, "pixels": one.pixels,
            "area_mm2": one.area_mm2, "longest_diameter_mm": one.longest_diameter_mm,
            "mean_hu": one.mean if one.quantity == "hu" else None, "mean": one.mean,
            "quantity": one.quantity or None, "unit": one.unit or None,
        }
        for name, _, parts in _measured(archive, sql)
        for one in parts
    ]  # fmt: skip
    return pa.Table.from_pylist(rows, FRAME_MEASURES)


def _measured(archive: Archive, sql: str) -> Iterator[tuple[str, Any, Any]]:
    tool = Measures(Places(archive), values=re.search(r"\bmean|quantity|\*", sql) is not None or not sql)
    for one in Log(archive).state().annotations():
        if one.contours or len(one.mask):
            parts = list(tool.frames(one))
            yield one.id, tool.summed(parts), parts
