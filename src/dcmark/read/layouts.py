"""Dataset, patient and image names read off the folders, beside what the headers say.

The layout is ``<data_dir>/<dataset>/<patient>/<image>/<slices>``; SCAPIS goes without the folder of the image. What is
handed over may be the folder of all datasets, one dataset, one patient, one image, or a container of any of these, so
the names of the folders that the source lies in count too. The patient's folder is, by the first of these that applies:

1. what a pattern names so;
2. the one below a known dataset (``ctpa``, ``drli``, ``scapis``), or two below a folder called ``data_dir``;
3. the one called like the Patient ID in the headers of the slices in it; then, that whose files all have one
   Patient ID while those of the folder around have several;
4. the second of exactly three folders above the slices, which is the layout itself, unless the first of them is what
   the second part of 3 would choose: then it is left open.

The one above it is the dataset's, the one below the image's. The headers decide only where names do not, and where both
speak and disagree there is no name. Nor is there one where a file lies deeper than its image's folder, unless headers
told which folder is the patient's. What 3 and 4 say is found out once for a source, from a sample of its files, and is
recorded as a finding ``layout`` of the source: files that come later are named alike.

A file that holds no slices (README, outlines, a picture) names nothing by itself: it takes the names of those of its
folders that slices were found in; see ``Layout.beside``.
"""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Container, Iterable, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from dcmark.errors import UsageError
from dcmark.findings import Finding
from dcmark.read.base import Source
from dcmark.read.sources import kinds, samples
from dcmark.read.sources.members import Container as Packed
from dcmark.read.sources.samples import Sample

FIELDS = ("dataset", "patient", "image")
DATA_DIR = "data_dir"
KNOWN_DATASETS = frozenset(["ctpa", "drli", "scapis"])
NO_LEVEL_OF_IMAGES = frozenset(["scapis"])
"""Datasets, in lower case, whose patients hold slices without a folder of the image between."""
FINDING = "layout"
"""Code of the finding by which the layout of a source is recorded."""
_NEAR = 3  # folders above a source that may name its dataset; further up a name is a coincidence
_RECORD = re.compile(r"level (-?[0-9]{1,3}) below the source, told by (headers|depth)$")

Told = Literal["headers", "depth"]


class Place(NamedTuple):
    """Names off the folders; empty where the layout does not tell."""

    dataset: str = ""
    patient: str = ""
    image: str = ""


class _Chain(NamedTuple):
    """The folders of a file. names: outermost first, with those above the source. above: how many these are.

    at: index of the patient's folder, one past the end and more where it is not reached; None: not told.
    told: by what; ``names`` is a known dataset or ``data_dir``. disagree: headers and names do.
    """

    names: list[str]
    above: int
    at: int | None
    told: Literal["names", "headers", "depth"]
    disagree: bool = False


