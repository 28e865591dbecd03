"""The window of a whole series where its files name none, so that equal values look alike in all its slices."""

from __future__ import annotations

import re
from collections.abc import Sequence
from threading import Lock
from typing import Any

import numpy as np

from dcmark.archive.store import Archive
from dcmark.errors import DcmarkError, UsageError
from dcmark.read.windows import NAMED, AnyWindow, Window, pick, robust_window
from dcmark.view.export.base import Selected
from dcmark.view.frames import Frame, frame

LOOKED_AT = 7
"""Frames of a series that its window is found from."""


class Windows:
    """Which window a frame is shown with; safe to ask from several threads.

    Args:
        archive: the frames are in.
        chosen: all that are to be shown.
        asked: a name, ``CENTRE/WIDTH``, or None for the header's first.

    Raises:
        UsageError: no such window.
    """

    def __init__(self, archive: Archive, chosen: Sequence[Selected], asked: str | None) -> None:
        self._archive, self._asked = archive, parse(asked)
        self._lock = Lock()
        self._found: dict[str, AnyWindow | None] = {}
        self._of_series: dict[str, list[Selected]] = {}
        for one in chosen:
            self._of_series.setdefault(_series(one), []).append(one)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_lock"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._lock = Lock()

    def of(self, one: Frame, selected: Selected) -> AnyWindow | str | None:
        """The window; None where the frame has colours, or is alone in its series."""
        if self._asked is not None:
            return self._asked
        if one.stored.ndim != 2 or pick(one.dataset, one.number, None) is not None:
            return None
        series = _series(selected)
        with self._lock:
            if series not in self._found:
                self._found[series] = self._look(self._of_series[series])
            return self._found[series]

    def _look(self, frames: list[Selected]) -> AnyWindow | None:
        if len(frames) == 1:
            return None
        values = []
        for place in np.unique(np.linspace(0, len(frames) - 1, LOOKED_AT).astype(int)):
            try:
                one = frame(self._archive, frames[place].sha256, frames[place].number)
                if one.stored.ndim == 2:
                    values.append(one.physical().values)
            except DcmarkError:
                continue  # told where it is exported
        return robust_window(values) if values else None


def _series(one: Selected) -> str:
    return one.row["series_instance_uid"] or one.sha256


def parse(asked: str | None) -> Window | str | None:
    """A window as the user writes it.

    Raises:
        UsageError: it is none.
    """
    if asked is None or asked.lower() in NAMED:
        return asked.lower() if asked else None
    found = re.fullmatch(r"(-?\d+(?:\.\d+)?)/(\d+(?:\.\d+)?)", asked.replace(" ", ""))
    if not found or float(found[2]) <= 0:
        raise UsageError(f"expected one of {', '.join(NAMED)} or CENTRE/WIDTH such as -600/1500; found {asked!r}")
    return Window(float(found[1]), float(found[2]))
