"""``dcmark place``: masks made on exported images, back on the grid of the frames they were made from.

The side file of a set knows for every image how its frame was turned, cut and sampled; the inverse of that takes each
pixel of the frame to the pixel of the image over it. Pixels outside the image are outside the mask.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
from numpy.typing import NDArray

from dcmark.annotate.log import Log
from dcmark.annotate.masks import MaskPlane, make_plane
from dcmark.annotate.model import Annotation, Label
from dcmark.annotate.places import Places
from dcmark.archive.faults import writing
from dcmark.archive.store import Archive
from dcmark.errors import SourceError, UsageError
from dcmark.findings import Finding
from dcmark.read.volume_model import FrameId
from dcmark.view.export import sidefile
from dcmark.view.grid import Grid, Turn
from dcmark.view.render import LARGEST_PICTURE

MOST_BYTES = 256 << 20
SUFFIXES = (".png", ".tif", ".tiff", ".npy")


@dataclass(slots=True)
class PlaceReport:
    """What was put back.

    Attributes:
        images: masks that were found for images of the set.
        annotations: ids of the annotations that were added.
        files: written masks.
        findings: masks that could not be put back, and why.
    """

    images: int = 0
    annotations: list[str] = field(default_factory=list)
    files: int = 0
    findings: list[Finding] = field(default_factory=list)


def place(
    archive: Archive,
    set_place: Path,
    masks: Path,
    classes: Mapping[int, str],
    *,
    out: Path | None = None,
    author: str = "",
) -> PlaceReport:
    """Put masks of exported images back onto the frames.

    Args:
        archive: the set was exported from.
        set_place: the set, or its side file.
        masks: a folder or zip of pictures with the names of the set's items (``.png``, ``.tif`` or ``.npy``), or one
            ``.npy`` stack (images, rows, columns) in the order of the set. Whole numbers; 0 is no class.
        classes: label of each number; others are refused.
        out: folder for masks as NPY files of the frames' size, instead of annotations in the archive.
        author: of the annotations.

    Returns:
        One annotation for each class and volume (or file outside volumes), or the number of files.

    Raises:
        SourceError: the side file is not what it should be (a mask that is not is a finding).
        UsageError: the set is of another archive, a class has no label, or no mask belongs to the set.
        StorageError: it cannot be written.
    """
    about, items = _side_file(set_place)
    if about.get("archive") != archive.info.id:
        raise UsageError("expected a set that was exported from this archive; found one of another; name its archive")
    report = PlaceReport()
    places = Places(archive)
    planes: dict[tuple[str, int], list[MaskPlane]] = {}
    for record in items:
        name = str(record["item"])
        try:
            mask = _mask_of(masks, record)
            if mask is None:
                continue
            whole = _grid(record).back(_checked(mask, _grid(record), name))
            unknown = sorted({int(number) for number in np.unique(whole)} - {0, *classes})
            if unknown:
                raise UsageError(f"expected classes {sorted(classes)} in masks; found {unknown[0]}; name it")
        except SourceError as error:
            report.findings.append(Finding("error", error.code, str(error), "left out", name))
            continue
        report.images += 1
        frame = FrameId(record["sha256"], record["frame"])
        if out is not None:
            target = out / f"{frame.file}_{frame.frame:04}.npy"
            with writing(target):
                out.mkdir(parents=True, exist_ok=True)
                np.save(target, whole, allow_pickle=False)
            report.files += 1
            continue
        found = places.slice_of(frame)
        for number in classes:
            plane = make_plane(frame, whole == number)
            if plane is not None:
                planes.setdefault((found[0].id if found else frame.file, number), []).append(plane)
    if not report.images and not report.findings:
        raise UsageError(
            f"expected masks at {masks} named as the items of the set (such as {items[0]['item'] if items else '-'}) "
            "or one NPY stack in their order; found none"
        )
    made = []
    for (_, number), own in planes.items():
        frames = [plane.frame for plane in own]
        volume = places.volume_of(frames)
        target_of = places.target("volume", frames, volume) if volume else places.target("frame", frames)
        made.append(
            Annotation("mask", target_of, Label(classes[number]), mask=tuple(own), author=author, tool="dcmark place")
        )
    if made:
        Log(archive, author=author).add(made)
    report.annotations = [one.id for one in made]
    return report


def _side_file(place: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    side = place if sidefile.is_view(place) else sidefile.beside(place)
    try:
        if side.stat().st_size > MOST_BYTES * 4:
            raise SourceError(f"expected a side file of at most {MOST_BYTES * 4} bytes; found a larger one")
        found = json.loads(side.read_bytes())
        items = found["items"]
        for record in items:
            if not isinstance(record["item"], str) or not isinstance(record["frame"], int):
                raise TypeError("item")
            bytes.fromhex(record["sha256"])
            _grid(record)
    except OSError as error:
        raise SourceError(f"expected a set of dcmark with its side file at {place}; found none") from error
    except (ValueError, KeyError, TypeError, RecursionError, AttributeError) as error:
        raise SourceError(f"expected the side file of a training set at {side}; found it cut off or edited") from error
    return found, items


def _grid(record: Mapping[str, Any]) -> Grid:
    told = record["grid"]
    pairs = [tuple(map(kind, told[name])) for name, kind in (("frame", int), ("image", int))]
    start, step = (tuple(map(float, told[name])) for name in ("start", "step"))
    whole = [*pairs[0], *pairs[1]]
    finite = np.isfinite([*start, *step]).all()
    if len(whole) != 4 or len(start) != 2 or len(step) != 2 or not finite or min(step) <= 0:
        raise ValueError("grid")
    if min(whole) < 1 or max(whole) > LARGEST_PICTURE:
        raise ValueError("grid")
    return Grid(pairs[0], pairs[1], start, step, Turn(*(bool(one) for one in told["turn"])))  # type: ignore[arg-type]


def _mask_of(masks: Path, record: Mapping[str, Any]) -> NDArray[Any] | None:
    """The mask of an image; None where there is none. Names of the side file never lead out of the folder."""
    name = str(record["item"])
    if masks.is_file() and masks.suffix.lower() == ".npy":
        try:
            stack = np.load(masks, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError) as error:
            raise UsageError(f"expected an NPY stack at {masks}; found something else") from error
        return np.asarray(stack[record["index"]]) if record["index"] < len(stack) else None
    stem = name.rpartition(".")[0] or name
    for suffix in SUFFIXES:
        data = _bytes_of(masks, stem + suffix)
        if data is not None:
            return _decoded(data, suffix, name)
    return None


def _bytes_of(masks: Path, name: str) -> bytes | None:
    if masks.is_file():
        try:
            with zipfile.ZipFile(masks) as archive, archive.open(name) as stream:
                return stream.read(MOST_BYTES)
        except KeyError:
            return None
        except (OSError, zipfile.BadZipFile, NotImplementedError, RuntimeError) as error:
            raise UsageError(f"expected a folder, a zip or an NPY stack of masks at {masks}; found another") from error
    place = (masks / name).resolve()
    if not place.is_relative_to(masks.resolve()) or not place.is_file():
        return None
    with place.open("rb") as stream:
        return stream.read(MOST_BYTES)


def _decoded(data: bytes, suffix: str, name: str) -> NDArray[Any]:
    try:
        if suffix == ".npy":
            return np.asarray(np.load(io.BytesIO(data), allow_pickle=False))
        decode = imagecodecs.png_decode if suffix == ".png" else imagecodecs.tiff_decode
        return np.asarray(decode(data))
    except Exception as error:
        raise SourceError(f"expected a mask that can be decoded for {name}; found damage") from error


def _checked(mask: NDArray[Any], grid: Grid, name: str) -> NDArray[Any]:
    if mask.ndim == 3 and mask.shape[2] in (3, 4) and (mask[..., 0] == mask[..., 1]).all():
        mask = mask[..., 0]
    if mask.dtype == bool:
        mask = mask.astype(np.uint8)
    if mask.shape != grid.image or mask.dtype.kind not in "ui":
        raise SourceError(
            f"expected a mask of whole numbers, {grid.image[0]} x {grid.image[1]} pixels, for {name}; found "
            f"{mask.dtype} of {mask.shape}"
        )
    return mask


def pairs(text: str) -> Iterator[tuple[int, str]]:
    """Classes as the user writes them: ``1=liver,2=lesion``.

    Raises:
        UsageError: it is no such list.
    """
    for part in text.split(","):
        number, _, label = part.partition("=")
        if not number.strip().isdigit() or not label.strip() or int(number) == 0:
            raise UsageError(f"expected NUMBER=LABEL,... with numbers from 1, such as 1=lesion; found {text!r}")
        yield int(number), label.strip()
