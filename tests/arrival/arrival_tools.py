"""What the tests of arrival share: objects to send, a listener in a process of its own, senders."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pydicom
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian

from dcmark.archive.store import Archive, open_archive
from dcmark.arrival.intake import Intake
from dcmark.arrival.listener import Listener
from dcmark.arrival.listener import Listening as Where
from dcmark.arrival.spool import MOST_BYTES, Spool
from dcmark.testing.corpus import bundled

ROOT_UID = "1.2.826.0.1.3680043.10.511"


def dcmtk(name: str) -> str | None:
    """A program of DCMTK; pynetdicom brings scripts of the same names, beside the Python of an environment."""
    for folder in os.environ.get("PATH", "").split(os.pathsep):
        found = shutil.which(name, path=folder) if folder else None
        if found and not Path(found).read_bytes().startswith(b"#!"):
            return found
    return None


STORESCU = dcmtk("storescu")
STORESCP = dcmtk("storescp")
ECHOSCU = dcmtk("echoscu")


def data_set(content: bytes) -> bytes:
    """The data set of a Part 10 file: what follows the file meta information."""
    assert content[128:132] == b"DICM"
    assert content[132:140] == b"\x02\x00\x00\x00UL\x04\x00"
    return content[144 + int.from_bytes(content[140:144], "little") :]


def objects(folder: Path, count: int, side: int = 32, first: int = 0) -> dict[str, Path]:
    """Different CT slices by SOP Instance UID, in several series; every fourth in implicit VR."""
    folder.mkdir(parents=True, exist_ok=True)
    made = {}
    base = pydicom.dcmread(bundled() / "CT_small.dcm")
    base.Rows = base.Columns = side
    base.PatientName = "Secret^Patient"
    for keyword in ("DataSetTrailingPadding",):
        if keyword in base:
            del base[keyword]
    for number in range(first, first + count):
        rng = np.random.default_rng(number)
        series = number // 50
        base.StudyInstanceUID = f"{ROOT_UID}.1.{series // 4}"
        base.SeriesInstanceUID = f"{ROOT_UID}.2.{series}"
        base.SOPInstanceUID = base.file_meta.MediaStorageSOPInstanceUID = f"{ROOT_UID}.3.{number}"
        base.InstanceNumber = number % 50
        base.ImagePositionPatient = [0, 0, number % 50]
        base.PixelData = rng.integers(0, 2000, (side, side), np.int16).tobytes()
        implicit = number % 4 == 0
        base.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian if implicit else ExplicitVRLittleEndian
        place = folder / f"{number:05}.dcm"
        pydicom.dcmwrite(place, base, implicit_vr=implicit, little_endian=True, enforce_file_format=True)
        made[str(base.SOPInstanceUID)] = place
    return made


class Listening:
    """``dcmark listen`` in a process of its own."""

    def __init__(self, archive: Path, *arguments: str | Path) -> None:
        script = "import sys; from dcmark.cli import run; sys.exit(run(sys.argv[1:]))"
        command = [sys.executable, "-c", script, "listen", archive, "--port", "0", *arguments]
        self.process = subprocess.Popen(
            [*map(str, command)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONWARNINGS": ""},
        )
        self.said: list[str] = []
        self.logged: list[str] = []
        self.port = 0
        while not self.port:
            line = self.process.stdout.readline()
            assert line, f"no port: {self.said} {self.process.stderr.read()}"
            self.said.append(line)
            found = re.search(r" port (\d+);", line)
            self.port = int(found[1]) if found else 0
        self._readers = [
            threading.Thread(target=lambda s=stream, k=kept: k.extend(s), daemon=True)
            for stream, kept in ((self.process.stdout, self.said), (self.process.stderr, self.logged))
        ]
        for reader in self._readers:
            reader.start()

    def stop(self, number: int = signal.SIGTERM) -> int:
        """An orderly end; its exit code."""
        self.process.send_signal(number)
        return self._end(120)

    def kill(self) -> None:
        """At once."""
        self.process.kill()
        self._end(30)

    def _end(self, patience: float) -> int:
        try:
            code = self.process.wait(patience)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise
        for reader in self._readers:
            reader.join(10)
        self.process.stdout.close()
        self.process.stderr.close()
        return code

    @property
    def descriptors(self) -> int:
        """Open files and sockets."""
        import psutil

        process = psutil.Process(self.process.pid)
        return process.num_handles() if sys.platform == "win32" else process.num_fds()

    @property
    def resident(self) -> int:
        """Bytes of memory held."""
        import psutil

        return psutil.Process(self.process.pid).memory_info().rss

    @property
    def threads(self) -> int:
        """Threads that run."""
        import psutil

        return psutil.Process(self.process.pid).num_threads()


def send(port: int, files: list[Path], *, called: str = "DCMARK", calling: str = "ME", tls=None) -> dict[Path, int]:
    """Send files over one association with pynetdicom; the status of each that was answered."""
    from pynetdicom import AE

    entity = AE(calling)
    wanted = {}
    for file in files:
        meta = pydicom.dcmread(file, stop_before_pixels=True).file_meta
        wanted.setdefault(str(meta.MediaStorageSOPClassUID), set()).add(str(meta.TransferSyntaxUID))
    for uid, syntaxes in wanted.items():
        for syntax in sorted(syntaxes):
            entity.add_requested_context(uid, syntax)
    association = entity.associate(
        "127.0.0.1", port, ae_title=called, **({"tls_args": (tls, "localhost")} if tls else {})
    )
    answered: dict[Path, int] = {}
    if not association.is_established:
        return answered
    try:
        for file in files:
            # As in its file: the data set is not encoded anew.
            dataset = pydicom.dcmread(file)
            status = association.send_c_store(dataset)
            if "Status" not in status:
                break
            answered[file] = status.Status
    except (RuntimeError, OSError):
        pass  # the other side is gone
    if association.is_established:
        association.release()
    return answered


def storescu(port: int, files: list[Path], log: Path, *options: str) -> subprocess.Popen:
    """Send files with DCMTK over one association; ``acknowledged`` reads its log.

    It encodes data sets anew in the transfer syntax agreed upon: explicit VR, unless an option says otherwise.
    """
    command = [STORESCU, "-v", "-aec", "DCMARK", *options, "127.0.0.1", str(port), *map(str, files)]
    with log.open("wb") as out:
        return subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT)


def acknowledged(log: Path) -> list[Path]:
    """The files that storescu was told are stored."""
    sending, found = None, []
    for line in log.read_text("utf-8", "replace").splitlines():
        if match := re.match(r"I: Sending file: (.*)$", line):
            sending = Path(match[1])
        elif line.startswith("I: Received Store Response (Success)") and sending is not None:
            found.append(sending)
            sending = None
    return found


def stored(archive: Archive, out: Path) -> dict[str, bytes]:
    """What an archive gives back, by path."""
    import dcmark

    archive.refresh()
    dcmark.restore(archive, out, threads=1)
    found = {place.relative_to(out).as_posix(): place.read_bytes() for place in out.rglob("*") if place.is_file()}
    shutil.rmtree(out)
    return found


def expect_stored(archive_path: Path, sent: list[Path], out: Path) -> None:
    """Every file that was sent is in the archive, its data set byte for byte, and the archive is whole."""
    import dcmark

    archive = dcmark.open_archive(archive_path)
    report = dcmark.verify(archive, threads=1)
    assert report.whole, report.findings
    back = {hashlib.sha256(data_set(content)).digest() for content in stored(archive, out).values()}
    lost = [file.name for file in sent if hashlib.sha256(data_set(file.read_bytes())).digest() not in back]
    assert not lost


def until(condition, seconds: float = 60.0) -> None:
    """Wait until something holds."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


class Receiving:
    """A listener in this process."""

    def __init__(self, folder: Path, most: int = MOST_BYTES, **settings) -> None:
        self.said: list[str] = []
        self.archive: Archive = open_archive(folder / "a.dcmark", create=True)
        self.spool = Spool(folder / "spool", most)
        self.intake = Intake(self.archive, self.spool, threads=1, say=self.said.append)
        self.listener = Listener(Where(**settings), self.spool)
        self.intake.start()
        self.port = self.listener.port

    def stop(self) -> None:
        self.listener.stop()
        self.intake.stop()
        self.spool.close()
        assert self.intake.error is None


def send_and_stop(running: Receiving, files: list[Path]) -> dict[Path, int]:
    answers = send(running.port, files)
    running.stop()
    running.archive.refresh()
    return answers
