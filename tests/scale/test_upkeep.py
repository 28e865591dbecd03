"""Compaction, merging, indexes and old versions change how an archive lies on disk, never what it holds."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from pathlib import Path

import lance
import pytest
from scale_tools import content, dataset, hashes, slice_of

import dcmark
from dcmark.annotate.log import Log
from dcmark.annotate.model import Annotation, Label, Target
from dcmark.archive import store
from dcmark.archive.compact import FOREVER, compact, drop_repeats, keep_versions, kept_versions, seconds_of
from dcmark.archive.events import check_events
from dcmark.archive.gc import collect
from dcmark.archive.merge import merge
from dcmark.archive.stats import stats
from dcmark.cli import run
from dcmark.errors import UsageError


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return dataset(tmp_path_factory.mktemp("upkeep") / "data_dir")


@pytest.fixture
def pieces(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dcmark.Archive:
    """An archive in many small pieces."""
    monkeypatch.setattr(store, "MOST_ROWS", 6)
    archive = dcmark.open_archive(tmp_path / "pieces.dcmark", create=True)
    dcmark.ingest(source, archive)
    monkeypatch.undo()
    archive.refresh()
    return archive


def back(archive: dcmark.Archive, out: Path) -> dict[str, str]:
    dcmark.restore(archive, out)
    found = hashes(out)
    shutil.rmtree(out)
    return found


def label(archive: dcmark.Archive, author: str, file: str, word: str = "liver") -> None:
    target = Target(level="frame", file=file, frame=0)
    Log(archive, author=author).add([Annotation(kind="label", target=target, label=Label(word), author=author)])


def test_compact_changes_nothing_but_pieces(pieces: dcmark.Archive, tmp_path: Path) -> None:
    before, files = content(pieces), back(pieces, tmp_path / "out")
    count = {name: len(pieces.table(name).get_fragments()) for name in ("files", "frames", "paths")}
    assert min(count.values()) > 4
    report = compact(pieces, index=True)
    assert report.pieces_after < report.pieces_before
    assert {name: len(pieces.table(name).get_fragments()) for name in count} == dict.fromkeys(count, 1)
    assert content(pieces) == before
    assert back(pieces, tmp_path / "out") == files
    verdict = dcmark.verify(pieces)
    assert verdict.whole and not verdict.orphans
    found = stats(pieces)
    assert {"sha256", "modality"} <= set(found["tables"]["files"]["indexes"]) and not found["advice"]
    again = compact(pieces)
    assert (again.pieces_before, again.files, again.paths, again.parts) == (report.pieces_after, 0, 0, 0)


def test_volumes_are_not_described_again_after_compact(pieces: dcmark.Archive) -> None:
    from dcmark.archive import volumes

    volumes.update(pieces)
    compact(pieces)
    assert volumes.update(pieces) == 0


def test_ingest_goes_on_after_compact(pieces: dcmark.Archive, source: Path, tmp_path: Path) -> None:
    compact(pieces, index=True)
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "new.dcm").write_bytes(slice_of("P77", 1, 1))
    report = dcmark.ingest(tmp_path / "more", pieces)
    assert report.files == 1
    digest = dcmark.query(pieces, "SELECT sha256 FROM files WHERE patient_id = 'P77'")["sha256"][0].as_py()
    assert pieces.read("files", ["size"], f"sha256 = X'{digest}'").num_rows == 1, "rows behind the index are found"
    assert dcmark.ingest(source, pieces).files == 0
    assert "files.sha256" in compact(pieces, index=True).indexes
    assert stats(pieces)["tables"]["files"]["rows_not_indexed"] == 0


def test_what_two_writers_stored_twice_is_dropped(source: Path, tmp_path: Path) -> None:
    archive = dcmark.open_archive(tmp_path / "a.dcmark", create=True)
    dcmark.ingest(source, archive)
    before, rows = content(archive), {name: archive.count(name) for name in ("files", "frames")}
    twice = dcmark.open_archive(archive.path)
    # A writer that began before the first one committed knows of nothing.
    from dcmark import ingestion

    run_ = ingestion._Run(twice, 1, True, ingestion.NoProgress(), ingestion.LIMITS)
    run_.known = ingestion.Digests(b"", 32)
    for one in (ingestion.open_source(source),):
        run_.source(one, None)
    run_.close()
    run_.executor.shutdown()
    assert stats(archive)["repeated_files"] == rows["files"]
    assert any("stored twice" in words for words in stats(archive)["advice"])
    dropped = drop_repeats(archive)
    assert dropped == (rows["files"], rows["frames"])
    assert {name: archive.count(name) for name in rows} == rows
    assert compact(archive).paths > 0
    assert content(archive) == before
    verdict = dcmark.verify(archive)
    assert verdict.whole and not verdict.orphans and verdict.files == rows["files"]


def test_merge_adds_what_is_new(source: Path, tmp_path: Path) -> None:
    whole = dcmark.open_archive(tmp_path / "whole.dcmark", create=True)
    dcmark.ingest(source, whole, layout="*/{dataset}/{patient}/{image}/*")
    parts = [dcmark.open_archive(tmp_path / f"{n}.dcmark", create=True) for n in range(2)]
    from dcmark.inventory import read_inventory, write_inventory

    write_inventory([source], tmp_path / "i.parquet", layout="*/{dataset}/{patient}/{image}/*")
    for number, part in enumerate(parts, 1):
        dcmark.ingest(read_inventory(tmp_path / "i.parquet").shard(number, 2), part)
    one, other = parts
    report = merge(one, other)
    assert report.files and not report.damaged
    assert content(one) == content(whole)
    assert back(one, tmp_path / "out") == back(whole, tmp_path / "out")
    assert dcmark.verify(one).whole
    again = merge(one, other)
    assert (again.files, again.paths, again.events) == (0, 0, 0)
    assert dcmark.ingest(source, one, layout="*/{dataset}/{patient}/{image}/*").files == 0


def test_merge_keeps_both_logs(source: Path, tmp_path: Path) -> None:
    archives = [dcmark.open_archive(tmp_path / f"{n}.dcmark", create=True) for n in range(2)]
    for archive in archives:
        dcmark.ingest(source, archive)
    files = dcmark.query(archives[0], "SELECT sha256 FROM files WHERE frames = 1 ORDER BY sha256")["sha256"].to_pylist()
    for n in range(3):
        label(archives[0], "anna", files[n])
        label(archives[1], "berit", files[n], f"label {n}")
    log = Log(archives[1], author="berit")
    first = next(iter(log.state()))
    log.remove(first)
    log.undo(max(event.seq for event in log.events()))
    report = merge(archives[0], archives[1])
    assert report.events == archives[1].count("annotations")
    state = Log(archives[0]).state()
    assert {one.author for one in state.annotations()} == {"anna", "berit"}
    theirs = {one.id: one for one in Log(archives[1]).state().annotations()}
    assert {one.id: one for one in state.annotations() if one.author == "berit"} == theirs
    assert list(check_events(archives[0])) == []
    assert merge(archives[0], archives[1]).events == 0
    label(archives[0], "anna", files[4])
    assert list(check_events(archives[0])) == []


def test_merge_leaves_out_what_is_damaged(source: Path, tmp_path: Path) -> None:
    other = dcmark.open_archive(tmp_path / "other.dcmark", create=True)
    dcmark.ingest(source, other)
    for file in (other.path / "frames.lance" / "data").rglob("*.lance"):
        data = bytearray(file.read_bytes())
        for at in range(40, len(data) // 3, 100):
            data[at] ^= 255
        file.write_bytes(data)
    target = dcmark.open_archive(tmp_path / "target.dcmark", create=True)
    report = merge(target, other)
    assert report.damaged and report.files
    assert dcmark.verify(target).whole, "nothing damaged came along"
    assert run(["merge", str(target.path), str(other.path), "-q"]) == 4


def test_merge_refuses_what_does_not_fit(source: Path, tmp_path: Path) -> None:
    archive = dcmark.open_archive(tmp_path / "a.dcmark", create=True)
    dcmark.ingest(source, archive)
    with pytest.raises(UsageError, match="two archives"):
        merge(archive, dcmark.open_archive(archive.path))
    clean = dcmark.open_archive(tmp_path / "clean.dcmark", create=True)
    clean.cover("de-identified")
    with pytest.raises(UsageError, match="keep them apart"):
        merge(archive, clean)


@pytest.mark.parametrize(
    ("text", "seconds"), [("1h", 3600), ("30d", 30 * 86400), ("90min", 5400), ("1day 2h", 93600), ("2weeks", 1209600)]
)
def test_ages(text: str, seconds: int) -> None:
    assert seconds_of(text) == seconds


@pytest.mark.parametrize("text", ["", "soon", "1", "1h?", "3 parsecs", "-1h"])
def test_no_ages(text: str) -> None:
    with pytest.raises(ValueError):
        seconds_of(text)


def test_old_versions_stay_as_long_as_the_rule_says(pieces: dcmark.Archive) -> None:
    place = str(pieces.path)
    many = len(lance.dataset(f"{place}/files.lance").versions())
    assert many > 4 and kept_versions(pieces) == 3600
    for rule in ("30d", "forever"):
        assert run(["gc", place, "--keep", rule, "--exclusive"]) == 0
        assert len(lance.dataset(f"{place}/files.lance").versions()) >= many, "kept, for the rule says so"
    assert kept_versions(pieces) == FOREVER
    keep_versions(pieces, 86400)
    assert kept_versions(pieces) == 86400
    assert run(["gc", place, "--keep", "5min"]) == 2
    assert run(["gc", place, "--keep", "1h", "--exclusive"]) == 0
    assert len(lance.dataset(f"{place}/files.lance").versions()) == 1
    assert dcmark.verify(pieces).whole


def test_gc_after_compact_gives_the_room_back(pieces: dcmark.Archive) -> None:
    before = content(pieces)
    compact(pieces)
    assert collect(pieces, exclusive=True).nbytes > 0
    assert content(pieces) == before
    assert dcmark.verify(pieces).whole


def test_the_commands_speak_json(pieces: dcmark.Archive, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import json

    place = str(pieces.path)
    other = str(tmp_path / "other.dcmark")
    dcmark.open_archive(other, create=True)
    for words in (["stats", place], ["compact", place, "-q"], ["merge", other, place, "-q"]):
        assert run([*words, "--json"]) == 0
        assert json.loads(capsys.readouterr().out)
        assert run(words) == 0
        assert capsys.readouterr().out


WRITER = """
import sys, dcmark
from dcmark.archive import store
from dcmark.inventory import read_inventory
store.MOST_ROWS = 3
archive = dcmark.open_archive(sys.argv[2], create=True)
dcmark.ingest(read_inventory(sys.argv[1]).shard(int(sys.argv[3]), int(sys.argv[4])), archive, threads=1)
"""
COMPACTOR = """
import sys, time, dcmark
from dcmark.archive.compact import compact
archive = dcmark.open_archive(sys.argv[1])
until = time.monotonic() + float(sys.argv[2])
while time.monotonic() < until:
    compact(archive, index=True)
