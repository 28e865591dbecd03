"""How the stored values of the frames of an archive become physical ones, found without parsing every header.

Parsing a header with pydicom takes a fifth of the time that decoding its slice does, and the slices of a series nearly
always say the same. So where a frame's meaning stands entirely in typed columns of the table, these decide, and equal
columns are looked at once. The header is parsed where it holds any element that could say otherwise.
"""

from __future__ import annotations

import struct
from datetime import datetime
from typing import Any

from dcmark.archive.assemble import header_bytes
from dcmark.archive.store import Archive
from dcmark.read.native import dtype_of
from dcmark.read.pixels import Recipe, recipe_of
from dcmark.read.suv import scan_start
from dcmark.read.tags import COLUMNS
from dcmark.view.frames import DECIDING_COLUMNS, StoredFile, columns_as_dataset

_ELSEWHERE = (
    0x00189226,  # MR Image Frame Type Sequence
    0x00189329,  # CT Image Frame Type Sequence
    0x00189361,  # Multi-energy CT Acquisition
    0x00280121,  # Pixel Padding Range Limit
    0x00280122,  # Float Pixel Padding Value
    0x00280123,  # Double Float Pixel Padding Value
    0x00280124,  # Float Pixel Padding Range Limit
    0x00280125,  # Double Float Pixel Padding Range Limit
    0x00283000,  # Modality LUT Sequence
    0x00289145,  # Pixel Value Transformation Sequence
    0x00409096,  # Real World Value Mapping Sequence
    0x00620001,  # Segmentation Type
    0x52009229,  # Shared Functional Groups Sequence
    0x52009230,  # Per-Frame Functional Groups Sequence
)
"""Attributes without a column that a scale or the padding may depend on, in the modalities not in ``_OWN_RULES``."""
_PRIVATE = b"Philips MR Imaging DD 00"
_OWN_RULES = frozenset({"PT", "RTDOSE", "SEG"})
"""Modalities whose scale depends on more attributes than have a column."""
_DEFLATED = "1.2.840.10008.1.2.1.99"
_TAGS = {column.name: column.tag for column in COLUMNS}
_MOST = 4096  # recipes kept: where every frame has its own, keeping them would only fill memory



def _tag_bytes(tag: int, order: str) -> bytes:
    return struct.pack(f"{order}HH", tag >> 16, tag & 0xFFFF)


_MARKS = {order: [_tag_bytes(tag, order) for tag in _ELSEWHERE] for order in "<>"}
_COLUMN_MARKS = {
    order: [(name, _tag_bytes(_TAGS[name], order)) for name in DECIDING_COLUMNS] for order in "<>"
}  # fmt: skip


class Recipes:
    """Finds the recipe of a frame; safe to use from many threads.

    Args:
        quantity: as for ``read.pixels.physical``.
    """

    def __init__(self, archive: Archive, quantity: str | None = None) -> None:
        self._archive, self._quantity = archive, quantity
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
        """Start of the scan a PET image is of: by all files of its series that lie in the archive."""
        uid = file.row["series_instance_uid"]
        if not uid:
            return None
        if uid not in self._starts:
            self._starts[uid] = series_start(self._archive, uid)
        return self._starts[uid]


def series_start(archive: Archive, series_instance_uid: str) -> datetime | None:
    """``read.suv.scan_start`` of a series in an archive, from typed columns."""
    columns = ["series_date", "series_time", "acquisition_date", "acquisition_time", "acquisition_date_time"]
    quoted = series_instance_uid.replace("'", "''")
    rows = archive.read("files", columns, f"series_instance_uid = '{quoted}'").to_pylist()
    if any(sign in (row["acquisition_date_time"] or "") for row in rows for sign in "+-"):
        return None  # an offset from UTC: the header has to say to which time zone the other times belong
    return scan_start(columns_as_dataset(row) for row in rows)


def columns_suffice(file: StoredFile) -> bool:
    """Do the typed columns of a file hold everything its physical values depend on?

    By what the bytes of its header do not contain: an element that is there has its tag there. Four bytes that only
    look like a tag cost time and nothing else.
    """
    row = file.row
    if row["kind"] != "dicom":
        return True  # what another format's reader gave as columns is all there is
    if row["modality"] in _OWN_RULES or row["header"] is None or row["transfer_syntax"] == _DEFLATED:
        return False
    header = header_bytes(file.archive, row)
    order = ">" if row["big_endian"] else "<"
    if _PRIVATE in header:
        return False
    for mark in _MARKS[order]:
        if mark in header:
            return False
    return not any(row[name] is None and mark in header for name, mark in _COLUMN_MARKS[order])


def _hashable(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
