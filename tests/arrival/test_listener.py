"""What is sent by DICOM network is in the archive, byte for byte, and nothing that was acknowledged is ever lost."""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import arrival_tools as tools
import pydicom
import pytest
from pydicom.uid import generate_uid

import dcmark
import dcmark.cli
from dcmark.arrival import spool
from dcmark.arrival.listener import Listening
from dcmark.errors import UsageError
from dcmark.testing.corpus import bundled

pytestmark = [  # of pydicom and pynetdicom, as senders
    pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning"),
    pytest.mark.filterwarnings("ignore:Invalid value for VR UI"),
]
needs_storescu = pytest.mark.skipif(tools.STORESCU is None, reason="storescu is not installed (Debian: dcmtk)")


@pytest.fixture
def receiving(tmp_path: Path) -> Iterator[tools.Receiving]:
    running = tools.Receiving(tmp_path)
    yield running
    running.stop()


# What arrives --------------------------------------------------------------------------------------------------------


def _four_associations(folder: Path, count: int) -> None:
    files = [*tools.objects(folder / "sent", count).values()]
    parts = [files[number::4] for number in range(4)]
    server = tools.Listening(folder / "a.dcmark")
    if tools.STORESCU is not None:
        senders = [
            tools.storescu(server.port, part, folder / f"{n}.log", *(["-xi"] if n == 0 else []))
            for n, part in enumerate(parts)
        ]
        assert [sender.wait(600) for sender in senders] == [0, 0, 0, 0]
        told = [file for n in range(4) for file in tools.acknowledged(folder / f"{n}.log")]
        assert sorted(told) == sorted(files)
    else:
        for part in parts:
            assert set(tools.send(server.port, part).values()) == {0}
    assert server.stop() == 0
    tools.expect_stored(folder / "a.dcmark", files, folder / "out")
    archive = dcmark.open_archive(folder / "a.dcmark")
    assert archive.count("files") == archive.count("paths") == count
    assert not [*(folder / "a.dcmark.spool").rglob("*.dcm")]
    assert not any("Secret" in line for line in [*server.said, *server.logged])


def test_objects_over_four_associations_arrive_byte_for_byte(tmp_path: Path) -> None:
    _four_associations(tmp_path, 48)


@pytest.mark.long
@pytest.mark.timeout(1200)
def test_a_thousand_objects_over_four_associations(tmp_path: Path) -> None:
    _four_associations(tmp_path, 1000)


COMPRESSED = {
    "MR_small_RLE.dcm": "-xr", "JPEG2000.dcm": "-xw", "SC_rgb_jpeg_dcmtk.dcm": "-xy", "693_J2KR.dcm": "-xv",
    "JPGExtended.dcm": "-xx", "MR_small_jpeg_ls_lossless.dcm": "-xt", "image_dfl.dcm": "-xd",
}  # fmt: skip


@needs_storescu
@pytest.mark.skipif(tools.STORESCP is None, reason="storescp is not installed (Debian: dcmtk)")
def test_compressed_objects_arrive_as_dcmtks_own_receiver_has_them(tmp_path: Path, receiving: tools.Receiving) -> None:
    """DCMTK encodes headers anew when it sends: its receiver, told to keep bytes, says what went over the wire."""
    (tmp_path / "theirs").mkdir()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [tools.STORESCP, "-B", "+xa", "-od", str(tmp_path / "theirs"), "+uf", str(port)]
    theirs = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    compared = 0
    try:
        time.sleep(0.3)
        for name, option in COMPRESSED.items():
            file = bundled() / name
            if not file.exists() or spool.identity(file) is None:
                continue
            senders = [tools.storescu(to, [file], tmp_path / f"{to}.log", option) for to in (port, receiving.port)]
            assert [sender.wait(60) for sender in senders] == [0, 0], name
            compared += 1
    finally:
        theirs.terminate()
        theirs.wait(30)
    assert compared >= 5
    tools.until(lambda: receiving.intake.stored >= compared)
    # Of a deflated data set its receiver drops the padding.
    ours = {tools.data_set(one).rstrip(b"\0") for one in tools.stored(receiving.archive, tmp_path / "out").values()}
    assert {tools.data_set(place.read_bytes()).rstrip(b"\0") for place in (tmp_path / "theirs").iterdir()} == ours
    assert len(ours) == compared


