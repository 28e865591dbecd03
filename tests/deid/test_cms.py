"""The Encrypted Attributes Sequence: what is taken out comes back for who holds the private key, here and elsewhere."""

from __future__ import annotations

import datetime
import io
import random
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pydicom
import pytest
from pydicom.dataset import Dataset

from dcmark.deid.apply import Deidentifier
from dcmark.deid.check import left
from dcmark.deid.profile import load_profile
from dcmark.errors import DamageError, DcmarkError, HeldBackError, UnsupportedError, UsageError, VaultKeyError

pytest.importorskip("cryptography")
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID

from dcmark.deid.encrypted import PrivateKey, Recipients, original_attributes, read_private_key, read_recipients

GDCMANON = shutil.which("gdcmanon")
BASIC = load_profile("basic")
READABLE = (
    "CT_small.dcm", "MR_small.dcm", "MR_small_implicit.dcm", "MR_small_bigendian.dcm", "image_dfl.dcm", "JPEG2000.dcm",
    "rtplan.dcm", "reportsi.dcm", "test-SR.dcm", "waveform_ecg.dcm", "nested_priv_SQ.dcm", "liver_1frame.dcm",
    "MR_small_RLE.dcm", "ExplVR_BigEnd.dcm", "rtdose.dcm", "SC_rgb_small_odd.dcm",
)  # fmt: skip
# pydicom remarks on what is odd in its own test files.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:pydicom")


def _pair(name: str, key: object = None) -> tuple[bytes, bytes]:
    """A private key and its certificate, PEM."""
    made = key or rsa.generate_private_key(public_exponent=65537, key_size=2048)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(made.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now)
        .not_valid_after(now + datetime.timedelta(3650))
        .sign(made, hashes.SHA256())
    )
    plain = serialization.NoEncryption()
    pem = made.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain)
    return pem, certificate.public_bytes(serialization.Encoding.PEM)


@pytest.fixture(scope="module")
def pair() -> tuple[bytes, bytes]:
    return _pair("Trial office")


def _clean(data: bytes, certificates: bytes) -> bytes:
    tool = Deidentifier(BASIC, b"k" * 32, recipients=Recipients(certificates))
    return tool.file(memoryview(data), "a.dcm").data


def _flat(dataset: Dataset) -> dict[int, object]:
    """Elements by tag; no group lengths, which are of the file and not of the object."""
    return {int(e.tag): e.value for e in dataset if e.tag.element}


@pytest.mark.parametrize("name", READABLE)
def test_the_attributes_come_back(name: str, bundled: Path, pair: tuple[bytes, bytes]) -> None:
    data = (bundled / name).read_bytes()
    clean = _clean(data, pair[1])
    inside = pydicom.dcmread(io.BytesIO(clean))
    (item,) = inside.EncryptedAttributesSequence
    assert item.EncryptedContent[:1] == b"\x30"
    assert [one for one in left(memoryview(clean), BASIC) if one.certain] == []
    before = pydicom.dcmread(io.BytesIO(data))
    if str(before.get("PatientName", "")):
        assert str(before.PatientName).encode("latin-1", "ignore") not in clean
    back = pydicom.dcmread(io.BytesIO(original_attributes(memoryview(clean), PrivateKey(*pair))))
    assert _flat(back) == _flat(before)
    if "MediaStorageSOPInstanceUID" in before.file_meta and "SOPInstanceUID" in before:
        assert back.file_meta.MediaStorageSOPInstanceUID == before.SOPInstanceUID


