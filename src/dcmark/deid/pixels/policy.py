"""What is done about text in pixels: which files are at risk, and whether they are masked, held back or let through."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import pydicom

from dcmark import plugins
from dcmark.config import LIMITS, Limits
from dcmark.deid.pixels.detector import GROUP, Box, TextDetector
from dcmark.deid.pixels.frames import Pictures
from dcmark.errors import DcmarkError, HeldBackError, MissingExtraError

AT_RISK = frozenset({
    "US", "IVUS", "ES", "EPS", "XC", "OT", "SC", "CR", "DX", "MG", "RF", "XA", "IO", "PX", "GM", "OP", "OPT", "OPTENF",
    "OAM", "BI", "BMD", "DG", "ECG", "HC", "TG", "VF", "SM",
})  # fmt: skip
"""Modalities whose pictures often carry text: screens, films that were scanned, photographs, plates with markers."""
CAPTURES = ("1.2.840.10008.5.1.4.1.1.7",)
"""Secondary captures begin with it."""
NO_PICTURES = frozenset({"RTSTRUCT", "RTPLAN", "RTDOSE", "SEG", "SR", "PR", "KO", "REG", "AU", "PLAN"})
LARGEST_SHARE = 0.4
"""Of a picture that may be text; where it is more, the picture is a document, and a person decides."""
EXPECTED = "--text mask (or --profile basic+pixels) to mask text, --text keep to let pixels pass as they are"


@dataclass(frozen=True, slots=True)
class Region:
    """Where a device writes what identifies, on pictures of one size.

    Attributes:
        manufacturer, model: as the header has them; empty for any.
        rows, columns: of the picture.
        boxes: masked without a look.
    """

    manufacturer: str
    model: str
    rows: int
    columns: int
    boxes: tuple[Box, ...]

    def fits(self, header: pydicom.Dataset) -> bool:
        """Is the file of this device and size?"""
        return (self.rows, self.columns) == (header.get("Rows"), header.get("Columns")) and all(
            not wanted or str(header.get(keyword, "")).strip().lower() == wanted.strip().lower()
            for wanted, keyword in ((self.manufacturer, "Manufacturer"), (self.model, "ManufacturerModelName"))
        )


@dataclass(frozen=True)
class TextPolicy:
    """What is done with files at risk.

    Attributes:
        action: ``mask`` text that is found; ``hold`` the files back; ``keep`` their pixels as they are.
        everything: look at every picture, not only at those at risk.
        regions: of devices.
        detector: name of the entry point in ``dcmark.text``.
    """

    action: Literal["mask", "hold", "keep"] = "hold"
    everything: bool = False
    regions: tuple[Region, ...] = ()
    detector: str = "ppocr"
    _loaded: dict[str, TextDetector] = field(default_factory=dict, compare=False, repr=False)

    def __getstate__(self) -> Mapping[str, object]:
        return {**self.__dict__, "_loaded": {}}

    def boxes(self, pictures: Pictures) -> list[Box] | None:
        """Where a file has to be masked; empty where nothing was found; None where nobody looked.

        Raises:
            HeldBackError: it is at risk and cannot be made clean.
        """
        if self.action == "keep" or not pictures.instance.frames:
            return None
        why = at_risk(pictures.header)
        if not why and not (self.everything and pictures.header.get("Modality") not in NO_PICTURES):
            return None
        if self.action == "hold":
            raise HeldBackError(f"expected pixels without text, found {why or 'a picture'}; {EXPECTED}")
        known = [box for region in self.regions if region.fits(pictures.header) for box in region.boxes]
        try:
            found = {box for picture in pictures.shown() for box in self._detector.find(picture)}
        except HeldBackError:
            raise
        except MissingExtraError as error:
            raise HeldBackError(f"expected a detector of text: {error}; or {EXPECTED.partition(', ')[2]}") from error
        except (DcmarkError, ValueError, AttributeError, KeyError, TypeError) as error:
            text = f"expected pixels that can be looked at, found some that cannot be decoded ({type(error).__name__})"
            raise HeldBackError(text) from error
        rows, columns = int(pictures.header.Rows), int(pictures.header.Columns)
        every = [*known, *sorted(found)]
        if _share(every, rows, columns) > LARGEST_SHARE:
            raise HeldBackError(
                f"expected a picture with some text, found more than {LARGEST_SHARE:.0%} of it covered by text: a "
                "document, which a person has to look at"
            )
        return every

    @property
    def _detector(self) -> TextDetector:
        if self.detector not in self._loaded:
            self._loaded[self.detector] = plugins.load(GROUP, self.detector)()
        return self._loaded[self.detector]


def at_risk(header: pydicom.Dataset) -> str:
    """Why the pixels of a file may hold text, in words; empty where they hardly do."""
    if str(header.get("BurnedInAnnotation", "")).strip().upper() == "YES":
        return "a picture that says it has text burned in"
    modality = str(header.get("Modality", "")).strip().upper()
    if modality in NO_PICTURES:
        return ""
    if modality in AT_RISK:
        return f"a picture of modality {modality}, which often carries text"
    if str(header.get("SOPClassUID", "")).startswith(CAPTURES):
        return "a secondary capture, which often carries text"
    if str(header.get("ConversionType", "")).strip():
        return "a converted picture (a scan, a screen, a film), which often carries text"
    return "" if modality else "a picture of no modality"


def _share(boxes: list[Box], rows: int, columns: int) -> float:
    import numpy as np

    covered = np.zeros((rows, columns), bool)
    for box in boxes:
        covered[box.top : box.bottom, box.left : box.right] = True
    return float(covered.mean())


def masked(clean: bytes, boxes: list[Box], limits: Limits = LIMITS) -> bytes:
    """A clean file with boxes made background in all frames.

    Raises:
        HeldBackError: its pixels cannot be changed.
    """
    return Pictures(memoryview(clean), limits).blanked(boxes) if boxes else clean
