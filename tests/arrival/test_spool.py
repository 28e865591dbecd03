"""Nothing that was acknowledged is ever lost, whenever the listener, its disk or its archive fails."""

from __future__ import annotations

import os
import random
import signal
import time
from pathlib import Path

import arrival_tools as tools
import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import dcmark
from dcmark.arrival import durable, spool
from dcmark.arrival.spool import Spool, SpoolSource
from dcmark.errors import UsageError
from dcmark.findings import Finding

pytestmark = pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")  # of pynetdicom, as a sender


def test_a_disk_that_fails_while_an_object_comes(tmp_path: Path) -> None:
    kept = Spool(tmp_path / "spool")
    draft = kept.draft("1.2.3", "1.2.4", "1.2.840.10008.1.2.1")
    real, draft._file = draft._file, _Full()
    real.close()
    draft.write(bytes(200))
    draft.write(bytes(200))
    assert draft.finish() == "no-room"
    assert not [*kept.drafts.iterdir()]
    kept.close()


class _Full:
    """A file on a disk without room."""

    closed = False

    def write(self, data: bytes) -> int:
        assert not self.closed
        raise OSError(28, "No space left on device")

    def close(self) -> None:
        self.closed = True


def test_a_header_that_was_sent_in_spite_of_the_rules_is_kept(tmp_path: Path) -> None:
    """A sender that sends a whole file as the data set: nothing is put before it."""
    (file,) = tools.objects(tmp_path / "sent", 1).values()
    found = spool.identity(file)
    kept = Spool(tmp_path / "spool")
    draft = kept.draft(found.sop_class, found.instance, "1.2.840.10008.1.2.1")
    content = file.read_bytes()
    for start in range(0, len(content), 50):
        draft.write(content[start : start + 50])
    assert draft.finish() == "stored"
    (arrived,) = kept.waiting(2)
    assert arrived.read_bytes() == content
    kept.close()


UIDS = st.from_regex(r"(0|[1-9][0-9]{0,9})(\.(0|[1-9][0-9]{0,9})){0,5}", fullmatch=True)


@settings(max_examples=25)
@given(st.lists(UIDS, min_size=3, max_size=3))
def test_headers_are_what_others_read(uids: list[str]) -> None:
    from io import BytesIO

    content = spool.file_meta(*uids)
    header = pydicom.dcmread(BytesIO(content + b"\x08\0\x60\0CS\2\0CT"), force=True)
    found = header.file_meta
    assert [found.MediaStorageSOPClassUID, found.MediaStorageSOPInstanceUID, found.TransferSyntaxUID] == uids
    assert found.FileMetaInformationGroupLength == len(content) - 144


