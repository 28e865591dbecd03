"""tar archives (POSIX ustar, pax, GNU), plain or packed; read in one pass from front to end."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator
from contextlib import AbstractContextManager
from functools import partial
from typing import Any, BinaryIO

from dcmark.config import Limits
from dcmark.errors import SourceError
from dcmark.findings import Finding
from dcmark.read.base import Item
from dcmark.read.sources.files import GuardedFile
from dcmark.read.sources.kinds import Kind
from dcmark.read.sources.members import BUFFER, STEP, Budget, Container, MemberStream, Origin, Turn, damage_told

_LARGEST_HEADER = 16 << 20  # bytes of one extended header (pax, long name)


class TarContainer(Container):
    """Members of a tar archive; items are sequential.

    Raises:
        SourceError: there is no archive header at the beginning.
    """

    def __init__(self, origin: Origin, limits: Limits, kind: Kind) -> None:
        super().__init__(origin, limits)
        self._kind = kind
        with GuardedFile(origin.file, limits.in_memory) as file:
            self.budget = Budget(file.size, limits)
            with damage_told("the header of a tar archive"), _unpacked(file, kind) as stream:
                _Tar(_Forward(stream, self.budget, seekable=kind == "tar"))

    def walk(self) -> Iterator[Item | Finding]:
        """All members in the order of the archive."""
        turn = Turn()
        with (
            GuardedFile(self.origin.file, self.limits.in_memory) as file,
            _unpacked(file, self._kind) as stream,
        ):
            self.budget = Budget(file.size, self.limits)
            forward = _Forward(stream, self.budget, seekable=self._kind == "tar")
            tar = _Tar(forward)
            try:
                while (info := tar.next()) is not None:
                    tar.members = []  # type: ignore[attr-defined]  # else it keeps them all
                    if info.size < 0 or tar.offset <= info.offset:
                        raise SourceError("a header declares a negative size")
                    yield from self._member(tar, forward, info, turn)
            finally:
                turn.next()
            if not isinstance(tar.ended, tarfile.EOFHeaderError):  # type: ignore[attr-defined]
                raise SourceError("expected a header or the end mark, found neither: cut off or damaged")
            yield from self._tail(forward)

    def _member(self, tar: _Tar, forward: _Forward, info: tarfile.TarInfo, turn: Turn) -> Iterator[Item | Finding]:
        mine = turn.next()
        if info.isdir():
            return
        if info.issym() or info.islnk():
            yield self.refuse(info.name, "link-in-container", "a link, not a file", "warning")
        elif not info.isreg():
            yield self.refuse(info.name, "special-file", "a device or a pipe, not a file", "warning")
        else:
            open_ = partial(self._open, tar, forward, info, turn, mine)
            yield from self.offer(info.name, info.size, open_, sequential=True)

    def _open(self, tar: _Tar, forward: _Forward, info: tarfile.TarInfo, turn: Turn, mine: int) -> BinaryIO:
        turn.check(mine)
        if info.sparse is not None:
            holes = tar.extractfile(info)
            assert holes is not None
            read, budget = holes.read, self.budget  # the holes are in no file
        else:
            forward.seek(info.offset_data)
            read, budget = partial(forward.read_member, info.offset_data + info.size), None

        def in_turn(count: int) -> bytes:
            turn.check(mine)
            return read(count)

        return io.BufferedReader(MemberStream(in_turn, self.limits, budget=budget), BUFFER)

    def _tail(self, forward: _Forward) -> Iterator[Finding]:
        """Behind the end mark there should be nothing but padding."""
        while data := forward.read(STEP):
            if data.strip(b"\0"):
                yield Finding(
                    "error",
                    "trailing-data",
                    "more bytes follow the end mark of the archive, such as a second archive",
                    "what follows was left out",
                    self.place,
                )
                return


def _unpacked(file: BinaryIO, kind: Kind) -> AbstractContextManager[Any]:
    """The bytes of the archive itself, unpacked as they are read, with bounded memory."""
    if kind == "tar.gz":
        import gzip

        return gzip.GzipFile(fileobj=file, mode="rb")
    if kind == "tar.bz2":
        import bz2

        return bz2.BZ2File(file)
    if kind == "tar.xz":
        import lzma

        return lzma.LZMAFile(file)
    if kind == "tar.zst":
        import zstandard

        return zstandard.ZstdDecompressor().stream_reader(file, read_across_frames=True, closefd=False)
    return file


class _Forward:
    """A file that is read once from front to end, every byte counted.

    ``tarfile`` goes forward anyway as long as no header declares a negative size; asking for a step
    back is therefore refused, which also keeps hostile headers from sending it in circles.
    """

    def __init__(self, stream: Any, budget: Budget, *, seekable: bool) -> None:
        self._stream, self._budget, self._seekable = stream, budget, seekable
        self._at = 0

    def read(self, size: int) -> bytes:
        if not 0 <= size <= _LARGEST_HEADER:
            raise SourceError(f"a header declares {size} bytes of itself, at most {_LARGEST_HEADER} are read")
        parts = []
        while size > 0 and (data := self._stream.read(size)):
            self._budget.spend(len(data))
            self._at += len(data)
            size -= len(data)
            parts.append(data)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def read_member(self, end: int, count: int) -> bytes:
        """Up to ``count`` bytes of a member that ends at ``end``. Raises SourceError at an early end."""
        count = min(count, end - self._at)
        data = self.read(count)
        if len(data) < count:
            raise SourceError(f"a member ends {end - self._at} bytes early: the archive is cut off")
        return data

    def tell(self) -> int:
        return self._at

    def seek(self, position: int) -> None:
        if position < self._at:
            raise SourceError("expected headers in order, found one that points backwards")
        if self._seekable:
            self._stream.seek(position)
            self._at = position
        while self._at < position:
            if not self.read(min(STEP, position - self._at)):
                return  # the next read tells


class _Header(tarfile.TarInfo):
    """Remembers why no header could be read: tarfile itself ends silently on a damaged one."""

    @classmethod
    def fromtarfile(cls, tar: tarfile.TarFile) -> _Header:
        try:
            return super().fromtarfile(tar)
        except tarfile.HeaderError as error:
            assert isinstance(tar, _Tar)
            tar.ended = error
            raise


class _Tar(tarfile.TarFile):
    ended: tarfile.HeaderError | None = None

    def __init__(self, forward: _Forward) -> None:
        super().__init__(
            fileobj=forward,  # type: ignore[arg-type]
            mode="r",
            tarinfo=_Header,
            encoding="utf-8",
            errors="surrogateescape",
        )
