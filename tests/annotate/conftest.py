from __future__ import annotations

import shutil
from pathlib import Path

import drawing
import pytest

import dcmark


@pytest.fixture(scope="session")
def shared_ct(tmp_path_factory: pytest.TempPathFactory) -> dcmark.Archive:
    """An archive of a small CT series, for tests that only read."""
    return drawing.ct_archive(tmp_path_factory.mktemp("shared"))


@pytest.fixture
def ct(shared_ct: dcmark.Archive, tmp_path: Path) -> dcmark.Archive:
    """A copy of it to write to."""
    shutil.copytree(shared_ct.path, tmp_path / "ct.dcmark")
    return dcmark.open_archive(tmp_path / "ct.dcmark")
