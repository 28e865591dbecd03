"""``dcmark demo --train``: a small model learns before one's eyes, and is measured while it does."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dcmark.cli import draw

if TYPE_CHECKING:
    from numpy.typing import NDArray

ACROSS = 5


def demo_training(out: Path, images: int) -> int:
    """PGGAN at 32 pixels on painted chests; 0 where it learned, 1 where it did not."""
    from dcmark.cli.sheet import SheetRow, draw_sheet
    from dcmark.train import base

    base.find("pggan")  # says what to install where PyTorch is missing
    import numpy as np

    from dcmark.out import features, measures
    from dcmark.train import demo

    began = time.monotonic()
    run = out / "run"
    draw.heading("A small PGGAN learns", f"chests painted from ellipses, 32 x 32 pixels, {images} images shown")
    made = demo.run(run, images=images, progress=draw.progress(False))
    extractor = features.random_features(1)
    real = extractor(made.real)
    other = demo.phantom_data(len(made.real), 32, seed=1)
    unseen = np.stack([other.meaning.to_model(other[i][0]) for i in range(len(other))])

    def measured(pictures: NDArray[Any]) -> tuple[float, float]:
        wasserstein = measures.sliced_wasserstein(made.real, pictures)
        return float(np.mean(list(wasserstein.values()))), measures.frechet(real, extractor(pictures))

    found = {shown: measured(pictures) for shown, pictures in made.moments.items()}
    rows = [(f"{shown} images shown", f"{a:.0f}", f"{b:.2f}") for shown, (a, b) in found.items()]
    floor = measured(unseen)
    rows.append(("other real images", f"{floor[0]:.0f}", f"{floor[1]:.2f}"))
    draw.table(["", "sliced Wasserstein x 1000", "distance of random features"], rows)

    def tiles(pictures: NDArray[Any]) -> list[tuple[NDArray[Any], str]]:
        from dcmark.train.sheets import grey

        return [(np.kron(picture, np.ones((4, 4), np.uint8)), "") for picture in grey(pictures[:ACROSS])]

    first, last = min(found), max(found)
    sheet = [SheetRow("Real", ["painted, in HU", "what it is shown"], tiles(made.real))]
    for shown, pictures in made.moments.items():
        lines = [f"sliced Wasserstein {found[shown][0]:.0f}", "the same seeds each time"]
        sheet.append(SheetRow(f"{shown:,} shown", lines, tiles(pictures)))
    foot = (
        f"sliced Wasserstein distance from {found[first][0]:.0f} to {found[last][0]:.0f}; real images: {floor[0]:.0f}"
    )
    draw_sheet(sheet, "a small PGGAN learns, on a processor", foot, out / "sheet.png")
    draw.heading("Look", str(out / "sheet.png"))
    learned = found[last][0] < found[first][0] / 5
    how = "it learned" if learned else "it did NOT learn"
    draw.line(f"{foot}: {how}, in {time.monotonic() - began:.0f} s; next: dcmark generate {run}")
    return 0 if learned else 1
