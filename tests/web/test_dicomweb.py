"""DICOMweb: what is searched for is found, what is retrieved is what came in, what is sent is stored."""

from __future__ import annotations

import email
import hashlib
import io
import json
import re
import warnings

import numpy as np
import pydicom
import pytest
from web_tools import Client

import dcmark
from dcmark.testing.corpus import bundled
from dcmark.view.frames import frame as frame_of

ROOT = "/dicom-web"


def parts_of(answer) -> list[tuple[str, bytes]]:
    """Content types and bodies of a multipart answer, by the standard library."""
    assert answer.status == 200, answer.body[:300]
    head = f"Content-Type: {answer.headers['content-type']}\r\nMIME-Version: 1.0\r\n\r\n".encode()
    boundary = re.search(r"boundary=([\w-]+)", answer.headers["content-type"]).group(1).encode()
    assert email.message_from_bytes(head).get_content_type() == "multipart/related"
    assert answer.body.endswith(b"--" + boundary + b"--\r\n")
    found = []
    for piece in answer.body.split(b"--" + boundary + b"\r\n")[1:]:
        header, _, body = piece.partition(b"\r\n\r\n")
        body = body.removesuffix(b"--" + boundary + b"--\r\n").removesuffix(b"\r\n")
        found.append((header.decode().partition(": ")[2], body))
    return found


def all_instances(client: Client) -> list[dict]:
    return client.get(f"{ROOT}/instances?includefield=all").json()


def path_of(one: dict) -> str:
    study, series, instance = (one[key]["Value"][0] for key in ("0020000D", "0020000E", "00080018"))
    return f"{ROOT}/studies/{study}/series/{series}/instances/{instance}"


@pytest.fixture
def ct(reader) -> dict:
    (study,) = reader.get(f"{ROOT}/studies?PatientID=QX-7411").json()
    return study


# QIDO-RS --------------------------------------------------------------------------------------------------------------


def test_studies(reader, ct, made):
    studies = reader.get(f"{ROOT}/studies").json()
    expected = dcmark.query(dcmark.open_archive(made), "SELECT * FROM studies").num_rows
    assert len(studies) == expected
    assert ct["00100010"] == {"vr": "PN", "Value": [{"Alphabetic": "Quist^Imogen"}]}
    assert ct["00080061"]["Value"] == ["CT"]
    assert ct["00201206"]["Value"] == [1]
    assert ct["00201208"]["Value"] == [6]
    assert ct["00081190"]["Value"][0].startswith("http://127.0.0.1:8337/dicom-web/studies/")
    for one in studies:
        assert list(one) == sorted(one)
        for element in one.values():
            assert set(element) <= {"vr", "Value"}


@pytest.mark.parametrize(
    ("query", "count"),
    [
        ("PatientName=Quist^Imogen", 1), ("PatientName=quist*", 1), ("PatientName=*mog?n", 1), ("00100020=QX-7411", 1),
        ("PatientID=QX", 0), ("PatientID=QX%25", 0), ("PatientID=QX*", 1), ("PatientID=*&PatientName=Quist*", 1),
        ("ModalitiesInStudy=CT&PatientID=QX-7411", 1), ("ModalitiesInStudy=US&PatientID=QX-7411", 0),
        ("PatientName=Quist*&limit=0", 0), ("PatientName=Quist*&offset=1", 0),
        ("PatientID=QX-7411&StudyDate=-19000101", 0),
        ("PatientID='%20OR%201=1", 0), ("PatientID=QX-7411'--", 0),
    ],
)  # fmt: skip
def test_matching(reader, query, count):
    answer = reader.get(f"{ROOT}/studies?{query}")
    assert answer.status == 200
    assert len(answer.json()) == count


