"""What the report shows: contact sheets of random slices and histograms of their values."""

from __future__ import annotations

import base64
from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from dcmark.archive.query import query
from dcmark.errors import DamageError, DcmarkError
from dcmark.progress import NoProgress
from dcmark.view.export.resize import placed, resized
from dcmark.view.frames import Frame, frame

if TYPE_CHECKING:
    from dcmark.archive.store import Archive
    from dcmark.progress import Progress

Array = NDArray[Any]

TILE = 144
"""Side of a slice on a contact sheet, pixels."""
GAP = 4
ACROSS = 8
MOST_ON_A_SHEET = 48
MOST_SHEETS = 8
LARGEST_PIXELS = 1 << 26
"""Pixels of the largest frame that is decoded for the report."""

_SAMPLE = """
    SELECT modality, sha256, path, patient, number, total FROM (
        SELECT coalesce(f.modality, f.kind) AS modality, f.sha256, f.path,
               coalesce(nullif(f.patient, ''), f.patient_id, '') AS patient, r.number,
               count(*) OVER (PARTITION BY coalesce(f.modality, f.kind)) AS total,
               row_number() OVER (PARTITION BY coalesce(f.modality, f.kind)
                                  ORDER BY hash(f.sha256 || r.number || '{seed}'), f.sha256, r.number) AS place
        FROM frames r JOIN files f ON f.sha256 = r.sha256
        WHERE f.rows * f.columns BETWEEN 1 AND {largest})
    WHERE place <= {most} ORDER BY total DESC, modality, place"""


@dataclass(frozen=True, slots=True)
class Shown:
    """A slice on a sheet."""

    patient: str
    path: str
    number: int


@dataclass(frozen=True, slots=True)
class Sheet:
    """A contact sheet.

    Attributes:
        name: modality, or the kind of file.
        total: frames of it in the archive.
        frames: those shown, row by row.
        jpeg: the picture.
        width, height: of the picture, pixels.
    """

    name: str
    total: int
    frames: list[Shown]
    jpeg: bytes
    width: int
    height: int

    @property
    def uri(self) -> str:
        """The picture as a data URI."""
        return "data:image/jpeg;base64," + base64.b64encode(self.jpeg).decode("ascii")


@dataclass(frozen=True, slots=True)
class Histogram:
    """A drawn histogram of one quantity of one modality."""

    svg: str
    caption: str


@dataclass(slots=True)
class Pictures:
    """All that the page shows.

    Attributes:
        sampled: frames whose values went into the histograms.
        unseen: in words, what could not be shown; empty where all could.
    """

    sheets: list[Sheet] = field(default_factory=list)
    histograms: list[Histogram] = field(default_factory=list)
    sampled: int = 0
    unseen: str = ""


def pictures(archive: Archive, *, seed: int, sample: int, progress: Progress | None = None) -> Pictures:
    """Draw frames at random, the same ones for the same seed, and make sheets and histograms of them.

    Frames that cannot be decoded are counted and told, and do not stop the report.

    Args:
        sample: frames looked at in all; shared among the modalities.
    """
    progress = progress or NoProgress()
    rows = _chosen(archive, seed, sample)
    made = Pictures()
    failed: dict[str, int] = defaultdict(int)
    tiles: dict[str, list[tuple[Array, Shown]]] = defaultdict(list)
    totals: dict[str, int] = {}
    gathered: dict[tuple[str, str, str], _Values] = {}
    progress.start("report", len(rows))
    try:
        for row in rows:
            name = row["modality"]
            totals[name] = row["total"]
            try:
                one = frame(archive, row["sha256"], row["number"])
                if len(tiles[name]) < MOST_ON_A_SHEET:
                    tiles[name].append((tile(one.display()), Shown(row["patient"], row["path"], row["number"])))
                _gather(gathered, name, one)
            except DamageError:
                raise
            except DcmarkError as error:
                failed[error.code] += 1
            progress.advance(1, 0)
    finally:
        progress.finish()
    for name, shown in sorted(tiles.items(), key=lambda item: -totals[item[0]])[:MOST_SHEETS]:
        if shown:
            made.sheets.append(_sheet(name, totals[name], shown))
    made.histograms = _histograms(gathered)
    made.sampled = sum(len(values.frames) for values in gathered.values())
    if failed:
        words = ", ".join(f"{count} ({code})" for code, count in sorted(failed.items()))
        made.unseen = f"Could not be decoded, and are not shown: {words}."
    return made


