"""Writing DICOM segmentations through highdicom."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dcmark.annotate import objects
from dcmark.annotate.formats.base import Context
from dcmark.annotate.formats.dicom_write import MANUFACTURER, SERIES_NUMBER, TISSUE, header, own_code
from dcmark.annotate.formats.volumes import VolumeMask
from dcmark.annotate.model import Annotation, Code
from dcmark.archive.volumes import StoredVolume
from dcmark.errors import UnsupportedError
from dcmark.read.volume_model import FrameId

if TYPE_CHECKING:
    from pydicom import Dataset


def sources(volume: StoredVolume, context: Context) -> list[Dataset]:
    """The headers of the images of a volume in its order, each once, fit to be referred to.

    Raises:
        UnsupportedError: the images are no DICOM.
    """
    assert volume.archive is not None
    found = []
    for file in dict.fromkeys(frame.file for frame in volume.frames):
        context.places.instance(FrameId(file, 0))
        found.append(header(context, file))
    return found


def write_seg(path: Path, volume: StoredVolume, masks: Sequence[VolumeMask], kind: str, context: Context) -> None:
    """Write one segmentation of the masks of a volume.

    Args:
        path: the file to write.
        masks: a segment each.
        kind: ``binary``, ``fractional`` or ``labelmap``.
    """
    import highdicom as hd
    from pydicom.uid import generate_uid

    images = sources(volume, context)
    several = len(images) == 1 and len(volume.frames) > 1
    used = sorted({k for one in masks for k in one.planes})
    if not several:
        # Slices of some archives carry a frame of reference each; a segmentation names one.
        common = images[0].get("FrameOfReferenceUID") or generate_uid()
        for image in images:
            image.FrameOfReferenceUID = common
        chosen = [images[k] for k in used]
        rows = used
    else:
        numbers = [frame.frame for frame in volume.frames]
        if sorted(numbers) != list(range(len(numbers))):
            raise UnsupportedError("expected a volume of all frames of its object for a segmentation, found a part")
        chosen = images
        rows = [numbers.index(i) for i in range(len(numbers))]
    pixels = _pixels(volume, masks, rows, kind)
    descriptions = [_description(hd, place, one.annotation) for place, one in enumerate(masks, 1)]
    types = hd.seg.SegmentationTypeValues
    options: dict[str, Any] = {}
    if kind == "fractional":
        options["max_fractional_value"] = max(plane.levels for one in masks for plane in one.planes.values())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = hd.seg.Segmentation(
            source_images=chosen,
            pixel_array=pixels,
            segmentation_type={"binary": types.BINARY, "fractional": types.FRACTIONAL, "labelmap": types.LABELMAP}[
                kind
            ],
            segment_descriptions=descriptions,
            series_instance_uid=generate_uid(),
            series_number=SERIES_NUMBER,
            sop_instance_uid=generate_uid(),
            instance_number=1,
            manufacturer=MANUFACTURER,
            manufacturer_model_name="dcmark",
            software_versions=_version(),
            device_serial_number="0",
            content_label="SEGMENTATION",
            series_description="Segmentation",
            content_creator_name=None,
            omit_empty_frames=True,
            **options,
        )
        author = masks[0].annotation.author
        if author:
            made.ContentCreatorName = author.replace("=", " ").replace("\\", " ")[:64]
        made.save_as(path)


def _version() -> str:
    from dcmark import __version__

    return __version__


def _pixels(volume: StoredVolume, masks: Sequence[VolumeMask], rows: Sequence[int], kind: str) -> Any:
    """What highdicom takes: (frames, rows, columns) of labels, or (frames, rows, columns, segments)."""
    _, height, width = volume.shape
    if kind == "labelmap":
        labels = np.zeros((len(rows), height, width), np.uint8 if len(masks) < 256 else np.uint16)
        for worth, one in enumerate(masks, 1):
            for place, k in enumerate(rows):
                if k in one.planes:
                    labels[place][one.planes[k].binary()] = worth
        return labels
    dtype = np.float32 if kind == "fractional" else np.uint8
    pixels = np.zeros((len(rows), height, width, len(masks)), dtype)
    for place, k in enumerate(rows):
        for number, one in enumerate(masks):
            if k in one.planes:
                plane = one.planes[k]
                marked = plane.array()
                pixels[place, ..., number] = marked if kind != "fractional" else marked / np.float64(plane.levels)
    return pixels


def _description(hd: Any, number: int, one: Annotation) -> Any:
    algorithm = one.prop("algorithm_type") or ("AUTOMATIC" if one.tool and not one.author else "MANUAL")
    identification = None
    if algorithm != "MANUAL":
        identification = hd.AlgorithmIdentificationSequence(
            name=(one.prop("algorithm_name") or one.tool or "unknown")[:64],
            version=(one.tool_version or "unknown")[:64],
            family=hd.sr.CodedConcept("123110", "DCM", "Artificial Intelligence"),
        )
    kind = one.label.code or own_code(one.label.name)
    made = hd.seg.SegmentDescription(
        segment_number=number,
        segment_label=one.label.name[:64],
        segmented_property_category=_concept(hd, one.label.category or TISSUE),
        segmented_property_type=_concept(hd, kind),
        algorithm_type=algorithm,
        algorithm_identification=identification,
        tracking_uid=one.prop("tracking_uid") or None,
        tracking_id=(one.prop("tracking_id") or one.id[:16]) if one.prop("tracking_uid") else None,
        anatomic_regions=_region(hd, one),
    )
    if one.label.colour:
        made.RecommendedDisplayCIELabValue = objects.lab_of_rgb(one.label.colour)
    return made


def _region(hd: Any, one: Annotation) -> Any:
    parts = one.prop("anatomic_region").split("^")
    return [_concept(hd, Code(*parts))] if len(parts) == 3 else None


def _concept(hd: Any, one: Code) -> Any:
    return hd.sr.CodedConcept(one.value, one.scheme, one.meaning[:64] or one.value)