def test_the_wrong_key_and_altered_envelopes_are_refused(bundled: Path, pair: tuple[bytes, bytes]) -> None:
    clean = _clean((bundled / "CT_small.dcm").read_bytes(), pair[1])
    with pytest.raises(VaultKeyError, match="for others"):
        original_attributes(memoryview(clean), PrivateKey(*_pair("Somebody else")))
    content = bytes(pydicom.dcmread(io.BytesIO(clean)).EncryptedAttributesSequence[0].EncryptedContent)
    at = clean.index(content)
    for where in (0, 4, 8, 30, 40, 60):  # the envelope itself; CBC does not prove what it holds, the vault does
        altered = bytearray(clean)
        altered[at + where] ^= 0x55
        with pytest.raises(DcmarkError) as told:
            original_attributes(memoryview(altered), PrivateKey(*pair))
        assert isinstance(told.value, DamageError | VaultKeyError | HeldBackError | UnsupportedError)
    with pytest.raises(HeldBackError, match="has none"):
        original_attributes(memoryview((bundled / "CT_small.dcm").read_bytes()), PrivateKey(*pair))


def test_a_mutated_file_never_does_more_than_fail(bundled: Path, pair: tuple[bytes, bytes]) -> None:
    clean = _clean((bundled / "rtplan.dcm").read_bytes(), pair[1])
    key, chance = PrivateKey(*pair), random.Random(5)
    refused = 0
    for _ in range(150):
        altered = bytearray(clean)
        for _ in range(chance.randint(1, 5)):
            altered[chance.randrange(len(altered))] = chance.randrange(256)
        try:
            cut = chance.choice((len(altered), chance.randrange(len(altered))))
            original_attributes(memoryview(altered[:cut]), key)
        except DcmarkError:
            refused += 1
    assert refused


def test_each_of_several_recipients_reads_it(bundled: Path, pair: tuple[bytes, bytes]) -> None:
    other = _pair("Second office")
    data = (bundled / "CT_small.dcm").read_bytes()
    clean = _clean(data, pair[1] + other[1])
    for one in (pair, other):
        back = pydicom.dcmread(io.BytesIO(original_attributes(memoryview(clean), PrivateKey(*one))))
        assert back.PatientID == "1CT1"


def test_what_is_no_key_or_certificate_is_said(tmp_path: Path, pair: tuple[bytes, bytes]) -> None:
    with pytest.raises(UsageError, match="certificates"):
        Recipients(b"words")
    with pytest.raises(UsageError, match="RSA"):
        Recipients(_pair("curve", ec.generate_private_key(ec.SECP256R1()))[1])
    with pytest.raises(VaultKeyError, match="another key"):
        PrivateKey(pair[0], _pair("x")[1])
    with pytest.raises(UsageError, match="private key"):
        PrivateKey(b"words", pair[1])
    (tmp_path / "k.pem").write_bytes(pair[0])
    with pytest.raises(UsageError, match="--certificate"):
        read_private_key(tmp_path / "k.pem", None)
    (tmp_path / "both.pem").write_bytes(pair[0] + pair[1])
    read_private_key(tmp_path / "both.pem", None)
    key = serialization.load_pem_private_key(pair[0], None)
    locked = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(b"horse"),
    )
    PrivateKey(locked, pair[1], "horse")
    for wrong in (None, "house"):
        with pytest.raises(VaultKeyError, match="password"):
            PrivateKey(locked, pair[1], wrong)
    with pytest.raises(UsageError, match="cannot be read"):
        read_recipients([tmp_path / "no.pem"])


