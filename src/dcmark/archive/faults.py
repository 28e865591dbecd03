"""What the storage libraries raise, in our words: bytes that make no sense, a disk that refuses."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa

from dcmark.errors import ArchiveError, DamageError, DcmarkError, StorageError

_REFUSED = (OSError, ValueError, RuntimeError, MemoryError, pa.ArrowException)
_MAKES_NO_SENSE = (*_REFUSED, OverflowError, LookupError, TypeError)
_PANIC = "PanicException"
"""What Rust code gives up with. It derives from BaseException and no module exports it."""


@contextmanager
def reading(what: str) -> Iterator[None]:
    """Whatever the storage raises over damaged bytes inside the block becomes one DamageError.

    Args:
        what: is being read, for the message, e.g. ``table 'files'``.

    Raises:
        DamageError: the stored bytes make no sense.
        StorageError: the system does not allow to read them.
    """
    try:
        yield
    except DcmarkError:
        raise
    except BaseException as error:
        if isinstance(error, PermissionError) or "ermission denied" in str(error):
            raise StorageError(
                f"expected to read {what}, found no permission; check the rights of the archive"
            ) from error
        if isinstance(error, _MAKES_NO_SENSE) or type(error).__name__ == _PANIC:
            raise DamageError(
                f"{what} of the archive cannot be read; it is damaged there, or was not fully copied"
            ) from error
        raise


@contextmanager
def writing(place: Path) -> Iterator[None]:
    """Whatever the storage raises inside the block becomes one StorageError about ``place``."""
    try:
        yield
    except DcmarkError:
        raise
    except BaseException as error:
        if isinstance(error, _REFUSED) or type(error).__name__ == _PANIC:
            raise storage_error(error, place) from error
        raise


def storage_error(error: BaseException, place: Path) -> ArchiveError:
    """An error of the storage in words: what was expected, found, and what to do."""
    text = str(error)
    number = getattr(error, "errno", None)
    if number == 28 or "No space left" in text or "os error 28" in text or "StorageFull" in text:
        what = "found the disk full; free space, then run the same command again"
    elif number == 27 or "File too large" in text or "os error 27" in text:
        what = "found a limit on the size of files; raise it, then run the same command again"
    elif number == 122 or "Disk quota" in text or "os error 122" in text:
        what = "found the quota used up; free space, then run the same command again"
    elif number == 30 or "Read-only" in text or "os error 30" in text:
        what = "found it read-only; choose another place"
    elif number == 13 or "ermission denied" in text or "os error 13" in text:
        what = "found no permission to write; check the rights of the folder"
    else:
        what = f"the storage refused ({type(error).__name__})"
    return StorageError(f"expected to write to {place}, {what}; everything committed before is safe")
