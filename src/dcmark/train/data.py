"""What training reads: a map from a number to an image and its label, and three sources of such.

A view of an archive is such a source too; so is anything that keeps the contract of :class:`ImageData`.
Folders and zips follow the layout of the official StyleGAN data sets, 16-bit PNG added: any number of
subfolders with PNG files, and ``dataset.json`` with labels by file name, integers or vectors.
"""

from __future__ import annotations

import hashlib
import json
import math
import struct
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol, cast, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from dcmark.errors import DecodeError, LimitError, SourceError, UsageError

MAX_SIDE = 16384
"""Largest side of an image, pixels."""
MAX_JSON = 256 << 20
"""Largest ``dataset.json``, bytes."""
MEANING_FILE = "meaning.json"


@dataclass(frozen=True, slots=True)
class Meaning:
    """What the stored values of a data set stand for: physical = stored * slope + intercept.

    Attributes:
        low, high: stored values that a model sees as -1 and 1.
        slope, intercept: from stored to physical values.
        unit: of the physical values, such as ``HU``; empty where none is known.
        modality: Defined Term of Modality (0008,0060), such as ``CT``; empty where unknown.
        spacing_mm: between rows and between columns (PS3.3 10.7.1.3); None where unknown.
    """

    low: float
    high: float
    slope: float = 1.0
    intercept: float = 0.0
    unit: str = ""
    modality: str = ""
    spacing_mm: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        numbers = (self.low, self.high, self.slope, self.intercept, *(self.spacing_mm or ()))
        if not all(isinstance(n, (int, float)) and math.isfinite(n) for n in numbers):
            raise UsageError(
                "expected finite numbers for low, high, slope, intercept and spacing, found something else"
            )
        if not self.low < self.high or self.slope == 0:
            raise UsageError(
                f"expected low < high and a slope other than 0, found {self.low}, {self.high}, {self.slope}"
            )

    def to_model(self, stored: NDArray[Any]) -> NDArray[np.float32]:
        """Stored values to the nominal range of a model, -1 to 1; what lies outside is cut off."""
        scaled = (stored.astype(np.float32) - self.low) * (2 / (self.high - self.low)) - 1
        shown: NDArray[np.float32] = np.clip(scaled, -1, 1).astype(np.float32)
        return shown

    def to_stored(self, images: NDArray[Any]) -> NDArray[np.float32]:
        """The inverse of :meth:`to_model`, not rounded."""
        middle = (np.clip(images.astype(np.float32), -1, 1) + 1) / 2
        return (middle * (self.high - self.low) + self.low).astype(np.float32)

    def to_physical(self, images: NDArray[Any]) -> NDArray[np.float32]:
        """What a model made, -1 to 1, in physical values."""
        return (self.to_stored(images) * self.slope + self.intercept).astype(np.float32)

    def as_dict(self) -> dict[str, Any]:
        """As plain data, for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, found: Mapping[str, Any], **defaults: Any) -> Meaning:
        """From plain data, which may have been edited by hand.

        Raises:
            UsageError: a word or a value that is not expected.
        """
        unknown = sorted(set(found) - set(cls.__dataclass_fields__))
        if unknown:
            raise UsageError(f"expected the words {', '.join(cls.__dataclass_fields__)}, found {unknown[0]!r}")
        values = defaults | dict(found)
        spacing = values.get("spacing_mm")
        if spacing is not None:
            if not isinstance(spacing, (list, tuple)) or len(spacing) != 2:
                raise UsageError("expected spacing_mm to be two numbers, found something else")
            values["spacing_mm"] = (spacing[0], spacing[1])
        return cls(**values)


@runtime_checkable
class ImageData(Protocol):
    """A source of training images.

    Contract:
        * ``len(data)`` images; ``data[i]`` gives the same for the same i, from any thread.
        * An item is an image (channels, rows, columns) of ``shape``, of one type throughout (uint8,
          uint16, or floating point), and its label, float32 (labels,), or None where ``labels`` is 0.
        * ``hash`` changes whenever an image, a label or their order does.
    """

    shape: tuple[int, int, int]
    labels: int
    hash: str
    meaning: Meaning
    archive_version: str | None

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> tuple[NDArray[Any], NDArray[np.float32] | None]: ...


class _Items:
    """Encoded images behind names: what folders and zips have in common."""

    archive_version: str | None = None

    def __init__(
        self, names: list[str], read: Callable[[str], bytes], tables: Mapping[str, bytes], digest: str, where: Path
    ) -> None:
        if not names:
            raise SourceError(f"expected PNG images in {where}, found none")
        self._names, self._read, self.hash = names, read, digest
        first = _decode(read(names[0]), names[0])
        self.shape, self._dtype = cast("tuple[int, int, int]", first.shape), first.dtype
        top = float(np.iinfo(first.dtype).max)
        told = _json(tables.get(MEANING_FILE), MEANING_FILE) or {}
        self.meaning = Meaning.from_dict(told, low=0.0, high=top)
        self._labels = _labels(_json(tables.get("dataset.json"), "dataset.json"), names)
        self.labels = 0 if self._labels is None else self._labels.shape[1]

    def __len__(self) -> int:
        return len(self._names)

    def __getitem__(self, index: int) -> tuple[NDArray[Any], NDArray[np.float32] | None]:
        name = self._names[index]
        image = _decode(self._read(name), name, self.shape)
        if image.dtype != self._dtype:
            raise SourceError(
                f"expected all images to be {self._dtype} as the first one, found {image.dtype} in {name}"
            )
        return image, None if self._labels is None else self._labels[index]


def _json(raw: bytes | None, name: str) -> dict[str, Any] | None:
    if raw is None:
        return None
    try:
        found = json.loads(raw)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise SourceError(f"expected a JSON object in {name}, found something else; it may be cut off or edited")
    return found


def _labels(table: dict[str, Any] | None, names: list[str]) -> NDArray[np.float32] | None:
    """Labels (N, L) in the order of the names: integers become one-hot, vectors stay."""
    pairs = (table or {}).get("labels")
    if pairs is None:
        return None
    try:
        by_name = {str(name): label for name, label in pairs}
    except (TypeError, ValueError):
        raise SourceError('expected "labels" of dataset.json to be pairs of name and label, found others') from None
    missing = [name for name in names if name not in by_name]
    if missing:
        raise SourceError(f"expected a label for every image, found {len(missing)} without one, such as {missing[0]}")
    values = [by_name[name] for name in names]
    if all(isinstance(value, int) and not isinstance(value, bool) for value in values):
        if not 0 <= min(values) <= max(values) < 65536:
            raise SourceError("expected labels from 0 to 65535, found others")
        one_hot = np.zeros((len(values), max(values) + 1), dtype=np.float32)
        one_hot[np.arange(len(values)), values] = 1
        return one_hot
    try:
        vectors = np.asarray(values, dtype=np.float32)
    except (TypeError, ValueError):
        vectors = np.empty(0, dtype=np.float32)
    if vectors.ndim != 2 or not np.isfinite(vectors).all():
        raise SourceError("expected labels to be all integers, or all vectors of one length, found a mixture")
    return vectors


def _decode(raw: bytes, name: str, expected: tuple[int, ...] | None = None) -> NDArray[Any]:
    """A PNG as (channels, rows, columns); nothing is allocated for a size that does not fit."""
    import imagecodecs

    if raw[:8] != b"\x89PNG\r\n\x1a\n" or len(raw) < 33:
        raise SourceError(f"expected a PNG image, found something else in {name}")
    columns, rows = struct.unpack(">II", raw[16:24])
    if not 0 < columns <= MAX_SIDE or not 0 < rows <= MAX_SIDE:
        raise LimitError(f"expected sides of 1 to {MAX_SIDE} pixels, found {rows}x{columns} in {name}")
    if expected is not None and (rows, columns) != tuple(expected[1:]):
        wanted = f"{expected[1]}x{expected[2]}"
        raise SourceError(f"expected all images to be {wanted} as the first one, found {rows}x{columns} in {name}")
    try:
        image = imagecodecs.png_decode(raw)
    except (imagecodecs.PngError, ValueError, RuntimeError) as error:
        raise DecodeError(f"expected a whole PNG image, found a damaged one: {name}") from error
    image = np.ascontiguousarray(image[None] if image.ndim == 2 else image.transpose(2, 0, 1))
    if expected is not None and image.shape != tuple(expected):
        raise SourceError(f"expected all images to have {expected[0]} channels, found {image.shape[0]} in {name}")
    return image


class FolderImages(_Items):
    """PNG files of a folder and its subfolders, sorted by name."""

    def __init__(self, folder: Path) -> None:
        paths = {
            path.relative_to(folder).as_posix(): path
            for path in sorted(folder.rglob("*"))
            if path.is_file() and not path.is_symlink()
        }
        names = [name for name in paths if name.lower().endswith(".png")]
        digest = hashlib.sha256()
        tables: dict[str, bytes] = {}
        for name in (*names, "dataset.json", MEANING_FILE):
            if name in paths:
                raw = paths[name].read_bytes()
                digest.update(f"{name}\0{len(raw)}\0".encode() + hashlib.sha256(raw).digest())
                tables |= {} if name in names else {name: raw}
        super().__init__(names, lambda name: paths[name].read_bytes(), tables, digest.hexdigest(), folder)


class ZipImages(_Items):
    """PNG members of a zip, sorted by name, as the official StyleGAN3 data sets are."""

    def __init__(self, path: Path) -> None:
        import threading

        try:
            archive = zipfile.ZipFile(path)
        except (zipfile.BadZipFile, OSError) as error:
            raise SourceError(f"expected a zip of images, found something else: {path}") from error
        members = {info.filename: info for info in archive.infolist()}
        names = sorted(name for name in members if name.lower().endswith(".png"))
        lock = threading.Lock()  # a zip file has one position

        def read(name: str) -> bytes:
            # A member may unpack to no more than it could need, whatever it declares.
            most = MAX_JSON if name.endswith(".json") else 8 * MAX_SIDE**2
            try:
                with lock, archive.open(members[name]) as stream:
                    raw = stream.read(most + 1)
            except (zipfile.BadZipFile, OSError, NotImplementedError, RuntimeError, ValueError) as error:
                raise SourceError(f"expected a readable member, found a damaged one: {name}") from error
            if len(raw) > most:
                raise LimitError(f"expected a member of at most {most} bytes, found more in {name}")
            return raw

        tables = {name: read(name) for name in ("dataset.json", MEANING_FILE) if name in members}
        # The checksums of the members stand for their content; reading them all would take as long as an epoch.
        digest = hashlib.sha256()
        for name in (*names, *tables):
            digest.update(f"{name}\0{members[name].file_size}\0{members[name].CRC}\0".encode())
        super().__init__(names, read, tables, digest.hexdigest(), path)


class ArrayImages:
    """An array (N, rows, columns), (N, channels, rows, columns) or (N, rows, columns, channels)."""

    archive_version: str | None = None

    def __init__(
        self, images: NDArray[Any], labels: NDArray[Any] | None = None, meaning: Meaning | None = None
    ) -> None:
        """
        Args:
            images: uint8, uint16, int16 or floating point; the channels are looked for where at most 4 stand.
            labels: (N, L), or whole numbers (N,) that become one-hot.
            meaning: by default the whole range of whole numbers, or that of all values.

        Raises:
            UsageError: shapes or types are others.
        """
        if images.ndim == 3:
            images = images[:, None]
        elif images.ndim == 4 and images.shape[1] > 4 >= images.shape[3]:
            images = np.moveaxis(images, 3, 1)
        if images.ndim != 4 or not len(images) or images.dtype.kind not in "uif":
            raise UsageError(f"expected images (N, [channels,] rows, columns), found {images.shape} of {images.dtype}")
        self._images = images
        self._labels = None if labels is None else _label_array(np.asarray(labels), len(images))
        self.shape = cast("tuple[int, int, int]", images.shape[1:])
        self.labels = 0 if self._labels is None else self._labels.shape[1]
        if meaning is None and images.dtype.kind == "f":
            low, high = float(images.min()), float(images.max())
            if not (math.isfinite(low) and math.isfinite(high)):
                raise UsageError("expected finite values, found an image with NaN or infinity")
            meaning = Meaning(low, high if high > low else low + 1)
        elif meaning is None:
            info = np.iinfo(images.dtype)
            meaning = Meaning(float(info.min), float(info.max))
        self.meaning = meaning
        digest = hashlib.sha256(f"{images.shape}{images.dtype.str}".encode())
        for image in images:
            digest.update(np.ascontiguousarray(image).tobytes())
        if self._labels is not None:
            digest.update(self._labels.tobytes())
        self.hash = digest.hexdigest()

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> tuple[NDArray[Any], NDArray[np.float32] | None]:
        image = np.ascontiguousarray(self._images[index])
        return image, None if self._labels is None else self._labels[index]


def _label_array(labels: NDArray[Any], count: int) -> NDArray[np.float32]:
    if labels.ndim == 1 and labels.dtype.kind in "ui" and len(labels) and 0 <= labels.min() <= labels.max() < 65536:
        labels = np.eye(int(labels.max()) + 1, dtype=np.float32)[labels]
    if labels.ndim != 2 or len(labels) != count:
        raise UsageError(f"expected labels (N,) or (N, L) for {count} images, found {labels.shape}")
    return labels.astype(np.float32)


def open_images(path: Path) -> ImageData:
    """A folder of PNG files, a zip of them, or an ``.npy`` array (opened without unpickling).

    For an array, ``NAME.labels.npy`` and ``NAME.meaning.json`` beside it are read too.

    Raises:
        SourceError: nothing readable is there.
    """
    try:
        if path.is_dir():
            return FolderImages(path)
        if path.suffix.lower() == ".npy":
            images = np.load(path, mmap_mode="r", allow_pickle=False)
            beside = path.with_suffix(".labels.npy")
            labels = np.load(beside, allow_pickle=False) if beside.is_file() else None
            told = path.with_suffix(".meaning.json")
            if not told.is_file():
                return ArrayImages(images, labels)
            found = _json(told.read_bytes(), told.name) or {}
            return ArrayImages(images, labels, Meaning.from_dict(found))
        if path.is_file():
            return ZipImages(path)
    except (OSError, ValueError, TypeError, EOFError) as error:
        raise SourceError(f"expected readable images at {path}, found: {type(error).__name__}") from error
    raise SourceError(f"expected a folder of PNG files, a zip of them or an .npy file at {path}, found nothing")


class Padded:
    """Images put into the middle of a square whose side is a power of two; the rest is the lowest value.

    Attributes:
        mask: bool (rows, columns) of the square: True where there is image.
        within: where the image lies in the square: top, left, rows, columns.
    """

    def __init__(self, data: ImageData) -> None:
        self._data = data
        channels, rows, columns = data.shape
        side = max(1 << (max(rows, columns) - 1).bit_length(), 8)
        top, left = (side - rows) // 2, (side - columns) // 2
        self._place = (slice(top, top + rows), slice(left, left + columns))
        self.within = (top, left, rows, columns)
        self.shape = (channels, side, side)
        self.mask = np.zeros((side, side), dtype=bool)
        self.mask[self._place] = True
        self.labels, self.meaning, self.archive_version = data.labels, data.meaning, data.archive_version
        self.hash = hashlib.sha256(f"padded {side} {data.hash}".encode()).hexdigest()

    def __len__(self) -> int:
        return len(self._data)

    def __getitem__(self, index: int) -> tuple[NDArray[Any], NDArray[np.float32] | None]:
        image, label = self._data[index]
        whole = np.full(self.shape, self.meaning.low).astype(image.dtype)
        whole[:, *self._place] = image
        return whole, label
