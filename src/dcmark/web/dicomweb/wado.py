"""WADO-RS: files, frames, headers and bulk data (PS3.18 section 10.4)."""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import chain

import numpy as np
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from dcmark.archive.assemble import ASSEMBLY_COLUMNS, file_pieces, read_parts
from dcmark.archive.store import Archive
from dcmark.errors import DamageError, UsageError
from dcmark.read.pixeldata import VIDEO
from dcmark.view.files import StoredFile, stored_files
from dcmark.view.frames import frame
from dcmark.web.dicomweb.model import Json, answer, base_url, bulk_of, chosen, instance_url, of_header, service_of
from dcmark.web.limits import LIMITS, HttpError

PIXEL_DATA = "7FE00010"
EXPLICIT_LITTLE = "1.2.840.10008.1.2.1"
_JPEG = "1.2.840.10008.1.2.4."
MEDIA = {
    "1.2.840.10008.1.2.5": "image/dicom-rle",
    **{_JPEG + n: "image/jpeg" for n in ("50", "51", "57", "70")},
    **{_JPEG + n: "image/jls" for n in ("80", "81")},
    **{_JPEG + n: "image/jp2" for n in ("90", "91")},
    **{_JPEG + n: "image/jpx" for n in ("92", "93")},
    **{_JPEG + n: "image/jph" for n in ("201", "202", "203")},
    **{_JPEG + n: "image/jxl" for n in ("110", "111", "112")},
    **{_JPEG + n: "video/mpeg" for n in ("100", "101")},
    **{_JPEG + n: "video/mp4" for n in ("102", "103", "104", "105", "106")},
    **{_JPEG + n: "video/H265" for n in ("107", "108")},
}
"""Media types of compressed frames (PS3.18 table 8.7.3-5)."""
_RANGE = re.compile(r"\s*([^;,\s]+)((?:\s*;\s*[\w-]+\s*=\s*(?:\"[^\"]*\"|[^;,\s]*))*)\s*")
_PARAMETER = re.compile(r";\s*([\w-]+)\s*=\s*(?:\"([^\"]*)\"|([^;,\s]*))")


class Accepted:
    """A media type that a request accepts: ``kind`` of a part, and its transfer syntax (empty: the default)."""

    def __init__(self, kind: str, syntax: str, multipart: bool) -> None:
        self.kind, self.syntax, self.multipart = kind.lower(), syntax, multipart


def accepted(request: Request) -> list[Accepted]:
    """Media types in the order of the header; anything where there is none."""
    text = request.query_params.get("accept") or request.headers.get("accept") or "*/*"
    found = []
    for kind, tail in _RANGE.findall(text[:4000]):
        parameters = {name.lower(): quoted or plain for name, quoted, plain in _PARAMETER.findall(tail)}
        multipart = kind.lower() == "multipart/related"
        inner = parameters.get("type", "*/*") if multipart else kind
        found.append(Accepted(inner, parameters.get("transfer-syntax", ""), multipart or kind == "*/*"))
    return found or [Accepted("*/*", "", True)]


def _refused(what: str) -> HttpError:
    return HttpError(406, "accept", f"expected to be asked for {what}, found other media types only")


# Whole files ----------------------------------------------------------------------------------------------------------


def retrieve(request: Request) -> Response:
    """The original files of a study, a series, or one instance."""
    rows = chosen(request)
    archive = service_of(request).catalogue.now().archive
    types = [one for one in accepted(request) if one.kind in ("application/dicom", "*/*", "application/*")]
    syntaxes = {one.syntax for one in types}
    if not types or not all(_fits(row, syntaxes) for row in rows):
        raise _refused('multipart/related; type="application/dicom" in the transfer syntax of the files (or *)')
    if len(rows) == 1 and "instance" in request.path_params and not types[0].multipart:
        return StreamingResponse(_whole(archive, rows[0]), media_type="application/dicom")
    parts = ((f"application/dicom; transfer-syntax={row['transfer_syntax']}", _whole(archive, row)) for row in rows)
    return multipart("application/dicom", parts)


def _fits(row: Json, syntaxes: set[str]) -> bool:
    return bool({"", "*", row["transfer_syntax"]} & syntaxes)


def _whole(archive: Archive, row: Json) -> Iterator[bytes]:
    """The bytes of a file, piece by piece."""
    (found,) = archive.read("files", ASSEMBLY_COLUMNS, f"sha256 = X'{row['sha256']}'").to_pylist()[:1] or [None]
    if found is None:
        raise DamageError("a file of the archive is not there any more")
    with ThreadPoolExecutor(1, "dcmark-file") as executor:
        for piece in file_pieces(archive, found, executor):
            yield bytes(piece)


def multipart(kind: str, parts: Iterable[tuple[str, Iterable[bytes]]]) -> Response:
    """Parts one behind the other (RFC 2387), made while they are sent. The first is made before the status is."""
    boundary = f"dcmark-{secrets.token_hex(16)}"

    def pieces() -> Iterator[bytes]:
        for content_type, body in parts:
            yield f"--{boundary}\r\nContent-Type: {content_type}\r\n\r\n".encode()
            yield from body
            yield b"\r\n"
        yield f"--{boundary}--\r\n".encode()

    making = pieces()
    first = [next(making), next(making)]
    return StreamingResponse(chain(first, making), media_type=f'multipart/related; type="{kind}"; boundary={boundary}')


# Headers and bulk data ------------------------------------------------------------------------------------------------


