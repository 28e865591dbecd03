"""What all formats share: the protocol, the context of an exchange, and errors that name file and place."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

from dcmark.annotate.model import Annotation, Label, LabelSet
from dcmark.annotate.pictures import Pictures
from dcmark.annotate.places import Places
from dcmark.archive.store import Archive
from dcmark.archive.volumes import StoredVolume
from dcmark.config import LIMITS, Limits
from dcmark.errors import DcmarkError, LimitError, SourceError, UsageError
from dcmark.findings import Finding

LARGEST_TEXT = 1 << 30
"""Bytes of a text file (JSON, XML, CSV) that is read."""
MOST_LABELS = 65_535


@dataclass(eq=False)
class Context:
    """Where annotations come from or go to.

    Attributes:
        archive: it.
        view: folder or ``view.json`` of an export, so that pixels of its pictures map back to frames; None: pictures
            are the frames themselves.
        volumes: ids of volumes that masks may belong to; empty: any.
        author: of imported annotations where the file names none.
        options: of the format, by name.
        limits: what hostile input may cost.
    """

    archive: Archive
    view: Path | None = None
    volumes: tuple[str, ...] = ()
    author: str = ""
    options: dict[str, str] = field(default_factory=dict)
    limits: Limits = LIMITS

    @cached_property
    def places(self) -> Places:
        """Where frames stand."""
        return Places(self.archive)

    @cached_property
    def pictures(self) -> Pictures:
        """Names of pictures and what they show."""
        return Pictures(self.places, self.view)

    def candidates(self, found: Sequence[StoredVolume] = ()) -> list[StoredVolume]:
        """Volumes a mask may belong to: those the user named, else those found, else all."""
        if self.volumes:
            unknown = [name for name in self.volumes if name not in self.places.volumes]
            if unknown:
                raise UsageError(
                    f"expected ids of volumes, found {unknown[0]!r}; list them with: dcmark ls ARCHIVE volumes"
                )
            return [self.places.volumes[name] for name in self.volumes]
        return list(found) or list(self.places.volumes.values())

    def likeness(self, source: Path) -> Callable[[StoredVolume], int]:
        """How much a volume looks like the one that a file belongs to, where several stand on its grid.

        By names: of the patient, study, series or volume in the path of the file. Images are DICOM rather than other
        arrays, and never the file itself, should it have been ingested beside them.
        """
        words = {part.lower() for part in source.absolute().parts}

        def score(volume: StoredVolume) -> int:
            row = self.places.file(volume.frames[0].file)
            names = [row[key] for key in ("patient", "patient_id", "study_instance_uid", "series_instance_uid")]
            named = [name.lower() for name in (*names, volume.id) if name]
            hints = sum(name in words or name in source.name.lower() for name in named)
            itself = bool(row["path"].rpartition("/")[2] == source.name)
            return 4 * hints + 2 * bool(row["kind"] == "dicom") - 100 * itself

        return score


@dataclass(slots=True)
class Imported:
    """What a file held.

    Attributes:
        annotations: ready to be added.
        label_sets: that came with them.
        findings: what could not be taken over, and why.
    """

    annotations: list[Annotation] = field(default_factory=list)
    label_sets: list[LabelSet] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)


@dataclass(slots=True)
class Written:
    """What an export wrote.

    Attributes:
        files: paths.
        meant: what reading them has to give: the annotations as the format can hold them.
        findings: annotations it cannot hold, and what is lost of others.
        tolerance: how far points may move, pixels.
        exact_labels: labels come back with their codes, not just their names.
    """

    files: list[Path] = field(default_factory=list)
    meant: list[Annotation] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    tolerance: float = 1e-3
    exact_labels: bool = False

    def leave_out(self, annotation: Annotation, reason: str) -> None:
        """Record an annotation that the format cannot hold."""
        text = f"{annotation.kind} {annotation.id[:8]}: {reason}"
        self.findings.append(Finding("warning", "left-out", text, "not exported"))


class AnnotationFormat(Protocol):
    """A format; entry-point group ``dcmark.annotation_formats`` names a class that is made without arguments.

    Contract:
        - ``read`` never changes the archive; malformed input raises SourceError with file and place, and nothing else
          is raised for the content of a file but LimitError, UsageError (nothing fits) and UnsupportedError;
        - ``write`` writes under ``out`` only, and says in ``meant`` what ``read`` of its files has to give.
    """

    name: str
    suffixes: tuple[str, ...]
    """Ends of the names of files that ``read`` takes when it is given a folder; empty: it takes the folder itself."""

    def read(self, source: Path, context: Context) -> Imported:
        """What a file (or a folder, see ``suffixes``) holds."""
        ...

    def write(self, annotations: Sequence[Annotation], out: Path, context: Context) -> Written:
        """Write annotations into the folder ``out``."""
        ...


_MALFORMED = (
    ValueError, KeyError, TypeError, AttributeError, IndexError, OverflowError, RecursionError, ArithmeticError,
    EOFError, NotImplementedError, struct.error, AssertionError, UnicodeError,
)  # fmt: skip


@contextmanager
def reading_file(what: str, name: str) -> Iterator[None]:
    """Whatever malformed content raises inside the block becomes a SourceError that names the file.

    Args:
        what: was expected, e.g. ``a DICOM segmentation``.
        name: of the file, without its folders.
    """
    try:
        yield
    except DcmarkError as error:
        if isinstance(error, SourceError | UsageError | LimitError) and name in str(error):
            raise
        raise type(error)(f"{name}: {error}") if type(error).__init__ is Exception.__init__ else error from error
    except OSError as error:
        raise SourceError(f"{name}: expected to read it, found it unreadable ({error.strerror or error})") from error
    except MemoryError as error:
        raise LimitError(f"{name}: expected {what} that fits into memory, found a larger one") from error
    except _MALFORMED as error:
        reason = type(error).__name__
        raise SourceError(f"{name}: expected {what}, found content that makes no sense ({reason})") from error


def malformed(name: str, place: str, expected: str, found: str = "something else") -> SourceError:
    """An error about a place in a file."""
    return SourceError(f"{name}, {place}: expected {expected}, found {found}")


def read_text(source: Path) -> str:
    """A text file, UTF-8.

    Raises:
        SourceError: it is not UTF-8; LimitError: it is too large.
    """
    if source.stat().st_size > LARGEST_TEXT:
        raise LimitError(f"{source.name}: expected at most {LARGEST_TEXT} bytes, found more")
    data = source.read_bytes()
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise malformed(source.name, f"byte {error.start}", "UTF-8 text") from error


def read_json(source: Path) -> Any:
    """A JSON file.

    Raises:
        SourceError: with line and column of what is wrong.
    """
    text = read_text(source)
    try:
        return json.loads(text, parse_constant=_no_constant)
    except RecursionError as error:
        raise malformed(source.name, "somewhere", "JSON of sane depth", "objects nested too deeply") from error
    except json.JSONDecodeError as error:
        raise malformed(source.name, f"line {error.lineno} column {error.colno}", "JSON", error.msg) from error
    except ValueError as error:
        raise SourceError(f"{source.name}: expected JSON with finite numbers, found {error}") from error


def _no_constant(text: str) -> Any:
    raise ValueError(text)


class Reader:
    """Looks into parsed JSON and says where it was not as expected: ``file.json, images[3].width: expected ...``."""

    def __init__(self, name: str, value: Any, place: str = "") -> None:
        self.name, self.value, self.place = name, value, place

    def fail(self, expected: str) -> SourceError:
        """An error about this place."""
        found = "nothing" if self.value is None else f"a {type(self.value).__name__}"
        return malformed(self.name, self.place or "the root", expected, found)

    def __contains__(self, key: str) -> bool:
        return isinstance(self.value, dict) and self.value.get(key) is not None

    def at(self, key: str) -> Reader:
        """A member of an object; nothing where it is absent."""
        if not isinstance(self.value, dict):
            raise self.fail("an object")
        return Reader(self.name, self.value.get(key), f"{self.place}.{key}" if self.place else key)

    def items(self) -> list[Reader]:
        """Members of a list."""
        if not isinstance(self.value, list):
            raise self.fail("a list")
        return [Reader(self.name, one, f"{self.place}[{i}]") for i, one in enumerate(self.value)]

    def text(self, default: str | None = None) -> str:
        """A text."""
        if self.value is None and default is not None:
            return default
        if not isinstance(self.value, str):
            raise self.fail("text")
        return self.value

    def number(self, default: float | None = None) -> float:
        """A finite number."""
        if self.value is None and default is not None:
            return default
        good = isinstance(self.value, int | float) and not isinstance(self.value, bool)
        if not good or not abs(self.value) < 1e15:
            raise self.fail("a finite number")
        return float(self.value)

    def whole(self, low: int = 0, high: int = 1 << 40) -> int:
        """A whole number from ``low`` to ``high``."""
        number = self.number()
        if number != int(number) or not low <= number <= high:
            raise self.fail(f"a whole number from {low} to {high}")
        return int(number)

    def numbers(self, count: int | None = None) -> list[float]:
        """A list of finite numbers."""
        found = [one.number() for one in self.items()]
        if count is not None and len(found) != count:
            raise malformed(self.name, self.place, f"{count} numbers", f"{len(found)}")
        return found


def chosen_labels(annotations: Sequence[Annotation]) -> list[Label]:
    """The labels used, each name once, in the order of their names; the first that is coded stands for its name."""
    found: dict[str, Label] = {}
    for one in annotations:
        known = found.get(one.label.name)
        if known is None or (known.code is None and one.label.code is not None):
            found[one.label.name] = one.label
    return [found[name] for name in sorted(found)]


def renamed(annotation: Annotation, **changes: Any) -> Annotation:
    """A copy under a new id that says what it was made from: for what a format holds in another kind."""
    import uuid

    return replace(annotation, id=uuid.uuid4().hex, derived_from=(annotation.id,), **changes)


def safe_stem(text: str) -> str:
    """A file name without surprises."""
    kept = "".join(c if (c.isalnum() and c.isascii()) or c in "-_." else "_" for c in text).strip(".")
    return kept[:100] or "unnamed"
