"""The report: what it says is so, it needs nothing beside itself, and text of files stays text."""

from __future__ import annotations

import base64
import re
from html.parser import HTMLParser
from pathlib import Path

import imagecodecs
import numpy as np
import pydicom
import pytest

import dcmark
from dcmark.errors import OutputExistsError

HOSTILE = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>"


class _Page(HTMLParser):
    """Tags, addresses and text of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.addresses: list[str] = []
        self.handlers: list[str] = []
        self.words = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href")]
        self.handlers += [name for name, _ in attrs if name.startswith("on")]

    def handle_data(self, data: str) -> None:
        self.words += data


@pytest.fixture
def archive(tmp_path: Path, bundled: Path) -> dcmark.Archive:
    """Real files of several modalities, one with hostile text in its tags, one that is no image."""
    source = tmp_path / "in" / "set" / "p1" / "i1"
    source.mkdir(parents=True)
    for name in ("CT_small.dcm", "MR_small.dcm", "rtdose.dcm", "rtplan.dcm"):
        (source / name).write_bytes((bundled / name).read_bytes())
    hostile = pydicom.dcmread(bundled / "CT_small.dcm")
    hostile.PatientID, hostile.SeriesDescription = HOSTILE[:60], HOSTILE
    hostile.SOPInstanceUID += ".7"
    del hostile.RescaleSlope
    hostile.save_as(source / "hostile.dcm")
    (source / "notes.txt").write_text(HOSTILE)
    archive = dcmark.open_archive(tmp_path / "a.dcmark", create=True)
    dcmark.ingest(tmp_path / "in", archive)
    return archive


def test_page_is_self_contained_and_hostile_text_stays_text(archive: dcmark.Archive, tmp_path: Path) -> None:
    dcmark.report(archive, tmp_path / "r.html")
    page = _Page((tmp_path / "r.html").read_text("utf-8"))
    assert not page.handlers
    assert "script" not in page.tags
    assert "<script>alert(1)</script>" in page.words
    assert all(a.startswith(("#", "data:image/jpeg;base64,")) for a in page.addresses)


def test_page_says_what_the_archive_says(archive: dcmark.Archive, tmp_path: Path) -> None:
    dcmark.report(archive, tmp_path / "r.html")
    words = _Page((tmp_path / "r.html").read_text("utf-8")).words
    for row in dcmark.query(archive, "SELECT code, level FROM findings").to_pylist():
        assert row["code"] in words
    assert "CT without rescale" in words  # the one file whose slope was taken out
    assert "A patient folder with several Patient IDs" in words
    missing = words[words.index("Expected tags") :]
    assert re.search(r"RescaleSlope\s*50 %\s*1 of 2", missing)


def test_sheets_show_frames_of_the_archive_and_the_seed_repeats_them(archive: dcmark.Archive, tmp_path: Path) -> None:
    texts = []
    for name in ("a.html", "b.html"):
        dcmark.report(archive, tmp_path / name, seed=3)
        texts.append((tmp_path / name).read_text("utf-8"))
    assert texts[0] == texts[1]
    pictures = [base64.b64decode(p) for p in re.findall(r"data:image/jpeg;base64,([^\"]+)", texts[0])]
    assert len(pictures) >= 2
    assert all(np.ptp(imagecodecs.imread(picture).astype(int)) > 100 for picture in pictures)


def test_contact_sheets_as_pdf(archive: dcmark.Archive, tmp_path: Path) -> None:
    pytest.importorskip("reportlab")
    dcmark.report(archive, tmp_path / "r.html", pdf=tmp_path / "r.pdf")
    data = (tmp_path / "r.pdf").read_bytes()
    assert data.startswith(b"%PDF-")
    sheets = len(re.findall(r"data:image/jpeg", (tmp_path / "r.html").read_text("utf-8")))
    assert len(re.findall(rb"/Type /Page\b", data)) == sheets


def test_what_is_in_the_way_stays(archive: dcmark.Archive, tmp_path: Path) -> None:
    (tmp_path / "r.html").write_text("mine")
    with pytest.raises(OutputExistsError, match="overwrite"):
        dcmark.report(archive, tmp_path / "r.html")
    assert (tmp_path / "r.html").read_text() == "mine"
    dcmark.report(archive, tmp_path / "r.html", overwrite=True)
    assert "<title>" in (tmp_path / "r.html").read_text()


def test_an_empty_archive_has_a_page(tmp_path: Path) -> None:
    dcmark.report(dcmark.open_archive(tmp_path / "e.dcmark", create=True), tmp_path / "r.html")
    assert "Every file was taken apart" in (tmp_path / "r.html").read_text()
