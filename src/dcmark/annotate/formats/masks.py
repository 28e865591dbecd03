"""NIfTI and MHA: label maps that stand on the grid of a volume; and what NRRD shares with them."""

from __future__ import annotations

import mmap
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from dcmark.annotate import grids
from dcmark.annotate.formats.base import MOST_LABELS, Context, Imported, Written, reading_file
from dcmark.annotate.formats.labels import Segment, side_labels, write_side_labels
from dcmark.annotate.formats.volumes import VolumeMask, label_array, layers, merged, volume_masks
from dcmark.annotate.masks import MaskPlane, in_threads
from dcmark.annotate.model import Annotation, Label
from dcmark.archive.volumes import StoredVolume
from dcmark.config import Limits
from dcmark.errors import LimitError, SourceError, UnsupportedError
from dcmark.findings import Finding
from dcmark.geometry import AffineLps, affine_to_nifti
from dcmark.read import arrays
from dcmark.read.arrays import ArrayHeader
from dcmark.read.metaimage import MetaImageReader
from dcmark.read.nifti import NiftiReader

Array = NDArray[Any]


class _Reader(Protocol):
    def claims(self, head: memoryview, path: str) -> bool: ...

    def header(self, data: memoryview, path: str) -> ArrayHeader | Finding: ...


def load(path: Path, reader: _Reader, what: str, limits: Limits) -> tuple[ArrayHeader, Array, memoryview]:
    """The array of a file as (repeats, slices, rows, columns, samples), not copied where it lies uncompressed.

    Raises:
        SourceError: it is no such file, or cut short. LimitError: it inflates to too much.
    """
    if not path.stat().st_size:
        raise SourceError(f"{path.name}: expected {what}, found an empty file")
    data = _mapped(path)
    if not reader.claims(data[:4096], path.name):
        raise SourceError(f"{path.name}: expected {what}, found something else")
    header = reader.header(data, path.name)
    if isinstance(header, Finding):
        raise SourceError(f"{path.name}, header: expected {what}, found: {header.message}")
    if not header.dtype or (not header.encoding and not header.detached):
        raise UnsupportedError(f"{path.name}: expected values as plain numbers, found an encoding that is not read")
    pixels, start = data, header.packed_from
    if header.detached:
        pixels, start = _mapped(_beside(path, header.detached)), 0
    encoding = header.encoding
    if encoding == "raw" and bytes(pixels[:2]) == b"\x1f\x8b" and header.detached:
        encoding = "gzip"
    wanted = header.frame_bytes * header.frames
    if encoding == "raw":
        body: Any = pixels[header.offset : header.offset + wanted]
    else:
        body = _inflated(pixels[start:], encoding, header.offset, wanted, path.name, limits)
    if len(body) < wanted:
        raise SourceError(f"{path.name}: expected {wanted} bytes of voxels, found {len(body)}; the file is cut short")
    shape = (header.repeats, header.slices, header.rows, header.columns, header.samples)
    return header, np.frombuffer(body, header.dtype).reshape(shape), data


def _mapped(path: Path) -> memoryview:
    with path.open("rb") as stream:
        return memoryview(mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ))


def _beside(path: Path, name: str) -> Path:
    """The file of pixels of a header; only a plain name beside it is believed."""
    if "/" in name or "\\" in name or name in ("", ".", "..", "?") or not (path.parent / name).is_file():
        raise SourceError(f"{path.name}: expected its voxels in a file beside it, found no such file")
    return path.parent / name


def _inflated(data: memoryview, encoding: Any, skip: int, wanted: int, name: str, limits: Limits) -> memoryview:
    pieces, total = [], 0
    most = max(limits.container_grace, limits.container_ratio * len(data))
    try:
        for piece in arrays.inflated(data, encoding):
            pieces.append(piece)
            total += len(piece)
            if total > most:
                raise LimitError(f"{name}: expected voxels, found bytes that inflate to more than {most}")
            if total >= skip + wanted:
                break
    except (zlib.error, OSError, EOFError) as error:
        raise SourceError(f"{name}: expected compressed voxels, found them damaged after {total} bytes") from error
    return memoryview(b"".join(pieces))[skip : skip + wanted]


