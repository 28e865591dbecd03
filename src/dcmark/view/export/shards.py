"""Sets in shards: files of so many items each, under their names as soon as they are full.

An interrupted export goes on behind the last whole shard.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from contextlib import suppress
from pathlib import Path
from typing import Any

from dcmark.archive.faults import writing
from dcmark.view.export.sets import Journal

PER_SHARD = 1000


class Shards(ABC):
    """A sink of shards in a folder; formats say how one is begun, filled and completed.

    Args:
        folder: of the shards.
        pattern: of their names, with ``{}`` for the number.
        per_shard: items of each but the last.
    """

    def __init__(self, folder: Path, pattern: str, per_shard: int = PER_SHARD) -> None:
        self.folder, self._pattern, self.per_shard = folder, pattern, per_shard
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
            for place in folder.glob("*.draft"):
                place.unlink()
        whole = 0
        while self._place(whole).is_file():
            whole += 1
        self.kept = whole * per_shard
        self._filled = 0

    def _place(self, shard: int) -> Path:
        return self.folder / self._pattern.format(f"{shard:06d}")

    def cut(self, count: int) -> None:
        """Drop shards that are not whole; ``kept`` says how many items are left."""
        whole = count // self.per_shard
        known = re.compile(re.escape(self._pattern).replace(r"\{\}", r"\d{6}"))
        with writing(self.folder):
            for place in self.folder.iterdir():
                if known.fullmatch(place.name) and place >= self._place(whole):
                    place.unlink()
        self._shard = whole
        self.kept = whole * self.per_shard

    def add(self, number: int, encoded: Any) -> str:
        """Append an item to the shard it belongs to."""
        place = self._place(self._shard)
        with writing(place):
            if not self._filled:
                self.begin(place.with_name(f"{place.name}.draft"))
            self.put(number, encoded)
            self._filled += 1
            if self._filled == self.per_shard:
                self._complete()
        return place.name

    def _complete(self) -> None:
        self.end()
        place = self._place(self._shard)
        place.with_name(f"{place.name}.draft").replace(place)
        self._shard, self._filled = self._shard + 1, 0

    def flush(self) -> None:  # noqa: B027  meant
        """Nothing: shards are completed as they fill."""

    def finish(self, journal: Journal) -> None:
        """Complete the last shard."""
        del journal
        with writing(self.folder):
            if self._filled:
                self._complete()

    def close(self) -> None:
        """Let go of the shard that is being written."""
        with suppress(Exception):
            if self._filled:
                self.end()

    @abstractmethod
    def begin(self, draft: Path) -> None:
        """Open a shard."""

    @abstractmethod
    def put(self, number: int, encoded: Any) -> None:
        """Write an item to it."""

    @abstractmethod
    def end(self) -> None:
        """Complete it."""
