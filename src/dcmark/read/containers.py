"""Sources: folders, files, zip, tar and 7z behind one contract (``dcmark.read.base.Source``).

    with load(item) as buffer: ...        # for item in open_source(path).items() if it is an Item

What each kind does is in ``dcmark.read.sources``. Findings a source may yield, beside its items:

    container-opened    info     a container inside a folder; its members follow
    container-nested    info     a container within a container; kept as a file
    link-to-folder      info     a link to a folder inside the source; its files come where they lie
    container-kept      warning  named as a container and cannot be opened as one; kept as a file
    duplicate-name      warning  two members of one name; the later is kept with ``#2`` behind it
    reserved-name       warning  a member whose name Windows keeps for a device; kept as it is
    special-file        warning  a device, pipe or socket; never opened
    link-in-container   warning  a link stored in a container; no bytes of its own
    link-outside        error    a link that leads out of the folder; not followed
    link-broken         error    a link that leads nowhere or in a circle
    unreadable          error    the system refuses
    path-escapes        error    a member whose name leads out of its container
    encrypted           error    a member that needs a password
    unsupported-method  error    a member packed in a way that cannot be unpacked
    too-large           error    more than the limit member_bytes
    container-limit     error    the container exceeds a limit; the rest of it is left
    container-damaged   error    the container is damaged; the rest of it is left
    trailing-data       error    bytes behind the end mark of a tar archive
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from dcmark.config import LIMITS, Limits
from dcmark.errors import LimitError, SourceError
from dcmark.findings import Finding
from dcmark.read.base import Item, Source
from dcmark.read.sources import kinds
from dcmark.read.sources.buffers import Buffer, failure, load
from dcmark.read.sources.files import open_regular
from dcmark.read.sources.folders import FolderSource
from dcmark.read.sources.members import Container, Origin

__all__ = ["Buffer", "FileSource", "FolderSource", "failure", "load", "open_source"]


def open_source(
    path: str | os.PathLike[str], *, containers: Literal["open", "keep"] = "open", limits: Limits = LIMITS
) -> Source:
    """A folder, a file or a container as a source of items.

    A file is a container if its name (.zip .7z .tar .tar.gz .tgz .tar.bz2 .tbz2 .tar.xz .txz .tar.zst
    .tzst) and its first bytes say so. The label is the base name, without suffix for a container.

    Args:
        path: what to read. A link is followed here, since the caller names it.
        containers: ``open`` gives the members of containers, those inside a folder as
            ``<path of the container>/<path of the member>``; ``keep`` gives containers as files.
        limits: of what hostile containers may cost.

    Raises:
        SourceError: nothing is there, it is no file or folder, or it is a container that cannot be opened.
        LimitError: it is a container whose table of contents alone exceeds a limit.
        MissingExtraError: it is a 7z archive and ``py7zr`` is not installed.
    """
    try:
        named = Path(os.fsdecode(path))
        resolved = named.resolve(strict=True)
        status = resolved.stat()
    except (OSError, ValueError, RuntimeError) as error:  # RuntimeError: links in a circle
        reason = getattr(error, "strerror", None) or "not a possible name"
        raise SourceError(f"expected a file or a folder at {str(path)!r}, found none: {reason}") from None
    real = str(resolved)
    label = (named if named.name not in ("", "..") else resolved).name or "root"
    if stat.S_ISDIR(status.st_mode):
        return _folder(label, real, path, containers, limits)
    if not stat.S_ISREG(status.st_mode):
        raise SourceError(f"expected a file or a folder at {str(path)!r}, found a device, a pipe or a socket")
    kind = kinds.kind(label)
    try:
        with open_regular(real) as file:
            head = file.read(kinds.HEAD)
        if kind is None or containers == "keep":
            return FileSource(label, real, status)
        if not kinds.looks_like(kind, head):
            raise SourceError("its first bytes are not those of its kind; get it again, or rename it")
        origin = Origin(real, kinds.stem(label), real, "", status.st_mtime_ns)
        return _container(kind, origin, limits)
    except OSError as error:
        raise SourceError(f"cannot read {str(path)!r}: {error.strerror or type(error).__name__}") from None
    except (SourceError, LimitError) as error:
        raise type(error)(f"cannot open {str(path)!r} as {kind}: {error}") from None


class FileSource:
    """One file as a source."""

    def __init__(self, label: str, root: str, status: os.stat_result) -> None:
        self.label, self.root, self._status = label, root, status

    def items(self) -> Iterator[Item | Finding]:
        """The file; its path is its name."""
        yield FolderSource(self.label, self.root, None).file(self.root, self.label, self._status)


def _folder(label: str, root: str, path: object, containers: Literal["open", "keep"], limits: Limits) -> FolderSource:
    try:
        os.scandir(root).close()
    except OSError as error:
        raise SourceError(f"cannot list the folder {str(path)!r}: {error.strerror}") from None
    plain = FolderSource(label, root, None)
    if containers == "keep":
        return plain

    def members(file: str, below: str, status: os.stat_result) -> Iterator[Item | Finding]:
        kind = kinds.kind(below)
        if kind is None:
            yield plain.file(file, below, status)
            return
        try:
            with open_regular(file) as stream:
                head = stream.read(kinds.HEAD)
            if not kinds.looks_like(kind, head):
                raise SourceError(f"named as {kind}, but its first bytes are not those of its kind")
            container = _container(kind, Origin(file, label, root, below + "/", status.st_mtime_ns), limits)
        except OSError as error:
            yield failure(error, below)
        except (SourceError, LimitError) as error:
            yield Finding("warning", "container-kept", str(error), "kept as a file, unopened", below)
            yield plain.file(file, below, status)
        else:
            yield Finding("info", "container-opened", f"a {kind} archive", "its members were taken", below)
            yield from container.items()

    return FolderSource(label, root, members)


def _container(kind: kinds.Kind, origin: Origin, limits: Limits) -> Container:
    if kind == "zip":
        from dcmark.read.sources.zips import ZipContainer

        return ZipContainer(origin, limits)
    if kind == "7z":
        from dcmark.read.sources.sevenzips import SevenZipContainer

        return SevenZipContainer(origin, limits)
    from dcmark.read.sources.tars import TarContainer

    return TarContainer(origin, limits, kind)
