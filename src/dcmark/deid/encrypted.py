"""The standard's own way back: Encrypted Attributes Sequence (PS3.15 E.1.1, E.1.2; PS3.3 C.12.1.1.4.1).

What was taken out of a file travels in the file, as CMS EnvelopedData (RFC 5652) for those who hold a private key.
Other programs read and write the same (gdcmanon). It gives back the attributes, not the bytes, and an envelope proves
nothing about who made it; the vault gives the bytes, and proves them.
"""

from __future__ import annotations

import io
import os
import struct
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dcmark.config import LIMITS, Limits
from dcmark.deid.apply import is_dicom
from dcmark.deid.rewrite import EXPLICIT
from dcmark.errors import (
    DamageError,
    DcmarkError,
    HeldBackError,
    MissingExtraError,
    OutputExistsError,
    StorageError,
    UnsupportedError,
    UsageError,
    VaultKeyError,
)
from dcmark.findings import Finding
from dcmark.progress import NoProgress, Progress
from dcmark.read.base import Item, Source
from dcmark.read.containers import load, open_source

if TYPE_CHECKING:
    from pydicom import Dataset

LARGEST_PEM = 1 << 20
_ADDED = ("PatientIdentityRemoved", "DeidentificationMethod", "DeidentificationMethodCodeSequence",
          "LongitudinalTemporalInformationModified", "EncryptedAttributesSequence")  # fmt: skip


@dataclass(frozen=True)
class Recipients:
    """Those who may read what was taken out.

    Args:
        pem: their certificates (X.509 with RSA keys), PEM, one behind another.

    Raises:
        UsageError: no certificate, or one whose key is not RSA.
    """

    pem: bytes

    def __post_init__(self) -> None:
        self._certificates  # noqa: B018  said at once, not at the first file

    def __reduce__(self) -> tuple[Any, ...]:
        """To another process: without what the library made of it."""
        return Recipients, (self.pem,)

    @cached_property
    def _certificates(self) -> list[Any]:
        x509, rsa = _library("cryptography.x509"), _library("cryptography.hazmat.primitives.asymmetric.rsa")
        try:
            found = list(x509.load_pem_x509_certificates(self.pem))
        except ValueError as error:
            raise UsageError("expected certificates (PEM, BEGIN CERTIFICATE); found something else") from error
        if any(not isinstance(one.public_key(), rsa.RSAPublicKey) for one in found):
            raise UsageError("expected certificates with RSA keys, which CMS key transport needs; found another kind")
        return found

    def seal(self, plain: bytes, syntax: str) -> tuple[bytes, str]:
        """CMS EnvelopedData for all recipients: AES-256-CBC, its key under RSA (PKCS #1 v1.5), DER.

        Args:
            plain: a data set.
            syntax: UID of the transfer syntax it is in.

        Returns:
            The envelope, and the transfer syntax of the data set in it: Explicit VR Little Endian, which others expect,
            unless the data set cannot be written so.
        """
        plain, syntax = _explicit(plain, syntax)
        pkcs7, algorithms = _library(_PKCS7), _library("cryptography.hazmat.primitives.ciphers.algorithms")
        serialization = _library("cryptography.hazmat.primitives.serialization")
        builder = pkcs7.PKCS7EnvelopeBuilder().set_data(plain)
        builder = builder.set_content_encryption_algorithm(algorithms.AES256)
        for certificate in self._certificates:
            builder = builder.add_recipient(certificate)
        return bytes(builder.encrypt(serialization.Encoding.DER, [pkcs7.PKCS7Options.Binary])), syntax


def read_recipients(paths: Sequence[Path]) -> Recipients:
    """Recipients by files of certificates.

    Raises:
        UsageError: a file cannot be read, or holds no certificate.
    """
    return Recipients(b"\n".join(_read(path, "a certificate") for path in paths))


