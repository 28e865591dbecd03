"""What a DICOMweb server holds is fetched as it is stored there, once, and nobody else is asked."""

from __future__ import annotations

import http.server
import itertools
import json
import shutil
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import arrival_tools as tools
import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("dicomweb_client", reason="the extra 'network' is not installed")

import dcmark
from dcmark.arrival import dicomweb
from dcmark.arrival.dicomweb import DicomwebSource
from dcmark.cli import run
from dcmark.config import Limits
from dcmark.errors import SourceError, UsageError

sys.path.insert(0, str(Path(__file__).parent.parent / "web"))

Answer = Callable[[http.server.BaseHTTPRequestHandler], tuple[int, dict[str, str], bytes]]


class Server:
    """A DICOMweb server that answers as a test wants it to."""

    def __init__(self, answer: Answer) -> None:
        self.asked: list[tuple[str, dict[str, str]]] = []

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def do_GET(handler) -> None:
                self.asked.append((handler.path, dict(handler.headers)))
                status, headers, body = answer(handler)
                handler.send_response(status)
                for name, value in {"Content-Length": str(len(body)), **headers}.items():
                    handler.send_header(name, value)
                handler.end_headers()
                handler.wfile.write(body)
                if headers.get("Content-Length", str(len(body))) != str(len(body)):
                    handler.close_connection = True

            def log_message(self, *arguments) -> None:
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.address = f"dicomweb+http://127.0.0.1:{self._server.server_address[1]}/dicom-web"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05})
        self._thread.start()

    def stop(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@pytest.fixture
def serving() -> Iterator[Callable[[Answer], Server]]:
    running: list[Server] = []

    def serve(answer: Answer) -> Server:
        running.append(Server(answer))
        return running[-1]

    yield serve
    for one in running:
        one.stop()


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dicomweb, "BACKOFF_S", 0.01)
    for name in (dicomweb.TOKEN, dicomweb.USER, dicomweb.PASSWORD):
        monkeypatch.delenv(name, raising=False)


def _json(rows: list[dict]) -> tuple[int, dict[str, str], bytes]:
    return 200, {"Content-Type": "application/dicom+json"}, json.dumps(rows).encode()


def _row(tag: str, uid: str) -> dict:
    return {tag: {"vr": "UI", "Value": [uid]}}


def _multipart(content: bytes) -> tuple[int, dict[str, str], bytes]:
    body = b"preamble\r\n--b\r\nContent-Type: application/dicom\r\n\r\n" + content + b"\r\n--b--\r\n"
    return 200, {"Content-Type": 'multipart/related; type="application/dicom"; boundary=b'}, body


def _holding(files: dict[str, Path], change: Answer | None = None) -> Answer:
    """A server of one series, whose answers a test may change."""

    def answer(request: http.server.BaseHTTPRequestHandler) -> tuple[int, dict[str, str], bytes]:
        if change is not None and (found := change(request)) is not None:
            return found
        path, _, query = request.path.partition("?")
        if "offset=0" not in query and "/instances/" not in path:
            return _json([])
        if path.endswith("/studies"):
            return _json([_row("0020000D", "1.2")])
        if path.endswith("/series"):
            return _json([_row("0020000E", "1.2.3")])
        if path.endswith("/instances"):
            return _json([_row("00080018", uid) for uid in files])
        return _multipart(files[path.rpartition("/")[2]].read_bytes())

    return answer


def _fetch(server: Server, archive_path: Path, query: str = "", **limits):
    archive = dcmark.open_archive(archive_path, create=True)
    source = DicomwebSource(server.address + query, archive, Limits(**limits))
    return dcmark.ingest([source], archive, threads=2), archive, source


def test_instances_are_stored_byte_for_byte_and_fetched_once(tmp_path: Path, serving) -> None:
    files = tools.objects(tmp_path / "remote", 6)
    some = dict([*files.items()][:4])
    report, archive, _ = _fetch(serving(_holding(some)), tmp_path / "a.dcmark")
    assert (report.files, report.refused) == (4, 0)
    server = serving(_holding(files))
    server_root = server.address.removeprefix("dicomweb+")
    again = DicomwebSource(server.address, archive)
    assert again.root == server_root
    report = dcmark.ingest([again], archive, threads=2)
    assert (report.files, report.duplicates) == (2, 4)  # another port is another server
    server.asked.clear()
    third = DicomwebSource(server.address, archive)
    assert dcmark.ingest([third], archive, threads=2).files == 0
    assert third.skipped == 6
    assert not [path for path, _ in server.asked if "/instances/" in path]
    back = tools.stored(archive, tmp_path / "out")
    assert {*back.values()} == {file.read_bytes() for file in files.values()}
    assert set(dcmark.query(archive, "SELECT path FROM paths WHERE sha256 IS NOT NULL")["path"].to_pylist()) == {
        f"1.2/1.2.3/{uid}.dcm" for uid in files
    }


