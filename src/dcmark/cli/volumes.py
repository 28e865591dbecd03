"""``dcmark ls ARCHIVE volumes`` and ``dcmark export nifti``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dcmark.cli import draw
from dcmark.cli.options import ArchivePath, Json, Overwrite, Quiet, Threads

if TYPE_CHECKING:
    from dcmark.archive.store import Archive

_LISTING = """
    SELECT dataset, patient, patient_id, series_number AS series, number, modality, description, verdict,
           rows, columns, spacing, level, findings, phase, phases, files, id
    FROM volumes ORDER BY dataset, patient, patient_id, series_instance_uid, number"""
_LEFT_OUT = """
    SELECT level, code, message, action, sum(files)::BIGINT AS files FROM leftovers
    WHERE code NOT IN ('no-image', 'not-a-volume') GROUP BY ALL ORDER BY level, code, message"""


def list_volumes(archive: Archive, json: bool) -> None:
    """Print the volumes of an archive with verdict and findings in words, and what is in none."""
    from dcmark.archive.query import query

    found, left = query(archive, _LISTING).to_pylist(), query(archive, _LEFT_OUT).to_pylist()
    if json:
        draw.as_json({"volumes": found, "in_no_volume": left})
        return
    columns = ["patient", "series", "no", "modality", "pixels", "verdict", "findings", "id"]
    rows = []
    for row in found:
        said = [f for f in row["findings"] if f["level"] != "info"] or row["findings"]
        words = [f"{f['level']}: {f['message']} ({f['action']})" if f["action"] else f["message"] for f in said]
        spacing = row["spacing"]
        pixels = f"{row['rows']} x {row['columns']}" + (f", {spacing[1]:.4g} x {spacing[2]:.4g} mm" if spacing else "")
        rows.append(
            [
                row["patient"] or row["patient_id"],
                row["series"],
                row["number"],
                row["modality"],
                pixels,
                row["verdict"],
                "; ".join(words),
                row["id"],
            ]
        )
    draw.table(columns, rows)
    for row in left:
        draw.line(f"in no volume: {row['files']} files: {row['level']}: {row['message']} ({row['action']})")


def nifti(
    archive: ArchivePath,
    out: Annotated[Path, typer.Argument(metavar="OUT", help="An empty or new folder.")],
    where: Annotated[
        str | None,
        typer.Option("--where", metavar="SQL", help="Condition over the view volumes, e.g. \"modality = 'CT'\"."),
    ] = None,
    quantity: Annotated[
        str | None, typer.Option(help="hu, suvbw, gy, stored, ...; by default what the files define first.")
    ] = None,
    ras: Annotated[bool, typer.Option("--ras", help="Turn the array's axes to right, anterior, superior.")] = False,
    regular: Annotated[
        bool, typer.Option("--regular", help="Resample volumes with gaps, uneven spacing or tilt to an even grid.")
    ] = False,
    fill: Annotated[float | None, typer.Option(help="Written where a pixel has no value, instead of NaN.")] = None,
    overwrite: Overwrite = False,
    threads: Threads = None,
    quiet: Quiet = False,
    json: Json = False,
) -> int:
    """One NIfTI file a volume, with a BIDS-like side file that leads back to the originals."""
    import os

    import dcmark
    from dcmark.view.export.nifti import export_nifti

    report = export_nifti(
        dcmark.open_archive(archive),
        out,
        where=where,
        quantity=quantity,
        ras=ras,
        regular=regular,
        fill=fill,
        overwrite=overwrite,
        threads=threads or os.cpu_count() or 1,
        progress=draw.progress(quiet),
    )
    findings = [finding.as_dict() for finding in report.findings]
    if json:
        draw.as_json({"volumes": report.items, "left_out": report.left_out, "findings": findings})
    else:
        for finding in report.findings:
            draw.line(f"{finding.level}\t{finding.code}\t{finding.path}\t{finding.message} ({finding.action})")
        draw.line(f"{report.items} volumes of {report.files} files written, {report.left_out} left out")
    if report.damaged:
        return 4
    return draw.NEEDS_A_LOOK if report.left_out else 0
