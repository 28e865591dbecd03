"""Frames of MPEG-2, MPEG-4 AVC/H.264 and HEVC/H.265 streams, through PyAV (extra ``video``; PS3.5 8.2.5 to 8.2.9).

One stream holds all frames of an instance. Frames are handed out one at a time; a stream is only read forward.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dcmark.config import LIMITS, Limits
from dcmark.errors import DecodeError, MissingExtraError
from dcmark.read.base import PixelLayout
from dcmark.read.native import Bytes, check_size

# What DICOM allows a stream to lie in, and no network: a play list would make FFmpeg open what it names.
_OPTIONS = {"format_whitelist": "mpegvideo,mpeg,mpegts,h264,hevc,mov,m4v", "protocol_whitelist": "none"}
_CODECS = frozenset({"mpeg1video", "mpeg2video", "h264", "hevc"})
# Planes of a pixel format: sharing of chroma down and across, bytes a sample.
_PLANES = {
    "yuv420p": (2, 2, 1),
    "yuvj420p": (2, 2, 1),
    "yuv422p": (1, 2, 1),
    "yuvj422p": (1, 2, 1),
    "yuv444p": (1, 1, 1),
    "yuvj444p": (1, 1, 1),
    "yuv420p10le": (2, 2, 2),
    "yuv422p10le": (1, 2, 2),
    "yuv444p10le": (1, 1, 2),
}


def video_frames(stream: Bytes, layout: PixelLayout, limits: Limits = LIMITS) -> Iterator[NDArray[Any]]:
    """The frames of a video stream, in the order they are shown.

    Args:
        stream: the whole stream, the joined fragments of Pixel Data.

    Yields:
        (rows, columns, 3) uint8, or uint16 for 10-bit video: Y, Cb, Cr as coded, chroma repeated to full
        resolution. No colour conversion is made.

    Raises:
        MissingExtraError: PyAV is not installed.
        DecodeError: no such stream, damaged, or of another size than the layout says.
        LimitError: a frame is larger than ``limits.frame_bytes``.
    """
    check_size(layout, limits)
    try:
        import av
    except ModuleNotFoundError as error:
        raise MissingExtraError("av", "video", "decoding video") from error
    if layout.samples != 3:
        raise DecodeError(f"expected 3 Samples per Pixel for video; found {layout.samples}")
    try:
        with av.open(io.BytesIO(stream), options=_OPTIONS, metadata_errors="ignore") as container:
            if not container.streams.video:
                raise DecodeError("expected a video stream; found none")
            track = container.streams.video[0]
            context = track.codec_context
            if context.name not in _CODECS:
                raise DecodeError(f"expected MPEG-2, H.264 or HEVC video; found {context.name}")
            _expect_size(context.height, context.width, layout)
            # A later change of size inside the stream must not allocate more (codecs pad to blocks of 64).
            context.options = {"max_pixels": str((layout.rows + 64) * (layout.columns + 64))}
            for frame in container.decode(track):
                yield _planes(frame, layout)
    except av.FFmpegError as error:
        raise DecodeError(f"expected a whole video stream; found damage ({type(error).__name__})") from None


class VideoReader:
    """Frames of one video stream by number; asked for in rising order, the stream is read once.

    Args and errors as for ``video_frames``. Use from one thread.
    """

    def __init__(self, stream: Bytes, layout: PixelLayout, limits: Limits = LIMITS) -> None:
        self._stream, self._layout, self._limits = stream, layout, limits
        self._frames: Iterator[NDArray[Any]] = iter(())
        self._next = -1

    def frame(self, number: int) -> NDArray[Any]:
        """One frame, from 0; those between the last one and this are decoded too."""
        if not 0 <= self._next <= number:
            self._frames, self._next = video_frames(self._stream, self._layout, self._limits), 0
        for found in self._frames:
            self._next += 1
            if self._next == number + 1:
                return found
        count, self._next = self._next, -1
        raise DecodeError(f"expected frame {number} in the video stream; found {count} frames")


def video_frame(stream: Bytes, layout: PixelLayout, index: int, limits: Limits = LIMITS) -> NDArray[Any]:
    """One frame of a video stream, from 0; all before it are decoded too. See ``video_frames``."""
    return VideoReader(stream, layout, limits).frame(index)


def _expect_size(rows: int, columns: int, layout: PixelLayout) -> None:
    if (rows, columns) != (layout.rows, layout.columns):
        raise DecodeError(
            f"expected video of {layout.rows} rows and {layout.columns} columns; found {rows} and {columns}"
        )


def _planes(frame: Any, layout: PixelLayout) -> NDArray[Any]:
    _expect_size(frame.height, frame.width, layout)
    known = _PLANES.get(frame.format.name)
    if known is None:
        raise DecodeError(f"expected video as planes of Y, Cb and Cr; found pixel format {frame.format.name}")
    down, across, size = known
    if size * 8 > layout.bits_allocated:
        raise DecodeError(f"expected video of at most {layout.bits_allocated} bits a sample; found 10")
    image = np.empty((layout.rows, layout.columns, 3), f"u{size}")
    for place, plane in enumerate(frame.planes):
        rows, columns = plane.height, plane.width
        lines = np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)[:rows, : columns * size]
        values = np.ascontiguousarray(lines).view(f"<u{size}")
        if place:
            values = values.repeat(down, axis=0).repeat(across, axis=1)
        image[:, :, place] = values[: layout.rows, : layout.columns]
    return image
