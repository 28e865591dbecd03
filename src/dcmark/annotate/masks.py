"""Masks, a plane a frame: the pixels inside their bounding box, packed without loss.

A binary plane is one bit a pixel; a fractional one (``levels`` > 1) a byte, of which ``levels`` means 1.0.
Packed by Zstandard (RFC 8878). Nothing is unpacked beyond the size of the box.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from threading import local
from typing import Any, TypeVar, overload

import numpy as np
import zstandard
from numpy.typing import NDArray

from dcmark.archive.events import read_planes
from dcmark.archive.store import Archive
from dcmark.errors import DamageError, UsageError
from dcmark.read.volume_model import FrameId

Array = NDArray[Any]
T = TypeVar("T")

LARGEST_SIDE = 1 << 20
LARGEST_PLANE = 1 << 31
"""Pixels of a frame that a mask may lie on."""
_PLANES_READ = 256
_workers = local()


@dataclass(frozen=True, slots=True, eq=False)
class MaskPlane:
    """The marked pixels of one frame.

    Attributes:
        frame: they lie on.
        rows, columns: of the frame.
        top, left, height, width: the box that holds them all.
        levels: 1 for a binary plane; else the value that means 1.0, up to 255.
        data: packed.
    """

    frame: FrameId
    rows: int
    columns: int
    top: int
    left: int
    height: int
    width: int
    levels: int
    data: bytes

    def box(self) -> Array:
        """(height, width): bool, or uint8 where ``levels`` > 1.

        Raises:
            DamageError: the bytes are not those of such a plane.
        """
        return unpack(self.data, self.height, self.width, self.levels)

    def array(self) -> Array:
        """(rows, columns) of the whole frame: bool, or uint8 where ``levels`` > 1."""
        whole = np.zeros((self.rows, self.columns), np.uint8 if self.levels > 1 else bool)
        whole[self.top : self.top + self.height, self.left : self.left + self.width] = self.box()
        return whole

    def binary(self) -> NDArray[np.bool_]:
        """(rows, columns) bool; a fractional plane where it is at least one half."""
        whole = self.array()
        return whole if self.levels == 1 else whole * 2.0 >= self.levels

    def as_row(self) -> dict[str, Any]:
        """Columns of the table ``masks`` but batch and row."""
        return {
            "file": bytes.fromhex(self.frame.file),
            "frame": self.frame.frame,
            "rows": self.rows,
            "columns": self.columns,
            "top": self.top,
            "left": self.left,
            "height": self.height,
            "width": self.width,
            "levels": self.levels,
            "data": self.data,
        }


def plane_of_row(row: Mapping[str, Any]) -> MaskPlane:
    """A plane from a row of ``masks``."""
    return MaskPlane(
        FrameId(row["file"].hex(), row["frame"]),
        row["rows"],
        row["columns"],
        row["top"],
        row["left"],
        row["height"],
        row["width"],
        row["levels"],
        row["data"],
    )


def make_plane(frame: FrameId, marked: Array, levels: int = 1) -> MaskPlane | None:
    """A plane of the pixels of a frame that are not zero; None where there are none.

    Args:
        frame: which.
        marked: (rows, columns); any type for ``levels`` 1, else whole numbers from 0 to ``levels``.
        levels: see ``MaskPlane``.

    Raises:
        UsageError: another shape or range.
    """
    if marked.ndim != 2:
        raise UsageError(f"expected a plane of (rows, columns), found {marked.shape}")
    return boxed_plane(frame, marked.shape, marked, 0, 0, levels)


def boxed_plane(
    frame: FrameId, size: tuple[int, ...], box: Array, top: int, left: int, levels: int = 1
) -> MaskPlane | None:
    """A plane of the pixels of a part of a frame that are not zero; None where there are none.

    Args:
        frame, levels: as for ``make_plane``.
        size: (rows, columns) of the frame.
        box: pixels of the part.
        top, left: of the part in the frame.

    Raises:
        UsageError: pixels outside of the frame, or values above ``levels``.
    """
    down = np.flatnonzero(box.any(axis=1))
    if not len(down):
        return None
    first, last = int(down[0]), int(down[-1]) + 1
    across = np.flatnonzero(box[first:last].any(axis=0))
    start, stop = int(across[0]), int(across[-1]) + 1
    chosen = box[first:last, start:stop]
    if not 1 <= levels <= 255 or (levels > 1 and (chosen.dtype.kind not in "ui" or not 0 <= chosen.max() <= levels)):
        raise UsageError(f"expected whole numbers from 0 to {levels}, at most 255, in a mask, found others")
    rows, columns = size
    top, left = top + first, left + start
    height, width = chosen.shape
    if min(top, left) < 0 or top + height > rows or left + width > columns:
        raise UsageError("expected marked pixels inside the frame, found some outside of it")
    packed = pack(chosen if levels > 1 or chosen.dtype == bool else chosen != 0, levels)
    return MaskPlane(frame, rows, columns, top, left, height, width, levels, packed)


def pack(box: Array, levels: int) -> bytes:
    """The pixels of a box as packed bytes: rows of bits, the first pixel in the highest bit, or bytes."""
    raw = np.packbits(box, axis=1).tobytes() if levels == 1 else np.ascontiguousarray(box, np.uint8).tobytes()
    compressor = getattr(_workers, "compressor", None)
    if compressor is None:
        compressor = _workers.compressor = zstandard.ZstdCompressor(level=3)
    return bytes(compressor.compress(raw))


def unpack(data: bytes, height: int, width: int, levels: int) -> Array:
    """The inverse of ``pack``. Raises DamageError where the bytes hold another number of pixels."""
    stride = (width + 7) // 8 if levels == 1 else width
    if height < 1 or width < 1 or height * width > LARGEST_PLANE:
        raise DamageError("a plane of a mask declares a size that cannot be; the archive is damaged there")
    try:
        raw = zstandard.ZstdDecompressor().decompressobj(write_size=1 << 16)
        pieces, total = raw.decompress(data), height * stride
    except zstandard.ZstdError as error:
        raise DamageError("a plane of a mask cannot be unpacked; the archive is damaged there") from error
    if len(pieces) != total:
        raise DamageError(f"expected {total} bytes in a plane of a mask, found {len(pieces)}; the archive is damaged")
    array = np.frombuffer(pieces, np.uint8).reshape(height, stride)
    return array if levels > 1 else np.unpackbits(array, axis=1, count=width).astype(bool)


def in_threads(work: Callable[[int], T], count: int, threads: int = 2, run: int = 16) -> list[T]:
    """``[work(0), work(1), ...]`` with runs of neighbours given to threads; numpy lets them work side by side."""
    if count <= run or threads < 2:
        return [work(k) for k in range(count)]

    def several(start: int) -> list[T]:
        return [work(k) for k in range(start, min(count, start + run))]

    with ThreadPoolExecutor(threads, "dcmark-mask") as pool:
        return [one for part in pool.map(several, range(0, count, run)) for one in part]


class StoredPlanes(Sequence[MaskPlane]):
    """The planes of a mask in an archive, read some at a time as they are asked for."""

    def __init__(self, archive: Archive, batch: int, first_row: int, count: int) -> None:
        self.archive, self.batch, self.first_row, self._count = archive, batch, first_row, count

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[MaskPlane]:
        for start in range(0, self._count, _PLANES_READ):
            yield from self._read(start, min(self._count, start + _PLANES_READ))

    @overload
    def __getitem__(self, index: int) -> MaskPlane: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[MaskPlane]: ...
    def __getitem__(self, index: int | slice) -> MaskPlane | Sequence[MaskPlane]:
        numbers = range(self._count)[index]
        if isinstance(numbers, int):
            return self._read(numbers, numbers + 1)[0]
        return [self._read(number, number + 1)[0] for number in numbers]

    def _read(self, start: int, stop: int) -> list[MaskPlane]:
        rows = read_planes(self.archive, self.batch, self.first_row + start, stop - start)
        return [plane_of_row(row) for row in rows]


def by_frame(mask: Sequence[MaskPlane]) -> dict[FrameId, MaskPlane]:
    """Planes by the frame they lie on."""
    return {plane.frame: plane for plane in mask}
