"""Folders that are watched: a file is taken in once it is quiet.

Folders are listed again and again, which works on every system and on shares of a network, where news of changes get
lost.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

from dcmark.archive import volumes
from dcmark.archive.known import Digests, place
from dcmark.archive.store import Archive
from dcmark.config import LIMITS, Limits
from dcmark.deid.apply import Deidentifier
from dcmark.errors import StorageError, UsageError
from dcmark.findings import Finding
from dcmark.ingestion import IngestReport, ingest
from dcmark.progress import Progress
from dcmark.read.base import Item
from dcmark.read.containers import open_source
from dcmark.read.sources.folders import FolderSource
from dcmark.sharded import add

QUIET_S = 5.0
"""A file whose size and time have not changed for this long is complete, seconds."""
POLL_S = 1.0
"""Between two listings, seconds; a listing that takes longer is followed by as long a pause."""
IDLE_S = 10.0
"""Volumes are described when nothing came for this long, seconds."""
RETRY_S = 30.0
"""Until files are tried again that the archive refused, or that could not be read, seconds."""


def watch(
    folders: Sequence[Path],
    archive: Archive,
    stop: threading.Event,
    *,
    quiet_s: float = QUIET_S,
    poll_s: float = POLL_S,
    threads: int | None = None,
    layout: str | None = None,
    containers: Literal["open", "keep"] = "open",
    rehash: bool = False,
    deidentifier: Deidentifier | None = None,
    progress: Progress | None = None,
    limits: Limits = LIMITS,
    say: Callable[[str], None] = print,
) -> IngestReport:
    """Store the files of folders, and those that come into them, until ``stop`` is set.

    A file that changes later is stored again, as ``ingest`` does; what it was before stays in the archive.

    Args:
        folders: must be there.
        archive: where to; may lie in one of the folders.
        stop: ends it, after the files being stored.
        quiet_s: for which size and modification time of a file must not have changed, seconds.
        poll_s: between two listings, seconds.
        say: is told in words of each batch.

    Others, and what is raised, as for ``ingest``; but while the archive's storage refuses, it is tried again.

    Returns:
        What was done in all.

    Raises:
        UsageError: one is no folder.
    """
    options: dict[str, Any] = {
        "threads": threads, "layout": layout, "rehash": rehash, "deidentifier": deidentifier, "progress": progress,
        "limits": limits, "describe": False,
    }  # fmt: skip
    watched = [_Watched(folder, archive, quiet_s, containers, limits, stop) for folder in folders]
    whole, undescribed, last = IngestReport(), False, time.monotonic()
    while not stop.is_set():
        began = time.monotonic()
        due = [one for one in watched if one.look()]
        if due:
            try:
                report = ingest(due, archive, **options)
            except StorageError as error:
                say(f"the archive refuses, files are tried again: {error}")
                stop.wait(RETRY_S)
                continue
            for one in due:
                one.taken({found.path for found in report.findings if found.code == "unreadable"})
            add(whole, report)
            say(f"{report.files} new files, {report.duplicates} duplicates, {report.refused} refused")
            undescribed, last = True, time.monotonic()
        elif undescribed and time.monotonic() - last > IDLE_S:
            volumes.update(archive)
            undescribed = False
        stop.wait(max(poll_s, time.monotonic() - began if not due else 0.0))
    if undescribed:
        volumes.update(archive)
    return whole


class _Watched:
    """A folder; as a source, those files in it that are complete and not taken in yet."""

    def __init__(
        self,
        folder: Path,
        archive: Archive,
        quiet_s: float,
        containers: Literal["open", "keep"],
        limits: Limits,
        stop: threading.Event,
    ) -> None:
        source = open_source(folder, containers=containers, limits=limits)
        if not isinstance(source, FolderSource):
            raise UsageError(f"expected a folder to watch at {folder}, found a file; ingest it without --watch")
        self.label, self.root = source.label, source.root
        self._source, self._files = source, FolderSource(source.label, source.root, None)
        self._own = _inside(str(archive.path), source.root)
        self._quiet_s, self._stop = quiet_s, stop
        self._done = Digests(b"", 16)
        self._changing: dict[str, tuple[int, int, float]] = {}
        self._due: dict[str, bytes] = {}
        self._given: list[str] = []
        self._told: set[tuple[str, str]] = set()
        self._findings: list[Finding] = []

    def look(self) -> bool:
        """List the folder; is anything due?"""
        now = time.monotonic()
        before, self._changing = self._changing, {}
        self._due, self._given = {}, []
        for found in self._files.items():
            if self._stop.is_set():
                break
            if self._own and found.path.startswith(self._own):
                continue
            if isinstance(found, Finding):
                if (found.path, found.code) not in self._told:
                    self._told.add((found.path, found.code))
                    self._findings.append(found)
                continue
            state = found.size or 0, found.mtime_ns or 0
            mark = place(os.fsencode(found.path), *state)
            if mark in self._done:
                continue
            size, mtime_ns, since = before.get(found.path, (*state, now))
            if (size, mtime_ns) != state:
                since = now
            self._changing[found.path] = (*state, since)
            if now - since >= self._quiet_s:
                self._due[found.path] = mark
        return bool(self._due or self._findings) and not self._stop.is_set()

    def items(self) -> Iterator[Item | Finding]:
        """What is due, and findings not told yet."""
        yield from self._findings
        for path in self._due:
            if self._stop.is_set():
                return
            self._given.append(path)
            yield from self._source.at(path)

    def taken(self, unreadable: set[str]) -> None:
        """What was given is in the archive, but for what could not be read: another program may still hold it."""
        self._findings.clear()
        for path in self._given:
            size, mtime_ns, _ = self._changing.pop(path)
            if path in unreadable:
                self._changing[path] = size, mtime_ns, time.monotonic() + RETRY_S
            else:
                self._done.add(self._due[path])


def _inside(archive: str, root: str) -> str:
    """Path of the archive in a folder, with a slash behind; empty where it lies elsewhere."""
    place_, folder = Path(archive).resolve(), Path(root)
    return place_.relative_to(folder).as_posix() + "/" if place_.is_relative_to(folder) else ""
