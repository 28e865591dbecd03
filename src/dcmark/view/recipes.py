"""How the stored values of the frames of an archive become physical ones, found without parsing every header.

Parsing a header with pydicom takes a fifth of the time that decoding its slice does, and the slices of a series nearly
always say the same. So where a frame's meaning stands entirely in typed columns of the table, these decide, and equal
columns are looked at once. The header is parsed where it holds any element that could say otherwise.
"""

from __future__ import annotations

import struct
from datetime import datetime
from functools import cache
from typing import Any

from dcmark.archive.assemble import header_bytes
from dcmark.read.native import dtype_of
from dcmark.read.pixels import Recipe, recipe_of
from dcmark.read.tags import COLUMNS
from dcmark.view.files import DECIDING_COLUMNS, StoredFile, columns_as_dataset

_ELSEWHERE = (
    0x00280121,  # Pixel Padding Range Limit
    0x00283000,  # Modality LUT Sequence
    0x00289145,  # Pixel Value Transformation Sequence
    0x00409096,  # Real World Value Mapping Sequence
    0x00620001,  # Segmentation Type
    0x52009229,  # Shared Functional Groups Sequence
    0x52009230,  # Per-Frame Functional Groups Sequence
)
"""Attributes without a column that a scale or the padding may depend on, whatever the modality."""
_BY_MODALITY = {
    # Frame Type, CT Image Frame Type Sequence, Multi-energy CT Acquisition
    "CT": (0x00089007, 0x00189329, 0x00189361),
    "MR": (0x00089007, 0x00189226),  # Frame Type, MR Image Frame Type Sequence
}
_OF_FLOATS = (0x00280122, 0x00280123, 0x00280124, 0x00280125)  # Float Pixel Padding Value and its like
_PHILIPS = b"Philips MR Imaging DD 00"
_OWN_RULES = frozenset({"PT", "RTDOSE", "SEG"})
"""Modalities whose scale depends on more attributes than have a column."""
_DEFLATED = "1.2.840.10008.1.2.1.99"
_TAGS = {column.name: column.tag for column in COLUMNS}
_MOST = 4096  # recipes kept: where every frame has its own, keeping them would only fill memory


@cache
def _marks(modality: str, number: str, order: str) -> tuple[bytes, ...]:
    """The bytes of tags, one of which is in the header if any of the attributes is."""
    tags = _ELSEWHERE + _BY_MODALITY.get(modality, ()) + (_OF_FLOATS if number != "int" else ())
    marks = tuple(_tag_bytes(tag, order) for tag in tags)
    return (*marks, _PHILIPS) if modality == "MR" else marks


def _tag_bytes(tag: int, order: str) -> bytes:
    return struct.pack(f"{order}HH", tag >> 16, tag & 0xFFFF)


_COLUMN_MARKS = {order: [(name, _tag_bytes(_TAGS[name], order)) for name in DECIDING_COLUMNS] for order in "<>"}


class Recipes:
    """Finds the recipe of a frame; safe to use from many threads.

    Args:
        quantity: as for ``read.pixels.physical``.
    """

    def __init__(self, quantity: str | None = None) -> None:
        self._quantity = quantity
        self._known: dict[Any, Recipe] = {}
        self._starts: dict[str, datetime | None] = {}

    def of(self, file: StoredFile, number: int) -> Recipe:
        """The recipe of a frame.

        Raises:
            ValueMeaningError: the header does not define the quantity; the message names what is missing.
        """
        kind = dtype_of(file.layout)
        simple = columns_suffice(file)
        if simple:
            key: Any = (kind, *(_hashable(file.row[name]) for name in DECIDING_COLUMNS))
        else:
            key = (file.row["sha256"], number if file.frames > 1 else 0)
        recipe = self._known.get(key)
        if recipe is None:
            dataset = columns_as_dataset(file.row) if simple else file.dataset
            start = self._scan_start(file) if file.row["modality"] == "PT" else None
            recipe = recipe_of(dataset, kind, number, self._quantity, series_start=start)
            if len(self._known) >= _MOST:
                self._known.clear()
            self._known[key] = recipe
        return recipe

    def _scan_start(self, file: StoredFile) -> datetime | None:
        """``StoredFile.series_start``, looked up once a series."""
        uid = file.row["series_instance_uid"] or ""
        if uid not in self._starts:
            self._starts[uid] = file.series_start
        return self._starts[uid]


def columns_suffice(file: StoredFile) -> bool:
    """Do the typed columns of a file hold everything its physical values depend on?

    By what the bytes of its header do not contain: an element that is there has its tag there. Four bytes that only
    look like a tag cost time and nothing else.
    """
    row = file.row
    if row["kind"] != "dicom":
        return True  # what another format's reader gave as columns is all there is
    modality = (row["modality"] or "").strip().upper()
    if modality in _OWN_RULES or row["header"] is None or row["transfer_syntax"] == _DEFLATED:
        return False
    header = header_bytes(file.archive, row)
    order = ">" if row["big_endian"] else "<"
    for mark in _marks("" if modality not in _BY_MODALITY else modality, row["number"], order):
        if mark in header:
            return False
    return not any(row[name] is None and mark in header for name, mark in _COLUMN_MARKS[order])


def _hashable(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
