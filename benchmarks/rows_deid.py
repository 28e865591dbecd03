"""De-identification beside others: what identifying is left, what becomes invalid, files a second."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

from benchmarks.measure import Cost, command_cost, in_turns, middle
from benchmarks.table import Row, Setting, section

DICOGNITO = """
import sys, pydicom, warnings
from pathlib import Path
from dicognito.anonymizer import Anonymizer
warnings.simplefilter("ignore")
tool = Anonymizer(seed="bench")
for path in sorted(Path(sys.argv[1]).iterdir()):
    try:
        dataset = pydicom.dcmread(path, force=True)
        tool.anonymize(dataset)
        dataset.save_as(Path(sys.argv[2]) / path.name)
    except Exception:
        pass
"""
DICOMANONYMIZER = """
import sys, warnings
from pathlib import Path
from dicomanonymizer.simpledicomanonymizer import anonymize_dicom_file
warnings.simplefilter("ignore")
for path in sorted(Path(sys.argv[1]).iterdir()):
    try:
        anonymize_dicom_file(str(path), str(Path(sys.argv[2]) / path.name))
    except Exception:
        pass
"""
OURS = """
import sys
from pathlib import Path
from dcmark.deid.apply import Deidentifier
from dcmark.deid.folders import deidentify_folders
from dcmark.deid.profile import load_profile
deidentify_folders([sys.argv[1]], sys.argv[2], Deidentifier(load_profile("basic"), b"b" * 32))
"""


@section("deidentify", "De-identification, beside others")
def deid_rows(setting: Setting) -> Iterator[Row]:
    """The bundled files of pydicom for what is left; 100 CT slices for speed, whole processes less their start."""
    source = setting.folder / "deid in"
    _bundled(source)
    tools = {"dcmark": OURS}
    for name, package, script in (
        ("dicognito", "dicognito", DICOGNITO),
        ("dicomanonymizer", "dicomanonymizer", DICOMANONYMIZER),
    ):
        if find_spec(package) is None:
            yield Row(f"{name}", None, "", note="not installed")
        else:
            tools[name] = script
    outputs = {name: _fresh(setting.folder / f"deid {name}") for name in tools}
    for name, script in tools.items():
        _run(script, source, outputs[name])
    total = sum(_left(place) for place in source.iterdir())
    for name, out in outputs.items():
        written = [place for place in out.rglob("*") if place.is_file()]
        found = sum(_left(place) for place in written)
        note = f"of {total}, in {len(written)} of {len(list(source.iterdir()))} files; the rest was not written"
        yield Row(f"{name}: identifying values left", found, "", 0 if name == "dcmark" else None, "most", note)
        if shutil.which("dciodvfy"):
            yield Row(f"{name}: new validation errors", _new_errors(source, out), "", note="dciodvfy")
    slices = setting.slices[100]
    empty = _fresh(setting.folder / "deid nothing")

    def whole(name: str, where: Path) -> Callable[[], Cost]:
        return lambda: command_cost([sys.executable, "-c", tools[name], where, _fresh(setting.folder / "deid speed")])

    works = {name: whole(name, slices) for name in tools} | {f"{name} start": whole(name, empty) for name in tools}
    costs = in_turns(works, setting.turns)
    for name in tools:
        each = (middle(costs[name]) - middle(costs[f"{name} start"])) / 100
        rate = 1 / max(each, 1e-6)
        yield Row(f"{name}: files a second and core", round(rate), "", 250 if name == "dcmark" else None, "least")


def _run(script: str, source: Path, out: Path) -> None:
    subprocess.run([sys.executable, "-c", script, str(source), str(out)], check=True, capture_output=True)


def _fresh(place: Path) -> Path:
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    return place


def _bundled(place: Path) -> None:
    """DICOM files that can be read, flat, so that tools which know no folders find them."""
    import pydicom

    _fresh(place)
    for number, path in enumerate(sorted((Path(pydicom.__file__).parent / "data" / "test_files").rglob("*"))):
        if path.is_file() and path.read_bytes()[128:132] == b"DICM" and path.name != "DICOMDIR":
            shutil.copy(path, place / f"{number:03}.dcm")


def _left(place: Path) -> int:
    """Values for certain that the Basic Profile would remove, empty or replace."""
    from dcmark.deid.check import left
    from dcmark.deid.profile import load_profile
    from dcmark.errors import HeldBackError

    with suppress(HeldBackError):
        return sum(one.certain for one in left(memoryview(place.read_bytes()), load_profile("basic")))
    return 0


def _new_errors(source: Path, out: Path) -> int:
    """Errors of the written files that the originals do not have."""
    new = 0
    for place in sorted(source.iterdir()):
        if (out / place.name).exists():
            new += (_errors(out / place.name) - _errors(place)).total()
    return new


def _errors(place: Path) -> Counter[str]:
    ran = subprocess.run(["dciodvfy", str(place)], capture_output=True, text=True, errors="replace", check=False)
    lines = (ran.stdout + ran.stderr).splitlines()
    return Counter(
        re.sub(r"\(0x[0-9a-f,x]+\)|<[\d.]+>|\b\d+(\.\d+)+\b", "", line) for line in lines if line.startswith("Error")
    )
