"""Judge generated images against real ones, with what a number needs to mean something.

Every measure comes as an interval over random subsets, beside a floor (real images against other real
images, equally many) and beside generators that are known to be bad: noise, the mean image, a single
image over and over. Whether the model copies what it was shown is looked at apart.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dcmark.errors import UsageError
from dcmark.out import measures
from dcmark.out.features import Extractor, random_features
from dcmark.out.memorisation import Memorisation, memorisation
from dcmark.progress import NoProgress, Progress

LEAST = 16
"""Fewest images of each kind that are judged."""
Images = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Score:
    """One measure.

    Attributes:
        name: what is measured.
        better: ``lower`` or ``higher``, or ``same`` where it should equal that of real images.
        value: mean over the subsets.
        low, high: 2.5th and 97.5th percentile over the subsets.
        floor: of real images against other real images: what a perfect model would get.
        baselines: of models known to be bad, by name.
        unit: of all these.
    """

    name: str
    better: str
    value: float
    low: float
    high: float
    floor: float
    baselines: dict[str, float]
    unit: str = ""


@dataclass
class Evaluation:
    """The outcome of :func:`evaluate`.

    Attributes:
        scores: all measures.
        memorisation: whether the model copies.
        counts: how many images of each kind were there, and how many a subset has.
        extractor: name and hash of the feature extractor.
        spectra: radial power spectra in dB, of ``real`` and ``made``.
        histograms: densities of values, of ``real`` and ``made``, over ``edges`` in the unit.
        tissues: parts of all pixels by tissue, where the unit is HU.
        unit: of the values.
        seed: of the random subsets.
        about: where the images came from, for the report.
    """

    scores: list[Score]
    memorisation: Memorisation
    counts: dict[str, int]
    extractor: dict[str, str]
    spectra: dict[str, list[float]]
    histograms: dict[str, list[float]]
    tissues: dict[str, dict[str, float]]
    unit: str
    seed: int
    about: dict[str, Any] = field(default_factory=dict)

    def score(self, name: str) -> Score:
        """The score of that name.

        Raises:
            UsageError: there is none.
        """
        for score in self.scores:
            if score.name == name:
                return score
        raise UsageError(f"expected one of {', '.join(s.name for s in self.scores)}, found {name!r}")

    def as_dict(self) -> dict[str, Any]:
        """As plain data, for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class _Set:
    """Images of one kind with their features."""

    images: Images
    features: NDArray[np.float32]

    def take(self, chosen: NDArray[np.int64]) -> _Set:
        return _Set(self.images[chosen], self.features[chosen])


_Measure = Callable[[_Set, _Set], dict[str, float]]


def _prdc(real: _Set, made: _Set) -> dict[str, float]:
    found = measures.coverage(real.features, made.features)
    return {name: float(getattr(found, name)) for name in ("precision", "recall", "density", "coverage")}


def _sliced(real: _Set, made: _Set) -> dict[str, float]:
    by_size = measures.sliced_wasserstein(real.images, made.images)
    named = {f"sliced Wasserstein, {size} px": value for size, value in by_size.items()}
    return named | {"sliced Wasserstein": float(np.mean(list(by_size.values())))}


_MEASURES: list[_Measure] = [
    lambda real, made: {"Fréchet distance": measures.frechet(real.features, made.features)},
    lambda real, made: {"kernel distance": measures.kernel_distance(real.features, made.features)},
    _prdc,
    _sliced,
    lambda _, made: {"MS-SSIM of pairs": float(measures.diversity(made.images, pairs=100).mean())},
    lambda real, made: {"spectrum gap": measures.spectrum_gap(real.images, made.images)},
]
_BETTER = {"precision": "higher", "recall": "higher", "density": "higher", "coverage": "higher"} | {
    "MS-SSIM of pairs": "same"
}
_UNITS = {"spectrum gap": "dB"}


