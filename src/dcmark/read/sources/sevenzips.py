"""7z archives, through the parser and the decoders of ``py7zr``.

A 7z archive is a row of blocks ("folders" in its own words), each one packed stream that holds one
member or, if solid, many. ``py7zr`` extracts by pushing a whole archive into files. Here its decoders
are pulled instead: a member is unpacked while it is read, a solid block is unpacked once however many
members are read, and a block of which nothing is read is not unpacked at all, so walking an archive
that is already known costs no more than its header.
"""

from __future__ import annotations

import bz2
import io
import lzma
import stat
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice
from typing import Any, BinaryIO

from dcmark.config import MIB, Limits
from dcmark.errors import LimitError, MissingExtraError, SourceError
from dcmark.findings import Finding
from dcmark.read.base import Item
from dcmark.read.sources.files import GuardedFile
from dcmark.read.sources.members import BUFFER, STEP, Budget, Container, MemberStream, Origin, Turn, damage_told

_FED = 1 << 16  # packed bytes given to a decoder that can be told how much to put out
_FED_GREEDY = 1 << 10  # to one that puts out all it can: at most 32,768 times as much
_ENCODED_HEADER = b"\x17"


class SevenZipContainer(Container):
    """Members of a 7z archive; items are sequential.

    Raises:
        MissingExtraError: ``py7zr`` is not installed.
        SourceError: the header cannot be read, or is encrypted.
        LimitError: the header unpacks to more than an archive of this size can need.
    """

    def __init__(self, origin: Origin, limits: Limits) -> None:
        super().__init__(origin, limits)
        try:
            import py7zr
            from py7zr.exceptions import PasswordRequired
        except ImportError as error:
            raise MissingExtraError("py7zr", "formats", "reading 7z archives") from error
        with GuardedFile(origin.file, limits.in_memory) as file:
            self.budget = Budget(file.size, limits)
            with damage_told("a 7z archive with its header at the end"):
                _check_header(file)
                file.seek(0)
                try:
                    self._archive = py7zr.SevenZipFile(file, "r")
                except PasswordRequired:
                    raise SourceError("the 7z archive is encrypted; unpack it beforehand") from None

    def walk(self) -> Iterator[Item | Finding]:
        """All members in the order of the archive."""
        files = getattr(self._archive, "files", ())
        self.count(len(files))
        turn = Turn()
        block: _Block | None = None
        with GuardedFile(self.origin.file, self.limits.in_memory) as file:
            self.budget = Budget(file.size, self.limits)
            starts = self._starts()
            try:
                for info, is_folder in zip(files, _folders(self._archive), strict=True):
                    mine = turn.next()
                    if info.folder is not None and (block is None or block.folder is not info.folder):
                        block = _Block(file, info.folder, *next(starts), self.budget)
                    own = block if info.folder is not None else None
                    at = own.take(info.uncompressed) if own is not None else 0
                    if not is_folder:
                        yield from self._member(info, own, at, turn, mine)
            finally:
                turn.next()

    def _member(self, info: Any, block: _Block | None, at: int, turn: Turn, mine: int) -> Iterator[Item | Finding]:
        # 7-Zip keeps what came through a pipe with the mode of the pipe: what has bytes is a file.
        mode = stat.S_IFREG if info.uncompressed else info.st_fmt or stat.S_IFREG
        if info.is_symlink or info.is_junction:
            yield self.refuse(info.filename, "link-in-container", "a link, not a file", "warning")
        elif mode != stat.S_IFREG:
            yield self.refuse(info.filename, "special-file", "a device or a pipe, not a file", "warning")
        elif block is not None and block.refused:
            yield self.refuse(info.filename, *block.refused)
        else:
            open_ = partial(self._open, info, block, at, turn, mine)
            yield from self.offer(info.filename, info.uncompressed, open_, sequential=True)

    def _open(self, info: Any, block: _Block | None, at: int, turn: Turn, mine: int) -> BinaryIO:
        turn.check(mine)
        if block is None:
            return io.BytesIO()
        block.skip_to(at)
        end, expected, found = at + info.uncompressed, info.crc32, 0

        def read(count: int) -> bytes:
            nonlocal found
            turn.check(mine)
            data = block.read(min(count, end - block.at))
            found = zlib.crc32(data, found)
            if block.at == end and expected is not None and found != expected:
                raise SourceError("the checksum of a member is wrong: the archive is damaged; get it again")
            return data

        return io.BufferedReader(MemberStream(read, self.limits, budget=None), BUFFER)

    def _starts(self) -> Iterator[tuple[int, int]]:
        """Position and length in bytes of the packed stream of each block."""
        streams = self._archive.header.main_streams
        at = self._archive.afterheader + (streams.packinfo.packpos if streams else 0)
        sizes = iter(streams.packinfo.packsizes if streams else ())
        for folder in streams.unpackinfo.folders if streams else ():
            packed = sum(islice(sizes, len(folder.packed_indices)))
            yield at, packed
            at += packed


