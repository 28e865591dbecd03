"""``dcmark demo``: the whole way, offline, on files that come with it: in, looked at, out, and back again."""

from __future__ import annotations

import hashlib
import shutil
import time
from collections import Counter
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dcmark.cli import draw

if TYPE_CHECKING:
    from dcmark.archive.store import Archive
    from dcmark.cli.sheet import SheetRow

SIDE = 320
"""Rows and columns of the stand-ins, pixels: enough to look at, little enough for two minutes."""


def demo(
    out: Annotated[Path, typer.Option("--out", help="A new folder for all that the demo makes.")] = Path("dcmark-demo"),
    side: Annotated[int, typer.Option(hidden=True, min=32, max=512)] = SIDE,
    train: Annotated[
        bool, typer.Option("--train", help="Train a small PGGAN instead: two minutes on a processor.")
    ] = False,
    images: Annotated[int, typer.Option(hidden=True, min=64)] = 9_000,
) -> int:
    """The whole way on sample files, in two minutes at most, without a network."""
    import dcmark
    from dcmark.errors import OutputExistsError
    from dcmark.view.export.images import export_images
    from dcmark.view.export.npy import export_npy

    if out.exists() and (out.is_file() or any(out.iterdir())):
        raise OutputExistsError(f"expected a new folder at {out}, found files; choose another with --out")
    if train:
        from dcmark.cli.demo_training import demo_training

        return demo_training(out, images)
    began = time.monotonic()
    source, place = out / "source", out / "scans.dcmark"

    _step("Sample files", "pydicom's real test files, and stand-ins of CTPA, DRLI and SCAPIS")
    _samples(source, side)
    before = _hashes(source)
    draw.line(f"{sum(before.values())} files in {source}")

    _step("Into an archive", f"dcmark ingest {source} {place}")
    archive = dcmark.open_archive(place, create=True)
    report = dcmark.ingest(source, archive)
    draw.line(
        f"{report.files} new files with {report.frames} frames, {report.duplicates} duplicates; "
        f"{report.opaque} kept whole (no image format that dcmark takes apart), {report.errors} with an error finding"
    )

    _step("What is in it", f"dcmark ls {place} patients")
    _show(archive, "SELECT dataset, patient, series, files, frames FROM patients WHERE dataset <> '' LIMIT 8")
    _step("Asked in SQL", f'dcmark query {place} "SELECT modality, count(*) ..."')
    _show(archive, _BY_MODALITY)

    _step("Ordinary images", f"dcmark export images {place} {out / 'images'} --size 256")
    pictures = export_images(archive, out / "images", where=_SETS, size=256)
    draw.line(f"{pictures.items} PNG files, each of which leads back to its DICOM file")
    _step("A binary file with its table", f"dcmark export npy {place} {out / 'arrays'} --quantity hu --size 128")
    stacks = export_npy(archive, out / "arrays", where=f"{_SETS} AND modality = 'CT'", quantity="hu", size=128)
    draw.line(f"{stacks.items} slices in HU, and slices.csv with a row for each")

    _step("Proved", f"dcmark verify {place}")
    verified = dcmark.verify(archive)
    draw.line(f"{verified.files_read} files put together and hashed: {'whole' if verified.whole else 'DAMAGED'}")
    _step("And back", f"dcmark restore {place} {out / 'restored'}")
    dcmark.restore(archive, out / "restored")
    after = _hashes(out / "restored")
    identical = sum((before & after).values())

    foot = f"{sum(before.values())} files in, {identical} back, byte for byte"
    _sheet(archive, out / "sheet.png", foot)
    _step("Look", str(out / "sheet.png"))
    draw.line(f"{identical} of {sum(before.values())} files came back identical, in {time.monotonic() - began:.0f} s")
    return 0 if identical == sum(before.values()) and verified.whole else 4


_SETS = "dataset IN ('ctpa', 'drli', 'scapis')"
_BY_MODALITY = """
    SELECT modality, count(*) AS files, sum(frames)::BIGINT AS frames, count(DISTINCT series_instance_uid) AS series
    FROM files WHERE modality IS NOT NULL GROUP BY modality ORDER BY files DESC, modality LIMIT 6"""


def _step(what: str, how: str) -> None:
    draw.heading(what, how)


def _show(archive: Archive, sql: str) -> None:
    import dcmark

    rows = dcmark.query(archive, sql)
    draw.table(rows.column_names, zip(*(column.to_pylist() for column in rows.columns), strict=True))


