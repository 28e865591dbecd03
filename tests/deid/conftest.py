"""The command line, called as a user calls it, in this process."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from dcmark import cli


class Told(NamedTuple):
    """What a command ended with and said."""

    returncode: int
    stdout: str
    stderr: str


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Told]:
    """``command("deidentify", "scans", "clean")`` in the temporary folder."""
    monkeypatch.chdir(tmp_path)

    def run(*words: str) -> Told:
        capsys.readouterr()
        code = cli.run(list(words))
        return Told(code, *capsys.readouterr())

    return run
