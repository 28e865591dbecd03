"""The demo is the first thing a new user runs: it goes the whole way and says what came back."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import imagecodecs
import numpy as np


def test_demo_goes_the_whole_way(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "dcmark", "demo", "--out", str(tmp_path / "demo"), "--side", "64"]
    made = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert made.returncode == 0, made.stderr
    said = re.search(r"(\d+) of (\d+) files came back identical", made.stdout)
    assert said
    assert said[1] == said[2]
    assert int(said[1]) > 250
    sheet = imagecodecs.imread(str(tmp_path / "demo" / "sheet.png"))
    assert sheet.shape[0] > 800
    assert np.ptp(sheet.astype(int)) > 200
    for name in ("images/view.json", "arrays/slices.csv", "restored", "scans.dcmark/archive.json"):
        assert (tmp_path / "demo" / name).exists(), name
    again = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert again.returncode == 2
    assert "expected a new folder" in again.stderr