def test_private_and_unknown_classes_and_syntaxes_arrive(tmp_path: Path, receiving: tools.Receiving) -> None:
    """Nobody need have heard of a class or a transfer syntax for its objects to be kept."""
    files = []
    for number, (sop_class, syntax) in enumerate(
        [("1.2.3.4.5.6", None), ("1.2.840.10008.5.1.4.1.1.9999", None), (None, "1.2.3.4.99.1")]
    ):
        (file,) = tools.objects(tmp_path / str(number), 1, first=number).values()
        content = bytearray(file.read_bytes())
        dataset = pydicom.dcmread(file)
        dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = sop_class or dataset.SOPClassUID
        pydicom.dcmwrite(file, dataset, implicit_vr=number == 0, little_endian=True, enforce_file_format=True)
        if syntax is not None:
            from pydicom.filebase import DicomBytesIO
            from pydicom.filewriter import write_file_meta_info

            body = tools.data_set(file.read_bytes())
            dataset.file_meta.TransferSyntaxUID = syntax
            header = DicomBytesIO()
            write_file_meta_info(header, dataset.file_meta)
            content = bytearray(bytes(128) + b"DICM" + header.getvalue() + body)
            file.write_bytes(content)
        files.append(file)
    assert set(_send_raw(receiving.port, files).values()) == {0}
    tools.until(lambda: receiving.intake.stored == 3)
    back = {tools.data_set(content) for content in tools.stored(receiving.archive, tmp_path / "out").values()}
    assert back == {tools.data_set(file.read_bytes()) for file in files}


def _send_raw(port: int, files: list[Path], named: dict[str, str] | None = None) -> dict[Path, int]:
    """Send the bytes of data sets as they are, under the UIDs of their headers or others."""
    from io import BytesIO

    from pynetdicom import AE
    from pynetdicom.dimse_primitives import C_STORE

    entity = AE("ME")
    metas = {file: pydicom.filereader.read_file_meta_info(file) for file in files}
    for meta in metas.values():
        entity.add_requested_context(meta.MediaStorageSOPClassUID, meta.TransferSyntaxUID)
    association = entity.associate("127.0.0.1", port, ae_title="DCMARK")
    assert association.is_established
    answers = {}
    for number, (file, meta) in enumerate(metas.items()):
        request = C_STORE()
        request.MessageID, request.Priority = number + 1, 2
        request.AffectedSOPClassUID = meta.MediaStorageSOPClassUID
        request.AffectedSOPInstanceUID = (named or {}).get(file.name, meta.MediaStorageSOPInstanceUID)
        request.DataSet = BytesIO(tools.data_set(file.read_bytes()))
        context = next(
            cx for cx in association.accepted_contexts
            if cx.abstract_syntax == meta.MediaStorageSOPClassUID and cx.transfer_syntax[0] == meta.TransferSyntaxUID
        )  # fmt: skip
        association._reactor_checkpoint.clear()
        association.dimse.send_msg(request, context.context_id)
        _, answer = association.dimse.get_msg(block=True)
        association._reactor_checkpoint.set()
        answers[file] = answer.Status
    association.release()
    return answers


def test_the_same_object_twice_is_stored_once_and_another_of_its_uid_beside_it(tmp_path: Path) -> None:
    (file,) = tools.objects(tmp_path / "sent", 1).values()
    other = tmp_path / "other.dcm"
    dataset = pydicom.dcmread(file)
    dataset.StudyDescription = "corrected"
    dataset.save_as(other)
    for wanted, sent in ((1, [file, file]), (1, [file]), (2, [other]), (2, [other, file])):
        running = tools.Receiving(tmp_path)
        assert set(tools.send_and_stop(running, sent).values()) == {0}
        assert running.archive.count("files") == wanted
        assert len(dcmark.query(running.archive, "SELECT path FROM paths WHERE sha256 IS NOT NULL")) == wanted
    codes = dcmark.query(running.archive, "SELECT code FROM findings")["code"].to_pylist()
    assert codes.count("instance-differs") == 1
    tools.expect_stored(running.archive.path, [file, other], tmp_path / "out")


