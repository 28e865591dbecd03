"""From folders to a clean folder: every file under the policy, or held back and said so."""

from __future__ import annotations

import io
import json
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from dcmark.config import LIMITS, Limits
from dcmark.deid.apply import CleanFile, Deidentifier
from dcmark.engine import current
from dcmark.errors import DcmarkError, HeldBackError, OutputExistsError, StorageError
from dcmark.findings import Finding
from dcmark.progress import NoProgress, Progress
from dcmark.read import layouts
from dcmark.read.base import Item, Source
from dcmark.read.containers import load, open_source
from dcmark.read.sources.files import open_regular

UNIT_FILES, UNIT_BYTES = 64, 32 << 20
"""Files that a worker of an engine is given at once."""
_NAMES = ("file name", "folder[")
SYNC_EVERY = 256
"""Clean files between two syncs of the vault; they get their names only after it."""


_OF_ONE_SOURCE = Finding(
    "error",
    HeldBackError.code,
    "expected one source where there is a DICOMDIR, found several; make a new DICOMDIR for the clean files",
    "held back",
    "DICOMDIR",
)


@dataclass(slots=True)
class DeidentifyReport:
    """What a run did.

    Attributes:
        files: written.
        held_back: not written; each has a finding.
        renamed: files whose name, or the name of a folder above, became another.
        actions: how often each was done to an attribute, or to a name.
        findings: why files were held back.
    """

    files: int = 0
    held_back: int = 0
    renamed: int = 0
    actions: Counter[str] = field(default_factory=Counter)
    findings: list[Finding] = field(default_factory=list)


def deidentify_folders(
    sources: Sequence[str | os.PathLike[str]],
    out: str | os.PathLike[str],
    deidentifier: Deidentifier,
    *,
    layout: str | None = None,
    log: str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
    limits: Limits = LIMITS,
) -> DeidentifyReport:
    """Write clean copies of all DICOM files of the sources.

    Args:
        sources: folders, files, zip, tar, 7z.
        out: an empty or new folder.
        layout: as for ``ingest``: which folder is the patient's.
        log: a JSON line a file: clean name, then attribute and action for each change, never a value; ``file name``
            and ``folder[n]``, counted from the top, for names.

    Raises:
        OutputExistsError: something stands where the output should go.
        StorageError: the disk is full or refuses.
        SourceError: a source is not there.
    """
    place = Path(out)
    if place.is_file() or (place.is_dir() and any(place.iterdir())):
        raise OutputExistsError(
            f"expected an empty or new folder at {place}; found files; choose another, or remove it where a run was "
            "interrupted"
        )
    report = DeidentifyReport()
    progress = progress or NoProgress()
    opened = [open_source(source, containers="open", limits=limits) for source in sources]
    progress.start("deidentify", None)
    try:
        place.mkdir(parents=True, exist_ok=True)
        writer = _Writer(place, deidentifier, Path(log) if log is not None else None)
        with writer:
            for source in opened:
                folders = layouts.Layout(layout, source)
                for made, size in _made(source, deidentifier, folders, limits):
                    if isinstance(made, Finding):
                        _hold(report, made)
                    elif len(opened) > 1 and made.path.rpartition("/")[2] == "DICOMDIR":
                        _hold(report, _OF_ONE_SOURCE)  # files of several sources may have come under one name
                    else:
                        writer.write(made)
                        report.files += 1
                        report.actions.update(change.action for change in made.changes)
                        report.renamed += any(change.path.startswith(_NAMES) for change in made.changes)
                    if size is not None:
                        progress.advance(1, size)
    except OSError as error:
        raise StorageError(
            f"expected to write to {place}; the disk is full or refuses; nothing half is left"
        ) from error
    finally:
        progress.finish()
    return report


_Made = tuple[CleanFile | Finding, int | None]
"""A clean file or why there is none, and the size of the file it was made from; None for a finding of the source."""


def _made(source: Source, deidentifier: Deidentifier, layout: layouts.Layout, limits: Limits) -> Iterator[_Made]:
    """The files of a source made clean, in its order."""
    engine = current()
    if engine is None:
        for found in source.items():
            if isinstance(found, Finding):
                yield found, None
            else:
                yield _one(found, deidentifier, layout, limits), found.size or 0
        return
    # The secret goes to the workers, the vault stays here: it has one writer.
    worker = partial(Deidentifier, deidentifier.profile, deidentifier.key, None, limits, deidentifier.recipients)
    work = partial(_unit, partial(worker, text=deidentifier.text), layout, limits)
    for some in engine.map(work, _units(source, limits)):
        for made, size in some:
            if isinstance(made, CleanFile):
                deidentifier.keep(made)
            yield made, size


