"""The page on real images: a tour that looks at each kind, and takes the pictures of the documentation.

`DCMARK_PICTURES=docs/images python -m pytest -m long tests/browser/test_page_real.py`
"""

from __future__ import annotations

import io
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from page_tools import Server, at, colour_at, drag, get, go_to, marks, no_errors, post, runs, saved, until

pytestmark = [pytest.mark.long, pytest.mark.corpus]
SHOWN = {
    "Chest": "FNNDSC+data/dicom",
    "Chest 2": "derived/j2k-lossless-ct-series",
    "Brain": "AIM-Harvard+pyradiomics/data",
    "Heart": "fo-dicom+fo-dicom",
    "Slide": "niivue+niivue-demo-images",
    "Samples": "pydicom+pydicom-data",
}
"""Folders whose licences allow that they are shown, by what they show."""
LEFT_OUT = [
    *("*label*", "SC_*", "OT*", "HTJ2K*", "JLSL*", "bad_*", "emri*", "liver*", "vlut*", "param*"),
    *("693_*", "explicit_VR*", "JPEGwithIcon*"),
]
"""Test patterns and headers; and images of which it is not sure that they may be shown."""
SIZE = (512, 512)
LABELS = [("Lung", "#6fa8dc"), ("Vertebra", "#e2b45f"), ("Lesion", "#d9735e"), ("Heart", "#e08aa8")]


