"""What identifying is left in a file, made clean by dcmark or by others: where, and by which rule."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from dcmark.config import LIMITS, Limits
from dcmark.deid.apply import is_dicom
from dcmark.deid.mapping import KEY_BYTES, Identities
from dcmark.deid.profile import PATIENT_ID, PATIENT_NAME, Profile
from dcmark.deid.rewrite import deidentify
from dcmark.errors import DcmarkError, HeldBackError
from dcmark.findings import Finding
from dcmark.progress import NoProgress, Progress
from dcmark.read.base import Item, Source
from dcmark.read.containers import load, open_source

_KEY = bytes(KEY_BYTES)
_LOOKALIKES = frozenset({f"{PATIENT_ID:08X}", f"{PATIENT_NAME:08X}"})
_ENCRYPTED = "04000500"
"""Encrypted Attributes Sequence: says nothing to who lacks the key (PS3.15 E.1.1)."""


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
        if change.action == "add" or change.path.startswith(_ENCRYPTED):
            continue
        lookalike = change.action in ("uid", "shift") or change.path.rsplit(".", 1)[-1] in _LOOKALIKES
        yield Left(change.path, change.action, not (removed and lookalike))


@dataclass(slots=True)
class CheckReport:
    """What is left in a set of files.

    Attributes:
        files: DICOM files looked at.
        unclean: of them, those with something identifying for certain.
        unread: files that cannot be read from end to end, or are no DICOM: what they hold is not known.
        certain: number of files by (tag, rule).
        examples: a path for each.
        findings: the files that could not be read.
    """

    files: int = 0
    unclean: int = 0
    unread: int = 0
    certain: Counter[tuple[str, str]] = field(default_factory=Counter)
    examples: dict[tuple[str, str], str] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """For programs."""
        left_over = [
            {"tag": tag, "rule": rule, "files": count, "example": self.examples[tag, rule]}
            for (tag, rule), count in sorted(self.certain.items())
        ]
        counts = {"files": self.files, "unclean": self.unclean, "unread": self.unread}
        return {**counts, "left": left_over, "findings": [finding.as_dict() for finding in self.findings]}


def check_sources(
    sources: Sequence[str | os.PathLike[str] | Source],
    profile: Profile,
    *,
    progress: Progress | None = None,
    limits: Limits = LIMITS,
) -> CheckReport:
    """What a policy would still change in the files of folders, zip, tar or 7z, or of sources that are open.

    Raises:
        SourceError: a source is not there.
    """
    report = CheckReport()
    progress = progress or NoProgress()
    progress.start("check", None)
    try:
        opened: list[Source] = [
            open_source(one, containers="open", limits=limits) if isinstance(one, str | os.PathLike) else one
            for one in sources
        ]
        for source in opened:
            for item in source.items():
                if isinstance(item, Finding):
                    report.unread += item.level == "error"
                    report.findings.append(item)
                    continue
                _check_one(report, item, profile, limits)
                progress.advance(1, item.size or 0)
    finally:
        progress.finish()
    return report


def _check_one(report: CheckReport, item: Item, profile: Profile, limits: Limits) -> None:
    try:
        with load(item, limits) as buffer:
            if not is_dicom(buffer.data):
                raise HeldBackError("expected a DICOM file; what other formats hold of a person is not known here")
            found = {
                (re.sub(r"\[\d+\]", "", one.path), one.rule)
                for one in left(buffer.data, profile, limits)
                if one.certain
            }
    except (DcmarkError, OSError) as error:
        report.unread += 1
        message = str(error) if isinstance(error, DcmarkError) else "the file cannot be read"
        report.findings.append(Finding("error", getattr(error, "code", "unreadable"), message, "not judged", item.path))
        return
    report.files += 1
    report.unclean += bool(found)
    report.certain.update(found)
    for one in found:
        report.examples.setdefault(one, item.path)


def _says_removed(head: bytes) -> bool:
    return _REMOVED.search(head) is not None


_REMOVED = re.compile(
    rb"\x12\x00\x62\x00(?:CS\x04\x00|\x04\x00\x00\x00)YES |\x00\x12\x00\x62(?:CS\x00\x04|\x00\x00\x00\x04)YES "
)
"""Patient Identity Removed (0012,0062) = YES, in either byte order, with and without VR."""
