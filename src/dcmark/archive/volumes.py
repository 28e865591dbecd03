"""The table ``volumes``: which frames make a volume, on what grid, and what is odd about it.

Derived from the other tables and rebuilt at will. Rows are only added: a series whose files changed is described
again, and its newest description counts. One row of kind ``state`` a build says up to which fragment of ``files``
the table knows.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import lance
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from dcmark.archive.faults import reading, writing
from dcmark.archive.rows import record_batches
from dcmark.archive.schema import FILES, STORAGE_VERSION, VOLUMES
from dcmark.archive.spread import Pinned, pin
from dcmark.archive.store import Archive
from dcmark.archive.volume_source import SOURCE_COLUMNS, Places, array_volumes, dicom_volumes
from dcmark.engine import current as current_engine
from dcmark.errors import DamageError, StorageError
from dcmark.findings import Finding
from dcmark.geometry import AffineLps, PointsLps
from dcmark.read import arrays
from dcmark.read.volumes import FrameId, FrameRange, Leftover, Split, Tiles, Volume

DERIVATION = 1
"""Raised whenever volumes are found in another way, so that every archive finds its own anew."""
_KEY = ("what", "series", "seen", "build", "derivation")
GROUP_FILES = 1000
"""Files whose tags are held at once, unless one series has more."""


@dataclass(frozen=True, slots=True, eq=False)
class StoredVolume(Volume):
    """A volume of an archive; ``file`` of its frames is the SHA-256 in hexadecimal digits.

    Attributes:
        archive: it lies in.
        verdict: the grid in words.
        detached: SHA-256 of the file that holds the pixels, where the header stands in a file of its own.
    """

    archive: Archive | None = None
    verdict: str = ""
    detached: str = ""


def volumes(archive: Archive, where: str | None = None) -> list[StoredVolume]:
    """Volumes of an archive, by patient, series and number.

    Args:
        where: SQL condition over the view ``volumes``, e.g. ``modality = 'CT'``; None: all.

    Raises:
        QueryError: ``where`` is refused.
        DamageError: a table cannot be read.
    """
    from dcmark.archive.query import query

    order = "ORDER BY dataset, patient, patient_id, series_instance_uid, number"
    wanted = query(archive, f"SELECT id FROM volumes WHERE (({where or 'true'}\n)) {order}")["id"].to_pylist()
    if not wanted:
        return []
    table = current(archive)
    chosen = pc.and_(pc.equal(table["what"], "volume"), pc.is_in(table["id"], pa.array(wanted)))
    rows = {row["id"]: row for row in table.filter(chosen).to_pylist()}
    return [volume_of_row(archive, rows[name]) for name in wanted]


def update(archive: Archive, *, afresh: bool = False) -> int:
    """Describe the series that have files the table does not know yet; the number of volumes described.

    Args:
        afresh: describe all of them, whatever the table knows.

    Raises:
        StorageError: the storage refused.
        DamageError: the archive is damaged.
    """
    count = 0
    for rows in _build(archive, afresh=afresh):
        archive._append("volumes", record_batches("volumes", rows))
        count += sum(row["what"] == "volume" for row in rows)
    if count:
        _tidy(archive)
    return count


def current(archive: Archive, columns: Sequence[str] | None = None) -> pa.Table:
    """Rows of ``volumes`` that count, brought up to date first; in memory alone where nothing can be written.

    Args:
        columns: which; None: all.

    Raises:
        DamageError: a table other than ``volumes`` cannot be read.
    """
    wanted = list(columns) if columns is not None else VOLUMES.names
    needed = list(dict.fromkeys((*wanted, *_KEY)))
    with suppress(StorageError):
        try:
            update(archive)
            return _living(archive.read("volumes", needed)).select(wanted)
        except DamageError:
            _drop(archive)  # nothing is lost: all of it is found again, or the damage lies in another table
            update(archive)
            return _living(archive.read("volumes", needed)).select(wanted)
    fresh = pa.Table.from_pylist([row for part in _build(archive) for row in part], VOLUMES)
    return _living(pa.concat_tables([archive.read("volumes", needed), fresh.select(needed)])).select(wanted)


def _drop(archive: Archive) -> None:
    place = archive.path / "volumes.lance"
    with writing(archive.path):
        shutil.rmtree(place, ignore_errors=False)
    archive._tables.pop("volumes", None)


# Which rows count -----------------------------------------------------------------------------------------------------


def _living(table: pa.Table) -> pa.Table:
    """Of each series the rows of the newest description; no rows of state."""
    newest: dict[str, tuple[int, int]] = {}
    keys = list(zip(table["seen"].to_pylist(), table["build"].to_pylist(), strict=True))
    series, what = table["series"].to_pylist(), table["what"].to_pylist()
    derivation = table["derivation"].to_pylist()
    for name, key, made in zip(series, keys, derivation, strict=True):
        if made == DERIVATION:
            newest[name] = max(newest.get(name, key), key)
    alive = [
        made == DERIVATION and kind != "state" and newest[name] == key
        for name, key, kind, made in zip(series, keys, what, derivation, strict=True)
    ]
    return table.filter(pa.array(alive, pa.bool_()))


def _tidy(archive: Archive) -> None:
    """Write the table anew when most of its rows are superseded."""
    table = archive.table("volumes")
    if table is None or table.count_rows() < 1000:
        return
    head = archive.read("volumes", _KEY)
    if _living(head).num_rows * 2 > head.num_rows:
        return
    whole = archive.read("volumes")
    state = max(
        s for s, d in zip(head["seen"].to_pylist(), head["derivation"].to_pylist(), strict=True) if d == DERIVATION
    )
    kept = [*_living(whole).to_batches(), *record_batches("volumes", [_state(state, 0)])]
    # Another process may have added to it meanwhile; then it is tidied another time.
    with suppress(StorageError):
        _overwrite(archive, kept)


def _overwrite(archive: Archive, batches: list[pa.RecordBatch]) -> None:
    reader = pa.RecordBatchReader.from_batches(VOLUMES, batches)
    place = str(archive.path / "volumes.lance")
    try:
        with writing(archive.path):
            lance.write_dataset(reader, place, mode="overwrite", data_storage_version=STORAGE_VERSION)
    finally:
        archive._tables.pop("volumes", None)


# Building -------------------------------------------------------------------------------------------------------------


def _build(archive: Archive, *, afresh: bool = False) -> Iterator[list[dict[str, Any]]]:
    """Rows of series that changed, a group at a time; last of all the row of state."""
    files = archive.table("files")
    if files is None:
        return
    newest = max((fragment.fragment_id for fragment in files.get_fragments()), default=-1)
    seen = -1 if afresh else _seen(archive)
    if newest <= seen:
        return
    build = time.time_ns()
    engine, groups = current_engine(), _groups(files, seen)
    if engine is None:
        described: Iterator[list[dict[str, Any]]] = (_described(archive, files, places) for places in groups)
    else:
        pinned = pin(archive, "files", "frames")
        described = engine.map(_describe_unit, ((pinned, places) for places in groups))
    for rows in described:
        stamp = {"seen": newest, "build": build, "derivation": DERIVATION}
        yield [{**row, **stamp} for row in rows]
    yield [_state(newest, build)]


def _state(seen: int, build: int) -> dict[str, Any]:
    return {"what": "state", "series": "", "seen": seen, "build": build, "derivation": DERIVATION}


def _seen(archive: Archive) -> int:
    """The newest fragment of ``files`` that the table knows; -1 for none."""
    states = archive.read("volumes", ["seen"], f"what = 'state' AND derivation = {DERIVATION}")
    return max(states["seen"].to_pylist(), default=-1)


def _groups(files: Any, seen: int) -> Iterator[Places]:
    """Positions in ``files`` of whole series with files in fragments after ``seen``, some series at a time."""
    fragments = files.get_fragments()
    new = [fragment for fragment in fragments if fragment.fragment_id > seen]
    changed: pa.Array | None = None
    if len(new) < len(fragments):
        changed = pc.unique(
            files.scanner(columns=["series_instance_uid"], fragments=new).to_table()["series_instance_uid"]
        )
    fresh_from = sum(fragment.count_rows() for fragment in fragments if fragment.fragment_id <= seen)
    known: dict[str | None, int] = {}
    codes, positions, start = [np.empty(0, np.int64)], [np.empty(0, np.int64)], 0
    alone: list[Places] = []
    for batch in files.scanner(columns=["series_instance_uid", "kind"]).to_batches():
        place = np.arange(start, start + len(batch), dtype=np.int64)
        start += len(batch)
        dicom = pc.equal(batch["kind"], "dicom").to_numpy(zero_copy_only=False)
        array = pc.is_in(batch["kind"], pa.array(list(arrays.KINDS))).to_numpy(zero_copy_only=False)
        alone.append(place[array & (place >= fresh_from)])
        if changed is not None:
            dicom &= pc.is_in(batch["series_instance_uid"], changed).to_numpy(zero_copy_only=False)
        encoded = batch["series_instance_uid"].dictionary_encode(null_encoding="encode")
        number = np.array([known.setdefault(uid, len(known)) for uid in encoded.dictionary.to_pylist()], np.int64)
        codes.append(number[encoded.indices.to_numpy()][dicom])
        positions.append(place[dicom])
    code, position = np.concatenate(codes), np.concatenate(positions)
    order = np.argsort(code, kind="stable")
    code, position = code[order], position[order]
    first = 0
    while first < len(code):
        last = min(first + GROUP_FILES, len(code))
        if last < len(code):  # whole series only
            begin = int(np.searchsorted(code, code[last], "left"))
            last = begin if begin > first else int(np.searchsorted(code, code[last], "right"))
        yield position[first:last]
        first = last
    lone = np.concatenate([np.empty(0, np.int64), *alone])
    for first in range(0, len(lone), GROUP_FILES):
        yield lone[first : first + GROUP_FILES]


def _describe_unit(unit: tuple[Pinned, Places]) -> list[dict[str, Any]]:
    """In a worker: the rows of one group."""
    archive = unit[0].opened()
    return _described(archive, archive.table("files"), unit[1])


def _described(archive: Archive, files: Any, places: Places) -> list[dict[str, Any]]:
    """Rows of the volumes and leftovers of files at positions in ``files``."""
    table = _take(files, places)
    digests = table["sha256"].to_pylist()
    if len(set(digests)) < len(digests):  # two writers at once
        once = np.sort(np.unique(np.array(digests, "S32"), return_index=True)[1])
        table, places = table.take(once), places[once]
    if table["kind"][0].as_py() == "dicom":
        found = dicom_volumes(archive, table, places)
        listed: list[Volume | Leftover] = [*found.volumes, *found.leftovers]
        return [_row(one, one.series_instance_uid) for one in listed]
    return [
        _row(one, digest.hex(), data)
        for place, digest in zip(places.tolist(), table["sha256"].to_pylist(), strict=True)
        for one, data in array_volumes(archive, place)
    ]


def _take(files: Any, places: Places) -> pa.Table:
    there = [name for name in SOURCE_COLUMNS if name in files.schema.names]
    with reading("table 'files'"):
        table = files.take(places.tolist(), columns=there)
    for name in SOURCE_COLUMNS:
        if name not in there:  # the archive was written by an earlier release
            table = table.append_column(FILES.field(name), pa.nulls(len(table), FILES.field(name).type))
    return table


# Rows and volumes -----------------------------------------------------------------------------------------------------


def _row(one: Volume | Leftover, series: str, detached: bytes | None = None) -> dict[str, Any]:
    runs = list(_runs(one.frames))
    row: dict[str, Any] = {
        "series": series,
        "series_instance_uid": one.series_instance_uid,
        "files": len({run["file"] for run in runs}) + (detached is not None),
        "first_file": runs[0]["file"] if runs else None,
        "detached": detached,
        "frames": runs,
    }
    if isinstance(one, Leftover):
        found = one.finding
        return {**row, "what": "leftover", "verdict": "in no volume", "findings": [found_row(found)]}
    return {
        **row,
        "what": "volume",
        "id": one.id,
        "number": one.number,
        "modality": one.modality,
        "grid": one.grid,
        "shape": list(one.shape),
        "affine": None if one.affine is None else one.affine.ravel().tolist(),
        "spacing": None if one.spacing is None else list(one.spacing),
        "slice_index": one.slice_index.tolist(),
        "positions": None if one.positions is None else one.positions.ravel().tolist(),
        "split": [split._asdict() for split in one.split],
        "phase": one.phase,
        "phases": one.phases,
        "tiles": None if one.tiles is None else list(one.tiles),
        "missing": _missing(one),
        "verdict": verdict(one),
        "findings": [found_row(found) for found in one.findings],
    }


def found_row(finding: Finding) -> dict[str, str]:
    """A finding as the tables hold it."""
    return {name: text for name, text in finding.as_dict().items() if name != "path"}


def _runs(frames: Sequence[FrameId]) -> Iterator[dict[str, Any]]:
    """Frames as runs that follow one another in a file."""
    if isinstance(frames, FrameRange):
        yield {"file": bytes.fromhex(frames.file), "first": frames.start, "count": frames.length}
        return
    file, first, count = "", 0, 0
    for name, number in frames:
        if name == file and number == first + count:
            count += 1
            continue
        if count:
            yield {"file": bytes.fromhex(file), "first": first, "count": count}
        file, first, count = name, number, 1
    if count:
        yield {"file": bytes.fromhex(file), "first": first, "count": count}


def _frames(runs: Sequence[Mapping[str, Any]]) -> Sequence[FrameId]:
    if len(runs) == 1:
        return FrameRange(runs[0]["file"].hex(), runs[0]["first"], runs[0]["count"])
    return tuple(
        FrameId(run["file"].hex(), number)
        for run in runs
        for number in range(run["first"], run["first"] + run["count"])
    )


def volume_of_row(archive: Archive, row: Mapping[str, Any]) -> StoredVolume:
    """A volume from a row of ``volumes`` of kind ``volume``."""
    slices, rows, columns = row["shape"]
    affine, positions, spacing = row["affine"], row["positions"], row["spacing"]
    return StoredVolume(
        row["id"],
        row["series_instance_uid"],
        row["number"],
        row["modality"],
        row["grid"],
        _frames(row["frames"]),
        (),
        (slices, rows, columns),
        None if affine is None else AffineLps(np.array(affine).reshape(4, 4)),
        None if spacing is None else (spacing[0], spacing[1], spacing[2]),
        np.array(row["slice_index"], np.float64),
        None if positions is None else PointsLps(np.array(positions).reshape(-1, 3)),
        tuple(Split(split["attribute"], split["value"]) for split in row["split"]),
        row["phase"],
        row["phases"],
        None if row["tiles"] is None else Tiles(*row["tiles"]),
        tuple(Finding(**found) for found in row["findings"]),
        archive,
        row["verdict"],
        "" if row["detached"] is None else row["detached"].hex(),
    )


def _missing(volume: Volume) -> int:
    """Slices missing between others. A spacing that changes also leaves places free, and nothing is missing there."""
    if any(finding.code in ("missing-slices", "empty-slices-left-out") for finding in volume.findings):
        return len(volume.missing)
    return 0


def verdict(volume: Volume) -> str:
    """A volume's grid in words, e.g. ``20 slices, 2 mm apart, 2 missing``."""
    count = volume.shape[0]
    if volume.spacing is None:
        return f"{count} frame{'s' if count > 1 else ''} without a place in the patient"
    step = f"{volume.spacing[0]:.4g} mm"
    if volume.grid == "single":
        return f"one slice of {step}"
    if volume.grid == "tilted":
        return f"{count} slices, {step} apart, tilted: sheared affine"
    if missing := _missing(volume):
        return f"{count} slices, {step} apart, {missing} missing"
    if volume.grid == "uneven":
        return f"{count} slices, unevenly spaced (about {step})"
    return f"{count} slices, {step} apart"
