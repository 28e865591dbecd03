"""The spool: objects that came in, each durable before its sender is told that it is stored.

    SPOOL/drafts/    being written; nobody was told anything of these, so they go when the spool is opened
    SPOOL/arrived/   <SHA-256>.dcm: acknowledged; gone once the archive has them
    SPOOL/lock       held by the process that uses the spool

No name of a file is taken from what was sent.
"""

from __future__ import annotations

import hashlib
import mmap
import os
import re
import secrets
import shutil
import struct
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple

from dcmark.arrival.durable import Lock, sync_folder
from dcmark.config import MIB, Limits
from dcmark.errors import StorageError, UsageError
from dcmark.findings import Finding
from dcmark.read.base import Item
from dcmark.read.dicom import DicomReader
from dcmark.read.sources.files import open_regular

LABEL = "dicom"
"""What the archive calls the source of objects that came by DICOM network."""
IMPLEMENTATION = "2.25.295461379041917246139236838914613047591"
"""Implementation Class UID in file meta information that is written here (PS3.10 table 7.1-1)."""
MOST_BYTES = 4096 * MIB
"""Largest object that is taken, bytes, unless told otherwise."""
SPARE_BYTES = 64 * MIB
"""Room that is left on the disk of the spool, bytes."""
_PREAMBLE = 132
_UID = re.compile(r"[0-9.]{1,64}")
_ARRIVED = re.compile(r"[0-9a-f]{64}\.dcm")
_DRAFT = re.compile(r"[0-9a-f]{32}\.part")
_READER = DicomReader(Limits(in_memory=16 * MIB))

Outcome = Literal["stored", "too-large", "no-room", "mismatch", "not-understood"]


class Identity(NamedTuple):
    """The UIDs of an object: digits and dots, at most 64 of them, so that they can stand in a path."""

    study: str
    series: str
    instance: str
    sop_class: str

    @property
    def path(self) -> str:
        """Path of the object in its source."""
        return f"{self.study}/{self.series}/{self.instance}.dcm"


def usable(uid: str) -> bool:
    """Is this a UID that can name a file? (PS3.5 section 9.1, but for components that begin with zero.)"""
    return _UID.fullmatch(uid) is not None and uid.strip(".") != ""


def identity(file: Path) -> Identity | None:
    """The UIDs in a DICOM file; None where one is missing or could not stand in a path."""
    with file.open("rb") as stream:
        if not os.fstat(stream.fileno()).st_size:
            return None
        with mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as mapped, memoryview(mapped) as data:
            tags = dict(_READER.take_apart(data, "").tags)
    names = ("study_instance_uid", "series_instance_uid", "sop_instance_uid", "sop_class_uid")
    found = [str(tags.get(name) or "").rstrip("\0 ") for name in names]
    return Identity(*found) if all(map(usable, found)) else None


def file_meta(sop_class: str, instance: str, syntax: str) -> bytes:
    """Preamble, prefix and file meta information (PS3.10 section 7.1) of an object that came without.

    The same for the same object, whoever sent it and when.
    """

    def element(number: int, vr: bytes, value: bytes, pad: bytes = b"\0") -> bytes:
        value += pad * (len(value) % 2)
        length = struct.pack("<2xI", len(value)) if vr == b"OB" else struct.pack("<H", len(value))
        return struct.pack("<HH", 2, number) + vr + length + value

    body = b"".join(
        (
            element(0x0001, b"OB", b"\0\1"),
            element(0x0002, b"UI", sop_class.encode("ascii")),
            element(0x0003, b"UI", instance.encode("ascii")),
            element(0x0010, b"UI", syntax.encode("ascii")),
            element(0x0012, b"UI", IMPLEMENTATION.encode("ascii")),
            element(0x0013, b"SH", b"DCMARK", b" "),
        )
    )
    return bytes(128) + b"DICM" + element(0x0000, b"UL", struct.pack("<I", len(body))) + body


class Spool:
    """A folder for objects between the network and the archive; for one process at a time.

    Args:
        folder: made where it is not there, for this user's eyes only.
        most: largest object that is taken, bytes.

    Raises:
        UsageError: another process uses it.
        StorageError: it cannot be made or written.
    """

    def __init__(self, folder: Path, most: int = MOST_BYTES) -> None:
        self.folder, self.most = folder, most
        self.drafts, self.arrived = folder / "drafts", folder / "arrived"
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            folder.mkdir(mode=0o700, exist_ok=True)
            self._lock = Lock(folder / "lock")
        except BlockingIOError:
            raise UsageError(
                f"expected the spool {folder} for this process alone, found another that uses it; "
                "stop that one, or choose another with --spool"
            ) from None
        except OSError as error:
            raise StorageError(_refused(folder, error)) from None
        try:
            self.drafts.mkdir(mode=0o700, exist_ok=True)
            self.arrived.mkdir(mode=0o700, exist_ok=True)
            for left in self.drafts.iterdir():
                if _DRAFT.fullmatch(left.name):  # and nothing else, should the folder be one of other files
                    left.unlink()
            sync_folder(folder)
            sync_folder(folder.absolute().parent)
        except OSError as error:
            self.close()
            raise StorageError(_refused(folder, error)) from None
        self.on_arrival: Callable[[], None] = _nothing

    def close(self) -> None:
        """Let another process use it."""
        self._lock.release()

    def draft(self, sop_class: str, instance: str, syntax: str) -> Draft:
        """Begin to take in an object.

        Args:
            sop_class, instance: the UIDs under which it is sent.
            syntax: UID of the transfer syntax it is sent in.
        """
        return Draft(self, sop_class, instance, syntax)

    def waiting(self, most: int) -> list[Path]:
        """Objects that arrived, the oldest of up to ``most`` first."""
        found: list[tuple[int, str, Path]] = []
        with os.scandir(self.arrived) as entries:
            for entry in entries:
                if _ARRIVED.fullmatch(entry.name):
                    found.append((entry.stat(follow_symlinks=False).st_mtime_ns, entry.name, Path(entry.path)))
                    if len(found) >= most:
                        break
        return [place for _, _, place in sorted(found)]


