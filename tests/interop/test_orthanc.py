"""The same questions to Orthanc and to the server, about the same files: the answers agree."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
import warnings
from collections.abc import Iterator
from pathlib import Path

import pydicom
import pytest

pytestmark = [pytest.mark.long, pytest.mark.filterwarnings("default")]
PLUGINS = ("/usr/share/orthanc/plugins", "/usr/lib/orthanc")
JSON = {"Accept": "application/dicom+json"}
# What each adds of its own: addresses, character set of the answer, availability.
OWN = {"00081190", "00080005", "00080056", "00083002", "00080054"}
PADDING = "FFFCFFFC"  # behind the pixels, and without a meaning (PS3.10 section 7.2)


def ask(address: str, headers: dict[str, str], data: bytes | None = None) -> bytes:
    request = urllib.request.Request(address, data, headers)
    with urllib.request.urlopen(request, timeout=60) as answer:
        return answer.read()


@pytest.fixture
def orthanc(originals: list[Path], tmp_path: Path) -> Iterator[str]:
    """Address of its DICOMweb, with the same files sent to it."""
    program = shutil.which("Orthanc")
    plugins = [place for place in PLUGINS if list(Path(place).glob("libOrthancDicomWeb.so*"))] if program else []
    if not plugins:
        pytest.skip("Orthanc with its DICOMweb plug-in is not installed (Debian: orthanc orthanc-dicomweb)")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (tmp_path / "orthanc").mkdir()
    settings = {
        "StorageDirectory": str(tmp_path / "orthanc"), "IndexDirectory": str(tmp_path / "orthanc"),
        "HttpPort": port, "DicomServerEnabled": False, "RemoteAccessAllowed": False, "AuthenticationEnabled": False,
        "Plugins": [str(next(Path(plugins[0]).glob("libOrthancDicomWeb.so*")))],
        "DicomWeb": {"Enable": True, "Root": "/dicom-web/"},
    }  # fmt: skip
    (tmp_path / "orthanc.json").write_text(json.dumps(settings))
    with (tmp_path / "orthanc.log").open("wb") as log:
        process = subprocess.Popen([program, str(tmp_path / "orthanc.json")], stdout=log, stderr=subprocess.STDOUT)
    base = f"http://127.0.0.1:{port}"
    try:
        for _ in range(200):
            try:
                ask(f"{base}/system", {})
                break
            except (urllib.error.URLError, ConnectionError):
                assert process.poll() is None, (tmp_path / "orthanc.log").read_text()
                time.sleep(0.1)
        for file in originals:
            ask(f"{base}/instances", {}, file.read_bytes())
        yield f"{base}/dicom-web"
    finally:
        process.terminate()
        process.wait(30)


def words(element: dict) -> object:
    """A value as both can be compared: Orthanc gives numbers of text VRs as text in places."""
    values = element.get("Value", [])
    if element["vr"] in ("DS", "IS", "FL", "FD"):
        return [None if one is None else round(float(one), 4) for one in values]
    return [one.get("Alphabetic", "") if isinstance(one, dict) and element["vr"] == "PN" else one for one in values]


def test_searches_agree(served, orthanc) -> None:
    base, token = served
    ours = {**JSON, "Authorization": f"Bearer {token}"}
    for query, key in (
        ("studies?includefield=00081030", "0020000D"),
        ("studies?PatientName=*a*", "0020000D"),
        ("studies?ModalitiesInStudy=MR", "0020000D"),
        ("studies?StudyDate=20000101-20101231", "0020000D"),
        ("series?Modality=CT", "0020000E"),
        ("instances", "00080018"),
    ):
        one = {e[key]["Value"][0]: e for e in json.loads(ask(f"{base}/{query}", ours))}
        other = {e[key]["Value"][0]: e for e in json.loads(ask(f"{orthanc}/{query}", JSON))}
        assert set(one) == set(other), query
        for uid, found in one.items():
            for tag in (found.keys() & other[uid].keys()) - OWN:
                if found[tag].get("Value") and other[uid][tag].get("Value"):
                    assert words(found[tag]) == words(other[uid][tag]), (query, tag)


def test_files_and_headers_agree(served, orthanc, originals: list[Path]) -> None:
    base, token = served
    ours = {"Authorization": f"Bearer {token}"}
    compared = 0
    for file in originals:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            header = pydicom.dcmread(file, stop_before_pixels=True)
        path = f"studies/{header.StudyInstanceUID}/series/{header.SeriesInstanceUID}/instances/{header.SOPInstanceUID}"
        (one,) = json.loads(ask(f"{base}/{path}/metadata", {**ours, **JSON}))
        (other,) = json.loads(ask(f"{orthanc}/{path}/metadata", JSON))
        # Orthanc leaves group lengths and some private elements out.
        assert not {tag for tag in other if tag not in one and int(tag[:4], 16) % 2 == 0} - OWN - {PADDING}
        for tag in (one.keys() & other.keys()) - OWN:
            if int(tag[:4], 16) % 2:
                continue  # Orthanc parts private text at every backslash
            if "Value" in one[tag] and "Value" in other[tag] and one[tag]["vr"] == other[tag]["vr"] != "SQ":
                mine, theirs = words(one[tag]), words(other[tag])
                assert [str(x).strip() for x in mine] == [str(x).strip() for x in theirs], (file.name, tag)
                compared += 1
        accept = {"Accept": 'multipart/related; type="application/dicom"; transfer-syntax=*'}
        mine = ask(f"{base}/{path}", {**ours, **accept})
        assert file.read_bytes() in mine
    assert compared > 200
