"""Ingest, restore and random frames, beside the codec alone and beside other programs."""

from __future__ import annotations

import hashlib
import random
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pydicom
from numpy.typing import NDArray

import dcmark
from benchmarks.measure import (
    Cost,
    command_cost,
    cost,
    emptied,
    gone,
    in_turns,
    middle,
    middle_ratio,
    peak_bytes,
    size_of,
)
from benchmarks.peers import peers
from benchmarks.table import Row, Setting, section

RANDOM_FRAMES = 300
TOO_SLOW = "a process starts in 0.6 s, mostly imports of Lance and Arrow, which a short series does not repay"
TOO_LARGE = "noise does not shrink: see below what lossless codecs make of these pixels, and in what time"
INGEST = """
import sys, dcmark
dcmark.ingest(sys.argv[1], dcmark.open_archive(sys.argv[2], create=True), threads=2)
"""


class Bare:
    """The pixels of a series and what a codec makes of them, without a program around."""

    def __init__(self, source: Path) -> None:
        self.files = [path.read_bytes() for path in sorted(source.glob("*.dcm"))]
        first = pydicom.dcmread(sorted(source.glob("*.dcm"))[0])
        self.shape = first.Rows, first.Columns
        self.kind = np.dtype("<i2" if first.PixelRepresentation else "<u2")
        self.packed: list[bytes] = []

    def pixels(self, data: bytes) -> NDArray[Any]:
        """The slice at the end of a file."""
        count = self.shape[0] * self.shape[1]
        return np.frombuffer(data, self.kind, count, len(data) - 2 * count).reshape(self.shape)

    def hash_encode_decode(self) -> None:
        """The least an ingest that proves its work has to do."""
        self.packed = []
        for data in self.files:
            hashlib.sha256(data).digest()
            packed = imagecodecs.htj2k_encode(self.pixels(data), reversible=True)
            imagecodecs.htj2k_decode(packed)
            self.packed.append(bytes(packed))

    def decode_hash_write(self, out: Path) -> None:
        """The least a restore that proves its work has to do."""
        emptied(out)
        for number, (data, packed) in enumerate(zip(self.files, self.packed, strict=True)):
            pixels = imagecodecs.htj2k_decode(packed).data.cast("B")
            header = data[: len(data) - len(pixels)]
            digest = hashlib.sha256(header)
            digest.update(pixels)
            with (out / f"{number}.dcm").open("wb") as stream:
                stream.write(header)
                stream.write(pixels)


INGEST_WHY = "what is left above the codec is Arrow rows, checksums and writing; within the noise of this machine"
MEMORY_WHY = (
    "bounded, not flat: with 20,000 files of 128 x 128 and nothing else, the process grows from 193 to 325 MB while "
    "tables get their commits; finding volumes adds 30 MB"
)


@section("archive", "The archive, 1,000 CT slices")
def archive_rows(setting: Setting) -> Iterator[Row]:
    """Against the codec alone; each side on one thread unless said otherwise."""
    source, place, out = setting.slices[1000], setting.folder / "a.dcmark", setting.folder / "out"
    bare = Bare(source)

    def ingest(threads: int) -> Cost:
        archive = dcmark.open_archive(gone(place), create=True)
        return cost(lambda: dcmark.ingest(source, archive, threads=threads))

    works = {"bare": lambda: cost(bare.hash_encode_decode), "one": lambda: ingest(1), "two": lambda: ingest(2)}
    found = in_turns(works, setting.turns)
    ratio = middle_ratio(found["one"], found["bare"])
    note = f"{middle(found['one']):.2f} s beside {middle(found['bare']):.2f} s of processor time, bytes in memory"
    yield Row("ingest / (SHA-256 + HTJ2K encode + decode)", ratio, "x", 1.25, "most", note, INGEST_WHY)
    one, two = (min(turn.wall for turn in found[name]) for name in ("one", "two"))
    note = f"wall clock, {one:.2f} s and {two:.2f} s, the best of {setting.turns} turns each"
    why = "wall clock holds what else the machine did; look at its load above"
    yield Row("ingest on two threads, times as fast as on one", one / two, "x", 1.6, "least", note, why)

    archive = dcmark.open_archive(place)

    def restore() -> Cost:
        gone(out)
        return cost(lambda: dcmark.restore(archive, out, threads=1))

    turns = in_turns({"bare": lambda: cost(lambda: bare.decode_hash_write(out)), "ours": restore}, setting.turns)
    ratio = middle_ratio(turns["ours"], turns["bare"])
    note = f"{middle(turns['ours']):.2f} s beside {middle(turns['bare']):.2f} s of processor time"
    yield Row("restore / (decode + SHA-256 + write)", ratio, "x", 1.25, "most", note)

    again = in_turns({"again": lambda: cost(lambda: dcmark.ingest(source, archive))}, setting.turns)
    faster = middle(found["one"]) / middle(again["again"])
    note = f"{middle(again['again']) * 1e3:.0f} ms of processor time"
    yield Row("ingest again, nothing changed: times as fast", faster, "x", 50, "least", note)
    yield from _random_frames(setting, place, bare)


