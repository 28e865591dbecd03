"""Progress as a small interface: the core reports, the command line or the page draws."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Receives the progress of one long piece of work.

    Contract: ``start`` once, ``advance`` any number of times, ``finish`` once, all from one thread.
    """

    def start(self, task: str, total: int | None, unit: str = "files") -> None:
        """Work named ``task`` begins; ``total`` units are expected, or None when unknown."""

    def advance(self, units: int = 1, nbytes: int = 0) -> None:
        """``units`` more are done, which were ``nbytes`` bytes of source data."""

    def finish(self) -> None:
        """The work ended, however it ended."""


class NoProgress:
    """Draws nothing."""

    def start(self, task: str, total: int | None, unit: str = "files") -> None:
        """Ignore."""

    def advance(self, units: int = 1, nbytes: int = 0) -> None:
        """Ignore."""

    def finish(self) -> None:
        """Ignore."""
