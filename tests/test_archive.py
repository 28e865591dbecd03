"""An archive gives back what came in, once, and says what it could not take apart."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

import dcmark
from dcmark.cli import run
from dcmark.errors import FormatVersionError, OutputExistsError, QueryError


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
