"""What becomes of each attribute: the standard's profile, its options and a site's own rules, as data.

A profile is read from a name (``basic``, ``basic+dates-modified+patient``) or from a TOML file::

    name = "scapis"
    options = ["dates-modified", "patient"]
    patient = "SCAPIS-{0001}"          # pattern of pseudonyms; {0001} counts, {hash} is the key's
    largest_age = 89                   # years; older becomes this
    folders = ["scapis"]               # names of folders that stay as they are

    [rules]
    StationName = "keep"               # by keyword or by eight hexadecimal digits
    "00081030" = "remove"

    [[regions]]                        # masked without a look (see deid.pixels): where a device writes names
    manufacturer = "Philips Medical Systems"
    model = "iU22"                     # either may be left out
    rows = 600
    columns = 800
    boxes = [[0, 0, 60, 800]]          # top, left, bottom, right; the last two excluded

    [private]                          # kept under the option private: creator, then group and elements
    "SIEMENS CT VA0  COAD" = ["0019:10", "0019:11"]
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, cast, get_args

from dcmark.deid.pixels.detector import Box
from dcmark.deid.pixels.policy import Region
from dcmark.errors import UsageError
from dcmark.standard.confidentiality import OPTIONS, Rule, rules

Action = Literal["keep", "remove", "empty", "replace", "uid", "shift", "clean"]
"""keep as it is; remove the element; empty its value; replace it by a dummy; another UID; a shifted date; only what
identifies taken out of a text, or the elements of a sequence treated one by one."""

PATTERN = re.compile(r"^[^{}\\^=]*\{(0*1|hash)\}[^{}\\^=]*$")
_BASIC: Mapping[str, Action] = {
    # Where the standard leaves the choice to the type of the attribute in its object, what is valid in every object.
    "X": "remove",
    "Z": "empty",
    "D": "replace",
    "U": "uid",
    "X/Z": "empty",
    "X/D": "replace",
    "Z/D": "replace",
    "X/Z/D": "replace",
    "X/Z/U*": "clean",
}
META_KEPT = frozenset({0x00020001, 0x00020002, 0x00020003, 0x00020010, 0x00020012, 0x00020013})
"""File meta information that stays: version, class, instance (another UID), syntax, implementation (PS3.10 7.1)."""
PATIENT_ID, PATIENT_NAME = 0x00100020, 0x00100010
FILE_SET_ID, FILE_SET_DESCRIPTOR, FILE_SET_CHARSET = 0x00041130, 0x00041141, 0x00041142


@dataclass(frozen=True)
class Profile:
    """A policy.

    Attributes:
        name: as given.
        options: names of ``standard.confidentiality.OPTIONS`` that apply.
        own: a site's rules, by tag; they win over the standard's.
        patient: pattern of pseudonyms; ``{0001}`` counts patients, ``{hash}`` derives from the key alone.
        largest_age: years; an older patient's age becomes this. Used where ages stay.
        folders: names of folders that identify nobody and stay.
        regions: of pictures, where devices write what identifies.
        private: kept private elements: creator, then (group, low byte of the element); with option ``private``.
    """

    name: str
    options: frozenset[str] = frozenset()
    own: Mapping[int, Action] = field(default_factory=dict)
    patient: str = "P-{hash}"
    largest_age: int = 89
    folders: frozenset[str] = frozenset()
    private: Mapping[str, frozenset[tuple[int, int]]] = field(default_factory=dict)
    regions: tuple[Region, ...] = ()

    @cached_property
    def actions(self) -> dict[int, Action]:
        """Action by tag; what is not named here stays if the standard knows it and goes if it is private or unknown."""
        found = {int(rule.tag, 16): self._chosen(rule) for rule in rules() if "x" not in rule.tag}
        found[PATIENT_ID] = found[PATIENT_NAME] = "replace"
        # What the table passes over: names that people give to a set of files (PS3.3 F.3.2.1).
        found[FILE_SET_ID], found[FILE_SET_DESCRIPTOR], found[FILE_SET_CHARSET] = "empty", "remove", "remove"
        return {**found, **self.own}

    @cached_property
    def _repeating(self) -> list[tuple[int, int, Action]]:
        """(mask, tag, action) of groups that repeat: curves 50xx, overlays 60xx.

        What is drawn in them is dots: no text to clean. Under the option for graphics they go too.
        """
        found: list[tuple[int, int, Action]] = []
        for rule in rules():
            if "x" in rule.tag:
                action = self._chosen(rule)
                mask, tag = re.sub("[^x]", "f", rule.tag).replace("x", "0"), rule.tag.replace("x", "0")
                found.append((int(mask, 16), int(tag, 16), "remove" if action == "clean" else action))
        return found

    def action(self, tag: int) -> Action | None:
        """What becomes of a standard attribute; None: nothing is said about it."""
        found = self.actions.get(tag)
        if found is None and tag >> 28 in (0x5, 0x6):
            found = next((action for mask, other, action in self._repeating if tag & mask == other), None)
        return found

    def _chosen(self, rule: Rule) -> Action:
        # Full dates and modified ones are alternatives; the modified ones are the safer.
        for option in sorted(self.options, reverse=True):
            said = rule.options.get(option)
            if option == "dates-full" and "dates-modified" in self.options:
                continue
            if said == "K":
                return "keep"
            if said == "C":
                return "shift" if option == "dates-modified" else "clean"
        return _BASIC[rule.basic]

    def explain(self) -> list[str]:
        """The policy in words, a line a statement."""
        by_action: dict[Action, list[str]] = {}
        names: dict[int, str] = {int(r.tag, 16): r.keyword or r.tag for r in rules() if "x" not in r.tag}
        names |= {FILE_SET_ID: "FileSetID", FILE_SET_DESCRIPTOR: "FileSetDescriptorFileID"}
        names[FILE_SET_CHARSET] = "SpecificCharacterSetOfFileSetDescriptorFile"
        curves, overlays = self.action(0x50000000), self.action(0x60003000)
        for tag, action in self.actions.items():
            by_action.setdefault(action, []).append(names.get(tag, f"{tag:08X}"))
        words = {
            "remove": "removed",
            "empty": "emptied",
            "replace": "replaced by a dummy value",
            "uid": "replaced by another UID, the same one everywhere",
            "shift": "moved by a number of days that is the same for all of a patient",
            "clean": "cleaned: texts of what identifies, sequences element by element",
            "keep": "kept",
        }
        lines = [f"Profile {self.name}: the Basic Profile of PS3.15 annex E"]
        lines += [f"with the {OPTIONS[option][1]}" for option in sorted(self.options)]
        lines += [
            f"Patients are called {self.patient}; Patient ID and Patient's Name both hold that.",
            "Private elements are removed"
            + (f", but for those of {len(self.private)} creators that are named as safe." if self.private else "."),
            "Elements that the standard's dictionary does not know are removed.",
            "Names of folders and files become tokens"
            + (f", but for the folders {', '.join(sorted(self.folders))}" if self.folders else "")
            + "; the patient's folder is called by the pseudonym.",
            "A DICOMDIR points at the new names, or is held back where a DICOMDIR cannot hold them.",
            f"Overlays are {_told(overlays)}, curves {_told(curves)}, embedded icons {_told(self.action(0x00880200))}, "
            f"embedded documents (PDF, CDA) {_told(self.action(0x00420011))}; report content (SR) is "
            f"{_told(self.action(0x0040A730))}, text and graphics on presentations {_told(self.action(0x00700001))}.",
            "Files that are no DICOM, and DICOM files that cannot be read from end to end, are held back.",
            "File meta information keeps class, transfer syntax and implementation; the rest is removed.",
        ]
        if "patient" in self.options:
            lines.append(f"Ages above {self.largest_age} years become {self.largest_age}.")
        for action in get_args(Action):
            keywords = sorted(by_action.get(action, []))
            if keywords:
                lines.append(f"{len(keywords)} attributes are {words[action]}: {', '.join(keywords)}")
        return lines


def _told(action: Action | None) -> str:
    words = {"remove": "removed", "empty": "emptied", "replace": "replaced by dummies", "clean": "cleaned"}
    return words.get(action or "keep", "kept")


def load_profile(name: str) -> Profile:
    """A profile by name (``basic``, options joined by ``+``) or by the path of a TOML file.

    Raises:
        UsageError: no such option or file, or what it says is not understood.
    """
    if name.endswith(".toml"):
        try:
            return _from_toml(tomllib.loads(Path(name).read_text("utf-8")), Path(name).stem)
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise UsageError(f"expected a TOML profile at {name}; found {error}") from error
    basic, *options = name.split("+")
    if basic != "basic":
        raise UsageError(f"expected 'basic', 'basic+OPTION...' or a file NAME.toml as a profile; found {name!r}")
    return Profile(name, _options(options))


def _options(names: list[str]) -> frozenset[str]:
    if "faces" in names:
        raise UsageError(
            "expected options that dcmark can keep, found faces: it does not remove faces from head scans; use another "
            "tool for that, and leave the option out"
        )
    unknown = set(names) - set(OPTIONS)
    if unknown:
        raise UsageError(f"expected options among {', '.join(OPTIONS)}; found {', '.join(sorted(unknown))}")
    return frozenset(names)


def _from_toml(said: dict[str, Any], stem: str) -> Profile:
    known = {"name", "options", "patient", "largest_age", "folders", "rules", "private", "regions"}
    if unknown := set(said) - known:
        raise UsageError(
            f"expected the keys {', '.join(sorted(known))} in a profile; found {', '.join(sorted(unknown))}"
        )
    pattern = str(said.get("patient", Profile.patient))
    if not PATTERN.match(pattern):
        raise UsageError(f"expected a pattern such as SCAPIS-{{0001}} or P-{{hash}} for patient; found {pattern!r}")
    age = said.get("largest_age", Profile.largest_age)
    if not isinstance(age, int) or not 0 < age <= 150:
        raise UsageError(f"expected years from 1 to 150 for largest_age; found {age!r}")
    own: dict[int, Action] = {}
    for key, action in said.get("rules", {}).items():
        if action not in get_args(Action):
            raise UsageError(f"expected one of {', '.join(get_args(Action))} for {key}; found {action!r}")
        own[_tag(key)] = cast(Action, action)
    private = {creator: frozenset(map(_private, places)) for creator, places in said.get("private", {}).items()}
    return Profile(
        name=str(said.get("name", stem)),
        options=_options(list(said.get("options", []))),
        own=own,
        patient=pattern,
        largest_age=age,
        folders=frozenset(map(str, said.get("folders", []))),
        private=private,
        regions=tuple(map(_region, said.get("regions", []))),
    )


def _region(said: Mapping[str, Any]) -> Region:
    try:
        boxes = tuple(Box(*map(int, box)) for box in said["boxes"])
        rows, columns = int(said["rows"]), int(said["columns"])
        good = boxes and all(0 <= b.top < b.bottom <= rows and 0 <= b.left < b.right <= columns for b in boxes)
    except (KeyError, TypeError, ValueError):
        good = False
    if not good or set(said) - {"manufacturer", "model", "rows", "columns", "boxes"}:
        raise UsageError(
            "expected manufacturer, model, rows, columns and boxes ([[top, left, bottom, right], ...], inside the "
            f"picture) for each of [[regions]]; found {dict(said)!r}"
        )
    return Region(str(said.get("manufacturer", "")), str(said.get("model", "")), rows, columns, boxes)


def _tag(key: str) -> int:
    from pydicom.datadict import tag_for_keyword

    if re.fullmatch("[0-9A-Fa-f]{8}", key):
        return int(key, 16)
    tag = tag_for_keyword(key)
    if tag is None:
        raise UsageError(f"expected a keyword of the DICOM dictionary or eight hexadecimal digits; found {key!r}")
    return int(tag)


def _private(place: str) -> tuple[int, int]:
    found = re.fullmatch("([0-9A-Fa-f]{4}):([0-9A-Fa-f]{2})", place)
    if not found or int(found[1], 16) % 2 == 0:
        raise UsageError(f"expected a private group and element such as 0019:10; found {place!r}")
    return int(found[1], 16), int(found[2], 16)
