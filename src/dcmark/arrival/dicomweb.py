"""A DICOMweb server as a source: QIDO-RS says what there is, WADO-RS gives each instance as it is stored there.

PS3.18 sections 10.4 and 10.6.
"""

from __future__ import annotations

import hashlib
import ipaddress
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from email.message import Message
from functools import partial
from typing import Any, BinaryIO, cast
from urllib.parse import parse_qsl, urlsplit

import requests
import requests.adapters
import requests.auth
from dicomweb_client.api import DICOMwebClient
from urllib3.util.retry import Retry

from dcmark.archive.known import Digests
from dcmark.archive.store import Archive
from dcmark.arrival.spool import usable
from dcmark.config import LIMITS, MIB, Limits
from dcmark.errors import LimitError, SourceError, StorageError, UsageError
from dcmark.findings import Finding
from dcmark.read.base import Item

PREFIX = "dicomweb+"
TOKEN, USER, PASSWORD = "DCMARK_DICOMWEB_TOKEN", "DCMARK_DICOMWEB_USER", "DCMARK_DICOMWEB_PASSWORD"
"""Variables of the environment that hold what the server wants to see."""
PAGE = 500
"""Answers asked for at once."""
MOST_UIDS = 1_000_000
"""Studies of a server, series of a study, instances of a series that are listed at most."""
MOST_ANSWER = 64 * MIB
"""Largest answer to a search, bytes."""
ATTEMPTS = 5
BACKOFF_S = 0.5
"""Before the second attempt, seconds; twice as long before each that follows."""
TIMEOUT_S = (10.0, 60.0)
"""For the connection, and between two pieces of an answer, seconds."""
IN_MEMORY = 8 * MIB
"""An instance above this is written to a temporary file while it comes in, bytes."""
_STEP = 256 * 1024
_LONGEST_HEADERS = 64 * 1024
_OF_SERIES = {"Modality", "SeriesInstanceUID", "SeriesNumber", "SeriesDescription", "BodyPartExamined", "0008103E",
              "00080060", "0020000E", "00200011", "00180015"}  # fmt: skip
_OF_INSTANCES = {"SOPInstanceUID", "SOPClassUID", "InstanceNumber", "00080018", "00080016", "00200013"}
_STUDY, _SERIES, _INSTANCE = "0020000D", "0020000E", "00080018"


def is_dicomweb(source: object) -> bool:
    """Does a source on the command line name a DICOMweb server?"""
    return isinstance(source, str) and source.startswith((f"{PREFIX}http://", f"{PREFIX}https://"))


