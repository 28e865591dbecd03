"""Where the parts of files lie in ``frames``, and their payloads.

Two ways lead to a payload: through Lance, and straight from the file that Lance packed it into. The
second takes a tenth of the time and is used wherever that file is where it is expected; whether a
payload is the right one is known by its CRC in any case.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from dcmark.archive.faults import reading
from dcmark.archive.schema import FRAMES
from dcmark.errors import DamageError

MOST_INDEXED = 2_000_000
"""Rows of ``frames`` above which only order and places are held in memory, about 25 bytes a row; else about 70."""
_BESIDE = [name for name in FRAMES.names if name != "data"]
_PACKED = 1
"""Lance's kind of a blob that lies in a file of its own together with others."""

Positions = Sequence[int] | NDArray[np.int64]


class Parts:
    """The rows of one version of ``frames``, found by batch and row, read by position."""

    def __init__(self, table: Any, place: Path) -> None:
        self._lance = table
        with reading("table 'frames'"):
            indexed = table.count_rows() <= MOST_INDEXED
            columns = _BESIDE if indexed else ["batch", "row"]
            rows = table.scanner(columns=columns).to_table()
            batch, row = rows["batch"].to_numpy(), rows["row"].to_numpy()
            self._rows: pa.Table | None = rows.combine_chunks() if indexed and len(rows) else None
            self._columns = [(n, self._rows.column(n).chunk(0)) for n in _BESIDE] if self._rows is not None else []
            self._payloads = _Payloads(table, place)
        # From (batch, row) to the position, by runs of consecutive rows.
        starts = np.ones(len(batch), bool)
        starts[1:] = (np.diff(batch) != 0) | (np.diff(row) != 1)
        first = np.flatnonzero(starts)
        order = np.lexsort((row[first], batch[first]))
        self._batch, self._row, self._position = batch[first][order], row[first][order], first[order]
        self._count = np.diff(np.append(first, len(batch)))[order]

    def find(self, batch: int, first_row: int, parts: int) -> NDArray[np.int64]:
        """Positions of the parts of one file, in their order. Raises DamageError when one is not there."""
        low = int(np.searchsorted(self._batch, batch, "left"))
        high = int(np.searchsorted(self._batch, batch, "right"))
        pieces: list[NDArray[np.int64]] = [np.empty(0, np.int64)]
        row, end = first_row, first_row + parts
        while row < end:
            run = low + int(np.searchsorted(self._row[low:high], row, "right")) - 1
            inside = row - int(self._row[run]) if low <= run < high else 0
            if not low <= run < high or inside >= self._count[run]:
                raise DamageError(f"parts of a file are missing: {end - row} of {parts} are not in 'frames'")
            take = min(end - row, int(self._count[run]) - inside)
            start = int(self._position[run]) + inside
            pieces.append(np.arange(start, start + take, dtype=np.int64))
            row += take
        return np.concatenate(pieces)

    def rows(self, positions: Positions) -> list[dict[str, Any]]:
        """The columns beside the payload, in the order asked for. Raises DamageError when they cannot be read."""
        with reading("rows of 'frames'"):
            if self._rows is None:
                return list(self._lance.take([int(p) for p in positions], columns=_BESIDE).to_pylist())
            if len(positions) > 8:
                return list(self._rows.take(pa.array(positions, pa.int64())).to_pylist())
            return [{name: column[int(p)].as_py() for name, column in self._columns} for p in positions]

    def payloads(self, positions: Positions) -> list[bytes]:
        """Payloads in the order asked for. Raises DamageError when they cannot be read."""
        with reading("frames"):
            found = [self._payloads.read(int(p)) for p in positions]
            left = [i for i, payload in enumerate(found) if payload is None]
            if left:
                blobs = self._lance.read_blobs("data", indices=[int(positions[i]) for i in left], preserve_order=True)
                if len(blobs) != len(left):
                    raise DamageError("'frames' gives fewer payloads than rows; the archive is damaged there")
                for i, (_, payload) in zip(left, blobs, strict=True):
                    found[i] = payload or b""
            return [payload for payload in found if payload is not None]


class _Payloads:
    """For every payload the file it lies in, its start and size, checked against the files that are there.

    Lance believes any size: asked for a payload whose stored size is damaged it would read without end.
    """

    def __init__(self, table: Any, place: Path) -> None:
        columns: list[list[NDArray[Any]]] = [[], [], [], [], []]
        scanner = table.scanner(columns=["data"], blob_handling="all_descriptions", with_row_address=True)
        for batch in scanner.to_batches():
            data = batch.column("data")
            found = [data.field(name).to_numpy() for name in ("position", "size", "kind", "blob_id")]
            for column, values in zip(columns, [*found, batch.column("_rowaddr").to_numpy()], strict=True):
                column.append(values)
        start, size, kind, blob, address = (np.concatenate(one) if one else np.empty(0, np.uint64) for one in columns)
        packed = kind == _PACKED
        # Payloads that do not lie packed together share a number of blob, so that a fragment has one entry for them.
        fragment, together = (address >> np.uint64(32)).astype(np.int64), np.where(packed, blob, 0).astype(np.int64)
        key = fragment << 33 | together << 1 | packed
        self._start, self._size = start, size
        self._files, self._file = _files(table, place, key)
        largest = np.array([file[1] for file in self._files], np.uint64)[self._file]
        # Not start + size, which may be more than fits.
        self._sound = (size <= largest) & (~packed | (start <= largest - np.minimum(size, largest)))

    def read(self, position: int) -> bytes | None:
        """The payload at a position; None where Lance has to be asked. Raises ValueError where it cannot be there."""
        if not self._sound[position]:
            raise ValueError("a payload is said to lie outside of its file")
        file = self._files[self._file[position]][0]
        size = int(self._size[position])
        if file is None or size == 0:
            return None
        with file.open("rb", buffering=0) as stream:
            stream.seek(int(self._start[position]))
            payload = stream.read(size)
        return payload if len(payload) == size else None


def _files(table: Any, place: Path, keys: NDArray[np.int64]) -> tuple[list[tuple[Path | None, int]], NDArray[np.int32]]:
    """Path, where payloads can be read straight from it, and size of each file; and the number of the file of each key.

    A key is the number of the fragment, that of the blob, and a bit for a payload that lies packed with
    others. Lance names the file of a blob by the 32 bits of its number, the lowest first.
    """
    begins = np.flatnonzero(np.diff(keys, prepend=-1))  # neighbours mostly lie in the same file
    different, which = np.unique(keys[begins], return_inverse=True)
    numbers = np.repeat(which.astype(np.int32), np.diff(begins, append=len(keys)))
    folders = {one.fragment_id: [Path(file.path).stem for file in one.data_files()] for one in table.get_fragments()}
    files: list[tuple[Path | None, int]] = []
    for key in different.tolist():
        fragment, blob, packed = key >> 33, key >> 1 & 0xFFFFFFFF, key & 1
        known = [place / "data" / stem for stem in folders.get(fragment, ())]
        name = f"{blob:032b}"[::-1] + ".blob"
        direct = next((folder / name for folder in known if packed and (folder / name).is_file()), None)
        if direct is not None:
            files.append((direct, direct.stat().st_size))
            continue
        places = [folder.with_suffix(".lance") for folder in known]
        places += [file for folder in known if folder.is_dir() for file in folder.iterdir()]
        files.append((None, max((file.stat().st_size for file in places if file.is_file()), default=0)))
    return files, numbers
