"""The geometry of the phantom: where organs, vessels and bones lie, as signed distances in millimetres.

Coordinates are the patient's, LPS: x to the left, y to the back, z to the head, z = 0 at the dome of the
right diaphragm. Distances are negative inside. The proportions are those of an adult lying on the back
with the arms up; the seed varies size, vessels, lesions, emboli and bowel.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Float = NDArray[np.floating[Any]]
Point = tuple[float, float, float]
Phase = Literal["native", "pulmonary", "arterial", "venous"]

PHASES: dict[Phase, dict[str, float]] = {
    "native": {
        "right heart": 42, "left heart": 42, "aorta": 42, "svc": 42, "ivc": 42, "portal": 42, "hepatic": 42,
        "myocardium": 45, "liver": 58, "lesion": 45, "spleen": 48, "cortex": 36, "medulla": 32, "pancreas": 40,
    },
    "pulmonary": {
        "right heart": 430, "left heart": 260, "aorta": 230, "svc": 720, "ivc": 60, "portal": 60, "hepatic": 55,
        "myocardium": 85, "liver": 62, "lesion": 48, "spleen": 75, "cortex": 90, "medulla": 45, "pancreas": 55,
    },
    "arterial": {
        "right heart": 190, "left heart": 420, "aorta": 410, "svc": 210, "ivc": 90, "portal": 95, "hepatic": 70,
        "myocardium": 110, "liver": 75, "lesion": 52, "spleen": 135, "cortex": 210, "medulla": 80, "pancreas": 110,
    },
    "venous": {
        "right heart": 155, "left heart": 160, "aorta": 165, "svc": 155, "ivc": 145, "portal": 182, "hepatic": 172,
        "myocardium": 105, "liver": 112, "lesion": 62, "spleen": 126, "cortex": 195, "medulla": 160, "pancreas": 100,
    },
}  # fmt: skip
"""HU of what contrast medium changes, by the phase of the examination."""

_LEVELS = (-210.0, -60.0, 40.0, 110.0, 160.0, 195.0, 222.0, 260.0)
_BODY = ((156, 108), (167, 115), (173, 119), (181, 118), (188, 114), (180, 110), (150, 106), (96, 98))
_CAVITY = ((130, 80), (141, 87), (140, 89), (128, 84), (108, 72), (80, 56), (44, 32), (16, 14))
CAVITY_Y = -5.0


@dataclass(frozen=True)
class Organ:
    """An ellipsoid: centre and radii in mm, turned by ``angle`` degrees about z, HU or a word of PHASES."""

    centre: Point
    radii: Point
    hu: float | str
    angle: float = 0.0


@dataclass(frozen=True)
class Tubes:
    """Tapering capsules: ``ends`` (n, 2, 3) and ``radii`` (n, 2) in mm, HU or a word of PHASES."""

    ends: Float
    radii: Float
    hu: float | str


@dataclass(frozen=True)
class Anatomy:
    """What the seed decides."""

    scale: float
    warp: NDArray[np.float64]
    lung_vessels: tuple[Tubes, ...]
    liver_vessels: tuple[Tubes, ...]
    lesions: NDArray[np.float64]
    """(n, 4): centre and radius of every liver metastasis, mm."""
    emboli: Tubes
    bowel: tuple[Organ, ...]


def profile(z: Any, which: Literal["body", "cavity"]) -> tuple[Float, Float]:
    """Half width and half depth in mm of the body or of the cavity inside the ribs, at height z."""
    table = np.asarray(_BODY if which == "body" else _CAVITY, dtype=np.float64)
    width, depth = (np.interp(z, _LEVELS, table[:, i]).astype(np.float32) for i in (0, 1))
    return width, depth


def smooth_max(first: Float, second: Float, width: float = 6.0) -> Float:
    """The intersection of two shapes, its edge rounded over ``width`` mm."""
    apart = first - second
    rounded: Float = 0.5 * (first + second + np.sqrt(apart * apart + width * width))
    return rounded


def ellipse(x: Any, y: Any, centre: Sequence[float], radii: Sequence[float]) -> Float:
    """Distance to an upright elliptic cylinder."""
    u, v = (x - centre[0]) / radii[0], (y - centre[1]) / radii[1]
    near: Float = (np.sqrt(u * u + v * v) - 1) * min(radii)
    return near


def ellipsoid(x: Any, y: Any, z: Any, organ: Organ) -> Float:
    """Distance to an ellipsoid, to first order."""
    dx, dy, dz = x - organ.centre[0], y - organ.centre[1], z - organ.centre[2]
    if organ.angle:
        cos, sin = float(np.cos(np.radians(organ.angle))), float(np.sin(np.radians(organ.angle)))
        dx, dy = dx * cos + dy * sin, dy * cos - dx * sin
    u, v, w = (d / r for d, r in zip((dx, dy, dz), organ.radii, strict=True))
    size = np.sqrt(u * u + v * v + w * w)
    a, b, c = organ.radii
    u, v, w = u / a, v / b, w / c
    slope = np.sqrt(u * u + v * v + w * w)
    near: Float = size * (size - 1) / np.maximum(slope, 1e-4)
    return near


def capsule(x: Any, y: Any, z: Any, ends: Any, radii: Any) -> Float:
    """Distance to a round tube from ``ends[0]`` to ``ends[1]`` whose radius changes linearly."""
    start, along = ends[0], ends[1] - ends[0]
    dx, dy, dz = x - start[0], y - start[1], z - start[2]
    share = np.clip((dx * along[0] + dy * along[1] + dz * along[2]) / max(float(along @ along), 1e-6), 0, 1)
    dx, dy, dz = dx - share * along[0], dy - share * along[1], dz - share * along[2]
    near: Float = np.sqrt(dx * dx + dy * dy + dz * dz) - (radii[0] + share * (radii[1] - radii[0]))
    return near


def body_distance(x: Any, y: Any, z: Any) -> Float:
    """Distance to the skin: a rounded rectangle whose size follows the height."""
    width, depth = profile(z, "body")
    u, v = np.abs(x / width), np.abs(y / depth)
    near: Float = ((u * u * np.sqrt(u) + v * v * np.sqrt(v)) ** np.float32(0.4) - 1) * depth
    return near


def cavity_distance(x: Any, y: Any, z: Any) -> Float:
    """Distance to the inner wall of chest and abdomen; the back is flatter than the front."""
    width, depth = profile(z, "cavity")
    u, v = x / width, (y - CAVITY_Y) / depth
    near: Float = (np.sqrt(u * u + v * v) - 1) * depth
    return near


def diaphragm(x: Any, y: Any) -> Float:
    """Height in mm of the diaphragm: two domes, deep behind and at the sides."""
    domes = []
    for cx, peak in ((-66.0, 0.0), (68.0, -13.0)):
        back = y + 8.0
        depth = np.where(back > 0, np.float32(0.0118), np.float32(0.0052)) * back * back
        aside = x - cx
        domes.append(peak - 0.0105 * aside * aside - depth)
    highest: Float = np.maximum(domes[0], domes[1])
    return highest


HEART = Organ((17, -27, 38), (64, 45, 49), -92, -35)
_AORTA_BESIDE_LUNG = Organ((22, 38, 30), (15, 15, 95), 0)


def lung_distance(x: Any, y: Any, z: Any, side: Literal[-1, 1]) -> Float:
    """Distance to the right (-1) or left (+1) lung."""
    lateral = x * side
    hilum = (y - 10.0) / 36.0
    pad = 16.0 * np.clip((-y - 52) / 22, 0, 1) * np.clip((95 - z) / 25, 0, 1)
    mediastinum = 9.0 + 21.0 * np.exp(-hilum * hilum) + pad
    near = smooth_max(cavity_distance(x, y, z) + 3.0, mediastinum - lateral)
    near = smooth_max(near, diaphragm(x, y) - z, 9.0)
    near = smooth_max(near, -ellipse(x, y, (0, 66), (31, 36)))
    near = smooth_max(near, 4.0 - ellipsoid(x, y, z, HEART))
    if side > 0:
        near = smooth_max(near, 2.0 - ellipsoid(x, y, z, _AORTA_BESIDE_LUNG))
    return near


_RIGHT_LOBE = Organ((-64, -6, -60), (92, 92, 98), 0)
_LEFT_LOBE = Organ((20, -44, -34), (62, 30, 30), 0, 10)


def liver_distance(x: Any, y: Any, z: Any) -> Float:
    """Distance to the liver: two lobes under the diaphragm, cut obliquely below."""
    lower = (-z - (138.0 - 0.62 * (x + 92.0))) * 0.85
    right = smooth_max(ellipsoid(x, y, z, _RIGHT_LOBE), lower + np.float32(0), 14.0)
    right = smooth_max(right, (x - 6.0 + 0.45 * (y + 10.0)) * 0.9 + 0 * z, 10.0)
    both = np.minimum(right, ellipsoid(x, y, z, _LEFT_LOBE))
    both = smooth_max(both, cavity_distance(x, y, z) + 3.5, 4.0)
    both = smooth_max(both, z - diaphragm(x, y) + 2.5, 5.0)
    near: Float = smooth_max(both, -ellipse(x, y, (-4, 62), (44, 44)), 8.0)
    return near


def _tubes(hu: float | str, *paths: Sequence[tuple[float, float, float, float]]) -> Tubes:
    """Tubes along paths of points (x, y, z, radius)."""
    pairs = np.array([pair for path in paths for pair in pairwise(path)], dtype=np.float32)
    return Tubes(pairs[..., :3], pairs[..., 3], hu)


HEART_PARTS = (
    Organ((42, -31, 29), (46, 29, 36), "myocardium", -42),
    Organ((13, -54, 33), (43, 19, 34), "myocardium", -22),
    Organ((13, -54, 33), (40, 16, 31), "right heart", -22),
    Organ((-31, -27, 40), (19, 24, 30), "right heart"),
    Organ((2, 13, 53), (35, 18, 21), "left heart"),
    Organ((40, -30, 31), (36, 17, 26), "left heart", -42),
    Organ((52, -24, 24), (7, 5, 8), "myocardium", -42),
    Organ((38, -41, 24), (6, 4, 7), "myocardium", -42),
)
VENA_CAVA = _tubes(
    "ivc",
    ((-26, -4, 22, 11), (-18, 22, 2, 12), (-20, 24, -60, 12), (-16, 30, -215, 10)),
)
PULMONARY_ARTERY = _tubes(
    "right heart",
    ((20, -44, 58, 14), (22, -28, 82, 14), (30, -4, 92, 12), (50, 14, 92, 9), (56, 24, 66, 6)),
    ((24, -14, 88, 13), (-8, -2, 84, 12), (-46, 6, 82, 9), (-50, 20, 58, 6)),
)
PORTAL_VEIN = _tubes(
    "portal",
    ((-40, -2, -84, 6.5), (4, 0, -88, 6.5), (0, -6, -150, 5)),
    ((4, 0, -88, 5), (70, 22, -70, 4)),
)
GREAT_VESSELS = (
    _tubes(
        "svc",
        ((-26, -22, 50, 9), (-25, -16, 95, 9), (-20, -18, 150, 7)),
        ((-20, -18, 148, 6), (40, -22, 165, 6)),
    ),
    VENA_CAVA,
    _tubes(
        "aorta",
        ((6, -18, 46, 14), (-2, -24, 66, 15), (-8, -24, 100, 15), (2, -8, 118, 14), (16, 22, 120, 13),
         (22, 37, 104, 12), (22, 38, 0, 11), (8, 30, -60, 10), (8, 30, -215, 8.5)),
        ((-2, -8, 122, 6), (-14, -8, 170, 5)),
        ((6, 2, 122, 4), (16, 2, 175, 4)),
        ((14, 16, 122, 5), (26, 12, 172, 4.5)),
        ((8, 26, -84, 4), (6, 8, -100, 3.5), (4, -2, -180, 3)),
        ((8, 24, -72, 4), (10, 6, -74, 3.5), (60, 14, -66, 2.5)),
        ((12, 32, -108, 3), (44, 44, -112, 2.5)),
        ((4, 34, -108, 3), (-40, 44, -114, 2.5)),
    ),
    PULMONARY_ARTERY,
    _tubes(
        "left heart",
        ((-26, 14, 56, 8), (-52, 12, 66, 6)),
        ((-26, 18, 48, 8), (-54, 26, 38, 6)),
        ((30, 14, 58, 8), (56, 4, 70, 6)),
        ((30, 18, 48, 8), (56, 30, 40, 6)),
    ),
    PORTAL_VEIN,
)  # fmt: skip
"""Venae cavae, aorta and its branches, pulmonary arteries and veins, portal vein."""

CORONARIES = (
    _tubes(
        "left heart",
        ((12, -24, 66, 2.2), (26, -42, 66, 2), (44, -62, 46, 1.7), (66, -66, 22, 1.2)),
        ((24, -36, 66, 2), (48, -12, 58, 1.7), (66, -2, 36, 1.1)),
        ((-6, -34, 66, 2.1), (-18, -52, 58, 2), (-24, -50, 20, 1.7), (0, -24, -2, 1.2)),
    ),
    _tubes(900.0, ((30, -46, 62, 1.4), (34, -50, 57, 1.2))),
)
"""Coronary arteries, and a calcified plaque in one."""

AIRWAYS = _tubes(
    -985.0,
    ((0, 4, 250, 9), (0, 12, 112, 8.5), (-18, 16, 94, 7), (-42, 18, 82, 5.5), (-52, 24, 50, 3.5), (-66, 38, 18, 2)),
    ((-36, 17, 86, 4.5), (-52, 8, 112, 3), (-62, -6, 140, 1.8)),
    ((-50, 22, 58, 3), (-74, -18, 40, 1.8)),
    ((0, 12, 112, 8), (24, 20, 90, 6), (46, 24, 76, 5), (58, 32, 46, 3), (70, 42, 12, 2)),
    ((40, 22, 80, 4.2), (58, 4, 100, 2.8), (64, -10, 132, 1.8)),
    ((56, 28, 54, 2.6), (80, -10, 40, 1.7)),
)
ABDOMEN = (
    Organ((100, 32, -54), (33, 46, 50), "spleen", -25),
    Organ((56, -26, -60), (37, 33, 44), 70.0, -15),
    Organ((56, -26, -60), (33, 29, 40), 22.0, -15),
    Organ((56, -42, -56), (25, 12, 32), -960.0, -10),
    Organ((-58, 46, -118), (29, 25, 52), "cortex", 25),
    Organ((-56, 45, -118), (19, 16, 40), "medulla", 25),
    Organ((-50, 42, -118), (12, 8, 24), -75.0, 25),
    Organ((60, 47, -106), (29, 25, 54), "cortex", -25),
    Organ((58, 46, -106), (19, 16, 42), "medulla", -25),
    Organ((52, 43, -106), (12, 8, 26), -75.0, -25),
    Organ((-52, -46, -98), (17, 21, 27), 55.0),
    Organ((-52, -46, -98), (15, 19, 25), 9.0),
    Organ((34, 2, -84), (30, 9, 11), "pancreas", -22),
    Organ((-6, -12, -92), (24, 10, 14), "pancreas", 10),
    Organ((-30, -8, -112), (13, 14, 24), "pancreas"),
    Organ((-41, 51, -195), (20, 21, 85), 60.0),
    Organ((41, 51, -195), (20, 21, 85), 60.0),
)
"""Spleen, stomach (wall, content, gas), kidneys, gall bladder, pancreas, psoas; later ones lie on top."""


def _unit(vectors: NDArray[np.float64]) -> NDArray[np.float64]:
    scaled: NDArray[np.float64] = vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-9)
    return scaled


def _tree(
    rng: np.random.Generator,
    root: Point,
    directions: NDArray[np.float64],
    radius: float,
    length: float,
    generations: int,
    inside: Callable[[NDArray[np.float64]], NDArray[np.bool_]],
    hu: str,
) -> Tubes:
    """A tree of vessels that forks in two, thins by Murray's law and stays inside an organ."""
    starts = np.repeat(np.array([root], dtype=np.float64), len(directions), axis=0)
    ends, radii = [], []
    for _ in range(generations):
        reach = length * rng.uniform(0.75, 1.25, (len(starts), 1))
        tips = starts + directions * reach
        for _attempt in range(3):
            out = ~inside(tips)
            turned = _unit(directions[out] + 0.7 * rng.standard_normal((int(out.sum()), 3)))
            tips[out] = starts[out] + turned * reach[out] * 0.7
        kept = inside(tips)
        starts, tips = starts[kept], tips[kept]
        ends.append(np.stack([starts, tips], axis=1))
        radii.append(np.tile([radius, radius * 0.82], (len(tips), 1)))
        grown = _unit(tips - starts)
        aside = _unit(np.cross(grown, rng.standard_normal(grown.shape)))
        wide, narrow = (np.radians(rng.uniform(*span, (len(grown), 1))) for span in ((35, 60), (10, 25)))
        directions = np.concatenate(
            [grown * np.cos(wide) + aside * np.sin(wide), grown * np.cos(narrow) - aside * np.sin(narrow)]
        )
        starts, radius, length = np.concatenate([tips, tips]), radius * 0.79, length * 0.84
    return Tubes(np.concatenate(ends).astype(np.float32), np.concatenate(radii).astype(np.float32), hu)


