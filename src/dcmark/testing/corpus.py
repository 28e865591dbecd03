"""Where shared test data lie: never inside the project, looked up by environment or position."""

from __future__ import annotations

import os
from pathlib import Path


def _find(variable: str, *parts: str) -> Path | None:
    named = os.environ.get(variable)
    places = [Path(named)] if named else [base.joinpath("shared", *parts) for base in (Path.cwd().parent, Path.cwd())]
    return next((place for place in places if place.is_dir()), None)


def find() -> Path | None:
    """The corpus of real files: ``$DCMARK_CORPUS``, else ``../shared/corpus``; None where absent."""
    return _find("DCMARK_CORPUS", "corpus")


def golden() -> Path | None:
    """Reference data of the generative models: ``$DCMARK_GOLDEN``, else ``../shared/golden``; None where absent."""
    return _find("DCMARK_GOLDEN", "golden")


def bundled() -> Path:
    """The test files that come with pydicom: some 180 small files of every kind."""
    import pydicom.data

    return Path(pydicom.data.__file__).parent / "test_files"
