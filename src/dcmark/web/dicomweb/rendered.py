"""WADO-RS rendered frames and thumbnails: JPEG or PNG (PS3.18 sections 8.3.5 and 10.4)."""

from __future__ import annotations

import io
import math

import numpy as np
from PIL import Image
from starlette.requests import Request
from starlette.responses import Response

from dcmark.errors import UsageError
from dcmark.read.windows import Choice, Window
from dcmark.view.files import stored_files
from dcmark.view.frames import frame
from dcmark.web.dicomweb.model import chosen, service_of
from dcmark.web.dicomweb.wado import accepted, frame_numbers
from dcmark.web.limits import LIMITS, HttpError, whole_number

LARGEST_SIDE = 8192
_FUNCTIONS = {"linear": "LINEAR", "linear-exact": "LINEAR_EXACT", "sigmoid": "SIGMOID"}


def instance(request: Request) -> Response:
    """The first frame of an instance, or the frame that is named, as a picture."""
    return _picture(request, LARGEST_SIDE)


def thumbnail(request: Request) -> Response:
    """A small picture of an instance, or of the instance in the middle of a series."""
    return _picture(request, 128)


def _picture(request: Request, most: int) -> Response:
    rows = [row for row in chosen(request) if row["frames"]]
    if not rows:
        raise HttpError(404, "gone", "expected an instance with frames, found none")
    row = rows[len(rows) // 2]
    archive = service_of(request).catalogue.now().archive
    file = stored_files(archive, [row["sha256"]])[bytes.fromhex(row["sha256"])]
    number = frame_numbers(request, file)[0] if "frames" in request.path_params else 0
    kind = next((k for k in map(_kind, (one.kind for one in accepted(request))) if k), None)
    if kind is None:
        raise HttpError(406, "accept", "expected to be asked for image/jpeg or image/png, found other media types only")
    quality = whole_number(request.query_params.get("quality", "90"), "quality", 1, 100)
    shown = frame(archive, row["sha256"], number, limits=LIMITS.reading).display(_window(request), bits=8)
    picture = Image.fromarray(np.ascontiguousarray(shown))
    width, height = _viewport(request, picture.size, most)
    if (width, height) != picture.size:
        picture = picture.resize((width, height), Image.Resampling.LANCZOS)
    out = io.BytesIO()
    if kind == "image/png":
        picture.save(out, "PNG")
    else:
        picture.save(out, "JPEG", quality=quality)
    return Response(out.getvalue(), media_type=kind)


def _kind(accepted_kind: str) -> str | None:
    if accepted_kind in ("image/jpeg", "image/png"):
        return accepted_kind
    return "image/jpeg" if accepted_kind in ("*/*", "image/*") else None


def _window(request: Request) -> Choice:
    text = request.query_params.get("window")
    if text is None:
        return None
    parts = text.split(",")
    try:
        centre, width = float(parts[0]), float(parts[1])
    except (IndexError, ValueError):
        raise UsageError("expected window=centre,width,function, found something else") from None
    function = _FUNCTIONS.get(parts[2].lower() if len(parts) > 2 else "linear")
    if function is None or not (math.isfinite(centre) and math.isfinite(width)) or width < 1:
        raise UsageError("expected a width of 1 or more, and linear, linear-exact or sigmoid; found something else")
    return Window(centre, width, function)  # type: ignore[arg-type]


def _viewport(request: Request, size: tuple[int, int], most: int) -> tuple[int, int]:
    """Width and height, of the same shape as the image, that fit into what is asked for."""
    wide = high = most
    text = request.query_params.get("viewport")
    if text is not None:
        parts = text.split(",")
        if len(parts) < 2:
            raise UsageError("expected viewport=width,height, found something else")
        wide, high = (whole_number(word, "viewport", 1, LARGEST_SIDE) for word in parts[:2])
    elif max(size) <= most:
        return size
    ratio = min(wide / size[0], high / size[1])
    return max(1, round(size[0] * ratio)), max(1, round(size[1] * ratio))
