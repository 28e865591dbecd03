"""Workers, writers and the scheduler are killed at random moments: the archive is the one of an undisturbed run."""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest
from scale_tools import content, dataset

import dcmark
from dcmark.inventory import write_inventory

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="processes are killed by signals")

WRITER = """
import sys, dcmark
from dcmark.archive import store
from dcmark.inventory import read_inventory
store.MOST_ROWS = 3
print("ready", flush=True)
archive = dcmark.open_archive(sys.argv[2], create=True)
dcmark.ingest(read_inventory(sys.argv[1]).shard(int(sys.argv[3]), int(sys.argv[4])), archive, threads=1, describe=False)
print("done", flush=True)
"""
DRIVER = """
import sys, time, dcmark
from dcmark import engine as engines
from dcmark import sharded
from dcmark.archive import store
sharded.PARTS_A_WORKER = 8
if __name__ == "__main__":
    engines.MOST_DEATHS = 50
    there = {"scheduler": sys.argv[4]} if len(sys.argv) > 4 else {"workers": 2}
    with engines.opened(sys.argv[3], **there) as engine:
        print("ready", flush=True)
        archive = dcmark.open_archive(sys.argv[2], create=True)
        sharded.ingest_sharded([sys.argv[1]], archive, engine)
    print("done", flush=True)
"""


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return dataset(tmp_path_factory.mktemp("deaths") / "data_dir", patients=6)


@pytest.fixture(scope="module")
def whole(source: Path, tmp_path_factory: pytest.TempPathFactory) -> dcmark.Archive:
    archive = dcmark.open_archive(tmp_path_factory.mktemp("whole") / "a.dcmark", create=True)
    dcmark.ingest(source, archive)
    return archive


def _same(archive: dcmark.Archive, whole: dcmark.Archive) -> None:
    verdict = dcmark.verify(archive, threads=1)
    assert verdict.whole, verdict.findings
    assert content(archive) == content(whole)


# Writers --------------------------------------------------------------------------------------------------------------


def _writers_killed(source: Path, whole: dcmark.Archive, folder: Path, kills: int) -> None:
    """Four writers of shards into one archive, started again whenever one was killed."""
    inventory = folder / "i.parquet"
    write_inventory([source], inventory)
    chance, killed, rounds = random.Random(kills), 0, 0
    while killed < kills:
        place = folder / f"{rounds}.dcmark"
        rounds += 1
        left = [1, 2, 3, 4]
        while left:
            writers = {}
            for shard in left:
                command = [sys.executable, "-c", WRITER, str(inventory), str(place), str(shard), "4"]
                writers[shard] = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
            for writer in writers.values():
                assert writer.stdout is not None
                writer.stdout.readline()
            doomed = [shard for shard in left if chance.random() < 0.6 and killed < kills]
            for shard in doomed:
                time.sleep(chance.uniform(0, 0.1))
                if writers[shard].poll() is None:
                    killed += 1
                writers[shard].kill()
            for shard, writer in writers.items():
                said, wrong = writer.communicate(timeout=120)
                if said.strip() == "done":
                    left.remove(shard)
                else:
                    assert shard in doomed, wrong
        _same(dcmark.open_archive(place), whole)


def test_writers_are_killed_a_few_times(source: Path, whole: dcmark.Archive, tmp_path: Path) -> None:
    _writers_killed(source, whole, tmp_path, 4)


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_writers_are_killed_often(source: Path, whole: dcmark.Archive, tmp_path: Path) -> None:
    _writers_killed(source, whole, tmp_path, 50)


# Workers --------------------------------------------------------------------------------------------------------------


def _is_worker(process: psutil.Process) -> bool:
    try:
        line = " ".join(process.cmdline())
    except psutil.Error:
        return False
    return "spawn_main" in line


