"""An evaluation as one HTML page: tables, plots and sheets, nothing loaded from elsewhere."""

from __future__ import annotations

import base64
import html
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dcmark.out.evaluate import Evaluation, Score

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 64rem; margin: 2rem auto; padding: 0 1rem; color: #1a1a1a }
table { border-collapse: collapse; width: 100%; margin: 1rem 0 } td, th { padding: .3rem .6rem; text-align: right }
td:first-child, th:first-child { text-align: left } tr { border-bottom: 1px solid #ddd } th { font-weight: 600 }
.alarm { background: #fdecea; border-left: 4px solid #b3261e; padding: .6rem 1rem }
.fine { background: #eaf5ec; border-left: 4px solid #2e7d32; padding: .6rem 1rem }
figure { display: inline-block; margin: 0 1rem 1rem 0; vertical-align: top }
img { image-rendering: pixelated; max-width: 30rem; width: 100% } figcaption { color: #555; font-size: .9em }
svg { background: #fafafa; width: 30rem; max-width: 100% } small { color: #555 }
@media (prefers-color-scheme: dark) {
 body { background: #16181b; color: #e6e6e6 } tr { border-color: #383b40 } svg { background: #202327 }
 .alarm { background: #3d1f1c } .fine { background: #1e3022 } small, figcaption { color: #a5a9ae } }
"""
_REAL, _MADE = "#2a6fbb", "#d2691e"


def page(evaluation: Evaluation, real: NDArray[Any], made: NDArray[Any], *, title: str = "Evaluation") -> str:
    """The page; ``real`` and ``made`` are the images that were judged, (N, C, H, W), -1 to 1."""
    found = evaluation.memorisation
    parts = [f"<h1>{html.escape(title)}</h1>", _about(evaluation), "<h2>Images</h2>"]
    parts += [_figure(real[:36], "real"), _figure(made[:36], "made by the model")]
    parts += ["<h2>Distances</h2>", _table(evaluation.scores)]
    parts.append(
        "<p><small>Means over random subsets with the 2.5th and 97.5th percentile. The floor is what real images get "
        "against other real images. The last columns are models known to be bad.</small></p>"
    )
    parts += ["<h2>Power by spatial frequency</h2>", _plot(evaluation.spectra, "cycles per image", "dB")]
    unit = evaluation.unit or "value"
    densities = {name: evaluation.histograms[name] for name in ("real", "made")}
    edges = evaluation.histograms["edges"]
    parts += ["<h2>Values</h2>", _plot(densities, unit, "density", (edges[0], edges[-1]))]
    if evaluation.tissues:
        rows = [
            f"<tr><td>{name}</td><td>{share:.2%}</td><td>{evaluation.tissues['made'][name]:.2%}</td></tr>"
            for name, share in evaluation.tissues["real"].items()
        ]
        parts.append("<table><tr><th>tissue</th><th>real</th><th>made</th></tr>" + "".join(rows) + "</table>")
    parts += ["<h2>Memorisation</h2>", _memory(evaluation)]
    order = np.argsort(found.distance)[:12]
    pairs = np.concatenate([np.stack([made[i], real[found.nearest[i]]]) for i in order])
    parts.append(_figure(pairs, "the images nearest to a training image, each with that image to the right of it", 6))
    body = "\n".join(parts)
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{html.escape(title)}</title>'
        f'<meta name="viewport" content="width=device-width"><style>{_STYLE}</style><body>{body}</body></html>\n'
    )


def write_page(evaluation: Evaluation, real: NDArray[Any], made: NDArray[Any], path: Path, **more: Any) -> None:
    """Write the page to a file."""
    path.write_text(page(evaluation, real, made, **more), encoding="utf-8")


def _about(evaluation: Evaluation) -> str:
    about = evaluation.about | {
        "images": ", ".join(f"{count} {name}" for name, count in evaluation.counts.items()),
        "features": f"{evaluation.extractor['name']} ({evaluation.extractor['hash'][:16]})",
        "seed": evaluation.seed,
    }
    rows = (f"<tr><td>{html.escape(str(k))}</td><td>{html.escape(str(v))}</td></tr>" for k, v in about.items())
    return "<table>" + "".join(rows) + "</table>"


def _table(scores: Sequence[Score]) -> str:
    bad = list(scores[0].baselines) if scores else []
    head = "".join(
        f"<th>{html.escape(name)}</th>" for name in ["measure", "better", "value", "interval", "floor", *bad]
    )
    rows = []
    for score in scores:
        cells = [f"{score.value:.4g}", f"{score.low:.4g} to {score.high:.4g}", f"{score.floor:.4g}"]
        cells += [f"{score.baselines[name]:.4g}" for name in bad]
        name = html.escape(score.name + (f", {score.unit}" if score.unit else ""))
        values = "".join(f"<td>{cell}</td>" for cell in cells)
        rows.append(f"<tr><td>{name}</td><td>{score.better}</td>{values}</tr>")
    return f"<table><tr>{head}</tr>{''.join(rows)}</table>"


def _memory(evaluation: Evaluation) -> str:
    found = evaluation.memorisation
    total = len(found.distance)
    if found.alarm:
        words = f"{len(found.near_copies)} of {total} images are near copies: nearer to a training image than"
        box = (
            f'<p class="alarm">{words} {found.threshold:.4g}. Look at them below before anything leaves the house.</p>'
        )
    else:
        box = f'<p class="fine">None of {total} images lies nearer to a training image than {found.threshold:.4g}.</p>'
    ratio = "not known: no held-out images were given" if found.ratio is None else f"{found.ratio:.3f} (1 is good)"
    return (
        f"{box}<table><tr><td>nearest training image over nearest held-out image</td><td>{ratio}</td></tr>"
        f"<tr><td>authenticity</td><td>{found.authenticity:.3f}</td></tr></table>"
    )


def _figure(images: NDArray[Any], words: str, columns: int | None = None) -> str:
    import imagecodecs

    picture = imagecodecs.png_encode(_sheet(images, columns))
    data = base64.b64encode(picture).decode("ascii")
    return (
        f'<figure><img alt="{html.escape(words)}" src="data:image/png;base64,{data}">'
        f"<figcaption>{html.escape(words)}</figcaption></figure>"
    )


def _sheet(images: NDArray[Any], columns: int | None) -> NDArray[np.uint8]:
    shown = np.clip(np.rint((np.asarray(images, dtype=np.float32) + 1) * 127.5), 0, 255).astype(np.uint8)
    shown = np.moveaxis(shown, 1, 3) if shown.shape[1] == 3 else shown[:, 0]
    columns = columns or math.ceil(math.sqrt(len(shown)))
    missing = -len(shown) % columns
    shown = np.concatenate([shown, np.zeros((missing, *shown.shape[1:]), dtype=np.uint8)])
    lines = [np.concatenate(list(shown[at : at + columns]), axis=1) for at in range(0, len(shown), columns)]
    return np.ascontiguousarray(np.concatenate(lines))


def _plot(curves: dict[str, list[float]], across: str, up: str, span: tuple[float, float] | None = None) -> str:
    width, height, pad = 600, 280, 40
    values = [v for curve in curves.values() for v in curve]
    low, high = min(values), max(values)
    high = high if high > low else low + 1
    lines = []
    for (name, curve), colour in zip(curves.items(), (_REAL, _MADE), strict=False):
        points = " ".join(
            f"{pad + (width - 2 * pad) * i / max(len(curve) - 1, 1):.1f},"
            f"{height - pad - (height - 2 * pad) * (v - low) / (high - low):.1f}"
            for i, v in enumerate(curve)
        )
        lines.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"/>')
        at = 20 + 60 * len(lines)
        lines.append(f'<text x="{at}" y="20" fill="{colour}">{html.escape(name)}</text>')
    ends = span or (0, max(len(curve) for curve in curves.values()) - 1)
    marks = [
        (pad, height - 12, f"{ends[0]:.4g}"),
        (width - 2 * pad, height - 12, f"{ends[1]:.4g} {across}"),
        (2, pad, f"{high:.3g} {up}"),
        (2, height - pad, f"{low:.3g}"),
    ]
    texts = [f'<text x="{x}" y="{y}" font-size="12" fill="currentColor">{html.escape(t)}</text>' for x, y, t in marks]
    return f'<svg viewBox="0 0 {width} {height}" role="img">{"".join(lines + texts)}</svg>'
