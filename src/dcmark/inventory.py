"""An inventory of sources as a Parquet file, and shards of it: who reads what, when many read.

    write_inventory(["/data/scapis"], "inv.parquet")
    for source in read_inventory("inv.parquet").shard(3, 100): ...    # Source objects for ``dcmark.ingest``

A row is a file, a member of a container, or a finding. Files of one patient's folder are never in two shards, for what
lies beside images takes its names from the folders that hold slices; nor are the members of a container that can only
be read from its start. Which shard a folder is in depends on the inventory and the number of shards, on nothing else.
"""

from __future__ import annotations

import heapq
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from dcmark.config import LIMITS, Limits
from dcmark.errors import DcmarkError, OutputExistsError, SourceError, StorageError, UsageError
from dcmark.findings import Finding
from dcmark.progress import NoProgress, Progress
from dcmark.read import formats, layouts
from dcmark.read.base import Item
from dcmark.read.containers import FolderSource, open_source
from dcmark.read.dicom import DicomReader
from dcmark.read.sources.members import Container

VERSION = 1
ROWS_AT_ONCE = 65536
FILE_WEIGHT = 100_000
"""Bytes that a file counts for beside its own: opening, header and rows cost about what these do."""
_META = b"dcmark"
_LARGEST_META = 64 << 20

SCHEMA = pa.schema(
    [
        pa.field("source", pa.int32(), nullable=False),
        pa.field("unit", pa.string(), nullable=False),
        pa.field("path", pa.string(), nullable=False),
        pa.field("path_bytes", pa.binary()),
        pa.field("size", pa.int64()),
        pa.field("mtime_ns", pa.int64()),
        pa.field("container", pa.string()),
        pa.field("level", pa.string()),
        pa.field("code", pa.string()),
        pa.field("message", pa.string()),
        pa.field("action", pa.string()),
    ]
)
"""``unit``: what is never divided. ``container``: path of the container a member lies in. ``level`` to ``action``: of a
finding; null for a file."""

Row = dict[str, Any]
Containers = Literal["open", "keep"]


class _Everything:
    """Holds every place: files are sorted by the folders they lie in, whatever these hold."""

    def __contains__(self, place: object) -> bool:
        return True


@dataclass(frozen=True, slots=True)
class Inventoried:
    """A source as the inventory knows it.

    Attributes:
        root: absolute path.
        label: of its files.
        pattern: of the layout, where one was given.
        record: what was found out about the layout; None where nothing was.
        datasets: names of datasets that hold slices.
        containers: opened or kept.
        packed: the source is a container itself.
    """

    root: str
    label: str
    pattern: str | None
    record: str | None
    datasets: tuple[str, ...]
    containers: Containers
    packed: bool


def write_inventory(
    sources: Sequence[str | os.PathLike[str]],
    out: str | os.PathLike[str],
    *,
    layout: str | None = None,
    containers: Containers = "open",
    overwrite: bool = False,
    progress: Progress | None = None,
    limits: Limits = LIMITS,
) -> int:
    """List all files of the sources; the number of rows. Of files only names, sizes and times are read.

    Args:
        sources: folders, files, zip, tar, 7z.
        out: the Parquet file; it gets its name when it is whole.
        layout: pattern of folder names, as for ``ingest``.
        containers: list the members of containers, or the containers.

    Raises:
        SourceError: a source is not there.
        OutputExistsError: ``out`` is there and ``overwrite`` is not set.
        StorageError: it cannot be written.
    """
    place = Path(out)
    if place.exists() and not overwrite:
        raise OutputExistsError(f"expected no file at {place}, found one; choose another name or use --overwrite")
    draft = place.with_name(f"{place.name}.{os.getpid()}.draft")
    progress = progress or NoProgress()
    progress.start("inventory", None)
    known: list[Inventoried] = []
    count = 0
    try:
        with pq.ParquetWriter(draft, SCHEMA, compression="zstd") as writer:
            for number, source in enumerate(sources):
                lister = _Lister(number, source, layout, containers, limits)
                rows: list[Row] = []
                for row in lister.rows():
                    rows.append(row)
                    count += 1
                    progress.advance(1, row["size"] or 0)
                    if len(rows) >= ROWS_AT_ONCE:
                        writer.write_table(pa.Table.from_pylist(rows, SCHEMA))
                        rows = []
                if rows:
                    writer.write_table(pa.Table.from_pylist(rows, SCHEMA))
                known.append(lister.about())
            about = {"version": VERSION, "sources": [_as_dict(one) for one in known]}
            writer.add_key_value_metadata({_META.decode(): json.dumps(about)})
        draft.replace(place)
    except (OSError, pa.ArrowException) as error:
        raise StorageError(f"expected to write {place}; the disk is full or refuses") from error
    finally:
        progress.finish()
        draft.unlink(missing_ok=True)
    return count


