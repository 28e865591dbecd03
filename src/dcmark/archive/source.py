"""An archive as a source of files, so that what reads folders reads archives too."""

from __future__ import annotations

import io
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

from dcmark.archive.assemble import ASSEMBLY_COLUMNS, file_pieces
from dcmark.archive.store import Archive
from dcmark.errors import DamageError, SourceError
from dcmark.findings import Finding
from dcmark.read.base import Item


class ArchiveSource:
    """The files of an archive, each content once, under the first of its paths.

    Args:
        archive: it.
        wanted: SHA-256 of the files; None: all.
    """

    def __init__(self, archive: Archive, wanted: set[bytes] | None = None) -> None:
        self.archive, self._wanted = archive, wanted
        self.label, self.root = Path(archive.path).stem, ""

    def items(self) -> Iterator[Item | Finding]:
        """Files in the order they are stored. One that is damaged cannot be opened: SourceError."""
        paths: dict[bytes, str] = {}
        seen = self.archive.read("paths", ["path", "sha256"], "sha256 IS NOT NULL")
        for path, sha256 in zip(*(column.to_pylist() for column in seen.columns), strict=True):
            paths[sha256] = min(path, paths.get(sha256, path))
        done: set[bytes] = set()
        for rows in self.archive.scan("files", 1024, ASSEMBLY_COLUMNS):
            for row in rows:
                sha256 = row["sha256"]
                if sha256 in done or (self._wanted is not None and sha256 not in self._wanted):
                    continue
                done.add(sha256)
                path = paths.get(sha256, sha256.hex())
                yield Item(self.label, path, row["size"], None, False, partial(_opened, self.archive, row), self.root)


def _opened(archive: Archive, row: dict[str, Any]) -> BinaryIO:
    try:
        with ThreadPoolExecutor(1, thread_name_prefix="dcmark-source") as executor:
            return io.BytesIO(b"".join(file_pieces(archive, row, executor)))
    except DamageError as error:
        raise SourceError(f"expected a file of the archive; {error}") from error
