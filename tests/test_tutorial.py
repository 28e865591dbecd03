"""The tutorial does what it says: all its commands and programs, in their order, in an empty folder."""

from __future__ import annotations

import hashlib
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

PAGE = Path(__file__).parent.parent / "docs/tutorial/first-archive.md"


def steps() -> list[tuple[list[str], int]]:
    """Words of each command, and its exit code."""
    found = []
    for language, block in re.findall(r"^```([a-z]*)\n(.*?)^```", PAGE.read_text("utf-8"), re.MULTILINE | re.DOTALL):
        if language == "python":
            found.append((["-c", block], 0))
            continue
        for line in block.replace("\\\n", " ").splitlines():
            command, _, code = line.partition("# exit code ")
            found.append((["-m", *shlex.split(command)], int(code or 0)))
    return found


def hashes(folder: Path) -> set[str]:
    return {hashlib.sha256(place.read_bytes()).hexdigest() for place in folder.rglob("*") if place.is_file()}


def test_the_tutorial(tmp_path: Path) -> None:
    for name in ("nibabel", "highdicom", "cryptography", "reportlab", "py7zr"):
        pytest.importorskip(name, reason="the tutorial needs the extra 'all'")
    for words, code in steps():
        done = subprocess.run([sys.executable, *words], cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == code, (words, done.stdout, done.stderr)
    originals = hashes(tmp_path / "demo/source/drli")
    assert hashes(tmp_path / "again") == originals
    assert originals <= hashes(tmp_path / "everything")
    assert hashes(tmp_path / "originals") <= hashes(tmp_path / "everything")
    assert (tmp_path / "first.html").stat().st_size > 10_000
