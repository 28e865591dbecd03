"""A policy applied to files: the clean bytes, the clean name, what was done, and what leads back."""

from __future__ import annotations

import hashlib
import re
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dcmark.config import LIMITS, Limits
from dcmark.deid.mapping import Identities
from dcmark.deid.profile import Profile
from dcmark.deid.rewrite import Change, Clean, Copy, deidentify
from dcmark.deid.vault import FileRecord
from dcmark.errors import HeldBackError, UsageError
from dcmark.read.elements import sniff_encoding

if TYPE_CHECKING:
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
    """

    def __init__(
        self, profile: Profile, key: bytes | None = None, vault: Vault | None = None, limits: Limits = LIMITS
    ) -> None:
        if vault is None and key is None:
            raise ValueError("a key or a vault is needed")
        self.profile, self.vault, self.limits = profile, vault, limits
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
        return Deidentifier, (self.profile, self.key, None, self.limits)

    def _number(self, digest: bytes) -> int:
        assert self.vault is not None
        with self._lock:
            return self.vault.number(digest)

    def file(self, data: memoryview, path: str, patient_folder: str = "") -> CleanFile:
        """A file under the policy.

        Args:
            data: the whole file.
            path: in its source, ``/`` between names.
            patient_folder: which of those names is the patient's; empty where that is not known.

        Raises:
            HeldBackError: it is not passed on; the message says why.
            StorageError: the vault cannot be written.
        """
        if not is_dicom(data):
            raise HeldBackError("expected a DICOM file; what other formats hold of a person is not known here")
        made = deidentify(data, self.profile, self.identities, self.limits, patient=patient_folder)
        clean = b"".join(made.chunks())
        record = FileRecord(
            hashlib.sha256(clean).digest(), hashlib.sha256(data).digest(), path, *_way_back(made, data, clean)
        )
        if self.vault is not None:
            with self._lock:
                self.vault.add(record)
        return CleanFile(clean, self.name(path, patient_folder, made.patient), made.changes, record)

    @property
    def key(self) -> bytes:
        """The secret of the mapping, for workers that make files clean without the vault.

        Raises:
            UsageError: pseudonyms count, which only the one who writes the vault can do.
        """
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
