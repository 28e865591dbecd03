"""A browser, and the page over an archive: `dcmark annotate`, or what DCMARK_PAGE_URL names (`npm run dev`)."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

SLICES = 1000


@pytest.fixture(scope="session")
def page_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A link that signs a browser in."""
    given = os.environ.get("DCMARK_PAGE_URL")
    if given:
        yield given
        return
    import typer.main

    from dcmark.cli.app import app

    if "annotate" not in typer.main.get_command(app).commands:  # type: ignore[attr-defined]
        pytest.skip("there is no `dcmark annotate` yet; name a running page in DCMARK_PAGE_URL")
    folder = _volume(tmp_path_factory.mktemp("ct"))
    command = [sys.executable, "-m", "dcmark", "annotate", str(folder), "--no-browser", "--port", "0"]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        assert server.stdout is not None
        for line in server.stdout:
            found = re.search(r"https?://\S+token=\w+", line)
            if found:
                yield found.group()
                return
        pytest.fail("`dcmark annotate` ended without a link")
    finally:
        server.terminate()
        server.wait(20)


def _volume(folder: Path) -> Path:
    """A CT of a thousand slices, 0.5 mm apart, with a hostile name."""
    import numpy as np
    import pydicom
    from pydicom.dataset import FileDataset, FileMetaDataset
    from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

    rng = np.random.default_rng(7)
    study, series, place = (generate_uid() for _ in range(3))
    row, column = np.mgrid[-1:1:512j, -1:1:512j]
    noise = rng.integers(-20, 20, (512, 512), dtype=np.int16)
    for k in range(SLICES):
        values = np.where(row**2 / 0.36 + column**2 / 0.7 < 1, 45, -1000).astype(np.int16)
        values[(row - 0.1) ** 2 + (column - 0.2 * np.sin(k / 80)) ** 2 < 0.01] = 300
        meta = FileMetaDataset()
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
        meta.MediaStorageSOPClassUID = CTImageStorage
        meta.MediaStorageSOPInstanceUID = generate_uid()
        one = FileDataset(str(folder / f"{k:04}.dcm"), pydicom.Dataset(), file_meta=meta, preamble=b"\0" * 128)
        one.SOPClassUID, one.SOPInstanceUID = CTImageStorage, meta.MediaStorageSOPInstanceUID
        one.PatientName, one.PatientID, one.Modality = "<img src=x onerror=window.hurt=1>", "P1", "CT"
        one.StudyInstanceUID, one.SeriesInstanceUID, one.FrameOfReferenceUID = study, series, place
        one.InstanceNumber, one.SeriesDescription = k + 1, "<script>window.hurt=1</script>"
        one.ImagePositionPatient, one.ImageOrientationPatient = [-180, -180, k / 2], [1, 0, 0, 0, 1, 0]
        one.PixelSpacing, one.SliceThickness = [0.7, 0.7], 0.5
        one.Rows = one.Columns = 512
        one.SamplesPerPixel, one.PhotometricInterpretation = 1, "MONOCHROME2"
        one.BitsAllocated, one.BitsStored, one.HighBit, one.PixelRepresentation = 16, 16, 15, 1
        one.RescaleSlope, one.RescaleIntercept, one.RescaleType = 1, 0, "HU"
        one.WindowCenter, one.WindowWidth = 40, 400
        one.PixelData = (values + noise).tobytes()
        one.save_as(folder / f"{k:04}.dcm", enforce_file_format=True)
    return folder


@pytest.fixture(scope="session")
def launched() -> Iterator[object]:
    """Chromium without a GPU."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if program is None:
        pytest.skip("there is no Chromium")
    with playwright.sync_playwright() as running:
        options = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
        browser = running.chromium.launch(executable_path=program, args=options)
        yield browser
        browser.close()
