"""What an archive knows already, small enough for archives of many millions of files."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from dcmark.archive.store import Archive
from dcmark.read import layouts
from dcmark.read.layouts import Place

RECENT = 1 << 20
TICK_NS = 2_000_000_000
"""A file changed less than this before it was seen is read again next time: its time stamp could hide a change."""


class Digests:
    """A set of digests of one width: the old ones packed and sorted, the recent ones in a set.

    A Python set takes three times the memory. Looked into from many threads, added to from one.
    """

    def __init__(self, packed: bytes | memoryview, width: int) -> None:
        self._sorted = np.sort(np.frombuffer(packed, f"S{width}"))
        self._width = width
        self._recent: set[bytes] = set()

    def __len__(self) -> int:
        return len(self._sorted) + len(self._recent)

    def __contains__(self, digest: bytes) -> bool:
        if digest in self._recent:
            return True
        old = self._sorted
        at = int(old.searchsorted(np.bytes_(digest)))
        # numpy drops the NULs at the end of what it gives.
        return at < len(old) and bool(old[at] == digest.rstrip(b"\0"))

    def add(self, digest: bytes) -> None:
        """Add a digest."""
        self._recent.add(digest)
        if len(self._recent) >= RECENT:
            self._merge()

    def _merge(self) -> None:
        packed = b"".join(self._recent)
        # The sorted ones first, then a new set: a reader in between sees a digest twice, never not at all.
        self._sorted = np.sort(np.concatenate([self._sorted, np.frombuffer(packed, f"S{self._width}")]))
        self._recent = set()


def contents(archive: Archive) -> Digests:
    """SHA-256 of the files in an archive. Raises DamageError when they cannot be read."""
    column = archive.read("files", ["sha256"])["sha256"]
    return Digests(b"".join(_packed(chunk, 32) for chunk in column.chunks), 32)


def places(archive: Archive, root: bytes, known: Digests) -> Digests:
    """Places under a source whose content is in the archive, as ``place`` digests of path, size and time.

    Raises:
        DamageError: they cannot be read.
    """
    columns = ["path", "path_bytes", "size", "mtime_ns", "seen_ns", "sha256"]
    rows = archive.read("paths", columns, f"root = X'{root.hex()}' AND sha256 IS NOT NULL AND size IS NOT NULL")
    # Else a change that followed at once could hide behind the same time.
    settled = pc.less(pc.add(rows["mtime_ns"], TICK_NS), rows["seen_ns"])
    packed = bytearray()
    for batch in rows.filter(settled).to_batches(max_chunksize=65536):
        found = zip(*(batch[name].to_pylist() for name in columns if name != "seen_ns"), strict=True)
        for path, raw, size, mtime_ns, sha256 in found:
            if sha256 in known:
                packed += place(os.fsencode(path) if raw is None else raw, size, mtime_ns)
    return Digests(bytes(packed), 16)


def place(path: bytes, size: int, mtime_ns: int) -> bytes:
    """Sixteen bytes for a path with a size in bytes and a modification time in ns."""
    return hashlib.blake2b(b"%d %d %b" % (size, mtime_ns, path), digest_size=16).digest()


def refusals(archive: Archive, root: bytes) -> set[tuple[str, str]]:
    """Path and finding code of what a source could not give. Raises DamageError when they cannot be read."""
    rows = archive.read("paths", ["path", "findings"], f"root = X'{root.hex()}' AND sha256 IS NULL")
    found: Iterable[tuple[str, list[dict[str, str]]]] = zip(
        rows["path"].to_pylist(), rows["findings"].to_pylist(), strict=True
    )
    return {(path, finding["code"]) for path, findings in found for finding in findings}


def layout(archive: Archive, root: bytes) -> str | None:
    """What an earlier run recorded of the folders of a source. Raises DamageError when it cannot be read."""
    rows = archive.read("paths", ["findings"], f"root = X'{root.hex()}' AND sha256 IS NULL AND path = ''")
    found = (finding for findings in rows["findings"].to_pylist() for finding in findings)
    return next((str(finding["message"]) for finding in found if finding["code"] == layouts.FINDING), None)


def named(archive: Archive, root: bytes) -> set[Place]:
    """The names that files of a source were given. Raises DamageError when they cannot be read."""
    fields = list(Place._fields)
    rows = archive.read("paths", fields, f"root = X'{root.hex()}' AND (dataset <> '' OR patient <> '')")
    distinct = rows.group_by(fields).aggregate([])
    found = zip(*(distinct[name].to_pylist() for name in fields), strict=True)
    return {parent for names in found for parent in layouts.with_parents(Place(*names))}


def _packed(column: pa.Array, width: int) -> bytes:
    start = column.offset * width
    return memoryview(column.buffers()[1])[start : start + len(column) * width].tobytes()
