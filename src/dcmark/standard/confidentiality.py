"""The application level confidentiality profiles of DICOM (PS3.15 annex E, table E.1-1) as data.

``confidentiality.csv`` holds a row an attribute: tag (``x`` for any digit), keyword, action of the Basic Profile, and
the actions of the options that change it. The Basic Profile's actions are those of edition 2026c. The options are those
of edition 2020b; attributes added since have the options that follow from their kind: dates and times keep or change
under the two options for longitudinal information, UIDs keep under the option for UIDs, and no other option applies to
them, so that the strictest action stands.
"""

from __future__ import annotations

import csv
from functools import cache
from importlib.resources import files
from typing import NamedTuple

EDITION = "2026c"

OPTIONS = {
    "pixels": ("113101", "Clean Pixel Data Option"),
    "faces": ("113102", "Clean Recognizable Visual Features Option"),
    "graphics": ("113103", "Clean Graphics Option"),
    "structured": ("113104", "Clean Structured Content Option"),
    "descriptors": ("113105", "Clean Descriptors Option"),
    "dates-full": ("113106", "Retain Longitudinal Temporal Information Full Dates Option"),
    "dates-modified": ("113107", "Retain Longitudinal Temporal Information Modified Dates Option"),
    "patient": ("113108", "Retain Patient Characteristics Option"),
    "device": ("113109", "Retain Device Identity Option"),
    "uids": ("113110", "Retain UIDs Option"),
    "private": ("113111", "Retain Safe Private Option"),
    "institution": ("113112", "Retain Institution Identity Option"),
}
"""Options of the profile: code (coding scheme DCM) and meaning, PS3.16 CID 7050."""
BASIC = ("113100", "Basic Application Confidentiality Profile")


class Rule(NamedTuple):
    """What the standard says about an attribute.

    Attributes:
        tag: eight hexadecimal digits, ``x`` for any.
        keyword: of the attribute; empty where it has none.
        basic: action of the Basic Profile: X remove, Z empty, D dummy, U other UID, or a choice of them.
        options: K keep or C clean, by name of ``OPTIONS``.
    """

    tag: str
    keyword: str
    basic: str
    options: dict[str, str]


@cache
def rules() -> tuple[Rule, ...]:
    """All rows of the table, by tag."""
    text = files("dcmark.standard").joinpath("confidentiality.csv").read_text("ascii")
    return tuple(
        Rule(row["tag"], row["keyword"], row["basic"], dict(pair.split("=") for pair in row["options"].split()))
        for row in csv.DictReader(text.splitlines())
    )
