"""Slices on a line: which stand on it, how far apart, and which are missing. Plain geometry, no DICOM."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from dcmark.read.volume_model import Tolerances

Floats = NDArray[np.float64]
Codes = NDArray[np.int64]

_UNEVEN_RUN = 3
"""So many equal double steps in a row are a change of spacing rather than missing slices."""
_FEWEST_FOR_GUESS = 6
"""Slices needed before a step that no header states may be read out of their positions alone."""


def cluster(values: Floats, tolerance: float) -> Codes:
    """Group rows of numbers that agree to within a tolerance in every component.

    Args:
        values: (n, components); rows of NaN form group -1.
        tolerance: in the unit of the values.

    Returns:
        (n,) codes from 0, ascending with the values; the same whatever the order of the rows.
    """
    codes = np.full(len(values), -1, dtype=np.int64)
    known = np.isfinite(values).all(axis=1)
    rows = values[known]
    if not len(rows):
        return codes
    if float(np.ptp(rows, axis=0).max()) <= tolerance:
        codes[known] = 0
        return codes
    keys = np.empty(rows.shape, dtype=np.int64)
    for j in range(rows.shape[1]):
        keys[:, j] = _chain(rows[:, j], tolerance)
    found = _unique_rows(keys)
    # A chain of small steps can wander; what spreads too far is cut into cells.
    wide = _spreads(rows, found) > 2 * tolerance
    if wide.any():
        cells = np.floor(rows / (2 * tolerance))
        found = _unique_rows(np.column_stack([found, np.where(wide[found][:, None], cells, 0.0)]))
    codes[known] = found
    return codes


def _spreads(rows: Floats, codes: Codes) -> Floats:
    """Largest extent of each group over its components; every code from 0 must occur."""
    order = np.argsort(codes, kind="stable")
    starts = np.searchsorted(codes[order], np.arange(int(codes.max()) + 1))
    extent = np.maximum.reduceat(rows[order], starts) - np.minimum.reduceat(rows[order], starts)
    spreads: Floats = extent.max(axis=1)
    return spreads


def _chain(values: Floats, tolerance: float) -> Codes:
    """Codes of values that hang together by steps of at most the tolerance."""
    order = np.argsort(values, kind="stable")
    ranks = np.concatenate([[0], np.cumsum(np.diff(values[order]) > tolerance)])
    codes = np.empty(len(values), dtype=np.int64)
    codes[order] = ranks
    return codes


def _unique_rows(keys: NDArray[np.generic]) -> Codes:
    codes: Codes = np.unique(keys, axis=0, return_inverse=True)[1].reshape(-1).astype(np.int64)
    return codes


@dataclass(frozen=True, slots=True)
class Lines:
    """Frames of one orientation, sorted into stacks.

    Attributes:
        codes: (n,) number of the stack; -1 for frames off every line.
        slope: (2,) mm in the plane (along a row, down a column) per mm along the normal.
        wander_mm: how far the frames stray from one line where they follow none; else 0.
    """

    codes: Codes
    slope: Floats
    wander_mm: float = 0.0


def find_lines(along: Floats, inside: Floats, tolerance: float, largest_slope: float) -> Lines:
    """Sort frames into straight stacks that share a direction.

    Args:
        along: (n,) mm along the normal.
        inside: (n, 2) mm in the plane.
        tolerance: mm that a frame may stand off its line.
        largest_slope: mm in the plane per mm along the normal; steeper is no stack.
    """
    flat, whole = np.zeros(2), np.zeros(len(along), dtype=np.int64)
    if len(along) == 1 or float(np.ptp(inside, axis=0).max()) <= 2 * tolerance:
        return Lines(whole, flat)
    fewest = min(3, len(along))
    best: tuple[int, Codes, Floats] = (0, whole, flat)
    for guess in (flat, _median_slope(along, inside)):
        slope = guess
        for _ in range(2):
            if np.hypot(*slope) > largest_slope:
                break
            codes, sizes = _stacks(inside - along[:, None] * slope, tolerance, fewest)
            score = int(sizes.sum())
            if score > best[0]:
                best = score, codes, slope
            if not slope.any() or not score:
                break
            # The median slope carries the rounding of two frames; the largest stack gives a better one.
            slope = _fitted_slope(along, inside, codes == int(np.argmax(sizes)))
    score, codes, slope = best
    if 2 * score >= len(along):
        return Lines(codes, slope)
    if len(along) == 2:
        return Lines(np.arange(2, dtype=np.int64), flat)
    slope = _median_slope(along, inside)
    slope = slope if np.hypot(*slope) <= largest_slope else flat
    rest = inside - along[:, None] * slope
    return Lines(whole, slope, float(np.linalg.norm(rest - np.median(rest, axis=0), axis=1).max()))


def _stacks(rest: Floats, tolerance: float, fewest: int) -> tuple[Codes, Codes]:
    """Compact groups of at least ``fewest`` frames as codes (-1 for the others), and their sizes."""
    groups = _unique_rows(np.column_stack([_chain(rest[:, j], tolerance) for j in range(rest.shape[1])]))
    counts = np.bincount(groups)
    stands = (_spreads(rest, groups) <= 2 * tolerance) & (counts >= fewest)
    number = np.where(stands, np.cumsum(stands) - 1, -1)
    return number[groups].astype(np.int64), np.append(counts[stands], 0).astype(np.int64)


def _median_slope(along: Floats, inside: Floats) -> Floats:
    """Median over pairs half the stack apart: a long base against rounding, a median against outliers."""
    order = np.lexsort((inside[:, 1], inside[:, 0], along))
    half = max(1, len(order) // 2)
    low, high = order[:-half], order[half:]
    run = along[high] - along[low]
    usable = run > 1e-6
    if not usable.any():
        return np.zeros(2)
    rise = inside[high][usable] - inside[low][usable]
    slope: Floats = np.median(rise / run[usable, None], axis=0)
    return slope


def _fitted_slope(along: Floats, inside: Floats, member: NDArray[np.bool_]) -> Floats:
    x = along[member] - along[member].mean()
    spread = float(x @ x)
    if spread <= 1e-12:
        return np.zeros(2)
    slope: Floats = x @ (inside[member] - inside[member].mean(axis=0)) / spread
    return slope


@dataclass(frozen=True, slots=True)
class Lattice:
    """Where slices stand along a line.

    Attributes:
        origin, step: mm; place k is at ``origin + k * step``.
        index: (n,) the place of each slice: whole numbers unless ``kind`` is ``uneven``.
        kind: ``even`` (0, 1, 2, ...), ``gaps`` (whole places missing), ``zones`` (the spacing changes between
            multiples of the step) or ``uneven``.
        stray_mm: how far a slice stands from its place, at most; 0 for ``uneven``.
        smallest_mm, largest_mm: distance between neighbours.
    """

    origin: float
    step: float
    index: Floats
    kind: str
    stray_mm: float
    smallest_mm: float
    largest_mm: float


def tolerance_of(step: float, tolerances: Tolerances) -> float:
    """How far a slice may stand from its place, mm, for slices ``step`` mm apart."""
    return min(max(tolerances.place_mm, tolerances.place_fraction * step), 0.25 * step)


def fit_lattice(along: Floats, stated: tuple[float, ...], tolerances: Tolerances) -> Lattice:
    """Find the step of slices and the place of each.

    Args:
        along: (n >= 2,) mm, strictly ascending.
        stated: distances in mm that headers state (Spacing Between Slices, Slice Thickness), as candidates.
    """
    gaps = np.diff(along)
    smallest, largest = float(gaps.min()), float(gaps.max())
    for step, guessed in _candidates(gaps, stated):
        places, fitted, origin, stray = _fit(along, step)
        allowed = tolerance_of(fitted, tolerances)
        if guessed:
            # A fine enough lattice fits anything: ask for more of a step that nothing states.
            allowed = min(allowed, max(tolerances.same_place_mm, tolerances.place_fraction * fitted))
        if stray <= allowed:
            return Lattice(origin, fitted, places, _kind(places), stray, smallest, largest)
    step = float(np.median(gaps))
    return Lattice(float(along[0]), step, (along - along[0]) / step, "uneven", 0.0, smallest, largest)


def _candidates(gaps: Floats, stated: tuple[float, ...]) -> Iterator[tuple[float, bool]]:
    """Steps to try, mm, and whether they are a guess."""
    common = most_common_gap(gaps)
    yield common, False
    for mm in stated:
        if 0.3 * common < mm < 0.98 * common:
            yield mm, False
    if len(gaps) + 1 >= _FEWEST_FOR_GUESS:
        smallest = float(gaps.min())
        yield smallest, True
        # Gaps of 4 and 6 mm are whole multiples of the 2 mm between them.
        others = gaps[gaps > 1.1 * smallest] - smallest
        if len(others) and 0.3 * smallest < float(others.min()) < 0.9 * smallest:
            yield float(others.min()), True


def most_common_gap(gaps: Floats) -> float:
    """The distance most neighbours share to within 2 %, mm; the smaller one of equals."""
    ordered = np.sort(gaps)
    ends = np.searchsorted(ordered, ordered * 1.02, side="right")
    start = int(np.argmax(ends - np.arange(len(ordered))))
    return float(np.median(ordered[start : ends[start]]))


def _fit(along: Floats, step: float) -> tuple[Floats, float, float, float]:
    """Places by adding up whole steps, so a small error of the step does not add up over a long stack."""
    places = np.concatenate([[0.0], np.cumsum(np.maximum(1.0, np.rint(np.diff(along) / step)))])
    x = places - places.mean()
    fitted = float(x @ along / (x @ x))
    origin = float(along.mean() - fitted * places.mean())
    return places, fitted, origin, float(np.abs(along - origin - fitted * places).max())


def _kind(places: Floats) -> str:
    steps = np.diff(places)
    if steps.max() == 1:
        return "even"
    wide = np.flatnonzero(steps > 1)
    run = 1
    for before, after in pairwise(wide):
        run = run + 1 if after == before + 1 and steps[after] == steps[before] else 1
        if run >= _UNEVEN_RUN:
            return "zones"
    return "gaps"


def set_aside(
    along: Floats, instance: Floats, stated: tuple[float, ...], lattice: Lattice, tolerances: Tolerances
) -> tuple[NDArray[np.bool_], Lattice]:
    """Frames that stand off the grid of the others, and the lattice of the others.

    Args:
        along: (n,) mm, strictly ascending.
        instance: (n,) instance numbers, NaN where absent.
        stated: as for ``fit_lattice``.
        lattice: of all frames.
    """
    nothing = np.zeros(len(along), dtype=np.bool_)
    if lattice.kind == "even" or len(along) < 4:
        return nothing, lattice
    common = most_common_gap(np.diff(along))
    fits = lattice.kind != "uneven" and lattice.step > 0.9 * common
    aside = _off_lattice(along, instance, lattice.step if fits else common, tolerances)
    if not aside.any():
        return nothing, lattice
    without = fit_lattice(along[~aside], stated, tolerances)
    # Nothing is off a grid where the others make none; and a finer grid that holds all is given up only for
    # one that is whole without the few.
    good = ("even", "gaps") if fits or lattice.kind == "uneven" else ("even",)
    return (aside, without) if without.kind in good else (nothing, lattice)


def _off_lattice(along: Floats, instance: Floats, step: float, tolerances: Tolerances) -> NDArray[np.bool_]:
    """Which few frames do not belong to an otherwise even stack: reference images.

    A frame is set aside when the rest stands on a lattice without it, and it either stands between two places
    that are taken, or lies beyond the ends off the lattice, or so far beyond them that the instance numbers
    speak against a gap. A lone slice that is merely displaced from an empty place of its own is kept: the
    spacing is uneven then.
    """
    count = len(along)
    aside = np.zeros(count, dtype=np.bool_)
    allowed = max(1, int(tolerances.off_grid_fraction * count))
    tolerance = tolerance_of(step, tolerances)
    places = _places_of_majority(along, step)
    if places is None:
        return aside
    near = np.rint(places)
    off = np.abs(places - near) * step > tolerance
    on = np.flatnonzero(~off)
    first, last = near[on[0]], near[on[-1]]
    taken = set(near[on].tolist())
    for i in np.flatnonzero(off).tolist():
        between = first < places[i] < last
        crowded = between and {np.floor(places[i]), np.ceil(places[i])} <= taken
        beyond = not between and max(first - places[i], places[i] - last) > 1.5
        out_of_order = not between and _out_of_order(i, on, instance)
        aside[i] = crowded or beyond or out_of_order
    for end, neighbour in ((0, 1), (count - 1, count - 2)):
        distance = abs(places[end] - places[neighbour])
        if distance >= tolerances.far_steps and np.isfinite(instance[[end, neighbour]]).all():
            numbers = abs(instance[end] - instance[neighbour])
            aside[end] |= abs(numbers - distance) > 0.5 * distance
    if not 0 < aside.sum() <= allowed:
        return np.zeros(count, dtype=np.bool_)
    return aside


def _places_of_majority(along: Floats, step: float) -> Floats | None:
    """Places on the lattice that most frames share, fitted to the longest run of common steps."""
    common = np.abs(np.diff(along) - step) <= 0.02 * step
    edges = np.flatnonzero(np.diff(np.concatenate([[0], common.astype(np.int8), [0]])))
    starts, ends = edges[::2], edges[1::2]
    longest = int(np.argmax(ends - starts))
    run = slice(int(starts[longest]), int(ends[longest]) + 1)
    if run.stop - run.start < 3:
        return None
    _, fitted, origin, _ = _fit(along[run], step)
    places: Floats = (along - origin) / fitted
    return places


def _out_of_order(i: int, on: NDArray[np.int64], instance: Floats) -> bool:
    """Does the instance number of an end frame break the order of all the others?"""
    numbers = instance[on]
    if not np.isfinite(numbers).all() or not np.isfinite(instance[i]) or len(numbers) < 2:
        return False
    steps = np.diff(numbers)
    if not ((steps > 0).all() or (steps < 0).all()):
        return False
    ascending = steps[0] > 0
    before = i < on[0]
    neighbour = numbers[0] if before else numbers[-1]
    fits: bool = (instance[i] < neighbour) == (ascending == before)
    return not fits
