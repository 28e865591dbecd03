"""What identifying is left in a file, made clean by dcmark or by others: where, and by which rule."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from dcmark.config import LIMITS, Limits
from dcmark.deid.mapping import KEY_BYTES, Identities
from dcmark.deid.profile import PATIENT_ID, PATIENT_NAME, Profile
from dcmark.deid.rewrite import deidentify

_KEY = bytes(KEY_BYTES)
_LOOKALIKES = frozenset({f"{PATIENT_ID:08X}", f"{PATIENT_NAME:08X}"})


@dataclass(frozen=True, slots=True)
class Left:
    """Something that the policy would have changed.

    Attributes:
        path: of tags, as ``00081140[0].00081155``.
        rule: what the policy would have done.
        certain: False where it may be a replacement already: another UID, a pseudonym, a shifted date.
    """

    path: str
    rule: str
    certain: bool


def left(data: memoryview, profile: Profile, limits: Limits = LIMITS) -> Iterator[Left]:
    """What a policy would still change in a file.

    A file that says Patient Identity Removed = YES is believed as to UIDs, pseudonyms and dates, which look alike
    before and after; everything else must be gone, empty or a dummy.

    Raises:
        HeldBackError: the file cannot be read from end to end, so that what is left cannot be told.
    """
    made = deidentify(data, profile, Identities(_KEY), limits)
    removed = _says_removed(bytes(made.body[: min(len(made.body), 1 << 20)]))
    for change in made.changes:
        if change.action == "add":
            continue
        lookalike = change.action in ("uid", "shift") or change.path.rsplit(".", 1)[-1] in _LOOKALIKES
        yield Left(change.path, change.action, not (removed and lookalike))


def _says_removed(head: bytes) -> bool:
    return _REMOVED.search(head) is not None


_REMOVED = re.compile(
    rb"\x12\x00\x62\x00(?:CS\x04\x00|\x04\x00\x00\x00)YES |\x00\x12\x00\x62(?:CS\x00\x04|\x00\x00\x00\x04)YES "
)
"""Patient Identity Removed (0012,0062) = YES, in either byte order, with and without VR."""
