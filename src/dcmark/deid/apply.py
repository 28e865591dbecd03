"""A policy applied to files: the clean bytes, the clean name, what was done, and what leads back."""

from __future__ import annotations

import hashlib
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from dcmark.config import LIMITS, Limits
from dcmark.deid.mapping import FILE_ID_PART, Identities
from dcmark.deid.profile import Profile
from dcmark.deid.rewrite import Change, Clean, Copy, deidentify
from dcmark.deid.vault import HELD_BACK, FileRecord
from dcmark.errors import HeldBackError, UsageError
from dcmark.read.elements import sniff_encoding

if TYPE_CHECKING:
    from dcmark.deid.encrypted import Recipients
    from dcmark.deid.pixels.detector import Box
    from dcmark.deid.pixels.policy import TextPolicy
    from dcmark.deid.pixels.review import Review
    from dcmark.deid.vault import Vault

NAMES_KEPT = re.compile(r"^(DICOMDIR|[0-9]{1,6}|[a-z]{0,4}[0-9]{1,5})(\.dcm|\.ima)?$", re.IGNORECASE)
"""Names that only count slices: they identify nobody."""


def is_dicom(data: memoryview) -> bool:
    """Does a file begin as DICOM does?"""
    return bytes(data[128:132]) == b"DICM" or bytes(data[:4]) == b"DICM" or sniff_encoding(data, 0) is not None


@dataclass(frozen=True, slots=True)
class CleanFile:
    """A de-identified file.

    Attributes:
        data: its bytes.
        path: its name in the source, every part that could identify replaced.
        changes: what was done.
        record: what leads back to the original.
    """

    data: bytes
    path: str
    changes: list[Change]
    record: FileRecord


class Deidentifier:
    """Applies a profile to any number of files; safe to use from several threads.

    Args:
        profile: the policy.
        key: secret of the mapping, 32 bytes; the vault's own where there is one.
        vault: gets what leads back, before the clean file is handed on.
        recipients: those for whom what is taken out travels in the file, encrypted (PS3.15 E.1.1).
        text: what is done about text in pixels; None: nothing, and nothing is claimed.
        keep_held_back: put files that are held back into the vault, whole, so that it leads back to every file.
    """

    def __init__(
        self,
        profile: Profile,
        key: bytes | None = None,
        vault: Vault | None = None,
        limits: Limits = LIMITS,
        recipients: Recipients | None = None,
        *,
        text: TextPolicy | None = None,
        keep_held_back: bool = False,
    ) -> None:
        if keep_held_back and vault is None:
            raise UsageError("expected --vault where files that are held back are to be kept; found none")
        self.keep_held_back = keep_held_back
        if vault is None and key is None:
            raise ValueError("a key or a vault is needed")
        self.profile, self.vault, self.limits, self.recipients = profile, vault, limits, recipients
        self.text = text
        self.review: Review | None = None
        self._lock = threading.Lock()
        self.identities = Identities(
            key if key is not None else vault.key if vault is not None else b"",
            profile.patient,
            self._number if vault is not None else None,
        )

    def __reduce__(self) -> tuple[Any, ...]:
        """To another process; without a vault, which has one writer."""
        if self.vault is not None:
            raise TypeError("a de-identifier with a vault stays in its process")
        made = partial(Deidentifier, text=self.text)
        return made, (self.profile, self.key, None, self.limits, self.recipients)

    def _number(self, digest: bytes) -> int:
        assert self.vault is not None
        with self._lock:
            return self.vault.number(digest)

    def file(
        self, data: memoryview, path: str, patient_folder: str = "", folder_of: Callable[[str], str] | None = None
    ) -> CleanFile:
        """A file under the policy.

        Args:
            data: the whole file.
            path: in its source, ``/`` between names.
            patient_folder: which of those names is the patient's; empty where that is not known.
            folder_of: the same of another file of the source, by its path: a DICOMDIR names others.

        Raises:
            HeldBackError: it is not passed on; the message says why.
            StorageError: the vault cannot be written.
        """
        try:
            return self._file(data, path, patient_folder, folder_of)
        except HeldBackError:
            if self.keep_held_back and self.vault is not None:
                self._hold(self.vault, data, path)
            raise

    def _hold(self, vault: Vault, data: memoryview, path: str) -> None:
        record = FileRecord(HELD_BACK, hashlib.sha256(data).digest(), path, [(-1, len(data))], bytes(data))
        with self._lock:
            vault.add(record)

    def _file(
        self, data: memoryview, path: str, patient_folder: str, folder_of: Callable[[str], str] | None
    ) -> CleanFile:
        if not is_dicom(data):
            raise HeldBackError("expected a DICOM file; what other formats hold of a person is not known here")
        boxes = self._boxes(data, path, patient_folder)
        directory = _Directory(self, path, folder_of or (lambda _: ""))
        made = deidentify(
            data,
            self.profile,
            self.identities,
            self.limits,
            patient=patient_folder,
            file_id=directory.file_id,
            seal=None if self.recipients is None else self.recipients.seal,
            pixels_cleaned=boxes is not None,
        )
        name = self.name(path, patient_folder, made.patient)
        directory.check(name)
        clean = b"".join(made.chunks())
        runs, literal = _way_back(made, data, clean)
        changes = [*made.changes, *_renamed(path, name, patient_folder)]
        if boxes:
            from dcmark.deid.pixels.back import remapped
            from dcmark.deid.pixels.policy import masked

            plain, clean = clean, masked(clean, boxes, self.limits)
            runs, literal = remapped(runs, literal, plain, clean, self.limits)
            changes.append(Change("7FE00010", "mask"))
            if self.review is not None:
                from dcmark.deid.pixels.frames import Pictures

                self.review.masked(name, Pictures(data), Pictures(memoryview(clean)), boxes)
        record = FileRecord(hashlib.sha256(clean).digest(), hashlib.sha256(data).digest(), path, runs, literal)
        if self.vault is not None:
            with self._lock:
                self.vault.add(record)
        return CleanFile(clean, name, changes, record)

    def _boxes(self, data: memoryview, path: str, patient_folder: str) -> list[Box] | None:
        """Where the pixels have to be masked; None where nobody looked."""
        if self.text is None or self.text.action == "keep":
            return None
        from dcmark.deid.pixels.frames import Pictures

        pictures = Pictures(data, self.limits)
        try:
            return self.text.boxes(pictures)
        except HeldBackError as error:
            if self.review is not None:
                self.review.held(self.name(path, patient_folder), str(error), pictures)
            raise

    @property
    def key(self) -> bytes:
        """The secret of the mapping, for workers that make files clean without the vault.

        Raises:
            UsageError: pseudonyms count, which only the one who writes the vault can do.
        """
        if self.review is not None:
            raise UsageError("expected one process where a page of review is written, found several")
        if self.keep_held_back:
            raise UsageError("expected one process where files that are held back go into the vault, found several")
        if self.identities.counts:
            raise UsageError(
                "expected pseudonyms made from the key where several workers de-identify, found ones that count; use "
                "{hash} in the profile's pattern, or one process"
            )
        return self.identities.key

    def keep(self, made: CleanFile) -> None:
        """Put what leads back from a file that a worker made clean into the vault.

        Raises:
            StorageError: the vault cannot be written.
        """
        if self.vault is not None:
            with self._lock:
                self.vault.add(made.record)

    def sync(self) -> None:
        """Make the vault durable; call before clean files are committed."""
        if self.vault is not None:
            with self._lock:
                self.vault.sync()

    def name(self, path: str, patient_folder: str = "", pseudonym: str = "") -> str:
        """A path without what could identify: the layout stays, its names become keyed tokens.

        The patient's folder becomes the pseudonym; folders the profile names stay; a file's name stays where it only
        counts (``IM0001.dcm``). The same name gets the same token everywhere.
        """
        *folders, name = path.split("/")
        if not NAMES_KEPT.match(name):
            suffix = re.search(r"\.(dcm|ima)$", name, re.IGNORECASE)
            name = self.identities.token(name) + (suffix[0].lower() if suffix else "")
        told = {patient_folder: pseudonym} if patient_folder and pseudonym else {}
        kept = {folder: folder for folder in self.profile.folders}
        return "/".join([*((told | kept).get(folder) or self.identities.token(folder) for folder in folders), name])


