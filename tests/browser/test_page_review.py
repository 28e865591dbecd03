"""Several readers, and annotations that come and go as files."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from page_data import BALL, phantom
from page_tools import at, clear, colour_at, get, go_to, marks, open_stack, post, runs, saved, until, voxels

MIDDLE = 12


def mask(bitmap: Any, label: str = "Ball") -> dict[str, Any]:
    return {
        "type": "add",
        "annotation": {
            "kind": "mask", "label": {"name": label, "color": "#d9735e", "code": None},
            "mask": {"slices": [{"k": MIDDLE, "runs": runs(bitmap)}]},
        },
    }  # fmt: skip


@pytest.fixture
def two(desk: Any) -> Iterator[tuple[Any, str]]:
    """The phantom with a ball drawn by Ada (the user of the page) and one, moved by ten columns, by Bea."""
    name = open_stack(desk, "Phantom axial")
    clear(desk, name)
    ball = phantom()[MIDDLE] == BALL
    post(desk, name, [mask(ball)], "Ada")
    post(desk, name, [mask(np.roll(ball, 10, axis=1))], "Bea")
    open_stack(desk, "Phantom axial")
    desk.locator(".view").first.focus()
    go_to(desk, MIDDLE)
    yield desk, name
    clear(desk, name)


def test_accept_reject_and_comment(two: Any) -> None:
    page, name = two
    page.get_by_role("tab", name="Review").click()
    page.get_by_label("Comment").fill("too large")
    page.get_by_role("button", name="Reject Ball").first.click()
    page.get_by_label("Comment").fill("good")
    page.get_by_role("button", name="Accept Ball").last.click()
    found = marks(page, name)
    assert sorted((one["status"], one["comment"]) for one in found) == [("rejected", "too large"), ("reviewed", "good")]
    page.locator(".note", has_text="too large").wait_for()
    item = next(one for one in get(page, "/api/worklist")["items"] if one["id"] == name)
    assert item["state"] == "reviewed"
    page.get_by_role("button", name="Accept all").click()
    assert {one["status"] for one in marks(page, name)} == {"reviewed"}


def test_a_second_reader_is_blind(two: Any) -> None:
    page, name = two
    page.get_by_role("tab", name="Review").click()
    assert page.locator(".marks li").count() == 2
    page.get_by_label("Blind").check()
    until(page, "document.querySelectorAll('.marks li').length === 1")
    post(page, name, [mask(phantom()[MIDDLE] == BALL)], "Cleo")
    page.wait_for_timeout(600)
    assert page.locator(".marks li").count() == 1, "nothing of others comes in either"
    page.get_by_role("button", name="Reject all").click()
    found = {one["author"]: one["status"] for one in marks(page, name)}
    assert found == {"Ada": "rejected", "Bea": "draft", "Cleo": "draft"}
    page.get_by_label("Blind").uncheck()
    until(page, "document.querySelectorAll('.marks li').length === 3")


def test_where_readers_differ(two: Any) -> None:
    page, _ = two
    only_one, both = at(page, 64 - 11, 50), at(page, 64 + 5, 50)
    before = [colour_at(page, *place) for place in (only_one, both)]
    page.locator(".labels button.pick", has_text="Ball").click()
    page.get_by_role("tab", name="Review").click()
    page.get_by_label("Where readers differ").check()
    page.locator(".panel", has_text="Readers: Ada, Bea").wait_for()
    after = [colour_at(page, *place) for place in (only_one, both)]
    assert after[0] != before[0]
    assert after[1] == before[1]
    page.get_by_label("Where readers differ").uncheck()
    until(page, "!document.querySelector('.panel').innerText.includes('Readers:')")
    assert colour_at(page, *only_one) == before[0]


def test_export_and_import(two: Any, tmp_path: Path) -> None:
    pytest.importorskip("highdicom", reason="the extra annotate is not installed")
    page, name = two
    wanted = sorted(voxels(one).sum() for one in marks(page, name))
    files = {}
    for words in ("DICOM SEG", "COCO", "NIfTI"):
        page.get_by_role("button", name="More").click()
        with page.expect_download() as coming:
            page.get_by_role("button", name=f"Export as {words}").click()
        files[words] = tmp_path / coming.value.suggested_filename
        coming.value.save_as(files[words])
        assert files[words].stat().st_size > 100
    assert files["DICOM SEG"].read_bytes()[128:132] == b"DICM" or files["DICOM SEG"].suffix == ".zip"
    clear(page, name)
    until(page, "document.querySelectorAll('.marks li').length === 0")
    source = files["DICOM SEG"]
    if source.suffix == ".zip":
        import zipfile

        with zipfile.ZipFile(source) as packed:
            source = Path(packed.extract(packed.namelist()[0], tmp_path))
    page.get_by_role("button", name="More").click()
    page.get_by_role("button", name="Import annotations").click()
    page.get_by_label("Format").select_option("seg")
    page.get_by_label("File").set_input_files(source)
    page.get_by_role("button", name="Import", exact=True).click()
    page.locator("dialog", has_text="added").wait_for()
    page.keyboard.press("Escape")
    until(page, "document.querySelectorAll('.marks li').length > 0")
    found = sorted(voxels(one).sum() for one in marks(page, name))
    assert found
    assert set(found) <= set(wanted)
    saved(page)
    page.get_by_role("button", name="More").click()
    page.get_by_role("button", name="Import annotations").click()
    page.get_by_label("Format").select_option("coco")
    page.get_by_label("File").set_input_files({"name": "x.json", "mimeType": "text/plain", "buffer": b"not json"})
    page.get_by_role("button", name="Import", exact=True).click()
    page.locator("dialog [role=status]", has_text="expected").wait_for()
    page.keyboard.press("Escape")


def test_the_report_is_a_press_away(desk: Any) -> None:
    desk.goto(f"{desk.url.split('#')[0]}#/")
    desk.wait_for_selector(".card")
    with desk.expect_download() as coming:
        desk.get_by_role("button", name="Report").click()
    assert coming.value.suggested_filename == "report.html"