class Draft:
    """An object that is being received. Never raises for what was sent, or for a disk that refuses.

    What is over the limit, or finds no room, is not written any more but may go on being sent.
    """

    def __init__(self, spool: Spool, sop_class: str, instance: str, syntax: str) -> None:
        self._spool, self._named = spool, (sop_class, instance)
        self._outcome: Outcome = "stored"
        self._size = 0
        self._digest = hashlib.sha256()
        self._first: bytearray | None = bytearray()
        self._meta = b""
        self._place = spool.drafts / f"{secrets.token_hex(16)}.part"
        if not all(map(usable, (sop_class, instance, syntax))):
            self._outcome = "not-understood"
            return
        self._meta = file_meta(sop_class, instance, syntax)
        try:
            if shutil.disk_usage(spool.drafts).free < SPARE_BYTES:
                raise OSError
            self._file = self._place.open("xb", buffering=256 * 1024)
        except OSError:
            self._outcome = "no-room"

    def write(self, data: bytes | memoryview) -> None:
        """Take in more of the data set."""
        if self._outcome != "stored":
            return
        self._size += len(data)
        if self._size > self._spool.most:
            self._drop("too-large")
        elif self._first is None:
            self._put(data)
        else:
            self._first += data
            if len(self._first) >= _PREAMBLE:
                self._begin()

    def _begin(self) -> None:
        """The header goes first, unless one was sent in spite of the rules."""
        first, self._first = self._first or bytearray(), None
        if first[128:_PREAMBLE] != b"DICM":
            self._put(self._meta)
        self._put(bytes(first))

    def _put(self, data: bytes | memoryview) -> None:
        if self._outcome != "stored":
            return
        try:
            self._file.write(data)
        except OSError:
            self._drop("no-room")
        else:
            self._digest.update(data)

    def finish(self) -> Outcome:
        """The object is complete: make it durable. ``stored`` means that it is; call once."""
        if self._outcome == "stored" and self._first is not None:
            self._begin()
        if self._outcome != "stored":
            return self._outcome
        arrived = self._spool.arrived
        try:
            self._file.flush()
            outcome = self._checked()
            if outcome != "stored":
                self._drop(outcome)
                return outcome
            os.fsync(self._file.fileno())
            self._file.close()
            self._place.replace(arrived / f"{self._digest.hexdigest()}.dcm")
            sync_folder(arrived)
        except (OSError, ValueError):  # ValueError: no room for the mapping
            self._drop("no-room")
        if self._outcome == "stored":
            self._spool.on_arrival()
        return self._outcome

    def _checked(self) -> Outcome:
        found = identity(self._place)
        if found is None:
            return "not-understood"
        return "stored" if (found.sop_class, found.instance) == self._named else "mismatch"

    def drop(self) -> None:
        """The object will not be completed."""
        if self._outcome == "stored":
            self._drop("not-understood")

    def _drop(self, outcome: Outcome) -> None:
        self._outcome, self._first = outcome, None
        with suppress(OSError):
            self._file.close()
        with suppress(OSError):
            self._place.unlink(missing_ok=True)


class SpoolSource:
    """Objects in a spool as a source; every spool is the same source to the archive.

    Args:
        files: in the order in which they came.
        known: SHA-256 of what the archive has at a path of this source, for those of the paths given that it has.
    """

    label = LABEL
    pattern = "none"

    def __init__(self, files: Iterable[Path], known: Callable[[list[str]], dict[str, set[bytes]]]) -> None:
        self._files, self._known = [*files], known

    def items(self) -> Iterator[Item | Finding]:
        """The objects by study, series and instance. One whose path has other content goes beside it."""
        identities = [identity(file) for file in self._files]
        known = self._known([one.path for one in identities if one is not None])
        for file, one in zip(self._files, identities, strict=True):
            if one is None:  # was understood when it came
                message = "an object in the spool is not as it was when it came"
                yield Finding("error", "damaged", message, "left in the spool", file.name)
                continue
            sha256, path = bytes.fromhex(file.stem), one.path
            there = known.setdefault(path, set())
            if there and sha256 not in there:
                message = "an instance of the same UID came with other bytes"
                yield Finding("warning", "instance-differs", message, "both are kept", path)
                path = f"{path.removesuffix('.dcm')}-{file.stem[:16]}.dcm"
            there.add(sha256)
            status = file.stat()
            yield Item(
                LABEL, path, status.st_size, status.st_mtime_ns, False, partial(open_regular, str(file)), LABEL
            )  # fmt: skip


def _refused(folder: Path, error: OSError) -> str:
    return f"expected a folder to write to at {folder}, found: {error.strerror or type(error).__name__}"


def _nothing() -> None:
    return None