def _lung_vessels(rng: np.random.Generator) -> tuple[Tubes, ...]:
    trees = []
    sides: tuple[Literal[-1, 1], ...] = (-1, 1)
    for side in sides:
        for hu, root, count in (("right heart", (50.0, 12.0, 82.0), 8), ("left heart", (52.0, 14.0, 58.0), 7)):
            towards = rng.standard_normal((count, 3)) * (0.5, 0.9, 1.3) + (0.5, 0.0, 0.0)
            towards[:, 0] = np.abs(towards[:, 0])

            def inside(p: NDArray[np.float64], side: Literal[-1, 1] = side) -> NDArray[np.bool_]:
                return np.asarray(lung_distance(p[:, 0], p[:, 1], p[:, 2], side) < -2.5)

            start: Point = (root[0] * side, root[1], root[2])
            trees.append(_tree(rng, start, _unit(towards) * (side, 1, 1), 4.6, 30, 7, inside, hu))
    return tuple(trees)


def _liver_vessels(rng: np.random.Generator) -> tuple[Tubes, ...]:
    def inside(p: NDArray[np.float64]) -> NDArray[np.bool_]:
        return np.asarray(liver_distance(p[:, 0], p[:, 1], p[:, 2]) < -4.0)

    portal = _unit(np.array([[-1, -0.2, 0.15], [-0.7, 0.5, -0.3], [-0.8, -0.6, 0.5], [0.5, -0.8, 0.6]]))
    veins = _unit(np.array([[-1, 0.1, -0.5], [-0.6, -0.9, -0.4], [0.3, -1, -0.2], [-0.8, 0.4, -0.9]]))
    return (
        _tree(rng, (-34, -2, -76), portal, 5.4, 29, 6, inside, "portal"),
        _tree(rng, (-20, 14, -14), veins, 4.8, 31, 6, inside, "hepatic"),
    )


