"""From a source to an archive and back, end to end, and what is said when something is in the way."""

from __future__ import annotations

import hashlib
import io
import json
import os
import random
import shutil
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import zstandard

import dcmark
from dcmark import ingestion
from dcmark.archive.store import Archive
from dcmark.cli import run
from dcmark.errors import DcmarkError, SourceError, UsageError
from dcmark.progress import NoProgress

KINDS = ("zip", "tar", "tar.gz", "tar.xz", "tar.zst", "7z")
OLD_NS = 1_600_000_000_000_000_000
"""A modification time long enough ago that a file counts as settled."""


def hashes(folder: Path) -> dict[str, str]:
    files = (place for place in folder.rglob("*") if place.is_file())
    return {p.relative_to(folder).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def times(folder: Path) -> dict[str, int]:
    files = (place for place in folder.rglob("*") if place.is_file())
    return {place.relative_to(folder).as_posix(): place.stat().st_mtime_ns for place in files}


@pytest.fixture
def source(tmp_path: Path, bundled: Path) -> Path:
    """A small dataset of real files, with times and names as they come."""
    root = tmp_path / "source"
    for at, (name, target) in enumerate(
        [
            ("CT_small.dcm", "ct/P1/1/i0000,0000b.dcm"),
            ("MR_small.dcm", "ct/P1/2/x.dcm"),
            ("JPEG2000.dcm", "ct/Åsa Öberg/1/bild 1.dcm"),
            ("rtplan.dcm", "ct/Åsa Öberg/1/x0000.dcm"),
            ("image_dfl.dcm", "deflated.dcm"),
        ]
    ):
        (root / target).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(bundled / name, root / target)
        os.utime(root / target, ns=(OLD_NS, OLD_NS + at * 1_000_000_000 + 123_456_700))
    (root / "empty").touch()
    (root / "README.md").write_text("notes", "utf-8")
    for name in ("empty", "README.md"):
        os.utime(root / name, ns=(OLD_NS, OLD_NS))
    return root


@pytest.fixture
def archive(tmp_path: Path) -> Archive:
    return dcmark.open_archive(tmp_path / "scans.dcmark", create=True)


def pack(folder: Path, kind: str) -> Path:
    target = folder.parent / f"packed.{kind}"
    files = sorted(place for place in folder.rglob("*") if place.is_file())
    if kind == "7z":
        with pytest.importorskip("py7zr").SevenZipFile(target, "w") as packed:
            for file in files:
                packed.write(file, file.relative_to(folder).as_posix())
    elif kind == "zip":
        with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as packed:
            for file in files:
                packed.write(file, file.relative_to(folder).as_posix())
    else:
        stream = io.BytesIO()
        with tarfile.open(fileobj=stream, mode="w" if kind == "tar.zst" else f"w:{kind[4:]}") as packed:
            for file in files:
                packed.add(file, file.relative_to(folder).as_posix())
        data = stream.getvalue()
        target.write_bytes(zstandard.ZstdCompressor().compress(data) if kind == "tar.zst" else data)
    os.utime(target, ns=(OLD_NS, OLD_NS))
    return target


# -- there and back -------------------------------------------------------------------------------


def test_a_folder_comes_back_with_its_paths_and_times(source: Path, archive: Archive, tmp_path: Path) -> None:
    report = dcmark.ingest(source, archive)
    assert (report.files, report.duplicates, report.refused) == (7, 0, 0)
    assert report.bytes == sum(place.stat().st_size for place in source.rglob("*") if place.is_file())
    assert dcmark.restore(archive, tmp_path / "out").files == 7
    assert hashes(tmp_path / "out") == hashes(source)
    assert times(tmp_path / "out") == times(source)


@pytest.mark.parametrize("kind", KINDS)
def test_a_container_comes_back_as_its_members(source: Path, archive: Archive, tmp_path: Path, kind: str) -> None:
    packed = pack(source, kind)
    report = dcmark.ingest(packed, archive)
    assert (report.files, report.refused) == (7, 0)
    dcmark.restore(archive, tmp_path / "out")
    assert hashes(tmp_path / "out") == hashes(source)
    # Times within containers have no zone or are missing: members carry the time of their container.
    assert set(times(tmp_path / "out").values()) == {OLD_NS}
    again = dcmark.ingest(packed, archive)
    assert (again.files, again.unchanged, again.duplicates) == (0, 7, 0)
    assert dcmark.verify(archive).whole


@pytest.mark.parametrize("kind", ["zip", "tar.gz", "7z"])
def test_containers_in_a_folder_and_containers_kept(
    source: Path, archive: Archive, tmp_path: Path, kind: str, bundled: Path
) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    shutil.copyfile(bundled / "CT_small.dcm", folder / "beside.dcm")
    packed = shutil.move(pack(source, kind), folder)
    dcmark.ingest(folder, archive)
    dcmark.restore(archive, tmp_path / "out")
    inside = {f"packed.{kind}/{path}": digest for path, digest in hashes(source).items()}
    assert hashes(tmp_path / "out") == {**inside, "beside.dcm": hashes(folder)["beside.dcm"]}
    other = dcmark.open_archive(tmp_path / "kept.dcmark", create=True)
    report = dcmark.ingest(folder, other, containers="keep")
    assert report.files == 2 and report.opaque == 1
    dcmark.restore(other, tmp_path / "kept")
    assert hashes(tmp_path / "kept") == hashes(folder) and Path(packed).exists()


def test_several_sources_each_stand_under_their_name(source: Path, archive: Archive, tmp_path: Path) -> None:
    packed = pack(source, "zip")
    (tmp_path / "other").mkdir()
    shutil.copytree(source / "ct", tmp_path / "other" / "source")
    dcmark.ingest([source, packed, tmp_path / "other" / "source"], archive)
    dcmark.restore(archive, tmp_path / "out")
    assert hashes(tmp_path / "out" / "source") == hashes(tmp_path / "out" / "packed") == hashes(source)
    assert hashes(tmp_path / "out" / "source-2") == hashes(source / "ct")


def test_two_containers_of_one_name_are_two_sources(archive: Archive, tmp_path: Path) -> None:
    for place, content in (("a", b"one"), ("b", b"two")):
        (tmp_path / place).mkdir()
        with zipfile.ZipFile(tmp_path / place / "P1.zip", "w") as packed:
            packed.writestr("x", content)
    dcmark.ingest([tmp_path / "a" / "P1.zip", tmp_path / "b" / "P1.zip"], archive)
    dcmark.restore(archive, tmp_path / "out")
    found = {path.relative_to(tmp_path / "out").as_posix(): path.read_bytes() for path in (tmp_path / "out").rglob("x")}
    assert found == {"P1/x": b"one", "P1-2/x": b"two"}


@pytest.mark.skipif(sys.platform != "linux", reason="names of any bytes")
def test_names_that_are_no_text_come_back(archive: Archive, tmp_path: Path) -> None:
    source = os.fsencode(tmp_path / "in")
    os.mkdir(source)  # noqa: PTH102
    names = [b"caf\xe9.dcm", b"line\nbreak", b"\xff\xfe", "åäö 日本".encode(), b"back\\slash", b" spaces ", b"a:b"]
    for number, name in enumerate(names):
        with open(source + b"/" + name, "wb") as stream:  # noqa: PTH123
            stream.write(b"%d" % number)
    dcmark.ingest(os.fsdecode(source), archive)
    dcmark.restore(archive, tmp_path / "out")
    assert sorted(os.listdir(os.fsencode(tmp_path / "out"))) == sorted(names)  # noqa: PTH208
    assert run(["ls", str(archive.path), "files"]) == 0


def test_the_archive_itself_is_left_out(source: Path) -> None:
    archive = dcmark.open_archive(source / "scans.dcmark", create=True)
    for _ in range(2):
        report = dcmark.ingest(source, archive)
        assert report.codes["archive-itself"] == 1 and not report.errors
    assert dcmark.query(archive, "SELECT count(*) AS n FROM files").to_pylist() == [{"n": 7}]
    with pytest.raises(UsageError, match="outside the archive"):
        dcmark.ingest(archive.path / "files.lance", archive)


# -- again and again ------------------------------------------------------------------------------


def test_only_what_is_new_or_changed_is_read_again(source: Path, archive: Archive, tmp_path: Path) -> None:
    before = hashes(source)
    dcmark.ingest(source, archive)
    changed, removed, new = source / "ct/P1/2/x.dcm", source / "deflated.dcm", source / "ct/P1/3/new.dcm"
    changed.write_bytes(changed.read_bytes()[:-10] + b"0123456789")
    removed.unlink()
    new.parent.mkdir()
    new.write_bytes((source / "ct/P1/1/i0000,0000b.dcm").read_bytes() + b"more")
    report = dcmark.ingest(source, archive)
    assert (report.files, report.unchanged, report.duplicates) == (2, 5, 0)
    dcmark.restore(archive, tmp_path / "out")
    out = hashes(tmp_path / "out")
    after = hashes(source)
    # What was removed at the source stays in the archive, and so does what was there before a change.
    assert {path: out[path] for path in after} == after
    assert out["deflated.dcm"] == before["deflated.dcm"]
    assert out.keys() - after.keys() == {"deflated.dcm", f"without-a-path/{before['ct/P1/2/x.dcm']}"}


def test_a_change_that_keeps_size_and_time_is_found_by_rehash(source: Path, archive: Archive) -> None:
    place = source / "README.md"
    dcmark.ingest(source, archive)
    place.write_text("NOTES", "utf-8")
    os.utime(place, ns=(OLD_NS, OLD_NS))
    assert run(["ingest", str(source), str(archive.path), "--quiet"]) == 0
    assert dcmark.ingest(source, archive).files == 0
    report = dcmark.ingest(source, archive, rehash=True)
    assert (report.files, report.duplicates, report.unchanged) == (1, 6, 0)


def test_a_file_touched_a_moment_ago_is_read_again(source: Path, archive: Archive) -> None:
    (source / "fresh").write_bytes(b"1")
    dcmark.ingest(source, archive)
    status = (source / "fresh").stat()
    (source / "fresh").write_bytes(b"2")
    os.utime(source / "fresh", ns=(status.st_atime_ns, status.st_mtime_ns))
    report = dcmark.ingest(source, archive)
    assert (report.files, report.unchanged) == (1, 7)


def test_a_container_that_changed_is_read_again(source: Path, archive: Archive) -> None:
    packed = pack(source, "zip")
    dcmark.ingest(packed, archive)
    (source / "late").write_bytes(b"late")
    packed = pack(source, "zip")
    os.utime(packed, ns=(OLD_NS, OLD_NS + 5_000_000_000))
    report = dcmark.ingest(packed, archive)
    assert (report.files, report.duplicates, report.unchanged) == (1, 7, 0)


def test_the_same_bytes_are_stored_once_and_known_under_both_paths(
    source: Path, archive: Archive, tmp_path: Path
) -> None:
    shutil.copytree(source / "ct", source / "copy of ct")
    report = dcmark.ingest([source, source / "ct"], archive)
    assert (report.files, report.duplicates) == (7, 8)
    rows = dcmark.query(archive, "SELECT sha256, paths FROM files WHERE paths > 1").to_pylist()
    assert len(rows) == 4 and {row["paths"] for row in rows} == {3}
    (ct,) = dcmark.query(archive, "SELECT frames FROM files WHERE path LIKE '%i0000,0000b.dcm'").to_pylist()
    assert ct["frames"] == 1
    dcmark.restore(archive, tmp_path / "out")
    assert hashes(tmp_path / "out" / "source") == hashes(source)
    assert hashes(tmp_path / "out" / "ct") == hashes(source / "ct")


@pytest.mark.parametrize(
    ("layout", "expected"),
    [
        (None, ("ct", "P1", "1")),
        ("{patient}/{image}/*/*", ("", "ct", "P1")),
        ("{dataset}/*/{image}/*", ("ct", "", "1")),
        ("none", ("", "", "")),
    ],
)
def test_the_pattern_that_is_given_wins(
    source: Path, archive: Archive, layout: str | None, expected: tuple[str, str, str]
) -> None:
    arguments = ["ingest", str(source), str(archive.path), *([] if layout is None else ["--layout", layout])]
    assert run(arguments) == 3, "README.md is kept whole"
    sql = "SELECT dataset, patient, image FROM files WHERE path LIKE 'ct/P1/1/%'"
    assert [tuple(row.values()) for row in dcmark.query(archive, sql).to_pylist()] == [expected]


class _Stops(NoProgress):
    def __init__(self, after: int, error: type[BaseException]) -> None:
        self.left, self.error = after, error

    def advance(self, units: int = 1, nbytes: int = 0) -> None:
        self.left -= units
        if self.left < 0:
            raise self.error


def test_an_interrupted_ingest_goes_on_where_it_was(
    bundled: Path, archive: Archive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "many"
    source.mkdir()
    data = (bundled / "CT_small.dcm").read_bytes()
    for number in range(60):
        (source / f"{number}.dcm").write_bytes(data + b"%d" % number)
        os.utime(source / f"{number}.dcm", ns=(OLD_NS, OLD_NS))
    # Small batches: what was committed before the interruption is not read again.
    monkeypatch.setattr("dcmark.archive.store.FLUSH_BYTES", 200_000)
    for number, error in enumerate((KeyboardInterrupt, RuntimeError)):
        with pytest.raises(error):
            dcmark.ingest(source, archive, threads=1, progress=_Stops(25 + 20 * number, error))
        assert dcmark.verify(dcmark.open_archive(archive.path)).whole
    report = dcmark.ingest(source, dcmark.open_archive(archive.path))
    assert 0 < report.files < 60 and report.files + report.unchanged + report.duplicates == 60
    dcmark.restore(dcmark.open_archive(archive.path), tmp_path / "out")
    assert hashes(tmp_path / "out") == hashes(source)
    assert dcmark.query(dcmark.open_archive(archive.path), "SELECT count(*) AS n FROM paths").to_pylist() == [{"n": 60}]


def test_the_command_says_it_was_interrupted(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(ingestion, "load", interrupted)
    assert run(["ingest", str(source), str(tmp_path / "a.dcmark")]) == 130
    assert "run the same command again" in capsys.readouterr().err


# -- what is in the way -------------------------------------------------------------------------------


def said(capsys: pytest.CaptureFixture[str], *words: str) -> None:
    """One error was told, in these words, without a traceback."""
    text = capsys.readouterr().err
    assert text.startswith("dcmark: error (") and text.count("\n") == 1, text
    for word in words:
        assert word in text, text


def test_a_source_that_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "a.dcmark"
    assert run(["ingest", str(tmp_path / "nowhere"), str(target)]) == 1
    said(capsys, "(source)", "expected a folder or file", "found nothing", "check the path")
    assert not target.exists(), "a wrong name leaves no empty archive behind"
    assert run(["ingest", str(target)]) == 2
    said(capsys, "(usage)", "expected at least one source and an archive")
    archive = dcmark.open_archive(target, create=True)
    with pytest.raises(SourceError, match="expected a file or a folder"):
        dcmark.ingest(tmp_path / "nowhere", archive)


def test_a_container_that_cannot_be_opened(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "x.zip").write_bytes(b"PK\x03\x04 and no more")
    assert run(["ingest", str(tmp_path / "x.zip"), str(tmp_path / "a.dcmark")]) == 1
    said(capsys, "(source)", "expected a ZIP archive", "found damage", "get the container again")


@contextmanager
def without_rights(source: Path) -> Iterator[Path]:
    """A folder of a user for whom rights count, as they do not for root; a copy of ``source`` is in it as ``in``."""
    if os.name == "nt":
        pytest.skip("rights of POSIX")
    folder = Path(tempfile.mkdtemp())
    root = os.geteuid() == 0
    try:
        shutil.copytree(source, folder / "in")
        if root:
            for place in [folder, *folder.rglob("*")]:
                os.chown(place, 65534, 65534)
            os.seteuid(65534)
        yield folder
    finally:
        if root:
            os.seteuid(0)
        for place in [folder, *folder.rglob("*")]:
            place.chmod(0o700)
        shutil.rmtree(folder)


def _imported(source: Path, tmp_path: Path) -> None:
    """Have everything imported while Python's own files may still be read."""
    warm = dcmark.open_archive(tmp_path / "warm.dcmark", create=True)
    dcmark.ingest([source, pack(source, "zip")], warm)
    dcmark.query(warm, "SELECT * FROM findings")
    dcmark.restore(warm, tmp_path / "warm")


def test_a_source_of_which_parts_may_not_be_read(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _imported(source, tmp_path)
    with without_rights(source) as folder:
        (folder / "in" / "deflated.dcm").chmod(0)
        (folder / "in" / "ct" / "P1").chmod(0)
        place = str(folder / "a.dcmark")
        for _ in range(2):
            assert run(["ingest", str(folder / "in"), place]) == 3
            assert "2 refused" in capsys.readouterr().out
        assert run(["findings", place, "--json", "--level", "error"]) == 0
        found: list[dict[str, Any]] = json.loads(capsys.readouterr().out)
        assert [(row["code"], row["path"]) for row in found] == [
            ("unreadable", "ct/P1"),
            ("unreadable", "deflated.dcm"),
        ], "told once, however often it is tried"
        # Once it may be read it is.
        (folder / "in" / "deflated.dcm").chmod(0o600)
        assert run(["ingest", str(folder / "in"), place, "--json"]) == 3
        assert json.loads(capsys.readouterr().out)["files"] == 1
        # The source itself, and what lies below it.
        for closed in ("ct/P1", "ct/P1/1"):
            assert run(["ingest", str(folder / "in" / closed), place]) == 1
            said(capsys, "(source)", "expected a folder or file" if "1/1" in closed else "cannot list the folder")


def test_a_source_that_may_only_be_read(source: Path, tmp_path: Path) -> None:
    _imported(source, tmp_path)
    expected = hashes(source)
    with without_rights(source) as folder:
        for place in [*(folder / "in").rglob("*"), folder / "in"]:
            place.chmod(0o555 if place.is_dir() else 0o444)
        before = {place: place.stat().st_mtime_ns for place in (folder / "in").rglob("*")}
        archive = dcmark.open_archive(folder / "a.dcmark", create=True)
        assert dcmark.ingest(folder / "in", archive).files == 7
        dcmark.restore(archive, folder / "out")
        assert hashes(folder / "out") == expected
        assert {place: place.stat().st_mtime_ns for place in (folder / "in").rglob("*")} == before


def test_places_that_may_not_be_written(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _imported(source, tmp_path)
    with without_rights(source) as folder:
        archive = folder / "a.dcmark"
        assert run(["ingest", str(folder / "in"), str(archive), "--quiet"]) == 3
        (folder / "closed").mkdir()
        (folder / "closed").chmod(0o555)
        capsys.readouterr()
        assert run(["restore", str(archive), str(folder / "closed" / "out"), "--quiet"]) == 1
        said(capsys, "(storage)", "expected to write to", "no permission", "check the rights")
        assert run(["ingest", str(folder / "in"), str(folder / "closed" / "b.dcmark")]) == 1
        said(capsys, "(storage)", "expected to write to", "no permission")


def test_a_file_that_vanishes_while_it_is_read(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from dcmark.read import containers

    real: Callable[..., Any] = containers.load

    def late(item: Any, limits: Any) -> Any:
        if item.path == "deflated.dcm":
            (source / "deflated.dcm").unlink(missing_ok=True)
        return real(item, limits)

    monkeypatch.setattr(ingestion, "load", late)
    place = tmp_path / "a.dcmark"
    assert run(["ingest", str(source), str(place), "--quiet"]) == 3
    out = capsys.readouterr().out
    assert "6 new files" in out and "1 refused" in out and "dcmark findings" in out
    rows = dcmark.query(dcmark.open_archive(place), "SELECT code, path, action FROM findings WHERE code = 'vanished'")
    assert rows.to_pylist() == [{"code": "vanished", "path": "deflated.dcm", "action": "left out"}]


def test_an_archive_of_a_newer_format(source: Path, archive: Archive, capsys: pytest.CaptureFixture[str]) -> None:
    info = archive.path / "archive.json"
    text = json.loads(info.read_text("utf-8"))
    info.write_text(json.dumps({**text, "format_version": 99, "created_by": "dcmark 9.9"}), "utf-8")
    commands = (
        ["ingest", str(source), str(archive.path)],
        ["verify", str(archive.path)],
        ["restore", str(archive.path), str(source.parent / "out")],
        ["query", str(archive.path), "SELECT 1"],
    )
    for command in commands:
        assert run(command) == 1
        said(capsys, "(version)", "found format 99", "dcmark 9.9", "update dcmark")
    assert [place.name for place in archive.path.iterdir()] == ["archive.json"], "nothing was written into it"


def test_an_out_that_exists(source: Path, archive: Archive, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dcmark.ingest(source, archive)
    out = tmp_path / "out"
    out.mkdir()
    (out / "README.md").write_text("mine", "utf-8")
    assert run(["restore", str(archive.path), str(out)]) == 2
    said(capsys, "(exists)", "expected an empty folder", "found files in it", "--overwrite")
    assert hashes(out).keys() == {"README.md"} and (out / "README.md").read_text("utf-8") == "mine"
    assert run(["restore", str(archive.path), str(out / "README.md")]) == 2
    said(capsys, "(exists)", "found a file", "choose another name")
    assert run(["ingest", str(source), str(out)]) == 2
    said(capsys, "(exists)", "expected an archive, an empty directory or nothing", "choose another name")
    assert run(["restore", str(archive.path), str(out), "--overwrite", "--quiet"]) == 0
    assert hashes(out) == hashes(source)


def test_a_wrong_word(source: Path, archive: Archive, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dcmark.ingest(source, archive)
    place = str(archive.path)
    assert run(["query", place, "SELECT modalty FROM files"]) == 2
    said(capsys, "(query)", "expected SQL over the views files", "modalty", "modality")
    assert run(["query", place, "DROP VIEW files"]) == 2
    said(capsys, "(query)", "expected one SELECT statement", "found")
    assert run(["restore", place, str(tmp_path / "out"), "--where", "modality == CT"]) == 2
    said(capsys, "(query)", "expected SQL", "CT")
    assert not (tmp_path / "out").exists()
    assert run(["ingest", str(source), place, "--layout", "{person}/*"]) == 2
    said(capsys, "(usage)", "expected a layout such as", "{person}", "dataset, patient, image")
    assert run(["ingest", str(source), place, "--containers", "eat"]) == 2
    said(capsys, "(usage)", "eat", "open", "keep")
    for wrong in (
        ["ls", place, "people"],
        ["findings", place, "--level", "loud"],
        ["verify", place, "--read-data", "x"],
    ):
        assert run(wrong) == 2
        said(capsys, "(usage)", "expected")


def test_no_message_names_a_patient(tmp_path: Path, archive: Archive, capsys: pytest.CaptureFixture[str]) -> None:
    """Headers are full of them, and messages are pasted into mails."""
    import pydicom
    from pydicom.data import get_testdata_file

    data = pydicom.dcmread(str(get_testdata_file("CT_small.dcm", download=False)))
    data.PatientName, data.PatientID = "Hemlig^Person", "19121212-1212"
    stream = io.BytesIO()
    data.save_as(stream)
    whole = stream.getvalue()
    source = tmp_path / "in"
    source.mkdir()
    chance = random.Random(4)
    for number in range(60):
        damaged = bytearray(whole[: chance.choice((len(whole), 600, 1500, 5000))])
        for _ in range(3):
            damaged[chance.randrange(132, len(damaged))] = chance.randrange(256)
        (source / f"{number}.dcm").write_bytes(damaged)
    report = dcmark.ingest(source, archive)
    assert report.codes
    assert run(["findings", str(archive.path), "--level", "info"]) == 0
    with pytest.raises(DcmarkError) as raised:
        report.raise_for_errors()
    told = capsys.readouterr().out + str(raised.value) + str(report.findings)
    assert "Hemlig" not in told and "19121212" not in told
