"""The vault: what leads a de-identified file back to its original, encrypted, in a file of its own.

Layout (docs/concepts/deidentification.md has it in full): a header in clear, then records, each of ``u32 length |
12-byte nonce | AES-256-GCM ciphertext and tag``. A record's additional data are the hash of the header, its number, and
the tag of the record before, so that none can be altered, left out, moved or swapped without being found. Records are
only appended.

The first record holds the secret key of the mapping. Whoever has the vault and its passphrase or key file has
everything; whoever has not, nothing.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import struct
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple

import zstandard

from dcmark.deid.mapping import KEY_BYTES
from dcmark.errors import DamageError, MissingExtraError, OutputExistsError, StorageError, VaultKeyError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

MAGIC = b"DCMARKVAULT\x01"
LARGEST_HEADER = 4096
LARGEST_RECORD = 1 << 31
HELD_BACK = bytes(32)
"""Stands for the SHA-256 of the clean file where there is none: the original was held back, and is here whole."""
_LENGTH = struct.Struct("<I")
_NONCE, _TAG = 12, 16
SCRYPT = {"n": 1 << 17, "r": 8, "p": 1}
"""Cost of a guess at a passphrase: 128 MiB and some tenths of a second."""
_MOST_COST = 1 << 21


class Secret(NamedTuple):
    """What opens a vault: a passphrase, or 32 bytes of a key file."""

    passphrase: str | None = None
    key: bytes | None = None


def read_key_file(path: Path) -> Secret:
    """The secret of a key file of 32 bytes.

    Raises:
        VaultKeyError: it is not there, or of another length.
    """
    try:
        with path.open("rb") as stream:
            key = stream.read(KEY_BYTES + 1)
    except OSError as error:
        raise VaultKeyError(f"expected a key file of {KEY_BYTES} bytes at {path}; it cannot be read") from error
    if len(key) != KEY_BYTES:
        raise VaultKeyError(f"expected a key file of {KEY_BYTES} bytes at {path}; found {len(key)} or more")
    return Secret(key=key)


def make_key_file(path: Path) -> None:
    """A new key file of random bytes, readable by its owner only.

    Raises:
        OutputExistsError: something is there.
        StorageError: it cannot be written.
    """
    draft = path.with_name(f".{path.name}.draft")
    try:
        draft.unlink(missing_ok=True)
        with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as stream:  # noqa: PTH123
            stream.write(secrets.token_bytes(KEY_BYTES))
            stream.flush()
            os.fsync(stream.fileno())
        _settle(draft, path)
    except FileExistsError as error:
        raise OutputExistsError(f"expected nothing at {path}, found a file; choose another name") from error
    except OSError as error:
        raise StorageError(f"expected to write a key file at {path}; the system refuses") from error


class FileRecord(NamedTuple):
    """How a clean file becomes its original again.

    Attributes:
        clean, original: SHA-256 of either.
        path: of the original in its source.
        runs: of the original in order: (where in the clean file, length), or (-1, length) from ``literal``.
        literal: bytes that the clean file does not hold.
    """

    clean: bytes
    original: bytes
    path: str
    runs: list[tuple[int, int]]
    literal: bytes

    def rebuild(self, clean: memoryview) -> bytes:
        """The original bytes.

        Raises:
            DamageError: what comes out is not what went in.
        """
        pieces: list[bytes | memoryview] = []
        at = 0
        for start, length in self.runs:
            if start < 0:
                pieces.append(self.literal[at : at + length])
                at += length
            else:
                pieces.append(clean[start : start + length])
        whole = b"".join(pieces)
        if hashlib.sha256(whole).digest() != self.original:
            raise DamageError("expected the original bytes from the vault and the clean file; found others")
        return whole


class Vault:
    """An open vault. Use from one thread; a second writer is refused."""

    def __init__(self, path: Path, stream: BinaryIO, cipher: AESGCM, header: bytes) -> None:
        self.path = path
        self._stream, self._cipher = stream, cipher
        self._header = hashlib.sha256(header).digest()
        self._start = len(header)
        self._count, self._last = 0, bytes(_TAG)
        # Originals that differ only in what was taken out become one clean file: it leads back to all of them.
        self._places: dict[bytes, list[tuple[int, int, bytes]]] = {}
        self._told: set[bytes] = set()
        self._numbers: dict[bytes, int] = {}
        self._pending = False
        self.key = b""

    # -- opening ----------------------------------------------------------------------------------

    @classmethod
    def create(cls, path: str | os.PathLike[str], secret: Secret) -> Vault:
        """A new, empty vault with a new random mapping key.

        Raises:
            OutputExistsError: something is there.
            StorageError: it cannot be written.
            MissingExtraError: the extra ``deid`` is not installed.
        """
        place = Path(path)
        said: dict[str, Any] = {"format": "dcmark vault", "version": 1, "id": secrets.token_hex(16)}
        said["kdf"] = {"name": "key file"} if secret.key is not None else {
            "name": "scrypt", **SCRYPT, "salt": secrets.token_hex(16),
        }  # fmt: skip
        text = json.dumps(said).encode("ascii")
        header = MAGIC + _LENGTH.pack(len(text)) + text
        cipher = _cipher(secret, said)
        # Under another name until its key is in it: a vault that is there can be opened, whenever a run is killed.
        draft = place.with_name(f".{place.name}.draft")
        try:
            with draft.open("w+b", buffering=0) as stream:
                vault = cls(place, stream, cipher, header)
                _write(stream, header, place)
                vault._append(b"K", secrets.token_bytes(KEY_BYTES))
                vault.sync()
            _settle(draft, place)
        except FileExistsError as error:
            raise OutputExistsError(f"expected nothing at {place}, found a file; open it or choose another") from error
        except OSError as error:
            raise StorageError(f"expected to write a vault at {place}; the system refuses") from error
        return cls.open(place, secret, append=True)

    @classmethod
    def open(cls, path: str | os.PathLike[str], secret: Secret, *, append: bool = False) -> Vault:
        """Open a vault, proving every record.

        Args:
            append: to write more; a last record that a crash cut short, and that nothing relies on, is then dropped.

        Raises:
            VaultKeyError: not the key or passphrase of this vault.
            DamageError: altered or cut.
            StorageError: it is not there, or another process writes to it.
        """
        place = Path(path)
        try:
            stream = place.open("r+b" if append else "rb", buffering=0)
        except OSError as error:
            raise StorageError(f"expected a vault at {place}; it cannot be opened") from error
        try:
            if append:
                _lock(stream, place)
            header, said = _read_header(stream, place)
            vault = cls(place, stream, _cipher(secret, said), header)
            vault._load(drop_torn=append)
        except BaseException:
            stream.close()
            raise
        return vault

    def close(self) -> None:
        """Write what is pending and let go."""
        with suppress(ValueError):
            self.sync()
            self._stream.close()

    def __enter__(self) -> Vault:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _load(self, *, drop_torn: bool) -> None:
        at = self._start
        size = os.fstat(self._stream.fileno()).st_size
        while at < size:
            found = self._record(at, size)
            if found is None:
                if not drop_torn:
                    raise DamageError(
                        f"expected whole records in the vault {self.path}; its end is cut. If a run was interrupted, "
                        "run the same command again; else take the vault from a backup"
                    )
                self._stream.truncate(at)
                break
            kind, payload, behind, before = found
            if self._count == 0 and kind != b"K":
                raise DamageError(f"expected the vault {self.path} to begin with its key; it is damaged")
            if kind == b"K":
                self.key = payload
            elif kind == b"P":
                self._numbers[payload[8:]] = int.from_bytes(payload[:8], "little")
            elif kind == b"F":
                self._places.setdefault(payload[:32], []).append((at, self._count, before))
                self._told.add(payload[:80])
            self._count += 1
            at = behind
        if len(self.key) != KEY_BYTES:
            raise DamageError(f"expected the vault {self.path} to begin with its key; it is empty or damaged")

    def _record(self, at: int, size: int) -> tuple[bytes, bytes, int, bytes] | None:
        """Kind, payload, the place behind, and the tag before; None where the file ends inside the record."""
        self._stream.seek(at)
        head = self._stream.read(4)
        if len(head) < 4:
            return None
        (length,) = _LENGTH.unpack(head)
        if at + 4 + length > size:
            return None
        if length < _NONCE + _TAG + 1:
            raise DamageError(f"expected records in the vault {self.path}; it is altered")
        sealed = _read(self._stream, length)
        before = self._last
        plain = self._unseal(sealed, self._count, before)
        self._last = sealed[-_TAG:]
        return plain[:1], plain[1:], at + 4 + length, before

    def _unseal(self, sealed: bytes, number: int, before: bytes) -> bytes:
        from cryptography.exceptions import InvalidTag

        try:
            return bytes(self._cipher.decrypt(sealed[:_NONCE], sealed[_NONCE:], self._bound(number, before)))
        except InvalidTag as error:
            if number == 0:
                raise VaultKeyError(
                    f"expected the passphrase or key file of the vault {self.path}; found another, or a damaged vault"
                ) from error
            raise DamageError(
                f"record {number} of the vault {self.path} is not what was written: altered, cut or out of its place"
            ) from error

    def _bound(self, number: int, before: bytes) -> bytes:
        return self._header + number.to_bytes(8, "little") + before

    # -- writing ----------------------------------------------------------------------------------

    def _append(self, kind: bytes, payload: bytes) -> int:
        nonce = secrets.token_bytes(_NONCE)
        sealed = nonce + self._cipher.encrypt(nonce, kind + payload, self._bound(self._count, self._last))
        if len(sealed) >= LARGEST_RECORD:
            raise StorageError("expected a record below 2 GiB for the vault; the file is too large to de-identify")
        at = self._stream.seek(0, os.SEEK_END)
        try:
            _write(self._stream, _LENGTH.pack(len(sealed)) + sealed, self.path)
        except StorageError:
            with suppress(OSError):
                self._stream.truncate(at)
            raise
        self._last, self._count, self._pending = sealed[-_TAG:], self._count + 1, True
        return at

    def add(self, record: FileRecord) -> None:
        """Append what leads a file back, unless it is there. Durable after ``sync``."""
        told = (
            record.clean + record.original + hashlib.sha256(record.path.encode("utf-8", "surrogatepass")).digest()[:16]
        )
        if told in self._told:
            return
        head = json.dumps({"path": record.path, "runs": record.runs}, ensure_ascii=True).encode("ascii")
        body = zstandard.ZstdCompressor(level=9).compress(_LENGTH.pack(len(head)) + head + record.literal)
        before, number = self._last, self._count
        at = self._append(b"F", told + body)
        self._places.setdefault(record.clean, []).append((at, number, before))
        self._told.add(told)

    def number(self, patient: bytes) -> int:
        """The running number of a patient, by his keyed digest; a new one, from 1, for a new patient."""
        if patient not in self._numbers:
            new = len(self._numbers) + 1
            self._append(b"P", new.to_bytes(8, "little") + patient)
            self._numbers[patient] = new
        return self._numbers[patient]

    def sync(self) -> None:
        """Make durable what was appended; must happen before a clean file is handed on."""
        if self._pending:
            os.fsync(self._stream.fileno())
            self._pending = False

    # -- reading ----------------------------------------------------------------------------------

    def __contains__(self, clean: bytes) -> bool:
        return clean in self._places

    def __len__(self) -> int:
        """Originals it leads back to."""
        return len(self._told)

    def find(self, clean: bytes) -> list[FileRecord]:
        """How the clean file of a SHA-256 becomes its original; several where originals became alike.

        Raises:
            DamageError: the vault does not know it.
        """
        if clean not in self._places:
            raise DamageError(
                f"expected the vault {self.path} to know a file of the archive; it does not: cut, or another's"
            )
        return [self._file_record(*place) for place in self._places[clean]]

    def held_back(self) -> Iterator[FileRecord]:
        """Originals that were held back and kept whole, one at a time."""
        for place in self._places.get(HELD_BACK, ()):
            yield self._file_record(*place)

    def _file_record(self, at: int, number: int, before: bytes) -> FileRecord:
        self._stream.seek(at)
        (length,) = _LENGTH.unpack(_read(self._stream, 4))
        payload = self._unseal(_read(self._stream, length), number, before)[1:]
        body = zstandard.ZstdDecompressor().decompress(payload[80:], max_output_size=LARGEST_RECORD)
        (size,) = _LENGTH.unpack_from(body)
        head = json.loads(body[4 : 4 + size])
        runs = [(a, b) for a, b in head["runs"]]
        return FileRecord(payload[:32], payload[32:64], head["path"], runs, body[4 + size :])

    def __iter__(self) -> Iterator[bytes]:
        """SHA-256 of the clean files it knows."""
        return (clean for clean in self._places if clean != HELD_BACK)


def _cipher(secret: Secret, said: dict[str, Any]) -> AESGCM:
    try:
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM
        from cryptography.hazmat.primitives.kdf.scrypt import Scrypt
    except ImportError as error:
        raise MissingExtraError("cryptography", "deid", "a vault") from error
    kdf = said["kdf"]
    if kdf["name"] == "key file":
        if secret.key is None:
            raise VaultKeyError("expected a key file for this vault; found a passphrase")
        return AESGCM(hashlib.sha256(b"dcmark vault\0" + secret.key).digest())
    if secret.passphrase is None:
        raise VaultKeyError("expected a passphrase for this vault; found a key file")
    derive = Scrypt(salt=bytes.fromhex(kdf["salt"]), length=32, n=kdf["n"], r=kdf["r"], p=kdf["p"])
    return AESGCM(derive.derive(secret.passphrase.encode("utf-8")))


def _read_header(stream: BinaryIO, place: Path) -> tuple[bytes, dict[str, Any]]:
    """The header, checked: what it declares costs no more than what this program would have written."""
    head = stream.read(len(MAGIC) + 4)
    try:
        if head[: len(MAGIC)] != MAGIC:
            raise ValueError("magic")
        (size,) = _LENGTH.unpack(head[len(MAGIC) :])
        if size > LARGEST_HEADER:
            raise ValueError("size")
        text = _read(stream, size)
        said = json.loads(text)
        kdf = said["kdf"]
        if kdf["name"] == "scrypt":
            costs = [int(kdf[name]) for name in ("n", "r", "p")]
            if not (2 <= costs[0] <= _MOST_COST and 1 <= costs[1] <= 32 and 1 <= costs[2] <= 16):
                raise ValueError("cost")
            bytes.fromhex(kdf["salt"])
        elif kdf["name"] != "key file":
            raise ValueError("kdf")
    except (ValueError, KeyError, TypeError, struct.error) as error:
        raise DamageError(f"expected a dcmark vault at {place}; found something else, or a damaged header") from error
    return head + text, said


def _read(stream: BinaryIO, length: int) -> bytes:
    data: bytes = stream.read(length)
    while len(data) < length:
        more = stream.read(length - len(data))
        if not more:
            raise ValueError("the file ends early")
        data += more
    return data


def _write(stream: BinaryIO, data: bytes, place: Path) -> None:
    view = memoryview(data)
    try:
        while view:
            view = view[stream.write(view) :]
    except OSError as error:
        raise StorageError(f"expected to write to the vault {place}; the disk is full or refuses") from error


def _settle(draft: Path, place: Path) -> None:
    """Give a whole file its name, unless something has it: FileExistsError."""
    try:
        os.link(draft, place)
    except FileExistsError:
        draft.unlink(missing_ok=True)
        raise
    except OSError:  # a file system without links
        if place.exists():
            draft.unlink(missing_ok=True)
            raise FileExistsError(str(place)) from None
        draft.rename(place)
    else:
        draft.unlink(missing_ok=True)


def _lock(stream: BinaryIO, place: Path) -> None:
    """One writer at a time; the lock goes with the process."""
    try:
        if os.name == "nt":
            import msvcrt

            stream.seek(0)
            msvcrt.locking(stream.fileno(), msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined]
        else:
            import fcntl

            fcntl.flock(stream.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        raise StorageError(
            f"expected to be the only writer of the vault {place}; another process has it open"
        ) from error
