"""The tags that become typed columns, and how their bytes become values (PS3.5 section 6.2)."""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any, Literal, NamedTuple

ColumnType = Literal["text", "integer", "number", "numbers"]


class Column(NamedTuple):
    """A typed column of the table ``files``: one DICOM attribute."""

    name: str
    keyword: str
    tag: int
    type: ColumnType


def _columns(*rows: tuple[str, int, ColumnType]) -> tuple[Column, ...]:
    return tuple(Column(_snake(keyword), keyword, tag, type_) for keyword, tag, type_ in rows)


def _snake(keyword: str) -> str:
    words: list[str] = []
    for i, letter in enumerate(keyword):
        boundary = letter.isupper() and i > 0
        inside = boundary and keyword[i - 1].isupper() and not keyword[i + 1 : i + 2].islower()
        if boundary and not inside:
            words.append("_")
        words.append(letter.lower())
    return "".join(words)


COLUMNS = _columns(
    ("SpecificCharacterSet", 0x00080005, "text"),
    ("ImageType", 0x00080008, "text"),
    ("SOPClassUID", 0x00080016, "text"),
    ("SOPInstanceUID", 0x00080018, "text"),
    ("StudyDate", 0x00080020, "text"),
    ("SeriesDate", 0x00080021, "text"),
    ("AcquisitionDate", 0x00080022, "text"),
    ("ContentDate", 0x00080023, "text"),
    ("AcquisitionDateTime", 0x0008002A, "text"),
    ("StudyTime", 0x00080030, "text"),
    ("SeriesTime", 0x00080031, "text"),
    ("AcquisitionTime", 0x00080032, "text"),
    ("ContentTime", 0x00080033, "text"),
    ("AccessionNumber", 0x00080050, "text"),
    ("Modality", 0x00080060, "text"),
    ("Manufacturer", 0x00080070, "text"),
    ("StudyDescription", 0x00081030, "text"),
    ("SeriesDescription", 0x0008103E, "text"),
    ("ManufacturerModelName", 0x00081090, "text"),
    ("PatientName", 0x00100010, "text"),
    ("PatientID", 0x00100020, "text"),
    ("PatientBirthDate", 0x00100030, "text"),
    ("PatientSex", 0x00100040, "text"),
    ("PatientAge", 0x00101010, "text"),
    ("PatientSize", 0x00101020, "number"),
    ("PatientWeight", 0x00101030, "number"),
    ("ContrastBolusAgent", 0x00180010, "text"),
    ("BodyPartExamined", 0x00180015, "text"),
    ("SequenceName", 0x00180024, "text"),
    ("SliceThickness", 0x00180050, "number"),
    ("KVP", 0x00180060, "number"),
    ("RepetitionTime", 0x00180080, "number"),
    ("EchoTime", 0x00180081, "number"),
    ("InversionTime", 0x00180082, "number"),
    ("EchoNumbers", 0x00180086, "integer"),
    ("SpacingBetweenSlices", 0x00180088, "number"),
    ("ProtocolName", 0x00181030, "text"),
    ("TriggerTime", 0x00181060, "number"),
    ("GantryDetectorTilt", 0x00181120, "number"),
    ("ExposureTime", 0x00181150, "number"),
    ("XRayTubeCurrent", 0x00181151, "number"),
    ("Exposure", 0x00181152, "number"),
    ("ImagerPixelSpacing", 0x00181164, "numbers"),
    ("ConvolutionKernel", 0x00181210, "text"),
    ("DiffusionBValue", 0x00189087, "number"),
    ("DiffusionGradientOrientation", 0x00189089, "numbers"),
    ("StudyInstanceUID", 0x0020000D, "text"),
    ("SeriesInstanceUID", 0x0020000E, "text"),
    ("StudyID", 0x00200010, "text"),
    ("SeriesNumber", 0x00200011, "integer"),
    ("AcquisitionNumber", 0x00200012, "integer"),
    ("InstanceNumber", 0x00200013, "integer"),
    ("ImagePositionPatient", 0x00200032, "numbers"),
    ("ImageOrientationPatient", 0x00200037, "numbers"),
    ("FrameOfReferenceUID", 0x00200052, "text"),
    ("TemporalPositionIdentifier", 0x00200100, "integer"),
    ("SliceLocation", 0x00201041, "number"),
    ("SamplesPerPixel", 0x00280002, "integer"),
    ("PhotometricInterpretation", 0x00280004, "text"),
    ("PlanarConfiguration", 0x00280006, "integer"),
    ("NumberOfFrames", 0x00280008, "integer"),
    ("Rows", 0x00280010, "integer"),
    ("Columns", 0x00280011, "integer"),
    ("PixelSpacing", 0x00280030, "numbers"),
    ("BitsAllocated", 0x00280100, "integer"),
    ("BitsStored", 0x00280101, "integer"),
    ("HighBit", 0x00280102, "integer"),
    ("PixelRepresentation", 0x00280103, "integer"),
    ("PixelPaddingValue", 0x00280120, "integer"),
    ("BurnedInAnnotation", 0x00280301, "text"),
    ("WindowCenter", 0x00281050, "numbers"),
    ("WindowWidth", 0x00281051, "numbers"),
    ("RescaleIntercept", 0x00281052, "number"),
    ("RescaleSlope", 0x00281053, "number"),
    ("RescaleType", 0x00281054, "text"),
    ("LossyImageCompression", 0x00282110, "text"),
    ("Units", 0x00541001, "text"),
)
BY_TAG: Mapping[int, Column] = {column.tag: column for column in COLUMNS}

