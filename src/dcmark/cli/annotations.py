"""``dcmark annotations``: import, export, log, show, diff, compare, review, undo, restore."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dcmark.cli import draw
from dcmark.cli.deidentify import KeyFile, secret
from dcmark.cli.engines import spread
from dcmark.cli.options import ArchivePath, Json, Overwrite, Quiet

if TYPE_CHECKING:
    from dcmark.annotate.model import Annotation
    from dcmark.archive.store import Archive

app = typer.Typer(help="Annotations: in, out, their history, and how far readers agree.", no_args_is_help=True)

View = Annotated[
    Path | None, typer.Option(metavar="SET", help="The export whose pictures are annotated: its folder or view.json.")
]
Options = Annotated[
    list[str] | None, typer.Option("--option", "-o", metavar="NAME=VALUE", help="Of the format, e.g. type=labelmap.")
]
Author = Annotated[str, typer.Option(help="Who makes the change.")]


@app.command("import")
def import_(
    arguments: Annotated[
        list[str],
        typer.Argument(metavar="FORMAT ARCHIVE SOURCE", help="With --from-archive: [FORMAT] ARCHIVE."),
    ],
    from_archive: Annotated[
        bool,
        typer.Option("--from-archive", help="Take the SEG, RTSTRUCT, SR, GSPS, KOS, ANN ingested with the images."),
    ] = False,
    view: View = None,
    volume: Annotated[
        list[str] | None, typer.Option(metavar="ID", help="Volume that masks belong to; may be repeated.")
    ] = None,
    option: Options = None,
    author: Author = "",
    quiet: Quiet = False,
    json: Json = False,
) -> int:
    """Add the annotations of a file or a folder; all of them or none."""
    import dcmark
    from dcmark.annotate.exchange import import_annotations, import_from_archive
    from dcmark.errors import UsageError

    if from_archive:
        if len(arguments) not in (1, 2):
            raise UsageError(
                "expected [FORMAT] ARCHIVE with --from-archive: dcmark annotations import --from-archive A"
            )
        *format_, archive = arguments
        report = import_from_archive(
            dcmark.open_archive(archive), format=format_[0] if format_ else None, author=author,
            progress=draw.progress(quiet),
        )  # fmt: skip
    else:
        if len(arguments) != 3:
            raise UsageError("expected FORMAT ARCHIVE SOURCE: dcmark annotations import seg A.dcmark seg.dcm")
        name, archive, source = arguments
        report = import_annotations(
            dcmark.open_archive(archive), name, source, view=view, volumes=volume or (), author=author,
            options=_pairs(option), progress=draw.progress(quiet),
        )  # fmt: skip
    if json:
        draw.as_json(
            {
                **{name: getattr(report, name) for name in report.__slots__},
                "findings": [one.as_dict() for one in report.findings],
            }
        )
    else:
        _tell(report.findings)
        seen = f", {report.unchanged} objects were imported before" if report.unchanged else ""
        draw.line(f"{report.annotations} annotations of {report.files} files added{seen}")
    return draw.NEEDS_A_LOOK if report.needs_a_look else 0


@app.command()
def export(
    format: Annotated[str, typer.Argument(metavar="FORMAT", help="See: dcmark annotations formats.")],
    archive: ArchivePath,
    out: Annotated[Path, typer.Argument(metavar="OUT", help="An empty or new folder.")],
    where: Annotated[
        str | None,
        typer.Option("--where", metavar="SQL", help="Condition over the table annotations, e.g. \"label = 'liver'\"."),
    ] = None,
    label: Annotated[list[str] | None, typer.Option(help="Only these labels.")] = None,
    by: Annotated[list[str] | None, typer.Option(help="Only those of these authors.")] = None,
    at: Annotated[str | None, typer.Option(help="As they were after an event, or at a time.")] = None,
    view: View = None,
    vault: Annotated[
        Path | None, typer.Option(help="Of a de-identified archive: write them on the original identities.")
    ] = None,
    key_file: KeyFile = None,
    option: Options = None,
    overwrite: Overwrite = False,
    json: Json = False,
) -> int:
    """Write annotations, read the files back and compare before it counts."""
    import dcmark
    from dcmark.annotate.exchange import export_annotations
    from dcmark.annotate.log import Log
    from dcmark.errors import UsageError

    if vault is not None and view is not None:
        raise UsageError("expected --vault or --view, found both; pictures of de-identified images have no originals")
    opened = dcmark.open_archive(archive)
    chosen = list(Log(opened).state(at).annotations())
    if where is not None:
        wanted = set(dcmark.query(opened, f"SELECT id FROM annotations WHERE ({where}\n)")["id"].to_pylist())
        chosen = [one for one in chosen if one.id in wanted]
    else:
        chosen = [one for one in chosen if one.status != "rejected"]
    if label:
        chosen = [one for one in chosen if one.label.name in label]
    if by:
        chosen = [one for one in chosen if one.author in by]
    if vault is not None:
        from dcmark.deid.vault import Vault
        from dcmark.originals import export_on_originals

        with Vault.open(vault, secret(key_file, new=False)) as found:
            report = export_on_originals(
                opened, found, format, out, annotations=chosen, options=_pairs(option), overwrite=overwrite
            )
    else:
        report = export_annotations(
            opened, format, out, annotations=chosen, view=view, options=_pairs(option), overwrite=overwrite
        )
    if json:
        draw.as_json({**_plain(report), "findings": [one.as_dict() for one in report.findings]})
    else:
        _tell(report.findings)
        draw.line(f"{report.annotations} annotations in {len(report.files)} files, read back and found as meant")
    return draw.NEEDS_A_LOOK if any(one.code == "left-out" for one in report.findings) else 0


@app.command()
def formats(json: Json = False) -> None:
    """Names of the formats."""
    from dcmark.annotate import formats as known

    if json:
        draw.as_json(known.names())
    else:
        for name in known.names():
            draw.line(name)


@app.command()
def log(
    archive: ArchivePath,
    annotation: Annotated[str | None, typer.Option(help="Only the events of this annotation.")] = None,
    last: Annotated[int | None, typer.Option(min=1, help="Only so many of the newest.")] = None,
    json: Json = False,
) -> None:
    """Every event: when, who, what."""
    import dcmark
    from dcmark.annotate.log import Log

    events = Log(dcmark.open_archive(archive)).events(annotation, last)
    if json:
        draw.as_json([_plain(one) for one in events])
    else:
        names = ("seq", "time", "verb", "author", "kind", "label", "status", "annotation", "of")
        draw.table(names, ([getattr(one, name) for name in names] for one in events))


@app.command()
def show(
    archive: ArchivePath,
    annotation: Annotated[
        str | None, typer.Argument(metavar="[ID]", help="One annotation, with what it measures.")
    ] = None,
    at: Annotated[str | None, typer.Option(help="As they were after an event, or at a time.")] = None,
    json: Json = False,
) -> None:
    """The annotations there are, or were."""
    import dcmark
    from dcmark.annotate.log import Log
    from dcmark.annotate.measure import Measures
    from dcmark.annotate.places import Places

    opened = dcmark.open_archive(archive)
    state = Log(opened).state(at)
    if annotation is not None:
        one = state[_whole_id(state, annotation)]
        whole = Measures(Places(opened)).whole(one)
        found = {
            **_described(one),
            "measures": _plain(whole),
            "history": [_plain(e) for e in Log(opened).events(one.id)],
        }
        if json:
            draw.as_json(found)
        else:
            shown = {f"measured {name}": value for name, value in found["measures"].items()}
            for name, value in {**found, **shown}.items():
                if name not in ("measures", "history") and value not in (None, "", (), []):
                    draw.line(f"{name.replace('_', ' ')}: {value}")
        return
    rows = [_described(one) for one in state.annotations()]
    if json:
        draw.as_json(rows)
        return
    names = ("id", "kind", "label", "level", "frames", "value", "unit", "status", "author", "time")
    draw.table(names, ([row[name] for name in names] for row in rows))


@app.command()
def diff(
    archive: ArchivePath,
    before: Annotated[str, typer.Argument(help="The number of an event, or a time such as 2026-01-31T12:00.")],
    after: Annotated[str | None, typer.Argument(help="Likewise; now by default.")] = None,
    json: Json = False,
) -> None:
    """Who changed what between two moments, and how far masks moved (Dice)."""
    import dcmark
    from dcmark.annotate.diff import diff as changes
    from dcmark.annotate.log import Log

    found = list(changes(Log(dcmark.open_archive(archive)), before, after))
    if json:
        draw.as_json([_plain(one) for one in found])
    else:
        names = ("what", "kind", "label", "author", "time", "fields", "dice", "annotation")
        draw.table(
            names, ([", ".join(one.fields) if n == "fields" else getattr(one, n) for n in names] for one in found)
        )


@app.command()
@spread
def compare(
    archive: ArchivePath,
    first: Annotated[str, typer.Argument(metavar="A", help="An author.")],
    second: Annotated[str, typer.Argument(metavar="B", help="Another author.")],
    label: Annotated[list[str] | None, typer.Option(help="Only these labels.")] = None,
    json: Json = False,
) -> None:
    """How far two authors agree: Dice, Hausdorff and surface distance in mm, kappa of classes."""
    import dcmark
    from dcmark.annotate.agree import compare as agreement
    from dcmark.annotate.log import Log
    from dcmark.annotate.places import Places
    from dcmark.errors import UsageError

    opened = dcmark.open_archive(archive)
    chosen = [one for one in Log(opened).state().annotations() if one.status != "rejected"]
    authors = sorted({one.author for one in chosen})
    for name in (first, second):
        if name not in authors:
            raise UsageError(
                f"expected an author of annotations, found {name!r}; there are: {', '.join(authors) or 'none'}"
            )
    sides = [
        [one for one in chosen if one.author == name and (not label or one.label.name in label)]
        for name in (first, second)
    ]
    found = agreement(sides[0], sides[1], Places(opened))
    if json:
        draw.as_json(
            {
                "overlaps": [_plain(one) for one in found.overlaps],
                "mean_dice": found.mean_dice,
                "labels": _plain(found.labels),
            }
        )
        return
    names = ("case", "label", "dice", "pixels_a", "pixels_b", "hausdorff_mm", "hausdorff95_mm", "surface_mm")
    draw.table(names, ([getattr(one, name) for name in names] for one in found.overlaps))
    if found.mean_dice is not None:
        draw.line(f"mean Dice over {len(found.overlaps)} cases and labels: {found.mean_dice:.4f}")
    if found.labels.cases:
        kappa = "not defined" if found.labels.kappa is None else f"{found.labels.kappa:.4f}"
        draw.line(f"classes: {found.labels.agreed} of {found.labels.cases} alike, Cohen's kappa {kappa}")


@app.command()
def review(
    archive: ArchivePath,
    annotation: Annotated[str, typer.Argument(metavar="ID", help="Or its first digits.")],
    status: Annotated[str, typer.Argument(help="draft, reviewed or rejected.")],
    author: Author = "",
) -> None:
    """Mark an annotation as reviewed or rejected."""
    import dcmark
    from dcmark.annotate.log import Log

    written = Log(dcmark.open_archive(archive), author)
    seq = written.set_status(_whole_id(written.state(), annotation), status)
    draw.line(f"event {seq}: {status}")


@app.command()
def remove(
    archive: ArchivePath,
    annotations: Annotated[list[str], typer.Argument(metavar="ID...", help="Or their first digits.")],
    author: Author = "",
) -> None:
    """Take annotations out; their history stays, and undo brings them back."""
    import dcmark
    from dcmark.annotate.log import Log

    written = Log(dcmark.open_archive(archive), author)
    state = written.state()
    seqs = written.remove(*(_whole_id(state, one) for one in annotations))
    draw.line(f"{len(seqs)} removed (undo with: dcmark annotations undo {archive} {seqs[0]})")


@app.command()
def undo(
    archive: ArchivePath,
    event: Annotated[int, typer.Argument(help="The number of an event; all that came with it is undone.")],
    author: Author = "",
) -> None:
    """Undo an event by a new one; an undo can be undone."""
    import dcmark
    from dcmark.annotate.log import Log

    seqs = Log(dcmark.open_archive(archive), author).undo(event)
    draw.line(f"{len(seqs)} events undone by events {seqs[0]} to {seqs[-1]}")


@app.command()
def restore(
    archive: ArchivePath,
    at: Annotated[str, typer.Argument(help="The number of an event (-1: before the first), or a time.")],
    author: Author = "",
) -> None:
    """Make the annotations what they were; nothing in between is lost."""
    import dcmark
    from dcmark.annotate.log import Log

    seqs = Log(dcmark.open_archive(archive), author).restore(at)
    draw.line(f"{len(seqs)} annotations changed" if seqs else "nothing differs")


@app.command()
def labels(
    archive: ArchivePath,
    keep: Annotated[
        Path | None, typer.Option(metavar="FILE.json", help="A list of labels to keep as a set named like the file.")
    ] = None,
    author: Author = "",
    json: Json = False,
) -> None:
    """The label sets kept in the archive; or keep one."""
    import dcmark
    from dcmark.annotate.formats.base import Reader, read_json
    from dcmark.annotate.formats.labels import label_from, label_json
    from dcmark.annotate.log import Log
    from dcmark.annotate.model import LabelSet

    written = Log(dcmark.open_archive(archive), author)
    if keep is not None:
        found = tuple(label_from(one) for one in Reader(keep.name, read_json(keep)).items())
        written.keep_labels(LabelSet(keep.stem, found))
    sets = written.state().label_sets
    if json:
        draw.as_json({name: [label_json(one) for one in one_set.labels] for name, one_set in sets.items()})
    else:
        rows = [
            (
                name,
                one.name,
                "" if one.code is None else f"{one.code.value} {one.code.scheme} {one.code.meaning}",
                one.colour,
            )
            for name, one_set in sorted(sets.items())
            for one in one_set.labels
        ]
        draw.table(("set", "label", "code", "colour"), rows)


def write_beside(archive: Archive, out: Path, hashes: set[bytes] | None, json: bool) -> Any:
    """``dcmark restore --with-annotations``: what was written beside the originals."""
    from dcmark.annotate.beside import write_beside as write

    report = write(archive, out, hashes)
    if not json:
        _tell(report.findings)
        also = f" ({report.already} more stand in the restored objects)" if report.already else ""
        draw.line(f"{report.annotations} annotations beside them in {len(report.files)} files{also}")
    return report


def _pairs(options: list[str] | None) -> dict[str, str]:
    from dcmark.errors import UsageError

    found = {}
    for one in options or []:
        name, equals, value = one.partition("=")
        if not equals:
            raise UsageError(f"expected NAME=VALUE for --option, found {one!r}")
        found[name] = value
    return found


def _whole_id(state: Any, start: str) -> str:
    from dcmark.errors import UsageError

    found = [name for name in state if name.startswith(start)]
    if len(found) != 1:
        raise UsageError(f"expected the id of one annotation, found {len(found)} that begin with {start!r}")
    return str(found[0])


def _described(one: Annotation) -> dict[str, Any]:
    return {
        "id": one.id, "kind": one.kind, "label": one.label.name,
        "code": "" if one.label.code is None else " ".join(one.label.code), "level": one.target.level,
        "series": one.target.series, "volume": one.target.volume,
        "frames": len(one.mask) if len(one.mask) else len(one.frames), "value": one.value, "unit": one.unit,
        "text": one.text, "status": one.status, "author": one.author, "tool": one.tool, "time": one.time,
        "derived_from": list(one.derived_from), "origin": one.origin, "properties": dict(one.properties),
    }  # fmt: skip


def _plain(one: Any) -> dict[str, Any]:
    return {name: getattr(one, name) for name in one.__slots__}


def _tell(findings: Any) -> None:
    shown: dict[tuple[str, str, str, str], int] = {}
    for one in findings:
        if one.level != "info":
            reason = one.message.partition(": ")[2] if one.code == "left-out" else one.message
            key = (one.level, one.code, reason, one.action)
            shown[key] = shown.get(key, 0) + 1
    for (level, code, message, action), count in shown.items():
        times = f" ({count} times)" if count > 1 else ""
        draw.line(f"{level}\t{code}\t{message}{f' ({action})' if action else ''}{times}")