def test_filters_go_to_their_level(tmp_path: Path, serving) -> None:
    server = serving(_holding(tools.objects(tmp_path / "remote", 1)))
    _fetch(server, tmp_path / "a.dcmark", "?PatientID=P%201&Modality=CT&SOPClassUID=1.2.840")
    asked = {
        path.partition("?")[0].rpartition("/")[2]: path for path, _ in reversed(server.asked) if "offset=0" in path
    }
    assert "PatientID=P" in asked["studies"]
    assert "Modality=CT" in asked["series"]
    assert "SOPClassUID=1.2.840" in asked["instances"]
    assert "Modality" not in asked["studies"]


def test_a_server_that_stumbles_is_asked_again(tmp_path: Path, serving) -> None:
    files = tools.objects(tmp_path / "remote", 3)
    count: dict[str, int] = {}

    def change(request):
        count[request.path] = count.get(request.path, 0) + 1
        if count[request.path] == 1:
            return 503, {}, b"later"
        if "/instances/" in request.path and count[request.path] == 2:
            status, headers, body = _multipart(files[request.path.rpartition("/")[2]].read_bytes())
            return status, {**headers, "Content-Length": str(len(body))}, body[:-3000]
        if "/instances/" in request.path and count[request.path] == 3:
            status, headers, body = _multipart(files[request.path.rpartition("/")[2]].read_bytes())
            return status, headers, body[:-3000]
        return None

    report, archive, _ = _fetch(serving(_holding(files, change)), tmp_path / "a.dcmark")
    assert (report.files, report.refused) == (3, 0)
    assert {*tools.stored(archive, tmp_path / "out").values()} == {file.read_bytes() for file in files.values()}


def test_what_cannot_be_had_is_a_finding_and_is_tried_the_next_time(tmp_path: Path, serving) -> None:
    files = tools.objects(tmp_path / "remote", 3)
    gone = next(iter(files))
    broken = [True]

    def change(request):
        return (404, {}, b"") if broken[0] and request.path.endswith(f"/instances/{gone}") else None

    server = serving(_holding(files, change))
    report, _, _ = _fetch(server, tmp_path / "a.dcmark")
    assert (report.files, report.refused) == (2, 1)
    assert "404" in report.findings[0].message
    broken[0] = False
    report, _, source = _fetch(server, tmp_path / "a.dcmark")
    assert (report.files, report.refused, source.skipped) == (1, 0, 2)


