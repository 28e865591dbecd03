"""The way back from a masked file: what the mask took away, beside what the policy took away."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from dcmark.config import LIMITS, Limits
from dcmark.deid.pixels.frames import Pictures

Runs = list[tuple[int, int]]
APART = 16
"""Equal bytes between two differences that are kept as a run of their own."""


def remapped(
    runs: Sequence[tuple[int, int]], literal: bytes, clean: bytes, masked: bytes, limits: Limits = LIMITS
) -> tuple[Runs, bytes]:
    """Runs and literal bytes that lead back from a clean file, made to lead back from the masked one.

    Args:
        runs, literal: as ``vault.FileRecord`` holds them.
        clean: the file before it was masked.
        masked: and after.
    """
    value, behind = Pictures(memoryview(clean), limits).range
    if len(clean) == len(masked):
        value = behind = len(clean)  # pixels lie where they lay
    shift = len(masked) - len(clean)
    made: Runs = []
    kept: list[bytes] = []
    at = 0

    def give(start: int, length: int, taken: bytes | None) -> None:
        if length <= 0:
            return
        if taken is not None:
            kept.append(taken)
        if made and (taken is not None) and made[-1][0] < 0:
            made[-1] = (-1, made[-1][1] + length)
        elif made and taken is None and made[-1][0] >= 0 and sum(made[-1]) == start:
            made[-1] = (made[-1][0], made[-1][1] + length)
        else:
            made.append((start if taken is None else -1, length))

    for start, length in runs:
        if start < 0:
            give(-1, length, literal[at : at + length])
            at += length
            continue
        end = start + length
        for first, last, same in _runs(clean, masked, start, min(end, value)):
            give(first, last - first, None if same else clean[first:last])
        first, last = max(start, value), min(end, behind)
        give(-1, last - first, clean[first:last])
        first = max(start, behind)
        give(first + shift, end - first, None)
    return made, b"".join(kept)


def _runs(one: bytes, other: bytes, start: int, end: int) -> Iterator[tuple[int, int, bool]]:
    """(start, end, are they equal) of the parts of two files of one layout."""
    if start >= end:
        return
    differ = np.flatnonzero(
        np.frombuffer(one, np.uint8)[start:end] != np.frombuffer(other, np.uint8)[start:end]
    )  # fmt: skip
    at = start
    if differ.size:
        breaks = np.flatnonzero(np.diff(differ) > APART)
        firsts, lasts = differ[[0, *(breaks + 1)]], differ[[*breaks, -1]]
        for first, last in zip(firsts.tolist(), lasts.tolist(), strict=True):
            if start + first > at:
                yield at, start + first, True
            yield start + first, start + last + 1, False
            at = start + last + 1
    if at < end:
        yield at, end, True