@pytest.mark.skipif(GDCMANON is None, reason="needs gdcmanon of Debian's libgdcm-tools")
@pytest.mark.parametrize("name", ["CT_small.dcm", "MR_small.dcm", "MR_small_implicit.dcm", "JPEG2000.dcm"])
def test_gdcmanon_reads_ours(name: str, bundled: Path, tmp_path: Path, pair: tuple[bytes, bytes]) -> None:
    (tmp_path / "key.pem").write_bytes(pair[0])
    data = (bundled / name).read_bytes()
    (tmp_path / "ours.dcm").write_bytes(_clean(data, pair[1]))
    ran = subprocess.run(
        [str(GDCMANON), "-d", "-k", "key.pem", "-i", "ours.dcm", "-o", "back.dcm"],
        cwd=tmp_path, capture_output=True, timeout=60, check=False,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    before, back = pydicom.dcmread(io.BytesIO(data)), pydicom.dcmread(tmp_path / "back.dcm")
    wanted = {e.tag: e.value for e in before if not e.tag.is_private and e.VR != "SQ" and e.tag.element}
    assert {tag: back[tag].value for tag in wanted if tag in back} == wanted
    assert "EncryptedAttributesSequence" not in back


@pytest.mark.skipif(GDCMANON is None, reason="needs gdcmanon of Debian's libgdcm-tools")
@pytest.mark.parametrize("cipher", ["--aes256", "--aes128"])
def test_we_read_gdcmanon(cipher: str, bundled: Path, tmp_path: Path, pair: tuple[bytes, bytes]) -> None:
    (tmp_path / "cert.pem").write_bytes(pair[1])
    before = pydicom.dcmread(bundled / "CT_small.dcm")
    ran = subprocess.run(
        [str(GDCMANON), "-e", cipher, "-c", "cert.pem", "-i", str(bundled / "CT_small.dcm"), "-o", "theirs.dcm"],
        cwd=tmp_path, capture_output=True, timeout=60, check=False,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    theirs = (tmp_path / "theirs.dcm").read_bytes()
    assert not pydicom.dcmread(io.BytesIO(theirs)).PatientID
    back = pydicom.dcmread(io.BytesIO(original_attributes(memoryview(theirs), PrivateKey(*pair))))
    for keyword in ("PatientName", "PatientID", "StudyInstanceUID", "SOPInstanceUID", "PatientAge", "PatientWeight"):
        assert back[keyword].value == before[keyword].value, keyword
    assert back.PixelData == before.PixelData


@pytest.mark.skipif(GDCMANON is None, reason="needs gdcmanon of Debian's libgdcm-tools")
def test_a_cipher_that_is_not_there_is_said(bundled: Path, tmp_path: Path, pair: tuple[bytes, bytes]) -> None:
    (tmp_path / "cert.pem").write_bytes(pair[1])
    subprocess.run(
        [str(GDCMANON), "-e", "--des3", "-c", "cert.pem", "-i", str(bundled / "CT_small.dcm"), "-o", "theirs.dcm"],
        cwd=tmp_path, capture_output=True, timeout=60, check=True,
    )  # fmt: skip
    with pytest.raises(DcmarkError):
        original_attributes(memoryview((tmp_path / "theirs.dcm").read_bytes()), PrivateKey(*pair))


def test_the_commands(bundled: Path, tmp_path: Path, pair: tuple[bytes, bytes], command: Callable[..., Any]) -> None:
    run = command
    (tmp_path / "scans").mkdir()
    for name in ("CT_small.dcm", "MR_small.dcm"):
        shutil.copy(bundled / name, tmp_path / "scans" / name)
    (tmp_path / "key.pem").write_bytes(pair[0])
    (tmp_path / "cert.pem").write_bytes(pair[1])
    made = run("deidentify", "scans", "clean", "--key-file", "s.key", "--recipient", "cert.pem")
    assert made.returncode == 0, made.stderr
    assert run("deidentify", "--check", "clean").returncode == 0
    keys = ("--private-key", "key.pem", "--certificate", "cert.pem")
    led = run("reidentify", "clean", "back", *keys)
    assert led.returncode == 0, led.stderr
    assert "2 files written" in led.stdout
    for name in ("CT_small.dcm", "MR_small.dcm"):
        (found,) = [f for f in (tmp_path / "back").rglob("*.dcm") if pydicom.dcmread(f).Modality == name[:2]]
        assert _flat(pydicom.dcmread(found)) == _flat(pydicom.dcmread(bundled / name))
    assert run("ingest", "clean", "c.dcmark").returncode == 0
    assert run("deidentify", "--check", "c.dcmark").returncode == 0
    assert run("reidentify", "c.dcmark", "back2", *keys).returncode == 0
    refused = run("reidentify", "scans", "back3", *keys)
    assert (refused.returncode, "has none" in refused.stdout) == (3, True)
