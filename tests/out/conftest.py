"""Everything here needs PyTorch."""

from __future__ import annotations

import importlib.util
from typing import Any

_TORCH = importlib.util.find_spec("torch") is not None and importlib.util.find_spec("safetensors") is not None
collect_ignore_glob = [] if _TORCH else ["test_*.py"]


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Say so when nothing here could be run."""
    if not _TORCH:
        terminalreporter.write_line("tests/out was skipped: it needs torch and safetensors (extra 'train')")
