"""When bytes are on the disk and not only on their way there."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable: files that were made, renamed or removed in it.

    On Windows a folder cannot be opened for this; NTFS keeps names in its journal.
    """
    if os.name == "nt":
        return
    number = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


def settle() -> None:
    """Wait until all that was written before is on the disk, whoever wrote it.

    The tables of an archive are written by Lance, which leaves this to the system. On Windows, which has no such call,
    nothing is waited for.
    """
    if hasattr(os, "sync"):
        os.sync()


class Lock:
    """Held by one process at a time; it ends with the process, however that ends.

    Raises:
        BlockingIOError: another process holds it.
    """

    def __init__(self, place: Path) -> None:
        self._file = place.open("a+b")
        try:
            _lock(self._file.fileno())
        except OSError as error:
            self._file.close()
            raise BlockingIOError(error.errno, "held by another process") from None

    def release(self) -> None:
        """Let go."""
        with suppress(OSError):
            self._file.close()


def _lock(number: int) -> None:
    import sys

    if sys.platform == "win32":
        import msvcrt

        msvcrt.locking(number, msvcrt.LK_NBLCK, 1)
    else:
        import fcntl

        fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
