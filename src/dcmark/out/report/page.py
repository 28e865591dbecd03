"""The page itself: facts and pictures into one self-contained HTML file."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from dcmark.archive.summary import summary
from dcmark.errors import OutputExistsError
from dcmark.out.report.facts import Facts, Row, facts
from dcmark.out.report.marks import Marks, Pair, marks
from dcmark.out.report.pictures import Pictures, pictures

if TYPE_CHECKING:
    from dcmark.archive.store import Archive
    from dcmark.progress import Progress

Kind = Literal["", "n", "uid"]
LEVEL_NAMES = {"error": "Errors", "warning": "Warnings", "info": "Information"}


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a listing: its heading, how it is set, and what stands in a row's cell."""

    title: str
    cell: Callable[[Row], str]
    kind: Kind = ""

    @property
    def number(self) -> bool:
        """Is it set to the right?"""
        return self.kind == "n"


def report(
    archive: Archive,
    out: str | os.PathLike[str],
    *,
    pdf: str | os.PathLike[str] | None = None,
    seed: int = 0,
    sample: int = 200,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> None:
    """Write a page about an archive: patients, series, volumes, findings, sizes, values, random slices.

    The page needs nothing beside itself, runs no script, and asks no server for anything.

    Args:
        archive: what it is about.
        out: the HTML file to write.
        pdf: the contact sheets as a PDF too (extra ``report``).
        seed: of the random slices; the same seed draws the same ones.
        sample: frames decoded for the histograms and sheets.
        overwrite: replace what is there.
        progress: is told of each frame decoded.

    Raises:
        OutputExistsError: a file is in the way.
        StorageError: it cannot be written.
        MissingExtraError: ``pdf`` without the extra ``report``.
        DamageError: the archive cannot be read.
    """
    from dcmark.archive.faults import storage_error

    places = [Path(place) for place in (out, pdf) if place is not None]
    for place in places:
        if place.exists() and not overwrite:
            raise OutputExistsError(f"expected nothing at {place}, found a file; choose another name or --overwrite")
    shown = pictures(archive, seed=seed, sample=sample, progress=progress)
    text = render(archive, facts(archive), shown, marks(archive), seed=seed)
    try:
        places[0].parent.mkdir(parents=True, exist_ok=True)
        places[0].write_text(text, encoding="utf-8")
        if pdf is not None:
            from dcmark.out.report.pdf import write_sheets

            write_sheets(shown.sheets, Path(pdf), title=archive.path.name)
    except OSError as error:
        raise storage_error(error, places[0].parent) from error


def render(archive: Archive, known: Facts, shown: Pictures, marked: Marks, *, seed: int) -> str:
    """The HTML text. Every text that comes from a file is escaped."""
    from importlib.metadata import version
    from importlib.resources import files

    from jinja2 import Environment, StrictUndefined

    whole = summary(archive)
    volumes = known.volumes
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=False)
    template = environment.from_string(files("dcmark.out.report").joinpath("page.html.j2").read_text("utf-8"))
    counted = {level: sum(row["count"] for row in rows) for level, rows in known.findings.items()}
    sections = [("findings", "Findings"), ("odd", "Odd and missing tags")]
    sections += [("slices", "Slices at random")] if shown.sheets else []
    sections += [("values", "Values")] if shown.histograms else []
    sections += [("annotations", "Annotations")] if marked.labels.total else []
    sections += [("what", "What is here"), ("patients", "Patients"), ("series", "Series")]
    sections += [("volumes", "Volumes")] if volumes.total else []
    return template.render(
        title=archive.path.name,
        subtitle=f"Format {whole['format_version']}, {_bytes(whole['bytes_received'])} received, "
        f"{_bytes(whole['bytes_stored'])} stored; hashes cover the bytes as {whole['hashes_cover']}.",
        sections=sections,
        numbers=[
            (f"{whole['patients']:,}", "patients"),
            (f"{whole['series']:,}", "series"),
            *([(f"{volumes.total:,}", "volumes")] if volumes.total else []),
            (f"{whole['files']:,}", "files"),
            (f"{whole['frames']:,}", "frames"),
            (f"{counted['error']:,}", "error findings"),
            (f"{counted['warning']:,}", "warnings"),
        ],
        findings=list(known.findings.items()),
        findings_any=any(known.findings.values()),
        level_names=LEVEL_NAMES,
        odd=known.odd,
        missing=known.missing,
        sheets=shown.sheets,
        unseen=shown.unseen,
        seed=seed,
        histograms=shown.histograms,
        marked=marked,
        kappa=_kappa,
        histogram_frames=shown.sampled,
        modalities=known.modalities,
        syntaxes=known.syntaxes,
        sizes=known.sizes,
        patients=known.patients,
        series=known.series,
        volumes=volumes,
        columns=COLUMNS,
        made=f"Made by dcmark {version('dcmark')}",
    )


def _text(name: str) -> Callable[[Row], str]:
    return lambda row: "" if row[name] is None else str(row[name])


