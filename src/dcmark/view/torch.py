"""Map-style PyTorch data sets over an archive, without an export: ``dcmark.torch``.

    frames = Frames("scans.dcmark", View(windows=("lung",), size=(256, 256)))
    loader = DataLoader(frames, batch_size=32, num_workers=2, multiprocessing_context="forkserver")

They are picklable and open the archive anew in every worker process. The order is that of the view, so a
``DistributedSampler`` deals the same images on every machine. Prefer forkserver or spawn: a forked worker reads through
a process of its own (see ``view.elsewhere``), which costs a copy of each image.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from dcmark.archive.store import Archive, open_archive
from dcmark.errors import DcmarkError
from dcmark.view.cache import Cache
from dcmark.view.elsewhere import Elsewhere, Readable
from dcmark.view.render import Plan, plan
from dcmark.view.view import View
from dcmark.view.volumes import values

__all__ = ["Cached", "Frames", "Volumes", "as_tensor"]


def as_tensor(image: Any) -> torch.Tensor:
    """An image (rows, columns[, channels]) as float32 (channels, rows, columns), brightness 0 to 1; floats stay."""
    planes = image[None] if image.ndim == 2 else np.moveaxis(image, -1, 0)
    tensor = torch.from_numpy(np.array(planes, np.float32))
    return tensor.mul_(1 / np.iinfo(image.dtype).max) if image.dtype.kind == "u" else tensor


def _label(label: int | tuple[float, ...]) -> torch.Tensor:
    return torch.tensor(label, dtype=torch.float32 if isinstance(label, tuple) else torch.int64)


class _Items:
    """Reads its items in this process, or in another one where this is a fork of the one that it was made in."""

    def __init__(self) -> None:
        self._process = os.getpid()
        self._away: Elsewhere | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_process": 0, "_away": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _process=os.getpid())

    def _read(self, indices: Sequence[int]) -> list[Any]:
        if self._process != os.getpid():
            self._process, self._away = os.getpid(), Elsewhere(self._reader())
        return self._reader().read(indices) if self._away is None else self._away.read(indices)

    def _reader(self) -> Readable:
        raise NotImplementedError


@dataclass(frozen=True, slots=True)
class _Rendered:
    """Images of a plan with their labels."""

    plan: Plan
    threads: int

    def read(self, indices: Sequence[int]) -> list[tuple[Any, Any]]:
        if len(indices) == 1:
            one = self.plan.render(indices[0])
            return [(one.image, one.label)]
        made: list[tuple[Any, Any]] = []
        for _, found in self.plan.each(indices, threads=self.threads):
            if isinstance(found, DcmarkError):
                raise found
            made.append((found.image, found.label))
        return made


class _Measured:
    """Volumes in physical values."""

    def __init__(self, archive: Archive, where: str | None, quantity: str | None, threads: int) -> None:
        self.archive, self.where, self.quantity, self.threads = archive, where, quantity, threads
        self.volumes: list[Any] = archive.volumes(where)
        self.ids = [volume.id for volume in self.volumes]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "volumes": []}

    def read(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        if not self.volumes:  # sent here from another process
            known = {volume.id: volume for volume in self.archive.volumes(self.where)}
            self.volumes = [known[name] for name in self.ids]
        made = []
        for index in indices:
            volume = self.volumes[index]
            found = values(volume, self.quantity, threads=self.threads)
            item = {"image": found.values, "id": volume.id, "quantity": found.quantity, "unit": found.unit}
            if volume.affine is not None:
                item["affine"] = np.array(volume.affine, np.float64)
            made.append(item)
        return made


class Frames(_Items, Dataset[Any]):
    """The images of a view: float32 tensors (channels, rows, columns), with their label where the view has any.

    An image is (tensor, label): a class as int64, a vector as float32. Batches are read and decoded together
    (``__getitems__``).
    """

    def __init__(
        self,
        archive: Archive | str | os.PathLike[str],
        view: View,
        transform: Callable[[torch.Tensor], Any] | None = None,
        *,
        threads: int = 1,
    ) -> None:
        """
        Args:
            archive: or its path.
            view: what to give.
            transform: of a tensor.
            threads: that decode a batch; more than one where there are no worker processes.

        Raises:
            As ``view.render.plan``.
        """
        super().__init__()
        self.plan = plan(archive, view)
        """What there is: records, labels, parts."""
        self._transform, self._threads = transform, threads

    def _reader(self) -> Readable:
        return _Rendered(self.plan, self._threads)

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, in the order of their numbers."""
        return self.plan.labels.classes

    def __len__(self) -> int:
        return len(self.plan)

    def __getitem__(self, index: int) -> Any:
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        return self._made(*self._read([index % len(self)])[0])

    def __getitems__(self, indices: Sequence[int]) -> list[Any]:
        """Several at once.

        Raises:
            DcmarkError: one cannot be given.
        """
        return [self._made(image, label) for image, label in self._read([int(index) for index in indices])]

    def _made(self, image: Any, label: Any) -> Any:
        tensor: Any = as_tensor(image)
        if self._transform is not None:
            tensor = self._transform(tensor)
        return tensor if label is None else (tensor, _label(label))


class Volumes(_Items, Dataset[Any]):
    """Volumes of an archive in physical values: ``{"image", "affine", "id", "quantity", "unit"}``.

    ``image`` is float32 (1, slices, rows, columns), NaN where a pixel has no value; ``affine`` float64 (4, 4), from
    (slice, row, column, 1) to mm in LPS, for volumes that have a place in the patient.
    """

    def __init__(
        self,
        archive: Archive | str | os.PathLike[str],
        where: str | None = None,
        quantity: str | None = None,
        transform: Callable[[dict[str, Any]], Any] | None = None,
        *,
        threads: int = 1,
    ) -> None:
        """
        Args:
            archive: or its path.
            where: SQL condition over the view ``volumes``.
            quantity: see docs/reference/values.md; None for the first that the headers define.
            transform: of an item.
            threads: that decode a volume.

        Raises:
            QueryError: the condition is refused.
        """
        super().__init__()
        archive = archive if isinstance(archive, Archive) else open_archive(archive)
        self._measured, self._transform = _Measured(archive, where, quantity, threads), transform

    def _reader(self) -> Readable:
        return self._measured

    def __len__(self) -> int:
        return len(self._measured.ids)

    def __getitem__(self, index: int) -> Any:
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        (item,) = self._read([index % len(self)])
        item["image"] = torch.from_numpy(item["image"])[None]
        if "affine" in item:
            item["affine"] = torch.from_numpy(item["affine"])
        return item if self._transform is None else self._transform(item)


class Cached(Dataset[Any]):
    """The images of a cache that ``dcmark view cache`` wrote; items as those of ``Frames``, labels as vectors."""

    def __init__(self, place: str | os.PathLike[str], transform: Callable[[torch.Tensor], Any] | None = None) -> None:
        """
        Raises:
            SourceError: there is no cache.
        """
        self.cache = Cache(place)
        self._transform = transform

    def __len__(self) -> int:
        return len(self.cache)

    def __getitem__(self, index: int) -> Any:
        tensor: Any = as_tensor(self.cache[index])
        if self._transform is not None:
            tensor = self._transform(tensor)
        return tensor if self.cache.labels is None else (tensor, torch.from_numpy(self.cache.labels[index].copy()))
