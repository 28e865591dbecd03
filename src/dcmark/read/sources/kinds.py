"""Which files are containers: the name and the first bytes have to agree."""

from __future__ import annotations

import tarfile
from typing import Literal

Kind = Literal["zip", "7z", "tar", "tar.gz", "tar.bz2", "tar.xz", "tar.zst"]

SUFFIXES: dict[str, Kind] = {
    ".zip": "zip",
    ".7z": "7z",
    ".tar": "tar",
    ".tar.gz": "tar.gz",
    ".tgz": "tar.gz",
    ".tar.bz2": "tar.bz2",
    ".tbz2": "tar.bz2",
    ".tbz": "tar.bz2",
    ".tar.xz": "tar.xz",
    ".txz": "tar.xz",
    ".tar.zst": "tar.zst",
    ".tzst": "tar.zst",
}
_ALL = tuple(SUFFIXES)
_MAGIC: dict[Kind, tuple[bytes, ...]] = {
    "zip": (b"PK\x03\x04", b"PK\x05\x06"),
    "7z": (b"7z\xbc\xaf\x27\x1c",),
    "tar.gz": (b"\x1f\x8b",),
    "tar.bz2": (b"BZh",),
    "tar.xz": (b"\xfd7zXZ\x00",),
    "tar.zst": (b"\x28\xb5\x2f\xfd",),
}
HEAD = tarfile.BLOCKSIZE
"""First bytes that ``looks_like`` wants to see."""


def suffix(name: str) -> str:
    """The suffix that marks ``name`` as a container (as it is written there), or an empty string."""
    lower = name.lower()
    if not lower.endswith(_ALL):
        return ""
    return name[-max(len(one) for one in _ALL if lower.endswith(one)) :]


def stem(name: str) -> str:
    """``name`` without the suffix of a container; ``name`` itself where nothing would remain."""
    return name[: len(name) - len(suffix(name))] or name


def kind(name: str) -> Kind | None:
    """The kind of container that a file of this name should be, or None."""
    found = suffix(name)
    return SUFFIXES[found.lower()] if found else None


def looks_like(kind: Kind, head: bytes) -> bool:
    """Do the first ``HEAD`` bytes of a file bear out its suffix?"""
    if kind != "tar":
        return head.startswith(_MAGIC[kind])
    if len(head) < tarfile.BLOCKSIZE:
        return False
    if not head.strip(b"\0"):
        return True  # an archive without members begins with its end mark
    try:
        tarfile.TarInfo.frombuf(head, "utf-8", "surrogateescape")
    except tarfile.HeaderError:
        return False
    return True
