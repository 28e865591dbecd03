"""``kill -9`` at any moment of an ingest loses nothing that was committed, and the same command finishes the work."""

from __future__ import annotations

import random
import subprocess
import time
from pathlib import Path

import fault_tools as tools
import pytest

import dcmark

INGEST = """
import sys
import dcmark, dcmark.ingestion
from dcmark.archive import store
store.FLUSH_BYTES = 60_000        # a commit every few files
print("ready", flush=True)
dcmark.ingest(sys.argv[1], dcmark.open_archive(sys.argv[2], create=True), threads=2)
print("done", flush=True)
sys.stdin.read()                  # the parent sees how long the work took, not how long leaving takes
"""


def _ingest_and_kill(source: Path, place: Path, after: float | None) -> float:
    """Run an ingest in a process and kill it; without ``after`` once it is done. Seconds it worked."""
    child = tools.python(INGEST, source, place, stdin=subprocess.PIPE)
    assert child.stdout is not None
    with child:
        ready = child.stdout.readline()
        began = time.perf_counter()
        if after is None:
            done = child.stdout.readline()
            assert (ready, done) == ("ready\n", "done\n")
        else:
            time.sleep(after)
        worked = time.perf_counter() - began
        child.kill()
    return worked


def _kill_at_random_moments(count: int, folder: Path) -> None:
    source = tools.sources(folder / "source")
    undisturbed = folder / "undisturbed.dcmark"
    # The first run also warms the machine up: kills spread over the time of a quick one.
    places = [undisturbed, *(folder / f"warm{n}.dcmark" for n in range(2))]
    duration = max(min(_ingest_and_kill(source, place, None) for place in places), 0.05)
    whole = dcmark.open_archive(undisturbed)
    expected, bytes_back = tools.content(whole), tools.hashes(source)
    assert tools.restored(whole, folder / "out") == bytes_back
    chance = random.Random(folder.name)
    unfinished = 0
    wanted = count // 3 if count > 50 else 1
    for number in range(4 * count):
        if number >= count:
            # On a busy machine the undisturbed run may have been the slow one: kill earlier until enough came in time.
            if unfinished >= wanted:
                break
            duration *= 0.8
        place = folder / f"{number}.dcmark"
        # A first kill at any moment from the making of the archive on; now and then a second one while resuming.
        for _ in range(1 + (chance.random() < 0.2)):
            _ingest_and_kill(source, place, chance.uniform(0, duration))
            if (place / "archive.json").exists():
                report = dcmark.verify(dcmark.open_archive(place), threads=1)
                assert report.whole, report.findings
        archive = dcmark.open_archive(place, create=True)
        before = archive.read("paths", ["path"]).num_rows
        unfinished += before < len(expected["paths"])
        report = dcmark.ingest(source, archive, threads=1)
        assert report.unchanged <= before
        assert tools.differences(tools.content(archive), expected) == []
        assert dcmark.verify(archive, threads=1).whole
        assert tools.restored(archive, folder / "out") == bytes_back
    assert unfinished >= wanted, "most kills came too late to test anything"


def test_kill_at_a_few_moments(tmp_path: Path) -> None:
    _kill_at_random_moments(6, tmp_path)


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_kill_at_200_moments(tmp_path: Path) -> None:
    _kill_at_random_moments(200, tmp_path)