def _units(source: Source, limits: Limits) -> Iterator[list[Item | Finding]]:
    """Files some at a time; those that only this process can open as their bytes."""
    some: list[Item | Finding] = []
    nbytes = 0
    for found in source.items():
        if isinstance(found, Item) and not _travels(found):
            some.append(_loaded(found, limits))
        else:
            some.append(found)
        nbytes += (found.size or 0) if isinstance(found, Item) else 0
        if len(some) >= UNIT_FILES or nbytes >= UNIT_BYTES:
            yield some
            some, nbytes = [], 0
    if some:
        yield some


def _travels(item: Item) -> bool:
    """Can another process open it? A file can; a member of a container that is open here cannot."""
    return not item.sequential and isinstance(item.open, partial) and item.open.func is open_regular


def _loaded(item: Item, limits: Limits) -> Item | Finding:
    try:
        with load(item, limits) as buffer:
            data = bytes(buffer.data)
    except (DcmarkError, OSError) as error:
        return Finding("error", getattr(error, "code", "unreadable"), "the file cannot be read", "held back", item.path)
    return replace(item, size=len(data), sequential=False, open=partial(io.BytesIO, data))


def _unit(
    make: Callable[[], Deidentifier], layout: layouts.Layout, limits: Limits, some: list[Item | Finding]
) -> list[_Made]:
    """In a worker: some files made clean."""
    deidentifier = make()
    return [
        (one, None) if isinstance(one, Finding) else (_one(one, deidentifier, layout, limits), one.size or 0)
        for one in some
    ]


def _hold(report: DeidentifyReport, finding: Finding) -> None:
    report.held_back += finding.level == "error"
    report.findings.append(finding)


def _one(item: Item, deidentifier: Deidentifier, layout: layouts.Layout, limits: Limits) -> CleanFile | Finding:
    try:
        with load(item, limits) as buffer:
            patient = layout.place(item.path).patient
            return deidentifier.file(buffer.data, item.path, patient, lambda path: layout.place(path).patient)
    except HeldBackError as error:
        return Finding("error", error.code, str(error), "held back", item.path)
    except StorageError:
        raise
    except (DcmarkError, OSError) as error:
        code = getattr(error, "code", "unreadable")
        return Finding("error", code, "the file cannot be read", "held back", item.path)


class _Writer:
    """Writes under draft names and gives the real ones after the vault is durable: what is there can be led back."""

    def __init__(self, place: Path, deidentifier: Deidentifier, log: Path | None) -> None:
        self._place, self._deidentifier = place, deidentifier
        self._log = log.open("x", encoding="utf-8") if log is not None else None
        self._drafts: list[tuple[Path, Path]] = []
        self._taken: set[Path] = set()

    def __enter__(self) -> _Writer:
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        if kind is None:
            self._name()
        for draft, _ in self._drafts:
            draft.unlink(missing_ok=True)
        if self._log is not None:
            self._log.close()

    def write(self, made: CleanFile) -> None:
        """Write one file."""
        target = self._free(self._place.joinpath(*made.path.split("/")))
        target.parent.mkdir(parents=True, exist_ok=True)
        draft = target.with_name(f".{target.name}.draft")
        self._drafts.append((draft, target))
        draft.write_bytes(made.data)
        if self._log is not None:
            said = {"file": target.relative_to(self._place).as_posix(), "changes": [list(c) for c in made.changes]}
            self._log.write(json.dumps(said) + "\n")
        if len(self._drafts) >= SYNC_EVERY:
            self._name()

    def _free(self, target: Path) -> Path:
        """Two names may become one: then a number tells them apart."""
        chosen, number = target, 1
        while chosen in self._taken:
            number += 1
            chosen = target.with_name(f"{target.stem}-{number}{target.suffix}")
        self._taken.add(chosen)
        return chosen

    def _name(self) -> None:
        self._deidentifier.sync()
        for draft, target in self._drafts:
            draft.replace(target)
        self._drafts.clear()
