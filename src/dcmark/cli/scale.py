"""``dcmark inventory``, ``merge``, ``compact``, ``stats``, and what ``ingest`` and ``gc`` do beyond one process."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from dcmark.cli import draw
from dcmark.cli.options import ArchivePath, Json, Overwrite, Quiet

if TYPE_CHECKING:
    from dcmark.archive.store import Archive
    from dcmark.ingestion import IngestReport

InventoryFile = Annotated[
    Path | None, typer.Option("--inventory", metavar="FILE", help="Ingest what dcmark inventory listed, without SRC.")
]
Shard = Annotated[
    str | None, typer.Option("--shard", metavar="I/N", help="Only part I of N of the inventory, from 1/N to N/N.")
]
Keep = Annotated[
    str | None,
    typer.Option(
        metavar="AGE", help="Rule from now on: age at which old versions go, 1h (default), 30d, ...; forever."
    ),
]


def inventory(
    paths: Annotated[
        list[Path], typer.Argument(metavar="SRC... OUT.parquet", help="Folders, files, zip, tar, 7z; the file last.")
    ],
    layout: Annotated[str | None, typer.Option(help="Folder pattern, as for ingest.")] = None,
    containers: Annotated[
        Literal["open", "keep"], typer.Option(help="zip, tar, 7z: list their members, or keep them as files.")
    ] = "open",
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """List paths, sizes and times of all files as Parquet; what ingest --shard divides."""
    from dcmark.errors import UsageError
    from dcmark.inventory import read_inventory, write_inventory

    if len(paths) < 2:
        raise UsageError("expected at least one source and a file: dcmark inventory SRC... OUT.parquet")
    *sources, out = paths
    rows = write_inventory(
        sources, out, layout=layout, containers=containers, overwrite=overwrite, progress=draw.progress(quiet)
    )
    units = read_inventory(out).units()
    nbytes = sum(size or 0 for size in units["bytes"].to_pylist())
    if json:
        draw.as_json({"rows": rows, "units": len(units), "bytes": nbytes})
    else:
        draw.line(f"{rows} files and findings in {len(units)} parts that are never divided, {draw.size(nbytes)}")


def shard_sources(place: Path, shard: str | None) -> list[Any]:
    """The sources that ``--inventory`` and ``--shard`` name."""
    import re

    from dcmark.errors import UsageError
    from dcmark.inventory import read_inventory

    found = re.fullmatch(r"([0-9]{1,9})/([0-9]{1,9})", shard or "1/1")
    if found is None:
        raise UsageError(f"expected --shard I/N, such as 3/100; found {shard!r}")
    return list(read_inventory(place).shard(int(found[1]), int(found[2])))


def one_process(vault: Path | None, shard: str | None) -> None:
    """Ingest with a vault is the work of one process; said before a vault or a key is made.

    Raises:
        UsageError: there are to be several.
    """
    from dcmark import engine as engines
    from dcmark.errors import UsageError

    if vault is None or (engines.current() is None and shard is None):
        return
    raise UsageError(
        "expected one process where there is a --vault, found --workers, --scheduler, --engine or --shard: a vault has "
        "one writer, counts the patients, and holds the key that makes names the same everywhere. Leave them out; or "
        "give --key-file FILE alone, which needs no vault and leads nowhere back; or deidentify to a folder first"
    )


def ingest_any(sources: list[Any], archive: Archive, inventoried: Path | None, **options: Any) -> IngestReport:
    """``dcmark.ingest``, or its like on the engine in force."""
    import dcmark
    from dcmark import engine as engines

    engine = engines.current()
    if engine is None:
        return dcmark.ingest(sources, archive, **options)
    from dcmark.inventory import read_inventory
    from dcmark.sharded import ingest_sharded

    known = read_inventory(inventoried) if inventoried is not None else None
    return ingest_sharded(sources, archive, engine, inventory=known, **{**options, "threads": options["threads"] or 1})


def merge(
    target: Annotated[Path, typer.Argument(metavar="INTO", help="The archive that is added to.")],
    others: Annotated[list[Path], typer.Argument(metavar="FROM...", help="Archives that are only read.")],
    quiet: Quiet = False,
    json: Json = False,
) -> int:
    """Add all that other archives hold: files as they are packed, places, annotations with their history."""
    import dcmark
    from dcmark.archive.merge import MergeReport
    from dcmark.archive.merge import merge as run

    opened = dcmark.open_archive(target)
    whole = MergeReport()
    for other in others:
        report = run(opened, dcmark.open_archive(other), progress=draw.progress(quiet))
        for name in ("files", "bytes", "repeated", "paths", "events", "damaged"):
            setattr(whole, name, getattr(whole, name) + getattr(report, name))
        whole.findings += report.findings
    if json:
        draw.as_json(
            {**{n: getattr(whole, n) for n in whole.__slots__}, "findings": [f.as_dict() for f in whole.findings]}
        )
    else:
        for finding in whole.findings:
            draw.line(f"{finding.level}\t{finding.code}\t{finding.path}\t{finding.message}")
        draw.line(
            f"{whole.files} files added ({draw.size(whole.bytes)}), {whole.repeated} there already, "
            f"{whole.paths} places, {whole.events} events of annotations, {whole.damaged} damaged"
        )
    return 4 if whole.damaged else 0


def compact(
    archive: ArchivePath,
    index: Annotated[
        bool | None, typer.Option("--index/--no-index", help="Indexes; by default for tables of 10,000 rows and more.")
    ] = None,
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """Join small pieces, drop what is stored twice, make indexes or bring them up to date; others may go on."""
    import dcmark
    from dcmark.archive.compact import compact as run

    report = run(dcmark.open_archive(archive), index=index, progress=draw.progress(quiet))
    if json:
        draw.as_json({name: getattr(report, name) for name in report.__slots__})
    else:
        draw.line(
            f"{report.pieces_before} pieces joined to {report.pieces_after}; dropped as repeated: "
            f"{report.files} files, {report.paths} places, {report.parts} parts; "
            f"{len(report.indexes)} indexes up to date"
        )


def stats(archive: ArchivePath, json: Json = False) -> None:
    """How the archive lies on its disk: rows, pieces, versions, bytes, indexes; what upkeep would gain."""
    import dcmark
    from dcmark.archive.stats import stats as run

    found = run(dcmark.open_archive(archive))
    if json:
        draw.as_json(found)
        return
    columns = ["table", "rows", "pieces", "versions", "size", "of versions", "of indexes", "indexes"]
    draw.table(
        columns,
        [
            [
                name, one["rows"], one["pieces"], one["versions"], draw.size(one["bytes"]),
                draw.size(one["bytes_of_versions"]), draw.size(one["bytes_of_indexes"]), ", ".join(one["indexes"]),
            ]
            for name, one in found["tables"].items()
        ],
    )  # fmt: skip
    draw.line(f"{draw.size(found['bytes'])} in all; old versions are kept for: {found['keep_versions']}")
    for words in found["advice"]:
        draw.line(f"worth doing: {words}")


def set_rule(archive: Archive, age: str) -> None:
    """Record how long superseded versions of tables are kept."""
    from dcmark.archive.compact import FOREVER, keep_versions, seconds_of
    from dcmark.archive.store import KEEP_VERSIONS_S
    from dcmark.errors import UsageError

    if age == "forever":
        keep_versions(archive, FOREVER)
        return
    try:
        seconds = seconds_of(age)
    except ValueError:
        seconds = 0
    if seconds < KEEP_VERSIONS_S:
        raise UsageError(f"expected --keep with an age from 1h on, such as 30d, or forever; found {age!r}")
    keep_versions(archive, seconds)


def register(app: typer.Typer) -> None:
    """Enter the commands."""
    for command in (inventory, merge, compact, stats):
        app.command()(command)
