"""Sweeping: parts that no file points to, and files of the store that no version uses."""

from __future__ import annotations

import datetime
import shutil
import time
from collections import Counter
from dataclasses import dataclass

import lance

from dcmark.archive.compact import FOREVER, kept_versions
from dcmark.archive.events import drop_orphan_masks
from dcmark.archive.faults import writing
from dcmark.archive.schema import TABLES
from dcmark.archive.store import KEEP_VERSIONS_S, Archive

SAFE_AGE = datetime.timedelta(hours=1)
"""A batch that grew within this time may belong to a run that still goes on; it is left alone."""


@dataclass(slots=True)
class GcReport:
    """What was swept: parts no file pointed to, and bytes freed on disk."""

    parts: int = 0
    nbytes: int = 0


def collect(archive: Archive, *, exclusive: bool = False) -> GcReport:
    """Remove parts of interrupted runs, leftovers of uncommitted writes and superseded table versions.

    Args:
        archive: which.
        exclusive: the caller promises that nobody else writes: everything unused goes at once.
            Else only what did not change for an hour, so that a run going on elsewhere loses nothing.

    Raises:
        StorageError: the storage refused.
    """
    archive.refresh()
    before = stored_bytes(archive)
    report = GcReport()
    age = datetime.timedelta(0) if exclusive else SAFE_AGE
    with writing(archive.path):
        _drop_drafts(archive, age)
        report.parts = _drop_orphans(archive, age)
        if exclusive:
            report.parts += drop_orphan_masks(archive)
        old = _old(archive, age)
        for name in TABLES:
            table = archive.table(name)
            if table is not None and old is not None:
                table.cleanup_old_versions(older_than=old, delete_unverified=exclusive)
    archive.refresh()
    report.nbytes = max(0, before - stored_bytes(archive))
    return report


def _old(archive: Archive, age: datetime.timedelta) -> datetime.timedelta | None:
    """Age from which superseded versions go: that of the archive's rule, where it is longer; None: they stay."""
    rule = kept_versions(archive)
    if rule == FOREVER:
        return None
    if rule is None or rule <= KEEP_VERSIONS_S:
        return age
    return max(age, datetime.timedelta(seconds=rule))


def _drop_drafts(archive: Archive, age: datetime.timedelta) -> None:
    """Remove tables that a killed writer left before they had their place."""
    for place in archive.path.glob("*.draft"):
        if place.is_dir() and time.time() - place.stat().st_mtime >= age.total_seconds():
            shutil.rmtree(place, ignore_errors=True)


def _drop_orphans(archive: Archive, age: datetime.timedelta) -> int:
    """Delete the rows of ``frames`` whose batch has no file and did not grow within ``age``."""
    if archive.table("frames") is None:
        return 0
    there = Counter(archive.read("frames", ["batch"])["batch"].to_pylist())
    # Files are read after frames: a batch committed in between is then seen as used.
    archive.refresh()
    used = set(archive.read("files", ["batch"])["batch"].to_pylist())
    orphans = [batch for batch in there if batch not in used]
    if orphans and age:
        then = _at(archive, datetime.datetime.now(datetime.UTC) - age)
        orphans = [batch for batch in orphans if then[batch] == there[batch]]
    if orphans:
        lance.dataset(str(archive.path / "frames.lance")).delete(f"batch IN ({', '.join(map(str, orphans))})")
        archive.refresh()
    return sum(there[batch] for batch in orphans)


def _at(archive: Archive, moment: datetime.datetime) -> Counter[int]:
    """Rows a batch had in ``frames`` at a moment in the past."""
    place = str(archive.path / "frames.lance")
    versions = [v for v in lance.dataset(place).versions() if v["timestamp"].astimezone(datetime.UTC) <= moment]
    if not versions:
        return Counter()
    table = lance.dataset(place, version=max(v["version"] for v in versions))
    return Counter(table.to_table(columns=["batch"])["batch"].to_pylist())


def stored_bytes(archive: Archive) -> int:
    """Bytes the archive takes on disk."""
    return sum(place.stat().st_size for place in archive.path.rglob("*") if place.is_file())
