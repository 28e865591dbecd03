"""How long it takes to begin."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from functools import partial

from benchmarks.measure import command_cost, in_turns, middle
from benchmarks.table import Row, Setting, section


@section("start", "Starting, processor time")
def start_rows(setting: Setting) -> Iterator[Row]:
    """Whole processes; the bare interpreter for comparison."""
    commands = {
        "python -c pass": [sys.executable, "-c", "pass"],
        "import dcmark": [sys.executable, "-c", "import dcmark"],
        "dcmark --help": [sys.executable, "-m", "dcmark", "--help"],
    }
    found = in_turns({name: partial(command_cost, command) for name, command in commands.items()}, 2 * setting.turns)
    for name, costs in found.items():
        yield Row(name, middle(costs), "s", None if name == "python -c pass" else 0.3, "most")
