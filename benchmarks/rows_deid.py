"""De-identification beside others: what identifying is left, what becomes invalid, files a second."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
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
DEID = """
import os, sys, warnings
from pathlib import Path
warnings.simplefilter("ignore")
os.environ["MESSAGELEVEL"] = "QUIET"
from deid.config import DeidRecipe
from deid.dicom import replace_identifiers
recipe = DeidRecipe(sys.argv[3])
for path in sorted(Path(sys.argv[1]).iterdir()):
    try:
        (made,) = replace_identifiers([str(path)], deid=recipe, ids={str(path): {}}, save=False, remove_private=True)
        made.save_as(Path(sys.argv[2]) / path.name)
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
    for name, script in (("dicognito", DICOGNITO), ("dicomanonymizer", DICOMANONYMIZER), ("deid", DEID)):
        if find_spec(name) is None:
            yield Row(f"{name}", None, "", note="not installed")
        else:
            tools[name] = script
    recipe = setting.folder / "deid.recipe"
    recipe.write_text(_recipe())
    outputs = {name: _fresh(setting.folder / f"deid {name}") for name in tools}
    for name, script in tools.items():
        _run(script, source, outputs[name], recipe)
    originals = {place.name: _values(place) for place in sorted(source.iterdir())}
    total = sum(map(Counter.total, originals.values()))
    for name, out in outputs.items():
        written = {place.name: place for place in out.rglob("*") if place.is_file()}
        found = sum(_left(originals[name], place) for name, place in written.items())
        deep = sum(_left(originals[name], place, depth=3) for name, place in written.items())
        note = f"of {total} of the standard's table, in {len(written)} of {len(originals)} files" + _NOTES.get(name, "")
        ours = name == "dcmark"
        yield Row(f"{name}: identifying values left", found, "", 0 if ours else None, "most", note)
        yield Row(f"{name}: of them three levels deep or deeper", deep, "", 0 if ours else None, "most")
        if shutil.which("dciodvfy"):
            yield Row(f"{name}: new validation errors", _new_errors(source, out), "", 0 if ours else None, "most",
                      "dciodvfy")  # fmt: skip
    slices = setting.slices[100]
    empty = _fresh(setting.folder / "deid nothing")

    def whole(name: str, where: Path) -> Callable[[], Cost]:
        command = [sys.executable, "-c", tools[name], where]
        return lambda: command_cost([*command, _fresh(setting.folder / "deid speed"), recipe])

    works = {name: whole(name, slices) for name in tools} | {f"{name} start": whole(name, empty) for name in tools}
    costs = in_turns(works, setting.turns)
    for name in tools:
        each = (middle(costs[name]) - middle(costs[f"{name} start"])) / 100
        rate = 1 / max(each, 1e-6)
        yield Row(f"{name}: files a second and core", round(rate), "", 250 if name == "dcmark" else None, "least")


_NOTES = {"deid": "; it has no profile of its own: a recipe made from the table"}


def _recipe() -> str:
    """The standard's table in the words of deid."""
    from dcmark.standard.confidentiality import rules

    named = [rule for rule in rules() if rule.keyword and "x" not in rule.tag]
    return "FORMAT dicom\n\n%header\n\n" + "".join(
        f"{'REMOVE' if rule.basic == 'X' else 'BLANK'} {rule.keyword}\n" for rule in named
    )


def _run(script: str, source: Path, out: Path, recipe: Path) -> None:
    command = [sys.executable, "-c", script, str(source), str(out), str(recipe)]
    subprocess.run(command, check=True, capture_output=True)


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


_NOT_IDENTIFYING = frozenset({"REMOVED", "UNKNOWN", "ANONYMIZED", "NONE", "YES", "NO", "0", "M", "F", "O", "000000"})
_OPAQUE = frozenset({"SQ", "OB", "OW", "OF", "OD", "UN"})


def _values(place: Path) -> Counter[tuple[int, str, int]]:
    """Values of attributes of the standard's table, at any depth: tag, value, and how deep. Read by pydicom."""
    import pydicom

    from dcmark.standard.confidentiality import rules

    named = {int(rule.tag, 16) for rule in rules() if "x" not in rule.tag}
    found: Counter[tuple[int, str, int]] = Counter()

    def walk(dataset: pydicom.Dataset, depth: int) -> None:
        for tag in sorted(dataset.keys()):
            try:
                element = dataset[tag]
                inside = list(element.value or []) if element.VR == "SQ" else []
                text = "" if element.VR in _OPAQUE else str(element.value).strip(" \0")
            except Exception:
                continue  # pydicom cannot read this one
            for item in inside:
                walk(item, depth + 1)
            standard = element.VR == "UI" and text.startswith("1.2.840.10008.")
            if int(tag) in named and text and text not in _NOT_IDENTIFYING and not standard:
                found[int(tag), text, depth] += 1

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            walk(pydicom.dcmread(place, force=True), 0)
        except Exception:
            return found
    return found


def _left(original: Counter[tuple[int, str, int]], place: Path, depth: int = 0) -> int:
    """Values that stand under the same attribute in the original, and in what was made of it."""
    known = {(tag, text) for tag, text, _ in original}
    return sum(n for (tag, text, deep), n in _values(place).items() if (tag, text) in known and deep >= depth)


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
    # Values are quoted; and Pixel Data, the same before and after, is looked at only once the class is known.
    return Counter(
        re.sub(r"<[^>]*>|UID \S+$|[0-9.]+", "", line)
        for line in lines
        if line.startswith("Error") and "PixelData has incorrect" not in line
    )
