from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("starlette", reason="the extra 'web' is not installed")

from web_tools import HOSTILE, Client

import dcmark
from dcmark.testing.corpus import bundled
from dcmark.testing.synthetic import ct_series


def ct_volume(folder: Path, slices: int = 6, rows: int = 40, columns: int = 48, **options) -> None:
    hu = np.random.default_rng(1).integers(-200, 300, (slices, rows, columns))
    ct_series(folder, hu, spacing_mm=(3.0, 0.9, 0.7), origin_mm=(-31.0, 12.0, 100.0), **options)


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An archive of a CT volume, one with hostile text in every tag, colours, frames in one file, an 8-bit picture."""
    folder = tmp_path_factory.mktemp("web")
    ct_volume(folder / "in" / "ct", patient="Quist^Imogen", tags={"PatientID": "QX-7411"})
    words = dict.fromkeys(("StudyDescription", "SeriesDescription", "PatientID"), HOSTILE)
    ct_volume(folder / "in" / "hostile", slices=3, patient=HOSTILE, study=2, series=2, tags=words)
    for name in (
        "examples_ybr_color.dcm", "SC_rgb_jpeg_gdcm.dcm", "examples_palette.dcm", "JPEG2000.dcm", "emri_small.dcm",
        "MR_small_bigendian.dcm", "rtdose.dcm", "liver.dcm",
    ):  # fmt: skip
        place = bundled() / name
        if place.exists():
            shutil.copy(place, folder / "in" / name)
    archive = dcmark.open_archive(folder / "a.dcmark", create=True)
    dcmark.ingest([folder / "in"], archive)
    return archive.path


@pytest.fixture
def path(made: Path, tmp_path: Path) -> Path:
    """A copy of it to write to."""
    return Path(shutil.copytree(made, tmp_path / "a.dcmark"))


@pytest.fixture(scope="session")
def reader(made: Path) -> Client:
    """A client of the archive that nobody writes to."""
    return Client(made)


@pytest.fixture
def client(path: Path) -> Iterator[Client]:
    """A client of the copy."""
    yield Client(path)


@pytest.fixture
def ct(client: Client) -> str:
    """Id of the CT volume."""
    return str(client.stack(patient="Quist^Imogen")["id"])
