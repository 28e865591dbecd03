"""Patient coordinates in millimetres, voxel indices, and the affine between them.

Two kinds of numbers must never be mixed, so they are different types:

- ``PointsLps`` and ``PointsRas``: points in **mm**, last axis (x, y, z). LPS is DICOM's patient system
  (x grows to the patient's Left, y to the back (Posterior), z to the head (Superior), PS3.3 C.7.6.2.1.1);
  RAS is that of NIfTI (Right to Left negated, Posterior to Anterior negated).
- ``Voxels``: indices without unit, last axis **(slice, row, column)**, the order of the arrays dcmark
  hands out. Whole numbers are the *centres* of voxels; (0, 0, 0) is the centre of the first one. Fractions
  are allowed. ``row`` counts down a column, ``column`` counts along a row.

An affine is a 4 x 4 float64 matrix that takes (slice, row, column, 1) to (x, y, z, 1) in mm. Its columns are
the step in mm to the next slice, to the next row and to the next column, and the centre of voxel (0, 0, 0).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NewType

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dcmark.errors import UsageError

Floats = NDArray[np.float64]

PointsLps = NewType("PointsLps", Floats)
"""Points in mm, patient coordinates LPS, shape (..., 3)."""
PointsRas = NewType("PointsRas", Floats)
"""Points in mm, patient coordinates RAS, shape (..., 3)."""
Voxels = NewType("Voxels", Floats)
"""Indices (slice, row, column), shape (..., 3), voxel centres at whole numbers."""
AffineLps = NewType("AffineLps", Floats)
"""4 x 4: (slice, row, column, 1) to mm in LPS."""
AffineRas = NewType("AffineRas", Floats)
"""4 x 4: (slice, row, column, 1) to mm in RAS."""
AffineNifti = NewType("AffineNifti", Floats)
"""4 x 4: (column, row, slice, 1) to mm in RAS: what a NIfTI header holds for the transposed array."""

_NEGATE_XY = np.diag([-1.0, -1.0, 1.0, 1.0])
_LETTERS = ("RL", "AP", "IS")
"""Of each patient axis: where its negative and where its positive end points in LPS."""
_PLANES = ("sagittal", "coronal", "axial")


def points_lps(values: ArrayLike) -> PointsLps:
    """Say that these numbers are mm in LPS; shape (..., 3), finite.

    Raises:
        UsageError: another shape, or a number that is not finite.
    """
    return PointsLps(_triples(values, "points in mm"))


def points_ras(values: ArrayLike) -> PointsRas:
    """Say that these numbers are mm in RAS; shape (..., 3), finite.

    Raises:
        UsageError: another shape, or a number that is not finite.
    """
    return PointsRas(_triples(values, "points in mm"))


def voxels(values: ArrayLike) -> Voxels:
    """Say that these numbers are indices (slice, row, column); shape (..., 3), finite.

    Raises:
        UsageError: another shape, or a number that is not finite.
    """
    return Voxels(_triples(values, "voxel indices"))


def affine_lps(values: ArrayLike) -> AffineLps:
    """Say that this matrix takes (slice, row, column, 1) to mm in LPS.

    Raises:
        UsageError: not 4 x 4, not finite, last row not (0, 0, 0, 1), or not invertible.
    """
    matrix = np.array(values, dtype=np.float64)
    if matrix.shape != (4, 4) or not np.isfinite(matrix).all() or not np.array_equal(matrix[3], [0, 0, 0, 1]):
        raise UsageError(
            f"expected a finite 4 x 4 affine with the last row 0 0 0 1, found shape {matrix.shape}; "
            "give the affine of a volume, or build one with affine_of_slices"
        )
    steps = np.linalg.norm(matrix[:3, :3], axis=0)
    if steps.min() <= 0 or abs(np.linalg.det(matrix[:3, :3] / steps)) < 1e-6:
        raise UsageError("expected an affine with three independent directions, found two that are parallel")
    return AffineLps(matrix)


def _triples(values: ArrayLike, what: str) -> Floats:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim == 0 or array.shape[-1] != 3 or not np.isfinite(array).all():
        raise UsageError(f"expected {what} as finite numbers of shape (..., 3), found shape {array.shape}")
    return array


# From DICOM attributes


def normal(orientation: ArrayLike) -> Floats:
    """Unit normal of a plane: row direction x column direction, LPS.

    Args:
        orientation: Image Orientation (Patient) (0020,0037): direction cosines along a row (x, y, z), then
            down a column (x, y, z).

    Raises:
        UsageError: not six finite numbers, or the two directions are parallel or zero.
    """
    along_row, down_column = directions(orientation)
    return _cross(along_row, down_column)


def directions(orientation: ArrayLike) -> tuple[Floats, Floats]:
    """Unit vectors along a row (next column) and down a column (next row), made perpendicular.

    Cosines in real files are rounded; the row direction is kept and the column direction is turned into
    the plane perpendicular to it.

    Args:
        orientation: Image Orientation (Patient), six numbers.

    Raises:
        UsageError: as ``normal``; also when the angle between the two is more than a degree off 90.
    """
    cosines = np.asarray(orientation, dtype=np.float64)
    if cosines.shape != (6,) or not np.isfinite(cosines).all():
        raise UsageError(f"expected Image Orientation (Patient) as six finite numbers, found shape {cosines.shape}")
    along_row, down_column = cosines[:3], cosines[3:]
    lengths = float(np.linalg.norm(along_row)), float(np.linalg.norm(down_column))
    if min(lengths) < 1e-6:
        raise UsageError("expected direction cosines of length 1, found a direction of length 0")
    along_row, down_column = along_row / lengths[0], down_column / lengths[1]
    skew = float(along_row @ down_column)
    if abs(skew) > np.sin(np.deg2rad(1.0)):
        raise UsageError(
            "expected row and column directions at 90 degrees, "
            f"found {np.rad2deg(np.arccos(np.clip(skew, -1, 1))):.2f} degrees"
        )
    down_column = down_column - skew * along_row
    return along_row, down_column / np.linalg.norm(down_column)


def affine_of_slices(
    position: ArrayLike,
    orientation: ArrayLike,
    pixel_spacing: ArrayLike,
    slice_step: ArrayLike,
) -> AffineLps:
    """Affine of equally spaced parallel slices (PS3.3 C.7.6.2.1.1, equation C.7.6.2.1-1, with the slice axis).

    Args:
        position: Image Position (Patient) of the first slice, mm: the centre of its first pixel.
        orientation: Image Orientation (Patient), six direction cosines.
        pixel_spacing: Pixel Spacing, mm: (distance between rows, distance between columns).
        slice_step: mm, either one number (along the normal) or the vector from a slice to the next
            (then it may be oblique to the slices: gantry tilt).

    Raises:
        UsageError: a shape, a direction or a spacing that cannot be.
    """
    origin = points_lps(position)
    along_row, down_column = directions(orientation)
    between_rows, between_columns = _spacing(pixel_spacing)
    step = np.asarray(slice_step, dtype=np.float64)
    if step.ndim == 0:
        step = step * _cross(along_row, down_column)
    matrix = np.eye(4)
    matrix[:3, 0] = step
    matrix[:3, 1] = down_column * between_rows
    matrix[:3, 2] = along_row * between_columns
    matrix[:3, 3] = origin
    return affine_lps(matrix)


def _cross(a: Floats, b: Floats) -> Floats:
    # Written out: np.cross costs thirty times as much for two single vectors.
    return np.array([a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]])


def _spacing(pixel_spacing: ArrayLike) -> tuple[float, float]:
    spacing = np.asarray(pixel_spacing, dtype=np.float64)
    if spacing.shape != (2,) or not np.isfinite(spacing).all() or spacing.min() <= 0:
        raise UsageError("expected Pixel Spacing as two positive numbers in mm (between rows, between columns)")
    return float(spacing[0]), float(spacing[1])


# Through an affine


def to_mm(affine: AffineLps, indices: Voxels) -> PointsLps:
    """Voxel indices (..., 3) as (slice, row, column) to points (..., 3) in mm, LPS."""
    return PointsLps(indices @ affine[:3, :3].T + affine[:3, 3])


def to_voxels(affine: AffineLps, points: PointsLps) -> Voxels:
    """Points (..., 3) in mm, LPS, to indices (..., 3) as (slice, row, column); fractions are kept."""
    back = inverse(affine)
    return Voxels(points @ back[:3, :3].T + back[:3, 3])


def inverse(affine: AffineLps) -> Floats:
    """4 x 4: (x, y, z, 1) in mm, LPS, to (slice, row, column, 1)."""
    matrix = np.asarray(np.linalg.inv(affine), dtype=np.float64)
    matrix[3] = [0, 0, 0, 1]
    return matrix


def spacing_mm(affine: AffineLps) -> tuple[float, float, float]:
    """Distance in mm to the next slice, row and column: the lengths of the affine's columns.

    In a sheared affine the first is measured along the shear, not along the normal.
    """
    lengths = np.linalg.norm(affine[:3, :3], axis=0)
    return float(lengths[0]), float(lengths[1]), float(lengths[2])


def shear_degrees(affine: AffineLps) -> float:
    """Angle in degrees between the slice step and the normal of the slices; 0 where the grid is square."""
    plane_normal = np.cross(affine[:3, 1], affine[:3, 2])
    angle = angle_degrees(affine[:3, 0], plane_normal)
    return min(angle, 180.0 - angle)


def angle_degrees(a: ArrayLike, b: ArrayLike) -> float:
    """Angle between two vectors, degrees, 0 to 180; accurate for small angles too."""
    first, second = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    return float(np.rad2deg(np.arctan2(np.linalg.norm(np.cross(first, second)), first @ second)))


# Between the two patient systems


def lps_to_ras(points: PointsLps) -> PointsRas:
    """The same points, x and y negated."""
    return PointsRas(points * np.array([-1.0, -1.0, 1.0]))


def ras_to_lps(points: PointsRas) -> PointsLps:
    """The same points, x and y negated."""
    return PointsLps(points * np.array([-1.0, -1.0, 1.0]))


def affine_to_ras(affine: AffineLps) -> AffineRas:
    """The affine into RAS. The array stays as it is: x and y are negated here, nothing is flipped there."""
    return AffineRas(_NEGATE_XY @ affine)


def affine_to_lps(affine: AffineRas) -> AffineLps:
    """The affine into LPS; the array stays as it is."""
    return AffineLps(_NEGATE_XY @ affine)


def affine_to_nifti(affine: AffineLps) -> AffineNifti:
    """The affine of the *transposed* array (column, row, slice), in RAS, as NIfTI holds it."""
    return AffineNifti((_NEGATE_XY @ affine)[:, [2, 1, 0, 3]])


def affine_from_nifti(affine: ArrayLike) -> AffineLps:
    """The inverse of ``affine_to_nifti``: for an array transposed to (third, second, first NIfTI axis)."""
    return affine_lps((_NEGATE_XY @ np.asarray(affine, dtype=np.float64))[:, [2, 1, 0, 3]])


# Crop, resize, flip: what happens to an array, done to its affine


def crop(affine: AffineLps, start: Sequence[float]) -> AffineLps:
    """Affine of ``array[s:, r:, c:]`` for start = (s, r, c); negative numbers pad in front."""
    matrix = affine.copy()
    matrix[:3, 3] = to_mm(affine, voxels(start))
    return AffineLps(matrix)


def resize(affine: AffineLps, shape: Sequence[int], new_shape: Sequence[int]) -> AffineLps:
    """Affine after resampling ``shape`` to ``new_shape`` over the same extent, edge to edge.

    The corners of the corner voxels stay where they are, so the centre of the first voxel moves.

    Raises:
        UsageError: a size below 1.
    """
    if len(shape) != 3 or len(new_shape) != 3 or min(*shape, *new_shape) < 1:
        raise UsageError(f"expected two shapes of three positive sizes, found {shape} and {new_shape}")
    factors: Floats = np.array(shape, dtype=np.float64) / np.array(new_shape, dtype=np.float64)
    matrix = affine.copy()
    matrix[:3, :3] = affine[:3, :3] * factors
    matrix[:3, 3] = to_mm(affine, Voxels((factors - 1) / 2))
    return AffineLps(matrix)


def flip(affine: AffineLps, shape: Sequence[int], axis: int) -> AffineLps:
    """Affine of ``numpy.flip(array, axis)``; axis 0 slices, 1 rows, 2 columns."""
    matrix = affine.copy()
    last = np.zeros(3)
    last[axis] = shape[axis] - 1
    matrix[:3, 3] = to_mm(affine, Voxels(last))
    matrix[:3, axis] = -affine[:3, axis]
    return AffineLps(matrix)


# Names


def orientation_letters(affine: AffineLps) -> str:
    """Where the indices slice, row and column grow to, as letters of L R P A S I; e.g. ``SPL`` for axial CT."""
    letters = [""] * 3
    left = set(range(3))
    strength = np.abs(affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0))
    # The clearest axis chooses first, so no letter pair is used twice.
    for axis in np.argsort(-strength.max(axis=0), kind="stable"):
        patient = max(left, key=lambda i: (strength[i, axis], -i))
        left.discard(patient)
        letters[axis] = _LETTERS[patient][int(affine[patient, axis] > 0)]
    return "".join(letters)


def plane_name(orientation: ArrayLike, within_degrees: float = 10.0) -> str:
    """``axial``, ``coronal``, ``sagittal``, or ``oblique`` when the normal is further off an axis.

    Args:
        orientation: Image Orientation (Patient).
        within_degrees: how far the normal may lean, degrees.
    """
    cosines = np.abs(normal(orientation))
    axis = int(np.argmax(cosines))
    lean = float(np.rad2deg(np.arccos(min(1.0, cosines[axis]))))
    return _PLANES[axis] if lean <= within_degrees else "oblique"


# Tolerances


def largest_distance_mm(a: AffineLps, b: AffineLps, shape: Sequence[int]) -> float:
    """How far apart two affines put a voxel of an array of this shape, at most, in mm.

    An affine is linear, so the largest difference lies in a corner.
    """
    last = np.asarray(shape, dtype=np.float64) - 1
    corners = Voxels(np.array(np.meshgrid(*([0.0, end] for end in last), indexing="ij")).reshape(3, -1).T)
    return float(np.linalg.norm(to_mm(a, corners) - to_mm(b, corners), axis=1).max())


def same_grid(a: AffineLps, b: AffineLps, shape: Sequence[int], tolerance_mm: float = 0.01) -> bool:
    """Do two affines put every voxel of an array of this shape at the same place, to within a tolerance?"""
    return largest_distance_mm(a, b, shape) <= tolerance_mm
