"""A CT phantom of thorax and abdomen, painted from geometry: pictures and masks from one seed.

Every structure is a signed distance that is blended in over the width of a pixel, so edges are as soft as
a scanner's. Volumes are painted slab by slab: memory is bounded by the result, and every slice looks the
same however many are asked for at once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from dcmark.testing import anatomy as parts
from dcmark.testing.anatomy import Float, Organ, Phase, Tubes

__all__ = ["Phase", "Region", "embolus_labels", "lesion_labels", "lesions_mm", "origin_mm", "phantom", "spacing_of"]

Region = Literal["body", "chest", "heart", "liver"]
Shape = tuple[int, int, int]
Spacing = tuple[float, float, float]
Point = tuple[float, float, float]
Box = tuple[slice, slice, slice]

_MIDDLE: dict[Region, tuple[float, float, float]] = {
    "body": (0, 16, 18),
    "chest": (0, 16, 88),
    "heart": (14, -22, 40),
    "liver": (0, 16, -55),
}
"""Patient coordinates of the middle of the volume, mm."""
_HEIGHT: dict[Region, float] = {"body": 400, "chest": 270, "heart": 130, "liver": 200}
_WIDTH: dict[Region, float] = {"body": 390, "chest": 390, "heart": 200, "liver": 390}
_SLAB_VOXELS = 2_000_000
_REACH = 9.0
"""How far the warp may move anything, mm."""


def spacing_of(shape: Shape, region: Region = "body") -> Spacing:
    """Spacing in mm (slice, row, column) at which a region fills a volume of this shape."""
    pixel = _WIDTH[region] / max(shape[1], shape[2])
    return (_HEIGHT[region] / shape[0], pixel, pixel)


def origin_mm(
    shape: Shape, *, spacing_mm: Spacing | None = None, region: Region = "body", middle_mm: Point | None = None
) -> Point:
    """Patient coordinates (x, y, z; LPS, mm) of the centre of voxel [0, 0, 0]; arguments as for ``phantom``."""
    spacing = spacing_mm or spacing_of(shape, region)
    x, y, z = (
        middle - (size - 1) / 2 * step
        for middle, size, step in zip(middle_mm or _MIDDLE[region], shape[::-1], spacing[::-1], strict=True)
    )
    return (x, y, z)


def lesions_mm(seed: int) -> NDArray[np.float64]:
    """The liver metastases of a patient: (lesions, 4), centre x, y, z (LPS) and radius, mm.

    Breathing moves what is painted by up to 9 mm within the slice.
    """
    who = parts.anatomy(seed)
    return who.lesions * who.scale


def phantom(
    shape: Shape = (20, 512, 512),
    seed: int = 0,
    *,
    spacing_mm: Spacing | None = None,
    region: Region = "body",
    middle_mm: Point | None = None,
    phase: Phase = "venous",
    emboli: bool = False,
    noise_hu: float = 11.0,
) -> NDArray[np.int16]:
    """A CT volume of a patient who does not exist.

    Args:
        shape: slices (feet to head), rows (front to back), columns (right to left of the patient).
        seed: the patient: size, shape, vessels, liver lesions, emboli, bowel, and the noise.
        spacing_mm: slice, row and column spacing; left out, ``region`` fills the volume.
        region: what the volume is centred on, and what it spans where no spacing is given.
        middle_mm: patient coordinates (x, y, z; LPS) that the volume is centred on instead.
        phase: of the contrast medium.
        emboli: paint the pulmonary emboli that ``embolus_labels`` delineates.
        noise_hu: standard deviation of the noise in the middle of the body; 0 for none.

    Returns:
        int16 HU (slices, rows, columns), -1024 to 3071; the same on every call on one machine.
    """
    spacing = spacing_mm or spacing_of(shape, region)
    volume = np.empty(shape, dtype=np.int16)
    for first, slab in _slabs(shape, spacing, region, middle_mm, seed, phase):
        _paint_patient(slab, emboli)
        if noise_hu > 0:
            _add_noise(slab, seed, first, noise_hu)
        volume[first : first + len(slab.hu)] = np.rint(np.clip(slab.hu, -1024, 3071))
    return volume


def lesion_labels(
    shape: Shape = (20, 512, 512),
    seed: int = 0,
    *,
    spacing_mm: Spacing | None = None,
    region: Region = "body",
    middle_mm: Point | None = None,
) -> NDArray[np.uint8]:
    """The liver metastases of ``phantom`` with the same arguments: 0 background, 1, 2, ... one a lesion."""
    balls = parts.anatomy(seed).lesions
    spheres = Tubes(
        np.repeat(balls[:, None, :3], 2, axis=1).astype(np.float32),
        np.repeat(balls[:, 3:], 2, axis=1).astype(np.float32),
        0.0,
    )
    return _labels(shape, seed, spacing_mm, region, middle_mm, spheres)


def embolus_labels(
    shape: Shape = (20, 512, 512),
    seed: int = 0,
    *,
    spacing_mm: Spacing | None = None,
    region: Region = "body",
    middle_mm: Point | None = None,
) -> NDArray[np.uint8]:
    """The pulmonary emboli of ``phantom(..., emboli=True)``: 0 background, 1, 2, ... one an embolus."""
    return _labels(shape, seed, spacing_mm, region, middle_mm, parts.anatomy(seed).emboli)


def _labels(
    shape: Shape, seed: int, spacing_mm: Spacing | None, region: Region, middle_mm: Point | None, tubes: Tubes
) -> NDArray[np.uint8]:
    spacing = spacing_mm or spacing_of(shape, region)
    labels = np.zeros(shape, dtype=np.uint8)
    for first, slab in _slabs(shape, spacing, region, middle_mm, seed, "venous"):
        part = labels[first : first + len(slab.hu)]
        for number, (ends, radii) in enumerate(zip(tubes.ends, tubes.radii, strict=True), 1):
            box = slab.box(ends.min(axis=0) - radii.max(), ends.max(axis=0) + radii.max())
            if box is not None:
                part[box][parts.capsule(*slab.at(box), ends, radii) < 0] = number
    return labels


@dataclass(frozen=True)
class _Slab:
    """Some slices being painted, and the patient's (warped) coordinates of their voxels."""

    hu: Float
    x: Float
    y: Float
    z: Float
    axes: tuple[Float, Float, Float]
    scale: float
    edge: float
    words: dict[str, float]
    who: parts.Anatomy

    def box(self, low: Any, high: Any) -> Box | None:
        """The voxels that may lie between two corners (x, y, z); None where there are none."""
        found = []
        for number, axis in ((2, 0), (1, 1), (0, 2)):
            reach = self.edge + (0.0 if number == 2 else _REACH)
            span = np.array([low[number] - reach, high[number] + reach]) * self.scale
            start, stop = np.searchsorted(self.axes[axis], np.sort(span))
            if start >= stop:
                return None
            found.append(slice(int(start), int(stop)))
        return (found[0], found[1], found[2])

    def at(self, box: Box) -> tuple[Float, Float, Float]:
        """Patient coordinates of a box, broadcastable against each other."""
        return self.x[box], self.y[box], self.z[box[0]]

    def paint(self, box: Box, distance: Float, hu: float | str | Float) -> None:
        """Blend a shape in: full inside, none outside, in between over the width of an edge."""
        value = self.words[hu] if isinstance(hu, str) else hu
        cover = np.clip(0.5 - distance / self.edge, 0, 1)
        there = self.hu[box]
        there += cover * (value - there)

    def organ(self, organ: Organ, inside: Float | None = None) -> None:
        """Paint an ellipsoid; ``inside`` is a distance over the whole slab that it must not leave."""
        reach = max(organ.radii)
        box = self.box([c - reach for c in organ.centre], [c + reach for c in organ.centre])
        if box is None:
            return
        distance = parts.ellipsoid(*self.at(box), organ)
        self.paint(box, distance if inside is None else np.maximum(distance, inside[box]), organ.hu)

    def tubes(self, tubes: Tubes, wall_mm: float = 0.0, hu: float | str | None = None) -> None:
        """Paint capsules, thicker by ``wall_mm``."""
        low = (tubes.ends.min(axis=1) - tubes.radii.max(axis=1)[:, None] - wall_mm)[:, 2]
        high = (tubes.ends.max(axis=1) + tubes.radii.max(axis=1)[:, None] + wall_mm)[:, 2]
        bottom, top = (float(self.z.flat[i]) for i in (0, -1))
        near = np.flatnonzero((low - self.edge <= top) & (high + self.edge >= bottom))
        for ends, radii in zip(tubes.ends[near], tubes.radii[near] + np.float32(wall_mm), strict=True):
            box = self.box(ends.min(axis=0) - radii.max(), ends.max(axis=0) + radii.max())
            if box is not None:
                self.paint(box, parts.capsule(*self.at(box), ends, radii), tubes.hu if hu is None else hu)


