"""What the command line prints: progress, tables, errors. Plain lines where there is no terminal."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterable, Sequence
from typing import Any

from dcmark.progress import Progress

NO_LOOK = 0
NEEDS_A_LOOK = 3
PLAIN_EVERY_S = 10.0


def error(code: str, message: str) -> None:
    """An error, to standard error."""
    print(f"dcmark: error ({code}): {message}", file=sys.stderr)


def line(text: str) -> None:
    """A line of result."""
    print(text)


def heading(what: str, how: str) -> None:
    """The title of a step, and how a user would do it."""
    if not sys.stdout.isatty():
        print(f"\n{what}: {how}")
        return
    from rich.console import Console
    from rich.text import Text

    Console().print(Text.assemble("\n", (what, "bold"), "  ", (how, "dim")))


def as_json(value: Any) -> None:
    """A result for programs."""
    print(json.dumps(value, indent=2, default=str, ensure_ascii=False))


def size(nbytes: float) -> str:
    """Bytes in words: ``1.4 GB`` (powers of 1,000)."""
    for unit in ("B", "kB", "MB", "GB"):
        if abs(nbytes) < 1000:
            return f"{nbytes:.0f} {unit}" if unit == "B" or nbytes >= 100 else f"{nbytes:.1f} {unit}"
        nbytes /= 1000
    return f"{nbytes:.1f} TB"


def counts(found: dict[str, int], most: int = 8) -> str:
    """Counts in words, the largest first; UIDs by the names of the standard."""
    shown = [f"{_uid_name(key) or 'none'} {n:,}" for key, n in list(found.items())[:most]]
    if len(found) > most:
        shown.append(f"and {len(found) - most} more")
    return ", ".join(shown) or "none"


def _uid_name(key: str) -> str:
    if not key.startswith("1.2.840.10008."):
        return key
    from pydicom.uid import UID

    return str(UID(key).name)


def table(columns: Sequence[str], rows: Iterable[Sequence[Any]], title: str = "") -> None:
    """A table: drawn on a terminal, tab-separated elsewhere. Text of files is printed as text, never as markup."""
    if not sys.stdout.isatty():
        print("\t".join(columns))
        for row in rows:
            print("\t".join(_cell(value) for value in row))
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    drawn = Table(title=title or None, header_style="bold", box=None, pad_edge=False)
    rows = list(rows)
    for i, column in enumerate(columns):
        number = bool(rows) and all(isinstance(row[i], int | float) or row[i] is None for row in rows)
        drawn.add_column(column, justify="right" if number else "left", overflow="fold")
    for row in rows:
        drawn.add_row(*(Text(_cell(value)) for value in row))
    Console().print(drawn)


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:g}"
    # Control characters in a tag must not drive the reader's terminal.
    return "".join(c if c.isprintable() else "�" for c in str(value))


def progress(quiet: bool = False) -> Progress:
    """A progress drawn on a terminal; now and then a plain line elsewhere; nothing when quiet."""
    if quiet:
        from dcmark.progress import NoProgress

        return NoProgress()
    return _Bar() if sys.stderr.isatty() else _Lines()


class _Lines:
    def start(self, task: str, total: int | None, unit: str = "files") -> None:
        self.task, self.total, self.unit = task, total, unit
        self.done = self.nbytes = 0
        self.began = self.said = time.monotonic()

    def advance(self, units: int = 1, nbytes: int = 0) -> None:
        self.done += units
        self.nbytes += nbytes
        if time.monotonic() - self.said >= PLAIN_EVERY_S:
            self.said = time.monotonic()
            of = f" of {self.total}" if self.total else ""
            read = f", {size(self.nbytes)}" if self.nbytes else ""  # not all work reads bytes
            print(f"{self.task}: {self.done}{of} {self.unit}{read}", file=sys.stderr)

    def finish(self) -> None:
        pass


class _Bar:
    def start(self, task: str, total: int | None, unit: str = "files") -> None:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            Progress,
            SpinnerColumn,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )

        last = TimeRemainingColumn() if total else TimeElapsedColumn()
        columns = (
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.completed} " + unit + "  {task.fields[size]}"),
            last,
        )
        self.bar = Progress(*columns, console=Console(stderr=True), transient=True)
        self.bar.start()
        self.task = self.bar.add_task(task, total=total, size="")
        self.nbytes = 0

    def advance(self, units: int = 1, nbytes: int = 0) -> None:
        self.nbytes += nbytes
        self.bar.update(self.task, advance=units, size=size(self.nbytes) if self.nbytes else "")

    def finish(self) -> None:
        self.bar.stop()
