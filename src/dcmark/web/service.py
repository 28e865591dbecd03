"""What one server holds: the archive, its annotations, who may come in, and who waits for news."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dcmark.archive.store import Archive, Batch, open_archive
from dcmark.errors import DcmarkError
from dcmark.web.board import Board
from dcmark.web.catalogue import Catalogue
from dcmark.web.security import LOG, Session

FIRST_BYTES = 1 << 20
"""Payload of the first commit of a folder that is taken in while it is looked at."""
WATCH_S = 0.5
"""How often the log is looked at for events of other processes, seconds."""


@dataclass(frozen=True, slots=True)
class Ingesting:
    """How far files are taken in: done of total (0 while unknown), and what is being done."""

    done: int
    total: int
    phase: str

    def as_dict(self) -> dict[str, Any]:
        """For the page."""
        return {"done": self.done, "total": self.total, "phase": self.phase}


class Reporter:
    """Progress of an ingest, for whoever looks; see ``dcmark.progress.Progress``."""

    def __init__(self, tell: Callable[[Ingesting], None], total: int) -> None:
        self.tell, self.total, self.done, self.told = tell, total, 0, 0.0

    def start(self, task: str, total: int | None, unit: str = "files") -> None:
        """Work begins."""
        del unit
        self.total = total or self.total
        self.tell(Ingesting(self.done, self.total, task))

    def advance(self, units: int = 1, nbytes: int = 0) -> None:
        """More is done; told on at most ten times a second."""
        del nbytes
        self.done += units
        if time.monotonic() - self.told > 0.1:
            self.told = time.monotonic()
            self.tell(Ingesting(self.done, max(self.total, self.done), "ingest"))

    def finish(self) -> None:
        """The work ended."""


class _EarlyBatch(Batch):
    """Is committed as soon as it holds so many bytes."""

    limit = 0

    @property
    def full(self) -> bool:
        """Is it time to commit?"""
        return self.payload_bytes >= self.limit or super().full


class _EarlyArchive(Archive):
    """Commits its first files at once and later ones in batches that grow: somebody waits to see them."""

    limit = FIRST_BYTES

    def batch(self) -> Batch:
        """A batch twice as large as the one before."""
        found = _EarlyBatch(self)
        found.limit = self.limit
        self.limit *= 2
        return found


class Service:
    """The state behind all requests.

    Args:
        path: of the archive.
        author: of annotations for which the page names nobody.
        read_only: nothing may be changed.
        session: who may come in; None: a new one.
        name: shown for the archive; None: the name of its folder.
    """

    def __init__(
        self,
        path: Path,
        *,
        author: str = "",
        read_only: bool = False,
        session: Session | None = None,
        name: str | None = None,
    ) -> None:
        self.archive: Archive = open_archive(path)
        self.author, self.read_only = author, read_only
        self.session = session or Session()
        self.name = name or path.resolve().name
        self.catalogue = Catalogue(path)
        self.board = Board(self.catalogue, author)
        self.ingesting: Ingesting | None = None
        self.link: Callable[[str], str] = lambda ticket: f"/?token={ticket}"
        self.port = 0
        self.closing = False
        self._waiting: set[asyncio.Event] = set()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ended = threading.Event()

    def archive_now(self) -> Archive:
        """The archive as it is, opened for one piece of work."""
        return open_archive(self.catalogue.path)

    # -- news -------------------------------------------------------------------------------------

    async def started(self) -> None:
        """Begin to look for what other processes do."""
        self._loop = asyncio.get_running_loop()
        threading.Thread(target=self._watch, name="dcmark-watch", daemon=True).start()
        threading.Thread(target=self._warm, name="dcmark-warm", daemon=True).start()

    async def stopped(self) -> None:
        """Let everybody go who waits."""
        self.closing = True
        self._ended.set()
        self._wake()

    def news(self) -> None:
        """Tell everybody who waits that there is something new; from any thread."""
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._wake)

    async def wait(self, seconds: float) -> None:
        """Until there is news, or the time is over."""
        event = asyncio.Event()
        self._waiting.add(event)
        try:
            await asyncio.wait_for(event.wait(), seconds)
        except TimeoutError:
            pass
        finally:
            self._waiting.discard(event)

    def _wake(self) -> None:
        for event in self._waiting:
            event.set()

    def _warm(self) -> None:
        """List the archive before anybody asks."""
        try:
            self.catalogue.now()
        except (DcmarkError, OSError) as error:
            LOG.warning("the archive cannot be listed: %s", getattr(error, "code", "storage"))

    def _watch(self) -> None:
        while not self._ended.wait(WATCH_S):
            try:
                if self.board.journal.refresh():
                    self.news()
            except DcmarkError as error:
                LOG.warning("the log cannot be read: %s", error.code)

    # -- files that come in -----------------------------------------------------------------------

    def told(self, state: Ingesting | None) -> None:
        """Take note of how far an ingest is."""
        self.ingesting = state
        self.news()

    def ingest(self, folder: Path, say: Callable[[str], None]) -> threading.Thread:
        """Take in a folder in a thread of its own, while the archive is looked at.

        Args:
            folder: whose files are stored.
            say: is told in words how it ended.
        """
        from dcmark.ingestion import ingest

        self.told(Ingesting(0, 0, "ingest"))

        def run() -> None:
            try:
                total = sum(1 for one in folder.rglob("*") if one.is_file()) if folder.is_dir() else 1
                archive = _EarlyArchive(self.catalogue.path, self.archive.info)
                report = ingest(folder, archive, progress=Reporter(self.told, total))
                say(
                    f"{report.files} new files, {report.duplicates} duplicates, {report.unchanged} unchanged, "
                    f"{report.refused} refused"
                )
            except DcmarkError as error:
                say(f"error ({error.code}): {error}")
            except OSError as error:
                say(f"error (source): expected to read the folder, found it unreadable ({error.strerror})")
            finally:
                self.catalogue.renew()
                self.told(None)

        thread = threading.Thread(target=run, name="dcmark-ingest", daemon=True)
        thread.start()
        return thread
