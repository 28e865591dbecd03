"""The server ends, in order or by force, and comes back: nothing that was drawn is lost, and undo goes on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from page_data import small
from page_tools import Server, at, drag, marks, no_errors, open_stack, until

PAGES = 2
STROKES = 6


@pytest.fixture(autouse=True)
def _installed(launched: Any) -> None:
    for name in ("starlette", "uvicorn"):
        pytest.importorskip(name, reason="the extra web is not installed")


def signed_in(context: Any, link: str) -> Any:
    page = context.new_page()
    page.goto(link)
    page.wait_for_selector(".card")
    return page


def stroke(page: Any, column: float, row: float) -> None:
    page.keyboard.press("b")
    page.keyboard.press("Shift+N")
    drag(page, at(page, column, row), at(page, column + 6, row), steps=2)


def test_a_kill_loses_nothing_and_undo_goes_on(launched: Any, tmp_path: Path) -> None:
    folder = small(tmp_path / "images", hostile=False)
    server = Server(folder)
    context = launched.new_context(viewport={"width": 900, "height": 700})
    first = signed_in(context, server.link)
    until(first, "document.querySelector('.ingest').hidden")
    pages = [first, *(signed_in(context, server.link.partition("?")[0]) for _ in range(PAGES - 1))]
    for page in pages:
        name = open_stack(page, "Phantom axial")
        page.keyboard.press("b")
    for n in range(STROKES):
        for place, page in enumerate(pages):
            page.bring_to_front()
            stroke(page, 20 + 14 * n, 20 + 30 * place)
        if n == STROKES // 2:
            server.end(kill=True)
    for page in pages:
        page.wait_for_selector(".saving[data-state=offline]")
    again = Server(tmp_path / "images.dcmark", port=server.port)
    # The new server knows no old cookie: the page says so and keeps all until it is signed in again.
    for page in pages:
        page.evaluate("window.dispatchEvent(new Event('online'))")
        page.wait_for_selector(".saving[data-state=stopped]")
    first.goto(again.link)
    first.wait_for_selector(".bar")
    for page in pages:
        page.goto(again.link.partition("?")[0])
        page.wait_for_selector(".bar")
    open_stack(first, "Phantom axial")
    with no_errors(first):
        for _ in range(100):
            found = marks(first, name)
            if len(found) == PAGES * STROKES:
                break
            first.wait_for_timeout(100)
        assert len(found) == PAGES * STROKES, "each stroke once"
        again.end()
        third = Server(tmp_path / "images.dcmark", port=server.port)
        first.goto(third.link)
        first.wait_for_selector(".card")
        open_stack(first, "Phantom axial")
        for left in (PAGES * STROKES - 1, PAGES * STROKES - 2):
            first.keyboard.press("Control+z")
            until(first, "(n) => document.querySelector('.panel').innerText.includes(`(${n})`)", left)
        first.keyboard.press("Control+y")
        until(first, "(n) => document.querySelector('.panel').innerText.includes(`(${n})`)", PAGES * STROKES - 1)
        assert len(marks(first, name)) == PAGES * STROKES - 1
    context.close()
    third.end()