class DicomwebSource:
    """The instances of a DICOMweb server that an archive does not have from it yet; a ``Source``.

    Args:
        address: ``dicomweb+https://HOST/PATH``, what is wanted behind a ``?`` as in a search for studies:
            ``?PatientID=X&ModalitiesInStudy=CT``. Attributes of series and instances choose among these.
        archive: that the instances are to go into; None: all are given.
        limits: ``member_bytes`` is the most that an instance may hold.

    Attributes:
        skipped: instances that the archive has from this server.

    Raises:
        UsageError: no address of a server, a user or password in it, or a token that would go unencrypted over
            a network.
    """

    pattern = "none"

    def __init__(self, address: str, archive: Archive | None = None, limits: Limits = LIMITS) -> None:
        split = urlsplit(address.removeprefix(PREFIX))
        if split.scheme not in ("http", "https") or not split.hostname:
            raise UsageError("expected dicomweb+https://HOST/PATH, found an address without a host")
        if split.username is not None or split.password is not None:
            raise UsageError(f"expected no user or password in an address; put them into {USER} and {PASSWORD}")
        authorised = TOKEN in os.environ or USER in os.environ
        if split.scheme == "http" and authorised and not _loopback(split.hostname):
            raise UsageError("expected dicomweb+https:// where a token or a password is sent, found dicomweb+http://")
        self.label = split.hostname
        self.root = f"{split.scheme}://{split.netloc}{split.path.rstrip('/')}"
        self.skipped = 0
        self._limits = limits
        self._filters: tuple[dict[str, str], dict[str, str], dict[str, str]] = {}, {}, {}
        for name, value in parse_qsl(split.query, keep_blank_values=True):
            self._filters[2 if name in _OF_INSTANCES else 1 if name in _OF_SERIES else 0][name] = value
        self._session = _Session()
        self._client = DICOMwebClient(self.root, session=self._session, timeout=cast(Any, TIMEOUT_S))
        self._client.set_http_retry_params(retry=False)  # the session does
        self._known = _paths(archive, self.root) if archive is not None else Digests(b"", 16)

    def items(self) -> Iterator[Item | Finding]:
        """Instances by study, series and instance; their paths are made of the UIDs.

        Raises:
            SourceError: studies cannot be searched for.
        """
        for study in self._uids(_STUDY, 0, self._client.search_for_studies):
            if isinstance(study, Finding):
                yield study
                continue
            yield from self._guarded(study, self._of_study(study))

    def _of_study(self, study: str) -> Iterator[Item | Finding]:
        for series in self._uids(_SERIES, 1, partial(self._client.search_for_series, study)):
            if isinstance(series, Finding):
                yield series
                continue
            yield from self._guarded(f"{study}/{series}", self._of_series(study, series))

    def _of_series(self, study: str, series: str) -> Iterator[Item | Finding]:
        for instance in self._uids(_INSTANCE, 2, partial(self._client.search_for_instances, study, series)):
            if isinstance(instance, Finding):
                yield instance
                continue
            path = f"{study}/{series}/{instance}.dcm"
            if _mark(path) in self._known:
                self.skipped += 1
                continue
            place = f"{self.root}/studies/{study}/series/{series}/instances/{instance}"
            yield Item(self.label, path, None, None, False, partial(self._fetch, place), self.root)

    @staticmethod
    def _guarded(path: str, found: Iterator[Item | Finding]) -> Iterator[Item | Finding]:
        """What there is in a study or series; a search that fails is a finding about it."""
        try:
            yield from found
        except SourceError as error:
            yield Finding("error", "unreadable", str(error), "left out", path)

    def _uids(self, tag: str, level: int, search: Callable[..., list[dict[str, Any]]]) -> Iterator[str | Finding]:
        """The UIDs that a search answers with, page by page, each once."""
        seen: set[str] = set()
        offset = 0
        while True:
            answers = self._answers(partial(search, limit=PAGE, offset=offset, search_filters=self._filters[level]))
            fresh = 0
            for answer in answers:
                uid = _value(answer, tag)
                if uid in seen:
                    continue
                fresh += 1
                seen.add(uid)
                if usable(uid):
                    yield uid
                else:
                    message = "expected a UID in the answer to a search, found something else"
                    yield Finding("error", "path-escapes", message, "left out")
            offset += len(answers)
            if len(seen) > MOST_UIDS:
                raise SourceError(
                    f"expected at most {MOST_UIDS} answers to a search, found more; ask for fewer behind ?"
                )
            if not fresh:  # the end, or a server that always begins anew
                return

    def _answers(self, search: Callable[[], Any]) -> list[dict[str, Any]]:
        try:
            found = search()
        except (requests.RequestException, ValueError) as error:
            raise SourceError(f"expected an answer to a search from {self.label}, found: {_reason(error)}") from None
        if not isinstance(found, list):
            raise SourceError(f"expected a list in the answer to a search from {self.label}, found something else")
        return [one for one in found if isinstance(one, dict)]

    # -- instances --------------------------------------------------------------------------------

    def _fetch(self, place: str) -> BinaryIO:
        """The bytes of an instance, in memory or a temporary file; tried several times."""
        pause = BACKOFF_S
        for attempt in range(ATTEMPTS):
            out = cast(BinaryIO, tempfile.SpooledTemporaryFile(IN_MEMORY))  # noqa: SIM115  the caller closes it
            try:
                self._fetch_once(place, out)
                out.seek(0)
                return out
            except (requests.RequestException, EOFError) as error:
                out.close()
                if attempt == ATTEMPTS - 1:
                    raise SourceError(f"expected an instance whole, found: {_reason(error)}") from None
            except BaseException:
                out.close()
                raise
            time.sleep(pause)
            pause *= 2
        raise AssertionError

    def _fetch_once(self, place: str, out: BinaryIO) -> None:
        accept = 'multipart/related; type="application/dicom"; transfer-syntax=*'
        try:  # the session has tried several times
            answer = self._session.get(place, headers={"Accept": accept}, stream=True, timeout=TIMEOUT_S)
            answer.raise_for_status()
        except requests.RequestException as error:
            raise SourceError(f"expected an instance, found: {_reason(error)}") from None
        with answer:
            header = Message()
            header["content-type"] = answer.headers.get("content-type", "")[:1000]
            pieces = answer.iter_content(_STEP)
            if header.get_content_type() == "multipart/related":
                pieces = _first_part(pieces, str(header.get_param("boundary", "")).encode("latin-1", "replace"))
            elif header.get_content_type() != "application/dicom":
                raise SourceError("expected DICOM instances in the answer, found another media type")
            size = 0
            for piece in pieces:
                size += len(piece)
                if size > self._limits.member_bytes:
                    raise LimitError(f"an instance holds more than {self._limits.member_bytes} bytes, the limit")
                try:
                    out.write(piece)
                except OSError as error:
                    raise StorageError(
                        f"expected room in {tempfile.gettempdir()}, found: {error.strerror}; make some"
                    ) from None


