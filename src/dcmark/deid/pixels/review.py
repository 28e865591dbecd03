"""A page to look at what was masked, and at what was held back for its pixels. It shows text that identifies."""

from __future__ import annotations

import base64
import io
import os
import threading
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from dcmark.deid.pixels.detector import Box, Grey
from dcmark.deid.pixels.frames import Pictures
from dcmark.errors import DcmarkError, StorageError

MOST = 300
"""Files on a page."""
SIDE = 420
"""Of a picture on it, pixels."""
_PAGE = """<!doctype html><html lang="en"><meta charset="utf-8"><title>Text in pixels</title><style>
body{font:14px/1.5 system-ui,sans-serif;background:#111417;color:#d8dde3}
body{margin:2rem auto;max-width:960px;padding:0 1rem}
h1{font-size:1.3rem}h2{font-size:1rem;margin:2rem 0 .5rem}p{color:#98a2ad}strong{color:#e5b35a}
figure{display:inline-block;margin:0 1rem 1rem 0;vertical-align:top}img{display:block;max-width:{{ side }}px}
figcaption{color:#98a2ad}</style>
<h1>Text in pixels</h1>
<p><strong>This page shows what identifies patients.</strong> Keep it where the originals are, and remove it when
all was looked at. {{ masked }} files were masked, {{ held }} held back{% if more %}; {{ more }} are not shown
{% endif %}.</p>
{% for one in entries %}<h2>{{ one.name }}</h2><p>{{ one.said }}</p>
{% for caption, picture in one.pictures %}<figure><img alt="{{ caption }}" src="data:image/png;base64,{{ picture }}">
<figcaption>{{ caption }}</figcaption></figure>{% endfor %}{% endfor %}</html>"""


@dataclass
class _Entry:
    name: str
    said: str
    pictures: list[tuple[str, str]] = field(default_factory=list)


class Review:
    """Gathers pictures while files are made clean; safe to use from threads."""

    def __init__(self) -> None:
        self._entries: list[_Entry] = []
        self._masked = self._held = 0
        self._lock = threading.Lock()

    def masked(self, name: str, before: Pictures, after: Pictures, boxes: list[Box]) -> None:
        """A file that was masked: the first frame before, with frames around the boxes, and after."""
        with self._lock:
            self._masked += 1
            wanted = len(self._entries) < MOST
        if wanted:
            shown = next(iter(before.shown())).copy()
            for box in boxes:
                shown[box.top : box.bottom, [box.left, box.right - 1]] = 255
                shown[[box.top, box.bottom - 1], box.left : box.right] = 255
            pictures = [("before", _png(shown)), ("after", _png(next(iter(after.shown()))))]
            entry = _Entry(name, f"{len(boxes)} places in {before.instance.frames} frames", pictures)
            with self._lock:
                self._entries.append(entry)

    def held(self, name: str, why: str, pictures: Pictures) -> None:
        """A file that was held back for its pixels."""
        entry = _Entry(name, f"held back: {why}")
        # What cannot be decoded cannot be shown; the reason stands there.
        with suppress(DcmarkError, StopIteration, ValueError, AttributeError, KeyError, TypeError):
            entry.pictures.append(("held back", _png(next(iter(pictures.shown())))))
        with self._lock:
            self._held += 1
            if len(self._entries) < MOST:
                self._entries.append(entry)

    def write(self, place: str | os.PathLike[str]) -> None:
        """The page, readable by its owner alone.

        Raises:
            StorageError: it cannot be written, or stands there already.
        """
        from jinja2 import Environment

        page = Environment(autoescape=True).from_string(_PAGE)
        entries = sorted(self._entries, key=lambda one: one.name)
        more = self._masked + self._held - len(entries)
        text = page.render(entries=entries, masked=self._masked, held=self._held, more=more, side=SIDE)
        try:
            with open(
                Path(place), "x", encoding="utf-8", opener=lambda path, flags: os.open(path, flags, 0o600)
            ) as out:
                out.write(text)
        except OSError as error:
            raise StorageError(
                f"expected to write a new page at {place}; the system refuses ({error.strerror})"
            ) from error


def _png(grey: Grey) -> str:
    from PIL import Image

    picture = Image.fromarray(np.ascontiguousarray(grey))
    picture.thumbnail((2 * SIDE, 2 * SIDE))
    out = io.BytesIO()
    picture.save(out, "PNG")
    return base64.b64encode(out.getvalue()).decode("ascii")