class Layout:
    """The layout of one source.

    Args:
        pattern: such as ``{dataset}/{patient}/{image}/*``: a name or ``*`` a folder, ``*`` last for the file. One that
            is shorter than a path is of its end. ``none`` reads nothing. None: found out.
        source: what was handed over, opened or as a path; None where there is none to look at.
        record: message of the finding that an earlier run recorded for this source; then no file is looked at.

    Attributes:
        finding: what was found out about the source and is to be recorded; None where nothing was.

    Raises:
        UsageError: the pattern names something else.
    """

    def __init__(
        self,
        pattern: str | None = None,
        source: str | os.PathLike[str] | Source | None = None,
        record: str | None = None,
    ) -> None:
        self.pattern = pattern
        self.finding: Finding | None = None
        self._levels = check(pattern) if pattern not in (None, "none") else None
        self._above: list[str] = []
        self._packed = False
        self._level: int | None = 1
        self._told: Told = "depth"
        if source is None or pattern is not None:
            return
        root, label, self._packed = _handed_over(source)
        self._above = [*root.parts[1:-1], *label][-_NEAR - 1 :]
        recorded = _RECORD.search(record or "")
        if recorded:
            self._level = int(recorded[1])
            self._told = "headers" if recorded[2] == "headers" else "depth"
            return
        if root.is_dir():
            self._learn(list(samples.of_folder(root)))
        elif isinstance(source, str | os.PathLike):
            self._learn(list(samples.of_container(str(root))))
        else:
            self._learn(list(samples.of_source(source)))

    def place(self, path: str) -> Place:
        """The names of a file of slices, by its path inside the source; ``/`` between folders."""
        folders = path.split("/")[:-1]
        if self.pattern is not None:
            return _by_pattern(self._levels[:-1], folders) if self._levels is not None else Place()
        chain = self._chain(folders)
        place = _around(chain)
        if chain.at is None:
            return place
        below = len(chain.names) - chain.at
        if chain.told == "depth":
            return place if below == 2 else Place()
        if below > (1 if place.dataset.lower() in NO_LEVEL_OF_IMAGES else 2):
            sure = self._told == "headers" and self._level == chain.at - chain.above
            return Place(place.dataset, place.patient if sure else "")
        return place

    def beside(self, path: str, slices: Container[Place]) -> Place:
        """The names of a file of something else.

        Args:
            path: as for ``place``.
            slices: every name under which slices were found, and each without its image and its patient.
        """
        if self.pattern is not None:
            return self.place(path)
        place = _around(self._chain(path.split("/")[:-1]))
        for shorter in with_parents(place):
            if shorter in slices:
                return shorter
        return Place(place.dataset) if place.dataset.lower() in KNOWN_DATASETS else Place()

    # -- finding out ------------------------------------------------------------------------------

    def _chain(self, folders: Sequence[str]) -> _Chain:
        inside = _without_containers(folders)
        if self._packed and inside and inside[0] == self._above[-1]:
            return self._read_off(self._above[:-1], inside)  # one folder of its own name in it
        chain = self._read_off(self._above, inside)
        if self._packed and inside and chain.disagree:
            # The container may have a name that is no folder's, such as delivery_3.zip.
            other = self._read_off(self._above[:-1], inside)
            return chain if other.disagree else other
        return chain

    def _read_off(self, above: list[str], inside: list[str]) -> _Chain:
        names, start = [*above, *inside], len(above)
        by_level = start + self._level if self._level is not None else None
        by_name = _below_dataset(names, start)
        if by_name is None:
            return _Chain(names, start, by_level, self._told)
        if self._told == "headers" and by_level != by_name:
            # A source that is, or holds, a folder of that name holds the dataset all the same; a folder further up
            # may be called so by chance.
            return _Chain(names[:by_name], start, by_name if by_name >= start else None, "names", disagree=True)
        return _Chain(names, start, by_name, "names")

    def _learn(self, found: list[Sample]) -> None:
        if not found:
            return
        chains = [self._chain(sample.folders) for sample in found]
        inside = [Sample(tuple(c.names[c.above :]), s.patient, s.study) for c, s in zip(chains, found, strict=True)]
        matches = _named_by_patient(chains, found)
        told: Told = "headers"
        level = _agreed(matches, found)
        if level is None and not any(match is not None for match in matches):
            level = _patients_apart(inside)
            if _as_the_layout_is(inside) and level != 1:
                # Slices as deep as the layout says, and headers that tell no patients apart at its level: the layout
                # stands, unless they do so in the folders that would then be the datasets.
                level, told = None if level == 0 else 1, "depth"
        self._level, self._told = level, told if level is not None else "depth"
        if level is not None:
            message = f"the folders of the patients are those at level {level} below the source, told by {told}"
            sure = told == "headers"
            action = "names were read off them" + ("" if sure else "; if they are wrong, ingest with --layout")
            self.finding = Finding("info" if sure else "warning", FINDING, message, action)


def place(path: str, pattern: str | None = None) -> Place:
    """The names that a path alone tells; see ``Layout``."""
    return Layout(pattern).place(path)


def with_parents(place: Place) -> Iterable[Place]:
    """A place, and without its image, and without its patient: those of its folders."""
    return place, Place(place.dataset, place.patient), Place(place.dataset)


def check(pattern: str) -> list[str]:
    """The levels of a pattern.

    Raises:
        UsageError: it is none.
    """
    levels = [re.sub(r"^\{(.*)\}$", r"\1", level) for level in pattern.split("/")]
    named = [level for level in levels if level != "*"]
    if levels[-1] != "*" or len(set(named)) != len(named) or not set(named) <= set(FIELDS):
        raise UsageError(
            f"expected a layout such as {{dataset}}/{{patient}}/{{image}}/* or none, found {pattern!r}; "
            f"the names are {', '.join(FIELDS)}"
        )
    return levels


def _around(chain: _Chain) -> Place:
    """The names of the folders of a file, however deep it lies in them."""
    if chain.at is None or not 0 <= chain.at <= len(chain.names):
        return Place()
    dataset = chain.names[chain.at - 1] if chain.at else ""
    patient, image = (*chain.names[chain.at :], "", "")[:2]
    return Place(dataset, patient, "" if dataset.lower() in NO_LEVEL_OF_IMAGES else image)