class _Block:
    """A packed stream being unpacked.

    at: bytes taken out so far. refused: code and message of a finding, once nothing more can come.
    """

    def __init__(self, file: BinaryIO, folder: Any, start: int, packed: int, budget: Budget) -> None:
        from py7zr.exceptions import PasswordRequired, UnsupportedCompressionMethodError

        self.folder = folder
        self.at = 0
        self.refused: tuple[str, str] | None = None
        self._end = 0
        self._budget = budget
        try:
            with damage_told("settings of a decoder", but=(PasswordRequired, UnsupportedCompressionMethodError)):
                self._decoder = folder.get_decompressor(packed, reset=True)
                self._feed = _Feed(file, start, self._decoder.chain[0])
        except PasswordRequired:
            self.refused = "encrypted", "the member is encrypted; unpack the archive beforehand"
        except UnsupportedCompressionMethodError:
            self.refused = "unsupported-method", "packed by a method that py7zr does not know; pack it anew"
        except SourceError as error:
            self.refused = "container-damaged", str(error)

    def take(self, size: int) -> int:
        """Position of the next member, which is ``size`` bytes long."""
        if size < 0:
            raise SourceError("the header declares a negative size")
        start, self._end = self._end, self._end + size
        return start

    def skip_to(self, position: int) -> None:
        """Unpack and forget the bytes before ``position``."""
        if self.at > position:
            raise SourceError("a sequential item was opened a second time; it can be read only once")
        while self.at < position:
            self.read(min(STEP, position - self.at))

    def read(self, count: int) -> bytes:
        """Up to ``count`` bytes, at least one unless ``count`` is 0. Raises SourceError on damage."""
        if count == 0:
            return b""
        idle = 0
        try:
            with damage_told():
                while not (data := self._decoder.decompress(self._feed, count)):
                    # What a decoder holds back may come out only when it is fed nothing.
                    idle = 0 if self._feed.gave() else idle + 1
                    if idle == 3:
                        raise SourceError("the packed bytes end early: the archive is damaged; get it again")
        except SourceError as error:
            self.refused = "container-damaged", str(error)
            raise
        self.at += len(data)
        self._budget.spend(len(data))
        return bytes(data)


class _Feed:
    """The packed bytes of a block, given in small pieces and only to a decoder that has none left.

    Decoders of ``py7zr`` ask for more at every call and keep what they do not need yet, up to the
    whole archive; and some of them unpack at once all they are given.
    """

    def __init__(self, file: BinaryIO, start: int, decoder: Any) -> None:
        from py7zr.compressor import CopyDecompressor

        self._gave = False
        self._file, self._at = file, start
        self._hungry = _hunger(decoder)
        greedy = self._hungry is None and not isinstance(decoder, CopyDecompressor)
        self._piece = _FED_GREEDY if greedy else _FED

    def read(self, size: int) -> bytes:
        if self._hungry is not None and not self._hungry():
            return b""
        self._file.seek(self._at)
        data = self._file.read(min(size, self._piece))
        self._at += len(data)
        self._gave = self._gave or bool(data)
        return data

    def gave(self) -> bool:
        """Did the decoder get anything since this was last asked?"""
        gave, self._gave = self._gave, False
        return gave


def _hunger(decoder: Any) -> Callable[[], bool] | None:
    """Asks a decoder whether it needs more packed bytes; None for those that cannot tell.

    PPMd is among these: it says so, but takes being fed nothing for the end.
    """
    inner = getattr(decoder, "_decompressor", decoder)
    if isinstance(inner, lzma.LZMADecompressor | bz2.BZ2Decompressor):
        return lambda: inner.needs_input
    brotli: Callable[[], bool] | None = getattr(inner, "can_accept_more_data", None)
    return brotli


def _folders(archive: Any) -> Iterator[bool]:
    """Which members are folders: they say so, or have no bytes, no attributes and no mark as empty file."""
    info = archive.header.files_info
    marked = iter(getattr(info, "emptyfiles", None) or ())
    for member in archive.files:
        unmarked = member.emptystream and not next(marked, False)
        yield member.is_directory or (unmarked and member.file_properties().get("attributes") is None)


def _check_header(file: GuardedFile) -> None:
    """Raises LimitError for a packed header that declares far more than the members can need.

    A member takes some 200 bytes of header and more than a handful of the archive, but 700 bytes of
    memory, and few packed bytes are enough to declare millions of members.
    """
    from py7zr.archiveinfo import HeaderStreamsInfo, SignatureHeader

    signature = SignatureHeader.retrieve(file)
    file.seek(signature.nextheaderofs, io.SEEK_CUR)
    header = io.BytesIO(file.read(signature.nextheadersize))
    if header.read(1) == _ENCODED_HEADER:
        folders = HeaderStreamsInfo.retrieve(header).unpackinfo.folders
        declared = sum(folder.unpacksizes[-1] for folder in folders)
        most = MIB + 32 * file.size
        if declared > most:
            raise LimitError(f"the 7z header declares {declared} bytes of itself, at most {most} are unpacked")