def _lesions(rng: np.random.Generator) -> NDArray[np.float64]:
    wanted, found = int(rng.integers(5, 10)), np.empty((0, 4))
    while len(found) < wanted:
        centre = rng.uniform((-135, -80, -130), (45, 60, -15))
        x, y, z = (float(value) for value in centre)
        radius = float(rng.choice([3.5, 5, 7, 9, 12, 16], p=[0.15, 0.25, 0.25, 0.15, 0.12, 0.08]))
        apart = list(np.linalg.norm(found[:, :3] - centre, axis=1) - found[:, 3] - 4)
        apart += [float(ellipsoid(x, y, z, organ)) for organ in ABDOMEN]
        apart += [
            float(capsule(x, y, z, ends, radii))
            for tubes in (VENA_CAVA, PORTAL_VEIN)
            for ends, radii in zip(tubes.ends, tubes.radii, strict=True)
        ]
        if min(apart) > radius + 1 and float(liver_distance(x, y, z)) < -radius - 2:
            found = np.vstack([found, [*centre, radius]])
    return found


def _emboli(rng: np.random.Generator, arteries: Sequence[Tubes]) -> Tubes:
    """Filling defects that lie in the wide branches: part of a vessel's length, thinner than its bore."""
    central = PULMONARY_ARTERY
    beyond_trunk = np.arange(2, len(central.ends))
    choice = [(central.ends[i], central.radii[i]) for i in rng.choice(beyond_trunk, 2, replace=False)]
    for tree in arteries:
        wide = np.flatnonzero(tree.radii[:, 0] > 3.0)
        picked = rng.choice(wide, min(2, len(wide)), replace=False)
        choice += [(tree.ends[i], tree.radii[i]) for i in picked]
    ends, radii = [], []
    for (start, stop), bore in choice:
        low, high = rng.uniform(0.05, 0.3), rng.uniform(0.65, 0.95)
        ends.append([start + (stop - start) * low, start + (stop - start) * high])
        radii.append(bore * rng.uniform(0.5, 0.72))
    return Tubes(np.array(ends, dtype=np.float32), np.array(radii, dtype=np.float32), 55.0)