class PrivateKey:
    """Opens envelopes.

    Args:
        key: RSA private key, PEM; may hold the certificate too.
        certificate: PEM, of the key: it says which of several envelopes is meant.
        password: of the key, where it is encrypted.

    Raises:
        UsageError: not a key or a certificate.
        VaultKeyError: the password is wrong, or the certificate belongs to another key.
    """

    def __init__(self, key: bytes, certificate: bytes, password: str | None = None) -> None:
        x509 = _library("cryptography.x509")
        serialization = _library("cryptography.hazmat.primitives.serialization")
        try:
            self._key = serialization.load_pem_private_key(key, password.encode() if password else None)
        except TypeError as error:
            raise VaultKeyError("expected the password of the private key, or none where it has none") from error
        except ValueError as error:
            if b"ENCRYPTED" in key:
                raise VaultKeyError("expected the password of the private key; found another") from error
            raise UsageError("expected a private key (PEM); found something else") from error
        try:
            certificates = x509.load_pem_x509_certificates(certificate)
        except ValueError as error:
            raise UsageError("expected the certificate of the private key (PEM); found something else") from error
        public = self._key.public_key()
        fitting = [one for one in certificates if one.public_key() == public]
        if not fitting:
            raise VaultKeyError("expected the certificate of this private key; found one of another key")
        self._certificate = fitting[0]

    def unseal(self, sealed: bytes) -> bytes:
        """The content of CMS EnvelopedData.

        Raises:
            VaultKeyError: it is not for this key.
            DamageError: it is no envelope, or altered.
            UnsupportedError: a cipher that the library does not have.
        """
        unsupported = _library("cryptography.exceptions").UnsupportedAlgorithm
        try:
            return bytes(_library(_PKCS7).pkcs7_decrypt_der(_whole(sealed), self._certificate, self._key, []))
        except unsupported as error:
            raise UnsupportedError("expected AES-128 or AES-256 in CBC mode in an envelope; found another") from error
        except ValueError as error:
            if "recipient" in str(error).lower():
                raise VaultKeyError("expected an envelope for this private key; found one for others") from error
            raise DamageError("expected an envelope (CMS EnvelopedData) for this key; found an altered one") from error


def read_private_key(key: Path, certificate: Path | None, password: str | None = None) -> PrivateKey:
    """A private key and its certificate from PEM files; one file may hold both.

    Raises:
        UsageError, VaultKeyError: as ``PrivateKey``.
    """
    pem = _read(key, "a private key")
    if certificate is None and b"-----BEGIN CERTIFICATE-----" not in pem:
        raise UsageError("expected --certificate with the certificate of the private key, or both in one file")
    return PrivateKey(pem, pem if certificate is None else _read(certificate, "a certificate"), password)


def original_attributes(data: memoryview, key: PrivateKey) -> bytes:
    """A de-identified file with its original attributes back (PS3.15 E.1.2).

    Pixel data and all that was not taken out stay as they are; what de-identification added is taken out again.

    Args:
        data: a DICOM file with an Encrypted Attributes Sequence.

    Raises:
        HeldBackError: it has none, or is no DICOM file.
        VaultKeyError, DamageError, UnsupportedError: as ``PrivateKey.unseal``; no item is for this key.
    """
    import pydicom

    if not is_dicom(data):
        raise HeldBackError("expected a DICOM file with encrypted attributes; found another format")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            dataset = pydicom.dcmread(io.BytesIO(bytes(data)), force=True)
            sealed = list(dataset.get("EncryptedAttributesSequence") or [])
        except _MALFORMED as error:
            raise HeldBackError("expected a DICOM file with encrypted attributes; it cannot be read") from error
        if not sealed:
            raise HeldBackError("expected an Encrypted Attributes Sequence; this file has none")
        original = _first_for(sealed, key)
        try:
            for keyword in _ADDED:
                if keyword in dataset:
                    del dataset[keyword]
            for element in original:
                dataset[element.tag] = element
            meta = getattr(dataset, "file_meta", None) or pydicom.Dataset()
            if "SOPInstanceUID" in dataset and "MediaStorageSOPInstanceUID" in meta:
                meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
            stream = io.BytesIO()
            dataset.save_as(stream)
        except _MALFORMED as error:
            raise DamageError("expected attributes that fit the file; they cannot be put back") from error
    return stream.getvalue()


def _first_for(sealed: list[Dataset], key: PrivateKey) -> Dataset:
    """The attributes of the first item that the key opens."""
    import pydicom

    problem: DcmarkError | None = None
    for item in sealed:
        try:
            plain = key.unseal(bytes(item.get("EncryptedContent") or b""))
        except DcmarkError as error:
            problem = problem or error
            continue
        try:
            found = _data_set(plain, str(item.get("EncryptedContentTransferSyntaxUID", EXPLICIT)))
            (modified,) = found.ModifiedAttributesSequence
        except _MALFORMED as error:
            raise DamageError("expected one item of modified attributes in the envelope; found others") from error
        return pydicom.Dataset(modified)
    assert problem is not None
    raise problem


