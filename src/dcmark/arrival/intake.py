"""From a spool into an archive, in the background, a batch at a time."""

from __future__ import annotations

import hashlib
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TypeVar

from dcmark.archive import volumes
from dcmark.archive.store import Archive
from dcmark.arrival.durable import settle
from dcmark.arrival.spool import LABEL, Spool, SpoolSource
from dcmark.errors import DcmarkError
from dcmark.ingestion import IngestReport, agree, ingest

MOST_FILES = 8192
"""Objects taken in at once."""
GATHER_S = 1.0
"""How long objects gather at least before they are taken in, seconds; as long as the batch before took, if that was
longer. Small batches cost an archive more than large ones, the more so the larger it is."""
IDLE_S = 10.0
"""Volumes are described when nothing came for this long, seconds."""
LONGEST_PAUSE_S = 60.0
"""Between two tries while the archive refuses, seconds."""
_AT_ONCE = 256

_T = TypeVar("_T")


class Intake:
    """Takes objects out of a spool and into an archive. An object leaves the spool once the archive has it.

    Args:
        archive: where to.
        spool: where from.
        threads: for packing; None: one a processor.
        say: is told in words of each batch. No word is of what was sent.

    Raises:
        UsageError: the archive takes de-identified files only.
    """

    def __init__(
        self, archive: Archive, spool: Spool, *, threads: int | None = None, say: Callable[[str], None] = print
    ) -> None:
        agree(archive, None)
        self.archive, self.spool, self.threads, self.say = archive, spool, threads, say
        self.stored = 0
        self.error: BaseException | None = None
        self._news = threading.Event()
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._work, name="dcmark-intake", daemon=True)
        spool.on_arrival = self._news.set

    def start(self) -> None:
        """Begin; first with what an earlier run left."""
        self._news.set()
        self._thread.start()

    def stop(self) -> None:
        """Take in what is there, then end. What the archive refuses stays in the spool."""
        self._ending.set()
        self._news.set()
        self._thread.join()

    @property
    def running(self) -> bool:
        """Does it still work?"""
        return self._thread.is_alive()

    def once(self) -> IngestReport | None:
        """Take in one batch; None where nothing waits.

        Raises:
            StorageError: the archive's storage refused.
        """
        files = self.spool.waiting(MOST_FILES)
        if not files:
            return None
        report = ingest([SpoolSource(files, self._known)], self.archive, threads=self.threads, describe=False)
        self.archive.refresh()
        there = self._stored(bytes.fromhex(file.stem) for file in files)
        settle()
        gone = [file for file in files if bytes.fromhex(file.stem) in there]
        for file in gone:
            file.unlink(missing_ok=True)
        self.stored += len(gone)
        if len(gone) < len(files):
            self.say(f"{len(files) - len(gone)} objects stay in the spool: the archive could not store them")
        return report

    def _work(self) -> None:
        try:
            self._serve()
        except BaseException as error:  # noqa: BLE001  told by whoever waits for the end
            self.error = error

    def _serve(self) -> None:
        pause, undescribed = GATHER_S, False
        while True:
            ending = self._ending.is_set()
            if not ending:
                came = self._news.wait(IDLE_S if undescribed else None)
                if not came:
                    volumes.update(self.archive)
                    undescribed = False
                    continue
                self._ending.wait(pause)
            self._news.clear()
            done, began = self.stored, time.monotonic()
            try:
                more = self._batch()
            except DcmarkError as error:
                self.say(f"the archive refuses, objects stay in the spool: {error}")
                more = True
            except OSError as error:  # its text may name a file
                self.say(f"the spool cannot be read, objects stay in it: {error.strerror or type(error).__name__}")
                more = True
            undescribed = undescribed or self.stored > done
            if more and self.stored > done:
                pause = max(GATHER_S, time.monotonic() - began)
                self._news.set()
            elif more:
                pause = min(LONGEST_PAUSE_S, 2 * pause)
                self._news.set()
            if ending and (not more or self.stored == done):
                break
        if undescribed:
            volumes.update(self.archive)

    def _batch(self) -> bool:
        """Take in a batch and tell of it; False where nothing waited."""
        began = time.perf_counter()
        report = self.once()
        if report is None:
            return False
        twice = (
            f", {report.duplicates + report.unchanged} that were there" if report.duplicates + report.unchanged else ""
        )
        noted = (
            f", {report.warnings} warnings and {report.errors} errors noted" if report.warnings or report.errors else ""
        )
        self.say(f"{report.files} objects stored{twice}{noted} ({time.perf_counter() - began:.1f} s)")
        return True

    def _known(self, paths: list[str]) -> dict[str, set[bytes]]:
        root = hashlib.sha256(os.fsencode(LABEL)).hexdigest()[:32]
        known: dict[str, set[bytes]] = {}
        self.archive.refresh()
        for some in _chunks(sorted(set(paths))):
            names = ", ".join(f"'{path}'" for path in some)  # digits, dots and slashes
            where = f"root = X'{root}' AND sha256 IS NOT NULL AND path IN ({names})"
            rows = self.archive.read("paths", ["path", "sha256"], where)
            for path, sha256 in zip(rows["path"].to_pylist(), rows["sha256"].to_pylist(), strict=True):
                known.setdefault(path, set()).add(sha256)
        return known

    def _stored(self, wanted: Iterable[bytes]) -> set[bytes]:
        return stored(self.archive, wanted)


def stored(archive: Archive, wanted: Iterable[bytes]) -> set[bytes]:
    """Those of the SHA-256 whose files an archive holds, as it was opened or refreshed last.

    Raises:
        DamageError: it cannot be read.
    """
    found: set[bytes] = set()
    for some in _chunks(sorted(set(wanted))):
        names = ", ".join(f"X'{sha256.hex()}'" for sha256 in some)
        found.update(archive.read("files", ["sha256"], f"sha256 IN ({names})")["sha256"].to_pylist())
    return found


def _chunks(values: list[_T]) -> Iterator[list[_T]]:
    for start in range(0, len(values), _AT_ONCE):
        yield values[start : start + _AT_ONCE]


def default_spool(archive: Path) -> Path:
    """Beside an archive, so that both are on one disk."""
    place = archive.absolute()
    return place.with_name(f"{place.name}.spool")
