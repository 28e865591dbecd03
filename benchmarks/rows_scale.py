"""A million frames in one archive, and one ingest on several workers."""

from __future__ import annotations

import io
import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import pydicom

import dcmark
from benchmarks.measure import cost, gone, in_turns, middle, size_of
from benchmarks.table import Row, Setting, section
from dcmark import engine as engines
from dcmark.archive.compact import compact
from dcmark.sharded import ingest_sharded
from dcmark.testing.builders import minimal

SINGLES, MULTI, FRAMES = 20_000, 980, 1000
"""Files of one frame, files of many, and frames in each of those: a million frames."""
PATIENTS = 200
QUICK = 20
"""A quick run has that many times fewer."""
OLD_NS = 1_700_000_000_000_000_000
RANDOM_READS = 2000

INGEST = """
import json, os, sys, time
import dcmark
from dcmark.progress import NoProgress

total = int(sys.argv[3])

class Tenths(NoProgress):
    done, seen = 0, []
    def note(self):
        page = os.sysconf("SC_PAGE_SIZE")
        rss = int(open("/proc/self/statm").read().split()[1]) * page if os.path.exists("/proc/self/statm") else 0
        self.seen.append((self.done, time.process_time(), time.perf_counter(), rss))
    def start(self, task, total, unit="files"):
        self.note()
    def advance(self, units=1, nbytes=0):
        self.done += units
        if self.done * 10 // total > (self.done - units) * 10 // total:
            self.note()

tenths = Tenths()
archive = dcmark.open_archive(sys.argv[2], create=True)
began = time.process_time(), time.perf_counter()
dcmark.ingest(sys.argv[1], archive, threads=2, progress=tenths)
ended = time.process_time(), time.perf_counter()
print(json.dumps({"tenths": tenths.seen, "cpu": ended[0] - began[0], "wall": ended[1] - began[1]}))
"""
FIRST_ANSWER = """
import sys, time
import dcmark, lance, duckdb, pyarrow
from dcmark.archive import query
began = time.perf_counter()
archive = dcmark.open_archive(sys.argv[1])
archive.count("files")
opened = time.perf_counter()
dcmark.query(archive, "SELECT patient, count(*) FROM files WHERE modality = 'CT' AND instance_number < 10 GROUP BY 1")
print(opened - began, time.perf_counter() - opened)
"""


