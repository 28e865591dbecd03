"""Units of work on an archive for the workers of an engine, all of which see the tables as the caller saw them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from dcmark.archive.faults import reading
from dcmark.archive.store import Archive

UNIT_BYTES = 256 << 20
"""Source bytes of files that one unit holds, about; a larger file is a unit of its own."""
UNIT_ROWS = 2048
"""Rows that one unit holds at most."""


@dataclass(frozen=True)
class Pinned:
    """An archive at the versions of its tables that were seen when it was pinned.

    Attributes:
        archive: which.
        versions: of its tables.
    """

    archive: Archive
    versions: tuple[tuple[str, int], ...]

    def opened(self) -> Archive:
        """The archive with its tables at these versions; kept open between the units of one worker."""
        return _opened(str(self.archive.path), self.versions, self)

    def __hash__(self) -> int:
        return hash((str(self.archive.path), self.versions))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Pinned) and (str(self.archive.path), self.versions) == (
            str(other.archive.path),
            other.versions,
        )


def pin(archive: Archive, *names: str) -> Pinned:
    """An archive with some of its tables as they are now.

    Raises:
        DamageError: a table cannot be opened.
    """
    tables = {name: archive.table(name) for name in names}
    return Pinned(archive, tuple((name, int(table.version)) for name, table in tables.items() if table is not None))


@lru_cache(2)
def _opened(path: str, versions: tuple[tuple[str, int], ...], pinned: Pinned) -> Archive:
    del path
    archive = Archive.__new__(Archive)
    archive.__dict__.update(pinned.archive.__getstate__())
    for name, version in versions:
        table = archive.table(name)
        with reading(f"table {name!r}"):
            if table is not None and int(table.version) != version:
                archive._tables[name] = table.checkout_version(version)
    return archive


def runs(sizes: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Positions from and to, of consecutive files that make a unit.

    Args:
        sizes: of the files, bytes.
    """
    start = nbytes = 0
    for at, size in enumerate(sizes):
        if at > start and (nbytes + size > UNIT_BYTES or at - start >= UNIT_ROWS):
            yield start, at
            start, nbytes = at, 0
        nbytes += size
    if start < len(sizes):
        yield start, len(sizes)


def rows_at(archive: Archive, positions: Sequence[int], columns: Sequence[str] | None = None) -> list[dict[str, Any]]:
    """Rows of ``files`` at positions, in that order; all columns there are for None.

    Raises:
        DamageError: they cannot be read.
    """
    table = archive.table("files")
    if table is None or not len(positions):
        return []
    there = list(table.schema.names)
    with reading("table 'files'"):
        wanted = there if columns is None else [name for name in columns if name in there]
        found: list[dict[str, Any]] = table.take(list(positions), columns=wanted).to_pylist()
    return found
