"""STOW-RS: instances that are sent go into the archive, byte for byte (PS3.18 section 10.5)."""

from __future__ import annotations

import hashlib
import re
import tempfile
import warnings
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio.to_thread
from starlette.requests import Request
from starlette.responses import Response

from dcmark.arrival.durable import settle
from dcmark.errors import LimitError, StorageError, UsageError
from dcmark.findings import Finding
from dcmark.ingestion import ingest
from dcmark.read.base import Item
from dcmark.read.sources.folders import FolderSource
from dcmark.web.dicomweb.model import Json, answer, attribute, base_url, service_of
from dcmark.web.limits import LIMITS, HttpError, chunks
from dcmark.web.service import Service

LABEL = "dicomweb"
"""What the archive calls the source of these files."""
LONGEST_PART_HEADER = 16_384
CANNOT_UNDERSTAND, OTHER_STUDY, PROCESSING_FAILURE = 0xC000, 0xA900, 0x0110
"""Failure reasons (PS3.18 table 10.5.3-2, PS3.4 annex GG)."""
_BOUNDARY = re.compile(r"[0-9A-Za-z'()+_,./:=? -]{1,70}")


@dataclass(frozen=True, slots=True)
class Received:
    """A part of a request, in a file of ours.

    Attributes:
        file: its place.
        sha256: of its bytes.
        study, series, instance, sop_class: its UIDs; empty where it has none.
        reason: why it is not stored; 0 where it is.
    """

    file: Path
    sha256: bytes
    study: str = ""
    series: str = ""
    instance: str = ""
    sop_class: str = ""
    reason: int = 0


class _Folder:
    """The files of a request as a source; all requests are one source to the archive."""

    label = LABEL

    def __init__(self, folder: Path) -> None:
        self._folder = FolderSource(LABEL, str(folder), None)

    def items(self) -> Iterator[Item | Finding]:
        """The files."""
        return self._folder.items()


async def store(request: Request) -> Response:
    """Store what is sent: all parts that are DICOM instances, of the study in the path where it names one."""
    service, study = service_of(request), request.path_params.get("study")
    kind, boundary = _content_type(request)
    with tempfile.TemporaryDirectory(prefix="dcmark-") as name:
        folder = Path(name).resolve()
        stream = chunks(request, LIMITS.store_bytes)
        if kind == "application/dicom":
            parts = [await _write(folder, 0, stream)]
        else:
            parts = [part async for part in _parts(folder, stream, boundary)]
        if not parts:
            raise UsageError("expected one instance or more, found none")
        found = await anyio.to_thread.run_sync(_store, service, folder, parts, study)
    service.news()
    return _told(found, base_url(request))


def _content_type(request: Request) -> tuple[str, bytes]:
    from email.message import Message

    header = Message()
    header["content-type"] = request.headers.get("content-type", "")[:1000]
    kind = header.get_content_type()
    if kind == "application/dicom":
        return kind, b""
    inner, boundary = str(header.get_param("type", "")).lower(), str(header.get_param("boundary", ""))
    if kind != "multipart/related" or inner not in ("application/dicom", "") or not _BOUNDARY.fullmatch(boundary):
        raise HttpError(415, "media", 'expected multipart/related; type="application/dicom", found another media type')
    return kind, boundary.encode()


# The body -------------------------------------------------------------------------------------------------------------


async def _parts(folder: Path, stream: AsyncIterator[bytes], boundary: bytes) -> AsyncIterator[tuple[Path, bytes]]:
    """Parts of a multipart body (RFC 2046), each written to a file as it comes in: its place and SHA-256."""
    mark = b"\r\n--" + boundary
    buffer = bytearray(b"\r\n")
    ended = False

    async def more() -> bool:
        nonlocal ended
        if not ended:
            chunk = await anext(stream, None)
            ended = chunk is None
            buffer.extend(chunk or b"")
        return not ended

    async def content() -> AsyncIterator[bytes]:
        """Up to the next mark; what may be the beginning of one is held back."""
        while (place := buffer.find(mark)) < 0:
            ready = len(buffer) - len(mark) + 1
            if ready > 0:
                yield bytes(buffer[:ready])
                del buffer[:ready]
            if not await more():
                raise UsageError("expected a multipart body with its last boundary, found it cut short")
        yield bytes(buffer[:place])
        del buffer[: place + len(mark)]

    async for _ in content():  # what stands before the first part means nothing
        pass
    number = 0
    while True:
        while len(buffer) < 2 and await more():
            pass
        if buffer[:2] == b"--":
            return
        while (end := buffer.find(b"\r\n\r\n")) < 0 and len(buffer) <= LONGEST_PART_HEADER:
            if not await more():
                raise UsageError("expected headers of a part, found the body cut short")
        if not 0 <= end <= LONGEST_PART_HEADER:
            raise LimitError(f"expected headers of a part of at most {LONGEST_PART_HEADER} bytes, found more")
        del buffer[: end + 4]
        if number >= LIMITS.store_instances:
            raise LimitError(f"expected at most {LIMITS.store_instances} instances in one request, found more")
        yield await _write(folder, number, content())
        number += 1


