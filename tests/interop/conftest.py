from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("starlette", reason="the extra 'web' is not installed")

import dcmark
from dcmark.testing.corpus import bundled

sys.path.insert(0, str(Path(__file__).parent.parent / "web"))

FILES = (
    "CT_small.dcm", "MR_small.dcm", "examples_ybr_color.dcm", "examples_rgb_color.dcm", "examples_palette.dcm",
    "SC_rgb_jpeg_gdcm.dcm", "JPEG2000.dcm", "emri_small.dcm", "rtdose.dcm", "rtplan.dcm", "liver.dcm",
    "MR_small_jpeg_ls_lossless.dcm", "MR_small_RLE.dcm", "test-SR.dcm",
)  # fmt: skip


@pytest.fixture(scope="session")
def originals(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Instances of many kinds, each of a UID of its own."""
    import pydicom

    folder, seen = tmp_path_factory.mktemp("originals"), set()
    for name in FILES:
        place = bundled() / name
        if place.exists():
            uid = pydicom.dcmread(place, stop_before_pixels=True).SOPInstanceUID
            if uid not in seen:
                shutil.copy(place, folder / name)
                seen.add(uid)
    return sorted(folder.iterdir())


@pytest.fixture
def served(originals: list[Path], tmp_path: Path) -> Iterator[tuple[str, str]]:
    """Address of DICOMweb over an archive of them, and the token."""
    from web_tools import Running

    archive = dcmark.open_archive(tmp_path / "a.dcmark", create=True)
    dcmark.ingest([originals[0].parent], archive)
    server = Running("serve", archive.path, "--port", "0", "--token-file", tmp_path / "token")
    yield f"{server.origin}/dicom-web", (tmp_path / "token").read_text().strip()
    server.stop()