def _bowel(rng: np.random.Generator) -> tuple[Organ, ...]:
    """Loops with a wall, content, and gas where it rises to: the front."""
    loops: list[Organ] = []
    colon = [(float(x), -58 + 0.002 * x * x, -128 + 0.0016 * x * x, 17.0) for x in np.arange(-96, 100, 19.0)]
    colon += [(side * 104.0, -4.0, float(z), 18.0) for side in (-1, 1) for z in np.arange(-205, -140, 20)]
    colon += [(92, -40, -78, 17.0), (104, -14, -96, 18.0)]
    low, high = (-72, -56, -215, 12), (84, 16, -112, 17)
    small = [(x, y, z, r) for x, y, z, r in rng.uniform(low, high, (60, 4)).tolist()]
    for number, (x, y, z, r) in enumerate(colon + small):
        jitter = rng.uniform(-4, 4, 3)
        at: Point = (float(x + jitter[0]), float(y + jitter[1]), float(z + jitter[2]))
        size: Point = (float(r * rng.uniform(0.9, 1.2)), float(r * rng.uniform(0.8, 1.05)), float(r))
        turn = float(rng.uniform(-40, 40))
        content = float(rng.choice([15, 30, 45, 60]))
        loops.append(Organ(at, size, 75.0, turn))
        inner: Point = (size[0] - 2.5, size[1] - 2.5, size[2] - 2.5)
        loops.append(Organ(at, inner, content, turn))
        if number < len(colon) or rng.random() < 0.2:
            bubble: Point = (inner[0] * 0.8, inner[1] * 0.5, inner[2] * 0.8)
            loops.append(Organ((at[0], at[1] - inner[1] * 0.4, at[2]), bubble, -940.0))
    return tuple(loops)


@lru_cache(maxsize=16)
def anatomy(seed: int) -> Anatomy:
    """The patient of this seed."""
    rng = np.random.default_rng([seed, 0xA7A])
    lungs, liver = _lung_vessels(rng), _liver_vessels(rng)
    return Anatomy(
        scale=float(rng.uniform(0.93, 1.05)),
        warp=np.column_stack(
            [rng.uniform(1.0, 2.4, 6), rng.uniform(0.012, 0.04, 6), rng.uniform(0.01, 0.03, 6), rng.uniform(0, 6.3, 6)]
        ),
        lung_vessels=lungs,
        liver_vessels=liver,
        lesions=_lesions(rng),
        emboli=_emboli(rng, [tree for tree in lungs if tree.hu == "right heart"]),
        bowel=_bowel(rng),
    )
