"""Headers of a few files spread over a source, to learn what its folders stand for."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import BinaryIO, NamedTuple, TypeVar

from dcmark.config import LIMITS, Limits
from dcmark.errors import DcmarkError
from dcmark.read.base import Item, Source
from dcmark.read.dicom import DicomReader
from dcmark.read.sources import kinds
from dcmark.read.sources.files import open_regular

_HEAD = 1 << 16  # bytes read of a file
_DEPTH = 8  # levels of folders looked into
_WIDTH = 6  # folders looked into of those in one folder
_MOST = 36  # folders looked into on one level, or of a container
_TRIES = 8  # files looked into in one folder, until one says whose it is
_CONTAINERS = 3  # containers looked into in one folder
_NAMES = 100_000  # members of a container whose names are looked at
_PASSED = 64  # members of a stream read past, since those before have to be unpacked

_T = TypeVar("_T")


class Sample(NamedTuple):
    """What the header of one file says, and the folders it lies in.

    Attributes:
        folders: inside the source, the outermost first; containers count as folders.
        patient, study: Patient ID and Study Instance UID (PS3.3 C.7.1.1, C.7.2.1); empty where absent.
    """

    folders: tuple[str, ...]
    patient: str
    study: str


def of_folder(root: Path, limits: Limits = LIMITS) -> Iterator[Sample]:
    """Samples of a folder, spread over its tree; the same ones as long as it stays as it is."""
    level: list[tuple[Path, tuple[str, ...]]] = [(root, ())]
    for _ in range(_DEPTH):
        below: list[tuple[Path, tuple[str, ...]]] = []
        for folder, names in _spread(level, _MOST):
            try:
                with os.scandir(folder) as scan:
                    entries = sorted(scan, key=lambda entry: entry.name)
            except OSError:
                continue
            files = [entry for entry in entries if entry.is_file(follow_symlinks=False)]
            yield from _first(names, (partial(open_regular, file.path) for file in _spread(files, _TRIES)))
            for packed in _spread([file for file in files if kinds.kind(file.name)], _CONTAINERS):
                for sample in of_container(packed.path, limits):
                    yield sample._replace(folders=(*names, packed.name, *sample.folders))
            inside = [entry for entry in entries if entry.is_dir(follow_symlinks=False)]
            below += [(Path(entry.path), (*names, entry.name)) for entry in _spread(inside, _WIDTH)]
        level = below


def of_container(path: str, limits: Limits = LIMITS) -> Iterator[Sample]:
    """Samples of a container; none where it cannot be opened, which is told when it is read."""
    from dcmark.read.containers import open_source

    try:
        yield from of_source(open_source(path, limits=limits))
    except (DcmarkError, OSError):
        return


def of_source(source: Source) -> Iterator[Sample]:
    """Samples of the items of a source; of a stream only from its beginning."""
    waiting: dict[tuple[str, ...], list[Callable[[], BinaryIO]]] = {}
    done: set[tuple[str, ...]] = set()
    with closing(_generator(source)) as items:
        for count, item in enumerate(items):
            if count >= (_PASSED if item.sequential else _NAMES):
                break
            folders = tuple(item.path.split("/")[:-1])
            if not item.sequential:
                files = waiting.setdefault(folders, [])
                if len(files) < _TRIES:
                    files.append(item.open)
            elif folders not in done:
                for sample in _first(folders, [item.open]):
                    done.add(folders)
                    yield sample
        for folders, files in _spread(list(waiting.items()), _MOST):
            yield from _first(folders, files)


def _generator(source: Source) -> Generator[Item, None, None]:
    yield from (found for found in source.items() if isinstance(found, Item))


def _first(folders: tuple[str, ...], files: Iterable[Callable[[], BinaryIO]]) -> Iterator[Sample]:
    """The first file that says whose it is, else the first that is DICOM at all."""
    nameless: Sample | None = None
    for opening in files:
        sample = _read(folders, opening)
        if sample is not None and sample.patient:
            yield sample
            return
        nameless = nameless or sample
    if nameless is not None:
        yield nameless


def _read(folders: tuple[str, ...], opening: Callable[[], BinaryIO]) -> Sample | None:
    try:
        with opening() as stream:
            head = memoryview(stream.read(_HEAD))
    except (DcmarkError, OSError):
        return None
    reader = DicomReader()
    if not reader.claims(head[:4096], ""):
        return None
    found = reader.take_apart(head, "")
    if found.kind == "dicomdir" or not found.tags:
        return None
    return Sample(folders, str(found.tags.get("patient_id") or ""), str(found.tags.get("study_instance_uid") or ""))


def _spread(of: list[_T], most: int) -> list[_T]:
    """At most ``most``, evenly over the whole: the first and the last are always among them."""
    if len(of) <= most:
        return of
    return [of[round(n * (len(of) - 1) / (most - 1))] for n in range(most)]
