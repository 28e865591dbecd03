"""Fixtures shared by all tests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from dcmark.testing import corpus as corpus_module

settings.register_profile("default", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("ci", parent=settings.get_profile("default"), derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "default")


@pytest.fixture(scope="session")
def corpus() -> Path:
    """The corpus of real files; skips where it is absent."""
    found = corpus_module.find()
    if found is None:
        pytest.skip("the corpus of real files is not here (set DCMARK_CORPUS)")
    return found


@pytest.fixture(scope="session")
def golden() -> Path:
    """Reference data of the generative models; skips where they are absent."""
    found = corpus_module.golden()
    if found is None:
        pytest.skip("the golden data are not here (set DCMARK_GOLDEN)")
    return found


@pytest.fixture(scope="session")
def bundled() -> Path:
    """pydicom's bundled test files."""
    return corpus_module.bundled()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests in the browser come last: Playwright keeps an event loop running in the main thread, which others need."""
    items.sort(key=lambda item: "browser" in item.path.parts)
