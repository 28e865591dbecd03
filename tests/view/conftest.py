"""A small archive of several patients for the tests of views."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import dcmark
from dcmark.testing.synthetic import ct_series

PATIENTS = 6
SLICES = 4


def bodies(count: int, rows: int, columns: int, seed: int) -> np.ndarray:
    """Slices in HU: air, a body that is not in the middle, and something in it that no flip maps to itself."""
    rng = np.random.default_rng(seed)
    hu = np.full((count, rows, columns), -1000.0)
    hu[:, rows // 8 : rows // 2, columns // 4 : columns - 4] = 40
    hu[:, rows // 4 : rows // 3, columns // 2 : columns // 2 + 5] = 700
    return hu + rng.integers(-20, 20, hu.shape)


@pytest.fixture(scope="session")
def patients(tmp_path_factory: pytest.TempPathFactory) -> dcmark.Archive:
    """Six patients with a series of four slices each, 48 x 64 pixels of 0.8 x 0.6 mm."""
    folder = tmp_path_factory.mktemp("views")
    for number in range(PATIENTS):
        ct_series(
            folder / "in" / "ct" / f"p{number}" / "1",
            bodies(SLICES, 48, 64, number),
            spacing_mm=(2.0, 0.8, 0.6),
            patient=f"Phantom^{number}",
            study=number + 1,
            series=number + 1,
            tags={
                "PatientID": f"ID{number}",
                "BodyPartExamined": ("CHEST", "HEAD", "ABDOMEN")[number % 3],
                "PatientBirthDate": f"19{50 + number // 2}0101",
            },
        )
    archive = dcmark.open_archive(folder / "a.dcmark", create=True)
    dcmark.ingest([folder / "in"], archive).raise_for_errors()
    return archive


def files_of(folder: Path) -> set[str]:
    """What stands in a folder."""
    return {place.name for place in folder.iterdir()}