def _handed_over(source: str | os.PathLike[str] | Source) -> tuple[Path, list[str], bool]:
    """Path of a source, its name as far as it stands for a folder, and whether it is a container."""
    if isinstance(source, str | os.PathLike):
        root = Path(os.path.abspath(source))  # noqa: PTH100  links are as the user named them
        label, packed = root.name, kinds.kind(root.name) is not None
    else:
        root = Path(getattr(source, "root", "") or source.label)
        label = source.label
        packed = isinstance(source, Packed) or bool(getattr(source, "packed", False))
    if root.is_dir():
        return root, [label], False
    return root, [kinds.stem(label)] if packed else [], packed


def _by_pattern(levels: Sequence[str], folders: Sequence[str]) -> Place:
    if len(folders) < len(levels):
        return Place()
    named = zip(levels, folders[len(folders) - len(levels) :], strict=True)
    return Place(**{level: folder for level, folder in named if level != "*"})


def _without_containers(folders: Sequence[str]) -> list[str]:
    """``scapis.7z`` as ``scapis``, and gone where the folder of that name, or a known one, stands inside it."""
    kept: list[str] = []
    for at, folder in enumerate(folders):
        stem = kinds.stem(folder)
        below = folders[at + 1] if at + 1 < len(folders) else None
        if stem != folder and below is not None and (stem == below or below.lower() in KNOWN_DATASETS):
            continue
        kept.append(stem)
    return kept


def _below_dataset(names: Sequence[str], above: int) -> int | None:
    """Index of the folder below that of a known dataset, or two below ``data_dir``; None where there is neither."""
    near = range(len(names) - 1, max(0, above - _NEAR) - 1, -1)
    known = next((n for n in near if names[n].lower() in KNOWN_DATASETS), None)
    if known is not None:
        return known + 1
    further = range(len(names) - 1, max(0, above - _NEAR - 1) - 1, -1)
    base = next((n for n in further if names[n].lower() == DATA_DIR), None)
    return base + 2 if base is not None else None


def _named_by_patient(chains: Sequence[_Chain], found: Sequence[Sample]) -> list[int | None]:
    """For each sample the level below the source (itself: -1) of the folder called by its Patient ID, if any is."""
    matches: list[int | None] = []
    called: set[str] = set()
    for chain, sample in zip(chains, found, strict=True):
        first = max(0, chain.above - _NEAR)
        at = [n for n in range(first, len(chain.names)) if sample.patient and _alike(chain.names[n], sample.patient)]
        matches.append(at[-1] - chain.above if at else None)
        called.update([sample.patient] if at else [])
    if len(called) == 1 and all(patient.isdigit() and len(patient) < 4 for patient in called):
        return [None] * len(found)  # patient 1 in a folder 1: as likely that of the first image
    return matches


def _alike(folder: str, patient: str) -> bool:
    # File systems differ in how they write an accented letter, and some do not tell cases apart.
    return _plain(folder) == _plain(patient)


def _plain(text: str) -> str:
    return unicodedata.normalize("NFC", text).casefold().strip()


def _agreed(matches: Sequence[int | None], found: Sequence[Sample]) -> int | None:
    """The one level at which folders are called by Patient IDs, for half of the files that have one at least."""
    levels = {match for match in matches if match is not None}
    if len(levels) != 1:
        return None
    identified = sum(bool(sample.patient) for sample in found)
    return levels.pop() if 2 * sum(match is not None for match in matches) >= identified else None


def _patients_apart(found: Sequence[Sample]) -> int | None:
    """The outermost level whose folders hold one Patient ID each, while a folder around them holds several."""
    found = [sample for sample in found if sample.patient]
    for level in range(max((len(sample.folders) for sample in found), default=0)):
        deep = [sample for sample in found if len(sample.folders) > level]
        of_folder: dict[tuple[str, ...], set[str]] = {}
        of_study: dict[str, set[tuple[str, ...]]] = {}
        below: dict[tuple[str, ...], set[str]] = {}
        for sample in deep:
            folder = sample.folders[: level + 1]
            of_folder.setdefault(folder, set()).add(sample.patient)
            below.setdefault(folder, set()).add("/".join(sample.folders[level + 1 : level + 2]))
            if sample.study:
                of_study.setdefault(sample.study, set()).add(folder)
        if any(len(patients) > 1 for patients in of_folder.values()):
            continue
        if len({sample.patient for sample in deep}) < 2 or any(len(folders) > 1 for folders in of_study.values()):
            return None
        # Folders with a single one in each may as well be datasets of one patient each.
        told = level > 0 or any(len(names) > 1 or "" in names for names in below.values())
        return level if told else None
    return None


def _as_the_layout_is(found: Sequence[Sample]) -> bool:
    """Slices three folders down, and none deeper."""
    return max(len(sample.folders) for sample in found) == len(FIELDS)