@pytest.fixture(scope="module")
def real(corpus: Path, launched: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """The page over real series."""
    import dcmark
    from dcmark.ingestion import ingest

    folder = tmp_path_factory.mktemp("real")
    for name, source in SHOWN.items():
        shutil.copytree(corpus / source, folder / "images" / name, ignore=shutil.ignore_patterns(*LEFT_OUT))
    archive = dcmark.open_archive(folder / "Teaching.dcmark", create=True)
    ingest(folder / "images", archive)
    server = Server(archive.path, author="Ada")
    context = launched.new_context(viewport={"width": 1440, "height": 860})
    context.set_default_timeout(20_000)
    page = context.new_page()
    with no_errors(page):
        page.goto(server.link)
        page.wait_for_selector(".card")
        made = [{"name": name, "color": color, "key": "", "code": None} for name, color in LABELS]
        script = """(set) => fetch("/api/labels", {method: "PUT", body: JSON.stringify(set),
          headers: {"X-Dcmark": "1", "Content-Type": "application/json"}}).then((answer) => answer.status)"""
        assert page.evaluate(script, {"name": "Teaching", "labels": made}) == 200
        page.reload()
        yield page
    context.close()
    server.end()


def open_(page: Any, where: Any) -> str:
    """Opens the first stack for which a condition holds."""
    item = next(one for one in get(page, "/api/worklist?limit=5000")["items"] if where(one))
    page.goto(f"{page.url.split('#')[0]}#/")
    page.wait_for_selector(".worklist")
    page.goto(f"{page.url.split('#')[0]}#/stack/{item['id']}")
    page.wait_for_selector(".view[data-ready]")
    page.wait_for_selector(".panel[data-loaded]")
    page.locator(".view").first.focus()
    return str(item["id"])


def picture(page: Any, pictures: Path | None, name: str) -> None:
    if pictures:
        page.wait_for_timeout(500)
        from PIL import Image

        shot = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
        shot.save(pictures / f"{name}.png", optimize=True)


def chest(item: dict[str, Any]) -> bool:
    return bool(item["modality"] == "CT" and item["frames"] == 100)


def label(page: Any, name: str) -> None:
    page.locator(".labels button.pick", has_text=name).click()
    page.locator(".view").first.focus()


def setting(page: Any, name: str, value: str) -> None:
    page.locator(f"#set-{name}").fill(value)
    page.locator(f"#set-{name}").press("Enter")
    page.locator(".view").first.focus()


def grow(page: Any, column: int, row: int, tolerance: int) -> None:
    """A region in three dimensions from a press."""
    before = page.locator(".marks").inner_text()
    page.keyboard.press("u")
    page.locator("#deep").check()
    setting(page, "tolerance", str(tolerance))
    page.mouse.click(*at(page, column, row, size=SIZE))
    until(page, "(old) => document.querySelector('.marks').innerText !== old", before)
    saved(page)


def test_a_chest(real: Any, pictures: Path | None) -> None:
    page = real
    name = open_(page, chest)
    go_to(page, 50)
    label(page, "Lung")
    grow(page, 150, 300, 260)
    page.keyboard.press("Shift+F")
    label(page, "Vertebra")
    grow(page, 245, 385, 170)
    page.keyboard.press("Shift+F")
    lung = next(one for one in marks(page, name) if one["label"]["name"] == "Lung")
    litres = (
        sum(sum(one["runs"][1::2]) for one in lung["mask"]["slices"])
        * np.prod(get(page, f"/api/stacks/{name}")["spacing"])
        / 1e6
    )
    assert 0.5 < litres < 6
    page.get_by_label("Window preset").select_option(label="Mediastinum")
    page.locator(".view").first.focus()
    label(page, "Heart")
    page.keyboard.press("c")
    drag(page, at(page, 205, 225, size=SIZE), at(page, 285, 300, size=SIZE))
    page.keyboard.press("m")
    drag(page, at(page, 113, 345, size=SIZE), at(page, 222, 345, size=SIZE))
    page.keyboard.press("s")
    page.mouse.click(*at(page, 205, 262, size=SIZE))
    page.mouse.move(*at(page, 150, 250, size=SIZE))
    saved(page)
    picture(page, pictures, "page-viewer")
    page.get_by_role("tab", name="Tags").click()
    page.locator(".tags tr").nth(20).wait_for()
    page.get_by_label("Search tags").fill("kvp")
    until(page, "document.querySelectorAll('.tags tr').length === 1")
    page.get_by_label("Search tags").fill("")
    page.get_by_role("tab", name="Labels").click()
    page.locator(".view").first.focus()
    page.keyboard.press("Alt+2")
    until(page, "document.querySelectorAll('.grid .view[data-ready]').length === 4", seconds=60)
    page.keyboard.press("q")
    assert page.locator(".cube-mode").inner_text() == "Volume"
    page.wait_for_timeout(3000 if pictures else 0)
    picture(page, pictures, "page-planes")
    page.keyboard.press("Alt+3")
    until(page, "document.querySelector('.view[data-ready=webgl], .view[data-ready=processor]') !== null", seconds=60)
    page.keyboard.press("?")
    page.locator("dialog[open]").wait_for()
    picture(page, pictures, "page-keys")
    page.keyboard.press("Escape")


def test_readers_of_a_chest(real: Any, pictures: Path | None) -> None:
    page = real
    name = open_(page, chest)
    go_to(page, 50)
    lung = next((one for one in marks(page, name) if one["label"]["name"] == "Lung"), None)
    if lung is None:
        pytest.skip("the tour of the chest did not come by")
    from scipy import ndimage

    disc = ndimage.iterate_structure(ndimage.generate_binary_structure(2, 2), 2)
    readers = {
        "Bea": ndimage.binary_fill_holes,
        "Cleo": lambda drawn: ndimage.binary_erosion(ndimage.binary_fill_holes(drawn), disc, iterations=2),
    }
    for author, reads in readers.items():
        slices = []
        for one in lung["mask"]["slices"][40:60]:
            drawn = np.zeros(512 * 512, bool)
            for start, length in zip(one["runs"][::2], one["runs"][1::2], strict=True):
                drawn[start : start + length] = True
            slices.append({"k": one["k"], "runs": runs(reads(drawn.reshape(512, 512)))})
        made = {"kind": "mask", "label": lung["label"], "mask": {"slices": slices}}
        post(page, name, [{"type": "add", "annotation": made}], author)
    label(page, "Lung")
    page.get_by_role("tab", name="Review").click()
    page.get_by_label("Comment").fill("Vessels at the hilum belong to the lung")
    page.get_by_label("Where readers differ").check()
    page.locator(".panel", has_text="Readers: Ada, Bea, Cleo").wait_for()
    picture(page, pictures, "page-review")
    page.get_by_label("Where readers differ").uncheck()


def test_a_brain_with_an_assistant(real: Any, pictures: Path | None) -> None:
    page = real
    name = open_(page, lambda item: "brain1_image" in item["description"])
    label(page, "Lesion")
    page.keyboard.press("Shift+S")
    box = page.locator(".view").first.bounding_box()
    zoom = min(box["width"], box["height"]) / 256
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    drag(page, (x + 57 * zoom, y + 12 * zoom), (x + 84 * zoom, y + 43 * zoom))
    page.locator(".proposal button", has_text="Accept").wait_for()
    assert marks(page, name) == []
    picture(page, pictures, "page-assist")
    page.locator(".view").first.focus()
    page.keyboard.press("Shift+Enter")
    (mark,) = marks(page, name)
    assert mark["label"]["name"] == "Lesion"


def test_side_by_side(real: Any, pictures: Path | None) -> None:
    page = real
    open_(page, chest)
    page.keyboard.press("Alt+4")
    page.locator("dialog .card", has_text="512 × 512 × 40").first.click()
    until(page, "document.querySelectorAll('.grid.beside .view[data-ready]').length === 2")
    picture(page, pictures, "page-beside")


def test_other_kinds(real: Any, pictures: Path | None) -> None:
    page = real
    for modality in ("CR", "MG", "US", "XA", "SM"):
        open_(page, lambda item, modality=modality: item["modality"] == modality)
        box = page.locator(".view").first.bounding_box()
        middle = [
            colour_at(page, box["x"] + box["width"] / 2 + x, box["y"] + box["height"] / 2 + y)
            for x in range(-120, 121, 30)
            for y in range(-120, 121, 30)
        ]
        assert len({tuple(one) for one in middle}) > 1, f"nothing is to be seen of {modality}"
    page.goto(f"{page.url.split('#')[0]}#/")
    page.wait_for_selector(".card")
    page.wait_for_timeout(1500 if pictures else 0)
    picture(page, pictures, "page-worklist")
