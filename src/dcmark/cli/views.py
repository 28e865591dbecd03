"""Views on the command line: what all exports of training sets take."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dcmark.cli import draw
from dcmark.cli.options import ArchivePath, Json, Overwrite, Quiet, Threads

if TYPE_CHECKING:
    from dcmark.view.export.base import ExportReport
    from dcmark.view.view import View

SETS = {
    "stylegan3": "A zip as StyleGAN2 and 3 read it: square PNG files with dataset.json.",
    "pggan": "TFRecords of every resolution, as the reference implementation of PGGAN reads them.",
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
Annotated_ = Annotated[str | None, typer.Option("--annotated", metavar="LABEL", help="Only frames with it; * any.")]
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
        app.command(name, help=text)(_command(name))


def _command(name: str) -> Any:
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
        annotated: Annotated_ = None,
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
        from dcmark import plugins
        from dcmark.cli.export import tell

        chosen = made_view(
            {
                "view": view, "where": where, "window": window, "quantity": quantity, "size": size,
                "spacing": spacing, "crop": crop, "bits": bits, "colour": colour, "standard": standard,
                "every": every, "gap_free": gap_free, "annotated": annotated, "background": background,
                "labels": labels, "split": split, "stratify": stratify, "same_person": same_person, "seed": seed,
                "part": part,
            }
        )  # fmt: skip
        export = plugins.load("dcmark.exporters", name)
        report: ExportReport = export(
            dcmark.open_archive(archive),
            out,
            view=chosen,
            overwrite=overwrite,
            threads=threads,
            progress=draw.progress(quiet),
        )
        return tell(report, "images", json)

    return command