def test_paths_are_made_of_uids_and_headers_of_the_command(tmp_path: Path) -> None:
    ((uid, file),) = tools.objects(tmp_path / "sent", 1).items()
    running = tools.Receiving(tmp_path)
    tools.send_and_stop(running, [file])
    (path,) = tools.stored(running.archive, tmp_path / "out")
    assert path == f"{tools.ROOT_UID}.1.0/{tools.ROOT_UID}.2.0/{uid}.dcm"
    content = tools.stored(running.archive, tmp_path / "out")[path]
    (tmp_path / "back.dcm").write_bytes(content)
    meta = pydicom.dcmread(tmp_path / "back.dcm").file_meta
    assert meta.MediaStorageSOPInstanceUID == uid
    assert meta.TransferSyntaxUID == "1.2.840.10008.1.2"
    assert meta.FileMetaInformationVersion == b"\0\1"


# What is refused -----------------------------------------------------------------------------------------------------


def test_an_object_over_the_limit_is_refused_and_the_association_goes_on(tmp_path: Path) -> None:
    small = [*tools.objects(tmp_path / "small", 2).values()]
    large = [*tools.objects(tmp_path / "large", 1, side=512, first=10).values()]
    running = tools.Receiving(tmp_path, most=100_000)
    answers = tools.send_and_stop(running, [small[0], *large, small[1]])
    assert [*answers.values()] == [0, 0xA700, 0]
    assert running.archive.count("files") == 2
    assert running.listener.outcomes["too-large"] == 1
    assert not [*(tmp_path / "spool" / "drafts").iterdir()]


def test_without_room_nothing_is_acknowledged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = [*tools.objects(tmp_path / "sent", 2).values()]
    running = tools.Receiving(tmp_path)
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(spool.shutil, "disk_usage", lambda place: usage._replace(free=0))
    assert set(tools.send_and_stop(running, files).values()) == {0xA700}
    assert running.archive.count("files") == 0


def test_objects_that_are_none_or_others_than_announced_are_refused(tmp_path: Path, receiving: tools.Receiving) -> None:
    files = [*tools.objects(tmp_path / "sent", 4).values()]
    garbage = files[0].read_bytes()
    garbage = garbage[: len(garbage) - len(tools.data_set(garbage))] + bytes(range(256)) * 20
    files[0].write_bytes(garbage)
    dataset = pydicom.dcmread(files[1])
    dataset.StudyInstanceUID = "../../../etc/passwd"
    dataset.save_as(files[1])
    answers = _send_raw(receiving.port, files, {files[2].name: generate_uid()})
    assert [*answers.values()] == [0xC000, 0xC000, 0xA900, 0]
    tools.until(lambda: receiving.intake.stored == 1)


@pytest.mark.parametrize("uid", ["../../escape", "/etc/passwd", "..", "1.2.3/../../x", "C:\\x", "1.2\0.3"])
def test_no_path_comes_from_a_uid(tmp_path: Path, receiving: tools.Receiving, uid: str) -> None:
    (file,) = tools.objects(tmp_path / "sent", 1).values()
    before = {place for place in tmp_path.rglob("*") if "a.dcmark" not in place.parts}
    assert set(_send_raw(receiving.port, [file], {file.name: uid}).values()) == {0xC000}
    assert {place for place in tmp_path.rglob("*") if "a.dcmark" not in place.parts} == before


def test_only_who_is_allowed_may_send_and_must_call_by_name(tmp_path: Path) -> None:
    files = [*tools.objects(tmp_path / "sent", 1).values()]
    running = tools.Receiving(tmp_path, allow=("SCANNER1", "PACS"), aet="ARCHIVE")
    assert tools.send(running.port, files, called="ARCHIVE", calling="OTHER") == {}
    assert tools.send(running.port, files, called="DCMARK", calling="PACS") == {}
    assert tools.send(running.port, files, called="ARCHIVE", calling="PACS") == {files[0]: 0}
    running.stop()


def test_more_associations_than_allowed_are_rejected_and_there_is_room_again(tmp_path: Path) -> None:
    from pynetdicom import AE

    running = tools.Receiving(tmp_path, associations=2)
    entity = AE("ME")
    entity.add_requested_context("1.2.840.10008.1.1")
    first = [entity.associate("127.0.0.1", running.port, ae_title="DCMARK") for _ in range(3)]
    assert [one.is_established for one in first] == [True, True, False]
    assert first[2].is_rejected
    assert first[0].send_c_echo().Status == 0
    first[0].release()
    tools.until(lambda: running.listener.associations == 1)
    again = entity.associate("127.0.0.1", running.port, ae_title="DCMARK")
    assert again.is_established
    for one in (again, first[1]):
        one.release()
    running.stop()