# Written as text in most VRs; these are binary integers (US or SS by Pixel Representation).
_BINARY = {
    0x00280002, 0x00280006, 0x00280010, 0x00280011, 0x00280100, 0x00280101, 0x00280102, 0x00280103, 0x00280120,
}  # fmt: skip
_FLOAT_BINARY = {0x00189087, 0x00189089}  # FD
LONGEST = 4096
"""Longest value of a column, bytes; what is longer is no sane value of these attributes."""


def typed(raw: Mapping[int, bytes], order: str) -> dict[str, Any]:
    """Column values of one file by column name; what cannot be read as its type is left out.

    Args:
        raw: value bytes by tag.
        order: ``<`` or ``>``, the byte order of binary values.
    """
    charset = raw.get(0x00080005, b"").decode("ascii", "replace").strip(" \0")
    signed = raw.get(0x00280103, b"\0\0").strip(b"\0") != b""
    values: dict[str, Any] = {}
    for tag, data in raw.items():
        column = BY_TAG.get(tag)
        if column is None:
            continue
        value: Any
        if tag in _BINARY:
            value = _binary_integer(data, order, signed=signed and tag == 0x00280120)
        elif tag in _FLOAT_BINARY:
            value = _doubles(data, order)
            if column.type == "number":
                value = value[0] if value else None
        else:
            value = _converted(column.type, data, charset)
            if isinstance(value, tuple):
                value = list(value)
        if value is not None and value != "" and value != []:
            values[column.name] = value
    return values


@lru_cache(4096)
def _converted(type_: ColumnType, data: bytes, charset: str) -> Any:
    """A text value as its type. Remembered: the files of a series share nearly all of them."""
    return _CONVERT[type_](data, charset)


def _binary_integer(data: bytes, order: str, *, signed: bool) -> int | None:
    if len(data) < 2:
        return None
    return int(struct.unpack(order + ("h" if signed else "H"), data[:2])[0])


def _doubles(data: bytes, order: str) -> list[float]:
    count = len(data) // 8
    values = struct.unpack(f"{order}{count}d", data[: count * 8])
    return [v for v in values if math.isfinite(v)]


def _text(data: bytes, charset: str) -> str:
    data = data.rstrip(b" \0").lstrip(b" ")
    if data.isascii() and b"\x1b" not in data:
        # A NUL inside would cut the text in many tools downstream.
        return data.decode("ascii").replace("\0", "")
    return _foreign(data, charset)


def _foreign(data: bytes, charset: str) -> str:
    """Text beyond ASCII, by Specific Character Set (PS3.3 C.12.1.1.2)."""
    import warnings

    from pydicom.charset import convert_encodings, decode_bytes

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            encodings = convert_encodings([part.strip() for part in charset.split("\\")] or [""])
            text = decode_bytes(data, encodings, {0x0C, 0x0D, 0x0A, 0x09, 0x5C, 0x5E, 0x3D})
        except (LookupError, ValueError):
            text = data.decode("utf-8", "replace")
    return text.replace("\0", "").encode("utf-8", "replace").decode("utf-8")


def _number(data: bytes, charset: str) -> float | None:
    values = _numbers(data, charset)
    return values[0] if values else None


def _numbers(data: bytes, charset: str) -> tuple[float, ...]:
    del charset
    values: list[float] = []
    for part in data.split(b"\\"):
        try:
            value = float(part.strip(b" \0").replace(b"_", b"?"))
        except ValueError:
            return ()
        if not math.isfinite(value):
            return ()
        values.append(value)
    return tuple(values)


def _integer(data: bytes, charset: str) -> int | None:
    value = _number(data, charset)
    if value is None or value != int(value) or abs(value) >= 1 << 62:
        return None
    return int(value)


_CONVERT: dict[str, Callable[[bytes, str], Any]] = {
    "text": _text,
    "number": _number,
    "numbers": _numbers,
    "integer": _integer,
}
