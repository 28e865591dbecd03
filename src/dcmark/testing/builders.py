"""Small files of every awkward kind, as bytes; each shows one thing that real files do."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from dcmark.testing.encoding import (
    codestream,
    deflated,
    element,
    encapsulated,
    file_head,
    item,
    sequence,
    uid,
    write,
)

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

OffsetTable = Literal["basic", "empty", "extended", "wrong", "short"]
_SECONDARY = "1.2.840.10008.5.1.4.1.1.7"


def pattern(shape: tuple[int, ...], dtype: Any = np.uint16, bits: int | None = None) -> NDArray[Any]:
    """Pixels that differ everywhere, spread over the range of ``bits``, with runs for RLE to find."""
    kind = np.dtype(dtype)
    bits = bits or kind.itemsize * 8
    count = int(np.prod(shape))
    values = (np.arange(count, dtype=np.uint64) // 3 * 40503 + 7) % (1 << bits)
    if kind.kind == "i":
        return (values.astype(np.int64) - (1 << (bits - 1))).astype(kind).reshape(shape)
    return values.astype(kind).reshape(shape)


def image_dataset(
    pixels: NDArray[Any],
    *,
    frames: bool = False,
    bits_stored: int | None = None,
    planar: bool = False,
    photometric: str | None = None,
    sop_class: str = _SECONDARY,
    name: str = "image",
) -> Dataset:
    """A Secondary Capture image (PS3.3 A.8) of these pixels, native.

    Args:
        pixels: integers (rows, columns), (rows, columns, 3), or with frames in front if ``frames``.
        planar: store colour by plane (Planar Configuration 1).
    """
    from pydicom.dataset import Dataset

    pixels = np.asarray(pixels)
    first = 1 if frames else 0
    rows, columns = pixels.shape[first : first + 2]
    samples = pixels.shape[first + 2] if pixels.ndim == first + 3 else 1
    width = pixels.dtype.itemsize * 8
    dataset = Dataset()
    dataset.SpecificCharacterSet = "ISO_IR 100"
    dataset.SOPClassUID, dataset.SOPInstanceUID = sop_class, uid("builders", name, "instance")
    dataset.StudyDate = dataset.StudyTime = dataset.AccessionNumber = dataset.ReferringPhysicianName = ""
    dataset.Modality, dataset.ConversionType = "OT", "SYN"
    dataset.PatientName, dataset.PatientID = "Phantom^Zero", "PHANTOM-ZERO"
    dataset.PatientBirthDate = dataset.PatientSex = dataset.StudyID = ""
    dataset.StudyInstanceUID = uid("builders", name, "study")
    dataset.SeriesInstanceUID = uid("builders", name, "series")
    dataset.SeriesNumber = dataset.InstanceNumber = 1
    dataset.SamplesPerPixel = samples
    dataset.PhotometricInterpretation = photometric or ("RGB" if samples == 3 else "MONOCHROME2")
    if samples > 1:
        dataset.PlanarConfiguration = int(planar)
    if frames:
        dataset.NumberOfFrames = pixels.shape[0]
    dataset.Rows, dataset.Columns = rows, columns
    dataset.BitsAllocated = width
    dataset.BitsStored = bits_stored or width
    dataset.HighBit = dataset.BitsStored - 1
    dataset.PixelRepresentation = int(pixels.dtype.kind == "i")
    raw = pixels
    if samples > 1 and planar:
        raw = np.moveaxis(pixels, -1, first)
    data = raw.astype(raw.dtype.newbyteorder("<")).tobytes()
    dataset.PixelData = data + b"\0" * (len(data) % 2)
    dataset["PixelData"].VR = "OW" if width > 8 else "OB"
    return dataset


def minimal(
    pixels: NDArray[Any] | None = None,
    *,
    syntax: str = "explicit",
    frames: bool = False,
    planar: bool = False,
    bits_stored: int | None = None,
    photometric: str | None = None,
    preamble: bool = True,
    meta: bool = True,
    trailing: bytes = b"",
    name: str = "minimal",
) -> bytes:
    """The smallest sound image, or one with its head cut off or something behind its end.

    Args:
        pixels: as in ``image_dataset``; left out, 4 x 5 of 16 bits.
        syntax: a name of ``SYNTAXES`` or a UID.
        preamble: False leaves out the 128 bytes and ``DICM``.
        meta: False leaves out the File Meta Information too: the bare data set.
        trailing: bytes put behind the data set.
    """
    shown = pattern((4, 5)) if pixels is None else pixels
    dataset = image_dataset(
        shown, frames=frames, planar=planar, bits_stored=bits_stored, photometric=photometric, name=name
    )
    data = write(dataset, syntax)
    if not meta:
        length = struct.unpack_from("<L", data, 140)[0]
        data = data[144 + length :]
    elif not preamble:
        data = data[132:]
    return data + trailing


def multiframe(
    pixels: NDArray[Any] | None = None,
    *,
    syntax: str = "jpeg2000",
    fragments: int = 1,
    offset_table: OffsetTable = "basic",
) -> bytes:
    """Encapsulated frames (PS3.5 A.4), each cut into up to ``fragments`` pieces of even length.

    Args:
        pixels: (frames, rows, columns); left out, 3 frames of 16 x 16, 16 bits.
        offset_table: ``basic``: right; ``empty``: present without entries; ``extended``: Extended Offset
            Table (PS3.3 C.7.6.3.1.8), only allowed with one fragment a frame; ``wrong``: offsets that
            point beside the items; ``short``: one entry too few.
    """
    shown = pattern((3, 16, 16)) if pixels is None else pixels
    pieces: list[bytes] = []
    offsets, lengths, place = [], [], 0
    for frame in shown:
        stream = codestream(frame, syntax, bits_stored=shown.dtype.itemsize * 8)
        lengths.append(len(stream))
        stream += b"\0" * (len(stream) % 2)
        step = -(-len(stream) // fragments)
        step += step % 2
        offsets.append(place)
        for start in range(0, len(stream), step):
            pieces.append(stream[start : start + step])
            place += 8 + len(pieces[-1])
    dataset = image_dataset(shown, frames=True, name=f"multiframe {syntax} {fragments} {offset_table}")
    del dataset.PixelData
    head = write(dataset, syntax)
    if offset_table == "extended":
        head += element(0x7FE0, 1, "OV", struct.pack(f"<{len(offsets)}Q", *offsets))
        head += element(0x7FE0, 2, "OV", struct.pack(f"<{len(lengths)}Q", *lengths))
    tables = {
        "basic": offsets,
        "wrong": [offset + 6 for offset in offsets],
        "short": offsets[:-1],
    }
    return head + encapsulated(pieces, tables.get(offset_table))


def undefined_sequences(depth: int = 3, *, undefined: bool = True, syntax: str = "explicit") -> bytes:
    """Sequences nested ``depth`` deep, private ones too, with items that are empty or of either length."""
    implicit, big = syntax == "implicit", syntax == "big"

    def text(group: int, number: int, vr: str, value: bytes) -> bytes:
        return element(group, number, vr, value, implicit=implicit, big=big)

    def nested(level: int) -> bytes:
        inside = text(0x0008, 0x0100, "SH", b"L%d" % level + b" " * ((1 + len(str(level))) % 2))
        inside += text(0x0008, 0x0104, "LO", b"Depth ")
        if level < depth:
            inside += nested(level + 1)
        members = [item(inside, undefined=undefined, big=big), item(undefined=not undefined, big=big)]
        return sequence(0x0040, 0xA730, members, undefined=undefined, implicit=implicit, big=big)

    private = [item(text(0x0009, 0x1001, "LO", b"inside"), undefined=undefined, big=big)]
    dataset = (
        text(0x0008, 0x0016, "UI", _SECONDARY.encode() + b"\0" * (len(_SECONDARY) % 2))
        + text(0x0009, 0x0010, "LO", b"DCMARK TESTING")
        + sequence(0x0009, 0x1002, private, undefined=undefined, implicit=implicit, big=big)
        + text(0x0010, 0x0010, "PN", b"Phantom^Zero")
        + nested(1)
    )
    return file_head(syntax) + (deflated(dataset) if syntax == "deflated" else dataset)


def odd_lengths() -> bytes:
    """Values of odd length that no writer padded: texts, bytes, and 3 x 3 pixels of 8 bits."""
    dataset = image_dataset(pattern((3, 3), np.uint8), name="odd lengths")
    del dataset.PixelData, dataset.PatientID, dataset.PatientName
    plain = write(dataset)
    length = 144 + struct.unpack_from("<L", plain, 140)[0]
    head, body = plain[:length], plain[length:]
    place = body.index(struct.pack("<HH", 0x0010, 0x0030))
    named = element(0x0010, 0x0010, "PN", b"Odd^Phantom") + element(0x0010, 0x0020, "LO", b"ODD")
    body = body[:place] + named + body[place:]
    return head + body + element(0x7FE0, 0x0010, "OB", pattern((3, 3), np.uint8).tobytes())


def icon(*, syntax: str = "jpeg2000") -> bytes:
    """An image whose Icon Image Sequence holds a Pixel Data of its own, native even where the image is not."""
    from pydicom.dataset import Dataset
    from pydicom.sequence import Sequence

    dataset = image_dataset(pattern((16, 16)), name=f"icon {syntax}")
    small = Dataset()
    small.SamplesPerPixel, small.PhotometricInterpretation = 1, "MONOCHROME2"
    small.Rows = small.Columns = 4
    small.BitsAllocated = small.BitsStored = 8
    small.HighBit, small.PixelRepresentation = 7, 0
    small.PixelData = pattern((4, 4), np.uint8).tobytes()
    small["PixelData"].VR = "OW" if syntax == "implicit" else "OB"
    dataset.IconImageSequence = Sequence([small])
    return write(dataset, syntax)


def one_bit(pixels: NDArray[Any] | None = None, *, frames: int = 3) -> bytes:
    """One bit a pixel (PS3.5 8.1.1), frames packed behind one another without padding, like a SEG.

    ``pixels``: zeros and ones (frames, rows, columns); left out, 3 frames of 5 x 7, which end inside bytes.
    """
    shown = (pattern((frames, 5, 7), np.uint8) % 2) if pixels is None else np.asarray(pixels)
    dataset = image_dataset(shown.astype(np.uint8), frames=True, name="one bit")
    dataset.SOPClassUID = "1.2.840.10008.5.1.4.1.1.7.1"  # Multi-frame Single Bit Secondary Capture
    dataset.BitsAllocated = dataset.BitsStored = 1
    dataset.HighBit = 0
    packed = np.packbits(shown.astype(np.uint8).ravel(), bitorder="little").tobytes()
    dataset.PixelData = packed + b"\0" * (len(packed) % 2)
    dataset["PixelData"].VR = "OB"
    return write(dataset)


def float_pixels(pixels: NDArray[Any] | None = None, *, double: bool = False) -> bytes:
    """Float or Double Float Pixel Data (PS3.3 C.7.6.24, C.7.6.25), as in Parametric Maps.

    ``pixels``: (frames, rows, columns); left out, 2 frames of 4 x 6 with an infinity and a NaN.
    """
    if pixels is None:
        pixels = np.linspace(-1.5, 1e6, 48).reshape(2, 4, 6)
        pixels[0, 0, 0], pixels[1, 3, 5] = np.inf, np.nan
    dataset = image_dataset(pattern(pixels.shape), frames=True, name=f"float {double}")
    del dataset.PixelData, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation
    dataset.SOPClassUID = "1.2.840.10008.5.1.4.1.1.30"
    dataset.BitsAllocated = 64 if double else 32
    if double:
        dataset.DoubleFloatPixelData = pixels.astype("<f8").tobytes()
    else:
        dataset.FloatPixelData = pixels.astype("<f4").tobytes()
    return write(dataset)


def palette(pixels: NDArray[Any] | None = None, *, segmented: bool = False) -> bytes:
    """PALETTE COLOR (PS3.3 C.7.6.3.1.6) with 16-bit tables of 256 entries.

    ``segmented``: tables as one discrete and one linear segment (PS3.3 C.7.9.2).
    """
    shown = pattern((4, 6), np.uint8) if pixels is None else pixels
    dataset = image_dataset(shown, photometric="PALETTE COLOR", name=f"palette {segmented}")
    for colour, end in (("Red", 65535), ("Green", 32768), ("Blue", 256)):
        setattr(dataset, f"{colour}PaletteColorLookupTableDescriptor", [256, 0, 16])
        table = np.linspace(0, end, 256).astype("<u2")
        if segmented:
            ramp = struct.pack("<3H", 0, 1, 0) + struct.pack("<3H", 1, 255, end)
            setattr(dataset, f"Segmented{colour}PaletteColorLookupTableData", ramp)
        else:
            setattr(dataset, f"{colour}PaletteColorLookupTableData", table.tobytes())
    return write(dataset)


def overlay(*, embedded: bool = False) -> bytes:
    """An overlay (PS3.3 C.9.2): a frame drawn on 8 x 8, in its own group or in bit 12 of the pixels."""
    drawn = np.ones((8, 8), dtype=np.uint8)
    drawn[1:-1, 1:-1] = 0
    shown = pattern((8, 8), np.uint16, 12)
    if embedded:
        shown = shown | (drawn.astype(np.uint16) << 12)
    dataset = image_dataset(shown, bits_stored=12, name=f"overlay {embedded}")
    dataset.add_new((0x6000, 0x0010), "US", 8)
    dataset.add_new((0x6000, 0x0011), "US", 8)
    dataset.add_new((0x6000, 0x0040), "CS", "G")
    dataset.add_new((0x6000, 0x0050), "SS", [1, 1])
    dataset.add_new((0x6000, 0x0100), "US", 16 if embedded else 1)
    dataset.add_new((0x6000, 0x0102), "US", 12 if embedded else 0)
    if not embedded:
        dataset.add_new((0x6000, 0x3000), "OW", np.packbits(drawn.ravel(), bitorder="little").tobytes())
    return write(dataset)


def unknown_vr() -> bytes:
    """A sequence under VR UN of undefined length, inside it implicit VR (PS3.5 6.2.2, note 2 on UN)."""
    inner = item(element(0x0008, 0x0100, "SH", b"INSIDE", implicit=True), undefined=True)
    return _head_of("unknown vr") + sequence(0x0029, 0x1010, [inner], undefined=True, vr="UN")


def group_lengths() -> bytes:
    """Retired group lengths (PS3.5 7.2) in front of the groups."""
    first = element(0x0008, 0x0060, "CS", b"OT")
    second = element(0x0010, 0x0010, "PN", b"Phantom^Zero")
    body = b"".join(
        element(group, 0, "UL", struct.pack("<L", len(content))) + content
        for group, content in ((0x0008, first), (0x0010, second))
    )
    return file_head() + body


def bomb(rows: int = 65535, columns: int = 65535) -> bytes:
    """Gigabytes of pixels declared in a few hundred bytes."""
    dataset = image_dataset(pattern((4, 5)), name="bomb")
    dataset.Rows, dataset.Columns = rows, columns
    return write(dataset)


def _head_of(name: str) -> bytes:
    """A file that ends behind its patient's name; elements of higher groups may be appended."""
    return (
        file_head(instance=uid("builders", name))
        + element(0x0010, 0x0010, "PN", b"Phantom^Zero")
        + element(0x0029, 0x0010, "LO", b"DCMARK TESTING")
    )