def _as_dict(one: Inventoried) -> dict[str, Any]:
    return {name: getattr(one, name) for name in Inventoried.__slots__}


class _Lister:
    """The rows of one source."""

    def __init__(
        self, number: int, source: str | os.PathLike[str], layout: str | None, containers: Containers, limits: Limits
    ) -> None:
        self.number, self.pattern, self.containers = number, layout, containers
        self.source: Any = open_source(source, containers=containers, limits=limits)
        self.layout = layouts.Layout(layout, self.source)
        self.slices: set[str] = set()
        self._reader = DicomReader()

    def about(self) -> Inventoried:
        finding = self.layout.finding
        root = str(getattr(self.source, "root", "") or self.source.label)
        return Inventoried(
            root, self.source.label, self.pattern, finding.message if finding else None, tuple(sorted(self.slices)),
            self.containers, isinstance(self.source, Container),
        )  # fmt: skip

    def rows(self) -> Iterator[Row]:
        if self.layout.finding is not None:
            yield self._finding(self.layout.finding, None, "")
        container: str | None = None
        stream = False
        for found in self.source.items():
            if isinstance(found, Finding) and found.code == "container-opened":
                container, stream = found.path, False
            elif container is not None and not found.path.startswith(container + "/"):
                container, stream = None, False
            if isinstance(found, Finding):
                yield self._finding(found, container, self._unit(found.path, container, stream))
                continue
            if found.sequential and not stream:
                stream = True
            self._look(found)
            yield {
                **self._place(found.path),
                "unit": self._unit(found.path, container, stream),
                "size": found.size,
                "mtime_ns": found.mtime_ns,
                "container": container,
            }

    def _place(self, path: str) -> Row:
        text = _text(path)
        raw = None if text == path else os.fsencode(path)
        return {"source": self.number, "path": text, "path_bytes": raw}

    def _finding(self, finding: Finding, container: str | None, unit: str) -> Row:
        said = {name: getattr(finding, name) for name in ("level", "code", "message", "action")}
        return {**self._place(finding.path), "unit": unit, "size": None, "container": container, **said}

    def _unit(self, path: str, container: str | None, stream: bool) -> str:
        if stream:
            return _text(f"stream:{container or ''}")
        place = self.layout.beside(path, _Everything())
        if place.patient:
            return _text(f"patient:{place.dataset}/{place.patient}")
        return _text(f"folder:{path.rpartition('/')[0]}")

    def _look(self, item: Item) -> None:
        """Does the dataset of a file hold slices? One of its files tells; the others are not opened."""
        dataset = self.layout.place(item.path).dataset
        if not dataset or dataset in self.slices:
            return
        try:
            with item.open() as stream:
                head = stream.read(formats.HEAD)
        except (DcmarkError, OSError):
            return
        if self._reader.claims(memoryview(head), item.path):
            self.slices.add(dataset)


def read_inventory(place: str | os.PathLike[str]) -> Inventory:
    """An inventory that was written.

    Raises:
        SourceError: it is none.
    """
    try:
        meta = pq.read_metadata(place)
        text = (meta.metadata or {}).get(_META, b"")
        if len(text) > _LARGEST_META:
            raise ValueError("too large")
        about = json.loads(text)
        if about["version"] != VERSION or not pq.read_schema(place).remove_metadata().equals(SCHEMA):
            raise ValueError("another version")
        sources = [
            Inventoried(
                str(one["root"]), str(one["label"]), one["pattern"], one["record"],
                tuple(map(str, one["datasets"])), "keep" if one["containers"] == "keep" else "open",
                bool(one["packed"]),
            )
            for one in about["sources"]
        ]  # fmt: skip
    except (OSError, ValueError, KeyError, TypeError, pa.ArrowException) as error:
        raise SourceError(
            f"expected an inventory at {place}, found something else; make one with: dcmark inventory SRC {place}"
        ) from error
    return Inventory(Path(place), sources)


