"""DICOM objects that carry annotations: header and frames, from a file or out of an archive. All of it is hostile."""

from __future__ import annotations

import io
import mmap
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from dcmark.annotate.model import Code
from dcmark.archive.assemble import ASSEMBLY_COLUMNS, frame_part, header_dataset
from dcmark.archive.store import Archive, layout_of_row
from dcmark.config import LIMITS, Limits
from dcmark.errors import SourceError, UsageError
from dcmark.read.attributes import items, value
from dcmark.read.codecs import decode_frame, native_frame
from dcmark.read.dicom import DicomReader

if TYPE_CHECKING:
    from pydicom import Dataset

SEG, LABEL_MAP = "1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.66.7"
RTSTRUCT = "1.2.840.10008.5.1.4.1.1.481.3"
GSPS = "1.2.840.10008.5.1.4.1.1.11.1"
KOS = "1.2.840.10008.5.1.4.1.1.88.59"
SR_PREFIX = "1.2.840.10008.5.1.4.1.1.88."
ANN = "1.2.840.10008.5.1.4.1.1.91.1"
OWN_SCHEME = "99DCMARK"
"""Codes of labels without one, where an object must have a code (PS3.16 section 8); not taken over on the way in."""

_ARCHIVE_COLUMNS = (
    *ASSEMBLY_COLUMNS, "kind", "transfer_syntax", "number", "big_endian", "rows", "columns", "samples_per_pixel",
    "photometric_interpretation", "planar_configuration", "bits_allocated", "bits_stored", "high_bit",
    "pixel_representation",
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class DicomObject:
    """A DICOM object.

    Attributes:
        name: of its file, for messages.
        dataset: without pixel data.
        frames: that are really there.
        frame: gives the stored values of a frame, (rows, columns).
    """

    name: str
    dataset: Dataset
    frames: int
    frame: Callable[[int], NDArray[Any]]

    @property
    def sop_class(self) -> str:
        """SOP Class UID."""
        return text(self.dataset, "SOPClassUID")

    @property
    def uid(self) -> str:
        """SOP Instance UID."""
        return text(self.dataset, "SOPInstanceUID")


def of_file(path: Path, limits: Limits = LIMITS) -> DicomObject:
    """A DICOM object from a file, its frames read as they are asked for.

    Raises:
        SourceError: it is no DICOM file.
    """
    if not path.stat().st_size:
        raise SourceError(f"{path.name}: expected a DICOM file, found an empty one")
    with path.open("rb") as stream:
        mapped = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
    return of_bytes(memoryview(mapped), path.name, limits)


def of_bytes(data: memoryview, name: str, limits: Limits = LIMITS) -> DicomObject:
    """A DICOM object from its bytes. Raises SourceError where they are none."""
    reader = DicomReader(limits)
    if not reader.claims(data[:4096], name):
        raise SourceError(f"{name}: expected a DICOM file, found something else")
    instance = reader.take_apart(data, name)
    if instance.kind != "dicom":
        raise SourceError(f"{name}: expected a DICOM object, found {instance.kind} ({_first(instance.findings)})")
    header, starts = _header(data, instance.segments)
    import pydicom

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dataset = pydicom.dcmread(io.BytesIO(header), stop_before_pixels=True, force=True)
    derived = list(instance.derived)

    def frame(number: int) -> NDArray[Any]:
        if not 0 <= number < instance.frames or instance.layout is None:
            raise SourceError(f"{name}, frame {number}: expected a frame, found the file without it (cut short?)")
        piece: Any = derived[number] if derived else b"".join(data[a:b] for a, b in starts[number])
        if instance.native:
            return native_frame(piece, instance.layout, limits)
        return decode_frame(piece, instance.transfer_syntax, instance.layout, limits, index=number)

    return DicomObject(name, dataset, instance.frames, frame)


def _header(data: memoryview, segments: Any) -> tuple[bytes, dict[int, list[tuple[int, int]]]]:
    at, pieces = 0, []
    starts: dict[int, list[tuple[int, int]]] = {}
    for part, length in segments:
        if part < 0:
            pieces.append(data[at : at + length])
        else:
            starts.setdefault(part, []).append((at, at + length))
        at += length
    return b"".join(pieces), starts


def _first(findings: Any) -> str:
    return next((found.message for found in findings), "nothing DICOM in it")


def of_archive(archive: Archive, sha256: str, limits: Limits = LIMITS) -> DicomObject:
    """A DICOM object out of an archive.

    Raises:
        UsageError: no such file. DamageError: the archive is damaged there.
    """
    rows = archive.read("files", list(_ARCHIVE_COLUMNS), f"sha256 = X'{bytes.fromhex(sha256).hex()}'").to_pylist()
    if not rows:
        raise UsageError(f"expected the SHA-256 of a file of the archive, found {sha256}, which is not there")
    row = rows[0]
    layout = layout_of_row(row)

    def frame(number: int) -> NDArray[Any]:
        if not 0 <= number < row["frames"] or layout is None:
            raise SourceError(f"file {sha256[:12]}, frame {number}: expected a frame, found the file without it")
        part = frame_part(archive, row, number)
        if part.codec[:1].isdigit():
            return decode_frame(part.unpack(), part.codec, layout, limits, index=number)
        return native_frame(part.unpack(), layout, limits)

    return DicomObject(f"file {sha256[:12]}", header_dataset(archive, row), row["frames"], frame)


# Attributes -----------------------------------------------------------------------------------------------------------


def text(dataset: Dataset, keyword: str) -> str:
    """An attribute as text, its first value; empty where absent."""
    found = value(dataset, keyword)
    if isinstance(found, bytes):
        found = found.decode("latin-1")
    if found is not None and not isinstance(found, str) and hasattr(found, "__iter__"):
        found = next(iter(found), None) if not hasattr(found, "family_name") else found
    return "" if found is None else str(found).strip().rstrip("\0")


def code(dataset: Dataset, keyword: str) -> Code | None:
    """The first item of a code sequence; None where there is none (PS3.3 section 8)."""
    for item in items(dataset, keyword)[:1]:
        worth = text(item, "CodeValue") or text(item, "LongCodeValue") or text(item, "URNCodeValue")
        if worth and text(item, "CodingSchemeDesignator") != OWN_SCHEME:
            return Code(worth, text(item, "CodingSchemeDesignator"), text(item, "CodeMeaning"))
    return None


def code_items(one: Code) -> Any:
    """A code sequence of one item."""
    from pydicom import Dataset, Sequence

    item = Dataset()
    setattr(item, "CodeValue" if len(one.value) <= 16 else "LongCodeValue", one.value)
    item.CodingSchemeDesignator = one.scheme
    item.CodeMeaning = one.meaning[:64] or one.value
    return Sequence([item])


def rgb_of_lab(values: Any) -> str:
    """``#rrggbb`` of Recommended Display CIELab Value (PS3.3 C.10.7.1.1: PCS values, D50); empty where it is none."""
    try:
        light, a, b = (float(one) for one in values)
    except (TypeError, ValueError):
        return ""
    light, a, b = light / 65535 * 100, a / 65535 * 255 - 128, b / 65535 * 255 - 128
    fy = (light + 16) / 116
    ratios = np.array([fy + a / 500, fy, fy - b / 200])
    xyz = np.where(ratios > 6 / 29, ratios**3, 3 * (6 / 29) ** 2 * (ratios - 4 / 29)) * _D50
    linear = np.clip(np.linalg.inv(_TO_XYZ) @ xyz, 0, 1)
    shown = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    return "#" + "".join(f"{round(float(one) * 255):02x}" for one in shown)


def lab_of_rgb(colour: str) -> list[int]:
    """The inverse of ``rgb_of_lab``: three 16-bit numbers."""
    shown = np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    linear = np.where(shown <= 0.04045, shown / 12.92, ((shown + 0.055) / 1.055) ** 2.4)
    ratios = _TO_XYZ @ linear / _D50
    f = np.where(ratios > (6 / 29) ** 3, np.cbrt(ratios), ratios / (3 * (6 / 29) ** 2) + 4 / 29)
    lab = np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])
    scaled = [lab[0] / 100, (lab[1] + 128) / 255, (lab[2] + 128) / 255]
    return [round(min(1.0, max(0.0, float(one))) * 65535) for one in scaled]


_D50 = np.array([0.96422, 1.0, 0.82521])
_TO_XYZ = np.array(
    [[0.4360747, 0.3850649, 0.1430804], [0.2225045, 0.7168786, 0.0606169], [0.0139322, 0.0971045, 0.7141733]]
)
"""Linear sRGB to XYZ under D50 (Bradford)."""