def million(folder: Path, part: int = 1) -> tuple[Path, int, int]:
    """``folder/<patient>/*.dcm`` of small synthetic slices and multi-frame files; files and frames written."""
    chance = np.random.default_rng(1)
    ramp = np.add.outer(np.arange(64), np.arange(64)).astype(np.uint16) * 8
    singles, multi = SINGLES // part // PATIENTS * PATIENTS, MULTI // part
    files = 0
    for patient in range(PATIENTS):
        place = folder / f"P{patient:04d}"
        place.mkdir(parents=True)
        for number in range(singles // PATIENTS):
            pixels = ramp + chance.integers(0, 16, (64, 64), np.uint16)
            _write(place / f"{number:05d}.dcm", patient, 1, number, pixels)
            files += 1
        for number in range(patient * multi // PATIENTS, (patient + 1) * multi // PATIENTS):
            pixels = ramp[None, :32, :32] // 8 + chance.integers(0, 8, (FRAMES, 32, 32), np.uint16)
            _write(place / f"many{number:05d}.dcm", patient, 2, number, pixels.astype(np.uint8))
            files += 1
    return folder, files, singles + multi * FRAMES


_TEMPLATE = minimal()


def _write(place: Path, patient: int, series: int, number: int, pixels: np.ndarray) -> None:
    made = pydicom.dcmread(io.BytesIO(_TEMPLATE))
    made.PatientID = made.PatientName = f"P{patient:04d}"
    made.Modality = "CT" if series == 1 else "US"
    made.StudyInstanceUID = f"2.25.8{patient:04d}"
    made.SeriesInstanceUID = f"2.25.8{patient:04d}{series}{number if series == 2 else ''}"
    made.SOPInstanceUID = made.file_meta.MediaStorageSOPInstanceUID = f"2.25.8{patient:04d}{series}{number:05d}"
    made.SeriesNumber, made.InstanceNumber = series, number + 1
    made.Rows, made.Columns = pixels.shape[-2:]
    if pixels.ndim == 3:
        made.NumberOfFrames = len(pixels)
    made.BitsAllocated = made.BitsStored = pixels.dtype.itemsize * 8
    made.HighBit, made.PixelRepresentation, made.SamplesPerPixel = made.BitsStored - 1, 0, 1
    made.PhotometricInterpretation = "MONOCHROME2"
    if series == 1:
        made.ImagePositionPatient, made.ImageOrientationPatient = [0, 0, number], [1, 0, 0, 0, 1, 0]
        made.PixelSpacing = [1, 1]
    made.PixelData = pixels.tobytes()
    made.save_as(place, enforce_file_format=True)
    os.utime(place, ns=(OLD_NS + number,) * 2)


def _python(script: str, *arguments: object) -> str:
    command = [sys.executable, "-c", script, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


@section("scale", "A million frames, and several workers")
def scale_rows(setting: Setting) -> Iterator[Row]:
    """One archive of small frames: what changes with its size."""
    part = QUICK if setting.turns <= 2 else 1
    source, files, frames = million(setting.folder / "million", part)
    place = setting.folder / "million.dcmark"
    ran = json.loads(_python(INGEST, source, gone(place), files))
    tenths = ran["tenths"]
    size = f"{files:,} files, {frames:,} frames, {size_of(source) / 1e9:.1f} GB"
    yield Row("ingest, processor time a frame", ran["cpu"] / frames * 1e6, "µs", note=f"{size}; {ran['wall']:.0f} s")
    each = [later[1] - earlier[1] for earlier, later in pairwise(tenths)]
    note = f"processor time of each tenth: {', '.join(f'{one:.1f}' for one in each)} s"
    yield Row("the last fifth of an ingest beside the first", sum(each[-2:]) / sum(each[:2]), "x", 1.15, "most", note)
    early, late = tenths[2][3] / 1e6, tenths[-1][3] / 1e6
    note = f"{early:.0f} MB after two tenths, {late:.0f} MB at the end"
    why = "bounded, not flat: what Lance knows of the tables grows with their commits, as in the section on memory"
    yield Row("memory at the end of an ingest beside two tenths", late / early, "x", 1.15, "most", note, why)
    yield from _answers(setting, place, "as ingested")
    yield from _random(setting, place, source)
    archive = dcmark.open_archive(place)
    took = cost(lambda: compact(archive))
    yield Row("dcmark compact", took.wall, "s", note=f"{size_of(place) / 1e9:.2f} GB with the old version")
    yield from _answers(setting, place, "compacted, with indexes")
    took = cost(lambda: dcmark.verify(dcmark.open_archive(place), threads=2))
    yield Row("verify, processor time a frame", took.cpu / frames * 1e6, "µs", note=f"{took.wall:.0f} s on two threads")
    gone(place)
    gone(source)
    yield from _workers(setting)


def _answers(setting: Setting, place: Path, state: str) -> Iterator[Row]:
    found = [tuple(map(float, _python(FIRST_ANSWER, place).split())) for _ in range(max(3, setting.turns))]
    opened, answered = (sorted(one[i] for one in found)[len(found) // 2] for i in (0, 1))
    yield Row(f"opening, {state}", opened, "s", 1, "most", "in a new process, after imports")
    yield Row(f"a query over tags, {state}", answered, "s", 1, "most", "the first one in a new process")


def _random(setting: Setting, place: Path, source: Path) -> Iterator[Row]:
    small = setting.folder / "small.dcmark"
    patients = sorted(source.iterdir())[:10]
    dcmark.ingest(patients, dcmark.open_archive(gone(small), create=True))

    def reads(archive: dcmark.Archive, digests: list[str]) -> None:
        for digest in digests:
            _ = dcmark.frame(archive, digest, 0).stored

    works = {}
    for name, where in (("large", place), ("small", small)):
        archive = dcmark.open_archive(where)
        chosen = dcmark.query(archive, "SELECT sha256 FROM files WHERE modality = 'CT' ORDER BY sha256")
        digests = random.Random(3).sample(chosen["sha256"].to_pylist(), min(RANDOM_READS, len(chosen)))
        works[name] = lambda archive=archive, digests=digests: cost(lambda: reads(archive, digests))
    count = {name: min(RANDOM_READS, SINGLES) for name in works}
    count["small"] = min(RANDOM_READS, dcmark.open_archive(small).count("files"))
    found = in_turns(works, setting.turns)
    each = {name: middle(turns) / count[name] * 1e3 for name, turns in found.items()}
    note = f"{each['large']:.3f} ms and {each['small']:.3f} ms, {count['large']:,} and {count['small']:,} frames"
    yield Row("a random frame beside one of a small archive", each["large"] / each["small"], "x", 1.2, "most", note)
    gone(small)


def _workers(setting: Setting) -> Iterator[Row]:
    source = setting.folder / "patients"
    for number, file in enumerate(sorted(setting.slices[1000].glob("*.dcm"))):
        target = source / f"P{number // 50:03d}" / file.name
        target.parent.mkdir(parents=True, exist_ok=True)
        os.link(file, target)
    place = setting.folder / "w.dcmark"

    def ingest(engine: engines.Engine) -> None:
        ingest_sharded([source], dcmark.open_archive(gone(place), create=True), engine)

    kinds: list[tuple[str, engines.EngineName, int]] = [
        ("processes, one", "local", 1), ("processes, two", "local", 2),
        ("Dask, one", "dask", 1), ("Dask, two", "dask", 2),
    ]  # fmt: skip
    times: dict[str, list[float]] = {name: [] for name, _, _ in kinds}
    for _ in range(min(3, setting.turns)):
        for name, kind, workers in kinds:
            engine: engines.Engine = (
                engines.ProcessEngine(workers) if kind == "local" else engines.DaskEngine(None, workers)
            )
            try:
                ingest(engine)  # starts the workers and their imports
                began = time.perf_counter()
                ingest(engine)
                times[name].append(time.perf_counter() - began)
            finally:
                engine.close()
    best = {name: min(found) for name, found in times.items()}
    for label in ("processes", "Dask"):
        one, two = best[f"{label}, one"], best[f"{label}, two"]
        note = f"wall clock, {one:.2f} s and {two:.2f} s, workers warm, the best of {len(times['Dask, one'])}"
        yield Row(f"ingest on two workers ({label}), times as fast as on one", one / two, "x", 1.7, "least", note)
    ratio = best["Dask, two"] / best["processes, two"]
    yield Row("Dask beside processes of this machine, two workers", ratio, "x", 1.1, "most")
    gone(place)
    gone(source)