def _count(name: str) -> Callable[[Row], str]:
    return lambda row: "" if row[name] is None else f"{row[name]:,}"


def _size(name: str) -> Callable[[Row], str]:
    return lambda row: _bytes(row[name] or 0)


def _range(low: str, high: str) -> Callable[[Row], str]:
    def cell(row: Row) -> str:
        if row[low] is None:
            return ""
        ends = [f"{row[end]:.3g}" for end in (low, high)]
        return f"{ends[0]} mm" if ends[0] == ends[1] else f"{ends[0]} to {ends[1]} mm"

    return cell


def _syntax(row: Row) -> str:
    from pydicom.uid import UID

    return str(UID(row["transfer_syntax"]).name)


def _bytes(nbytes: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if nbytes < 1000:
            return f"{nbytes:.3g} {unit}"
        nbytes /= 1000
    return f"{nbytes:.3g} TB"


def _decimal(name: str, places: int) -> Callable[[Row], str]:
    return lambda row: "" if row[name] is None else f"{row[name]:.{places}f}"


def _kappa(pair: Pair) -> str:
    """In words; empty where they have no class of the same thing in common."""
    found = pair.classes
    if not found.cases:
        return ""
    kappa = "not defined, as only one class was given" if found.kappa is None else f"{found.kappa:.3f}"
    return f"Classes: {found.agreed:,} of {found.cases:,} alike, Cohen's kappa {kappa}."


COLUMNS: dict[str, list[Column]] = {
    "modalities": [
        Column("modality or kind", _text("modality")),
        Column("patients", _count("patients"), "n"),
        Column("series", _count("series"), "n"),
        Column("files", _count("files"), "n"),
        Column("frames", _count("frames"), "n"),
        Column("size", _size("bytes"), "n"),
    ],
    "syntaxes": [
        Column("transfer syntax", _syntax),
        Column("UID", _text("transfer_syntax"), "uid"),
        Column("files", _count("files"), "n"),
        Column("frames", _count("frames"), "n"),
        Column("size", _size("bytes"), "n"),
    ],
    "sizes": [
        Column("modality", _text("modality")),
        Column("rows × columns", lambda row: f"{row['rows']} × {row['columns']}"),
        Column("bits", _count("bits_stored"), "n"),
        Column("pixel spacing", _range("finest_mm", "coarsest_mm")),
        Column("slice thickness", _range("thinnest_mm", "thickest_mm")),
        Column("files", _count("files"), "n"),
        Column("frames", _count("frames"), "n"),
    ],
    "patients": [
        Column("dataset", _text("dataset")),
        Column("folder", _text("patient")),
        Column("Patient ID", _text("patient_id")),
        Column("studies", _count("studies"), "n"),
        Column("series", _count("series"), "n"),
        Column("files", _count("files"), "n"),
        Column("frames", _count("frames"), "n"),
        Column("size", _size("bytes"), "n"),
    ],
    "series": [
        Column("dataset", _text("dataset")),
        Column("patient", lambda row: row["patient"] or row["patient_id"] or ""),
        Column("no.", _count("number"), "n"),
        Column("modality", _text("modality")),
        Column("description", _text("description")),
        Column("rows × columns", lambda row: f"{row['rows']} × {row['columns']}" if row["rows"] else ""),
        Column("frames", _count("frames"), "n"),
        Column("size", _size("bytes"), "n"),
        Column("Series Instance UID", _text("series_instance_uid"), "uid"),
    ],
    "volumes": [
        Column("patient", _text("patient")),
        Column("series", _text("series")),
        Column("modality", _text("modality")),
        Column("rows × columns", lambda row: f"{row['rows']} × {row['columns']}"),
        Column("verdict", _text("verdict")),
        Column("findings", _text("said")),
    ],
    "marks": [
        Column("label", _text("label")),
        Column("kind", _text("kind")),
        Column("author", _text("author")),
        Column("annotations", _count("count"), "n"),
        Column("draft", _count("draft"), "n"),
        Column("reviewed", _count("reviewed"), "n"),
        Column("rejected", _count("rejected"), "n"),
    ],
    "agreement": [
        Column("label", _text("label")),
        Column("cases", _count("cases"), "n"),
        Column("mean Dice", _decimal("dice", 3), "n"),
        Column("mean surface distance, mm", _decimal("surface_mm", 2), "n"),
        Column("largest Hausdorff distance, mm", _decimal("hausdorff_mm", 1), "n"),
    ],
    "worst": [
        Column("case", _text("case")),
        Column("label", _text("label")),
        Column("Dice", _decimal("dice", 3), "n"),
        Column("surface distance, mm", _decimal("surface_mm", 2), "n"),
        Column("Hausdorff distance, mm", _decimal("hausdorff_mm", 1), "n"),
        Column("pixels of the first", _count("pixels_a"), "n"),
        Column("of the second", _count("pixels_b"), "n"),
    ],
}