def metadata(request: Request) -> Response:
    """The headers of a study, a series, or one instance as DICOM JSON."""
    rows = chosen(request)
    if not any(one.kind in ("application/dicom+json", "application/json", "*/*") for one in accepted(request)):
        raise _refused("application/dicom+json")
    if len(rows) > LIMITS.query_rows:
        raise HttpError(413, "limit", f"expected at most {LIMITS.query_rows} instances at once; ask by series")
    archive, base = service_of(request).catalogue.now().archive, base_url(request)
    found = []
    for start in range(0, len(rows), 256):
        some = rows[start : start + 256]
        files = stored_files(archive, [row["sha256"] for row in some])
        for row in some:
            file, url = files[bytes.fromhex(row["sha256"])], instance_url(base, row)
            one = of_header(file.dataset, lambda path, url=url: f"{url}/bulkdata/{path}")  # type: ignore[misc]
            if row["frames"]:
                vr = "OB" if (row["bits_allocated"] or 16) <= 8 or row["transfer_syntax"] in MEDIA else "OW"
                one[PIXEL_DATA] = {"vr": vr, "BulkDataURI": f"{url}/bulkdata/{PIXEL_DATA}"}
            one["00083002"] = {"vr": "UI", "Value": [row["transfer_syntax"] or ""]}
            found.append(dict(sorted(one.items())))
    return answer(found)


def bulkdata(request: Request) -> Response:
    """The bytes of one attribute."""
    (row,) = chosen(request)
    archive = service_of(request).catalogue.now().archive
    file = stored_files(archive, [row["sha256"]])[bytes.fromhex(row["sha256"])]
    path = request.path_params["path"]
    if path.upper() == PIXEL_DATA and row["frames"]:
        return _frames(request, file, range(file.frames), whole=True)
    data = bulk_of(file.dataset, path)
    if data is None:
        raise HttpError(404, "gone", "expected the path of bulk data of this instance, found another")
    if accepted(request)[0].multipart:
        return multipart("application/octet-stream", [("application/octet-stream", [data])])
    return Response(data, media_type="application/octet-stream")


# Frames ---------------------------------------------------------------------------------------------------------------


def frames(request: Request) -> Response:
    """Some frames, numbered from 1: pixels, or codestreams as they lie in the file."""
    (row,) = chosen(request)
    archive = service_of(request).catalogue.now().archive
    file = stored_files(archive, [row["sha256"]])[bytes.fromhex(row["sha256"])]
    return _frames(request, file, frame_numbers(request, file), whole=False)


def frame_numbers(request: Request, file: StoredFile) -> list[int]:
    """The frames that a path lists, from 0.

    Raises:
        UsageError: no numbers. HttpError: a frame that is not there (404).
    """
    words = request.path_params["frames"].split(",")
    if not all(word.isascii() and word.isdecimal() and len(word) < 10 for word in words) or len(words) > 10_000:
        raise UsageError("expected numbers of frames with commas between them, found something else")
    numbers = [int(word) - 1 for word in words]
    if not all(0 <= number < file.frames for number in numbers):
        raise HttpError(404, "gone", f"expected numbers of frames from 1 to {file.frames}, found others")
    return numbers


def _frames(request: Request, file: StoredFile, numbers: Iterable[int], *, whole: bool) -> Response:
    syntax = str(file.row["transfer_syntax"] or EXPLICIT_LITTLE)
    coded = MEDIA.get(syntax)
    for one in accepted(request):
        if one.kind in ("application/octet-stream", "*/*", "application/*"):
            as_stored = one.syntax in ("*", syntax) or (whole and coded is not None and one.syntax == "")
            if as_stored and coded is not None:
                return multipart(coded, _coded(file, numbers, f"{coded}; transfer-syntax={syntax}"))
            if one.syntax in ("", "*", EXPLICIT_LITTLE):
                kind = f"application/octet-stream; transfer-syntax={EXPLICIT_LITTLE}"
                pixels = (_pixels(file, number) for number in numbers)
                if whole:
                    return multipart("application/octet-stream", [(kind, pixels)])
                if not one.multipart:
                    return Response(b"".join(pixels), media_type="application/octet-stream")
                return multipart("application/octet-stream", ((kind, [data]) for data in pixels))
        elif coded is not None and one.kind == coded.lower() and one.syntax in ("", "*", syntax):
            return multipart(coded, _coded(file, numbers, f"{coded}; transfer-syntax={syntax}"))
    raise _refused(f"application/octet-stream{f' or {coded}' if coded else ''}")


def _coded(file: StoredFile, numbers: Iterable[int], kind: str) -> Iterator[tuple[str, Iterable[bytes]]]:
    if file.row["transfer_syntax"] in VIDEO:
        numbers = [0]  # all frames lie in one stream
    for number in numbers:
        (part,) = read_parts(file.archive, [file.position(number)])
        yield kind, [bytes(part.unpack())]


def _pixels(file: StoredFile, number: int) -> bytes:
    """A frame as it lies in an uncompressed little-endian file (PS3.5 section 8.1)."""
    layout = file.layout
    if not file.video and not layout.big_endian and layout.bits_allocated > 1:
        (part,) = read_parts(file.archive, [file.position(number)])
        if not part.codec[:1].isdigit():  # not compressed: the very bytes
            return bytes(part.unpack())
    stored = frame(file.archive, file.sha256, number, limits=LIMITS.reading).stored
    if layout.bits_allocated == 1:
        return np.packbits(stored.ravel() != 0, bitorder="little").tobytes()
    return stored.astype(stored.dtype.newbyteorder("<"), copy=False).tobytes()
