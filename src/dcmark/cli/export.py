"""``dcmark export FORMAT ARCHIVE OUT``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from dcmark.cli import draw
from dcmark.cli.engines import spread
from dcmark.cli.options import ArchivePath, Json, Overwrite, Quiet, Threads, Where
from dcmark.cli.views import add_sets
from dcmark.cli.volumes import nifti

if TYPE_CHECKING:
    from dcmark.view.export.base import ExportReport

app = typer.Typer(help="Write images, arrays and training sets.", no_args_is_help=True)

Out = Annotated[Path, typer.Argument(metavar="OUT", help="An empty or new folder.")]
Size = Annotated[
    int | None, typer.Option(min=1, max=16384, help="Side of square pictures, e.g. 64, 128, 256, 512: area averages.")
]


@app.command()
@spread
def images(
    archive: ArchivePath,
    out: Out,
    where: Where = None,
    format: Annotated[Literal["png", "jpeg", "tiff"], typer.Option(help="png and tiff lose nothing.")] = "png",
    stored: Annotated[
        bool, typer.Option("--stored", help="Stored values (16-bit PNG), not what is to be seen.")
    ] = False,
    size: Size = None,
    window: Annotated[
        str | None, typer.Option(help="lung, bone, ... or CENTRE/WIDTH; the header's by default.")
    ] = None,
    overwrite: Overwrite = False,
    threads: Threads = None,
    quiet: Quiet = False,
    json: Json = False,
) -> int:
    """A picture for every frame, and view.json that leads from each back to its file."""
    import dcmark
    from dcmark.view.export.images import export_images

    report = export_images(
        dcmark.open_archive(archive),
        out,
        where=where,
        format=format,
        stored=stored,
        size=size,
        window=window,
        overwrite=overwrite,
        threads=threads,
        progress=draw.progress(quiet),
    )
    return tell(report, "pictures", json)


@app.command()
@spread
def npy(
    archive: ArchivePath,
    out: Out,
    where: Where = None,
    quantity: Annotated[str, typer.Option(help="stored, physical, or one by name such as hu.")] = "stored",
    size: Size = None,
    tags: Annotated[
        list[str] | None, typer.Option("--tags", help="More attributes for slices.csv, by keyword.")
    ] = None,
    overwrite: Overwrite = False,
    threads: Threads = None,
    quiet: Quiet = False,
    json: Json = False,
) -> int:
    """One .npy stack for each shape, and slices.csv with patient, image, slice and attributes."""
    import dcmark
    from dcmark.view.export.npy import export_npy

    report = export_npy(
        dcmark.open_archive(archive),
        out,
        where=where,
        quantity=quantity,
        size=size,
        tags=[part for text in tags or [] for part in text.replace(",", " ").split()],
        overwrite=overwrite,
        threads=threads,
        progress=draw.progress(quiet),
    )
    return tell(report, "slices", json)


app.command()(spread(nifti))
add_sets(app)


def tell(report: ExportReport, items: str, json: bool) -> int:
    """Print what an export wrote; the exit code."""
    if json:
        draw.as_json(
            {
                **{name: getattr(report, name) for name in report.__slots__},
                "findings": [finding.as_dict() for finding in report.findings],
            }
        )
    else:
        for finding in report.findings[:20]:
            draw.line(f"{finding.level}\t{finding.code}\t{finding.path}\t{finding.message}")
        if len(report.findings) > 20:
            draw.line(f"and {report.left_out - 20} more, in view.json")
        draw.line(f"{report.items} {items} of {report.files} files written, {report.left_out} frames left out")
        if report.without_frames:
            draw.line(f"files without a picture: {draw.counts(report.without_frames)}")
    if report.damaged:
        return 4
    return draw.NEEDS_A_LOOK if report.left_out else 0
