"""Processor time and memory, of this process and of others."""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple


class Cost(NamedTuple):
    """Processor time of all threads (user and system) and wall-clock time, seconds."""

    cpu: float
    wall: float


def cost(work: Callable[[], object]) -> Cost:
    """What a call costs in this process."""
    cpu, wall = time.process_time(), time.perf_counter()
    work()
    return Cost(time.process_time() - cpu, time.perf_counter() - wall)


def command_cost(command: Sequence[str | Path]) -> Cost:
    """What a program costs from its start to its end.

    Raises:
        RuntimeError: it failed.
    """
    before, wall = os.times(), time.perf_counter()
    ran = subprocess.run([*map(str, command)], capture_output=True, text=True, check=False)
    after = os.times()
    if ran.returncode not in (0, 3):
        raise RuntimeError(f"{Path(command[0]).name} failed ({ran.returncode}): {ran.stderr[-500:]}")
    cpu = after.children_user - before.children_user + after.children_system - before.children_system
    return Cost(cpu, time.perf_counter() - wall)


def in_turns(works: Mapping[str, Callable[[], Cost]], turns: int, warm: bool = True) -> dict[str, list[Cost]]:
    """All of them in turn, again and again: what else the machine does then hits each alike.

    Args:
        works: by name.
        turns: how often.
        warm: run each once beforehand, uncounted.
    """
    if warm:
        for work in works.values():
            work()
    found: dict[str, list[Cost]] = {name: [] for name in works}
    for _ in range(turns):
        for name, work in works.items():
            found[name].append(work())
    return found


def middle_ratio(one: Sequence[Cost], other: Sequence[Cost], what: str = "cpu") -> float:
    """Median over the turns of what one costs for each unit of the other in the same turn."""
    return float(statistics.median(getattr(a, what) / getattr(b, what) for a, b in zip(one, other, strict=True)))


def middle(costs: Sequence[Cost], what: str = "cpu") -> float:
    """Median, seconds."""
    return float(statistics.median(getattr(cost, what) for cost in costs))


PEAK = """
import sys
from pathlib import Path
status = Path("/proc/self/status")
if status.exists():
    line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
    print(int(line.split()[1]) * 1024)
else:
    import psutil
    info = psutil.Process().memory_info()
    print(getattr(info, "peak_wset", info.rss))
"""


def peak_bytes(script: str, *arguments: str | Path) -> int:
    """The most memory a process held that ran a script, bytes."""
    command = [sys.executable, "-c", script + PEAK, *map(str, arguments)]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[-1])


def size_of(place: Path) -> int:
    """Bytes of a file, or of all files in a folder."""
    return place.stat().st_size if place.is_file() else sum(p.stat().st_size for p in place.rglob("*") if p.is_file())


def emptied(place: Path) -> Path:
    """The folder, there and empty."""
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    return place


def gone(place: Path) -> Path:
    """The folder, not there."""
    shutil.rmtree(place, ignore_errors=True)
    return place
