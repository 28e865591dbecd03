"""What others do with the same series: a command for each that is installed, and why the rest is not run.

The two pydicom scripts are what a researcher writes in five minutes.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

SOURCE, TARGET = "<source>", "<target>"
SIMPLEITK = """
import sys, SimpleITK
reader = SimpleITK.ImageSeriesReader()
reader.SetFileNames(SimpleITK.ImageSeriesReader.GetGDCMSeriesFileNames(sys.argv[1]))
SimpleITK.WriteImage(reader.Execute(), sys.argv[2] + "/series.nii.gz", True)
"""
PNG = """
import sys, numpy, pydicom
from pathlib import Path
from PIL import Image
for path in sorted(Path(sys.argv[1]).glob("*.dcm")):
    pixels = pydicom.dcmread(path).pixel_array
    shifted = (pixels.astype(numpy.int32) + 32768 * (pixels.dtype.kind == "i")).astype(numpy.uint16)
    Image.fromarray(shifted).save(Path(sys.argv[2]) / (path.stem + ".png"))
"""
NPZ = """
import sys, numpy, pydicom
from pathlib import Path
paths = sorted(Path(sys.argv[1]).glob("*.dcm"))
numpy.savez_compressed(sys.argv[2] + "/series.npz", numpy.stack([pydicom.dcmread(p).pixel_array for p in paths]))
"""


class Peer(NamedTuple):
    """A program that packs a series: its command line, with SOURCE and TARGET for the folders."""

    name: str
    command: Sequence[str]

    def on(self, source: Path, target: Path) -> list[str]:
        """The command line for a series."""
        return [{SOURCE: str(source), TARGET: str(target)}.get(part, part) for part in self.command]


def peers() -> tuple[list[Peer], dict[str, str]]:
    """Those that can be run, and the others with the reason."""
    found: list[Peer] = []
    absent: dict[str, str] = {}
    dcm2niix = _dcm2niix()
    if dcm2niix:
        found.append(Peer("dcm2niix -z y", [dcm2niix, "-z", "y", "-b", "n", "-o", TARGET, SOURCE]))
    else:
        absent["dcm2niix -z y"] = "not installed"
    for name, package, script in (
        ("SimpleITK to .nii.gz", "SimpleITK", SIMPLEITK),
        ("pydicom to 16-bit PNG", "PIL", PNG),
        ("pydicom to .npz", "numpy", NPZ),
    ):
        if find_spec(package) is None:
            absent[name] = f"{package} is not installed"
        else:
            found.append(Peer(name, [sys.executable, "-c", script, SOURCE, TARGET]))
    return found, absent


def _dcm2niix() -> str | None:
    if find_spec("dcm2niix") is not None:
        import dcm2niix

        return str(dcm2niix.bin)
    return shutil.which("dcm2niix")