# Label maps to annotations --------------------------------------------------------------------------------------------


def annotations_of(
    layer: Array, affine: AffineLps, segments: Sequence[Segment], source: Path, name: str, context: Context
) -> list[Annotation]:
    """The segments of one label map as annotations on the volume it fits.

    Args:
        layer: (slices, rows, columns) of the file; whole numbers.
        affine: of it.
        source: the file.
        name: of the file and layer, for messages.
        segments: what its values mean; values that are not listed get a label of their number.
    """
    found = grids.choose(affine, layer.shape, context.candidates(), name, context.likeness(source))
    turned = layer.transpose(found.axes)
    placer = grids.Placer(found, len(turned), name)
    slices = in_threads(lambda k: _planes(turned[k], k, placer, name), len(turned))
    values = sorted(set().union(*slices)) if slices else []
    if len(values) > MOST_LABELS:
        raise LimitError(f"{name}: expected at most {MOST_LABELS} labels, found {len(values)}; is it an image?")
    known = {one.value: one for one in segments}
    made = []
    for value in values:
        planes = [one[value] for one in slices if value in one]
        segment = known.get(value) or Segment(value, 0, Label(str(value)))
        made.append(_annotation(segment, planes, found.volume, name, context))
    return made


def _planes(plane: Array, number: int, placer: grids.Placer, name: str) -> dict[int, MaskPlane]:
    """A plane for each value of a slice but 0."""
    down = np.flatnonzero(_extent(plane, 1))
    if not len(down):
        return {}
    top, bottom = int(down[0]), int(down[-1]) + 1
    across = np.flatnonzero(_extent(plane[top:bottom], 0))
    left, right = int(across[0]), int(across[-1]) + 1
    found = {}
    for value, marked in _values(plane[top:bottom, left:right], name, number):
        made = placer.put(number, marked, top, left)
        if made is not None:
            found[value] = made
    return found


def _extent(plane: Array, axis: int) -> Array:
    """Not zero where something is marked along an axis; the maximum of bytes is found many times faster than any()."""
    return np.asarray(plane.max(axis=axis) if plane.dtype == np.uint8 else plane.any(axis=axis))


def _values(inner: Array, name: str, number: int) -> Iterator[tuple[int, Array]]:
    """Every value but 0, with its pixels."""
    if inner.dtype == np.uint8:
        left = inner
        for _ in range(4):  # mostly there are few, and then this is faster than counting
            value = int(left.max())
            if not value:
                return
            marked = left == value
            yield value, marked
            left = np.where(marked, np.uint8(0), left)
        for value in (np.flatnonzero(np.bincount(left.ravel(), minlength=256)[1:]) + 1).tolist():
            yield value, left == value
        return
    values = np.unique(inner)
    if values.dtype.kind == "f" and not np.array_equal(values, np.rint(values)):
        raise SourceError(f"{name}, slice {number}: expected whole numbers in a label map, found fractions")
    if len(values) and (values.min() < 0 or values.max() > 1 << 31):
        raise SourceError(f"{name}, slice {number}: expected labels from 0 to {1 << 31}, found others")
    for one in values.tolist():
        if one:
            yield int(one), inner == one


def _annotation(
    segment: Segment, planes: list[MaskPlane], volume: StoredVolume, name: str, context: Context
) -> Annotation:
    frames = [plane.frame for plane in planes]
    one = Annotation(
        "mask",
        context.places.target("volume", frames, volume),
        segment.label,
        mask=planes,
        author=context.author,
        origin=name,
    )
    return one.with_properties(**segment.properties)