"""


def test_writers_and_compactors_at_once(source: Path, tmp_path: Path) -> None:
    from dcmark.inventory import write_inventory

    whole = dcmark.open_archive(tmp_path / "whole.dcmark", create=True)
    dcmark.ingest(source, whole)
    write_inventory([source], tmp_path / "i.parquet")
    archive = dcmark.open_archive(tmp_path / "a.dcmark", create=True)
    command = [sys.executable, "-c", WRITER, str(tmp_path / "i.parquet"), str(archive.path)]
    running = [subprocess.Popen([*command, str(n), "4"], stderr=subprocess.PIPE) for n in range(1, 5)]
    running += [
        subprocess.Popen([sys.executable, "-c", COMPACTOR, str(archive.path), "2.5"], stderr=subprocess.PIPE)
        for _ in "ab"
    ]
    for one in running:
        _, said = one.communicate(timeout=120)
        assert one.returncode == 0, said.decode()[-2000:]
    assert content(archive) == content(whole)
    assert dcmark.verify(archive).whole
    assert back(archive, tmp_path / "out") == back(whole, tmp_path / "out")


UPKEEP = """
import sys, dcmark
from dcmark.archive.compact import compact
from dcmark.archive.gc import collect
from dcmark.archive.merge import merge
from dcmark.archive import store
store.MOST_ROWS = 3
print("ready", flush=True)
archive = dcmark.open_archive(sys.argv[1])
merge(archive, dcmark.open_archive(sys.argv[2]))
compact(archive, index=True)
collect(archive, exclusive=True)
print("done", flush=True)
"""


def _upkeep_killed(source: Path, folder: Path, count: int) -> None:
    """Kill merge, compact and gc at random moments; in the end the archive is the undisturbed one."""
    import random

    from dcmark.inventory import read_inventory, write_inventory

    write_inventory([source], folder / "i.parquet")
    shards = read_inventory(folder / "i.parquet")
    other = dcmark.open_archive(folder / "other.dcmark", create=True)
    dcmark.ingest(shards.shard(1, 2), other)
    start = dcmark.open_archive(folder / "start.dcmark", create=True)
    dcmark.ingest(shards.shard(2, 2), start)
    shutil.copytree(start.path, folder / "whole.dcmark")
    whole = dcmark.open_archive(folder / "whole.dcmark")
    merge(whole, other)
    expected = content(whole)
    chance = random.Random(5)
    for number in range(count):
        place = folder / f"{number}.dcmark"
        shutil.copytree(start.path, place)
        for _ in range(2):
            command = [sys.executable, "-c", UPKEEP, str(place), str(other.path)]
            with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
                assert child.stdout is not None
                child.stdout.readline()
                time.sleep(chance.uniform(0, 0.5))
                child.kill()
            found = dcmark.verify(dcmark.open_archive(place), threads=1)
            assert found.whole, found.findings
        archive = dcmark.open_archive(place)
        merge(archive, other)
        compact(archive)
        collect(archive, exclusive=True)
        assert content(archive) == expected
        assert dcmark.verify(archive, threads=1).whole
        shutil.rmtree(place)


def test_upkeep_that_is_killed_a_few_times(source: Path, tmp_path: Path) -> None:
    _upkeep_killed(source, tmp_path, 2)


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_upkeep_that_is_killed_often(source: Path, tmp_path: Path) -> None:
    _upkeep_killed(source, tmp_path, 50)
