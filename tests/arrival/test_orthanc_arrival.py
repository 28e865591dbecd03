"""Orthanc as the other side: it sends to the listener, and its DICOMweb is fetched from."""

from __future__ import annotations

import io
import json
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import arrival_tools as tools
import pydicom
import pytest

import dcmark
from dcmark.arrival import spool
from dcmark.testing.corpus import bundled

pytestmark = [pytest.mark.long]
PLUGINS = ("/usr/share/orthanc/plugins", "/usr/lib/orthanc")
NAMES = (
    "CT_small.dcm", "MR_small.dcm", "examples_ybr_color.dcm", "examples_rgb_color.dcm", "examples_palette.dcm",
    "JPEG2000.dcm", "emri_small.dcm", "rtdose.dcm", "rtplan.dcm", "MR_small_jpeg_ls_lossless.dcm", "test-SR.dcm",
    "SC_rgb_jpeg_dcmtk.dcm", "JPGExtended.dcm", "waveform_ecg.dcm", "reportsi.dcm",
)  # fmt: skip


def ask(address: str, data: bytes | None = None) -> bytes:
    with urllib.request.urlopen(urllib.request.Request(address, data), timeout=60) as answer:
        return answer.read()


@pytest.fixture
def files() -> dict[str, Path]:
    """Objects of many kinds by SOP Instance UID, those that have all UIDs."""
    found = {}
    for name in NAMES:
        place = bundled() / name
        if place.exists() and (one := spool.identity(place)) is not None and one.instance not in found:
            found[one.instance] = place
    assert len(found) >= 10
    return found


@pytest.fixture
def orthanc(files: dict[str, Path], tmp_path: Path) -> Iterator[tuple[str, int]]:
    """Its address, with the files in it, and the port to which it would send."""
    program = shutil.which("Orthanc")
    plugins = [place for place in PLUGINS if list(Path(place).glob("libOrthancDicomWeb.so*"))] if program else []
    if not plugins:
        pytest.skip("Orthanc with its DICOMweb plug-in is not installed (Debian: orthanc orthanc-dicomweb)")
    ports = []
    for _ in range(2):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            ports.append(free.getsockname()[1])
    (tmp_path / "orthanc").mkdir()
    settings = {
        "StorageDirectory": str(tmp_path / "orthanc"), "IndexDirectory": str(tmp_path / "orthanc"),
        "HttpPort": ports[0], "DicomServerEnabled": False, "RemoteAccessAllowed": False, "AuthenticationEnabled": False,
        "Plugins": [str(next(Path(plugins[0]).glob("libOrthancDicomWeb.so*")))],
        "DicomWeb": {"Enable": True, "Root": "/dicom-web/"},
        "DicomAet": "ORTHANC", "DicomModalities": {"dcmark": ["DCMARK", "127.0.0.1", ports[1]]},
    }  # fmt: skip
    (tmp_path / "orthanc.json").write_text(json.dumps(settings))
    with (tmp_path / "orthanc.log").open("wb") as log:
        process = subprocess.Popen([program, str(tmp_path / "orthanc.json")], stdout=log, stderr=subprocess.STDOUT)
    base = f"http://127.0.0.1:{ports[0]}"
    try:
        for _ in range(200):
            try:
                ask(f"{base}/system")
                break
            except (urllib.error.URLError, ConnectionError):
                assert process.poll() is None, (tmp_path / "orthanc.log").read_text()
                time.sleep(0.1)
        for file in files.values():
            ask(f"{base}/instances", file.read_bytes())
        yield base, ports[1]
    finally:
        process.terminate()
        process.wait(30)


def test_it_sends_to_the_listener(orthanc: tuple[str, int], files: dict[str, Path], tmp_path: Path) -> None:
    base, port = orthanc
    server = tools.Listening(tmp_path / "a.dcmark", "--port", str(port), "--allow", "ORTHANC")
    everything = json.loads(ask(f"{base}/instances"))
    ask(f"{base}/modalities/dcmark/echo", b"{}")
    told = json.loads(ask(f"{base}/modalities/dcmark/store", json.dumps(everything).encode()))
    assert (told["InstancesCount"], told["FailedInstancesCount"]) == (len(files), 0)
    assert server.stop() == 0
    archive = dcmark.open_archive(tmp_path / "a.dcmark")
    assert dcmark.verify(archive, threads=1).whole
    rows = dcmark.query(archive, "SELECT sop_instance_uid FROM files").to_pylist()
    assert {row["sop_instance_uid"] for row in rows} == set(files)
    # It encodes headers anew when it sends (lengths, padding): what they say, and the pixels, are the same.
    for path, content in tools.stored(archive, tmp_path / "out").items():
        sent = pydicom.dcmread(files[path.rpartition("/")[2].removesuffix(".dcm")])
        came = pydicom.dcmread(io.BytesIO(content))
        assert came.file_meta.TransferSyntaxUID == sent.file_meta.TransferSyntaxUID
        assert came.get("PixelData") == sent.get("PixelData")
        tags = {element.tag for element in sent if element.tag.element and element.tag != 0xFFFCFFFC}
        assert tags == {element.tag for element in came}
        for keyword in ("PatientName", "StudyInstanceUID", "Rows", "Columns", "RescaleSlope"):
            assert came.get(keyword) == sent.get(keyword)


def test_it_is_fetched_from(orthanc: tuple[str, int], files: dict[str, Path], tmp_path: Path) -> None:
    """Orthanc keeps files as it got them, and so they arrive."""
    from dcmark.arrival.dicomweb import DicomwebSource

    address = f"dicomweb+{orthanc[0]}/dicom-web"
    archive = dcmark.open_archive(tmp_path / "a.dcmark", create=True)
    report = dcmark.ingest([DicomwebSource(f"{address}?ModalitiesInStudy=CT", archive)], archive, threads=2)
    assert 0 < report.files < len(files)
    report = dcmark.ingest([DicomwebSource(address, archive)], archive, threads=2)
    assert report.refused == 0
    assert dcmark.verify(archive, threads=1).whole
    back = tools.stored(archive, tmp_path / "out")
    assert {path.rpartition("/")[2].removesuffix(".dcm") for path in back} == set(files)
    assert {*back.values()} == {file.read_bytes() for file in files.values()}
    again = DicomwebSource(address, archive)
    assert dcmark.ingest([again], archive, threads=2).files == 0
    assert again.skipped == len(files)