class MaskFormat:
    """What the three formats share."""

    name = ""
    suffixes: tuple[str, ...] = ()
    what = ""
    reader: Any = None

    def read(self, source: Path, context: Context) -> Imported:
        """Every label of the file as a mask on the volume whose grid it stands on."""
        with reading_file(self.what, source.name):
            header, array, data = load(source, self.reader(context.limits), self.what, context.limits)
            if header.affine is None:
                raise SourceError(f"{source.name}, header: expected a place in the patient, found none")
            if header.repeats > 1:
                raise UnsupportedError(f"{source.name}: expected one label map, found {header.repeats} in a row")
            segments = self.segments(source, data, context)
            imported = Imported(findings=[f for f in header.findings if f.level != "info"])
            for layer in range(header.samples):
                part = array[0, ..., layer]
                if header.slope is not None and header.intercept is not None:
                    part = part * header.slope + header.intercept
                chosen = [one for one in segments if one.layer == layer]
                name = source.name if header.samples == 1 else f"{source.name}, layer {layer}"
                made = annotations_of(part, header.affine, chosen, source, name, context)
                imported.annotations += made
            return imported

    def segments(self, source: Path, data: memoryview, context: Context) -> list[Segment]:
        """What the values mean, by the file of labels beside the file."""
        del data, context
        return side_labels(source)

    def write(self, annotations: Sequence[Annotation], out: Path, context: Context) -> Written:
        """A label map a volume, and another where masks overlap; names, codes and colours beside it in JSON."""
        written = Written(exact_labels=True)
        for volume_id, found in volume_masks(annotations, context, written).items():
            volume = context.places.volumes[volume_id]
            everything = merged(found)
            numbers = {one.annotation.label.name: i for i, one in enumerate(everything, 1)}
            for number, group in enumerate(layers(everything)):
                values = [numbers[one.annotation.label.name] for one in group]
                array, affine = label_array(volume, group, values)
                stem = volume_id if not number else f"{volume_id}_{number + 1}"
                path = out / f"{stem}{self.suffixes[0]}"
                self.write_array(path, array, affine, group, values)
                written.files.append(path)
                if self.beside:
                    written.files.append(write_side_labels(path, group, values))
                written.meant += [one.annotation for one in group]
        return written

    beside = True

    def write_array(
        self, path: Path, array: Array, affine: AffineLps, masks: Sequence[VolumeMask], values: Sequence[int]
    ) -> None:
        """Write one label map."""
        raise NotImplementedError


class NiftiFormat(MaskFormat):
    """NIfTI label maps."""

    name = "nifti"
    suffixes = (".nii.gz", ".nii")
    what = "a NIfTI label map"
    reader = NiftiReader

    def write_array(
        self, path: Path, array: Array, affine: AffineLps, masks: Sequence[VolumeMask], values: Sequence[int]
    ) -> None:
        """Columns fastest, as all NIfTI files; the affine negates x and y, nothing is flipped."""
        del masks, values
        import nibabel

        matrix = affine_to_nifti(affine)
        image = nibabel.Nifti1Image(array.transpose(2, 1, 0), matrix)
        image.header.set_xyzt_units("mm")
        image.set_sform(matrix, code=1)
        image.set_qform(matrix, code=1, strip_shears=True)
        nibabel.save(image, path)


class MhaFormat(MaskFormat):
    """MetaImage label maps."""

    name = "mha"
    suffixes = (".mha", ".mhd")
    what = "a MetaImage label map"
    reader = MetaImageReader

    def write_array(
        self, path: Path, array: Array, affine: AffineLps, masks: Sequence[VolumeMask], values: Sequence[int]
    ) -> None:
        """Header and compressed voxels; the world of MetaImage is LPS."""
        del masks, values
        steps = affine[:3, [2, 1, 0]]
        lengths = np.linalg.norm(steps, axis=0)
        packed = zlib.compress(array.tobytes(), 6)
        columns = {
            "ObjectType": "Image",
            "NDims": "3",
            "BinaryData": "True",
            "BinaryDataByteOrderMSB": "False",
            "CompressedData": "True",
            "CompressedDataSize": str(len(packed)),
            "TransformMatrix": _words((steps / lengths).T.ravel()),
            "Offset": _words(affine[:3, 3]),
            "CenterOfRotation": "0 0 0",
            "ElementSpacing": _words(lengths),
            "DimSize": " ".join(str(one) for one in array.shape[::-1]),
            "ElementType": "MET_UCHAR" if array.dtype == np.uint8 else "MET_USHORT",
            "ElementDataFile": "LOCAL",
        }
        head = "".join(f"{key} = {value}\n" for key, value in columns.items())
        path.write_bytes(head.encode("ascii") + packed)


def _words(numbers: Any) -> str:
    return " ".join(repr(float(one)) for one in numbers)
