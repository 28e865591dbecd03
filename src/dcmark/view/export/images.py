"""``dcmark export images``: frames as ordinary pictures, each of which leads back to its file.

export_images(archive, "png/", where="modality = 'CT'", window="lung", size=256)
export_images(archive, "stored/", stored=True)       # 16-bit PNG; value = pixel + offset of view.json
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from dcmark.archive.faults import writing
from dcmark.archive.store import Archive
from dcmark.errors import DcmarkError, MissingExtraError, UnsupportedError, UsageError
from dcmark.progress import NoProgress, Progress
from dcmark.view.export import reference
from dcmark.view.export.base import ExportReport, Names, begin, each_frame, finish, item_line, select
from dcmark.view.export.resize import Placement, placed, resized
from dcmark.view.export.windowing import Windows
from dcmark.view.frames import Frame

Array = NDArray[Any]
Format = Literal["png", "jpeg", "tiff"]
SUFFIXES: dict[Format, str] = {"png": ".png", "jpeg": ".jpg", "tiff": ".tif"}
JPEG_QUALITY = 92
PNG_LEVEL = 5


def export_images(
    archive: Archive,
    out: str | os.PathLike[str],
    *,
    where: str | None = None,
    format: Format = "png",
    stored: bool = False,
    size: int | None = None,
    window: str | None = None,
    overwrite: bool = False,
    threads: int | None = None,
    progress: Progress | None = None,
) -> ExportReport:
    """Write a picture for every frame, under the path of its file, and ``view.json`` beside them.

    Args:
        archive: where from.
        out: an empty or absent folder, unless ``overwrite``.
        where: SQL condition over the view ``files``; None: all.
        format: of the files. JPEG is lossy and has 8 bits.
        stored: stored values instead of what is to be seen. PNG holds them as whole numbers from 0: the value is the
            pixel plus ``offset`` in ``view.json`` (-32768 for signed 16-bit values). TIFF holds them as they are.
        size: side of square pictures, pixels: area averages, the shape kept, the rest black. None: as they are.
        window: a named CT window (``lung``), or ``CENTRE/WIDTH`` in physical units; None: the header's first window,
            and where there is none percentiles of the series, the same for all its slices.
        overwrite: write into a folder that holds something.
        threads: None: one a processor.
        progress: is told of each frame.

    Raises:
        QueryError, UsageError: the condition is refused or chooses nothing; options that do not fit.
        OutputExistsError: ``out`` has something in it.
        StorageError: ``out`` cannot be written.
        MissingExtraError: TIFF without the extra ``formats``.
    """
    if stored and format == "jpeg":
        raise UsageError("expected png or tiff for stored values; found jpeg, which has 8 bits and is lossy")
    if stored and window is not None:
        raise UsageError("expected a window for display values only; found one with --stored")
    encode = _encoder(format)
    chosen, without = select(archive, where)
    windows = Windows(archive, chosen, window)
    place = begin(out, overwrite)
    report = ExportReport(without_frames=without)
    progress = progress or NoProgress()
    names = Names(chosen)
    background = 0.0

    def work(at: int, one: Frame) -> tuple[bytes, dict[str, Any]]:
        if stored:
            picture, offset = _stored(one.stored, format)
        else:
            picture, offset = one.display(windows.of(one, chosen[at])), 0
        where_to = placed(picture.shape, size)
        picture = resized(picture, where_to, background if not stored else _darkest(picture))
        about = {"sha256": chosen[at].sha256, "frame": chosen[at].number}
        return encode(picture, about), _record(about, where_to, offset)

    def items() -> Iterator[str]:
        made_from: set[str] = set()
        for at, made in each_frame(archive, chosen, work, threads=threads or os.cpu_count() or 1):
            if isinstance(made, DcmarkError):
                report.leave_out(chosen[at], made)
            else:
                data, record = made
                name = names.of(chosen[at], SUFFIXES[format])
                _write(place / name, data)
                report.items += 1
                made_from.add(chosen[at].sha256)
                report.files = len(made_from)
                yield item_line({"item": name, **record})
            progress.advance(1, 0)

    about = {
        "exporter": "images",
        "archive": archive.info.id,
        "where": where,
        "values": "stored" if stored else "display",
        "size": size,
        "window": window,
    }
    progress.start("export images", len(chosen))
    try:
        finish(place, about, items(), report)
    finally:
        progress.finish()
    return report


def _record(about: dict[str, Any], where_to: Placement, offset: int) -> dict[str, Any]:
    record = {**about, "to_original": where_to.to_original()}
    return {**record, "offset": offset} if offset else record


def _write(place: Path, data: bytes) -> None:
    with writing(place):
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(data)


def _darkest(picture: Array) -> float:
    return float(picture.min()) if picture.size else 0.0


def _stored(values: Array, format: Format) -> tuple[Array, int]:
    """Stored values as a picture, and what to add to a pixel to get the value."""
    if format == "tiff":
        return values, 0
    kind = values.dtype
    if kind in (np.uint8, np.uint16):
        return values, 0
    if kind == np.bool_:
        return values.astype(np.uint8), 0
    if kind in (np.int8, np.int16):
        lowest = int(np.iinfo(kind).min)
        return (values.astype(np.int32) - lowest).astype(f"u{kind.itemsize}"), lowest
    if kind.kind in "iu" and values.size and int(values.min()) >= 0 and int(values.max()) < 1 << 16:
        return values.astype(np.uint16), 0
    raise UnsupportedError(
        f"expected stored values of 16 bits or fewer for PNG; found {kind}; use --format tiff, or export npy"
    )


def _encoder(format: Format) -> Callable[[Array, dict[str, Any]], bytes]:
    if format == "tiff":
        return _tiff_encoder()
    import imagecodecs

    if format == "png":
        return lambda picture, about: reference.in_png(
            bytes(imagecodecs.png_encode(np.ascontiguousarray(picture), level=PNG_LEVEL)), about
        )
    if format == "jpeg":
        return lambda picture, about: reference.in_jpeg(
            bytes(imagecodecs.jpeg8_encode(np.ascontiguousarray(picture), level=JPEG_QUALITY)), about
        )
    raise UsageError(f"expected png, jpeg or tiff for --format; found {format!r}")


def _tiff_encoder() -> Callable[[Array, dict[str, Any]], bytes]:
    try:
        import tifffile
    except ModuleNotFoundError as error:
        raise MissingExtraError("tifffile", "formats", "writing TIFF") from error

    def encode(picture: Array, about: dict[str, Any]) -> bytes:
        stream = io.BytesIO()
        tifffile.imwrite(
            stream,
            picture,
            photometric="rgb" if picture.ndim == 3 else "minisblack",
            description=reference.words(about),
            metadata=None,
        )
        return stream.getvalue()

    return encode
