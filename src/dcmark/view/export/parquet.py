"""``dcmark export parquet``: shards with image features as Hugging Face ``datasets`` reads them.

    datasets.load_dataset("parquet", data_files="set/*.parquet")

Columns ``image`` (a struct of encoded bytes and a path), ``label`` (a class with its names, or a vector), ``part``,
``sha256``, ``frame`` and ``record`` (JSON).
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from dcmark.archive.store import Archive
from dcmark.errors import UsageError
from dcmark.progress import Progress
from dcmark.view.export.base import ExportReport
from dcmark.view.export.sets import journal_of, one_or_three_channels, open_place, planned, side_file_of, write_set
from dcmark.view.export.shards import PER_SHARD, Shards
from dcmark.view.export.webdataset import picture
from dcmark.view.labels import Labels
from dcmark.view.render import Item
from dcmark.view.view import View

ROWS_OF_A_GROUP = 100


def export_parquet(
    archive: Archive,
    out: str | os.PathLike[str],
    *,
    view: View,
    per_shard: int = PER_SHARD,
    overwrite: bool = False,
    threads: int | None = None,
    progress: Progress | None = None,
) -> ExportReport:
    """Write the images of a view as Parquet files into a folder; arguments and errors as ``export_webdataset``."""
    place = Path(out)
    plan = planned(archive, view, _check)
    open_place(place, folder=True, overwrite=overwrite)
    return write_set(
        plan,
        "parquet",
        side_file_of(place, folder=True),
        row,
        lambda: _Tables(place, plan.labels, per_shard),
        journal=journal_of(place, folder=True),
        threads=threads,
        progress=progress,
    )


def _check(view: View) -> None:
    one_or_three_channels(view, "Parquet with image features")
    if view.bits == 32:
        raise UsageError("expected 8 or 16 bits for images in Parquet; found 32; use --bits 16, or export npy")


def row(item: Item) -> dict[str, Any]:
    """A row of the table."""
    suffix, data = picture(item)
    record = item.record
    return {
        "image": {"bytes": data, "path": f"{item.index:08d}.{suffix}"},
        "label": list(item.label) if isinstance(item.label, tuple) else item.label,
        "part": record.get("part"),
        "sha256": record["sha256"],
        "frame": record["frame"],
        "record": json.dumps(record),
    }


def schema(labels: Labels) -> pa.Schema:
    """The columns, with the features that ``datasets`` finds in the metadata."""
    image = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    text = {"dtype": "string", "_type": "Value"}
    features: dict[str, Any] = {"image": {"_type": "Image"}}
    fields = [pa.field("image", image)]
    if labels.classes:
        fields.append(pa.field("label", pa.int64()))
        features["label"] = {"names": list(labels.classes), "_type": "ClassLabel"}
    elif labels.values:
        fields.append(pa.field("label", pa.list_(pa.float32())))
        features["label"] = {"feature": {"dtype": "float32", "_type": "Value"}, "_type": "Sequence"}
    fields += [pa.field("part", pa.string()), pa.field("sha256", pa.string())]
    fields += [pa.field("frame", pa.int32()), pa.field("record", pa.string())]
    features |= {"part": text, "sha256": text, "frame": {"dtype": "int32", "_type": "Value"}, "record": text}
    return pa.schema(fields, metadata={"huggingface": json.dumps({"info": {"features": features}})})


class _Tables(Shards):
    """Parquet files."""

    def __init__(self, place: Path, labels: Labels, per_shard: int) -> None:
        super().__init__(place, "{}.parquet", per_shard)
        self._schema = schema(labels)
        self._rows: list[dict[str, Any]] = []

    def begin(self, draft: Path) -> None:
        """Open a shard."""
        self._writer = pq.ParquetWriter(draft, self._schema, compression="none")

    def put(self, number: int, encoded: dict[str, Any]) -> None:
        """Keep a row; groups of them are written."""
        del number
        self._rows.append({name: encoded[name] for name in self._schema.names})
        if len(self._rows) == ROWS_OF_A_GROUP:
            self._write()

    def _write(self) -> None:
        self._writer.write_table(pa.Table.from_pylist(self._rows, self._schema))
        self._rows = []

    def end(self) -> None:
        """Complete it."""
        if self._rows:
            self._write()
        self._writer.close()