def _samples(source: Path, side: int) -> None:
    from dcmark.testing import corpus, standins

    shutil.copytree(corpus.bundled(), source / "pydicom", ignore=shutil.ignore_patterns("__pycache__"))
    for make, slices in ((standins.ctpa, 12), (standins.drli, 14)):
        make(source, slices=slices, rows=side, columns=side)
    # The real one is delivered as 7z; without py7zr its folder does as well.
    standins.scapis(source, slices=16, rows=side, columns=side, seven_zip=find_spec("py7zr") is not None)


def _hashes(folder: Path) -> Counter[str]:
    """SHA-256 of every file, members of 7z instead of the 7z; each as often as it is there."""
    found: Counter[str] = Counter()
    for place in sorted(folder.rglob("*")):
        if place.suffix in (".7z", ".zip", ".gz") and place.is_file():
            found.update(_members(place))
        elif place.is_file():
            found[hashlib.sha256(place.read_bytes()).hexdigest()] += 1
    return found


def _members(place: Path) -> Counter[str]:
    from dcmark.read.base import Item
    from dcmark.read.containers import load, open_source

    found: Counter[str] = Counter()
    for item in open_source(place).items():
        if isinstance(item, Item):
            with load(item) as buffer:
                found[hashlib.sha256(buffer.data).hexdigest()] += 1
    return found


# The sheet -------------------------------------------------------------------------------------------------------

_ROWS: tuple[tuple[str, list[str], str, list[str | None]], ...] = (
    (
        "CTPA",
        ["CT of the lung arteries", "JPEG 2000, kept as it is", "stand-in"],
        "dataset = 'ctpa'",
        ["lung", "mediastinum"],
    ),
    ("DRLI", ["CT of the liver", "with metastases", "stand-in"], "dataset = 'drli' AND modality = 'CT'", ["liver"]),
    ("SCAPIS", ["CT of the heart", "out of a 7z", "stand-in"], "dataset = 'scapis'", ["angio"]),
    ("Real files", ["CT, MR, US, RT dose, ...", "that pydicom brings"], "dataset IS NULL OR dataset = ''", [None]),
)
_ACROSS = 5
_SEEN = ("CT_small.dcm", "MR_small.dcm", "examples_overlay.dcm", "examples_palette.dcm", "rtdose.dcm")


def _sheet(archive: Archive, place: Path, foot: str) -> None:
    from dcmark.cli.sheet import SheetRow, draw_sheet

    rows: list[SheetRow] = []
    for name, lines, where, windows in _ROWS:
        tiles = [
            _picture(archive, row, windows[number % len(windows)]) for number, row in enumerate(_chosen(archive, where))
        ]
        if tiles:
            rows.append(SheetRow(name, lines, [tile for tile in tiles if tile is not None]))
    draw_sheet(rows, "folders of medical images, one archive, and back", foot, place)


def _chosen(archive: Archive, where: str) -> list[dict[str, Any]]:
    """Frames spread over the series of a set; of the real files some that are worth a look."""
    import dcmark

    names = ", ".join(f"'{name}'" for name in _SEEN)
    seen = f"AND parse_filename(path) IN ({names})" if "dataset = ''" in where else ""
    sql = f"""SELECT sha256, path, modality, instance_number, frames FROM files
              WHERE ({where}) AND frames > 0 AND (image_type IS NULL OR image_type NOT LIKE '%REFORMATTED%') {seen}
              ORDER BY series_instance_uid, instance_number, path"""
    rows: list[dict[str, Any]] = dcmark.query(archive, sql).to_pylist()
    if seen:
        return sorted(rows, key=lambda row: _SEEN.index(row["path"].rsplit("/", 1)[-1]))[:_ACROSS]
    return [rows[(2 * n + 1) * len(rows) // (2 * _ACROSS)] for n in range(_ACROSS)] if rows else []


def _picture(archive: Archive, row: dict[str, Any], window: str | None) -> tuple[Any, str] | None:
    from dcmark.errors import DcmarkError
    from dcmark.view.frames import frame

    try:
        picture = frame(archive, row["sha256"], row["frames"] // 2).display(window)
    except DcmarkError:
        return None
    if window:
        picture = picture[_edge(picture, 0), _edge(picture, 1)]
    return picture, f"{row['modality']}, {window} window" if window else row["modality"]


def _edge(picture: Any, axis: int) -> slice:
    """Without the air around the body."""
    cut = picture.shape[axis] // 12
    return slice(cut, picture.shape[axis] - cut)