def _data_set(plain: bytes, syntax: str) -> Dataset:
    from pydicom.filereader import read_dataset

    return read_dataset(io.BytesIO(plain), syntax == "1.2.840.10008.1.2", syntax != "1.2.840.10008.1.2.2", len(plain))


def _explicit(plain: bytes, syntax: str) -> tuple[bytes, str]:
    """A data set in Explicit VR Little Endian; as it is where its content cannot be written anew."""
    if syntax == EXPLICIT:
        return plain, syntax
    stream = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            _data_set(plain, syntax).save_as(stream, implicit_vr=False, little_endian=True)
        except _MALFORMED:
            return plain, syntax
    return stream.getvalue(), EXPLICIT


@dataclass(slots=True)
class DecryptReport:
    """What a run did.

    Attributes:
        files: written, with their original attributes.
        held_back: not written; each has a finding.
    """

    files: int = 0
    held_back: int = 0
    findings: list[Finding] = field(default_factory=list)


def decrypt_folders(
    sources: Sequence[str | os.PathLike[str] | Source],
    out: str | os.PathLike[str],
    key: PrivateKey,
    *,
    progress: Progress | None = None,
    limits: Limits = LIMITS,
) -> DecryptReport:
    """Write the files of folders, zip, tar, 7z or open sources with the original attributes that travel in them.

    Raises:
        OutputExistsError: something stands where the output should go.
        StorageError: the disk is full or refuses.
        SourceError: a source is not there.
    """
    place = Path(out)
    if place.is_file() or (place.is_dir() and any(place.iterdir())):
        raise OutputExistsError(f"expected an empty or new folder at {place}; found files; choose another")
    report, progress = DecryptReport(), progress or NoProgress()
    opened: list[Source] = [
        open_source(one, containers="open", limits=limits) if isinstance(one, str | os.PathLike) else one
        for one in sources
    ]
    progress.start("reidentify", None)
    try:
        place.mkdir(parents=True, exist_ok=True)
        for number, source in enumerate(opened):
            below = place if len(opened) == 1 else place / f"{number + 1}"
            for found in source.items():
                finding = found if isinstance(found, Finding) else _decrypt_one(found, below, key, limits)
                if finding is None:
                    report.files += 1
                else:
                    report.held_back += finding.level == "error"
                    report.findings.append(finding)
                progress.advance(1, 0 if isinstance(found, Finding) else found.size or 0)
    except OSError as error:
        raise StorageError(f"expected to write to {place}; the disk is full or refuses") from error
    finally:
        progress.finish()
    return report


def _decrypt_one(item: Item, place: Path, key: PrivateKey, limits: Limits) -> Finding | None:
    try:
        with load(item, limits) as buffer:
            original = original_attributes(buffer.data, key)
    except (DcmarkError, OSError) as error:
        message = str(error) if isinstance(error, DcmarkError) else "the file cannot be read"
        return Finding("error", getattr(error, "code", "unreadable"), message, "not written", item.path)
    target = place.joinpath(*item.path.split("/"))
    target.parent.mkdir(parents=True, exist_ok=True)
    draft = target.with_name(f".{target.name[:200]}.draft")
    draft.write_bytes(original)
    draft.replace(target)
    return None


def _whole(sealed: bytes) -> bytes:
    """The envelope without the byte that pads an OB value to even length: DER says how long it is (X.690 8.1.3)."""
    if len(sealed) < 2 or sealed[1] == 0x80:
        return sealed
    count = sealed[1] & 0x7F if sealed[1] & 0x80 else 0
    length = int.from_bytes(sealed[2 : 2 + count], "big") if count else sealed[1]
    return sealed[: 2 + count + length]


def _read(path: Path, what: str) -> bytes:
    try:
        with path.open("rb") as stream:
            return stream.read(LARGEST_PEM)
    except OSError as error:
        raise UsageError(f"expected {what} at {path}; it cannot be read") from error


def _library(name: str) -> Any:
    from importlib import import_module

    try:
        return import_module(name)
    except ImportError as error:
        raise MissingExtraError("cryptography", "deid", "the Encrypted Attributes Sequence") from error


_PKCS7 = "cryptography.hazmat.primitives.serialization.pkcs7"
_MALFORMED = (
    ValueError, KeyError, TypeError, AttributeError, IndexError, OverflowError, RecursionError, ArithmeticError,
    EOFError, NotImplementedError, AssertionError, OSError, struct.error,
)  # fmt: skip