def _slabs(
    shape: Shape, spacing: Spacing, region: Region, middle: Point | None, seed: int, phase: Phase
) -> Iterator[tuple[int, _Slab]]:
    who = parts.anatomy(seed)
    x0, y0, z0 = origin_mm(shape, spacing_mm=spacing, region=region, middle_mm=middle)
    z, y, x = (
        (start + np.arange(size) * step).astype(np.float32)
        for start, size, step in zip((z0, y0, x0), shape, spacing, strict=True)
    )
    count = max(1, _SLAB_VOXELS // (shape[1] * shape[2]))
    for first in range(0, shape[0], count):
        level = z[first : first + count]
        deep, back, left = (axis / np.float32(who.scale) for axis in (level, y, x))
        sway = np.zeros((len(level), len(y), 1), dtype=np.float32)
        heave = np.zeros((len(level), 1, len(x)), dtype=np.float32)
        for amplitude, across, along, start in who.warp[:3]:
            sway += (amplitude * np.sin(across * back[None, :] + along * deep[:, None] + start))[:, :, None]
        for amplitude, across, along, start in who.warp[3:]:
            heave += (amplitude * np.sin(across * left[None, :] + along * deep[:, None] + start))[:, None, :]
        yield (
            first,
            _Slab(
                hu=np.full((len(level), *shape[1:]), -1000, dtype=np.float32),
                x=left[None, None, :] + sway,
                y=back[None, :, None] + heave,
                z=deep[:, None, None],
                axes=(level, y, x),
                scale=who.scale,
                edge=max(0.9, 1.1 * min(spacing)) if min(spacing) < 3 else 3.0,
                words=parts.PHASES[phase],
                who=who,
            ),
        )


def _paint_patient(slab: _Slab, emboli: bool) -> None:
    """The patient from the outside in; what comes later lies on top."""
    everywhere: Box = (slice(None), slice(None), slice(None))
    x, y, z = slab.x, slab.y, slab.z
    cavity = parts.cavity_distance(x, y, z)
    _table(slab)
    _walls(slab, everywhere, cavity)
    floor = parts.diaphragm(x, y) - 3.0
    below = np.maximum(cavity + 4.0, z - floor)
    _abdomen(slab, below)
    _chest(slab, emboli)
    _ribs(slab, everywhere, cavity)
    _spine(slab)
    _front_bones(slab)


def _table(slab: _Slab) -> None:
    level = np.broadcast_to(slab.axes[1][:, None], slab.hu.shape[1:])
    curve = 116 * slab.scale + slab.axes[2][None, :] ** 2 / -1500.0
    for thickness, hu in ((13.0, -380.0), (11.0, -955.0)):
        depth = np.abs(level - curve - 16) - thickness
        edge = np.maximum(depth, np.abs(slab.axes[2][None, :]) - 186)
        slab.paint((slice(None), slice(None), slice(None)), np.broadcast_to(edge, slab.hu.shape), hu)


def _walls(slab: _Slab, everywhere: Box, cavity: Float) -> None:
    """Skin, fat, the muscles of the wall with fat between their layers, and the fat inside."""
    x, y, z = slab.x, slab.y, slab.z
    body = parts.body_distance(x, y, z)
    slab.paint(everywhere, body, 25.0)
    slab.paint(everywhere, body + 2.2, -104.0)
    fat = 9.0 + 5.0 * np.clip(np.abs(x) / 120 - 0.4, 0, 1) + 4.0 * np.clip(-y / 100, 0, 1)
    muscle = parts.smooth_max(body + fat, cavity - (34.0 + np.clip(1.3 * (z - 135), 0, 90)), 10.0)
    slab.paint(everywhere, muscle, 56.0)
    aside = (
        np.clip((np.abs(x) - 35) / 10, 0, 1) * np.clip((200 - z) / 30, 0, 1) * np.clip((-4 - (body + fat)) / 4, 0, 1)
    )
    for depth, width in ((12.0, 1.5), (20.5, 1.1)):
        layer = np.clip(0.5 + (width - np.abs(cavity - depth - 2 * np.sin(x / 17) - 2 * np.sin(y / 13))), 0, 1)
        slab.hu[...] += layer * aside * (-75 - slab.hu)
    slab.paint(everywhere, cavity, -98.0)


def _abdomen(slab: _Slab, below: Float) -> None:
    z = slab.z
    if float(z.flat[0]) < 20:
        for organ in slab.who.bowel:
            slab.organ(organ, below)
        for organ in parts.ABDOMEN[:4]:
            slab.organ(organ, below)
        box = slab.box((-160, -100, -170), (90, 95, 8))
        if box is not None:
            slab.paint(box, parts.liver_distance(*slab.at(box)), "liver")
        for tubes in slab.who.liver_vessels:
            slab.tubes(tubes)
        for cx, cy, cz, radius in slab.who.lesions:
            rim = Organ((cx, cy, cz), (radius, radius, radius), slab.words["lesion"] + 18)
            slab.organ(rim)
            core = radius * 0.72
            slab.organ(Organ((cx, cy, cz), (core, core, core), slab.words["lesion"] - 8))
        for organ in parts.ABDOMEN[4:]:
            slab.organ(organ, below)


def _chest(slab: _Slab, emboli: bool) -> None:
    y, z = slab.y, slab.z
    paraspinal = Organ((0, 76, 0), (36, 26, 900), 58.0)
    slab.organ(paraspinal)
    if float(z.flat[-1]) > -110:
        slab.organ(parts.HEART)
        air = np.float32(-842) + 0.32 * y
        sides: tuple[Literal[-1, 1], ...] = (-1, 1)
        for side in sides:
            box = slab.box((min(-6, side * 148), -100, -95), (max(6, side * 148), 90, 240))
            if box is not None:
                slab.paint(box, parts.lung_distance(*slab.at(box), side), air[box])
        slab.organ(parts.HEART)
        slab.organ(Organ((6, 36, 60), (8, 6, 160), 45.0))
        for tubes in slab.who.lung_vessels:
            slab.tubes(tubes)
        slab.tubes(parts.AIRWAYS, 1.3, -20.0)
        slab.tubes(parts.AIRWAYS)
        for organ in parts.HEART_PARTS:
            slab.organ(organ)
    for tubes in parts.GREAT_VESSELS:
        slab.tubes(tubes)
    for tubes in parts.CORONARIES:
        slab.tubes(tubes)
    if emboli:
        slab.tubes(slab.who.emboli)


def _ribs(slab: _Slab, everywhere: Box, cavity: Float) -> None:
    """Twelve pairs that slope down towards the front: cortex, marrow, then cartilage."""
    width, depth = parts.profile(slab.z, "cavity")
    angle = np.arctan2(np.abs(slab.x) / width, (slab.y - parts.CAVITY_Y) / depth)
    drop = 39.0 * (1 - np.cos(angle)) + slab.z - 206.0
    number = np.clip(np.rint(drop / 24.5), -11, 0)
    above = drop - number * 24.5
    end = np.where(number <= -10, 1.35, np.where(number <= -7, 2.15, 2.6)).astype(np.float32)
    across = (cavity - 5.5) / 3.6
    near = (np.sqrt(across * across + (above / 6.5) ** 2) - 1) * 3.6
    gristle = np.maximum(near, np.maximum((end - angle) * 90, (angle - 2.95) * 90))
    slab.paint(everywhere, np.where(number > -7, gristle, 9).astype(np.float32), 125.0)
    near = np.maximum(near, np.maximum((angle - end) * 90, (0.33 - angle) * 90))
    slab.paint(everywhere, near, 950.0)
    slab.paint(everywhere, near + 1.6, 260.0)


def _spine(slab: _Slab) -> None:
    box = slab.box((-60, 20, -900), (60, 130, 900))
    if box is None:
        return
    x, y, z = slab.at(box)
    phase = np.mod(z + 6.0, 26.0) - 13.0
    disc = np.clip((np.abs(phase) - 9.2) / 1.4, 0, 1)
    plate = np.clip(1.4 - np.abs(np.abs(phase) - 8.6), 0, 1)
    waist = 1.0 - 0.1 * np.cos(phase / 13.0 * np.pi)
    body = parts.ellipse(x / waist, y, (0, 48), (20.5, 15.5))
    body = np.maximum(body, 14.0 - parts.ellipse(x, y, (0, 76), (4, 4)))
    slab.paint(box, body, 760.0 + disc * (95 - 760.0))
    slab.paint(box, body + 1.8, 185.0 + plate * 320 + disc * (88 - 185.0) * (1 - plate))
    arch = np.maximum(parts.ellipse(x, y, (0, 71), (17.5, 14.5)), -parts.ellipse(x, y, (0, 70), (11, 9)))
    arch = np.maximum(arch, 8 * np.abs(phase) - 99)
    slab.paint(box, arch, 1150.0)
    slab.paint(box, arch + 2.0, 290.0)
    flat = np.zeros_like(z)
    for side in (-1, 1):
        ends = np.array([[side * 15, 72, 0], [side * 36, 84, 0]], dtype=np.float32)
        process = np.maximum(parts.capsule(x, y, flat, ends, (5.5, 4.0)), 1.5 * np.abs(phase) - 9)
        slab.paint(box, process, 900.0)
        slab.paint(box, process + 1.8, 260.0)
    ends = np.array([[0, 84, 0], [0, 99, 0]], dtype=np.float32)
    spinous = np.maximum(parts.capsule(x, y, flat, ends, (4.0, 3.2)), 2 * np.abs(phase + 4) - 17)
    slab.paint(box, spinous, 900.0)
    slab.paint(box, spinous + 1.6, 300.0)
    slab.paint(box, parts.ellipse(x, y, (0, 70), (10.5, 8.5)), -40.0)
    slab.paint(box, parts.ellipse(x, y, (0, 70), (8.2, 6.6)), 28.0)


def _front_bones(slab: _Slab) -> None:
    """Breastbone, collar bones, shoulder blades."""
    box = slab.box((-40, -130, 20), (40, -10, 185))
    if box is not None:
        x, y, z = slab.at(box)
        _, depth = parts.profile(z, "cavity")
        half = 15.0 + 10.0 * np.clip((z - 140) / 25, 0, 1)
        bone = np.sqrt((x / half) ** 2 + ((y - parts.CAVITY_Y + depth + 7.0) / 6.0) ** 2) * 6.0 - 6.0
        bone = np.maximum(bone, np.maximum(34 - z, z - 172))
        slab.paint(box, bone, 560.0)
        slab.paint(box, bone + 1.7, 150.0)
    for side in (-1, 1):
        collar = np.array([[[side * 22, -58, 176], [side * 78, -62, 196]],
                           [[side * 78, -62, 196], [side * 140, -18, 214]]], dtype=np.float32)  # fmt: skip
        tubes = Tubes(collar, np.full((2, 2), 6.5, dtype=np.float32), 900.0)
        slab.tubes(tubes)
        slab.tubes(tubes, -2.0, 230.0)
        box = slab.box((min(side * 70, side * 165), 20, 60), (max(side * 70, side * 165), 112, 205))
        if box is not None:
            x, y, z = slab.at(box)
            ends = np.array([[side * 84, 88, 0], [side * 138, 60, 0]], dtype=np.float32)
            blade = parts.capsule(x, y, np.zeros_like(z), ends, (3.0, 2.6))
            bulge = 5.0 * np.clip((np.abs(x) - 128) / 10, 0, 1) * np.clip((z - 120) / 20, 0, 1)
            blade = np.maximum(blade - bulge, np.maximum(72 - z, z - 195) / 4)
            slab.paint(box, blade, 850.0)
            slab.paint(box, blade + 1.7, 300.0)


def _add_noise(slab: _Slab, seed: int, first: int, noise_hu: float) -> None:
    """Noise with the spectrum of filtered back projection, stronger in the middle; and a lung's grain."""
    slices, rows, columns = slab.hu.shape
    wave = np.hypot(np.fft.fftfreq(rows)[:, None], np.fft.rfftfreq(columns)[None, :]).astype(np.float32)
    sharp = wave * np.exp(-((wave / 0.27) ** 2))
    soft = np.exp(-((wave / 0.055) ** 2))
    _, y, x = slab.axes
    middle = np.exp(-(((x / 175) ** 2)[None, :] + ((y / 130) ** 2)[:, None]))
    for number in range(slices):
        rng = np.random.default_rng([seed, 0x201, first + number])
        white = np.fft.rfft2(rng.standard_normal((rows, columns), dtype=np.float32))
        grain, texture = (np.fft.irfft2(white * shape, s=(rows, columns)) for shape in (sharp, soft))
        picture = slab.hu[number]
        tissue = np.clip((picture + 990) / 100, 0, 1)
        lung = tissue * np.clip((-650 - picture) / 100, 0, 1)
        picture += grain / max(float(grain.std()), 1e-6) * noise_hu * (0.35 + 0.65 * middle) * (0.45 + 0.55 * tissue)
        picture += texture / max(float(texture.std()), 1e-6) * (11.0 * lung + 2.5 * (tissue - lung))


def coarsened(volume: NDArray[np.int16], factor: int) -> NDArray[np.int16]:
    """Thick slices: every ``factor`` slices averaged; (slices // factor, rows, columns)."""
    count = len(volume) // factor
    thick = volume[: count * factor].reshape(count, factor, *volume.shape[1:]).mean(axis=1)
    rounded: NDArray[np.int16] = np.rint(thick).astype(np.int16)
    return rounded


def window(volume: NDArray[np.int16], centre: float, width: float) -> NDArray[np.uint8]:
    """HU as 8-bit greys, for looking at (PS3.3 C.11.2.1.3.2)."""
    grey = (volume.astype(np.float32) - centre) / width + 0.5
    shown: NDArray[np.uint8] = (np.clip(grey, 0, 1) * 255).astype(np.uint8)
    return shown


def contact_sheet(pictures: Sequence[NDArray[np.uint8]], columns: int = 5) -> NDArray[np.uint8]:
    """Equal pictures side by side, in reading order."""
    rows = -(-len(pictures) // columns)
    height, width = pictures[0].shape
    sheet = np.zeros((rows * height, columns * width), dtype=np.uint8)
    for number, picture in enumerate(pictures):
        top, left = number // columns * height, number % columns * width
        sheet[top : top + height, left : left + width] = picture
    return sheet