async def _write(folder: Path, number: int, pieces: AsyncIterator[bytes]) -> tuple[Path, bytes]:
    digest, place = hashlib.sha256(), folder / f"{number}.part"
    try:
        with place.open("wb") as out:
            async for piece in pieces:
                digest.update(piece)
                out.write(piece)
        # Named by its content: the same instance sent twice is one path of the archive.
        return place.replace(folder / f"{digest.hexdigest()}.dcm"), digest.digest()
    except OSError as error:
        raise StorageError("the temporary folder of this computer refused the upload; free some space") from error


# Storing --------------------------------------------------------------------------------------------------------------


def _store(service: Service, folder: Path, parts: list[tuple[Path, bytes]], study: str | None) -> list[Received]:
    received = [_looked_at(file, digest, study) for file, digest in dict(parts).items()]
    for one in received:
        if one.reason:
            one.file.unlink()
    archive = service.archive_now()
    ingest([_Folder(folder)], archive)
    settle()  # what is acknowledged is on the disk
    service.catalogue.renew()
    archive.refresh()
    stored = set(archive.read("files", ["sha256"])["sha256"].to_pylist())
    return [
        one if one.reason or one.sha256 in stored else _failed(one, PROCESSING_FAILURE)
        for one in received
    ]  # fmt: skip


def _looked_at(file: Path, digest: bytes, study: str | None) -> Received:
    import pydicom

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            wanted = ["StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "SOPClassUID"]
            header = pydicom.dcmread(file, stop_before_pixels=True, specific_tags=wanted)
            uids = [str(header.get(name, "") or "") for name in wanted]
        except Exception:  # noqa: BLE001  pydicom raises many kinds of errors for what is no DICOM file
            return Received(file, digest, reason=CANNOT_UNDERSTAND)
    study_uid, series, instance, sop_class = uids
    one = Received(file, digest, study_uid, series, instance, sop_class)
    if not all(re.fullmatch(r"[0-9.]{1,64}", uid) for uid in uids):
        return _failed(one, CANNOT_UNDERSTAND)
    return _failed(one, OTHER_STUDY) if study is not None and one.study != study else one


def _failed(one: Received, reason: int) -> Received:
    return Received(one.file, one.sha256, one.study, one.series, one.instance, one.sop_class, reason)


def _told(found: list[Received], base: str) -> Response:
    """What was stored and what was not (PS3.18 section 10.5.3)."""
    good = [one for one in found if not one.reason]
    bad = [one for one in found if one.reason]
    told: Json = {}
    if good:
        told["00081190"] = attribute("UR", f"{base}/studies/{good[0].study}")
        told["00081199"] = {"vr": "SQ", "Value": [_reference(one, base) for one in good]}
    if bad:
        told["00081198"] = {"vr": "SQ", "Value": [_reference(one, base) for one in bad]}
    return answer(told, 409 if not good else 202 if bad else 200)


def _reference(one: Received, base: str) -> Json:
    found: dict[str, Any] = {
        "00081150": attribute("UI", _uid(one.sop_class)),
        "00081155": attribute("UI", _uid(one.instance)),
    }
    if one.reason:
        found["00081197"] = attribute("US", one.reason)
    else:
        url = f"{base}/studies/{one.study}/series/{one.series}/instances/{one.instance}"
        found["00081190"] = attribute("UR", url)
    return found


def _uid(text: str) -> str:
    return text if re.fullmatch(r"[0-9.]{1,64}", text) else ""