def _chosen(archive: Archive, seed: int, sample: int) -> list[dict[str, Any]]:
    sql = _SAMPLE.format(seed=int(seed), most=int(sample), largest=LARGEST_PIXELS)
    rows: list[dict[str, Any]] = query(archive, sql).to_pylist()
    by_name: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        by_name[row["modality"]].append(row)
    # Each modality gets a sheet's worth before the most frequent one takes the rest.
    share = min(MOST_ON_A_SHEET, max(1, sample // max(1, len(by_name))))
    chosen = [row for found in by_name.values() for row in found[:share]]
    rest = [row for found in by_name.values() for row in found[share:]]
    return chosen + rest[: max(0, sample - len(chosen))]


# Sheets ----------------------------------------------------------------------------------------------------------


def tile(picture: Array, side: int = TILE) -> Array:
    """A picture of (rows, columns[, 3]) in the middle of a black square of (side, side, 3), its shape kept."""
    if picture.ndim == 2:
        picture = np.repeat(picture[:, :, None], 3, axis=2)
    return resized(picture, placed(picture.shape, side))


def _sheet(name: str, total: int, shown: list[tuple[Array, Shown]]) -> Sheet:
    from imagecodecs import jpeg8_encode

    across = min(ACROSS, len(shown))
    down = -(-len(shown) // across)
    step = TILE + GAP
    sheet = np.full((down * step - GAP, across * step - GAP, 3), 20, np.uint8)
    for place, (picture, _) in enumerate(shown):
        row, column = divmod(place, across)
        sheet[row * step : row * step + TILE, column * step : column * step + TILE] = picture
    jpeg = bytes(jpeg8_encode(sheet, level=82))
    return Sheet(name, total, [which for _, which in shown], jpeg, sheet.shape[1], sheet.shape[0])


# Histograms ------------------------------------------------------------------------------------------------------

_LANDMARKS = {
    "hu": ((-1000, "air", "middle"), (-800, "lung", "start"), (-100, "fat", "end"), (0, "water", "start"),
           (400, "bone", "middle")),
}  # fmt: skip
_FIXED = {"hu": (-1100.0, 2000.0)}
_BINS = 155
_PER_FRAME = 1 << 14
MOST_HISTOGRAMS = 12


class _Values:
    """Values of one quantity: the same number of pixels of every frame, so that large frames do not outweigh others."""

    def __init__(self, quantity: str) -> None:
        self.quantity = quantity
        self.frames: list[Array] = []

    def add(self, values: Array) -> None:
        self.frames.append(values[:: max(1, values.size // _PER_FRAME)].astype(np.float32))

    def draw(self, width: int = 560, height: int = 190) -> str:
        """An SVG of bars over a labelled axis; heights are square roots, so that rare tissue shows beside air."""
        base, top = height - 30, 26
        values = np.concatenate(self.frames)
        low, high = _FIXED.get(self.quantity) or tuple(float(v) for v in np.quantile(values, (0.001, 0.999)))
        high = high if high > low else low + 1
        counts = np.histogram(np.clip(values, low, high), _BINS, (low, high))[0]
        heights = np.sqrt(counts / max(1, counts.max())) * (base - top)
        wide = width / _BINS
        bars = "".join(
            f"M{i * wide:.1f} {base}v-{h:.1f}h{max(wide - 0.6, 0.6):.1f}v{h:.1f}z"
            for i, h in enumerate(heights)
            if h > 0
        )

        def x(value: float) -> float:
            return (value - low) / (high - low) * width

        marks = "".join(
            f'<path d="M{x(v):.1f} {top}V{base}" stroke="#8b959e" stroke-dasharray="2 3"/>'
            f'<text x="{x(v):.1f}" y="{top - 8}" text-anchor="{anchor}" fill="#8b959e">{word}</text>'
            for v, word, anchor in _LANDMARKS.get(self.quantity, ())
        )
        ticks = "".join(
            f'<text x="{min(max(x(v), 4), width - 4):.1f}" y="{height - 10}" fill="#8b959e" '
            f'text-anchor="{"start" if x(v) < 30 else "end" if x(v) > width - 30 else "middle"}">{v:g}</text>'
            for v in _ticks(low, high)
        )
        return (
            f'<svg viewBox="-12 0 {width + 24} {height}" role="img" font-size="11" font-family="system-ui,sans-serif">'
            f'{marks}<path d="{bars}" fill="#5fb3b3"/><path d="M0 {base}H{width}" stroke="#2b3137"/>{ticks}</svg>'
        )


def _ticks(low: float, high: float) -> list[float]:
    step = 10.0 ** np.floor(np.log10((high - low) / 4))
    step *= next((m for m in (1, 2, 5, 10) if (high - low) / (step * m) <= 7), 10)
    first = int(np.ceil(low / step))
    return [round(n * step, 10) for n in range(first, int(np.floor(high / step)) + 1)]


def _gather(gathered: dict[tuple[str, str, str], _Values], name: str, one: Frame) -> None:
    if one.stored.ndim != 2:
        return
    try:
        found = one.physical()
    except DcmarkError:
        found = one.physical("stored")
    values = found.values[np.isfinite(found.values)]
    if values.size:
        gathered.setdefault((name, found.quantity, found.unit), _Values(found.quantity)).add(values)


def _histograms(gathered: dict[tuple[str, str, str], _Values]) -> list[Histogram]:
    """Drawn, those of measured quantities before bare stored values, the most frequent first."""
    order = sorted(gathered.items(), key=lambda item: (item[0][1] == "stored", -len(item[1].frames)))
    made = []
    for (name, quantity, unit), values in order[:MOST_HISTOGRAMS]:
        count = len(values.frames)
        words = "HU" if quantity == "hu" else quantity.replace("_", " ") + ("" if unit == "1" else f" in {unit}")
        made.append(Histogram(values.draw(), f"{name}: {words}, {count} frame{'' if count == 1 else 's'}"))
    return made
