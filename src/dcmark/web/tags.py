"""The header of a file as text for the panel of tags: text is text, whatever it holds."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from dcmark.config import LIMITS

if TYPE_CHECKING:
    from pydicom import DataElement, Dataset

LONGEST = 1000
"""Characters of a value that are given."""
_BINARY = frozenset({"OB", "OW", "OD", "OF", "OL", "OV", "UN", "OB or OW"})


def elements(dataset: Dataset, most: int) -> list[dict[str, Any]]:
    """The elements of a header in order, items of sequences behind their sequence.

    Args:
        dataset: the header.
        most: elements listed; the rest is left out and the last one says so.
    """
    found: list[dict[str, Any]] = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for one in _walk(dataset, 0):
            if len(found) >= most:
                found.append(_row("", "", "further elements are left out", "", "", 0))
                break
            found.append(one)
    return found


def _walk(dataset: Dataset, depth: int) -> Iterator[dict[str, Any]]:
    for tag in sorted(dataset.keys()):
        text = f"({tag.group:04x},{tag.element:04x})"
        try:
            element = dataset[tag]
            yield _row(text, element.keyword, element.name, element.VR, _value(element), depth)
            items = list(element.value or ()) if element.VR == "SQ" else []
        except Exception:  # noqa: BLE001  pydicom raises many kinds of errors for values that are no such values
            yield _row(text, "", "", "", "(cannot be read as what its VR says)", depth)
            continue
        if depth < LIMITS.depth:
            for number, item in enumerate(items, 1):
                yield _row("(fffe,e000)", "", f"Item {number}", "", "", depth + 1)
                yield from _walk(item, depth + 2)


def _value(element: DataElement) -> str:
    value = element.value
    if element.VR == "SQ":
        count = len(value or ())
        return f"{count} item{'s' if count != 1 else ''}"
    if value is None:
        return ""
    if element.VR in _BINARY or isinstance(value, bytes):
        return f"{len(value)} bytes"
    if element.VM == 1 or not hasattr(value, "__iter__"):
        return str(value)[:LONGEST]
    parts, length = [], 0
    for one in value:
        parts.append(str(one)[:LONGEST])
        length += len(parts[-1]) + 1
        if length > LONGEST:
            break
    return "\\".join(parts)[:LONGEST]


def _row(tag: str, keyword: str, name: str, vr: str, value: str, depth: int) -> dict[str, Any]:
    return {"tag": tag, "keyword": keyword, "name": name, "vr": vr, "value": value, "depth": depth}
