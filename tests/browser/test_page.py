"""The page in a real browser: seen, scrolled, painted, undone, reloaded, by two, without a mouse, without WebGL."""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from page_tools import no_errors, saved, until

ROOT = Path(__file__).parents[2]
NO_WEBGL = """
const get = HTMLCanvasElement.prototype.getContext;
HTMLCanvasElement.prototype.getContext = function (kind, ...more) {
  return kind === "webgl2" ? null : get.call(this, kind, ...more);
};
"""


@pytest.fixture
def page(context: Any, page_url: str) -> Iterator[Any]:
    """The page with the long stack open; it must log no error."""
    made = context.new_page()
    with no_errors(made):
        made.goto(page_url.partition("?")[0])
        made.wait_for_selector(".card")
        made.locator(".card").first.click()
        made.wait_for_selector(".view[data-ready]")
        made.wait_for_selector(".panel[data-loaded]")
        yield made
    made.close()


def slice_of(page: Any) -> int:
    return int(page.locator(".view").first.get_attribute("data-slice"))


def middle(page: Any) -> tuple[float, float]:
    box = page.locator(".view").first.bounding_box()
    return box["x"] + box["width"] / 2, box["y"] + box["height"] / 2


def count(page: Any) -> int:
    return int(page.locator(".marks").locator("..").locator("h2").inner_text().split("(")[1].rstrip(")"))


def paint(page: Any, dx: float = 0, dy: float = 0) -> None:
    """A stroke of a mask of its own."""
    x, y = middle(page)
    page.keyboard.press("b")
    page.keyboard.press("Shift+N")
    page.mouse.move(x + dx, y + dy)
    page.mouse.down()
    page.mouse.move(x + dx + 60, y + dy + 30, steps=6)
    page.mouse.up()


def test_the_page_is_small() -> None:
    """250 kB packed, with all it loads."""
    files = [one for one in (ROOT / "src/dcmark/web/static").rglob("*") if one.is_file()]
    assert files
    assert sum(len(gzip.compress(one.read_bytes())) for one in files) < 250_000


def test_files_that_are_still_read(context: Any, first_look: dict[str, Any]) -> None:
    """Work begins on the first slices; what is drawn on them moves on with them as the stack grows."""
    if not first_look:
        pytest.skip("the page is over another server")
    assert first_look["words"].startswith("Reading files")
    assert first_look["frames"] < 1000
    assert first_look["now"] != first_look["id"]
    (mark,) = first_look["marks"]
    assert mark["kind"] == "mask"
    assert len(mark["mask"]["slices"]) == 1


def test_scroll_and_window(page: Any) -> None:
    at = slice_of(page)
    page.mouse.move(*middle(page))
    page.mouse.wheel(0, 100)
    until(page, f"document.querySelector('.view').dataset.slice === '{at + 1}'")
    page.keyboard.press("PageDown")
    until(page, f"document.querySelector('.view').dataset.slice === '{at + 11}'")
    before = page.locator(".corner.br").first.inner_text()
    page.mouse.down(button="right")
    page.mouse.move(*(v + 40 for v in middle(page)), steps=4)
    page.mouse.up(button="right")
    until(page, "(old) => document.querySelector('.corner.br').innerText !== old", before)


def test_a_stroke_is_saved_undone_redone_and_there_after_a_reload(page: Any) -> None:
    before = count(page)
    paint(page)
    saved(page)
    assert count(page) == before + 1
    page.keyboard.press("Control+z")
    until(page, f"document.querySelector('.panel').innerText.includes('({before})')")
    page.keyboard.press("Control+y")
    until(page, f"document.querySelector('.panel').innerText.includes('({before + 1})')")
    page.reload()
    page.wait_for_selector(".panel[data-loaded]")
    assert count(page) == before + 1


def test_offline_loses_nothing(page: Any, context: Any) -> None:
    before = count(page)
    context.set_offline(True)
    paint(page, -100)
    try:
        page.wait_for_selector(".saving[data-state=offline]")
        paint(page, 60)
        assert count(page) == before + 2
    finally:
        context.set_offline(False)
    saved(page)
    page.reload()
    page.wait_for_selector(".panel[data-loaded]")
    assert count(page) == before + 2


def test_two_tabs_see_each_other(page: Any, context: Any) -> None:
    other = context.new_page()
    other.goto(page.url)
    other.wait_for_selector(".view[data-ready]")
    other.wait_for_selector(".panel[data-loaded]")
    before = count(other)
    page.bring_to_front()
    paint(page, 0, -80)
    saved(page)
    until(other, f"document.querySelector('.panel').innerText.includes('({before + 1})')")
    other.close()


def test_by_keyboard_alone(page: Any) -> None:
    before = count(page)
    page.keyboard.press("f")
    page.keyboard.press("b")
    page.keyboard.press("Shift+N")
    for _ in range(3):
        page.keyboard.press("Shift+ArrowRight")
    page.keyboard.press("Enter")
    for _ in range(5):
        page.keyboard.press("Shift+ArrowDown")
    page.keyboard.press("Enter")
    saved(page)
    assert count(page) == before + 1
    page.keyboard.press("?")
    page.wait_for_selector("dialog[open]")
    page.keyboard.press("Escape")
    assert page.locator("dialog").count() == 0


def test_contours_and_measures(page: Any) -> None:
    before = count(page)
    x, y = middle(page)
    page.keyboard.press("m")
    page.mouse.move(x - 60, y - 90)
    page.mouse.down()
    page.mouse.move(x + 60, y - 90, steps=4)
    page.mouse.up()
    page.keyboard.press("g")
    for dx, dy in ((60, 0), (120, -30), (140, 40)):
        page.mouse.click(x + dx, y + dy)
    page.keyboard.press("Shift+Enter")
    saved(page)
    assert count(page) == before + 2
    assert "mm" in page.locator(".marks").inner_text()


def test_planes_and_three_dimensions(page: Any) -> None:
    page.keyboard.press("Alt+2")
    until(page, "document.querySelectorAll('.grid .view[data-ready]').length === 4")
    names = [text.split("\n")[0] for text in page.locator(".corner.tl").all_inner_texts()]
    assert names[:3] == ["Axial", "Coronal", "Sagittal"]


def test_without_webgl(context: Any, page: Any) -> None:
    other = context.new_page()
    other.add_init_script(NO_WEBGL)
    other.goto(page.url)
    other.wait_for_selector(".view[data-ready]")
    other.keyboard.press("Alt+3")
    other.wait_for_selector(".view[data-ready=processor]", timeout=60_000)
    other.close()


def test_no_serious_fault_of_access(page: Any) -> None:
    program = ROOT / "frontend/node_modules/axe-core/axe.min.js"
    if not program.exists():
        pytest.skip("axe-core is not installed: npm ci in frontend/")
    page.evaluate(program.read_text("utf-8"))
    found = page.evaluate("axe.run()")["violations"]
    assert [one["id"] for one in found if one["impact"] in ("serious", "critical")] == []
    page.goto(page.url.partition("#")[0])
    page.wait_for_selector(".card")
    page.evaluate(program.read_text("utf-8"))
    found = page.evaluate("axe.run()")["violations"]
    assert [one["id"] for one in found if one["impact"] in ("serious", "critical")] == []