class _Session(requests.Session):
    """Goes nowhere else than asked to, tries again, and reads no more than it can hold."""

    def __init__(self) -> None:
        super().__init__()
        again = Retry(
            total=ATTEMPTS - 1, backoff_factor=BACKOFF_S, status_forcelist=(429, 502, 503, 504), redirect=False,
            raise_on_status=False, respect_retry_after_header=False,
        )  # fmt: skip
        for scheme in ("http://", "https://"):
            self.mount(scheme, requests.adapters.HTTPAdapter(max_retries=again, pool_maxsize=32))
        self.auth = _authorised

    def get_redirect_target(self, resp: requests.Response) -> str | None:
        """None: a token must not be carried elsewhere, and what comes from elsewhere is not what was asked for."""
        del resp
        return None

    def send(self, request: requests.PreparedRequest, **options: Any) -> requests.Response:
        """As the base does; an answer that is not streamed is read up to the limit."""
        streamed = options.get("stream", False)
        answer = super().send(request, **{**options, "stream": True})
        if 300 <= answer.status_code < 400:
            answer.close()
            raise SourceError("expected an answer of the server that was named, found one that leads elsewhere")
        if not streamed:
            content = bytearray()
            try:
                for piece in answer.iter_content(_STEP):
                    content += piece
                    if len(content) > MOST_ANSWER:
                        raise SourceError(f"expected an answer of at most {MOST_ANSWER} bytes, found more")
            finally:
                answer.close()
            answer._content = bytes(content)
        return answer


def _authorised(request: requests.PreparedRequest) -> requests.PreparedRequest:
    """With what the environment says. (Set as a function, so that nothing is taken from a .netrc.)"""
    if TOKEN in os.environ:
        request.headers["Authorization"] = f"Bearer {os.environ[TOKEN]}"
    elif USER in os.environ:
        return requests.auth.HTTPBasicAuth(os.environ[USER], os.environ.get(PASSWORD, ""))(request)
    return request


def _first_part(pieces: Iterator[bytes], boundary: bytes) -> Iterator[bytes]:
    """The first part of a multipart body (RFC 2046).

    Raises:
        SourceError: it is none.
        EOFError: it ends early.
    """
    if not boundary:
        raise SourceError("expected a boundary of a multipart answer, found none")
    mark, buffer = b"\r\n--" + boundary, bytearray(b"\r\n")

    def until(end: bytes, most: int) -> bytes:
        """What stands before ``end``, which is taken off with it."""
        while (at := buffer.find(end)) < 0:
            if len(buffer) > most:
                raise SourceError("expected a part of a multipart answer, found none")
            buffer.extend(_next(pieces))
        found = bytes(buffer[:at])
        del buffer[: at + len(end)]
        return found

    until(mark, _LONGEST_HEADERS)
    until(b"\r\n\r\n", _LONGEST_HEADERS)
    while (at := buffer.find(mark)) < 0:
        ready = len(buffer) - len(mark) + 1  # what may be the beginning of the mark is held back
        if ready > 0:
            yield bytes(buffer[:ready])
            del buffer[:ready]
        buffer += _next(pieces)
    yield bytes(buffer[:at])


def _next(pieces: Iterator[bytes]) -> bytes:
    piece = next(pieces, None)
    if piece is None:
        raise EOFError("an answer that is cut short")
    return piece


def _value(answer: dict[str, Any], tag: str) -> str:
    with suppress(KeyError, IndexError, TypeError):
        return str(answer[tag]["Value"][0])
    return ""


def _reason(error: Exception) -> str:
    """What went wrong, without an address."""
    if isinstance(error, requests.HTTPError) and error.response is not None:
        code = error.response.status_code
        hint = f"; it wants to know who asks: set {TOKEN}, or {USER} and {PASSWORD}" if code in (401, 403) else ""
        return f"status {code}{hint}"
    if isinstance(error, EOFError):
        return str(error)
    return {
        "ConnectionError": "no connection",
        "ConnectTimeout": "no connection in time",
        "ReadTimeout": "no answer in time",
        "SSLError": "a certificate that is not trusted",
        "ChunkedEncodingError": "an answer that is cut short",
        "JSONDecodeError": "no JSON",
    }.get(type(error).__name__, type(error).__name__)


def _paths(archive: Archive, root: str) -> Digests:
    """The paths that an archive has of a source."""
    digest = hashlib.sha256(os.fsencode(root)).hexdigest()[:32]
    archive.refresh()
    rows = archive.read("paths", ["path"], f"root = X'{digest}' AND sha256 IS NOT NULL")
    return Digests(b"".join(_mark(path) for path in rows["path"].to_pylist()), 16)


def _mark(path: str) -> bytes:
    return hashlib.blake2b(path.encode(), digest_size=16).digest()


def _loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
