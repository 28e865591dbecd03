"""What a request may cost, and reading bodies within it."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from starlette.requests import Request

from dcmark.config import MIB, Limits
from dcmark.errors import DcmarkError, LimitError, StorageError, UsageError

READING = Limits(member_bytes=8 * 1024 * MIB, frame_bytes=512 * MIB)


@dataclass(frozen=True, slots=True)
class WebLimits:
    """What a request may cost at most.

    Attributes:
        json_bytes: body of JSON: a stroke, a label set, prompts.
        import_bytes: file of annotations sent to be imported.
        store_bytes: body of one STOW-RS request.
        store_instances: instances in it.
        answer_bytes: frames given in one answer, decoded.
        actions: of one request.
        pixels: of all slices of one mask.
        elements: listed of one header.
        proxy_side: largest side of a reduced volume, pixels.
        query_rows: given by one search.
        seconds_waiting: how long a request for events is kept open.
        reading: limits of everything read from a body.
    """

    json_bytes: int = 64 * MIB
    import_bytes: int = 1024 * MIB
    store_bytes: int = 4096 * MIB
    store_instances: int = 10_000
    answer_bytes: int = 64 * MIB
    actions: int = 1000
    pixels: int = 1 << 31
    elements: int = 20_000
    proxy_side: int = 512
    query_rows: int = 10_000
    seconds_waiting: float = 25.0
    reading: Limits = READING


LIMITS = WebLimits()


class HttpError(DcmarkError):
    """An error that only HTTP knows, with its status and word.

    Args:
        status: of the answer.
        code: stable word for programs.
        more: further members of the answer's JSON.
    """

    def __init__(self, status: int, code: str, message: str, **more: Any) -> None:
        super().__init__(message)
        self.status, self.word, self.more = status, code, more


async def chunks(request: Request, most: int) -> AsyncIterator[bytes]:
    """The body of a request as it comes in.

    Raises:
        LimitError: it is declared or found to be larger than ``most`` bytes.
        HttpError: it is packed; nothing is unpacked here, so that no few bytes become many.
    """
    if request.headers.get("content-encoding", "identity") != "identity":
        raise HttpError(415, "encoding", "expected a body without Content-Encoding, found a packed one; send it plain")
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > most:
        raise LimitError(f"expected a body of at most {most} bytes, found {declared}")
    count = 0
    async for chunk in request.stream():
        count += len(chunk)
        if count > most:
            raise LimitError(f"expected a body of at most {most} bytes, found more")
        yield chunk


async def body_of(request: Request, most: int) -> bytes:
    """The whole body; errors as for ``chunks``."""
    return b"".join([chunk async for chunk in chunks(request, most)])


async def body_to(request: Request, place: Path, most: int) -> int:
    """Write the body to a file of our own; its size. Errors as for ``chunks``, and StorageError."""
    count = 0
    try:
        with place.open("wb") as stream:
            async for chunk in chunks(request, most):
                stream.write(chunk)
                count += len(chunk)
    except OSError as error:
        raise StorageError("the temporary folder of this computer refused the upload; free some space") from error
    return count


async def json_of(request: Request, most: int = LIMITS.json_bytes) -> dict[str, Any]:
    """The body as a JSON object.

    Raises:
        UsageError: it is none, or holds NaN or Infinity.
    """
    try:
        found = json.loads(await body_of(request, most), parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise UsageError("expected a body of JSON, found something else") from error
    if not isinstance(found, dict):
        raise UsageError("expected a JSON object, found another value")
    return found


def _no_constant(text: str) -> Any:
    raise ValueError(text)


def whole_number(text: str, name: str, low: int, high: int) -> int:
    """A number of a request.

    Raises:
        UsageError: it is none, or outside of ``low`` to ``high``.
    """
    if not (text.isascii() and text.isdecimal() and len(text) < 12 and low <= int(text) <= high):
        raise UsageError(f"expected a whole number from {low} to {high} for {name}, found something else")
    return int(text)
