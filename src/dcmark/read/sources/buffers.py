"""The bytes of one item at hand, with bounded memory."""

from __future__ import annotations

import errno
import mmap
import tempfile
from contextlib import suppress
from typing import Any, BinaryIO

from dcmark.config import LIMITS, MIB, Limits
from dcmark.errors import LimitError, SourceError, StorageError
from dcmark.findings import Finding
from dcmark.read.base import Item

_STEP = 8 * MIB


class Buffer:
    """All bytes of a file; a context manager.

    Attributes:
        data: the bytes, read-only. Gone after ``close``: let go of slices and of arrays made from it
            before; those still held keep working and keep the memory until they are dropped.
    """

    __slots__ = ("_map", "data")

    def __init__(self, content: bytes | mmap.mmap) -> None:
        self._map = content if isinstance(content, mmap.mmap) else None
        self.data = memoryview(content)

    def close(self) -> None:
        """Let go of the memory, or of the mapping and with it of the temporary file; may be called twice."""
        with suppress(BufferError):  # somebody still holds a view; it goes with the last one
            self.data.release()
        if self._map is not None:
            with suppress(BufferError):
                self._map.close()

    def __enter__(self) -> Buffer:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def load(item: Item, limits: Limits = LIMITS) -> Buffer:
    """Read all bytes of an item.

    Up to ``limits.in_memory`` bytes are held in memory. More are copied to an unnamed temporary file
    and mapped; the user's own file is never mapped, for a file cut short under a mapping kills the
    process. What an item says of its size only chooses the first step.

    Raises:
        LimitError: more than ``limits.member_bytes``, or a container beyond its ratio.
        SourceError: damaged; a sequential item that was opened too late or twice.
        StorageError: no room for the temporary file.
        OSError: the system refuses to open or read it.
    """
    if item.size is not None and item.size > limits.member_bytes:
        raise _too_large(limits)
    step = _STEP if item.size is None else min(item.size + 1, _STEP)
    parts: list[bytes] = []
    total = 0
    with item.open() as stream:
        while part := stream.read(step):
            parts.append(part)
            total += len(part)
            if total > limits.member_bytes:
                raise _too_large(limits)
            if total > limits.in_memory:
                return _spool(parts, total, stream, limits)
            step = _STEP
    return Buffer(parts[0] if len(parts) == 1 else b"".join(parts))


def _spool(parts: list[bytes], total: int, stream: BinaryIO, limits: Limits) -> Buffer:
    with tempfile.TemporaryFile() as file:
        while parts:
            _write(file, parts.pop(0))
        while part := stream.read(_STEP):
            total += len(part)
            if total > limits.member_bytes:
                raise _too_large(limits)
            _write(file, part)
        try:
            file.flush()
            # The mapping holds a handle of its own, so the file can be closed here and is gone with it.
            return Buffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        except OSError as error:
            raise _no_room(error) from error


def _write(file: Any, part: bytes) -> None:
    try:
        file.write(part)
    except OSError as error:
        raise _no_room(error) from error


def _no_room(error: OSError) -> StorageError:
    return StorageError(
        f"expected room for a temporary file in {tempfile.gettempdir()}, found: "
        f"{error.strerror or errno.errorcode.get(error.errno or 0, 'an error')}; "
        "make room or point TMPDIR to another place"
    )


def _too_large(limits: Limits) -> LimitError:
    return LimitError(f"a file holds more than {limits.member_bytes} bytes, the limit member_bytes")


def failure(error: LimitError | SourceError | OSError, path: str) -> Finding:
    """What to note when an item could not be read.

    The finding never holds the text of an OSError, for that names the file. Codes: ``too-large``,
    ``damaged``, ``unreadable``.

    >>> failure(PermissionError(13, "Permission denied", "/data/Anna"), "p1/1").message
    'expected a readable file, found: Permission denied'
    """
    if isinstance(error, LimitError):
        return Finding("error", "too-large", str(error), "left out", path)
    if isinstance(error, SourceError):
        return Finding("error", "damaged", str(error), "left out", path)
    reason = error.strerror or type(error).__name__
    return Finding("error", "unreadable", f"expected a readable file, found: {reason}", "left out", path)
