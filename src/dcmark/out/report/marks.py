"""What was annotated, by whom, and how far readers agree, for the page."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING

from dcmark.annotate.agree import Kappa, Overlap, compare
from dcmark.annotate.log import Log
from dcmark.annotate.model import Annotation
from dcmark.annotate.places import Places
from dcmark.archive.query import connection
from dcmark.out.report.facts import MOST_ROWS, Listing, Row

if TYPE_CHECKING:
    from dcmark.archive.store import Archive

MOST_PAIRS = 10
"""Readers are compared two by two: those who marked most of the same cases first."""
WORST = 25
"""Cases listed for a pair: the ones that agree least are those to look at."""

_NAMES = """
    SELECT id, coalesce(nullif(patient, ''), patient_id) AS patient,
           coalesce(description, series_number::VARCHAR) AS series
    FROM volumes"""


@dataclass(frozen=True, slots=True)
class Pair:
    """Two readers who annotated the same cases.

    Attributes:
        first, second: authors.
        by_label: a row for each label: ``label``, ``cases``, mean ``dice``, mean ``surface_mm``, largest
            ``hausdorff_mm`` (None without a spacing).
        worst: cases with the lowest Dice first; ``more`` of them are not listed.
        classes: agreement on classes.
    """

    first: str
    second: str
    by_label: list[Row]
    worst: list[Row]
    more: int
    classes: Kappa


@dataclass(frozen=True, slots=True)
class Marks:
    """All that the page tells of annotations.

    Attributes:
        labels: a row for each label, kind and author: how many, and how many are reviewed and rejected.
        pairs: of readers; ``unpaired`` more have cases in common and are not listed.
    """

    labels: Listing
    pairs: list[Pair]
    unpaired: int


def marks(archive: Archive) -> Marks:
    """Gather what the log of an archive holds now.

    Raises:
        DamageError: the log cannot be read.
    """
    made = list(Log(archive).state().annotations())
    rows = _by_label(made)
    places = Places(archive)
    by_author: dict[str, list[Annotation]] = defaultdict(list)
    for one in made:
        if one.status != "rejected":
            by_author[one.author].append(one)
    seen = {author: {_case(one) for one in ones} for author, ones in by_author.items()}
    common = {
        (a, b): len(seen[a] & seen[b]) for a, b in combinations(sorted(by_author), 2) if a and b and seen[a] & seen[b]
    }
    chosen = sorted(common, key=lambda pair: (-common[pair], pair))
    pairs = [
        _pair(a, b, _shared(by_author[a], seen[b]), _shared(by_author[b], seen[a]), places)
        for a, b in chosen[:MOST_PAIRS]
    ]
    return Marks(Listing(rows[:MOST_ROWS], len(rows)), pairs, max(0, len(chosen) - MOST_PAIRS))


def _case(one: Annotation) -> str:
    """What two readers must both have looked at to be compared: who read half of the cases missed none of the rest."""
    target = one.target
    return target.series or target.study or target.patient or target.file


def _shared(ones: Sequence[Annotation], cases: set[str]) -> list[Annotation]:
    return [one for one in ones if _case(one) in cases]


def _by_label(made: Iterable[Annotation]) -> list[Row]:
    counts: dict[tuple[str, str, str], Counter[str]] = defaultdict(Counter)
    for one in made:
        counts[one.label.name, one.kind, one.author][one.status] += 1
    rows = [
        {"label": label, "kind": kind, "author": author, "count": sum(by.values())}
        | {status: by[status] for status in ("draft", "reviewed", "rejected")}
        for (label, kind, author), by in counts.items()
    ]
    return sorted(rows, key=lambda row: (-row["count"], row["label"], row["kind"], row["author"]))


def _pair(a: str, b: str, first: list[Annotation], second: list[Annotation], places: Places) -> Pair:
    found = compare(first, second, places)
    by_label: dict[str, list[Overlap]] = defaultdict(list)
    for one in found.overlaps:
        by_label[one.label].append(one)
    rows = [
        {
            "label": label,
            "cases": len(ones),
            "dice": sum(one.dice for one in ones) / len(ones),
            "surface_mm": _mean([one.surface_mm for one in ones if one.surface_mm is not None]),
            "hausdorff_mm": max((one.hausdorff_mm for one in ones if one.hausdorff_mm is not None), default=None),
        }
        for label, ones in sorted(by_label.items())
    ]
    names = _names(found.overlaps, places)
    worst = sorted(found.overlaps, key=lambda one: (one.dice, one.case, one.label))
    return Pair(
        a, b, rows,
        [
            {
                "case": names[one.case], "label": one.label, "dice": one.dice, "surface_mm": one.surface_mm,
                "hausdorff_mm": one.hausdorff_mm, "pixels_a": one.pixels_a, "pixels_b": one.pixels_b,
            }
            for one in worst[:WORST]
        ],
        max(0, len(worst) - WORST),
        found.labels,
    )  # fmt: skip


def _names(overlaps: Iterable[Overlap], places: Places) -> dict[str, str]:
    """A case as people know it: patient and series before the id of a volume."""
    with connection(places.archive) as database:
        rows = database.sql(_NAMES).to_arrow_table().to_pylist()
    known = {row["id"]: " · ".join(str(row[key]) for key in ("patient", "series", "id") if row[key]) for row in rows}
    return {one.case: known.get(one.case, one.case) for one in overlaps}


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None
