"""One CT series of 20 slices, 2 mm apart, made awkward in every way that real series are.

Each case is a function whose docstring says what is wrong; ``CASES`` lists them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from dcmark.errors import UsageError
from dcmark.testing.encoding import uid, write
from dcmark.testing.objects import enhanced_ct
from dcmark.testing.phantom import origin_mm, phantom
from dcmark.testing.synthetic import CORONAL, Orientation, Vector, ct_datasets, ct_slice

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

__all__ = ["CASES", "AwkwardSeries", "awkward"]

_SPACING = 2.0
Parts = tuple[list["Dataset"], NDArray[Any]]


@dataclass(frozen=True)
class AwkwardSeries:
    """A series on disk, and the truth about it.

    Attributes:
        case: name of the case.
        about: what is awkward, in words.
        folder: where the files lie, and nothing else.
        files: the files; in order of position wherever the case leaves one.
        hu: (files, rows, columns) what each file shows after rescaling; for ``enhanced`` (slices, rows,
            columns) in order of position; for ``truncated`` what the cut file would show.
    """

    case: str
    about: str
    folder: Path
    files: tuple[Path, ...]
    hu: NDArray[np.float64]


@dataclass(frozen=True)
class _Base:
    """The series before it is made awkward."""

    slices: int
    rows: int
    columns: int
    seed: int

    @property
    def pixel_mm(self) -> float:
        return 390.0 / max(self.rows, self.columns)

    @property
    def spacing_mm(self) -> Vector:
        return (_SPACING, self.pixel_mm, self.pixel_mm)

    @property
    def origin(self) -> Vector:
        shape = (self.slices, self.rows, self.columns)
        return origin_mm(shape, spacing_mm=self.spacing_mm, region="chest")

    def hu(self, phase: Any = "venous", seed: int | None = None) -> NDArray[np.int16]:
        return phantom(
            (self.slices, self.rows, self.columns),
            self.seed if seed is None else seed,
            spacing_mm=self.spacing_mm,
            region="chest",
            phase=phase,
        )

    def datasets(self, hu: NDArray[Any], **options: Any) -> list[Dataset]:
        given = {"spacing_mm": self.spacing_mm, "origin_mm": self.origin, "seed": self.seed}
        return ct_datasets(hu, **{**given, **options})

    def plain(self) -> Parts:
        hu = self.hu()
        return self.datasets(hu), hu


def awkward(
    out: Path, case: str, *, slices: int = 20, rows: int = 64, columns: int = 64, seed: int = 0
) -> AwkwardSeries:
    """Write a case into ``out/<case>``.

    Args:
        case: a name of ``CASES``.
        slices, rows, columns: of the base series; at least 10 slices.

    Raises:
        UsageError: no case of that name, or too few slices.
    """
    make = CASES.get(case)
    if make is None:
        raise UsageError(f"unknown case {case!r}; expected one of: {', '.join(CASES)}")
    if slices < 10:
        raise UsageError(f"an awkward series needs at least 10 slices to be awkward in; found {slices}")
    base = _Base(slices, rows, columns, seed)
    folder = out / case
    folder.mkdir(parents=True, exist_ok=True)
    datasets, hu = make(base)
    order = np.random.default_rng(seed).permutation(len(datasets))
    names = order if case == "shuffled" else range(len(datasets))
    files = []
    for dataset, number in zip(datasets, names, strict=True):
        data = getattr(dataset, "whole_file", None) or write(dataset)
        if getattr(dataset, "cut_short", False):
            data = data[: len(data) * 3 // 5]
        files.append(folder / f"IM{number:04}.dcm")
        files[-1].write_bytes(data)
    about = " ".join((make.__doc__ or "").split())
    return AwkwardSeries(case, about, folder, tuple(files), np.asarray(hu, dtype=np.float64))


def _regular(base: _Base) -> Parts:
    """Nothing is awkward: what the others are compared with."""
    return base.plain()


def _gap(base: _Base) -> Parts:
    """Two neighbouring slices in the middle are missing."""
    datasets, hu = base.plain()
    kept = [index for index in range(base.slices) if index not in (base.slices // 2 - 1, base.slices // 2)]
    return [datasets[index] for index in kept], hu[kept]


def _duplicates(base: _Base) -> Parts:
    """Two slices occur twice: same position, pixels and InstanceNumber, other SOPInstanceUID."""
    datasets, hu = base.plain()
    order = list(range(base.slices))
    for index in (base.slices - 4, 3):
        order.insert(index, index)
    made = []
    for place, index in enumerate(order):
        again = place > 0 and order[place - 1] == index
        made.append(
            _changed(datasets[index], SOPInstanceUID=uid(base.seed, "again", index)) if again else datasets[index]
        )
    return made, hu[order]


def _tilt(base: _Base) -> Parts:
    """The gantry was tilted by 15 degrees: planes are inclined, positions step along the table."""
    angle = np.radians(15.0)
    cosine, sine = float(np.cos(angle)), float(np.sin(angle))
    orientation: Orientation = (1.0, 0.0, 0.0, 0.0, cosine, -sine)
    positions = [(base.origin[0], base.origin[1], base.origin[2] + _SPACING * k) for k in range(base.slices)]
    hu = _sampled(base, positions, orientation)
    datasets = [
        ct_slice(
            plane,
            spacing_mm=(base.pixel_mm, base.pixel_mm),
            position_mm=position,
            orientation=orientation,
            instance=index + 1,
            location_mm=position[2],
            seed=base.seed,
            tags={"GantryDetectorTilt": "-15"},
        )
        for index, (plane, position) in enumerate(zip(hu, positions, strict=True))
    ]
    return datasets, hu


def _two_series(base: _Base) -> Parts:
    """Two series of one study lie in one folder: another kernel, half a spacing higher."""
    first, hu = base.plain()
    x, y, z = base.origin
    other = np.clip(base.hu().astype(np.int32) + 25, -1024, 3071).astype(np.int16)
    second = base.datasets(other, origin_mm=(x, y, z + _SPACING / 2), series=2, tags={"ConvolutionKernel": "B70f"})
    return first + second, np.concatenate([hu, other])


def _two_phases(base: _Base) -> Parts:
    """One series holds every position twice: arterial, then venous, with other acquisition numbers and times."""
    volumes = [base.hu("arterial"), base.hu("venous")]
    datasets = []
    for number, (volume, time) in enumerate(zip(volumes, ("081742", "081825"), strict=True)):
        datasets += base.datasets(
            volume,
            first_instance=1 + number * base.slices,
            tags={"AcquisitionNumber": number + 1, "AcquisitionTime": time, "ContrastBolusAgent": "iodine"},
        )
    return datasets, np.concatenate(volumes)


def _localizer(base: _Base) -> Parts:
    """The first file is a coronal localizer under the SeriesInstanceUID of the slices."""
    datasets, hu = base.plain()
    shape = (base.rows, 1, base.columns)
    spacing = (base.pixel_mm, 2.0, base.pixel_mm)
    view = phantom(shape, base.seed, spacing_mm=spacing, region="chest")[::-1, 0]
    x, y, z = origin_mm(shape, spacing_mm=spacing, region="chest")
    scout = ct_slice(
        view,
        spacing_mm=(base.pixel_mm, base.pixel_mm),
        position_mm=(x, y, z + base.pixel_mm * (base.rows - 1)),
        orientation=CORONAL,
        instance=0,
        seed=base.seed,
        tags={"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]},
    )
    return [scout, *datasets], np.concatenate([view[None], hu])


def _truncated(base: _Base) -> Parts:
    """The file of the eighth slice ends after three fifths of its bytes."""
    datasets, hu = base.plain()
    datasets[7].cut_short = True
    return datasets, hu


def _uneven(base: _Base) -> Parts:
    """From the thirteenth slice on (or the middle) the slices are 3 mm apart instead of 2."""
    datasets, hu = base.plain()
    turn = min(12, base.slices // 2)
    x, y, z = base.origin
    for index in range(turn, base.slices):
        height = z + _SPACING * index + (index - turn + 1)
        datasets[index].ImagePositionPatient = [f"{x:.10g}", f"{y:.10g}", f"{height:.10g}"]
        datasets[index].SliceLocation = f"{height:.10g}"
    return datasets, hu


def _reversed(base: _Base) -> Parts:
    """InstanceNumber falls as the position rises."""
    hu = base.hu()
    return base.datasets(hu, descending=True), hu


def _shuffled(base: _Base) -> Parts:
    """Neither file names nor InstanceNumber follow the position."""
    datasets, hu = base.plain()
    numbers = np.random.default_rng(base.seed + 1).permutation(base.slices) + 1
    for dataset, number in zip(datasets, numbers, strict=True):
        dataset.InstanceNumber = int(number)
    return datasets, hu


def _oblique(base: _Base) -> Parts:
    """The whole stack is turned about two axes; spacing and shape stay regular."""
    a, b = np.radians(20.0), np.radians(-12.0)
    about_x = np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])
    about_z = np.array([[np.cos(b), -np.sin(b), 0], [np.sin(b), np.cos(b), 0], [0, 0, 1]])
    turned = about_z @ about_x
    row, column = turned[:, 0], turned[:, 1]
    cosines = [float(value) for value in (*row, *column)]
    orientation: Orientation = (cosines[0], cosines[1], cosines[2], cosines[3], cosines[4], cosines[5])
    middle = np.asarray(base.origin) + 0.5 * np.array(
        [(base.columns - 1) * base.pixel_mm, (base.rows - 1) * base.pixel_mm, (base.slices - 1) * _SPACING]
    )
    half = np.array([(base.columns - 1) * base.pixel_mm, (base.rows - 1) * base.pixel_mm, (base.slices - 1) * _SPACING])
    start = middle - turned @ (half / 2)
    positions = []
    for index in range(base.slices):
        x, y, z = start + turned[:, 2] * _SPACING * index
        positions.append((float(x), float(y), float(z)))
    hu = _sampled(base, positions, orientation)
    return base.datasets(hu, origin_mm=positions[0], orientation=orientation), hu


def _nonsquare(base: _Base) -> Parts:
    """More columns than rows, and pixels that are higher than wide."""
    shape = (base.slices, base.rows * 3 // 4, base.columns + 16)
    spacing = (_SPACING, 390.0 / base.rows, 390.0 / (base.columns + 16))
    hu = phantom(shape, base.seed, spacing_mm=spacing, region="chest")
    origin = origin_mm(shape, spacing_mm=spacing, region="chest")
    return base.datasets(hu, spacing_mm=spacing, origin_mm=origin), hu


def _mixed_units(base: _Base) -> Parts:
    """Rescale differs: -1024/1 HU, then -1000/0.5 HU (the same truth), and three slices unscaled of type US."""
    hu = base.hu().astype(np.float64)
    shown = hu.copy()
    datasets = []
    for index, dataset in enumerate(base.datasets(hu)):
        made = dataset
        if index >= base.slices - 3:
            made = _changed(dataset, RescaleIntercept="0", RescaleSlope="1", RescaleType="US")
            shown[index] = hu[index] + 1024
        elif index >= base.slices // 2:
            shown[index] = np.maximum(hu[index], -1000)
            stored = np.rint((shown[index] + 1000) * 2).astype("<u2").tobytes()
            made = _changed(dataset, RescaleIntercept="-1000", RescaleSlope="0.5", PixelData=stored)
            made.BitsStored, made.HighBit = 16, 15
        datasets.append(made)
    return datasets, shown


def _monochrome1(base: _Base) -> Parts:
    """Photometric Interpretation MONOCHROME1: low values are shown white; HU stay what they are."""
    hu = base.hu()
    return base.datasets(hu, tags={"PhotometricInterpretation": "MONOCHROME1"}), hu


def _padding(base: _Base) -> Parts:
    """Outside the round field of view the pixels hold the Pixel Padding Value -2000, which is no HU."""
    hu = base.hu()
    rows, columns = np.ogrid[: base.rows, : base.columns]
    away = ((rows - (base.rows - 1) / 2) / (base.rows / 2)) ** 2
    away = away + ((columns - (base.columns - 1) / 2) / (base.columns / 2)) ** 2
    hu[:, away > 1] = -2000
    tags = {"PixelPaddingValue": -2000}
    return base.datasets(hu, signed=True, bits_stored=16, intercept=0.0, tags=tags), hu


def _frame_of_reference_per_slice(base: _Base) -> Parts:
    """Every slice carries a FrameOfReferenceUID of its own, as in LIDC."""
    datasets, hu = base.plain()
    for index, dataset in enumerate(datasets):
        dataset.FrameOfReferenceUID = uid(base.seed, "frame of reference", index)
    return datasets, hu


def _enhanced(base: _Base) -> Parts:
    """One Enhanced CT file; its frames are stored from the top down, positions in the functional groups."""
    from pydicom.dataset import Dataset

    hu = base.hu()
    order = list(range(base.slices))[::-1]
    made = Dataset()
    made.whole_file = enhanced_ct(hu, spacing_mm=base.spacing_mm, origin_mm=base.origin, order=order, seed=base.seed)
    return [made], hu


CASES: dict[str, Callable[[_Base], Parts]] = {
    "regular": _regular,
    "gap": _gap,
    "duplicates": _duplicates,
    "tilt": _tilt,
    "two_series": _two_series,
    "two_phases": _two_phases,
    "localizer": _localizer,
    "truncated": _truncated,
    "uneven": _uneven,
    "reversed": _reversed,
    "shuffled": _shuffled,
    "oblique": _oblique,
    "nonsquare": _nonsquare,
    "mixed_units": _mixed_units,
    "monochrome1": _monochrome1,
    "padding": _padding,
    "frame_of_reference_per_slice": _frame_of_reference_per_slice,
    "enhanced": _enhanced,
}
"""All cases, by name."""


def _changed(dataset: Dataset, **values: Any) -> Dataset:
    """A copy with some attributes replaced."""
    from copy import deepcopy

    made = deepcopy(dataset)
    for keyword, value in values.items():
        setattr(made, keyword, value)
    return made


def _sampled(base: _Base, positions: list[Vector], orientation: Orientation) -> NDArray[np.int16]:
    """The patient on inclined planes, by trilinear interpolation in an upright phantom around them."""
    row, column = np.array(orientation[:3]), np.array(orientation[3:])
    i = np.arange(base.columns)[None, :, None] * base.pixel_mm
    j = np.arange(base.rows)[:, None, None] * base.pixel_mm
    points = np.array(positions)[:, None, None, :] + (row * i + column * j)[None]
    low, high = points.reshape(-1, 3).min(axis=0), points.reshape(-1, 3).max(axis=0)
    step = np.array([base.pixel_mm, base.pixel_mm, _SPACING])
    x, y, z = (int(count) for count in np.ceil((high - low) / step) + 2)
    middle = low + (np.array([x, y, z]) - 1) / 2 * step
    source = phantom(
        (z, y, x),
        base.seed,
        spacing_mm=(_SPACING, base.pixel_mm, base.pixel_mm),
        middle_mm=(float(middle[0]), float(middle[1]), float(middle[2])),
    ).astype(np.float32)
    place = (points - low) / step
    whole = np.floor(place).astype(np.intp)
    part = place - whole
    values = np.zeros(points.shape[:-1])
    for corner in np.ndindex(2, 2, 2):
        weight = np.prod(np.where(np.array(corner) == 1, part, 1 - part), axis=-1)
        index = np.minimum(whole + np.array(corner), np.array([x, y, z]) - 1)
        values += weight * source[index[..., 2], index[..., 1], index[..., 0]]
    sampled: NDArray[np.int16] = np.rint(values).astype(np.int16)
    return sampled
