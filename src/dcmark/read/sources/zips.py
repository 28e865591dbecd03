"""ZIP and ZIP64 archives (PKWARE APPNOTE 6.3)."""

from __future__ import annotations

import io
import stat
import threading
import weakref
import zipfile
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from typing import IO, BinaryIO

from dcmark.config import Limits
from dcmark.findings import Finding
from dcmark.read.base import Item
from dcmark.read.sources.files import GuardedFile
from dcmark.read.sources.members import BUFFER, STEP, Budget, Container, MemberStream, Origin, damage_told

_METHODS = {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA}
_METHODS.add(getattr(zipfile, "ZIP_ZSTANDARD", zipfile.ZIP_STORED))  # from Python 3.14 on
# These decode all of the packed bytes they are given at once, however much comes out; the least
# that zipfile feeds is 4 KiB, which bounds what comes out to some 100 MB.
_GREEDY_STEP = 4096
_ENCRYPTED = 0x1
_UTF8 = 0x800
_DOS = 0
_UNIX = (3, 19)


class ZipContainer(Container):
    """Members of a ZIP archive; items may be opened at any time and from several threads.

    Raises:
        SourceError: the central directory cannot be read.
        LimitError: the central directory is larger than ``limits.in_memory``.
    """

    def __init__(self, origin: Origin, limits: Limits) -> None:
        super().__init__(origin, limits)
        file = GuardedFile(origin.file, limits.in_memory)
        # Items outlive the walk, so the file is closed when the last of them is gone.
        weakref.finalize(self, file.close)
        self.budget = Budget(file.size, limits)
        self._lock = threading.Lock()
        with damage_told("a ZIP archive with its directory at the end"):
            self._zip = zipfile.ZipFile(file)

    def walk(self) -> Iterator[Item | Finding]:
        """All members in the order of the central directory."""
        members = self._zip.infolist()
        self.count(len(members))
        for info in members:
            name = _name(info)
            mode = stat.S_IFMT(info.external_attr >> 16) if info.create_system in _UNIX else 0
            if name.endswith("/"):
                continue
            if mode == stat.S_IFLNK:
                yield self.refuse(name, "link-in-container", "a symbolic link, not a file", "warning")
            elif mode not in (0, stat.S_IFREG) and not info.file_size:
                yield self.refuse(name, "special-file", "a device or a pipe, not a file", "warning")
            elif info.flag_bits & _ENCRYPTED:
                yield self.refuse(name, "encrypted", "the member is encrypted; unpack the archive beforehand")
            elif info.compress_type not in _METHODS:
                message = f"packed by method {info.compress_type}, which cannot be unpacked here; pack it anew"
                yield self.refuse(name, "unsupported-method", message)
            else:
                yield from self.offer(name, info.file_size, partial(self._open, info), sequential=False)

    def _open(self, info: zipfile.ZipInfo) -> BinaryIO:
        self.budget.spend(0)
        # ZipFile counts its open members without a lock of its own.
        with damage_told(), self._lock:
            member = self._zip.open(info)
        plain = info.compress_type in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
        step = STEP if plain else _GREEDY_STEP
        stream = _ZipStream(member, self, step)
        return io.BufferedReader(stream, BUFFER)


class _ZipStream(MemberStream):
    def __init__(self, member: IO[bytes], container: ZipContainer, step: int) -> None:
        super().__init__(member.read, container.limits, budget=container.budget, step=step)
        self._member, self._lock = member, container._lock

    def close(self) -> None:
        if not self.closed:
            with self._lock:
                self._member.close()
        super().close()


def _name(info: zipfile.ZipInfo) -> str:
    """The name as it was meant.

    ``orig_filename`` is what stands in the directory, NUL and all. Without the UTF-8 flag it was
    read as code page 437, as the format says; many tools write UTF-8 all the same, and no other
    text is likely to be valid UTF-8 by chance. Tools on Windows may write backslashes for slashes.
    """
    name = info.orig_filename
    if not info.flag_bits & _UTF8 and not name.isascii():
        with suppress(UnicodeError):
            name = name.encode("cp437").decode("utf-8")
    return name.replace("\\", "/") if info.create_system == _DOS else name
