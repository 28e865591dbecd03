"""Dataset, patient and image names read off the folders, beside what the headers say.

Two layouts are known: ``<dataset>/<patient>/<image>/<slices>`` and ``<dataset>/<patient>/<slices>``
(SCAPIS). Where a path does not fit its pattern, the names stay empty: nothing is guessed.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from dcmark.errors import UsageError

FIELDS = ("dataset", "patient", "image")
NO_LEVEL_OF_IMAGES = frozenset(["scapis"])
"""Datasets, in lower case, whose patients hold slices without a folder of the image between."""


class Place(NamedTuple):
    """Names off the folders; empty where the layout does not tell."""

    dataset: str = ""
    patient: str = ""
    image: str = ""


def place(path: str, pattern: str | None = None) -> Place:
    """The names that a path inside a source tells.

    Args:
        path: relative, ``/`` between names.
        pattern: such as ``{dataset}/{patient}/{image}/*``: a name or ``*`` a folder, ``*`` last for
            the file. ``none`` reads nothing. None: four levels are dataset, patient, image, file; three
            are dataset, patient, file, where the dataset is one that has no image level.

    Raises:
        UsageError: the pattern names something else.
    """
    parts = path.split("/")
    if pattern == "none":
        return Place()
    if pattern is None:
        if parts[0].lower() in NO_LEVEL_OF_IMAGES and len(parts) >= 3:
            return Place(parts[0], parts[1])
        return Place(*parts[:3]) if len(parts) == 4 else Place()
    levels = check(pattern)
    if len(levels) != len(parts):
        return Place()
    named = {level: part for level, part in zip(levels[:-1], parts[:-1], strict=True) if level != "*"}
    return Place(**named)


def check(pattern: str) -> list[str]:
    """The levels of a pattern. Raises UsageError when it is none."""
    levels = [re.sub(r"^\{(.*)\}$", r"\1", level) for level in pattern.split("/")]
    named = [level for level in levels if level != "*"]
    if levels[-1] != "*" or len(set(named)) != len(named) or not set(named) <= set(FIELDS):
        raise UsageError(
            f"expected a layout such as {{dataset}}/{{patient}}/{{image}}/* or none, found {pattern!r}; "
            f"the names are {', '.join(FIELDS)}"
        )
    return levels
