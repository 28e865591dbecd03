"""What the tests of the page have in common: a server, ways about the page, and what the server has stored."""

from __future__ import annotations

import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from page_data import DEPTH, SIDE

LINK = re.compile(r"https?://\S+token=\w+")


class Server:
    """`dcmark annotate` in a process of its own."""

    def __init__(self, place: Path, port: int = 0, author: str = "Ada") -> None:
        command = [sys.executable, "-m", "dcmark", "annotate", str(place), "--no-browser"]
        command += ["--port", str(port), "--author", author]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        self.said: list[str] = []
        self.link = ""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.said.append(line)
            found = LINK.search(line)
            if found:
                self.link = found.group()
                break
        assert self.link, "".join(self.said)
        self.port = int(self.link.split(":")[2].split("/")[0])
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        self.said += self.process.stdout

    def end(self, kill: bool = False) -> None:
        """An orderly end, or a sudden one."""
        (self.process.kill if kill else self.process.terminate)()
        self.process.wait(20)
        self._reader.join(20)
        assert self.process.stdout is not None
        self.process.stdout.close()


def until(page: Any, expression: str, argument: Any = None, seconds: float = 30) -> None:
    """Waits in Python: Playwright's own waiting evaluates strings in the page, which the page's policy forbids."""
    end = time.monotonic() + seconds
    while not page.evaluate(expression, argument):
        assert time.monotonic() < end, f"never came: {expression}"
        time.sleep(0.03)


def saved(page: Any) -> None:
    """Everything that was drawn is acknowledged."""
    page.evaluate("new Promise((next) => requestAnimationFrame(() => requestAnimationFrame(next)))")
    until(page, "document.querySelector('.saving').dataset.state === 'saved'")


def get(page: Any, path: str) -> Any:
    """JSON that the server gives."""
    return page.request.get(f"{page.url.split('/#')[0].rstrip('/')}{path}").json()


def stack_id(page: Any, description: str) -> str:
    """The stack of a series."""
    items = get(page, "/api/worklist")["items"]
    return str(next(item["id"] for item in items if item["description"] == description))


def open_stack(page: Any, description: str, more: str = "") -> str:
    """Opens a stack afresh; its id."""
    name = stack_id(page, description)
    page.goto(f"{page.url.split('#')[0]}#/")
    page.wait_for_selector(".worklist")
    page.goto(f"{page.url.split('#')[0]}#/stack/{name}{more}")
    page.wait_for_selector(".view[data-ready]")
    page.wait_for_selector(".panel[data-loaded]")
    return name


def marks(page: Any, stack: str, query: str = "") -> list[dict[str, Any]]:
    """Annotations of a stack as the server has them."""
    saved(page)
    found: list[dict[str, Any]] = get(page, f"/api/stacks/{stack}/annotations{query}")["annotations"]
    return found


def voxels(mark: dict[str, Any]) -> NDArray[np.bool_]:
    """(slices, rows, columns) of a mask on the phantom."""
    out = np.zeros((DEPTH, SIDE * SIDE), bool)
    for one in mark["mask"]["slices"]:
        for start, length in zip(one["runs"][::2], one["runs"][1::2], strict=True):
            out[one["k"], start : start + length] = True
    return out.reshape(DEPTH, SIDE, SIDE)


def runs(bitmap: NDArray[np.bool_]) -> list[int]:
    """Starts and lengths, in turn."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], bitmap.ravel().astype(np.int8), [0]])))
    found: list[int] = np.stack([edges[::2], edges[1::2] - edges[::2]], axis=1).ravel().tolist()
    return found


def post(page: Any, stack: str, actions: list[dict[str, Any]], author: str = "") -> dict[str, Any]:
    """Tells the server something in another reader's name."""
    script = """async ([stack, actions, author]) => {
      const body = JSON.stringify({client: crypto.randomUUID(), based_on: null, actions, ...(author ? {author} : {})});
      const headers = {"X-Dcmark": "1", "Content-Type": "application/json"};
      const answer = await fetch(`/api/stacks/${stack}/events`, {method: "POST", body, headers});
      return {status: answer.status, ...await answer.json()};
    }"""
    found: dict[str, Any] = page.evaluate(script, [stack, actions, author])
    assert found["status"] == 201, found
    return found


def clear(page: Any, stack: str) -> None:
    """Removes all annotations of a stack."""
    there = marks(page, stack)
    if there:
        post(page, stack, [{"type": "remove", "id": one["id"]} for one in there])


def at(
    page: Any, column: float, row: float, view: int = 0, size: tuple[int, int] = (SIDE, SIDE)
) -> tuple[float, float]:
    """Where a pixel of a fitted, square-pixelled image (columns, rows) lies on the screen."""
    box = page.locator(".view").nth(view).bounding_box()
    zoom = min(box["width"] / size[0], box["height"] / size[1])
    x = box["x"] + box["width"] / 2 + (column + 0.5 - size[0] / 2) * zoom
    return x, box["y"] + box["height"] / 2 + (row + 0.5 - size[1] / 2) * zoom


def drag(page: Any, start: tuple[float, float], end: tuple[float, float], steps: int = 6) -> None:
    """From one place on the screen to another with the button down."""
    page.mouse.move(*start)
    page.mouse.down()
    page.mouse.move(*end, steps=steps)
    page.mouse.up()


def colour_at(page: Any, x: float, y: float, view: int = 0) -> list[int]:
    """What is drawn at a place on the screen."""
    script = """async ([n, x, y]) => {
      await new Promise((next) => requestAnimationFrame(() => requestAnimationFrame(next)));
      const canvas = document.querySelectorAll('.view')[n].querySelector('canvas');
      const box = canvas.getBoundingClientRect();
      const scale = canvas.width / box.width;
      return [...canvas.getContext('2d').getImageData((x - box.x) * scale, (y - box.y) * scale, 1, 1).data].slice(0, 3);
    }"""
    found: list[int] = page.evaluate(script, [view, x, y])
    return found


def go_to(page: Any, k: int) -> None:
    """To a slice, by the keyboard."""
    here = int(page.locator(".view").first.get_attribute("data-slice"))
    for _ in range(abs(k - here)):
        page.keyboard.press("ArrowDown" if k > here else "ArrowUp")
    until(page, "(k) => document.querySelector('.view').dataset.slice === String(k)", k)


@contextmanager
def no_errors(page: Any) -> Iterator[None]:
    """The page throws nothing, breaks no rule of its policy, and no text of a file is run."""
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("console", lambda one: errors.append(one.text) if "Content Security Policy" in one.text else None)
    yield
    assert page.evaluate("window.hurt") is None
    assert errors == []
