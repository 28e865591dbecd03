"""Images of other formats than DICOM that are one array behind a header: what their readers share.

A reader makes an ``ArrayHeader``; ``take_apart`` turns it into segments and frames, ``volumes`` into volumes.
Arrays lie with the column index fastest, then row, slice, and repeats (time, diffusion, ...), so every slice is a run
of bytes and becomes a frame. A compressed array is kept as it came, and its frames stand beside it (``derived``).
"""

from __future__ import annotations

import bz2
import hashlib
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, overload

import numpy as np
from numpy.typing import NDArray

from dcmark.config import LIMITS, Limits
from dcmark.findings import Finding
from dcmark.geometry import AffineLps, PointsLps, shear_degrees
from dcmark.read.base import Instance, PixelLayout, Segment
from dcmark.read.pixeldata import MOST_FRAMES
from dcmark.read.volume_model import TOLERANCES, FrameId, GridKind, Leftover, Volume

KINDS = ("nifti", "analyze", "nrrd", "metaimage")
"""Kinds of files whose readers give an ``ArrayHeader``."""

Encoding = Literal["raw", "gzip", "bzip2", ""]
_CHUNK = 1 << 20
_LARGEST_SIDE = (1 << 31) - 1


@dataclass(frozen=True, slots=True, eq=False)
class ArrayHeader:
    """What the header of an array says.

    Attributes:
        kind: one of ``KINDS``.
        columns, rows, slices, repeats: sizes, fastest first; at least 1.
        samples: values per pixel, interleaved.
        dtype: of the values with their byte order, as numpy writes it (``<i2``); empty for one that is not read.
        offset: bytes before the array, in the file, or in what it inflates to where ``packed_from`` is 0.
        encoding: of the array; empty for one that is not read.
        packed_from: where the compressed bytes begin in the file.
        detached: name of the file that holds the array; empty where it is this one.
        affine: (slice, row, column, 1) to mm in LPS; None where no place in the patient is known.
        slope, intercept: physical value = stored value * slope + intercept; None where it is the stored one.
        findings: what was noticed.
    """

    kind: str
    columns: int
    rows: int
    slices: int
    repeats: int
    samples: int
    dtype: str
    offset: int
    encoding: Encoding = "raw"
    packed_from: int = 0
    detached: str = ""
    affine: AffineLps | None = None
    slope: float | None = None
    intercept: float | None = None
    findings: tuple[Finding, ...] = ()

    @property
    def frames(self) -> int:
        """Slices of all repeats."""
        return self.slices * self.repeats

    @property
    def frame_bytes(self) -> int:
        """Bytes of one slice."""
        return self.rows * self.columns * self.samples * np.dtype(self.dtype).itemsize if self.dtype else 0


class ArrayReader(Protocol):
    """A reader of ``dcmark.read.base`` that can also describe a header on its own."""

    name: str

    def header(self, data: memoryview, path: str) -> ArrayHeader | Finding:
        """The header of a file by its first bytes; a finding where it cannot be understood. Never raises for them."""
        ...


def layout_of(header: ArrayHeader) -> PixelLayout | None:
    """How the bytes of a slice are to be understood; None for values that are not read (complex, 128-bit, ...)."""
    kind = np.dtype(header.dtype) if header.dtype else None
    if kind is None or not 1 <= header.samples <= 4 or kind.kind not in "iuf" or kind.itemsize > 8:
        return None
    number: Literal["int", "float", "double"] = "int"
    if kind.kind == "f":
        if kind.itemsize < 4:
            return None
        number = "float" if kind.itemsize == 4 else "double"
    bits = kind.itemsize * 8
    return PixelLayout(
        rows=header.rows,
        columns=header.columns,
        samples=header.samples,
        bits_allocated=bits,
        bits_stored=bits,
        high_bit=bits - 1,
        signed=kind.kind == "i",
        planar=False,
        photometric="MONOCHROME2" if header.samples < 3 else "RGB",
        number=number,
        big_endian=kind.newbyteorder("=") != kind and kind.itemsize > 1,
    )


