"""Map-style PyTorch data sets over an archive, without an export: ``dcmark.torch``.

    frames = Frames("scans.dcmark", View(windows=("lung",), size=(256, 256)))
    loader = DataLoader(frames, batch_size=32, num_workers=2, multiprocessing_context="forkserver")

They are picklable and open the archive anew in every worker process, however it was started. The order is that of the
view, so a ``DistributedSampler`` deals the same images on every machine. Forkserver or spawn are preferred: Lance warns
of fork.
"""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from dcmark.archive.store import Archive, open_archive
from dcmark.errors import DcmarkError
from dcmark.view.cache import Cache
from dcmark.view.render import Item, Plan, plan
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


class _OwnProcess:
    """Knows whether it was made in this process; what Lance opened before a fork is not used after it."""

    def __init__(self) -> None:
        self._process = os.getpid()

    def _foreign(self) -> bool:
        if self._process == os.getpid():
            return False
        self._process = os.getpid()
        return True


class Frames(_OwnProcess, Dataset[Any]):
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
        self._plan = plan(archive, view)
        self._transform, self._threads = transform, threads

    @property
    def plan(self) -> Plan:
        """What there is: records, labels, parts."""
        if self._foreign():
            self._plan = pickle.loads(pickle.dumps(self._plan))  # noqa: S301  our own bytes, made here
        return self._plan

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, in the order of their numbers."""
        return self._plan.labels.classes

    def __len__(self) -> int:
        return len(self._plan)

    def __getitem__(self, index: int) -> Any:
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        return self._made(self.plan.render(index % len(self)))

    def __getitems__(self, indices: Sequence[int]) -> list[Any]:
        """Several at once.

        Raises:
            DcmarkError: one cannot be given.
        """
        made: list[Any] = []
        for _, found in self.plan.each([int(index) for index in indices], threads=self._threads):
            if isinstance(found, DcmarkError):
                raise found
            made.append(self._made(found))
        return made

    def _made(self, item: Item) -> Any:
        tensor: Any = as_tensor(item.image)
        if self._transform is not None:
            tensor = self._transform(tensor)
        return tensor if item.label is None else (tensor, _label(item.label))


class Volumes(_OwnProcess, Dataset[Any]):
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
        self._archive = archive if isinstance(archive, Archive) else open_archive(archive)
        self._where, self._quantity, self._transform, self._threads = where, quantity, transform, threads
        self._volumes: list[Any] = self._archive.volumes(where)
        self._ids = [volume.id for volume in self._volumes]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_volumes": [], "_process": 0}

    def __len__(self) -> int:
        return len(self._ids)

    def __getitem__(self, index: int) -> Any:
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        if self._foreign():
            self._archive = open_archive(self._archive.path)
            known = {volume.id: volume for volume in self._archive.volumes(self._where)}
            self._volumes = [known[name] for name in self._ids]
        volume = self._volumes[index]
        found = values(volume, self._quantity, threads=self._threads)
        item = {
            "image": torch.from_numpy(found.values)[None],
            "id": volume.id,
            "quantity": found.quantity,
            "unit": found.unit,
        }
        if volume.affine is not None:
            item["affine"] = torch.from_numpy(np.array(volume.affine, np.float64))
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
