"""A finding: what a check noticed, as data."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

Level = Literal["info", "warning", "error"]


@dataclass(frozen=True, slots=True)
class Finding:
    """What a check noticed and what was done about it.

    Attributes:
        level: ``info`` (as intended), ``warning`` (look when in doubt), ``error`` (needs a look).
        code: stable, short, kebab-case word, e.g. ``truncated``; documented in docs/reference/findings.md.
        message: what was expected and what was found. Never holds a value that identifies a patient.
        action: what was done about it, e.g. "kept whole".
        path: where, relative to the source; empty where the finding belongs to a file by content.
    """

    level: Level
    code: str
    message: str
    action: str = ""
    path: str = ""

    def as_dict(self) -> dict[str, Any]:
        """The finding as plain data, for JSON and tables."""
        return asdict(self)
