"""How an archive lies on its disk: pieces, versions, indexes, and what upkeep would gain."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow.compute as pc

from dcmark.archive.compact import FOREVER, INDEX_FROM, INDEXES, kept_versions
from dcmark.archive.schema import TABLES
from dcmark.archive.store import Archive

MANY_PIECES = 64
"""Pieces of a table from which joining them is worth its while."""


def stats(archive: Archive) -> dict[str, Any]:
    """Per table rows, pieces, versions, bytes and indexes; contents stored twice; what to do.

    Raises:
        DamageError: a table cannot be read.
    """
    archive.refresh()
    tables = {name: _table(archive, name) for name in TABLES if archive.table(name) is not None}
    repeated = 0
    if "files" in tables:
        column = archive.read("files", ["sha256"])["sha256"]
        repeated = len(column) - int(pc.count_distinct(column.cast("binary")).as_py())
    keep = kept_versions(archive)
    found: dict[str, Any] = {
        "archive": str(archive.path),
        "bytes": sum(one["bytes"] for one in tables.values()),
        "repeated_files": repeated,
        "keep_versions_s": None if keep in (None, FOREVER) else keep,
        "keep_versions": "forever" if keep == FOREVER else None if keep is None else f"{keep} s",
        "tables": tables,
    }
    found["advice"] = list(_advice(found))
    return found


def _table(archive: Archive, name: str) -> dict[str, Any]:
    table = archive.table(name)
    assert table is not None
    place = archive.path / f"{name}.lance"
    pieces = table.get_fragments()
    indexes = {column: one.num_rows_indexed for one in table.describe_indices() for column in one.field_names}
    count = table.count_rows()
    return {
        "rows": count,
        "pieces": len(pieces),
        "rows_deleted": sum(piece.num_deletions for piece in pieces),
        "versions": len(list((place / "_versions").glob("*.manifest"))),
        "bytes": _size(place),
        "bytes_of_versions": _size(place / "_versions") + _size(place / "_transactions"),
        "bytes_of_indexes": _size(place / "_indices"),
        "indexes": sorted(indexes),
        "rows_not_indexed": max((count - min(rows, count) for rows in indexes.values()), default=0),
    }


def _size(place: Path) -> int:
    return sum(file.stat().st_size for file in place.rglob("*") if file.is_file()) if place.is_dir() else 0


def _advice(found: dict[str, Any]) -> list[str]:
    words = []
    tables = found["tables"]
    many = [name for name, one in tables.items() if one["pieces"] > MANY_PIECES]
    bare = [n for n, one in tables.items() if n in INDEXES and one["rows"] >= INDEX_FROM and not one["indexes"]]
    stale = [n for n, one in tables.items() if one["rows_not_indexed"] > max(INDEX_FROM, one["rows"] // 10)]
    if many or bare or stale or found["repeated_files"]:
        why = [
            *([f"many pieces in {', '.join(many)}"] if many else []),
            *([f"no indexes on {', '.join(bare)}"] if bare else []),
            *([f"indexes of {', '.join(stale)} are behind"] if stale else []),
            *([f"{found['repeated_files']} contents stored twice"] if found["repeated_files"] else []),
        ]
        words.append(f"dcmark compact: {'; '.join(why)}")
    old = [name for name, one in tables.items() if one["bytes_of_versions"] * 4 > one["bytes"] > 1 << 26]
    if old:
        words.append(f"dcmark gc: old versions take a quarter of {', '.join(old)}")
    return words