def _renamed(path: str, name: str, patient_folder: str) -> list[Change]:
    """What was done to the names of folders, from the top, and to the file's. Never the names."""
    old, new = path.split("/"), name.split("/")
    changes = []
    for number, (before, after) in enumerate(zip(old, new, strict=True)):
        last = number == len(old) - 1
        action = "keep" if before == after else "pseudonym" if before == patient_folder and not last else "token"
        if action != "keep":
            changes.append(Change("file name" if last else f"folder[{number}]", action))
    return changes


class _Directory:
    """New File IDs for a DICOMDIR: the names that the files it points at get (PS3.10 8.5)."""

    def __init__(self, deidentifier: Deidentifier, path: str, folder_of: Callable[[str], str]) -> None:
        self._deidentifier, self._folder_of = deidentifier, folder_of
        self._above = path.split("/")[:-1]
        self._beside: set[tuple[str, ...]] = set()

    def file_id(self, old: list[str], pseudonym: str) -> list[str]:
        """New components for old ones.

        Raises:
            HeldBackError: the new names fit no DICOMDIR.
        """
        if any("/" in part or part in ("", ".", "..") for part in old):
            raise HeldBackError("expected names of files below a DICOMDIR in it, found something else")
        path = "/".join([*self._above, *old])
        new = self._deidentifier.name(path, self._folder_of(path), pseudonym).split("/")
        self._beside.add(tuple(new[: len(self._above)]))
        found = new[len(self._above) :]
        if any(FILE_ID_PART.fullmatch(a) and not FILE_ID_PART.fullmatch(b) for a, b in zip(old, found, strict=True)):
            raise HeldBackError(
                "expected new names that a DICOMDIR can hold (up to eight of A-Z, 0-9 and _); pseudonyms such as "
                "S{0001} would do; make a new DICOMDIR for the clean files"
            )
        return found

    def check(self, name: str) -> None:
        """Raises HeldBackError where files it points at do not lie beside it any more."""
        if self._beside - {tuple(name.split("/")[:-1])}:
            raise HeldBackError(
                "expected the files of a DICOMDIR below its folder; their folders have other names now; make a new "
                "DICOMDIR for the clean files"
            )


def _way_back(made: Clean, data: memoryview, clean: bytes) -> tuple[list[tuple[int, int]], bytes]:
    """The original as runs of the clean file and literal bytes."""
    if made.deflated or made.body is not data:
        return [(-1, len(data))], bytes(data)  # packing it again would not give the same bytes
    runs: list[tuple[int, int]] = []
    literal: list[bytes] = []
    at = done = 0
    for piece in made.pieces:
        if isinstance(piece, Copy):
            if piece.start > done:
                runs.append((-1, piece.start - done))
                literal.append(bytes(data[done : piece.start]))
            runs.append((at, piece.end - piece.start))
            done = piece.end
            at += piece.end - piece.start
        else:
            at += len(piece)
    if done < len(data):
        runs.append((-1, len(data) - done))
        literal.append(bytes(data[done:]))
    assert at == len(clean)
    return runs, b"".join(literal)
