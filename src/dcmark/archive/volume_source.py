"""From stored files to volumes: tags out of typed columns, header bytes only where these must tell, no pixels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from dcmark.archive.assemble import ASSEMBLY_COLUMNS, header_bytes, header_dataset
from dcmark.archive.schema import FILES
from dcmark.archive.store import Archive
from dcmark.errors import DcmarkError
from dcmark.findings import Finding
from dcmark.read import arrays, formats
from dcmark.read.pixeldata import VIDEO
from dcmark.read.volumes import (
    COLUMN_NAMES,
    FrameId,
    FrameRow,
    FrameTags,
    Leftover,
    Volume,
    VolumeSet,
    find_volumes,
    frames_of,
    needs_dataset,
)

_TAGS = [name for name in COLUMN_NAMES if name in FILES.names]
_VECTORS = {"image_position_patient": 3, "image_orientation_patient": 6, "pixel_spacing": 2}
SOURCE_COLUMNS = [
    name
    for name in dict.fromkeys((*ASSEMBLY_COLUMNS, *_TAGS, "kind", "transfer_syntax", "findings"))
    if name not in ("header", "segments", "header_codec", "header_length")
]
"""Columns of ``files`` that volumes are found from; headers are read one by one, where they are needed."""
_REPEATS = frozenset({"duplicate", "same-instance-twice", "repeated-position"})

Places = NDArray[np.int64]


def dicom_volumes(archive: Archive, table: pa.Table, places: Places) -> VolumeSet:
    """Volumes of the DICOM files of one series or more. ``file`` of their frames is the SHA-256 in hexadecimal digits.

    Args:
        table: ``SOURCE_COLUMNS`` of the files, every content once.
        places: their positions in ``files``.

    Raises:
        DamageError: the archive is damaged there.
    """
    return _Source(archive, table, places).volumes()


class _Source:
    """Files on their way into a table of frames."""

    def __init__(self, archive: Archive, table: pa.Table, places: Places) -> None:
        self.archive, self.table, self.places = archive, table, places
        self.digests = [digest.hex() for digest in table["sha256"].to_pylist()]
        self.columns: dict[str, Any] = {name: _column(table[name], name) for name in _TAGS}
        self.columns["file"], self.columns["frame"] = self.digests, np.zeros(len(table))
        self.origin: Places = np.arange(len(table))
        """Of each row of ``columns``, the row of ``table`` it comes from."""

    def volumes(self) -> VolumeSet:
        tags = FrameTags.from_columns(self.columns)
        sides = np.stack([tags.number("rows"), tags.number("columns")])
        blind = (sides >= 1).all(axis=0) & (self.table["frames"].to_numpy() == 0)
        several = needs_dataset(tags) & ~blind
        if blind.any() or several.any():
            self._spread(np.flatnonzero(~several & ~blind), np.flatnonzero(several))
            tags = FrameTags.from_columns(self.columns)
        found = find_volumes(tags)
        if _repeats(found):
            # Only now is it worth reading more: do frames that share a place share their pixels too?
            self.columns["content_key"] = self._content_keys()
            found = find_volumes(FrameTags.from_columns(self.columns))
        return VolumeSet(
            tuple(
                replace(volume, findings=(*self._of_files(volume.frames), *volume.findings)) for volume in found.volumes
            ),
            (*found.leftovers, *self._blind(np.flatnonzero(blind))),
        )

    def _spread(self, plain: Places, several: Places) -> None:
        """Replace the rows of files that their columns do not describe by rows of their frames."""
        rows: list[FrameRow] = []
        origin: list[int] = []
        for place in several.tolist():
            for row in self._frames(place):
                rows.append(row)
                origin.append(place)
        names = {*self.columns, *(name for row in rows for name in row)}
        kept = {
            name: _list(self.columns[name], plain) if name in self.columns else [None] * len(plain) for name in names
        }
        self.columns = {name: values + [row.get(name) for row in rows] for name, values in kept.items()}
        self.origin = np.concatenate([plain, np.array(origin, np.int64)])

    def _frames(self, place: int) -> list[FrameRow]:
        """The frames of one file by its header; never raises for what it says."""
        files = self.archive.table("files")
        assert files is not None
        (row,) = files.take([int(self.places[place])], columns=list(ASSEMBLY_COLUMNS)).to_pylist()
        digest, stored = self.digests[place], row["frames"]
        plain: FrameRow = {name: self.table[name][place].as_py() for name in _TAGS}  # type: ignore[assignment]
        plain["file"], plain["frame"] = digest, 0
        try:
            frames = frames_of(header_dataset(self.archive, row), digest)
        except DcmarkError:
            raise
        except Exception:  # noqa: BLE001 - a header that pydicom cannot read must not cost the other files
            plain["findings"] = (
                Finding("error", "unreadable-header", "the header cannot be parsed", "one frame is used"),
            )
            return [plain]
        if self.table["transfer_syntax"][place].as_py() in VIDEO:
            return frames
        there = [frame for frame in frames if frame.get("frame", 0) < stored]
        for frame in there:
            if "frame_count" in frame:
                frame["frame_count"] = min(frame["frame_count"], stored)
        if len(there) < len(frames) and there:
            text = f"expected {len(frames)} frames in a file, found {stored} stored"
            there[0]["findings"] = (
                *there[0].get("findings", ()),
                Finding("error", "frame-count", text, "those are used"),
            )
        return there or [plain]

    def _content_keys(self) -> list[str | None]:
        """Of each frame what is the same for the same pixels: codec, length and CRC of its stored part."""
        frames, keys = np.nan_to_num(np.array(self.columns["frame"], np.float64)).astype(np.int64), list[str | None]()
        batch, first, parts, stored = (self.table[n].to_pylist() for n in ("batch", "first_row", "parts", "frames"))
        positions: list[int] = []
        for place, frame in zip(self.origin.tolist(), frames.tolist(), strict=True):
            if frame < stored[place]:
                row = first[place] + parts[place] - stored[place] + frame
                positions.append(int(self.archive.positions(batch[place], row, 1)[0]))
            else:
                positions.append(-1)
        there = [position for position in positions if position >= 0]
        rows = iter(self.archive.part_rows(there))
        for position in positions:
            part = next(rows) if position >= 0 else None
            keys.append(None if part is None else f"{part['codec']}:{part['length']}:{part['crc']}")
        return keys

    def _of_files(self, frames: Sequence[FrameId]) -> list[Finding]:
        """Errors of the files that a volume takes its frames from."""
        if not self._troubled:
            return []
        codes = Counter(code for file in {frame.file for frame in frames} for code in self._troubled.get(file, ()))
        return [
            Finding(
                "error", code, f"found in {count} of the files that make up the volume", "see the findings of the files"
            )
            for code, count in sorted(codes.items())
        ]

    @cached_property
    def _troubled(self) -> dict[str, set[str]]:
        """Files with findings of level error, and the codes of these."""
        found: dict[str, set[str]] = {}
        for digest, findings in zip(self.digests, self.table["findings"].to_pylist(), strict=True):
            errors = {finding["code"] for finding in findings if finding["level"] == "error"}
            if errors:
                found[digest] = errors
        return found

    def _blind(self, rows: Places) -> list[Leftover]:
        """Images without a single frame to read, by series."""
        series = self.table["series_instance_uid"]
        groups: dict[str, list[int]] = {}
        for row in rows.tolist():
            groups.setdefault(series[row].as_py() or "", []).append(row)
        return [
            Leftover(
                uid,
                tuple(FrameId(self.digests[row], 0) for row in members),
                (),
                Finding(
                    "error",
                    "no-frame",
                    f"images whose pixels are not there (a file cut short, or sent without): {len(members)}",
                    "left out",
                ),
            )
            for uid, members in groups.items()
        ]


def _repeats(found: VolumeSet) -> bool:
    left = any(leftover.finding.code in _REPEATS for leftover in found.leftovers)
    return left or any(volume.phases > 1 for volume in found.volumes)


def _column(column: pa.ChunkedArray, name: str) -> Any:
    """A column as ``FrameTags`` takes it; vectors as one array where every row has one of the right length."""
    size = _VECTORS.get(name)
    if size is None:
        return column.to_pylist()
    whole = column.combine_chunks()
    if isinstance(whole, pa.ChunkedArray):
        whole = whole.chunk(0) if whole.num_chunks else pa.array([], column.type)
    flat = whole.flatten().to_numpy(zero_copy_only=False)
    lengths = np.diff(whole.offsets.to_numpy())
    if whole.null_count == 0 and len(flat) == size * len(whole) and (lengths == size).all():
        return flat.reshape(-1, size)
    return column.to_pylist()


def _list(values: Any, rows: Places) -> list[Any]:
    if isinstance(values, np.ndarray):
        return list(values[rows].tolist())
    return [values[row] for row in rows.tolist()]


def array_volumes(archive: Archive, place: int) -> list[tuple[Volume | Leftover, bytes | None]]:
    """Volumes of one file of another format, by its header; with each the SHA-256 of the file that holds its
    pixels, where that is another one.

    Args:
        place: position of the file in ``files``.
    """
    files = archive.table("files")
    assert files is not None
    (row,) = files.take([place], columns=[*ASSEMBLY_COLUMNS, "kind"]).to_pylist()
    digest = row["sha256"].hex()
    header, folder = array_header(archive, row)
    if isinstance(header, Finding):
        return [(Leftover("", (FrameId(digest, 0),), (), header), None)]
    if not header.detached or not header.dtype:
        return [(one, None) for one in arrays.volumes(header, digest, row["frames"])]
    found = _beside(archive, folder, header.detached)
    if found is None:
        finding = Finding("warning", "detached", "the file of pixels that the header names is not there", "left out")
        return [(Leftover("", (FrameId(digest, 0),), (), finding), None)]
    data, size = found
    packed = header.encoding != "raw" or header.detached.lower().endswith(".gz")
    there = header.frames if packed else max(0, size - header.offset) // header.frame_bytes
    return [(one, data) for one in arrays.volumes(header, digest, min(there, header.frames))]


Folder = tuple[bytes, str]
"""Root of a source and a path in it."""


def array_header(archive: Archive, row: Mapping[str, Any]) -> tuple[arrays.ArrayHeader | Finding, Folder]:
    """The header of a file of another format, and where the file was seen.

    Args:
        row: of ``files``, with ``ASSEMBLY_COLUMNS`` and ``kind``.
    """
    reader: Any = next((reader for reader in formats.readers() if reader.name == row["kind"]), None)
    if reader is None:
        return Finding("info", "no-frames", f"no reader for {row['kind']!r} is installed", "left out"), (b"", "")
    seen = archive.read("paths", ["root", "path"], f"sha256 = X'{row['sha256'].hex()}'").to_pylist()
    place = min(((one["root"], one["path"]) for one in seen), default=(b"", ""))
    # The slices are not read: what stands before the first one is the header.
    return reader.header(memoryview(header_bytes(archive, row)), place[1]), place


def _beside(archive: Archive, header: Folder, name: str) -> tuple[bytes, int] | None:
    """SHA-256 and size of the file of a name beside another; only what was ingested is looked at."""
    root, path = header
    folder = path.rpartition("/")[0]
    wanted = f"{folder}/{name}" if folder else name
    quoted = wanted.replace("'", "''")
    rows = archive.read(
        "paths", ["sha256", "size", "seen_ns"], f"root = X'{root.hex()}' AND path = '{quoted}'"
    ).to_pylist()
    there = [row for row in rows if row["sha256"] is not None]
    if not there:
        return None
    newest = max(there, key=lambda row: row["seen_ns"])
    return newest["sha256"], newest["size"]
