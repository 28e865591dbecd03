"""Training images straight from an archive: what a view has in it, rendered as it is asked for."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dcmark.errors import UsageError
from dcmark.train.data import Meaning
from dcmark.view.cache import image_type, vectors
from dcmark.view.export.sets import meaning
from dcmark.view.render import plan
from dcmark.view.view import View


class ViewImages:
    """The images of a view of an archive; an ``ImageData``.

    ``hash`` is of the view, of what it chose and of the labels: other files or annotations in the archive change it.
    """

    def __init__(self, archive: Path, view: View) -> None:
        """
        Args:
            archive: its path.
            view: with a size.

        Raises:
            UsageError: the view has no size, or chooses nothing; others as ``view.render.plan``.
        """
        if view.size is None:
            raise UsageError("expected a view with a size to train on; found none; save it with --size 256")
        self._plan = plan(archive, view)
        self.shape = (view.channels, *view.size)
        labels = self._plan.labels
        self._labels = vectors(labels, list(labels.values)) if labels.values else None
        self.labels = 0 if self._labels is None else labels.dimensions
        top = 1.0 if view.bits == 32 else float(np.iinfo(image_type(view)).max)
        self.meaning = Meaning.from_dict(meaning(view) or {}, low=0.0, high=top)
        self.archive_version: str | None = self._plan.version
        digest = hashlib.sha256(view.hash.encode())
        for one in self._plan.chosen:
            digest.update(f"{one.sha256} {one.number}\n".encode())
        if self._labels is not None:
            digest.update(self._labels.tobytes())
        self.hash = digest.hexdigest()

    def __len__(self) -> int:
        return len(self._plan)

    def __getitem__(self, index: int) -> tuple[NDArray[Any], NDArray[np.float32] | None]:
        image = self._plan.render(index).image
        planes = image[None] if image.ndim == 2 else np.moveaxis(image, -1, 0)
        return np.ascontiguousarray(planes), None if self._labels is None else self._labels[index]