def test_an_object_is_on_the_disk_before_it_is_acknowledged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bytes, then the name, then the folder of the name; only then the answer."""
    (file,) = tools.objects(tmp_path / "sent", 1).values()
    kept = Spool(tmp_path / "spool")
    done: list[str] = []
    fsync, replace, folder = os.fsync, Path.replace, durable.sync_folder
    monkeypatch.setattr(spool.os, "fsync", lambda number: (done.append("bytes"), fsync(number)))
    monkeypatch.setattr(Path, "replace", lambda self, to: (done.append("name"), replace(self, to))[1])
    monkeypatch.setattr(spool, "sync_folder", lambda place: (folder(place), done.append(f"folder {place.name}")))
    meta = pydicom.filereader.read_file_meta_info(file)
    draft = kept.draft(
        str(meta.MediaStorageSOPClassUID), str(meta.MediaStorageSOPInstanceUID), str(meta.TransferSyntaxUID)
    )  # fmt: skip
    draft.write(tools.data_set(file.read_bytes()))
    kept.on_arrival = lambda: done.append("told")
    assert draft.finish() == "stored"
    # The folder's own sync calls fsync again.
    told = [one for n, one in enumerate(done) if one != "bytes" or n == 0]
    assert told == ["bytes", "name", "folder arrived", "told"]
    kept.close()


def test_a_spool_is_left_only_after_the_archive_has_the_object(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = [*tools.objects(tmp_path / "sent", 3).values()]
    running = tools.Receiving(tmp_path)
    monkeypatch.setattr(dcmark.arrival.intake, "ingest", _refusing)
    answers = tools.send_and_stop(running, files)
    assert set(answers.values()) == {0}
    assert len(running.spool.waiting(10)) == 3
    assert any("refuses" in line for line in running.said)
    monkeypatch.undo()
    again = tools.Receiving(tmp_path)
    again.stop()
    assert again.intake.stored == 3
    assert not again.spool.waiting(10)
    tools.expect_stored(again.archive.path, files, tmp_path / "out")


def _refusing(*arguments, **options):
    from dcmark.errors import StorageError

    raise StorageError("expected room, found none")


def test_drafts_of_an_earlier_run_go_and_a_spool_has_one_user(tmp_path: Path) -> None:
    first = Spool(tmp_path / "spool")
    (tmp_path / "spool" / "drafts" / f"{'a' * 32}.part").write_bytes(b"half")
    (tmp_path / "spool" / "drafts" / "letter.txt").write_bytes(b"not ours")
    with pytest.raises(UsageError, match="another that uses it"):
        Spool(tmp_path / "spool")
    first.close()
    again = Spool(tmp_path / "spool")
    assert [place.name for place in again.drafts.iterdir()] == ["letter.txt"]
    again.close()
    if os.name != "nt":
        assert again.folder.stat().st_mode & 0o777 == 0o700


def test_what_was_damaged_in_the_spool_is_told(tmp_path: Path) -> None:
    kept = Spool(tmp_path / "spool")
    (kept.arrived / f"{'0' * 64}.dcm").write_bytes(b"nothing")
    (found,) = SpoolSource(kept.waiting(5), lambda paths: {}).items()
    assert isinstance(found, Finding)
    assert found.code == "damaged"
    kept.close()


def _kill_while_sending(folder: Path, times: int, count: int) -> None:
    files = [*tools.objects(folder / "sent", count).values()]
    chance = random.Random(7)
    told: set[Path] = set()
    for turn in range(times):
        server = tools.Listening(folder / "a.dcmark", "--threads", "1")
        rest = [file for file in files if file not in told]
        chance.shuffle(rest)
        if tools.STORESCU is not None:
            # Files by transfer syntax, for DCMTK would encode the others anew.
            syntaxes = [file for file in rest if int(file.stem) % 4 == 0], [file for file in rest if int(file.stem) % 4]
            senders = [
                tools.storescu(server.port, some, folder / f"{n}.log", *(["-xi"] if n == 0 else []))
                for n, some in enumerate(syntaxes)
            ]
            time.sleep(chance.uniform(0.05, 1.0))
            server.kill()
            for sender in senders:
                sender.wait(60)
            now = [file for n in range(2) for file in tools.acknowledged(folder / f"{n}.log")]
        else:
            import threading

            answers: dict[Path, int] = {}
            sender = threading.Thread(target=lambda s=server, r=rest, a=answers: a.update(tools.send(s.port, r)))
            sender.start()
            time.sleep(chance.uniform(0.05, 1.5))
            server.kill()
            sender.join(60)
            now = [file for file, status in answers.items() if status == 0]
        told.update(now)
        assert turn or len(now) < count, "the kill came too late to test anything"
    server = tools.Listening(folder / "a.dcmark")
    assert server.stop() == 0
    assert told
    tools.expect_stored(folder / "a.dcmark", sorted(told), folder / "out")


def test_kill_while_sending_loses_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    _kill_while_sending(tmp_path, 2, 240)


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_fifty_kills_while_sending(tmp_path: Path) -> None:
    _kill_while_sending(tmp_path, 50, 3000)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_orderly_end_takes_in_what_came(tmp_path: Path, number: int) -> None:
    files = [*tools.objects(tmp_path / "sent", 6).values()]
    server = tools.Listening(tmp_path / "a.dcmark", "--spool", tmp_path / "elsewhere")
    assert set(tools.send(server.port, files).values()) == {0}
    assert server.stop(number) == 0
    assert not server.logged
    assert "6 objects taken in" in server.said[-1]
    tools.expect_stored(tmp_path / "a.dcmark", files, tmp_path / "out")
    assert not [*(tmp_path / "elsewhere").rglob("*.dcm")]
