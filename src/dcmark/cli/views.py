"""Views on the command line: what all exports of training sets take."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dcmark.cli import draw
from dcmark.cli.engines import spread
from dcmark.cli.options import ArchivePath, Json, Overwrite, Quiet, Threads

if TYPE_CHECKING:
    from dcmark.archive.store import Archive
    from dcmark.view.view import View

Action = Callable[..., Any]
"""(archive, OUT, view, overwrite, threads, quiet) to an ExportReport, or to what is to be told."""

SETS = {
    "stylegan3": "A zip as StyleGAN2 and 3 read it: square PNG files with dataset.json.",
    "pggan": "TFRecords of every resolution, as the reference implementation of PGGAN reads them.",
    "shards": "Stacks of a thousand images as .npy, and items.csv.",
    "webdataset": "Tar shards that are read as a stream.",
    "parquet": "Shards with image features, as Hugging Face datasets reads them.",
    "pairs": "Images and masks of annotations side by side, for segmentation.",
    "nnunet": "Volumes and masks of annotations in the raw layout of nnU-Net.",
    "medmnist": "One .npz with images and labels of train, val and test.",
}
"""Exporters of training sets: all take a view."""

Out = Annotated[Path, typer.Argument(metavar="OUT", help="What to write; the side file view.json goes with it.")]
ViewFile = Annotated[
    Path | None,
    typer.Option("--view", metavar="FILE", help="A view saved before, or the view.json of a set; options change it."),
]
ViewWhere = Annotated[
    str | None,
    typer.Option("--where", metavar="SQL", help="Condition over the view files, e.g. \"modality = 'CT'\"."),
]
Window = Annotated[
    str | None,
    typer.Option(
        metavar="W[,W...]", help="One a channel: lung, ..., CENTRE/WIDTH, p0.5-99.5 of the volume, header (default)."
    ),
]
Quantity = Annotated[str | None, typer.Option(help="hu, suvbw, ...; by default the first that the header defines.")]
Size = Annotated[str | None, typer.Option(metavar="N|RxC", help="Of images, pixels.")]
Spacing = Annotated[float | None, typer.Option(metavar="MM", help="Of pixels.")]
CropTo = Annotated[str | None, typer.Option(metavar="body|MM|RxC", help="The body's box, or a box in mm.")]
Bits = Annotated[int | None, typer.Option(help="8, 16 or 32 (float).")]
Colour = Annotated[bool | None, typer.Option("--colour/--grey", help="Three channels or one; grey by default.")]
Standard = Annotated[bool | None, typer.Option("--standard/--as-stored", help="Turn slices as pictures are looked at.")]
Every = Annotated[int | None, typer.Option(min=1, metavar="N", help="Every Nth slice of a volume.")]
GapFree = Annotated[bool | None, typer.Option("--gap-free/--any-volume", help="Only volumes without gaps.")]
OnlyAnnotated = Annotated[str | None, typer.Option("--annotated", metavar="LABEL", help="Only frames with it; * any.")]
Background = Annotated[float | None, typer.Option(min=0, max=1, help="Brightness around the frame: 0 black, 1 white.")]
LabelsOf = Annotated[
    str | None,
    typer.Option("--labels", metavar="SQL", help="Class of an image, e.g. body_part_examined, or annotation:A|B."),
]
Split = Annotated[
    str | None, typer.Option(metavar="NAME=SHARE,...", help="Parts by person, e.g. train=0.8,val=0.1,test=0.1.")
]
Stratify = Annotated[str | None, typer.Option(metavar="SQL", help="What every part gets alike, e.g. modality.")]
SamePerson = Annotated[
    list[str] | None, typer.Option("--same-person", metavar="SQL", help="Files that agree in it are of one person.")
]
Seed = Annotated[int | None, typer.Option(help="Of the draw of parts.")]
Part = Annotated[str | None, typer.Option(help="Only this part.")]


def made_view(options: dict[str, Any]) -> View:
    """The view that options describe, on top of the one in a file.

    Raises:
        UsageError: an option says what no view can.
        SourceError: the file cannot be read.
    """
    from dcmark.view.view import Splits, View, load_view

    saved = options.pop("view")
    view = load_view(saved) if saved is not None else View()
    changes = {
        name: options[name]
        for name in ("where", "quantity", "spacing", "bits", "colour", "every", "gap_free", "annotated", "background",
                     "labels", "part")
        if options[name] is not None
    }  # fmt: skip
    if options["window"] is not None:
        changes["windows"] = tuple(text.strip() for text in options["window"].split(",") if text.strip())
    if options["size"] is not None:
        changes["size"] = tuple(int(side) for side in _sides(options["size"], "--size"))
    if options["standard"] is not None:
        changes["orientation"] = "standard" if options["standard"] else "stored"
    if options["crop"] == "body":
        changes["crop"] = "body"
    elif options["crop"] is not None:
        changes["crop_mm"] = _sides(options["crop"], "--crop")
    if options["split"] is not None:
        changes["splits"] = Splits(_shares(options["split"]))
    splits = changes.get("splits", view.splits)
    how = {name: options[name] for name in ("stratify", "seed") if options[name] is not None}
    if options["same_person"]:
        how["same_person"] = tuple(options["same_person"])
    if how and splits is None:
        from dcmark.errors import UsageError

        raise UsageError("expected --split NAME=SHARE,... beside --stratify, --same-person and --seed; found none")
    if how and splits is not None:
        changes["splits"] = replace(splits, **how)
    return replace(view, **changes)


def _sides(text: str, option: str) -> tuple[float, float]:
    from dcmark.errors import UsageError

    parts = text.lower().split("x")
    try:
        numbers = [float(part) for part in parts]
    except ValueError:
        numbers = []
    whole = option != "--size" or all(number == int(number) for number in numbers)
    if len(numbers) not in (1, 2) or not whole:
        raise UsageError(f"expected a number or ROWSxCOLUMNS for {option}; found {text!r}")
    return numbers[0], numbers[-1]


def _shares(text: str) -> tuple[tuple[str, float], ...]:
    from dcmark.errors import UsageError

    try:
        return tuple(
            (name.strip(), float(share)) for name, _, share in (part.partition("=") for part in text.split(","))
        )
    except ValueError as error:
        raise UsageError(f"expected NAME=SHARE,... such as train=0.8,test=0.2; found {text!r}") from error


def add_sets(app: typer.Typer) -> None:
    """Enter a command for every exporter of training sets."""
    for name, text in SETS.items():
        app.command(name, help=text)(spread(_command(_exported(name))))


def _exported(name: str) -> Action:
    def action(archive: Archive, out: Path, view: View, overwrite: bool, threads: int | None, quiet: bool) -> Any:
        from dcmark import plugins

        export = plugins.load("dcmark.exporters", name)
        return export(archive, out, view=view, overwrite=overwrite, threads=threads, progress=draw.progress(quiet))

    return action


def _saved(archive: Archive, out: Path, view: View, overwrite: bool, threads: int | None, quiet: bool) -> Any:
    """What a view has in an archive, and the view as a file."""
    from collections import Counter

    from dcmark.archive.faults import writing
    from dcmark.errors import OutputExistsError
    from dcmark.view.render import plan

    del threads, quiet
    if out.exists() and not overwrite:
        raise OutputExistsError(f"expected nothing at {out}, found something; choose another name or use --overwrite")
    found = plan(archive, view)
    with writing(out):
        view.save(out)
    told: dict[str, Any] = {
        "images": len(found),
        "files": len({one.sha256 for one in found.chosen}),
        "parts": dict(Counter(found.parts)),
        "labels": {},
        "hash": view.hash,
    }
    if found.labels.classes:
        counted = Counter(found.labels.values)
        told["labels"] = {name: counted[number] for number, name in enumerate(found.labels.classes)}
    return told


def _command(action: Action) -> Any:
    def command(
        archive: ArchivePath,
        out: Out,
        view: ViewFile = None,
        where: ViewWhere = None,
        window: Window = None,
        quantity: Quantity = None,
        size: Size = None,
        spacing: Spacing = None,
        crop: CropTo = None,
        bits: Bits = None,
        colour: Colour = None,
        standard: Standard = None,
        every: Every = None,
        gap_free: GapFree = None,
        annotated: OnlyAnnotated = None,
        background: Background = None,
        labels: LabelsOf = None,
        split: Split = None,
        stratify: Stratify = None,
        same_person: SamePerson = None,
        seed: Seed = None,
        part: Part = None,
        overwrite: Overwrite = False,
        threads: Threads = None,
        quiet: Quiet = False,
        json: Json = False,
    ) -> int:
        import dcmark

        chosen = made_view(
            {
                "view": view, "where": where, "window": window, "quantity": quantity, "size": size,
                "spacing": spacing, "crop": crop, "bits": bits, "colour": colour, "standard": standard,
                "every": every, "gap_free": gap_free, "annotated": annotated, "background": background,
                "labels": labels, "split": split, "stratify": stratify, "same_person": same_person, "seed": seed,
                "part": part,
            }
        )  # fmt: skip
        found = action(dcmark.open_archive(archive), out, chosen, overwrite, threads, quiet)
        if not isinstance(found, dict):
            from dcmark.cli.export import tell

            return tell(found, "images", json)
        if json:
            draw.as_json(found)
        else:
            draw.line(f"{found['images']} images of {found['files']} files")
            for what in ("parts", "labels"):
                if found[what]:
                    draw.line(f"{what}: {draw.counts(found[what])}")
        return 0

    return command


view_app = typer.Typer(help="Views: which images, and how they are rendered.", no_args_is_help=True)
view_app.command("save", help="Save a view as JSON, and tell what it has in the archive.")(_command(_saved))
view_app.command("cache", help="Render a view once into a flat file that is mapped into memory: the fastest epoch.")(
    _command(_exported("cache"))
)


def place(
    archive: ArchivePath,
    set_place: Annotated[Path, typer.Argument(metavar="SET", help="A training set, or its view.json.")],
    masks: Annotated[
        Path, typer.Argument(metavar="MASKS", help="A folder or zip of masks named as the images, or one .npy stack.")
    ],
    classes: Annotated[str, typer.Option(metavar="N=LABEL,...", help="What the numbers mean, e.g. 1=liver,2=lesion.")],
    out: Annotated[
        Path | None, typer.Option(help="Write masks of the frames' size here, instead of annotations.")
    ] = None,
    author: Annotated[str, typer.Option(help="Of the annotations.")] = "",
    json: Json = False,
) -> int:
    """Put masks made on exported images back onto the frames they were made from, as annotations or as files."""
    import dcmark
    from dcmark.view.place import pairs
    from dcmark.view.place import place as put_back

    report = put_back(dcmark.open_archive(archive), set_place, masks, dict(pairs(classes)), out=out, author=author)
    if json:
        draw.as_json(
            {
                "images": report.images,
                "annotations": report.annotations,
                "files": report.files,
                "findings": [finding.as_dict() for finding in report.findings],
            }
        )
    else:
        for finding in report.findings[:20]:
            draw.line(f"{finding.level}\t{finding.code}\t{finding.path}\t{finding.message}")
        made = f"{report.files} files" if out is not None else f"{len(report.annotations)} annotations"
        draw.line(f"{report.images} masks put back: {made}; {len(report.findings)} left out")
    return draw.NEEDS_A_LOOK if report.findings else 0
