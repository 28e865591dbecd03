"""What a real image may lend a generated one: geometry and acquisition, never identity.

A template is a file like any other, and so may hold anything. What its value representation or the standard
does not allow is not lent, so that what is made from it stays valid.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dcmark.errors import SourceError, UsageError

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

    from dcmark.archive.store import Archive

_AS_IT_IS = ("BodyPartExamined", "PatientPosition", "KVP", "ConvolutionKernel")
"""None of it is a value about a person."""
_SINGLE = frozenset(
    """ABDOMEN ABDOMENPELVIS BLADDER BRAIN CHEST CHESTABDOMEN CHESTABDPELVIS COLON CSPINE CTSPINE DUODENUM ESOPHAGUS
    GALLBLADDER HEAD HEADNECK HEART LARYNX LIVER LSPINE LSSPINE MEDIASTINUM NECK NECKCHEST PANCREAS PELVIS PHARYNX
    PROSTATE RECTUM SKULL SPINE SPLEEN SSPINE STERNUM STOMACH TLSPINE TRACHEA TSPINE UTERUS WHOLEBODY""".split()  # noqa: SIM905
)
"""Defined Terms of Body Part Examined (PS3.16 annex L) that leave no side open."""
_AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
_FARTHEST = 1e5
"""No length of an image of a person is larger, mm."""


@dataclass(frozen=True, slots=True)
class Template:
    """What is lent.

    Attributes:
        modality: empty for none.
        spacing: between rows and between columns, mm; None for none, as below.
        size: rows and columns.
        orientation: direction cosines of a row and of a column, LPS (PS3.3 C.7.6.2.1.1).
        position: of the centre of the first pixel, LPS, mm.
        thickness, between: of slices, and from one to the next, mm.
        values: other attributes by keyword.
    """

    modality: str = ""
    spacing: tuple[float, ...] | None = None
    size: tuple[float, ...] | None = None
    orientation: tuple[float, ...] = _AXIAL
    position: tuple[float, ...] = (0.0, 0.0, 0.0)
    thickness: float = 1.0
    between: float = 1.0
    values: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, dataset: Dataset) -> Template:
        """All that a data set can lend."""
        values = {keyword: _allowed(dataset, keyword) for keyword in _AS_IT_IS}
        centre, width = _numbers(dataset, "WindowCenter", None), _numbers(dataset, "WindowWidth", None)
        if centre and width and len(centre) == len(width) and min(width) >= 1:
            values |= {"WindowCenter": list(centre), "WindowWidth": list(width)}
        thickness = _length(dataset, "SliceThickness") or 1.0
        between = _length(dataset, "SpacingBetweenSlices")
        if between:
            values["SpacingBetweenSlices"] = between
        spacing = _numbers(dataset, "PixelSpacing", 2)
        rows, columns = _numbers(dataset, "Rows", 1), _numbers(dataset, "Columns", 1)
        orientation = _numbers(dataset, "ImageOrientationPatient", 6)
        return cls(
            modality=str(_allowed(dataset, "Modality") or ""),
            spacing=spacing if spacing and min(spacing) > 0 else None,
            size=(*rows, *columns) if rows and columns and min(*rows, *columns) > 0 else None,
            orientation=orientation if orientation and _square(orientation) else _AXIAL,
            position=_numbers(dataset, "ImagePositionPatient", 3) or (0.0, 0.0, 0.0),
            thickness=thickness,
            between=between or thickness,
            values={keyword: value for keyword, value in values.items() if value is not None},
        )

    @property
    def side_is_open(self) -> bool:
        """Might the body part be the left or the right one? Then Laterality is needed (PS3.3 C.7.3.1)."""
        return str(self.values.get("BodyPartExamined", "")) not in _SINGLE


def template_from_file(path: Path) -> Dataset:
    """The header of a DICOM file, as a template.

    Raises:
        SourceError: it is none.
    """
    import pydicom
    from pydicom.errors import InvalidDicomError

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what is odd about it is not lent
            return pydicom.dcmread(path, stop_before_pixels=True)
    except (OSError, InvalidDicomError, ValueError, KeyError, EOFError) as error:
        raise SourceError("expected a DICOM file as template, found one that cannot be read") from error


def template_from_archive(archive: Archive, series_uid: str) -> Dataset:
    """The header of the first file of a series of an archive, as a template.

    Raises:
        UsageError: the archive has no such series.
    """
    from dcmark.archive.assemble import header_dataset

    quoted = series_uid.replace("'", "''")
    rows = archive.read("files", where=f"series_instance_uid = '{quoted}'").to_pylist()
    if not rows:
        raise UsageError("expected the SeriesInstanceUID of a series in the archive as template, found no such series")
    return header_dataset(archive, min(rows, key=lambda row: row["sha256"]))


def _allowed(dataset: Dataset, keyword: str) -> Any:
    """A value, or None where there is none, or where representation or multiplicity are not those of the standard."""
    from pydicom import config
    from pydicom.datadict import dictionary_VM
    from pydicom.valuerep import validate_value

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            element = dataset[keyword]
            value, many = element.value, dictionary_VM(element.tag)
            if not element.VM or (many.isdigit() and int(many) != element.VM):
                return None
            for one in value if element.VM > 1 else [value]:
                validate_value(element.VR, one if element.VR in {"US", "SS"} else str(one), config.RAISE)
    except (KeyError, ValueError, TypeError, AttributeError, ArithmeticError, NotImplementedError):
        return None
    return value if value not in (None, "") else None


def _numbers(dataset: Dataset, keyword: str, count: int | None) -> tuple[float, ...] | None:
    """So many finite numbers, none too large to be a length in an image; None for any number of them."""
    value = _allowed(dataset, keyword)
    try:
        found = tuple(float(part) for part in (value if hasattr(value, "__iter__") else [value]))
    except (TypeError, ValueError):
        return None
    fits = all(math.isfinite(part) and abs(part) <= _FARTHEST for part in found)
    return found if found and fits and count in (None, len(found)) else None


def _length(dataset: Dataset, keyword: str) -> float | None:
    found = _numbers(dataset, keyword, 1)
    return found[0] if found and found[0] > 0 else None


def _square(cosines: tuple[float, ...]) -> bool:
    """Two directions of length 1, at right angles?"""
    row, column = np.asarray(cosines[:3]), np.asarray(cosines[3:])
    return bool(abs(row @ row - 1) < 1e-3 and abs(column @ column - 1) < 1e-3 and abs(row @ column) < 1e-3)