def evaluate(
    real: Images,
    made: Images,
    *,
    held_out: Images | None = None,
    extractor: Extractor | None = None,
    to_physical: Callable[[Images], NDArray[np.float32]] | None = None,
    unit: str = "",
    repeats: int = 10,
    seed: int = 0,
    progress: Progress | None = None,
) -> Evaluation:
    """Judge generated images.

    Args:
        real: (N, C, H, W), -1 to 1: what the model learned from, or a sample of it.
        made: (M, C, H, W): what it made.
        held_out: (K, C, H, W): of patients it was not shown; for memorisation.
        extractor: features to compare; fixed random ones by default.
        to_physical: from -1..1 to values in ``unit``.
        repeats: random subsets.

    Raises:
        UsageError: too few images, other shapes, or values that are not finite.
    """
    sets = {"real": real, "made": made} | ({} if held_out is None else {"held-out": held_out})
    for name, images in sets.items():
        if images.ndim != 4 or len(images) < LEAST or images.shape[1:] != real.shape[1:]:
            raise UsageError(
                f"expected at least {LEAST} {name} images (N, C, H, W) of {real.shape[1:]}, found {images.shape}"
            )
        if not np.isfinite(images).all():
            raise UsageError(f"expected finite values, found NaN or infinity among the {name} images")
    extractor = extractor or random_features(real.shape[1])
    to_physical = to_physical or (lambda images: images)
    rng = np.random.default_rng(seed)
    size = min(len(real) // 2, max(len(made) * 4 // 5, LEAST // 2))
    ours, theirs = _Set(real, extractor(real)), _Set(made, extractor(made))
    bad = {name: _Set(x, extractor(x)) for name, x in _baselines(real, size, rng).items()}

    def histogram(a: _Set, b: _Set) -> dict[str, float]:
        return {"histogram gap": measures.histogram_gap(to_physical(a.images), to_physical(b.images))}

    everything = [*_MEASURES, histogram]
    progress = progress or NoProgress()
    progress.start("evaluate", repeats, "subsets")
    found: dict[str, list[float]] = {}
    floors: dict[str, list[float]] = {}
    first = None
    for _ in range(repeats):
        order = rng.permutation(len(real))
        a, b = ours.take(order[:size]), ours.take(order[size : 2 * size])
        first = first or a
        chosen = theirs.take(rng.permutation(len(made))[:size])
        for measure in everything:
            for into, other in ((found, chosen), (floors, b)):
                for name, value in measure(a, other).items():
                    into.setdefault(name, []).append(value)
        progress.advance()
    progress.finish()
    assert first is not None
    known_bad = {name: {k: v for m in everything for k, v in m(first, x).items()} for name, x in bad.items()}
    scores = [
        Score(
            name,
            _BETTER.get(name, "lower"),
            float(np.mean(values)),
            float(np.percentile(values, 2.5)),
            float(np.percentile(values, 97.5)),
            float(np.mean(floors[name])),
            {bad_name: of[name] for bad_name, of in known_bad.items()},
            unit if name == "histogram gap" else _UNITS.get(name, ""),
        )
        for name, values in found.items()
    ]
    hu_real, hu_made = to_physical(real), to_physical(made)
    return Evaluation(
        scores=scores,
        memorisation=memorisation(real, made, held_out),
        counts={name: len(images) for name, images in sets.items()} | {"subset": size, "repeats": repeats},
        extractor={"name": extractor.name, "hash": extractor.hash},
        spectra={
            "real": [float(v) for v in measures.radial_spectrum(real)],
            "made": [float(v) for v in measures.radial_spectrum(made)],
        },
        histograms=_histograms(hu_real, hu_made),
        tissues={
            "real": measures.tissue_fractions(hu_real),
            "made": measures.tissue_fractions(hu_made),
        }
        if unit == "HU"
        else {},
        unit=unit,
        seed=seed,
    )


def _baselines(real: Images, size: int, rng: np.random.Generator) -> dict[str, Images]:
    """Models that everyone would call bad; a measure that likes one of them is no measure."""
    noise = rng.permutation(real[:size].reshape(-1)).reshape(real[:size].shape)
    mean = np.repeat(real.mean(axis=0, keepdims=True), size, axis=0)
    one = np.repeat(real[:1], size, axis=0)
    small = rng.normal(0, 1e-3, (size, *real.shape[1:]))  # equal vectors would have no neighbourhood at all
    return {
        "shuffled pixels": noise.astype(np.float32),
        "mean image": (mean + small).astype(np.float32),
        "one image": (one + small).astype(np.float32),
    }


def _histograms(real: NDArray[Any], made: NDArray[Any], bins: int = 100) -> dict[str, list[float]]:
    low, high = min(float(real.min()), float(made.min())), max(float(real.max()), float(made.max()))
    edges = np.linspace(low, high if high > low else low + 1, bins + 1)
    return {
        "edges": [float(v) for v in edges],
        "real": [float(v) for v in np.histogram(real, edges, density=True)[0]],
        "made": [float(v) for v in np.histogram(made, edges, density=True)[0]],
    }
