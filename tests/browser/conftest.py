"""A browser, and the page over an archive: `dcmark annotate`, or what DCMARK_PAGE_URL names (`npm run dev`)."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

STYLE = {"width": 1440, "height": 860}


@pytest.fixture(scope="session")
def page_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A link that signs a browser in to an archive into which a thousand slices and some more are still read."""
    given = os.environ.get("DCMARK_PAGE_URL")
    if given:
        yield given
        return
    for name in ("starlette", "uvicorn"):
        pytest.importorskip(name, reason="the extra web is not installed")
    from page_data import long_ct, small
    from page_tools import Server

    folder = tmp_path_factory.mktemp("page") / "images"
    long_ct(folder / "long")
    small(folder / "small")
    server = Server(folder)
    yield server.link
    server.end()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def launched() -> Iterator[Any]:
    """Chromium without a GPU."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if program is None:
        pytest.skip("there is no Chromium")
    with playwright.sync_playwright() as running:
        options = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
        browser = running.chromium.launch(executable_path=program, args=options)
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def first_look() -> dict[str, Any]:
    """What the page showed while files were still read."""
    return {}


@pytest.fixture(scope="session")
def context(launched: Any, page_url: str, first_look: dict[str, Any]) -> Iterator[Any]:
    """A browser that is signed in."""
    from page_tools import marks, until

    made = launched.new_context(viewport=STYLE)
    made.set_default_timeout(20_000)
    first = made.new_page()
    first.goto(page_url)
    first.wait_for_selector(".card")
    if not os.environ.get("DCMARK_PAGE_URL"):
        first_look["words"] = first.locator(".ingest").inner_text() if first.locator(".ingest").is_visible() else ""
        first.locator(".card").first.click()
        first.wait_for_selector(".view[data-ready]")
        first.wait_for_selector(".panel[data-loaded]")
        first_look["frames"] = int(first.locator(".corner.tl").inner_text().split("/")[1].split()[0])
        first_look["id"] = first.url.split("/stack/")[1]
        first.keyboard.press("b")
        box = first.locator(".view").bounding_box()
        first.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
        first.mouse.down()
        first.mouse.move(box["x"] + box["width"] / 2 + 40, box["y"] + box["height"] / 2, steps=3)
        first.mouse.up()
        until(first, "document.querySelector('.ingest').hidden", seconds=120)
        until(first, "document.querySelector('.corner.tl').innerText.includes('/ 1000')", seconds=60)
        first.wait_for_selector(".panel[data-loaded]")
        first_look["now"] = first.url.split("/stack/")[1]
        first_look["marks"] = marks(first, first_look["now"])
    first.close()
    yield made
    made.close()


@pytest.fixture(scope="module")
def desk(context: Any, page_url: str) -> Iterator[Any]:
    """One page for all tests of a module, on small stacks."""
    from page_tools import no_errors

    made = context.new_page()
    with no_errors(made):
        made.goto(page_url.partition("?")[0])
        made.wait_for_selector(".card")
        yield made
    made.close()


@pytest.fixture(scope="session")
def pictures() -> Path | None:
    """Where screenshots go, if anywhere: DCMARK_PICTURES."""
    given = os.environ.get("DCMARK_PICTURES")
    return Path(given) if given else None
