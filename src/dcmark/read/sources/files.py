"""Ordinary files, opened so that nothing but a regular file can be behind the name."""

from __future__ import annotations

import io
import os
import stat
from typing import BinaryIO

from dcmark.errors import LimitError, SourceError

# NONBLOCK: a FIFO put in place of a file after the walk must not hang the open.
# NOFOLLOW: nor may a link put there lead out of the source.
_FLAGS = os.O_RDONLY
for _name in ("O_BINARY", "O_CLOEXEC", "O_NOINHERIT", "O_NOCTTY", "O_NONBLOCK", "O_NOFOLLOW"):
    _FLAGS |= getattr(os, _name, 0)


def _descriptor(path: str) -> int:
    number = os.open(path, _FLAGS)
    if not stat.S_ISREG(os.fstat(number).st_mode):
        os.close(number)
        raise SourceError("expected a regular file, found a folder, a device or a pipe; nothing was read")
    return number


def open_regular(path: str) -> BinaryIO:
    """Open a regular file for reading; never blocks, never follows a link in the last part of ``path``.

    Raises:
        OSError: the system refuses.
        SourceError: it is no regular file.
    """
    return open(_descriptor(path), "rb")


class GuardedFile(io.BufferedReader):
    """A file in which no single read may ask for more than a ceiling.

    Libraries that parse containers read their tables in one go, as long as the container says they
    are, and Python reserves that much before reading. The guard turns such a request down.
    """

    name = None  # else the number of the descriptor, which those libraries take for a file name

    def __init__(self, path: str, ceiling: int) -> None:
        super().__init__(io.FileIO(_descriptor(path), "rb"))
        self._ceiling = ceiling
        self.size = os.fstat(self.fileno()).st_size

    def read(self, size: int | None = -1, /) -> bytes:
        """At most ``size`` bytes. Raises LimitError above the ceiling."""
        wanted = self.size - self.tell() if size is None or size < 0 else size
        if wanted > self._ceiling:
            raise LimitError(
                f"the container declares a table of {wanted} bytes; at most {self._ceiling} are read at once"
            )
        return super().read(size)