class Inventory:
    """An inventory on disk. Reading a shard takes the memory of that shard, not of all."""

    def __init__(self, place: Path, sources: Sequence[Inventoried]) -> None:
        self.place, self.sources = place, list(sources)
        self._units: pa.Table | None = None

    def units(self) -> pa.Table:
        """What is never divided: columns source, unit, files, bytes."""
        if self._units is None:
            parts = []
            for batch in self._batches(["source", "unit", "size"]):
                grouped = pa.table(batch).group_by(["source", "unit"])
                parts.append(grouped.aggregate([("size", "sum"), ([], "count_all")]))
            if not parts:
                empty = [pa.field("source", pa.int32()), pa.field("unit", pa.string())]
                counts = [pa.field("files", pa.int64()), pa.field("bytes", pa.int64())]
                return pa.schema([*empty, *counts]).empty_table()
            joined = pa.concat_tables(parts).group_by(["source", "unit"])
            found = joined.aggregate([("size_sum", "sum"), ("count_all", "sum")])
            found = found.select(["source", "unit", "count_all_sum", "size_sum_sum"])
            self._units = found.rename_columns(["source", "unit", "files", "bytes"])
        return self._units

    def assignment(self, of: int) -> dict[tuple[int, str], int]:
        """The shard, from 0, of each unit: the largest first, each to the shard that has least so far."""
        found = self.units().to_pylist()
        weighed = sorted(
            ((row["bytes"] or 0) + FILE_WEIGHT * row["files"], row["source"], row["unit"]) for row in found
        )
        loads = [(0, shard) for shard in range(of)]
        where: dict[tuple[int, str], int] = {}
        for weight, source, unit in reversed(weighed):
            load, shard = heapq.heappop(loads)
            where[source, unit] = shard
            heapq.heappush(loads, (load + weight, shard))
        return where

    def shard(self, number: int, of: int) -> list[ShardSource]:
        """The sources of one shard.

        Args:
            number: from 1.
            of: shards in all.

        Raises:
            UsageError: there is no such shard.
            SourceError: the file is damaged.
        """
        if not 1 <= number <= of:
            raise UsageError(f"expected a shard from 1/{of} to {of}/{of}, found {number}/{of}")
        where = self.assignment(of)
        wanted: dict[int, list[str]] = {}
        for (source, unit), shard in where.items():
            if shard == number - 1:
                wanted.setdefault(source, []).append(unit)
        units = {source: pa.array(names) for source, names in wanted.items()}
        parts: dict[int, list[pa.Table]] = {source: [] for source in units}
        for batch in self._batches(SCHEMA.names):
            for source, names in units.items():
                mask = pc.and_(pc.equal(batch["source"], source), pc.is_in(batch["unit"], names))
                chosen = batch.filter(mask)
                if len(chosen):
                    parts[source].append(pa.table(chosen))
        return [
            ShardSource(self.sources[source], pa.concat_tables(parts[source]))
            for source in sorted(parts)
            if parts[source]
        ]

    def shards(self, of: int) -> Iterator[list[ShardSource]]:
        """All shards that hold something, in one reading: takes the memory of the whole inventory."""
        where = self.assignment(of)
        whole = pa.concat_tables([SCHEMA.empty_table(), *(pa.table(batch) for batch in self._batches(SCHEMA.names))])
        keys = zip(whole["source"].to_pylist(), whole["unit"].to_pylist(), strict=True)
        places: list[dict[int, list[int]]] = [{} for _ in range(of)]
        for at, key in enumerate(keys):
            places[where[key]].setdefault(key[0], []).append(at)
        for shard in places:
            if shard:
                yield [ShardSource(self.sources[source], whole.take(rows)) for source, rows in sorted(shard.items())]

    def _batches(self, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        try:
            with pq.ParquetFile(self.place) as file:
                for batch in file.iter_batches(ROWS_AT_ONCE, columns=list(columns)):
                    if len(batch) and pc.max(batch["source"]).as_py() >= len(self.sources):
                        raise SourceError(f"the inventory {self.place} is damaged: it names a source it does not know")
                    yield batch
        except (OSError, pa.ArrowException) as error:
            raise SourceError(f"the inventory {self.place} cannot be read; make it again") from error


class ShardSource:
    """The part of a source that an inventory gives to one shard; a ``Source``.

    Files are looked at again when they are read: what changed since is taken as it is, what is gone is a finding. No
    path of the inventory leads out of the root of its source.

    Args:
        about: the source.
        rows: of ``SCHEMA``, in the order of the inventory.
    """

    def __init__(self, about: Inventoried, rows: pa.Table, limits: Limits = LIMITS) -> None:
        self.label, self.root = about.label, about.root
        self.pattern, self.record = about.pattern, about.record
        self.datasets, self.packed = about.datasets, about.packed
        self.about, self.rows, self.limits = about, rows, limits

    @property
    def files(self) -> int:
        """Rows that are files."""
        return int(pc.sum(pc.is_null(self.rows["code"])).as_py() or 0)

    @property
    def bytes(self) -> int:
        """Bytes in them, as far as they are known."""
        return int(pc.sum(self.rows["size"]).as_py() or 0)

    def items(self) -> Iterator[Item | Finding]:
        """The files, and what the inventory found; in its order.

        Raises:
            SourceError: the source is gone.
        """
        source = open_source(self.root, containers=self.about.containers, limits=self.limits)
        for container, rows in self._runs():
            yield from (_finding(row) for row in rows if row["code"] is not None)
            files = [row for row in rows if row["code"] is None]
            if not files:
                continue
            if container is None and isinstance(source, FolderSource):
                for row in files:
                    yield from self._named(source.at(_path(row)))
            else:
                wanted = {_path(row) for row in files}
                said = {(_path(row), row["code"]) for row in rows if row["code"] is not None}
                inside = source.at(container) if isinstance(source, FolderSource) and container else source.items()
                for found in self._named(inside):
                    if isinstance(found, Item):
                        if found.path in wanted:
                            wanted.discard(found.path)
                            yield found
                    elif found.code in _OF_WHOLE and (found.path, found.code) not in said:
                        yield found
                for path in sorted(wanted):
                    yield Finding(
                        "error", "vanished", "a member that the inventory lists is not there", "left out", path
                    )

    def _named(self, found: Iterator[Item | Finding]) -> Iterator[Item | Finding]:
        for one in found:
            yield replace(one, source=self.label) if isinstance(one, Item) and one.source != self.label else one

    def _runs(self) -> Iterator[tuple[str | None, list[Row]]]:
        """Rows that follow one another in one container, or in none (some at a time)."""
        rows: list[Row] = []
        container: str | None = None
        for batch in self.rows.to_batches(max_chunksize=4096):
            for row in batch.to_pylist():
                if rows and row["container"] != container:
                    yield container, rows
                    rows = []
                container = row["container"]
                rows.append(row)
            whole = container is not None or not Path(self.root).is_dir()
            if rows and not whole:
                yield container, rows
                rows = []
        if rows:
            yield container, rows


_OF_WHOLE = frozenset(["container-damaged", "container-limit", "unreadable", "vanished", "trailing-data", "too-large"])
"""Findings of a container that may be new since the inventory was made; the others are told by it."""


def _path(row: Mapping[str, Any]) -> str:
    return str(row["path"]) if row["path_bytes"] is None else os.fsdecode(row["path_bytes"])


def _finding(row: Mapping[str, Any]) -> Finding:
    return Finding(row["level"], row["code"], row["message"], row["action"], _path(row))


def _text(path: str) -> str:
    """As in ``paths``: bytes that are no UTF-8 become ``\\xNN``."""
    return os.fsencode(path).decode("utf-8", "backslashreplace") if not path.isascii() else path
