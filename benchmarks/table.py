"""A row of the table of figures, and the registry that sections of it are entered in."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal


@dataclass(frozen=True, slots=True)
class Row:
    """One figure.

    Attributes:
        what: was measured, in words.
        value: the figure; None where it was not measured.
        unit: of the figure; ``x`` for a ratio.
        target: what it should be, with ``at``: ``most`` or ``least``; None for a figure that is only told.
        at: which side of the target is good.
        note: what was compared with what, or why it was not measured.
        missed: why, where the target is known to be missed.
    """

    what: str
    value: float | None
    unit: str = "x"
    target: float | None = None
    at: Literal["most", "least"] = "most"
    note: str = ""
    missed: str = ""

    @property
    def met(self) -> bool | None:
        """Is the target met? None without a target or a figure."""
        if self.target is None or self.value is None:
            return None
        return self.value <= self.target if self.at == "most" else self.value >= self.target


@dataclass(frozen=True, slots=True)
class Setting:
    """What a section is given.

    Attributes:
        folder: to work in, on the disk that is measured.
        slices: folder of the 100 slices, and of the 1,000 made from them.
        long: folder of the 20,000 slices; None for a quick run.
        real: the slices are of a real CT.
        turns: repeats whose median counts.
    """

    folder: Path
    slices: dict[int, Path]
    long: Path | None
    real: bool
    turns: int


Section = Callable[[Setting], Iterable[Row]]
SECTIONS: dict[str, tuple[str, Section]] = {}


def section(name: str, title: str) -> Callable[[Section], Section]:
    """Enter a function that measures rows: ``@section("archive", "The archive")``."""

    def enter(function: Section) -> Section:
        SECTIONS[name] = title, function
        return function

    return enter


def markdown(title: str, rows: Iterable[Row]) -> Iterator[str]:
    """The lines of a section."""
    yield f"## {title}"
    yield ""
    yield "| figure | measured | target | |"
    yield "|---|---:|---:|---|"
    for row in rows:
        target = "" if row.target is None else f"{'≤' if row.at == 'most' else '≥'} {_number(row.target, row.unit)}"
        verdict = {True: "met", False: "**missed**", None: ""}[row.met]
        words = [word for word in (verdict, row.note, row.missed if row.met is False else "") if word]
        yield f"| {row.what} | {_number(row.value, row.unit)} | {target} | {'; '.join(words)} |"
    yield ""


def _number(value: float | None, unit: str) -> str:
    if value is None:
        return "not measured"
    digits = 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2
    text = f"{value:.{digits}f}"
    return f"{text} ×" if unit == "x" else f"{text} {unit}"
