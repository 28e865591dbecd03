"""An archive gives back what came in, once, and says what it could not take apart."""

from __future__ import annotations

import hashlib
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import dcmark
from dcmark import ingestion
from dcmark.archive import codec, store
from dcmark.archive.gc import collect
from dcmark.archive.known import Digests
from dcmark.archive.store import Archive
from dcmark.cli import run
from dcmark.errors import FormatVersionError, OutputExistsError, QueryError, StorageError


def hashes(folder: Path) -> dict[str, str]:
    files = (p for p in folder.rglob("*") if p.is_file())
    return {p.relative_to(folder).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def test_every_bundled_file_comes_back(bundled: Path, tmp_path: Path) -> None:
    archive = dcmark.open_archive(tmp_path / "a.dcmark", create=True)
    report = dcmark.ingest(bundled, archive)
    assert report.opaque and report.needs_a_look
    assert dcmark.verify(archive).whole
    dcmark.restore(archive, tmp_path / "out")
    assert hashes(tmp_path / "out") == hashes(bundled)


def test_every_corpus_file_comes_back(corpus: Path, tmp_path: Path) -> None:
    archive = dcmark.open_archive(tmp_path / "a.dcmark", create=True)
    dcmark.ingest(corpus, archive)
    dcmark.restore(archive, tmp_path / "out")
    assert hashes(tmp_path / "out") == hashes(corpus)


def test_ingesting_again_adds_nothing(bundled: Path, tmp_path: Path) -> None:
    archive = dcmark.open_archive(tmp_path / "a.dcmark", create=True)
    first = dcmark.ingest(bundled, archive)
    again = dcmark.ingest(bundled, archive)
    assert again.files == 0
    assert again.unchanged + again.duplicates == first.files + first.duplicates


def test_errors_have_words_and_exit_codes(bundled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = tmp_path / "a.dcmark"
    assert run(["ingest", str(bundled / "CT_small.dcm"), str(place)]) == 0
    archive = dcmark.open_archive(place)
    with pytest.raises(QueryError, match="modalit"):
        dcmark.restore(archive, tmp_path / "x", where="modalit = 'CT'")
    with pytest.raises(QueryError):
        dcmark.query(archive, "SELECT * FROM read_csv('/etc/passwd')")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "f").touch()
    with pytest.raises(OutputExistsError, match="empty folder"):
        dcmark.restore(archive, tmp_path / "full")
    with pytest.raises(FormatVersionError, match="found nothing"):
        dcmark.open_archive(tmp_path / "none")
    assert run(["query", str(place), "selec 1"]) == 2
    assert run(["nonsense"]) == 2
    assert run(["ls", str(tmp_path / "none")]) == 1
    assert "expected" in capsys.readouterr().err


def test_two_writers_at_once(bundled: Path, tmp_path: Path) -> None:
    """Processes that begin an archive together each find all of theirs in it; what both stored counts once."""
    script = "import sys, dcmark; dcmark.ingest(sys.argv[2], dcmark.open_archive(sys.argv[1], create=True), threads=1)"
    sources = [bundled / "dicomdirtests", bundled / "dicomdirtests", bundled]
    place = tmp_path / "a.dcmark"
    running = [subprocess.Popen([sys.executable, "-c", script, str(place), str(source)]) for source in sources]
    assert [process.wait(timeout=200) for process in running] == [0, 0, 0]
    archive = dcmark.open_archive(place)
    report = dcmark.verify(archive)
    assert report.whole, report.findings
    distinct = len(set(hashes(bundled).values()))
    sql = "SELECT count(*) AS n, count(DISTINCT sha256) AS d, sum(paths)::INT AS p FROM files"
    (found,) = dcmark.query(archive, sql).to_pylist()
    members = len(hashes(bundled / "dicomdirtests"))
    assert (found["n"], found["d"]) == (distinct, distinct)
    # The same folder by two writers is one place; by way of the folder above it is another.
    assert found["p"] == len(hashes(bundled)) + members
    dcmark.restore(archive, tmp_path / "out")
    assert set(hashes(tmp_path / "out").values()) == set(hashes(bundled).values())


def test_sweeping_takes_nothing_that_is_needed(bundled: Path, tmp_path: Path) -> None:
    archive = dcmark.open_archive(tmp_path / "a.dcmark", create=True)
    _leave_parts_behind(archive)
    dcmark.ingest(bundled, archive)
    _leave_parts_behind(archive)
    assert dcmark.verify(archive).orphans == 6
    assert collect(archive).parts == 0, "what is younger than an hour may belong to a run that goes on"
    assert dcmark.verify(archive).orphans == 6
    assert collect(archive, exclusive=True).parts == 6
    report = dcmark.verify(archive)
    assert report.whole and report.orphans == 0
    dcmark.restore(archive, tmp_path / "out")
    assert hashes(tmp_path / "out") == hashes(bundled)


def _leave_parts_behind(archive: Archive) -> None:
    batch = archive.batch()
    for number in range(3):
        batch.add_part(number, codec.encode_bytes(b"left behind"), 11)
    batch._flush_frames()


def test_a_run_that_slept_while_its_parts_were_swept_commits_nothing(tmp_path: Path) -> None:
    archive = dcmark.open_archive(tmp_path / "a.dcmark", create=True)
    batch = archive.batch()
    batch.add_part(0, codec.encode_bytes(b"left behind"), 11)
    batch._flush_frames()
    batch.add_file({"sha256": bytes(32), "size": 11, "kind": "opaque", "transfer_syntax": "", "frames": 1,
                    "segments": [], "header_length": 0, "findings": []})  # fmt: skip
    assert collect(dcmark.open_archive(archive.path), exclusive=True).parts == 1
    batch._flushed_ns -= 2 * store.SLEPT_NS
    with pytest.raises(StorageError, match="swept"):
        batch.commit()
    archive.refresh()
    assert len(archive.read("files")) == 0


def test_a_killed_beginning_is_begun_again(bundled: Path, tmp_path: Path) -> None:
    """A draft of archive.json and a table without a version are what a kill at the first moments leaves."""
    place = tmp_path / "a.dcmark"
    place.mkdir()
    (place / "archive.json.0123456789abcdef.draft").write_text('{"format')
    for name in ("files", "frames", "paths"):
        (place / f"{name}.lance" / "data").mkdir(parents=True)
        (place / f"{name}.lance" / "data" / "half.lance").write_bytes(b"half")
    with pytest.raises(OutputExistsError):
        dcmark.open_archive(place, create=True)
    for name in ("files", "frames", "paths"):
        shutil.rmtree(place / f"{name}.lance")
    archive = dcmark.open_archive(place, create=True)
    for name in ("files", "frames", "paths"):
        (place / f"{name}.lance" / "data").mkdir(parents=True)
        (place / f"{name}.lance" / "data" / "half.lance").write_bytes(b"half")
    dcmark.ingest(bundled / "CT_small.dcm", archive)
    assert dcmark.verify(archive).files_read == 1


def test_a_lost_table_is_noticed_and_healed(bundled: Path, tmp_path: Path) -> None:
    archive = dcmark.open_archive(tmp_path / "a.dcmark", create=True)
    dcmark.ingest(bundled, archive)
    shutil.rmtree(archive.path / "files.lance")
    report = dcmark.verify(archive)
    assert {finding.code for finding in report.findings} == {"missing-file"}
    again = dcmark.ingest(bundled, archive)
    assert again.files == len(set(hashes(bundled).values())) and again.unchanged == 0
    assert dcmark.verify(archive).whole


def test_a_file_larger_than_one_thread_should_take(
    bundled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Large files are packed by all threads and written in several goes; the bytes are the same."""
    monkeypatch.setattr(ingestion, "LARGE_FILE", 5_000)
    monkeypatch.setattr(store, "FLUSH_BYTES", 2_000)
    source = tmp_path / "source"
    source.mkdir()
    shutil.copyfile(bundled / "rtdose.dcm", source / "rtdose.dcm")
    (source / "noise").write_bytes(random.Random(1).randbytes(3 << 20))
    archive = dcmark.open_archive(tmp_path / "a.dcmark", create=True)
    report = dcmark.ingest(source, archive, threads=2)
    assert report.files == 2 and report.frames == 15
    assert dcmark.verify(archive).whole
    dcmark.restore(archive, tmp_path / "out")
    assert hashes(tmp_path / "out") == hashes(source)


@given(st.sets(st.binary(min_size=4, max_size=4)), st.sets(st.binary(min_size=4, max_size=4)))
def test_a_packed_set_of_digests_is_a_set(old: set[bytes], new: set[bytes]) -> None:
    packed = Digests(b"".join(old), 4)
    for number, digest in enumerate(new):
        packed.add(digest)
        if number % 3 == 0:
            packed._merge()
    for digest in old | new | {bytes(4), b"\xff" * 4, b"a\0\0\0", b"\0\0\0a"}:
        assert (digest in packed) == (digest in old | new)