def _workers_killed(kind: str, source: Path, whole: dcmark.Archive, folder: Path, kills: int) -> None:
    script = folder / "driver.py"
    script.write_text(DRIVER, "utf-8")
    chance, killed = random.Random(kills), 0
    for number in range(4 * kills):
        if killed >= kills:
            break
        place = folder / f"{kind} {number}.dcmark"
        command = [sys.executable, str(script), str(source), str(place), kind]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as driver:
            assert driver.stdout is not None
            assert driver.stdout.readline() == "ready\n"
            for _ in range(3):
                time.sleep(chance.uniform(0, 0.6))
                children = [c for c in psutil.Process(driver.pid).children(recursive=True) if _is_worker(c)]
                if children and driver.poll() is None and killed < kills:
                    chance.choice(children).kill()
                    killed += 1
            said, wrong = driver.communicate(timeout=200)
            assert said == "done\n", wrong[-3000:]
        _same(dcmark.open_archive(place), whole)
    assert killed >= kills


@pytest.mark.parametrize("kind", ["local", "dask"])
def test_workers_are_killed_a_few_times(kind: str, source: Path, whole: dcmark.Archive, tmp_path: Path) -> None:
    if kind == "dask":
        pytest.importorskip("distributed", reason="the extra dask is not installed")
    _workers_killed(kind, source, whole, tmp_path, 2)


@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("kind", ["local", "dask"])
def test_workers_are_killed_often(kind: str, source: Path, whole: dcmark.Archive, tmp_path: Path) -> None:
    if kind == "dask":
        pytest.importorskip("distributed", reason="the extra dask is not installed")
    _workers_killed(kind, source, whole, tmp_path, 25)


# The scheduler --------------------------------------------------------------------------------------------------------


@contextmanager
def _cluster(port: int) -> Iterator[list[subprocess.Popen[bytes]]]:
    """A scheduler and two workers, each a process of its own, as on a cluster."""
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    dask = [sys.executable, "-m", "distributed.cli.dask_scheduler"]
    worker = [sys.executable, "-m", "distributed.cli.dask_worker", f"tcp://127.0.0.1:{port}", "--nthreads", "1"]
    address = ["--host", "127.0.0.1", "--port", str(port), "--no-dashboard"]
    made = [subprocess.Popen([*dask, *address], start_new_session=True, **quiet)]  # type: ignore[call-overload]
    made += [
        subprocess.Popen([*worker, "--no-nanny", "--no-dashboard"], start_new_session=True, **quiet)  # type: ignore[call-overload]
        for _ in "ab"
    ]
    try:
        yield made
    finally:
        for one in made:
            with suppress(ProcessLookupError):
                os.killpg(one.pid, signal.SIGKILL)
            one.wait()


def _scheduler_killed(source: Path, whole: dcmark.Archive, folder: Path, times: int) -> None:
    script = folder / "driver.py"
    script.write_text(DRIVER, "utf-8")
    chance = random.Random(times)
    for number in range(times):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        place = folder / f"scheduler {number}.dcmark"
        command = [sys.executable, str(script), str(source), str(place), "dask", f"tcp://127.0.0.1:{port}"]
        with _cluster(port) as first:
            driver = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
            try:
                assert driver.stdout is not None
                line = driver.stdout.readline()
                assert line == "ready\n", driver.stderr.read() if driver.stderr else ""
                time.sleep(chance.uniform(0, 1.5))
                os.killpg(first[0].pid, signal.SIGKILL)
                first[0].wait()
                with _cluster(port):
                    said, wrong = driver.communicate(timeout=200)
                assert said == "done\n", wrong[-3000:]
            finally:
                driver.kill()
                driver.wait()
        _same(dcmark.open_archive(place), whole)


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_the_scheduler_is_killed(source: Path, whole: dcmark.Archive, tmp_path: Path) -> None:
    pytest.importorskip("distributed", reason="the extra dask is not installed")
    _scheduler_killed(source, whole, tmp_path, 10)


def test_the_scheduler_is_killed_once(source: Path, whole: dcmark.Archive, tmp_path: Path) -> None:
    pytest.importorskip("distributed", reason="the extra dask is not installed")
    _scheduler_killed(source, whole, tmp_path, 1)