def _random_frames(setting: Setting, place: Path, bare: Bare) -> Iterator[Row]:
    archive = dcmark.open_archive(place)
    digests = archive.read("files", ["sha256"])["sha256"].to_pylist()
    wanted = random.Random(1).sample(digests, min(RANDOM_FRAMES, len(digests)))
    packed = bare.packed[: len(wanted)]

    def decode() -> None:
        for payload in packed:
            imagecodecs.htj2k_decode(payload)

    def frames(archive: dcmark.Archive) -> None:
        for digest in wanted:
            _ = dcmark.frame(archive, digest, 0).stored

    def first() -> Cost:
        fresh = dcmark.open_archive(place)
        dcmark.frame(fresh, digests[0], 0)
        return cost(lambda: frames(fresh))

    works = {"bare": lambda: cost(decode), "again": lambda: cost(lambda: frames(archive)), "first": first}
    found = in_turns(works, setting.turns)
    ours, bares = (middle(found[name]) / len(wanted) * 1e3 for name in ("again", "bare"))
    speed, note = middle_ratio(found["bare"], found["again"]), f"{ours:.2f} ms beside {bares:.2f} ms"
    yield Row("one random frame, speed of bare decode", speed, "x", 0.85, "least", note)
    speed = middle_ratio(found["bare"], found["first"])
    yield Row("the same, of a file that was not asked for before", speed, "x", note="its row is read first")


@section("peers", "Beside other programs")
def peer_rows(setting: Setting) -> Iterator[Row]:
    """Whole programs from start to end, processor time."""
    script = Path(sys.executable).with_name("dcmark")
    ours = [str(script)] if script.exists() else [sys.executable, "-m", "dcmark"]
    there, absent = peers()
    for count in (100, 1000):
        source, place, out = setting.slices[count], setting.folder / "p.dcmark", setting.folder / "peer"
        turns = setting.turns if count == 100 else 1
        own = [command_cost([*ours, "ingest", "-q", source, gone(place)]) for _ in range(max(turns, 3))]
        stored = size_of(place)
        note = f"{stored / 1e6:.1f} MB on disk, {size_of(source) / 1e6:.0f} MB before"
        yield Row(f"dcmark ingest, {count:,} slices", middle(own), "s", note=note)
        for peer in there:
            what = f"{peer.name}, {count:,} slices"
            try:
                costs = [command_cost(peer.on(source, emptied(out))) for _ in range(turns)]
            except (RuntimeError, OSError) as error:
                yield Row(what, None, note=f"did not run: {error}")
                continue
            size = size_of(out)
            note = f"{middle(costs):.1f} s, {size / 1e6:.1f} MB"
            yield Row(f"times as fast as {what}", middle(costs) / middle(own), "x", 2, "least", note, TOO_SLOW)
            yield Row(f"size beside {what}", stored / size, "x", 0.65, "most", "", TOO_LARGE)
    for name, why in absent.items():
        yield Row(f"times as fast as {name}", None, note=why)
    yield from _sizes(setting)


def _sizes(setting: Setting) -> Iterator[Row]:
    """What lossless codecs make of these very pixels: what size could be had, and for how much time."""
    bare = Bare(setting.slices[100])
    images = [np.ascontiguousarray(bare.pixels(data)) for data in bare.files[::10]]
    lowest = min(int(image.min()) for image in images)
    images = [(image.astype(np.int32) - lowest).astype(np.uint16) for image in images]
    codecs: dict[str, Callable[[NDArray[Any]], Any]] = {
        "zlib, level 6": lambda image: imagecodecs.zlib_encode(image.tobytes(), 6),
        "HTJ2K": lambda image: imagecodecs.htj2k_encode(image, reversible=True),
        "JPEG-LS": imagecodecs.jpegls_encode,
        "JPEG 2000": lambda image: imagecodecs.jpeg2k_encode(image, reversible=True, codecformat="j2k"),
        "JPEG XL, effort 7": lambda image: imagecodecs.jpegxl_encode(image, lossless=True, effort=7),
    }
    zlib = 0
    for name, encode in codecs.items():
        packed: list[bytes] = []
        try:
            took = cost(partial(_encode, encode, images, packed))
        except (ValueError, RuntimeError, ImportError) as error:
            yield Row(f"{name}: size beside zlib", None, note=type(error).__name__)
            continue
        size = sum(map(len, packed))
        zlib = zlib or size
        note = f"encodes a slice in {took.cpu / len(images) * 1e3:.1f} ms"
        yield Row(f"{name}: size beside zlib", size / zlib, "x", note=note)


def _encode(encode: Callable[[NDArray[Any]], Any], images: Sequence[NDArray[Any]], packed: list[bytes]) -> None:
    packed.extend(map(encode, images))


@section("memory", "Memory of an ingest, two threads")
def memory_rows(setting: Setting) -> Iterator[Row]:
    """Peak resident memory of the whole process."""
    place = setting.folder / "m.dcmark"
    small = peak_bytes(INGEST, setting.slices[1000], gone(place)) / 1e6
    yield Row("1,000 slices", small, "MB", 600, "most")
    if setting.long is None:
        yield Row("20,000 slices", None, note="left out of a quick run")
        return
    large = peak_bytes(INGEST, setting.long, gone(place)) / 1e6
    archive = dcmark.open_archive(place)
    yield Row("20,000 slices", large, "MB", 600, "most")
    yield Row("20,000 slices beside 1,000", large / small, "x", 1.15, "most", missed=MEMORY_WHY)
    tables = [place / f"{name}.lance" for name in ("files", "frames", "paths")]
    versions = sum(1 for table in tables for _ in (table / "_versions").glob("*.manifest"))
    book = sum(size_of(table / part) for table in tables for part in ("_versions", "_transactions"))
    frames = archive.table("frames")
    pieces = len(frames.get_fragments()) if frames is not None else 0
    note = f"{versions} versions of three tables are kept, {book / 1e6:.1f} MB beside {size_of(place) / 1e6:.0f} MB"
    yield Row("pieces of the table of frames at 20,000 slices", pieces, "", note=note)
    gone(place)
