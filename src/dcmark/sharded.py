"""Ingest by many workers at once: an inventory is made, divided, and each part ingested by who is free.

The archive that comes out holds what one writer would have stored. Parts may be done twice, when a worker died: what
the first attempt committed is known to the second.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from dcmark.archive import volumes
from dcmark.archive.compact import drop_repeats
from dcmark.archive.store import Archive, open_archive
from dcmark.config import LIMITS, Limits
from dcmark.deid.apply import Deidentifier
from dcmark.engine import Engine
from dcmark.ingestion import MOST_FINDINGS, IngestReport, agree, ingest
from dcmark.inventory import Containers, Inventory, ShardSource, read_inventory, write_inventory
from dcmark.progress import NoProgress, Progress

PARTS_A_WORKER = 4
"""So that the last worker to finish keeps the others waiting for a quarter of its work at most."""
PART_BYTES = 4 << 30
"""Source bytes that a part holds at most, unless a patient has more: what is lost with a worker."""


@dataclass(frozen=True)
class _Options:
    threads: int
    layout: str | None
    rehash: bool
    deidentifier: Deidentifier | None
    limits: Limits


def ingest_sharded(
    sources: Sequence[str | os.PathLike[str]],
    archive: Archive,
    engine: Engine,
    *,
    inventory: Inventory | None = None,
    threads: int = 1,
    layout: str | None = None,
    containers: Containers = "open",
    rehash: bool = False,
    deidentifier: Deidentifier | None = None,
    progress: Progress | None = None,
    limits: Limits = LIMITS,
) -> IngestReport:
    """Store every file of the sources, as ``ingest`` does, on the workers of an engine.

    The workers must see the sources and the archive under the same paths as this process.

    Args:
        sources: folders, files, zip, tar, 7z; not looked at where an inventory is given.
        engine: that does the work.
        inventory: of the sources, made before.
        threads: for packing, in each worker.

    Others, and what is raised, as for ``ingest``.
    """
    progress = progress or NoProgress()
    agree(archive, deidentifier)
    with tempfile.TemporaryDirectory(prefix="dcmark-") as scratch:
        if inventory is None:
            place = Path(scratch) / "inventory.parquet"
            write_inventory(sources, place, layout=layout, containers=containers, limits=limits)
            inventory = read_inventory(place)
        units = inventory.units()
        files, nbytes = sum(units["files"].to_pylist()), sum(size or 0 for size in units["bytes"].to_pylist())
        parts = max(1, min(len(units), max(PARTS_A_WORKER * engine.workers, nbytes // PART_BYTES)))
        options = _Options(threads, layout, rehash, deidentifier, limits)
        report = IngestReport()
        progress.start("ingest", files)
        try:
            work = partial(_ingest_part, archive.path.absolute(), options)
            for found, count, size in engine.map(work, inventory.shards(parts)):
                add(report, found)
                progress.advance(count, size)
        finally:
            progress.finish()
    archive.refresh()
    drop_repeats(archive)
    volumes.update(archive)
    return report


def _ingest_part(place: Path, options: _Options, sources: list[ShardSource]) -> tuple[IngestReport, int, int]:
    """In a worker: store one part; the report, its files and their bytes."""
    report = ingest(
        sources,
        open_archive(place),
        threads=options.threads,
        layout=options.layout,
        rehash=options.rehash,
        deidentifier=options.deidentifier,
        limits=options.limits,
        describe=False,
    )
    return report, sum(source.files for source in sources), sum(source.bytes for source in sources)


def add(report: IngestReport, other: IngestReport) -> None:
    """Add what another ingest did to a report."""
    for name in ("files", "frames", "bytes", "duplicates", "unchanged", "refused", "opaque", "errors", "warnings"):
        setattr(report, name, getattr(report, name) + getattr(other, name))
    report.codes.update(other.codes)
    report.findings += other.findings[: MOST_FINDINGS - len(report.findings)]
