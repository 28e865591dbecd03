"""Old names to new ones by one secret key: the same on every machine, in every order, and no way back without it."""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Callable
from datetime import date, timedelta

from dcmark.errors import UsageError

STANDARD_ROOT = "1.2.840.10008."
"""UIDs of the standard itself: classes, syntaxes, well-known instances. They identify nobody."""
SHIFT_DAYS = (365, 3650)
"""Days a patient's dates may move back: at least a year, at most ten."""
KEY_BYTES = 32
FILE_ID_PART = re.compile("[A-Z0-9_]{1,8}")
"""A component of a File ID (PS3.10 8.2)."""


class Identities:
    """New UIDs, pseudonyms and date shifts.

    Args:
        key: 32 secret bytes. Whoever holds it can find out which pseudonym belongs to a known name.
        pattern: of pseudonyms, see ``profile.Profile.patient``.
        number: gives a patient's running number from his keyed digest, where the pattern counts; it must remember.
    """

    def __init__(self, key: bytes, pattern: str = "P-{hash}", number: Callable[[bytes], int] | None = None) -> None:
        if len(key) != KEY_BYTES:
            raise UsageError(f"expected a key of {KEY_BYTES} bytes; found {len(key)}")
        self._key, self._number = key, number
        found = re.search(r"\{(0*1|hash)\}", pattern)
        if found is None:
            raise UsageError(f"expected {{0001}} or {{hash}} in the pattern of pseudonyms; found {pattern!r}")
        self._before, self._after = pattern[: found.start()], pattern[found.end() :]
        self._digits = 0 if found[1] == "hash" else len(found[1])
        if self._digits and number is None:
            raise UsageError("expected a vault for pseudonyms that count: it remembers who has which number")

    @property
    def key(self) -> bytes:
        """The secret."""
        return self._key

    @property
    def counts(self) -> bool:
        """Are pseudonyms running numbers?"""
        return bool(self._digits)

    def _digest(self, purpose: str, value: str) -> bytes:
        return hmac.new(self._key, f"{purpose}\0{value}".encode(), hashlib.sha256).digest()

    def uid(self, old: str) -> str:
        """Another UID, one to one: ``2.25.`` and 128 bits of HMAC-SHA-256 (PS3.5 B.2); the standard's own stay."""
        if not old or old.startswith(STANDARD_ROOT):
            return old
        return f"2.25.{int.from_bytes(self._digest('uid', old)[:16], 'big')}"

    def pseudonym(self, patient: str) -> str:
        """The pseudonym of a patient, by Patient ID."""
        digest = self._digest("patient", patient)
        if self._digits:
            assert self._number is not None
            return f"{self._before}{self._number(digest):0{self._digits}}{self._after}"
        return f"{self._before}{digest[:6].hex()}{self._after}"

    def days(self, patient: str) -> int:
        """Days that all dates of a patient move, below 0: back."""
        least, most = SHIFT_DAYS
        return -(least + int.from_bytes(self._digest("days", patient)[:8], "big") % (most - least + 1))

    def shifted(self, text: str, patient: str) -> str | None:
        """A date (DA) or date-time (DT) moved; the time of day stays. None where it is no date (PS3.5 6.2)."""
        found = re.match(r"(\d{4})[.]?(\d{2})[.]?(\d{2})(.*)$", text.strip(), re.DOTALL)
        if not found:
            return None
        try:
            moved = date(int(found[1]), int(found[2]), int(found[3])) + timedelta(self.days(patient))
        except (ValueError, OverflowError):
            return None
        rest = found[4] if re.fullmatch(r"[\d.+-]*", found[4]) else ""
        return f"{moved:%Y%m%d}".rjust(8, "0") + rest

    def token(self, name: str) -> str:
        """What stands for a folder's or file's name: ``n`` and ten hexadecimal digits.

        Where a DICOMDIR could hold the name, it can hold what stands for it: eight of A-Z and 0-9 (PS3.10 8.5).
        """
        if not FILE_ID_PART.fullmatch(name):
            return "n" + self._digest("name", name)[:5].hex()
        number, token = int.from_bytes(self._digest("name", name)[:8], "big"), ""
        for _ in range(7):
            number, digit = divmod(number, 36)
            token += "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ"[digit]
        return "N" + token
