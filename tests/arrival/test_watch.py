"""Files that come into a folder that is watched are stored once they are complete, and not before."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import arrival_tools as tools
import pytest

import dcmark
from dcmark.arrival.watch import watch
from dcmark.errors import StorageError, UsageError
from dcmark.testing.corpus import bundled


class Watching:
    """A folder that is watched by a thread."""

    def __init__(self, folder: Path, archive: Path, **options) -> None:
        self.archive = dcmark.open_archive(archive, create=True)
        self.stop_event = threading.Event()
        self.said: list[str] = []
        self.report = None
        self._options = {"quiet_s": 0.4, "poll_s": 0.05, "threads": 1, "say": self.said.append, **options}
        self._thread = threading.Thread(target=self._run, args=(folder,))
        self._thread.start()

    def _run(self, folder: Path) -> None:
        self.report = watch([folder], self.archive, self.stop_event, **self._options)

    def paths(self) -> set[str]:
        found = dcmark.open_archive(self.archive.path)
        return set(dcmark.query(found, "SELECT path FROM paths WHERE sha256 IS NOT NULL")["path"].to_pylist())

    def stop(self):
        self.stop_event.set()
        self._thread.join(60)
        assert not self._thread.is_alive()
        return self.report


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    place = tmp_path / "incoming"
    place.mkdir()
    return place


@pytest.fixture
def watching(folder: Path, tmp_path: Path) -> Iterator[Watching]:
    running = Watching(folder, tmp_path / "a.dcmark")
    yield running
    running.stop()


def test_new_files_are_stored_and_half_written_ones_are_not(folder: Path, watching: Watching) -> None:
    content = (bundled() / "CT_small.dcm").read_bytes()
    (folder / "p1").mkdir()
    (folder / "p1" / "whole.dcm").write_bytes(content)
    with (folder / "p1" / "growing.dcm").open("wb") as growing:
        for start in range(0, len(content), 4000):
            growing.write(content[start : start + 4000])
            growing.flush()
            time.sleep(0.1)
            assert "p1/growing.dcm" not in watching.paths() or start + 4000 >= len(content)
    tools.until(lambda: watching.paths() == {"p1/whole.dcm", "p1/growing.dcm"})
    report = watching.stop()
    assert (report.files, report.duplicates, report.refused) == (1, 1, 0)
    assert watching.archive.count("files") == 1  # never a half of it


def test_a_file_that_changes_is_stored_again_and_what_it_was_stays(folder: Path, watching: Watching) -> None:
    file = folder / "x.dcm"
    first, second = ((bundled() / name).read_bytes() for name in ("CT_small.dcm", "MR_small.dcm"))
    file.write_bytes(first)
    tools.until(lambda: dcmark.open_archive(watching.archive.path).count("files") == 1)
    file.write_bytes(second)
    tools.until(lambda: dcmark.open_archive(watching.archive.path).count("files") == 2)
    file.unlink()
    time.sleep(0.2)
    assert watching.stop().refused == 0


def test_containers_folders_and_what_cannot_be_read(folder: Path, watching: Watching) -> None:
    import zipfile

    with zipfile.ZipFile(folder / "scans.zip", "w") as packed:
        for name in ("CT_small.dcm", "MR_small.dcm"):
            packed.write(bundled() / name, f"p/{name}")
    if sys.platform != "win32":
        (folder / "out").symlink_to("/etc/passwd")
    tools.until(lambda: watching.paths() == {"scans.zip/p/CT_small.dcm", "scans.zip/p/MR_small.dcm"})
    time.sleep(0.3)
    report = watching.stop()
    assert report.files == 2
    assert report.codes["link-outside"] == (sys.platform != "win32")  # told once, however often it is seen


def test_an_archive_in_its_own_folder_is_left_out(folder: Path) -> None:
    running = Watching(folder, folder / "a.dcmark")
    (folder / "x.dcm").write_bytes((bundled() / "CT_small.dcm").read_bytes())
    tools.until(lambda: running.paths() == {"x.dcm"})
    time.sleep(1.0)
    running.stop()
    assert len(running.said) == 1
    assert running.paths() == {"x.dcm"}


def test_what_the_archive_refuses_is_tried_again(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    from dcmark.arrival import watch as module

    real, refused = module.ingest, []

    def ingest(*arguments, **options):
        if len(refused) < 2:
            refused.append([*arguments[0][0].items()])  # they were read, and yet are not done
            raise StorageError("expected room, found none")
        return real(*arguments, **options)

    monkeypatch.setattr(module, "ingest", ingest)
    monkeypatch.setattr(module, "RETRY_S", 0.1)
    (folder / "x.dcm").write_bytes((bundled() / "CT_small.dcm").read_bytes())
    running = Watching(folder, tmp_path / "a.dcmark")
    tools.until(lambda: running.paths() == {"x.dcm"})
    running.stop()
    assert len(refused) == 2


def test_a_file_that_cannot_be_read_yet_is_tried_again(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    """As one that another program holds open on Windows."""
    from dcmark.arrival import watch as module
    from dcmark.read.sources import folders

    held, real = [True], folders.open_regular

    def opened(path: str):
        if held[0]:
            raise PermissionError(13, "held by another program")
        return real(path)

    monkeypatch.setattr(module, "RETRY_S", 0.3)
    monkeypatch.setattr(folders, "open_regular", opened)
    (folder / "x.dcm").write_bytes((bundled() / "CT_small.dcm").read_bytes())
    running = Watching(folder, tmp_path / "a.dcmark")
    tools.until(lambda: bool(running.said))
    held[0] = False
    tools.until(lambda: running.paths() == {"x.dcm"})
    assert running.stop().codes["unreadable"] == 1


def test_only_folders_are_watched(tmp_path: Path) -> None:
    archive = dcmark.open_archive(tmp_path / "a.dcmark", create=True)
    with pytest.raises(UsageError, match="a folder to watch"):
        watch([bundled() / "CT_small.dcm"], archive, threading.Event())


@pytest.mark.skipif(sys.platform == "win32", reason="no signal ends a console process there in an orderly way")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_command_ends_in_order(folder: Path, tmp_path: Path, number: int) -> None:
    script = "import sys; from dcmark.cli import run; sys.exit(run(sys.argv[1:]))"
    arguments = ["ingest", folder, tmp_path / "a.dcmark", "--watch", "--quiet-for", "0.3", "--quiet"]
    child = subprocess.Popen(
        [sys.executable, "-c", script, *map(str, arguments)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONWARNINGS": ""},
    )
    with child:
        assert "watching" in child.stdout.readline()
        (folder / "x.dcm").write_bytes((bundled() / "CT_small.dcm").read_bytes())
        assert "1 new files" in child.stdout.readline()
        child.send_signal(number)
        assert "1 new files" in child.stdout.read()
        assert child.wait(30) == 0
    assert dcmark.verify(dcmark.open_archive(tmp_path / "a.dcmark"), threads=1).whole
