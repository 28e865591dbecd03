"""The commands. Each parses, calls one function of the library, and draws what came back."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Literal

import typer

from dcmark.cli import arrival, draw, export, scale, web
from dcmark.cli import train as train_commands
from dcmark.cli import volumes as volume_commands
from dcmark.cli.annotations import app as annotation_commands
from dcmark.cli.annotations import write_beside
from dcmark.cli.deidentify import (
    KeepHeldBack,
    KeyFile,
    Text,
    VaultPath,
    deidentifier,
    deidentify,
    reidentify,
    text_policy,
)
from dcmark.cli.demo import demo
from dcmark.cli.engines import spread
from dcmark.cli.options import ArchivePath, Json, Overwrite, Quiet, Threads, Where
from dcmark.cli.views import place as place_command
from dcmark.cli.views import view_app

app = typer.Typer(
    name="dcmark",
    help="Folders of medical images into one annotated, training-ready, reversible archive, and back.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


def _version(asked: bool) -> None:
    if asked:
        from dcmark import __version__

        draw.line(f"dcmark {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    del version


@app.command()
@spread
def ingest(
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="SRC... ARCHIVE",
            help="Folders, files, zip, tar, 7z, dicomweb+https://HOST/PATH; the archive last.",
        ),
    ],
    layout: Annotated[
        str | None,
        typer.Option(help="Folder pattern, e.g. {dataset}/{patient}/{image}/*; found out by default."),
    ] = None,
    containers: Annotated[
        Literal["open", "keep"],
        typer.Option(help="zip, tar, 7z: open stores the members, keep the containers."),
    ] = "open",
    rehash: Annotated[bool, typer.Option("--rehash", help="Read files again that look unchanged.")] = False,
    profile: Annotated[
        str | None,
        typer.Option("--deidentify", metavar="PROFILE", help="Make files clean before they are stored: basic, ..."),
    ] = None,
    vault: VaultPath = None,
    key_file: KeyFile = None,
    keep_held_back: KeepHeldBack = False,
    text: Text = "auto",
    inventory: scale.InventoryFile = None,
    shard: scale.Shard = None,
    watch: arrival.Watch = False,
    quiet_for: arrival.QuietFor = 5.0,
    threads: Threads = None,
    quiet: Quiet = False,
    json: Json = False,
) -> int:
    """Store every file of the sources, byte for byte; what is there already is stored once."""
    import dcmark
    from dcmark.errors import UsageError

    *places, target = sources
    if inventory is not None and (places or layout):
        raise UsageError("expected --inventory instead of sources and --layout: dcmark ingest ARCHIVE --inventory FILE")
    if shard is not None and inventory is None:
        raise UsageError("expected --shard with --inventory FILE; make one with: dcmark inventory SRC... FILE")
    if watch and inventory is not None:
        raise UsageError("expected folders with --watch, found --inventory")
    if not places and inventory is None:
        raise UsageError("expected at least one source and an archive, found one path: dcmark ingest SRC... ARCHIVE")
    for place in places:
        if "://" not in place and not os.path.exists(place):  # noqa: PTH110  never raises, as Path.exists does where a folder is closed
            from dcmark.errors import SourceError

            raise SourceError(f"expected a folder or file at {place}, found nothing; check the path")
    cleaner = None
    if profile is not None:
        from dcmark.deid.profile import load_profile

        scale.one_process(vault, shard)
        chosen = load_profile(profile)
        looked = text_policy(text, chosen)
        cleaner = deidentifier(chosen, vault, key_file, keep_held_back=keep_held_back, text=looked)
    archive = dcmark.open_archive(target, create=True)
    options = {
        "threads": threads, "layout": layout, "containers": containers, "rehash": rehash, "deidentifier": cleaner,
        "progress": draw.progress(quiet),
    }  # fmt: skip
    try:
        if watch:
            report = arrival.watch_folders(places, archive, quiet_for, **options)
        else:
            known = None if rehash else archive
            named = [arrival.source_of(place, known) for place in places]
            found = scale.shard_sources(inventory, shard) if inventory is not None else named
            report = scale.ingest_any(found, archive, inventory if shard is None else None, **options)
            report.unchanged += sum(getattr(one, "skipped", 0) for one in named)
    finally:
        if cleaner is not None and cleaner.vault is not None:
            cleaner.vault.close()
    if json:
        draw.as_json({name: getattr(report, name) for name in report.__slots__ if name != "findings"})
    else:
        draw.line(
            f"{report.files} new files ({report.frames} frames, {draw.size(report.bytes)}), "
            f"{report.duplicates} duplicates, {report.unchanged} unchanged, {report.refused} refused"
        )
        if report.needs_a_look:
            draw.line(
                f"{report.opaque} kept whole as opaque, {report.errors} error and {report.warnings} warning findings; "
                f"see: dcmark findings {target}"
            )
    return draw.NEEDS_A_LOOK if report.needs_a_look else 0


@app.command()
def info(archive: ArchivePath, json: Json = False) -> None:
    """What an archive holds, in a few lines."""
    import dcmark
    from dcmark.archive.summary import summary

    found = summary(dcmark.open_archive(archive))
    if json:
        draw.as_json(found)
        return
    for name, value in found.items():
        text = value
        if isinstance(value, dict):
            text = draw.counts(value)
        elif name.startswith("bytes"):
            text = draw.size(value)
        draw.line(f"{name.replace('_', ' ')}: {text}")


@app.command()
@spread
def ls(
    archive: ArchivePath,
    what: Annotated[str, typer.Argument(help="patients, studies, series, volumes or files.")] = "series",
    json: Json = False,
) -> None:
    """List patients, studies, series, volumes or files."""
    import dcmark
    from dcmark.errors import UsageError

    listings = {
        "patients": "SELECT * FROM patients",
        "studies": "SELECT * FROM studies",
        "series": "SELECT * FROM series",
        "files": "SELECT path, kind, modality, frames, rows, columns, size, sha256 FROM files ORDER BY source, path",
    }
    if what == "volumes":
        volume_commands.list_volumes(dcmark.open_archive(archive), json)
        return
    if what not in listings:
        raise UsageError(f"expected one of {', '.join((*listings, 'volumes'))}, found {what!r}")
    _print(dcmark.query(dcmark.open_archive(archive), listings[what]), json)


@app.command()
def findings(
    archive: ArchivePath,
    level: Annotated[str, typer.Option(help="The least level shown: info, warning or error.")] = "warning",
    json: Json = False,
) -> None:
    """What was noticed on the way in, and what was done about it."""
    import dcmark
    from dcmark.errors import UsageError

    levels = ["error", "warning", "info"]
    if level not in levels:
        raise UsageError(f"expected info, warning or error for --level, found {level!r}")
    shown = ", ".join(f"'{name}'" for name in levels[: levels.index(level) + 1])
    sql = f"SELECT level, code, path, message, action FROM findings WHERE level IN ({shown}) ORDER BY level, code, path"
    _print(dcmark.query(dcmark.open_archive(archive), sql), json)


@app.command()
def query(
    archive: ArchivePath,
    sql: Annotated[str, typer.Argument(metavar="SQL", help="One SELECT statement.")],
    json: Json = False,
) -> None:
    """SQL over files, frames, paths, findings, patients, studies, series."""
    import dcmark

    _print(dcmark.query(dcmark.open_archive(archive), sql), json)


@app.command()
@spread
def verify(
    archive: ArchivePath,
    read_data: Annotated[str, typer.Option(help="all, none, or a share such as 5%.")] = "all",
    seed: Annotated[int | None, typer.Option(help="Repeat the sample of this seed.")] = None,
    threads: Threads = None,
    quiet: Quiet = False,
    json: Json = False,
) -> int:
    """Prove that every stored byte is what came in."""
    import dcmark

    report = dcmark.verify(
        dcmark.open_archive(archive),
        read_data=read_data,
        seed=seed,
        threads=threads,
        progress=draw.progress(quiet),
    )
    if json:
        draw.as_json(
            {
                **{n: getattr(report, n) for n in report.__slots__},
                "findings": [f.as_dict() for f in report.findings],
            }
        )
    else:
        for finding in report.findings:
            draw.line(f"{finding.level}\t{finding.code}\t{finding.path}\t{finding.message}")
        verdict = "whole" if report.whole else "DAMAGED"
        draw.line(
            f"{verdict}: {report.files} files, {report.files_read} put together and hashed "
            f"({draw.size(report.bytes_read)})"
            + (f", {report.orphans} unused parts (dcmark gc sweeps them)" if report.orphans else "")
        )
    return 0 if report.whole else 4


@app.command()
@spread
def restore(
    archive: ArchivePath,
    out: Annotated[Path, typer.Argument(metavar="OUT", help="An empty or new folder.")],
    where: Where = None,
    from_export: Annotated[
        Path | None,
        typer.Option(metavar="SET", help="Only what an export, or some of its pictures, was made from."),
    ] = None,
    from_nifti: Annotated[
        Path | None,
        typer.Option(metavar="PATH", help="Only what a NIfTI file, or a folder of them, was made from."),
    ] = None,
    with_annotations: Annotated[
        bool,
        typer.Option("--with-annotations", help="Write annotations beside them, as SEG, RTSTRUCT, SR, GSPS and CSV."),
    ] = False,
    overwrite: Overwrite = False,
    threads: Threads = None,
    quiet: Quiet = False,
    json: Json = False,
) -> int:
    """Write the original files back, byte for byte, hash-checked."""
    import dcmark

    hashes = None
    if from_export is not None and from_nifti is not None:
        from dcmark.errors import UsageError

        raise UsageError("expected --from-export or --from-nifti, found both; run the command once for each")
    if from_export is not None:
        from dcmark.view.export.base import originals as originals_of_export

        hashes = originals_of_export(from_export)
    if from_nifti is not None:
        from dcmark.view.export.nifti import originals

        hashes = originals(from_nifti)

    opened = dcmark.open_archive(archive)
    report = dcmark.restore(
        opened,
        out,
        where=where,
        hashes=hashes,
        overwrite=overwrite,
        threads=threads,
        progress=draw.progress(quiet),
    )
    beside = None
    if with_annotations:
        from dcmark.archive.query import matching_files

        chosen = matching_files(opened, where) if where is not None or hashes is not None else None
        if chosen is not None and hashes is not None:
            chosen &= set(hashes)
        beside = write_beside(opened, out, chosen, json)
    if json:
        draw.as_json(
            {
                **{n: getattr(report, n) for n in report.__slots__},
                "findings": [f.as_dict() for f in report.findings],
                **({"annotations": beside.annotations, "annotation_files": beside.files} if beside else {}),
            }
        )
    else:
        for finding in report.findings:
            draw.line(f"{finding.level}\t{finding.code}\t{finding.path}\t{finding.message}")
        draw.line(f"{report.files} files restored ({draw.size(report.bytes)}), {report.damaged} damaged")
    return 4 if report.damaged else 0


@app.command()
def report(
    archive: ArchivePath,
    out: Annotated[Path, typer.Argument(metavar="OUT.html", help="The page to write.")],
    pdf: Annotated[Path | None, typer.Option(help="Write the contact sheets as a PDF too.")] = None,
    seed: Annotated[int, typer.Option(help="Draws other random slices.")] = 0,
    sample: Annotated[int, typer.Option(min=1, max=100_000, help="Frames to decode.")] = 200,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
) -> None:
    """One page to look at before trusting a dataset: findings, odd tags, values, random slices."""
    import dcmark

    dcmark.report(
        dcmark.open_archive(archive),
        out,
        pdf=pdf,
        seed=seed,
        sample=sample,
        overwrite=overwrite,
        progress=draw.progress(quiet),
    )
    draw.line(f"written: {out}" + (f" and {pdf}" if pdf else ""))


@app.command()
def gc(
    archive: ArchivePath,
    exclusive: Annotated[
        bool,
        typer.Option("--exclusive", help="Nobody else writes now: sweep at once, not only what is an hour old."),
    ] = False,
    keep: scale.Keep = None,
    json: Json = False,
) -> None:
    """Sweep what interrupted runs left behind; nothing that a file needs is touched."""
    import dcmark
    from dcmark.archive.gc import collect

    opened = dcmark.open_archive(archive)
    if keep is not None:
        scale.set_rule(opened, keep)
    report = collect(opened, exclusive=exclusive)
    if json:
        draw.as_json({"parts": report.parts, "bytes": report.nbytes})
    else:
        draw.line(f"{report.parts} unused parts removed, {draw.size(report.nbytes)} freed")


app.command()(demo)
app.add_typer(export.app, name="export")
app.add_typer(view_app, name="view")
app.command()(place_command)
app.add_typer(annotation_commands, name="annotations")
app.command()(spread(deidentify))
app.command()(reidentify)
scale.register(app)
arrival.register(app)
web.register(app)
train_commands.register(app)


def _print(rows: object, json: bool) -> None:
    from typing import Any, cast

    found = cast(Any, rows)
    if json:
        draw.as_json(found.to_pylist())
    else:
        draw.table(found.column_names, zip(*(column.to_pylist() for column in found.columns), strict=True))
