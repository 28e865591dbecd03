"""Limits and settings: frozen, each with its unit."""

from __future__ import annotations

from dataclasses import dataclass

MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Limits:
    """What hostile or broken input may cost at most.

    Attributes:
        member_bytes: largest file taken out of a container, bytes.
        container_ratio: largest ratio of unpacked to packed bytes of a container, after
            ``container_grace`` unpacked bytes.
        container_grace: unpacked bytes before the ratio is looked at.
        container_members: most members of one container.
        in_memory: files up to this many bytes are read into memory; larger ones are spooled
            to a temporary file of our own and mapped.
        frame_bytes: largest decoded frame, bytes.
        depth: deepest nesting of sequences looked into.
    """

    member_bytes: int = 64 * 1024 * MIB
    container_ratio: int = 1000
    container_grace: int = 256 * MIB
    container_members: int = 20_000_000
    in_memory: int = 256 * MIB
    frame_bytes: int = 2048 * MIB
    depth: int = 64


LIMITS = Limits()
