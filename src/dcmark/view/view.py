"""A view: a recorded selection of frames and how they are rendered, from which training data is written.

    view = View(where="modality = 'CT'", windows=("lung",), size=256, labels="body_part_examined")
    plan(archive, view)            # view.render: what there is, without touching a pixel

It is plain data: saved as JSON, and named by a hash of that. The same version of an archive and the same view give the
same bytes, on any number of workers.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal, get_args

from dcmark.errors import SourceError, UsageError
from dcmark.read.windows import NAMED, Window

Bits = Literal[8, 16, 32]
Crop = Literal["", "body"]
Orientation = Literal["stored", "standard"]
VERSION = 1
LONGEST_JSON = 4 << 20
LARGEST_SIZE = 16384
MOST_CHANNELS = 16
_CENTRE_WIDTH = re.compile(r"(-?\d+(?:\.\d+)?)/(\d+(?:\.\d+)?)")
_PERCENTILES = re.compile(r"p(\d+(?:\.\d+)?)-(\d+(?:\.\d+)?)")


@dataclass(frozen=True, slots=True)
class Splits:
    """How persons are divided into parts; see ``view.split``.

    Attributes:
        fractions: of the persons, by name of the part; they add up to 1.
        stratify: SQL expression over the view ``files`` whose values every part gets alike; empty: none.
        same_person: SQL expressions over ``files``: files that agree in one belong to one person, beside those that
            agree in patient ID or patient folder.
        seed: of the draw.
    """

    fractions: tuple[tuple[str, float], ...]
    stratify: str = ""
    same_person: tuple[str, ...] = ()
    seed: int = 0

    def __post_init__(self) -> None:
        names = [name for name, _ in self.fractions]
        good = len(set(names)) == len(names) and all(re.fullmatch(r"[\w-]{1,40}", name) for name in names)
        if not names or not good or any(not 0 < share <= 1 for _, share in self.fractions):
            raise UsageError(f"expected parts with names and shares such as train=0.8,test=0.2; found {self.fractions}")
        if abs(sum(share for _, share in self.fractions) - 1) > 1e-6:
            raise UsageError(f"expected shares that add up to 1; found {sum(share for _, share in self.fractions):g}")


@dataclass(frozen=True, slots=True)
class View:
    """Which frames, and how they become images.

    Attributes:
        where: SQL condition over the view ``files``; None: all files with pictures.
        every: of each volume (or series without one) the first of so many slices.
        gap_free: only slices of volumes on a regular grid, none missing.
        annotated: only frames that carry an annotation of this label, ``*`` for any; empty: all frames.
        quantity: physical quantity, see docs/reference/values.md; None for the first that the header defines.
        windows: one a channel: a named CT window, ``CENTRE/WIDTH`` in the unit of the quantity, ``pLOW-HIGH``
            (percentiles of the volume), or ``header`` (the header's first, else percentiles). With ``bits`` 32 and no
            window, physical values.
        colour: three channels, red, green and blue; windows then apply to grey frames only.
        crop: ``body``: the box around what is not background, the same for all slices of a volume.
        crop_mm: (rows, columns): a box of this size in mm about the middle of the frame, or of the body.
        spacing: of pixels in the image, mm; None: as ``size`` has it, else that of the frame.
        size: (rows, columns) of the image, pixels. Without ``spacing`` the whole box is fitted into it, its shape in
            mm kept; with it, the image is cut or padded about the middle.
        orientation: ``standard``: turned so that columns run to the patient's left (to the back in sagittal slices) and
            rows to the back (to the feet in coronal and sagittal slices), as pictures are looked at.
        bits: 8, 16 or 32 (float).
        background: brightness where there is no frame and where a pixel has no value, 0 to 1.
        labels: SQL expression over ``files``, or ``annotation:A|B|...`` for labels by annotation; empty: none.
        splits: division by person; None: no parts.
        part: only images of this part; empty: all.
    """

    where: str | None = None
    every: int = 1
    gap_free: bool = False
    annotated: str = ""
    quantity: str | None = None
    windows: tuple[str, ...] = ("header",)
    colour: bool = False
    crop: Crop = ""
    crop_mm: tuple[float, float] | None = None
    spacing: float | None = None
    size: tuple[int, int] | None = None
    orientation: Orientation = "stored"
    bits: Bits = 8
    background: float = 0.0
    labels: str = ""
    splits: Splits | None = None
    part: str = ""

    def __post_init__(self) -> None:
        if self.bits not in get_args(Bits):
            raise UsageError(f"expected 8, 16 or 32 bits; found {self.bits}")
        if self.crop not in get_args(Crop):
            raise UsageError(f"expected body for crop; found {self.crop!r}")
        if self.orientation not in get_args(Orientation):
            raise UsageError(f"expected stored or standard for orientation; found {self.orientation!r}")
        if self.every < 1:
            raise UsageError(f"expected every 1st slice or rarer; found {self.every}")
        if self.size is not None and not all(1 <= side <= LARGEST_SIZE for side in self.size):
            raise UsageError(f"expected sides from 1 to {LARGEST_SIZE} pixels; found {self.size}")
        if self.spacing is not None and not 1e-3 <= self.spacing <= 1e3:
            raise UsageError(f"expected a spacing from 0.001 to 1,000 mm; found {self.spacing}")
        if self.crop_mm is not None and not all(1e-3 <= side <= 1e5 for side in self.crop_mm):
            raise UsageError(f"expected a box from 0.001 to 100,000 mm; found {self.crop_mm}")
        if not 0 <= self.background <= 1:
            raise UsageError(f"expected a background from 0 (black) to 1 (white); found {self.background}")
        if len(self.windows) > MOST_CHANNELS or (not self.windows and self.bits != 32):
            raise UsageError(
                f"expected 1 to {MOST_CHANNELS} windows (none only with 32 bits); found {len(self.windows)}"
            )
        for window in self.windows:
            window_named(window)
        if self.part and (self.splits is None or self.part not in dict(self.splits.fractions)):
            known = ", ".join(dict(self.splits.fractions)) if self.splits else "none: the view has no splits"
            raise UsageError(f"expected the name of a part ({known}); found {self.part!r}")

    @property
    def channels(self) -> int:
        """Of an image."""
        return 3 if self.colour else max(1, len(self.windows))

    def as_dict(self) -> dict[str, Any]:
        """The view as plain data."""
        return {"dcmark_view": VERSION, **json.loads(json.dumps(asdict(self)))}

    @classmethod
    def from_dict(cls, found: Mapping[str, Any]) -> View:
        """A view out of plain data, taken as hostile.

        Raises:
            UsageError: something in it is not what a view has.
        """
        version = found.get("dcmark_view")
        if version != VERSION:
            raise UsageError(f"expected a view of version {VERSION} (dcmark_view); found {version!r}")
        known = {one.name for one in fields(cls)}
        plain = {name: value for name, value in found.items() if name != "dcmark_view"}
        if unknown := sorted(plain.keys() - known):
            raise UsageError(
                f"expected the fields of a view; found {unknown[0]!r}; known are {', '.join(sorted(known))}"
            )
        try:
            return cls(**{name: _READ[name](value) for name, value in plain.items()})
        except (TypeError, ValueError, KeyError, AttributeError) as error:
            raise UsageError(f"expected a view as dcmark writes it; found a field of another kind ({error})") from error

    @property
    def hash(self) -> str:
        """SHA-256 of the view, hexadecimal: the same for equal views on every machine."""
        text = json.dumps(self.as_dict(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()

    def save(self, place: Path) -> None:
        """Write the view as JSON."""
        place.write_text(json.dumps(self.as_dict(), indent=2) + "\n", "utf-8")

    def of_part(self, part: str) -> View:
        """The same view, of one part only."""
        return replace(self, part=part)


def load_view(place: Path | str) -> View:
    """A view from its JSON file, or from the ``view.json`` beside exported data.

    Raises:
        SourceError: there is none to be read.
        UsageError: it is none.
    """
    place = Path(place)
    try:
        if place.stat().st_size > LONGEST_JSON:
            raise SourceError(f"expected a view of at most {LONGEST_JSON} bytes at {place}; found a larger file")
        found = json.loads(place.read_bytes())
    except OSError as error:
        raise SourceError(f"expected a view at {place}; it cannot be read ({error.strerror})") from error
    except (ValueError, RecursionError) as error:
        raise SourceError(f"expected a view as JSON at {place}; found something else") from error
    if isinstance(found, dict) and isinstance(found.get("view"), dict):
        found = found["view"]
    if not isinstance(found, dict):
        raise SourceError(f"expected a JSON object at {place}; found something else")
    return View.from_dict(found)


@dataclass(frozen=True, slots=True)
class Percentiles:
    """A window between percentiles of the values of a volume, percent."""

    low: float
    high: float


def window_named(text: str) -> Window | Percentiles | None:
    """A window as a view names it; None for the header's.

    Raises:
        UsageError: it is none.
    """
    word = text.strip().lower()
    if word == "header":
        return None
    if word in NAMED:
        return NAMED[word]
    plain = word.replace(" ", "")
    if (found := _CENTRE_WIDTH.fullmatch(plain)) and float(found[2]) >= 1:
        return Window(float(found[1]), float(found[2]))
    if (found := _PERCENTILES.fullmatch(plain)) and 0 <= float(found[1]) < float(found[2]) <= 100:
        return Percentiles(float(found[1]), float(found[2]))
    raise UsageError(
        f"expected {', '.join(NAMED)}, header, CENTRE/WIDTH such as -600/1500, or pLOW-HIGH such as p0.5-99.5; "
        f"found {text!r}"
    )


# Reading fields of JSON: each raises where the value is of another kind ---------------------------------------------


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError("a text")
    return value


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError("a number")
    return float(value)


def _whole(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError("a whole number")
    return value


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise TypeError("true or false")
    return value


def _pair(read: Any) -> Any:
    def pair(value: Any) -> Any:
        if value is None:
            return None
        first, second = value
        return read(first), read(second)

    return pair


def _maybe(read: Any) -> Any:
    return lambda value: None if value is None else read(value)


def _splits(value: Any) -> Splits | None:
    if value is None:
        return None
    return Splits(
        tuple((_text(name), _number(share)) for name, share in value["fractions"]),
        _text(value.get("stratify", "")),
        tuple(_text(one) for one in value.get("same_person", ())),
        _whole(value.get("seed", 0)),
    )


_READ: dict[str, Any] = {
    "where": _maybe(_text),
    "every": _whole,
    "gap_free": _flag,
    "annotated": _text,
    "quantity": _maybe(_text),
    "windows": lambda value: tuple(_text(one) for one in value),
    "colour": _flag,
    "crop": _text,
    "crop_mm": _pair(_number),
    "spacing": _maybe(_number),
    "size": _pair(_whole),
    "orientation": _text,
    "bits": _whole,
    "background": _number,
    "labels": _text,
    "splits": _splits,
    "part": _text,
}
