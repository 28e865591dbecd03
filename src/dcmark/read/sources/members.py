"""What zip, tar and 7z have in common: names that stay inside, bytes that are counted, damage told."""

from __future__ import annotations

import io
import re
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO, NamedTuple

from dcmark.config import Limits
from dcmark.errors import LimitError, SourceError
from dcmark.findings import Finding
from dcmark.read.base import Item
from dcmark.read.sources import kinds

STEP = 1 << 20  # bytes asked of a decoder at once
BUFFER = 1 << 16  # bytes a member is read in where its reader asks for less
LONGEST_NAME = 4096  # bytes
_WINDOWS_DEVICE = re.compile(r"(con|prn|aux|nul|com[1-9]|lpt[1-9])(\.|$)", re.IGNORECASE)
_SHOWN = 256  # characters of a refused name that go into a finding


def safe_name(name: str) -> str | None:
    """The path of a member below its container, or None where the name is refused.

    Refused are names that are empty, absolute, begin with a drive or a share, step upwards, hold a
    NUL, or take more than 4,096 bytes; backslashes count as separators in these checks, whatever
    the system. Empty and ``.`` parts are left out; all else is kept as it is.
    """
    if "\0" in name or len(name.encode("utf-8", "surrogatepass")) > LONGEST_NAME:
        return None
    flat = name.replace("\\", "/")
    if flat.startswith("/") or re.match("[A-Za-z]:", flat):
        return None
    # Windows drops blanks and dots at the end of a part, so ".. " climbs as well.
    if ".." in flat and any(".." in part and not part.strip(" .") for part in flat.split("/")):
        return None
    return "/".join(part for part in name.split("/") if part not in ("", ".")) or None


class Budget:
    """Counts the bytes that really come out of one container; safe to use from several threads.

    packed: size of the container, bytes.
    """

    def __init__(self, packed: int, limits: Limits) -> None:
        self.exceeded = False
        self._ratio = limits.container_ratio
        self._left = max(limits.container_grace, packed * limits.container_ratio)
        self._lock = threading.Lock()

    def spend(self, count: int) -> None:
        """Book ``count`` bytes. Raises LimitError once more came out than the container may hold."""
        with self._lock:
            self._left -= count
            self.exceeded = self.exceeded or self._left < 0
        if self.exceeded:
            raise LimitError(
                f"the container unpacks to more than {self._ratio} times its size; it was left. "
                "If it is to be trusted, raise the limit container_ratio"
            )


class Turn:
    """Whose turn it is in a stream whose members can be read only in passing."""

    def __init__(self) -> None:
        self._now = 0

    def next(self) -> int:
        """Begin the turn of the next member; ends that of the one before."""
        self._now += 1
        return self._now

    def check(self, mine: int) -> None:
        """Raises SourceError when this turn is over."""
        if mine != self._now:
            raise SourceError(
                "a member of a stream was read after the next one had been asked for; read sequential items at once"
            )


class MemberStream(io.RawIOBase):
    """The bytes of a member.

    Every error of the decoder below comes out as SourceError. More than ``limits.member_bytes`` is a
    LimitError.
    """

    def __init__(
        self, read: Callable[[int], bytes], limits: Limits, *, budget: Budget | None, step: int = STEP
    ) -> None:
        self._read = read
        self._most = self._left = limits.member_bytes
        self._budget = budget
        self._step = step

    def readable(self) -> bool:
        """True."""
        return True

    def readinto(self, buffer: Any, /) -> int:
        """Fill ``buffer`` from the front; the number of bytes, 0 at the end."""
        with memoryview(buffer).cast("B") as view:
            data = self._next(min(len(view), self._step))
            view[: len(data)] = data
            return len(data)

    def readall(self) -> bytes:
        """All bytes up to the end."""
        return b"".join(iter(lambda: self._next(self._step), b""))

    def _next(self, count: int) -> bytes:
        with damage_told():
            data = self._read(count)
        self._left -= len(data)
        if self._left < 0:
            raise LimitError(f"a member holds more than {self._most} bytes (limit member_bytes)")
        if self._budget is not None:
            self._budget.spend(len(data))
        return data