def take_apart(data: memoryview, header: ArrayHeader | Finding, name: str, limits: Limits = LIMITS) -> Instance:
    """A file as segments and frames by its header; whole, with a finding, where its slices cannot be had.

    Args:
        data: the whole file.
        header: as its reader found it, or what is wrong with it.
        name: kind of the file.
        limits: what hostile content may cost.
    """
    whole = (Segment(-1, len(data)),)
    if isinstance(header, Finding):
        kind = "opaque" if header.level == "error" else name
        return Instance(kind=kind, segments=whole, findings=(header,))
    layout = layout_of(header)
    findings = list(header.findings)
    tags = _tags(header, layout)
    note = _why_not(header, layout, limits)
    if note is not None or layout is None:
        return Instance(kind=name, segments=whole, tags=tags, findings=(*findings, *([note] if note else [])))
    size = header.frame_bytes
    if header.encoding != "raw":
        count, wrong = _inflatable(data, header, limits)
        derived = _Inflated(data, header, count) if count else ()
        return Instance(
            kind=name, segments=whole, frames=count, derived=derived, tags=tags, layout=layout,
            findings=(*findings, *wrong),
        )  # fmt: skip
    count = min(header.frames, max(0, len(data) - header.offset) // size)
    if count < header.frames:
        text = (
            f"{header.frames} slices need {header.frames * size} bytes, {max(0, len(data) - header.offset)} are there"
        )
        findings.append(Finding("error", "truncated", text, f"{count} whole slices kept as frames"))
    segments = [Segment(-1, header.offset)] if header.offset and count else []
    segments += [Segment(number, size) for number in range(count)]
    rest = len(data) - sum(segment.length for segment in segments)
    if rest:
        segments.append(Segment(-1, rest))
    return Instance(
        kind=name, segments=tuple(segments), frames=count, tags=tags, layout=layout, findings=tuple(findings)
    )


def _why_not(header: ArrayHeader, layout: PixelLayout | None, limits: Limits) -> Finding | None:
    if layout is None:
        return Finding("info", "unsupported-type", "values of a type that is not read as frames", "kept whole")
    if header.detached:
        return Finding("info", "detached", "the pixels stand in another file", "kept whole, without frames")
    if not header.encoding:
        return Finding("info", "unsupported-encoding", "pixels in an encoding that is not read as frames", "kept whole")
    if header.frames > MOST_FRAMES:
        text = f"{header.frames} slices in one file, at most {MOST_FRAMES} are taken apart"
        return Finding("warning", "too-many-frames", text, "kept whole")
    largest = limits.frame_bytes if header.encoding == "raw" else limits.in_memory
    if not 0 < header.frame_bytes <= largest:
        text = f"expected slices of at most {largest} bytes, the header declares {header.frame_bytes}"
        return Finding("error", "too-large", text, "kept whole")
    return None


def _tags(header: ArrayHeader, layout: PixelLayout | None) -> dict[str, Any]:
    if max(header.rows, header.columns) > _LARGEST_SIDE:
        return {}
    tags: dict[str, Any] = {"rows": header.rows, "columns": header.columns}
    if header.frames <= _LARGEST_SIDE:
        tags["number_of_frames"] = header.frames
    if layout is not None:
        tags |= {
            "samples_per_pixel": layout.samples,
            "photometric_interpretation": layout.photometric,
            "bits_allocated": layout.bits_allocated,
            "bits_stored": layout.bits_stored,
            "high_bit": layout.high_bit,
            "pixel_representation": int(layout.signed),
        }
    if header.slope is not None and header.intercept is not None:
        tags |= {"rescale_slope": header.slope, "rescale_intercept": header.intercept}
    if header.affine is not None:
        between = np.linalg.norm(header.affine[:3, :3], axis=0)
        cosines = header.affine[:3, :3] / between
        tags |= {
            "pixel_spacing": [float(between[1]), float(between[2])],
            "spacing_between_slices": float(between[0]),
            "image_position_patient": header.affine[:3, 3].tolist(),
            "image_orientation_patient": [*cosines[:, 2].tolist(), *cosines[:, 1].tolist()],
        }
    return tags


class RawReader:
    """Keeps the file of pixels that a header in another file describes."""

    name = "raw"

    def __init__(self, limits: Limits = LIMITS) -> None:
        del limits

    def claims(self, head: memoryview, path: str) -> bool:
        """By its name: nothing inside says what it is."""
        del head
        return path.lower().endswith((".img", ".img.gz", ".raw", ".raw.gz", ".zraw"))

    def take_apart(self, data: memoryview, path: str) -> Instance:
        """The file as it is."""
        del path
        text = "pixels without a header, by the name of the file; a header beside it may describe them"
        return Instance("raw", (Segment(-1, len(data)),), findings=(Finding("info", "detached", text, "kept whole"),))


# Compressed arrays ----------------------------------------------------------------------------------------------------


def inflated(data: memoryview, encoding: Encoding) -> Iterator[bytes]:
    """What compressed bytes inflate to, some at a time; several gzip members one after another.

    Raises:
        zlib.error, OSError: the bytes are damaged. What inflates before is given first.
        EOFError: they end early.
    """
    start = 0
    while start < len(data):
        inflater = zlib.decompressobj(47) if encoding == "gzip" else bz2.BZ2Decompressor()
        done = False
        while not done:
            piece = data[start : start + _CHUNK]
            left: bytes = b""
            start += len(piece)
            if not piece:
                raise EOFError("the compressed bytes end early")
            if isinstance(inflater, bz2.BZ2Decompressor):
                yield inflater.decompress(piece, _CHUNK)
                while not inflater.eof and not inflater.needs_input:
                    yield inflater.decompress(b"", _CHUNK)
            else:
                yield inflater.decompress(piece, _CHUNK)
                while inflater.unconsumed_tail and not inflater.eof:
                    yield inflater.decompress(inflater.unconsumed_tail, _CHUNK)
            done = inflater.eof
            left = inflater.unused_data
            if done:
                start -= len(left)
        if encoding == "gzip" and bytes(data[start : start + 2]) != b"\x1f\x8b":
            return  # padding or other bytes behind the stream


def _inflatable(data: memoryview, header: ArrayHeader, limits: Limits) -> tuple[int, list[Finding]]:
    """How many slices the compressed bytes really hold, and what is wrong with them."""
    wanted, total = header.offset + header.frames * header.frame_bytes, 0
    packed = data[header.packed_from :]
    wrong = ""
    try:
        for piece in inflated(packed, header.encoding):
            total += len(piece)
            if total > limits.container_grace and total > limits.container_ratio * len(packed):
                text = f"the array inflates to more than {limits.container_ratio} times its bytes"
                return 0, [Finding("error", "too-large", text, "kept whole")]
            if total >= wanted:
                return header.frames, []
    except EOFError:
        wrong = "ends early"
    except (zlib.error, OSError):
        wrong = "is damaged"
    count = max(0, total - header.offset) // header.frame_bytes
    text = f"{header.frames} slices need {wanted} bytes, the compressed array {wrong or 'ends'} after {total}"
    return count, [Finding("error", "truncated", text, f"{count} whole slices kept as frames")]


class _Inflated(Sequence[bytes]):
    """Slices of a compressed array, inflated one after another as they are asked for."""

    def __init__(self, data: memoryview, header: ArrayHeader, count: int) -> None:
        self._data, self._header, self._count = data, header, count

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[bytes]:
        header, size = self._header, self._header.frame_bytes
        skip, given, held = header.offset, 0, bytearray()
        if not self._count:
            return
        for piece in inflated(self._data[header.packed_from :], header.encoding):
            over = min(skip, len(piece))
            skip -= over
            held += piece[over:]
            while len(held) >= size:
                yield bytes(held[:size])
                del held[:size]
                given += 1
                if given == self._count:
                    return

    @overload
    def __getitem__(self, index: int) -> bytes: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[bytes]: ...
    def __getitem__(self, index: int | slice) -> bytes | Sequence[bytes]:
        if isinstance(index, slice):
            return list(self)[index]
        if not 0 <= index < self._count:
            raise IndexError(index)
        for number, frame in enumerate(self):
            if number == index:
                return frame
        raise IndexError(index)


# Volumes --------------------------------------------------------------------------------------------------------------


def volumes(header: ArrayHeader, file: str, stored: int) -> list[Volume | Leftover]:
    """The volumes of one file: one a repeat; a leftover where it has no frames.

    Args:
        header: of the file.
        file: its key, such as its SHA-256.
        stored: frames that are there.
    """
    if stored < 1:
        finding = Finding(
            "info", "no-frames", "an image of another format whose slices are not stored one by one", "kept"
        )
        return [Leftover("", (FrameId(file, 0),), (), finding)]
    found: list[Volume | Leftover] = []
    for repeat in range(header.repeats):
        count = min(header.slices, stored - repeat * header.slices)
        if count > 0:
            found.append(_volume(header, file, repeat, count))
    return found


def _volume(header: ArrayHeader, file: str, repeat: int, count: int) -> Volume:
    numbers = np.arange(count) + repeat * header.slices
    affine, grid, positions = header.affine, "none", None
    findings = list(header.findings)
    spacing: tuple[float, float, float] | None = None
    if count < header.slices:
        text = f"expected {header.slices} slices, found {count}: the file is cut short"
        findings.append(Finding("error", "truncated", text, "the slices that are there are used"))
    if affine is not None:
        affine, grid, spacing = affine.copy(), "regular" if count > 1 else "single", _spacing(affine)
        down, right = affine[:3, 1], affine[:3, 2]
        if affine[:3, 0] @ np.cross(right, down) < 0:
            # The file's slices run against the normal; a volume's run along it.
            numbers = numbers[::-1]
            affine[:3, 3] += affine[:3, 0] * (count - 1)
            affine[:3, 0] *= -1
        affine = AffineLps(affine)
        lean = shear_degrees(affine)
        if lean > TOLERANCES.angle_degrees and count > 1:
            grid = "tilted"
            text = f"slices are stacked {lean:.2f} degrees off their normal"
            findings.append(Finding("warning", "tilted", text, "the affine is sheared; resample to shear back"))
        skew = abs(float(np.rad2deg(np.arcsin(np.clip(down @ right / spacing[1] / spacing[2], -1, 1)))))
        if skew > TOLERANCES.angle_degrees:
            text = f"rows and columns meet {skew:.2f} degrees off a right angle"
            findings.append(Finding("warning", "skewed", text, "the affine is kept as it is"))
        steps = np.arange(count, dtype=np.float64)
        positions = PointsLps(affine[:3, 3] + steps[:, None] * affine[:3, 0])
    frames = tuple(FrameId(file, number) for number in numbers.tolist())
    if header.repeats > 1:
        text = f"{header.repeats} volumes follow one another in the file, this is number {repeat + 1}"
        findings.append(Finding("info", "phases", text, "each is a volume of its own"))
    listed = f"{file}:{','.join(str(number) for number in numbers.tolist())}"
    return Volume(
        id=hashlib.sha256(listed.encode()).hexdigest()[:16],
        series_instance_uid="",
        number=repeat + 1,
        modality="",
        grid=_kind(grid),
        frames=frames,
        table_rows=(),
        shape=(count, header.rows, header.columns),
        affine=affine,
        spacing=spacing,
        slice_index=np.arange(count, dtype=np.float64) if affine is not None else np.zeros(0),
        positions=positions,
        phase=repeat + 1,
        phases=header.repeats,
        findings=tuple(findings),
    )


def _kind(grid: str) -> GridKind:
    return grid  # type: ignore[return-value]


def _spacing(affine: NDArray[np.float64]) -> tuple[float, float, float]:
    lengths = np.linalg.norm(affine[:3, :3], axis=0)
    plane_normal = np.cross(affine[:3, 2], affine[:3, 1])
    along = abs(float(affine[:3, 0] @ plane_normal / np.linalg.norm(plane_normal)))
    return along, float(lengths[1]), float(lengths[2])