@pytest.mark.skipif(tools.ECHOSCU is None, reason="echoscu is not installed (Debian: dcmtk)")
def test_echo(receiving: tools.Receiving) -> None:
    command = [tools.ECHOSCU, "-aec", "DCMARK", "127.0.0.1", str(receiving.port)]
    assert subprocess.run(command, check=False, capture_output=True).returncode == 0
    command[2] = "OTHER"
    assert subprocess.run(command, check=False, capture_output=True).returncode != 0


def test_where_it_may_listen(tmp_path: Path) -> None:
    for wrong in (
        {"host": "0.0.0.0"}, {"host": "0.0.0.0", "allow_remote": True}, {"aet": ""}, {"aet": "A" * 17},
        {"allow": ("A\\B",)}, {"certificate": tmp_path / "no"}, {"authority": tmp_path / "no"}, {"associations": 0},
    ):  # fmt: skip
        with pytest.raises(UsageError, match=r"expected|lets other"):
            Listening(**wrong).checked()
    Listening(host="0.0.0.0", allow_remote=True, allow=("PACS",)).checked()


def test_other_services_are_not_offered(receiving: tools.Receiving) -> None:
    from pynetdicom import AE

    entity = AE("ME")
    for uid in ("1.2.840.10008.5.1.4.1.2.1.1", "1.2.840.10008.5.1.4.1.2.2.2", "1.2.840.10008.1.20.1", "1.2.3.4"):
        entity.add_requested_context(uid)
    association = entity.associate("127.0.0.1", receiving.port, ae_title="DCMARK")
    assert [context.abstract_syntax for context in association.accepted_contexts] == ["1.2.3.4"]
    association.release()


def test_the_command_says_what_it_needs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = str(tmp_path / "a.dcmark")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        for wrong, word in (
            (["--host", "0.0.0.0"], "--allow-remote"),
            (["--host", "0.0.0.0", "--allow-remote"], "--allow AET"),
            (["--tls-cert", target], "--tls-key"),
            (["--port", port], "another --port"),
        ):
            assert dcmark.cli.run(["listen", target, *wrong]) == 2
            assert word in capsys.readouterr().err
    assert dcmark.cli.run(["listen", "s3://bucket/a.dcmark"]) == 2
    assert "--spool" in capsys.readouterr().err


# TLS -----------------------------------------------------------------------------------------------------------------


def _certificates(folder: Path) -> dict[str, Path]:
    """An authority, and a server and a client that it signed; as PEM files."""
    pytest.importorskip("cryptography", reason="the extra 'deid' is not installed")
    import datetime

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID

    made = {}
    authority_key = None
    authority_name = None
    now = datetime.datetime.now(datetime.UTC)
    for name in ("authority", "server", "client"):
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        authority_key, authority_name = authority_key or key, authority_name or subject
        certificate = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(authority_name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=1))
            .not_valid_after(now + datetime.timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=name == "authority", path_length=None), critical=True)
            .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
            .sign(authority_key, hashes.SHA256())
        )
        made[name], made[f"{name} key"] = folder / f"{name}.pem", folder / f"{name}.key"
        made[name].write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        plain = serialization.NoEncryption()
        made[f"{name} key"].write_bytes(
            key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain)
        )
    return made


def test_tls_with_certificates_of_clients(tmp_path: Path) -> None:
    import ssl

    pem = _certificates(tmp_path)
    files = [*tools.objects(tmp_path / "sent", 3).values()]
    running = tools.Receiving(tmp_path, certificate=pem["server"], key=pem["server key"], authority=pem["authority"])
    # Who does not speak keeps nobody else waiting.
    silent = [socket.create_connection(("127.0.0.1", running.port)) for _ in range(3)]
    known = ssl.create_default_context(cafile=str(pem["authority"]))
    known.load_cert_chain(pem["client"], pem["client key"])
    assert set(tools.send(running.port, files, tls=known).values()) == {0}
    unknown = ssl.create_default_context(cafile=str(pem["authority"]))
    assert tools.send(running.port, files, tls=unknown) == {}
    assert tools.send(running.port, files) == {}
    for one in silent:
        one.close()
    if tools.STORESCU is not None:
        options = ["+tls", str(pem["client key"]), str(pem["client"]), "+cf", str(pem["authority"])]
        sender = tools.storescu(running.port, [files[1]], tmp_path / "log", *options)
        assert sender.wait(60) == 0, (tmp_path / "log").read_text()
    running.stop()
    running.archive.refresh()
    assert running.archive.count("files") == 3
