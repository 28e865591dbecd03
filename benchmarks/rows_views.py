"""Training sets: how fast one is written, and how fast images are read back, beside other ways."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.measure import cost, in_turns
from benchmarks.table import Row, Setting, section

SIDE = 256
LOW, HIGH = -1350.0, 149.0
"""Of the lung window, HU."""
BATCH = 32
WHY = "0.3 s of planning (SQL, volumes), then decoding and PNG alone take 70 % of what a slice costs on two threads"


def _archive(setting: Setting) -> Any:
    import dcmark

    place = setting.folder / "views.dcmark"
    if place.exists():
        return dcmark.open_archive(place)
    archive = dcmark.open_archive(place, create=True)
    dcmark.ingest([setting.slices[1000]], archive).raise_for_errors()
    return archive


def _view() -> Any:
    from dcmark.view.view import View

    return View(windows=("lung",), size=(SIDE, SIDE))


def _wall(costs: Any) -> float:
    return float(np.median([one.wall for one in costs]))


def _timed(ways: dict[str, Callable[[], object]], turns: int) -> Any:
    return in_turns({name: partial(cost, work) for name, work in ways.items()}, turns)


@section("sets", "A lung-window set of 256 x 256 PNG files from 1,000 CT slices, wall clock")
def set_rows(setting: Setting) -> Iterator[Row]:
    """The whole set, decoding, windowing, resizing and PNG included."""
    archive, target = _archive(setting), setting.folder / "sets"
    target.mkdir(exist_ok=True)
    source = sorted(setting.slices[1000].iterdir())

    def dcmark_set(threads: int) -> None:
        from dcmark.view.export.stylegan3 import export_stylegan3

        export_stylegan3(archive, target / "dcmark.zip", view=_view(), threads=threads, overwrite=True)

    ways: dict[str, Callable[[], object]] = {
        "dcmark export stylegan3, two threads": partial(dcmark_set, 2),
        "dcmark export stylegan3, one thread": partial(dcmark_set, 1),
        "pydicom + Pillow script": partial(_pydicom_set, source, target / "pydicom.zip"),
    }
    absent: dict[str, str] = {}
    try:
        ways["MONAI pipeline"] = _monai_set(source, target / "monai.zip")
    except ImportError as error:
        absent["MONAI pipeline"] = f"not installed ({error.name})"
    found = _timed(ways, max(2, setting.turns // 2))
    own = _wall(found["dcmark export stylegan3, two threads"])
    sizes = {place.stem: place.stat().st_size / 1e6 for place in target.glob("*.zip")}
    for name, costs in found.items():
        yield Row(name, _wall(costs), "s")
    for name, least in (("pydicom + Pillow script", 5.0), ("MONAI pipeline", 3.0)):
        if name in found:
            size = sizes["pydicom" if "pydicom" in name else "monai"]
            note = f"sets of {sizes['dcmark']:.0f} and {size:.0f} MB"
            yield Row(f"times as fast as {name}", _wall(found[name]) / own, "x", least, "least", note, WHY)
        else:
            yield Row(f"times as fast as {name}", None, note=absent[name])


def _pydicom_set(source: list[Path], target: Path) -> None:
    import pydicom
    from PIL import Image

    with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as archive:
        for number, path in enumerate(source):
            dataset = pydicom.dcmread(path)
            hu = dataset.pixel_array * float(dataset.RescaleSlope) + float(dataset.RescaleIntercept)
            level = np.clip((hu - LOW) / (HIGH - LOW), 0, 1) * 255
            image = Image.fromarray(level.astype(np.uint8)).resize((SIDE, SIDE), Image.Resampling.BOX)
            stream = io.BytesIO()
            image.save(stream, "png")
            archive.writestr(f"{number:08d}.png", stream.getvalue())


def _monai_set(source: list[Path], target: Path) -> Callable[[], None]:
    from monai.data import PydicomReader
    from monai.transforms import Compose, EnsureChannelFirst, LoadImage, Resize, ScaleIntensityRange
    from PIL import Image

    pipeline = Compose(
        [
            LoadImage(reader=PydicomReader(swap_ij=False), image_only=True),
            EnsureChannelFirst(),
            ScaleIntensityRange(LOW, HIGH, 0, 255, clip=True),
            Resize((SIDE, SIDE), mode="area"),
        ]
    )

    def run() -> None:
        with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as archive:
            for number, path in enumerate(source):
                image = np.asarray(pipeline(str(path)))[0].astype(np.uint8)
                stream = io.BytesIO()
                Image.fromarray(image).save(stream, "png")
                archive.writestr(f"{number:08d}.png", stream.getvalue())

    return run


@section("loading", "Reading images for training: 1,000 of 256 x 256, in a drawn order, wall clock")
def loading_rows(setting: Setting) -> Iterator[Row]:
    """One process each, so that what is measured is the reader and not the queue between processes."""
    import imagecodecs

    archive = _archive(setting)
    count = archive.count("frames")
    payloads = archive.payloads(range(count))
    try:
        import torch
        from torch.utils.data import DataLoader

        from dcmark.torch import Frames, View

        whole = Frames(archive, View(windows=(), bits=32))
        small = Frames(archive, _view())
    except ImportError as error:
        yield Row("DataLoader over the archive", None, note=f"not installed ({error.name})")
        return

    def codec() -> None:
        for payload in payloads:
            imagecodecs.htj2k_decode(payload)

    def epoch(frames: Any) -> None:
        for _ in DataLoader(frames, batch_size=BATCH, shuffle=True, generator=torch.Generator().manual_seed(0)):
            pass

    found = _timed(
        {"codec": codec, "whole": partial(epoch, whole), "small": partial(epoch, small)}, max(2, setting.turns // 2)
    )
    bare = _wall(found["codec"])
    yield Row("bare codec (HTJ2K), 512 x 512, one thread", bare, "s")
    yield Row(
        "DataLoader over the archive, HU of 512 x 512: speed of the codec",
        bare / _wall(found["whole"]),
        "x",
        0.85,
        "least",
        f"{_wall(found['whole']):.2f} s",
        "decoding, then 1 MB of float32 an image to be filled and stacked into batches in fresh memory",
    )
    yield Row(
        "DataLoader over the archive, lung window, 256 x 256: speed of the codec",
        bare / _wall(found["small"]),
        "x",
        0.85,
        "least",
        f"{_wall(found['small']):.2f} s",
        "HU, window and resize of a slice cost as much as half of its decoding",
    )
    yield from _stored(setting, archive)


def _stored(setting: Setting, archive: Any) -> Iterator[Row]:
    from dcmark.view.cache import Cache, write_cache

    folder = setting.folder / "stored"
    folder.mkdir(exist_ok=True)
    write_cache(archive, folder / "cache", view=_view(), overwrite=True)
    images = np.array(np.load(folder / "cache.npy"))
    np.save(folder / "plain.npy", images)
    plain = np.load(folder / "plain.npy", mmap_mode="r")
    cache = Cache(folder / "cache.npy")
    order = np.random.default_rng(0).permutation(len(images))

    def read(get: Callable[[int], NDArray[Any]]) -> None:
        for index in order:
            np.array(get(int(index)))

    ways: dict[str, Callable[[], object]] = {
        "a bare numpy memmap": partial(read, lambda index: plain[index]),
        "the cache of dcmark": partial(read, lambda index: cache[index]),
    }
    absent: dict[str, str] = {}
    for name, make in {"WebDataset": _webdataset, "TFRecord": _tfrecord, "MDS": _mds, "Zarr v3": _zarr}.items():
        try:
            ways[name] = make(folder, images, order)
        except ImportError as error:
            absent[name] = f"not installed ({error.name})"
    found = _timed(ways, 2 * setting.turns)
    bare, own = _wall(found["a bare numpy memmap"]), _wall(found["the cache of dcmark"])
    note = f"{own * 1000:.1f} ms beside {bare * 1000:.1f} ms"
    yield Row("cache: speed of a bare numpy memmap", bare / own, "x", 0.8, "least", note)
    for name in ("WebDataset", "TFRecord", "MDS", "Zarr v3"):
        if name in absent:
            yield Row(f"cache: times as fast as {name}", None, note=absent[name])
        else:
            told = "in stored order" if name in ("WebDataset", "TFRecord") else "in the drawn order"
            note = f"{_wall(found[name]) * 1000:.1f} ms, {told}"
            yield Row(f"cache: times as fast as {name}", _wall(found[name]) / own, "x", 1.0, "least", note)


def _webdataset(folder: Path, images: NDArray[Any], order: NDArray[Any]) -> Callable[[], object]:
    import webdataset

    del order
    with webdataset.TarWriter(str(folder / "set.tar")) as writer:
        for number, image in enumerate(images):
            writer.write({"__key__": f"{number:08d}", "npy": image})

    def run() -> None:
        for sample in webdataset.WebDataset(str(folder / "set.tar"), shardshuffle=False).decode():
            np.array(sample["npy"])

    return run


def _tfrecord(folder: Path, images: NDArray[Any], order: NDArray[Any]) -> Callable[[], object]:
    import tfrecord

    del order
    writer = tfrecord.TFRecordWriter(str(folder / "set.tfrecord"))
    for image in images:
        writer.write({"data": (image.tobytes(), "byte")})
    writer.close()

    def run() -> None:
        for sample in tfrecord.tfrecord_loader(str(folder / "set.tfrecord"), None, {"data": "byte"}):
            np.frombuffer(bytes(sample["data"]), np.uint8).reshape(images.shape[1:])

    return run


def _mds(folder: Path, images: NDArray[Any], order: NDArray[Any]) -> Callable[[], object]:
    from streaming import LocalDataset, MDSWriter

    target = folder / "mds"
    with MDSWriter(out=str(target), columns={"image": "ndarray:uint8"}, exist_ok=True) as writer:
        for image in images:
            writer.write({"image": image})
    data = LocalDataset(str(target))

    def run() -> None:
        for index in order:
            np.array(data[int(index)]["image"])

    return run


def _zarr(folder: Path, images: NDArray[Any], order: NDArray[Any]) -> Callable[[], object]:
    import zarr

    stored = zarr.create_array(
        str(folder / "set.zarr"), shape=images.shape, chunks=(1, *images.shape[1:]), dtype="u1", overwrite=True
    )
    stored[:] = images
    data = zarr.open_array(str(folder / "set.zarr"), mode="r")

    def run() -> None:
        for index in order:
            np.array(data[int(index)])

    return run
