"""Folders, walked without following anything out of them."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable, Iterator
from functools import partial

from dcmark.findings import Finding
from dcmark.read.base import Item
from dcmark.read.sources import kinds
from dcmark.read.sources.files import open_regular

_DIGITS = re.compile("([0-9]+)")
_JUNCTION = 0x20000000  # a reparse point on Windows that stands for another place

Opener = Callable[[str, str, os.stat_result], Iterator[Item | Finding]]


def natural(name: str) -> tuple[list[str | int], str]:
    """Sort key by which ``2`` comes before ``10``; never the same for two names."""
    parts: list[str | int] = _DIGITS.split(name)
    parts[1::2] = map(int, parts[1::2])
    return parts, name


class FolderSource:
    """All files below a folder, folder by folder, in natural order of their names; a ``Source``.

    Links: a link to a file inside the folder is an item of its own with the bytes of that file. A
    link to a folder inside is told (info) and not followed, for its files are given where they lie;
    so there are no loops. A link that leads out of the folder, or nowhere, is an error finding.
    Devices, pipes and sockets are never opened.

    Args:
        label: as in Item.
        root: absolute path of the folder, without links.
        container: gives the members of a container, or the file itself: called with the absolute
            path, the path inside the folder and the status. None: containers are ordinary files.
    """

    def __init__(self, label: str, root: str, container: Opener | None) -> None:
        self.label, self.root, self._container = label, root, container
        self._checked: dict[str, str | None] = {}

    def items(self) -> Iterator[Item | Finding]:
        """Walk the folder. What changes meanwhile is a finding at worst."""
        stack = [self._folder(self.root, "")]
        while stack:
            found = next(stack[-1], None)
            if found is None:
                stack.pop()
            elif isinstance(found, tuple):
                stack.append(self._folder(*found))
            else:
                yield found

    def _folder(self, folder: str, below: str) -> Iterator[Item | Finding | tuple[str, str]]:
        """The contents of one folder; folders in it as pairs of absolute and inner path."""
        try:
            with os.scandir(folder) as scan:
                entries = sorted(scan, key=_entry_key, reverse=True)
        except OSError as error:
            yield self._unreadable(error, below.rstrip("/"), "folder")
            return
        while entries:
            entry = entries.pop()  # each keeps what stat told of it, so they are let go one by one
            path = below + entry.name
            try:
                status = entry.stat(follow_symlinks=False)
            except OSError as error:
                yield self._unreadable(error, path, "file")
                continue
            if stat.S_ISDIR(status.st_mode) and not _leads_elsewhere(status):
                yield entry.path, path + "/"
            else:
                yield from self._one(entry.path, entry.name, path, status)

    def at(self, path: str) -> Iterator[Item | Finding]:
        """What stands at one path in the folder, as ``items`` gives it: a file, or the members of a container.

        Args:
            path: as in Item. One that leads out of the folder, or through a link, is a finding.
        """
        *folders, name = path.split("/")
        above = "/".join(folders)
        if above not in self._checked:
            self._checked = {above: _reached(self.root, folders)}
        place = self._checked[above]
        if place is None or name in ("", ".", "..") or os.sep in name or "\0" in name:
            yield Finding("error", "path-escapes", "a path that does not lie in the folder", "left out", path)
            return
        file = os.path.join(place, name)  # noqa: PTH118  names that are no UTF-8
        try:
            status = os.lstat(file)
        except FileNotFoundError:
            message = "the file was there when the folder was listed, and is gone"
            yield Finding("error", "vanished", message, "left out", path)
            return
        except OSError as error:
            yield self._unreadable(error, path, "file")
            return
        if not stat.S_ISDIR(status.st_mode):
            yield from self._one(file, name, path, status)

    def _one(self, file: str, name: str, path: str, status: os.stat_result) -> Iterator[Item | Finding]:
        if _leads_elsewhere(status):
            yield from self._link(file, path)
        elif stat.S_ISREG(status.st_mode):
            if self._container is None or not kinds.suffix(name):
                yield self.file(file, path, status)
            else:
                yield from self._container(file, path, status)
        else:
            message = "a device, a pipe or a socket, not a file"
            yield Finding("warning", "special-file", message, "not opened", path)

    def file(self, file: str, path: str, status: os.stat_result) -> Item:
        """A regular file as an item."""
        return Item(
            self.label,
            path,
            status.st_size,
            status.st_mtime_ns,
            False,
            partial(open_regular, file),
            self.root,
        )

    def _link(self, file: str, path: str) -> Iterator[Item | Finding]:
        try:
            real = os.path.realpath(file)
            inside = os.path.commonpath([self.root, real]) == self.root
        except (OSError, ValueError):  # ValueError: another drive
            inside = False
        if not inside:
            yield Finding("error", "link-outside", "a link that leads out of the folder", "not followed", path)
            return
        try:
            status = os.lstat(real)
        except OSError:
            yield Finding("error", "link-broken", "a link that leads nowhere", "left out", path)
            return
        if stat.S_ISREG(status.st_mode):
            if self._container is None:
                yield self.file(real, path, status)
            else:
                yield from self._container(real, path, status)
        elif stat.S_ISDIR(status.st_mode):
            yield Finding(
                "info",
                "link-to-folder",
                "a link to a folder inside",
                "its files are taken where they lie",
                path,
            )
        elif stat.S_ISLNK(status.st_mode):
            yield Finding("error", "link-broken", "links that lead in a circle", "left out", path)
        else:
            message = "a link to a device, a pipe or a socket"
            yield Finding("warning", "special-file", message, "not opened", path)

    @staticmethod
    def _unreadable(error: OSError, path: str, what: str) -> Finding:
        reason = error.strerror or type(error).__name__
        return Finding("error", "unreadable", f"expected a readable {what}, found: {reason}", "left out", path)


def _entry_key(entry: os.DirEntry[str]) -> tuple[list[str | int], str]:
    return natural(entry.name)


def _leads_elsewhere(status: os.stat_result) -> bool:
    return stat.S_ISLNK(status.st_mode) or bool(getattr(status, "st_reparse_tag", 0) & _JUNCTION)


def _reached(root: str, folders: list[str]) -> str | None:
    """The folder below a root, by names that lead through no link and not upwards; else None."""
    if any(name in ("", ".", "..") or os.sep in name or "\0" in name for name in folders):
        return None
    place = os.path.join(root, *folders)  # noqa: PTH118
    return place if os.path.realpath(place) == place else None
