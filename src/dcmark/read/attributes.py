"""Attributes of a header as plain numbers and words, for a frame where they differ by frame."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

from dcmark.errors import ValueMeaningError

if TYPE_CHECKING:
    from pydicom import Dataset


@cache
def _tag(keyword: str) -> Any:
    """The tag of a keyword, looked up once: most of the time spent on a header goes there."""
    from pydicom.tag import Tag

    return Tag(keyword)


def value(dataset: Dataset, keyword: str) -> Any:
    """The value of an attribute; None where it is absent or empty.

    Raises:
        ValueMeaningError: it is there and cannot be read as its value representation.
    """
    tag = _tag(keyword)
    if tag not in dataset:
        return None
    try:
        found = dataset[tag].value
    except Exception as error:  # noqa: BLE001 (pydicom raises whatever the conversion of a hostile value raises)
        raise ValueMeaningError(
            f"expected a readable {keyword}; found bytes that are none ({type(error).__name__})"
        ) from None
    return None if found is None or (isinstance(found, str | bytes) and not found) else found


def numbers(dataset: Dataset, keyword: str) -> list[float]:
    """The finite numbers an attribute holds; empty where it is absent or empty.

    Raises:
        ValueMeaningError: a value that is no finite number.
    """
    found = value(dataset, keyword)
    if found is None:
        return []
    several = found if isinstance(found, Sequence) and not isinstance(found, str | bytes) else [found]
    try:
        result = [float(one) for one in several]
    except (TypeError, ValueError):
        result = [math.nan]
    if not all(map(math.isfinite, result)):
        raise ValueMeaningError(f"expected finite numbers in {keyword}; found something else")
    return result


def number(dataset: Dataset, keyword: str) -> float | None:
    """The first number of an attribute; None where it is absent or empty. Raises as ``numbers`` does."""
    found = numbers(dataset, keyword)
    return found[0] if found else None


def words(dataset: Dataset, keyword: str) -> list[str]:
    """The values of an attribute as upper-case text without padding; empty where it is absent."""
    found = value(dataset, keyword)
    if found is None:
        return []
    several = [found] if isinstance(found, str | bytes) or not isinstance(found, Sequence) else found
    return [str(one).strip().upper() for one in several]


def word(dataset: Dataset, keyword: str) -> str:
    """The first value of an attribute as upper-case text; empty where it is absent."""
    found = words(dataset, keyword)
    return found[0] if found else ""


def items(dataset: Dataset, keyword: str) -> Sequence[Dataset]:
    """The items of a sequence; empty where it is absent. Not copied: there may be ten thousand frames."""
    found = value(dataset, keyword)
    return found if isinstance(found, Sequence) and not isinstance(found, str | bytes) else []


def frame_items(dataset: Dataset, frame: int, keyword: str) -> Sequence[Dataset]:
    """The items of a functional group of one frame (PS3.3 C.7.6.16).

    The per-frame group is looked at first, then the shared one, then the data set itself.

    Args:
        frame: number of the frame, from 0.

    Raises:
        ValueMeaningError: there are per-frame groups and none for this frame.
    """
    per_frame = items(dataset, "PerFrameFunctionalGroupsSequence")
    if per_frame and not 0 <= frame < len(per_frame):
        raise ValueMeaningError(
            f"expected an item of PerFrameFunctionalGroupsSequence for frame {frame}; found {len(per_frame)} items"
        )
    shared = items(dataset, "SharedFunctionalGroupsSequence")
    for place in (*per_frame[frame : frame + 1], *shared[:1], dataset):
        found = items(place, keyword)
        if found:
            return found
    return []


def frame_group(dataset: Dataset, frame: int, keyword: str) -> Dataset:
    """The one item of a functional group of a frame; the data set itself where it has no such group.

    So an attribute is found at the root of a classic object and in the functional group of an enhanced one.
    """
    found = frame_items(dataset, frame, keyword)
    return found[0] if found else dataset


def private(dataset: Dataset, group: int, creator: str, element: int) -> Any:
    """The value of a private element, found by its creator (PS3.5 7.8); None where it is absent."""
    try:
        return dataset.private_block(group, creator)[element].value
    except KeyError:
        return None
    except Exception as error:  # noqa: BLE001 (as in ``value``)
        raise ValueMeaningError(
            f"expected a readable private element ({group:04x},xx{element:02x}) of {creator}; found bytes that are "
            f"none ({type(error).__name__})"
        ) from None