@contextmanager
def damage_told(expected: str = "whole packed bytes", *, but: tuple[type[Exception], ...] = ()) -> Iterator[None]:
    """Turns whatever a library raises on damaged bytes into SourceError.

    The text of its error is left out, for it may hold names from the container.
    """
    known: tuple[type[Exception], ...] = (SourceError, LimitError, *but)
    try:
        yield
    except known:
        raise
    except Exception as error:  # noqa: BLE001 - damaged bytes make libraries raise anything
        kind = type(error).__name__
        raise SourceError(f"expected {expected}, found damage ({kind}); get the container again") from None


class Origin(NamedTuple):
    """Where a container lies and how its members are to be named.

    file: absolute path of the container. prefix: put before the names of members.
    label, root: as in Item. mtime_ns: of the container.
    """

    file: str
    label: str
    root: str
    prefix: str
    mtime_ns: int | None


class Container(ABC):
    """A file that holds files; a ``Source``.

    The modification time of an item is that of the container: the times inside have no time zone
    (zip), are missing or say little, while an untouched container holds untouched members.
    """

    def __init__(self, origin: Origin, limits: Limits) -> None:
        self.label = origin.label
        self.root = origin.root
        self.origin = origin
        self.limits = limits
        self.budget: Budget
        self._names: dict[str, int]  # every name given, with how often it came

    @abstractmethod
    def walk(self) -> Iterator[Item | Finding]:
        """All members; whatever it raises becomes a finding for what is left of the container."""

    def items(self) -> Iterator[Item | Finding]:
        """All members in the order of the container; damage is a finding and ends the walk."""
        self._names = {}
        try:
            with damage_told("whole tables"):
                for found in self.walk():
                    yield found
                    if self.budget.exceeded:
                        self.budget.spend(0)
        except LimitError as error:
            yield self._rest("container-limit", str(error))
        except SourceError as error:
            yield self._rest("container-damaged", str(error))

    def _rest(self, code: str, message: str) -> Finding:
        return Finding("error", code, message, "members up to here were kept, the rest was left out", self.place)

    @property
    def place(self) -> str:
        """Path of the container for findings: empty where it is the source itself."""
        return self.origin.prefix.rstrip("/")

    def offer(
        self, name: str, size: int, open_: Callable[[], BinaryIO], *, sequential: bool
    ) -> Iterator[Item | Finding]:
        """A member as an item, with what is to be said about it. ``size`` is what the container declares."""
        below = safe_name(name)
        if below is None:
            yield self.refuse(name, "path-escapes", "the name of a member leads out of the container")
            return
        if size > self.limits.member_bytes:
            most = self.limits.member_bytes
            yield self.refuse(name, "too-large", f"a member declares {size} bytes, at most {most} are read")
            return
        if below in self._names:
            below = self._another(below)
            path = self.origin.prefix + below
            yield Finding(
                "warning", "duplicate-name", "two members have the same name", "kept under another name", path
            )
        self._names[below] = 1
        if len(self._names) > self.limits.container_members:
            raise LimitError(f"more than {self.limits.container_members} members (limit container_members)")
        path = self.origin.prefix + below
        if any(_WINDOWS_DEVICE.match(part) for part in below.split("/")):
            message = "a name that Windows keeps for a device"
            yield Finding("warning", "reserved-name", message, "kept; restored under another name there", path)
        if kinds.kind(below) is not None:
            yield Finding("info", "container-nested", "a container within a container", "kept unopened", path)
        yield Item(
            self.label,
            path,
            size,
            self.origin.mtime_ns,
            sequential=sequential,
            open=open_,
            root=self.origin.root,
        )

    def refuse(self, name: str, code: str, message: str, level: str = "error") -> Finding:
        """A finding for a member that is left out."""
        path = self.origin.prefix + name.replace("\0", "\ufffd")[:_SHOWN]
        return Finding("warning" if level == "warning" else "error", code, message, "left out", path)

    def count(self, members: int) -> None:
        """Raises LimitError when a container lists more members than are allowed."""
        if members > self.limits.container_members:
            most = self.limits.container_members
            raise LimitError(f"the container lists {members} members, at most {most} are taken")

    def _another(self, name: str) -> str:
        while True:
            self._names[name] += 1
            other = f"{name}#{self._names[name]}"
            if other not in self._names:
                return other