def test_dates_and_lists(reader):
    studies = reader.get(f"{ROOT}/studies").json()
    dates = sorted(one["00080020"]["Value"][0] for one in studies if "Value" in one["00080020"])
    middle = dates[len(dates) // 2]

    def count(value):
        return len(reader.get(f"{ROOT}/studies?StudyDate={value}").json())

    assert count(middle) == dates.count(middle)
    assert count(f"{middle}-") == sum(date >= middle for date in dates)
    assert count(f"-{middle}") == sum(date <= middle for date in dates)
    assert count(f"{middle}-{middle}") == dates.count(middle)
    uids = [one["0020000D"]["Value"][0] for one in studies][:2]
    assert len(reader.get(f"{ROOT}/studies?StudyInstanceUID={','.join(uids)}").json()) == 2
    assert len(reader.get(f"{ROOT}/studies?StudyInstanceUID={'%5C'.join(uids)}").json()) == 2
    assert reader.get(f"{ROOT}/studies?StudyDate=x").status == 400
    assert reader.get(f"{ROOT}/studies?limit=x").status == 400


def test_pages_and_fields(reader):
    everything = all_instances(reader)
    pages = [
        reader.get(f"{ROOT}/instances?includefield=all&limit=3&offset={k}").json() for k in range(0, len(everything), 3)
    ]
    assert [one for page in pages for one in page] == everything
    plain = reader.get(f"{ROOT}/instances?PatientID=QX-7411&limit=1").json()[0]
    more = reader.get(f"{ROOT}/instances?PatientID=QX-7411&limit=1&includefield=PixelSpacing,00280103").json()[0]
    assert set(more) - set(plain) == {"00280030", "00280103"}
    assert more["00280030"] == {"vr": "DS", "Value": [0.9, 0.7]}
    odd = reader.get(f"{ROOT}/studies?StationName=x")
    assert odd.headers["warning"].startswith("299")


def test_down_the_levels(reader, ct):
    study = ct["0020000D"]["Value"][0]
    (series,) = reader.get(f"{ROOT}/studies/{study}/series").json()
    assert series["00080060"]["Value"] == ["CT"]
    assert series["00201209"]["Value"] == [6]
    uid = series["0020000E"]["Value"][0]
    found = reader.get(f"{ROOT}/studies/{study}/series/{uid}/instances").json()
    assert [one["00200013"]["Value"][0] for one in found] == [1, 2, 3, 4, 5, 6]
    assert len(reader.get(f"{ROOT}/studies/{study}/instances").json()) == 6
    assert reader.get(f"{ROOT}/series?SeriesInstanceUID={uid}").json()[0]["0020000D"]["Value"] == [study]
    assert reader.get(f"{ROOT}/studies/1.2.3/series").json() == []
    assert reader.get(f"{ROOT}/studies/x'y/series").status == 404


# WADO-RS --------------------------------------------------------------------------------------------------------------


def test_the_original_bytes(reader, ct, made):
    study = ct["0020000D"]["Value"][0]
    parts = parts_of(reader.get(f"{ROOT}/studies/{study}", accept='multipart/related; type="application/dicom"'))
    hashes = {hashlib.sha256(body).hexdigest() for _, body in parts}
    known = dcmark.query(
        dcmark.open_archive(made), f"SELECT sha256 FROM files WHERE study_instance_uid = '{study}'"
    )  # fmt: skip
    assert hashes == set(known["sha256"].to_pylist())
    assert len(parts) == 6
    assert all(kind.startswith("application/dicom; transfer-syntax=") for kind, _ in parts)
    one = path_of(all_instances(reader)[0])
    assert pydicom.dcmread(io.BytesIO(reader.get(one, accept="application/dicom").body), force=True)
    assert len(parts_of(reader.get(one))) == 1
    series = one.partition("/instances/")[0]
    assert parts_of(reader.get(series))
    assert reader.get(one, accept="text/html").status == 406
    assert reader.get(one, accept='multipart/related; type="application/dicom"; transfer-syntax=1.2.3').status == 406
    assert reader.get(f"{ROOT}/studies/1.2.3").status == 404


def test_metadata_is_what_pydicom_reads(reader):
    """Every header, element by element, against pydicom's own reading of the JSON and of the file."""
    for one in all_instances(reader):
        answer = reader.get(f"{path_of(one)}/metadata")
        assert answer.headers["content-type"] == "application/dicom+json"
        (told,) = answer.json()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            original = pydicom.dcmread(io.BytesIO(parts_of(reader.get(path_of(one)))[0][1]), force=True)
            read = pydicom.Dataset.from_json(told, bulk_data_uri_handler=lambda *_: b"")
            for element in original:
                key = f"{int(element.tag):08X}"
                if element.tag.element == 0:
                    continue
                assert key in told, element.keyword
                if "BulkDataURI" not in told[key] and element.VR not in ("SQ", "UN", "OB", "OW") and element.VM == 1:
                    again = read[element.tag].value
                    if isinstance(element.value, float):
                        assert float(again) == pytest.approx(float(element.value))
                    else:
                        assert str(again).strip() == str(element.value).strip(), element.keyword
    study = one["0020000D"]["Value"][0]
    assert reader.get(f"{ROOT}/studies/{study}/metadata").status == 200


def test_bulk_data(client, files):
    """Long binary values, in sequences too, are given by where to get them."""
    dataset = pydicom.dcmread(io.BytesIO(files[0]))
    item = pydicom.Dataset()
    item.add_new(0x00420011, "OB", bytes(range(256)) * 10)
    item.add_new(0x00420010, "ST", "a document")
    dataset.add_new(0x00081140, "SQ", [pydicom.Dataset(), item])
    dataset.add_new(0x00111001, "OB", b"ab" * 3000)
    dataset.add_new(0x00111002, "OB", b"ab" * 30)
    out = io.BytesIO()
    dataset.save_as(out)
    answer = stow(client, body_of(out.getvalue())).json()
    address = answer["00081199"]["Value"][0]["00081190"]["Value"][0].removeprefix("http://127.0.0.1:8337")
    (told,) = client.get(f"{address}/metadata").json()
    assert told["00111002"]["InlineBinary"]
    for element, expected in (
        (told["00111001"], b"ab" * 3000),
        (told["00081140"]["Value"][1]["00420011"], bytes(range(256)) * 10),
        (told["7FE00010"], dataset.PixelData),
    ):
        place = element["BulkDataURI"].removeprefix("http://127.0.0.1:8337")
        ((_, body),) = parts_of(client.get(place))
        assert body == expected
    for path in ("00100010", "7FE00010/0", "0", "x/y/z", "../../x", "00080008", "00081140/9/00420011", "00081140/1"):
        assert client.get(f"{address}/bulkdata/{path}").status == 404
    assert client.get(f"{address}/bulkdata/00111001", accept="application/octet-stream").body == b"ab" * 3000


def test_frames(reader, made):
    """Pixels unasked, codestreams to who wants them; both of them what the file holds."""
    archive = dcmark.open_archive(made)
    known = dict(
        zip(*dcmark.query(archive, "SELECT sop_instance_uid, sha256 FROM files").to_pydict().values(), strict=True)
    )
    compressed = 0
    for one in all_instances(reader):
        if "00280010" not in one:
            continue
        address, sha256 = path_of(one), known[one["00080018"]["Value"][0]]
        count = int((one.get("00280008") or {"Value": [1]})["Value"][0])
        answer = reader.get(f"{address}/frames/{count}", accept='multipart/related; type="application/octet-stream"')
        ((kind, body),) = parts_of(answer)
        assert "transfer-syntax=1.2.840.10008.1.2.1" in kind
        stored = frame_of(archive, sha256, count - 1).stored
        if stored.dtype.itemsize * 8 == one["00280100"]["Value"][0]:
            samples = 3 if stored.ndim == 3 else 1
            assert len(body) == stored.size * stored.dtype.itemsize
            if samples == 1 and one["00280101"]["Value"][0] == one["00280100"]["Value"][0]:
                assert np.array_equal(np.frombuffer(body, stored.dtype).reshape(stored.shape), stored)
        syntax = one["00083002"]["Value"][0]
        answer = reader.get(
            f"{address}/frames/1", accept="multipart/related; type=application/octet-stream; transfer-syntax=*"
        )
        ((kind, body),) = parts_of(answer)
        if syntax.startswith("1.2.840.10008.1.2.4"):
            compressed += 1
            assert kind.startswith("image/")
            assert syntax in kind
            assert body[:2] in (b"\xff\xd8", b"\xff\x4f")
        assert reader.get(f"{address}/frames/{count + 1}").status == 404
        for bad in ("0", "x", "1,", "-1", "1.5"):
            assert reader.get(f"{address}/frames/{bad}").status in (400, 404)
        assert reader.get(f"{address}/frames/1", accept="image/jxl").status == 406
    assert compressed >= 2


def test_several_frames(reader):
    one = next(
        one for one in all_instances(reader) if "Value" in one.get("00280008", {}) and one["00280008"]["Value"][0] >= 3
    )
    parts = parts_of(reader.get(f"{path_of(one)}/frames/3,1"))
    single = [parts_of(reader.get(f"{path_of(one)}/frames/{n}"))[0][1] for n in (3, 1)]
    assert [body for _, body in parts] == single


def test_rendered(reader):
    from PIL import Image

    shown = 0
    for one in all_instances(reader):
        if "00280010" not in one:
            continue
        rows, columns = one["00280010"]["Value"][0], one["00280011"]["Value"][0]
        answer = reader.get(f"{path_of(one)}/rendered", accept="image/png")
        picture = Image.open(io.BytesIO(answer.body))
        assert (picture.format, picture.size) == ("PNG", (columns, rows))
        assert Image.open(io.BytesIO(reader.get(f"{path_of(one)}/rendered").body)).format == "JPEG"
        small = Image.open(io.BytesIO(reader.get(f"{path_of(one)}/frames/1/rendered?viewport=20,20").body))
        assert max(small.size) <= 20
        assert max(Image.open(io.BytesIO(reader.get(f"{path_of(one)}/thumbnail").body)).size) <= 128
        shown += 1
    assert shown >= 8
    ct = next(one for one in all_instances(reader) if one["00080060"]["Value"] == ["CT"])
    dark = reader.get(f"{path_of(ct)}/rendered?window=3000,10,linear", accept="image/png")
    assert np.asarray(Image.open(io.BytesIO(dark.body))).max() == 0
    for bad in ("window=x", "window=1,0,linear", "window=1,2,odd", "viewport=0,5", "quality=500", "window=nan,5"):
        assert reader.get(f"{path_of(ct)}/rendered?{bad}").status == 400
    assert reader.get(f"{path_of(ct)}/rendered", accept="video/mp4").status == 406


# STOW-RS --------------------------------------------------------------------------------------------------------------


def body_of(*files: bytes, boundary: str = "gap", preamble: bytes = b"") -> bytes:
    parts = [b"--%s\r\nContent-Type: application/dicom\r\n\r\n%s\r\n" % (boundary.encode(), one) for one in files]
    return preamble + b"".join(parts) + b"--%s--\r\n" % boundary.encode()


MULTIPART = 'multipart/related; type="application/dicom"; boundary=gap'


def stow(client: Client, body: bytes, study: str = "", kind: str = MULTIPART):
    return client.post(f"{ROOT}/studies{study}", body, content_type=kind)


@pytest.fixture
def files() -> list[bytes]:
    return [(bundled() / name).read_bytes() for name in ("CT_small.dcm", "MR_small.dcm")]


def test_stored_byte_for_byte(client, files, tmp_path):
    before = client.get("/api/archive").json()["counts"]["files"]
    answer = stow(client, body_of(*files, preamble=b"nothing of interest\r\n"))
    assert answer.status == 200, answer.body
    told = answer.json()
    assert len(told["00081199"]["Value"]) == 2
    assert "00081198" not in told
    for item, original in zip(told["00081199"]["Value"], files, strict=True):
        address = item["00081190"]["Value"][0].removeprefix("http://127.0.0.1:8337")
        assert parts_of(client.get(address))[0][1] == original
    assert client.get("/api/archive").json()["counts"]["files"] == before + 2
    again = stow(client, body_of(*files))
    assert again.status == 200
    assert client.get("/api/archive").json()["counts"]["files"] == before + 2, "stored once"
    archive = client.service.archive_now()
    assert dcmark.verify(archive).whole
    dcmark.restore(archive, tmp_path / "out")
    restored = {hashlib.sha256(file.read_bytes()).digest() for file in (tmp_path / "out").rglob("*") if file.is_file()}
    assert {hashlib.sha256(one).digest() for one in files} <= restored


def test_one_instance_alone(client, files):
    assert stow(client, files[0], kind="application/dicom").status == 200


def test_what_is_no_instance_is_told(client, files):
    answer = stow(client, body_of(files[0], b"no DICOM at all"))
    assert answer.status == 202
    told = answer.json()
    assert len(told["00081199"]["Value"]) == 1
    assert told["00081198"]["Value"][0]["00081197"]["Value"] == [0xC000]
    assert stow(client, body_of(b"no DICOM at all")).status == 409
    count = client.service.archive_now().count("files")
    assert stow(client, body_of(b"no DICOM at all")).status == 409
    assert client.service.archive_now().count("files") == count


def test_another_study_than_the_one_named(client, files):
    uid = pydicom.dcmread(io.BytesIO(files[0])).StudyInstanceUID
    answer = stow(client, body_of(*files), f"/{uid}")
    assert answer.status == 202
    assert answer.json()["00081198"]["Value"][0]["00081197"]["Value"] == [0xA900]


def test_broken_bodies(client, files, monkeypatch):
    import dataclasses

    from dcmark.web.dicomweb import stow as module

    count = client.service.archive_now().count("files")
    whole = body_of(*files)
    for body in (b"", b"--gap", b"--gap--\r\n", whole[:-9], whole[: len(whole) // 2], b"\r\n--gap\r\n" + b"x" * 20_000):
        assert stow(client, body).status in (400, 413), body[:20]
    assert stow(client, whole, kind="multipart/related; type=application/dicom").status == 415
    assert stow(client, whole, kind="multipart/form-data; boundary=gap").status == 415
    assert stow(client, whole, kind='multipart/related; type="application/dicom+json"; boundary=gap').status == 415
    monkeypatch.setattr(module, "LIMITS", dataclasses.replace(module.LIMITS, store_instances=1))
    assert stow(client, whole).status == 413
    monkeypatch.setattr(module, "LIMITS", dataclasses.replace(module.LIMITS, store_bytes=1000))
    assert stow(client, whole, kind=MULTIPART).status == 413
    assert client.service.archive_now().count("files") == count


def test_a_boundary_inside_of_pixels(client, files):
    """Bytes that only look like a boundary stay bytes, wherever the body is cut into pieces."""
    dataset = pydicom.dcmread(io.BytesIO(files[0]))
    noise = b"\r\n--ga\r\n--\r\n--gaq" * 700
    dataset.PixelData = noise[: len(dataset.PixelData)].ljust(len(dataset.PixelData), b"\r")
    out = io.BytesIO()
    dataset.save_as(out)
    answer = stow(client, body_of(out.getvalue()))
    assert answer.status == 200
    address = answer.json()["00081199"]["Value"][0]["00081190"]["Value"][0].removeprefix("http://127.0.0.1:8337")
    assert parts_of(client.get(address))[0][1] == out.getvalue()


def test_answers_are_json_without_nan(reader):
    for one in all_instances(reader):
        json.loads(reader.get(f"{path_of(one)}/metadata").body, parse_constant=lambda text: pytest.fail(text))