def test_a_token_goes_to_the_server_that_was_named_and_nowhere_else(
    tmp_path: Path, serving, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    monkeypatch.setenv(dicomweb.TOKEN, "s3cret")
    files = tools.objects(tmp_path / "remote", 2)
    elsewhere = serving(_holding(files))

    def change(request):
        if "/instances/" in request.path:
            return 302, {"Location": elsewhere.address.removeprefix("dicomweb+") + request.path}, b""
        return None

    server = serving(_holding(files, change))
    report, _, _ = _fetch(server, tmp_path / "a.dcmark")
    assert (report.files, report.refused) == (0, 2)
    assert "leads elsewhere" in report.findings[0].message
    assert not elsewhere.asked
    assert {headers.get("Authorization") for _, headers in server.asked} == {"Bearer s3cret"}
    assert "s3cret" not in str(report.findings)


@pytest.mark.parametrize(
    "answer",
    [
        lambda request: (200, {"Content-Type": "application/dicom+json"}, b"{not json"),
        lambda request: (200, {"Content-Type": "application/dicom+json"}, b'"text"'),
        lambda request: (401, {}, b""),
        lambda request: (302, {"Location": "http://127.0.0.1:9/"}, b""),
        lambda request: (200, {"Content-Type": "text/html"}, b"<html>"),
    ],
)
def test_a_server_that_makes_no_sense_ends_it_in_words(tmp_path: Path, serving, answer: Answer) -> None:
    with pytest.raises(SourceError, match="expected"):
        _fetch(serving(answer), tmp_path / "a.dcmark")


def test_hostile_answers(tmp_path: Path, serving) -> None:
    """UIDs that climb, a list without end, parts that are none, more than is allowed."""
    files = tools.objects(tmp_path / "remote", 5)
    uids = [*files]

    def change(request):
        if request.path.partition("?")[0].endswith("/instances"):  # the same, whatever the offset
            rows = [_row("00080018", uid) for uid in ["../../x", *uids]]
            return _json([*rows, {}, {"00080018": {"Value": []}}])
        if request.path.endswith(f"/{uids[0]}"):
            return 200, {"Content-Type": "multipart/related; boundary=b"}, b"x" * 200_000
        if request.path.endswith(f"/{uids[1]}"):
            return 200, {"Content-Type": "image/png"}, b"x"
        if request.path.endswith(f"/{uids[2]}"):
            return _multipart(bytes(300_000))
        if request.path.endswith(f"/{uids[3]}"):
            return 200, {"Content-Type": "application/dicom"}, files[uids[3]].read_bytes()
        return None

    report, archive, _ = _fetch(serving(_holding(files, change)), tmp_path / "a.dcmark", member_bytes=250_000)
    assert report.files == 2
    assert report.refused == 5  # two that are no UIDs, three that are no instances
    found = set(dcmark.query(archive, "SELECT path FROM paths WHERE sha256 IS NOT NULL")["path"].to_pylist())
    assert found == {f"1.2/1.2.3/{uid}.dcm" for uid in uids[3:]}


@given(st.binary(max_size=200), st.lists(st.integers(0, 400), max_size=8), st.booleans())
def test_a_part_is_the_same_however_it_is_cut(content: bytes, cuts: list[int], near: bool) -> None:
    content += b"\r\n--" * near  # the beginning of what ends it
    body = b"--b\r\nContent-Type: application/dicom\r\n\r\n" + content + b"\r\n--b--"
    if b"\r\n--b" in content:
        content = content[: content.index(b"\r\n--b")]
    places = [0, *sorted(min(cut, len(body)) for cut in cuts), len(body)]
    pieces = [body[start:end] for start, end in itertools.pairwise(places)]
    assert b"".join(dicomweb._first_part(iter(pieces), b"b")) == content
    with pytest.raises(EOFError):
        b"".join(dicomweb._first_part(iter([body[: -len(b"\r\n--b--")]]), b"b"))


def test_a_list_without_end_has_one(tmp_path: Path, serving, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dicomweb, "MOST_UIDS", 30)
    count = itertools.count()

    def answer(request):
        return _json([_row("0020000D", f"1.2.{next(count)}")] if "studies?" in request.path else [])

    with pytest.raises(SourceError, match="at most 30 answers"):
        _fetch(serving(answer), tmp_path / "a.dcmark")


def test_a_search_answer_has_a_limit(tmp_path: Path, serving, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dicomweb, "MOST_ANSWER", 10_000)
    with pytest.raises(SourceError, match="at most 10000 bytes"):
        _fetch(serving(lambda request: _json([_row("0020000D", "1.2")] * 1000)), tmp_path / "a.dcmark")


@pytest.mark.parametrize(
    ("address", "token"),
    [
        ("dicomweb+https://", ""),
        ("dicomweb+https://user:password@example.org/dicom-web", ""),
        ("dicomweb+http://example.org/dicom-web", "s3cret"),
    ],
)
def test_addresses_that_are_refused(address: str, token: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if token:
        monkeypatch.setenv(dicomweb.TOKEN, token)
    with pytest.raises(UsageError) as caught:
        DicomwebSource(address)
    assert "password@" not in str(caught.value)


def test_from_our_own_server_by_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("starlette", reason="the extra 'web' is not installed")
    from web_tools import Running

    files = tools.objects(tmp_path / "remote", 60)
    source = dcmark.open_archive(tmp_path / "source.dcmark", create=True)
    dcmark.ingest([tmp_path / "remote"], source)
    server = Running("serve", source.path, "--port", "0", "--token-file", tmp_path / "token")
    try:
        address = f"dicomweb+{server.origin}/dicom-web"
        target = str(tmp_path / "target.dcmark")
        assert run(["ingest", address, target, "--quiet"]) == 1
        assert "DCMARK_DICOMWEB_TOKEN" in capsys.readouterr().err
        monkeypatch.setenv(dicomweb.TOKEN, (tmp_path / "token").read_text().strip())
        assert run(["ingest", f"{address}?StudyInstanceUID={tools.ROOT_UID}.1.0", target, "--quiet"]) == 0
        assert run(["ingest", address, target, "--quiet", "--json"]) == 0
    finally:
        server.stop()
    back = tools.stored(dcmark.open_archive(target), tmp_path / "out")
    assert {*back.values()} == {file.read_bytes() for file in files.values()}
    shutil.rmtree(target)
