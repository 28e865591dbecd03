"""A volume of 1,000 CT slices as HU: from the archive, beside the bare codec and the programs that read DICOM.

    python -m benchmarks.rows_values [SLICES]

Every contestant gives the same array: float32, HU, in the order of positions (checked on one slice in ten). Each is
run once to warm up (files in the page cache, libraries imported), then all of them in turn, and the median counts.
The bare codec decodes payloads that lie in memory and throws its result away: nothing that gives an array is faster.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from benchmarks import series

Load = Callable[[], NDArray[Any] | None]
SLOW = 2
"""Turns of a contestant that takes more than five times as long as the bare codec."""


class Row(NamedTuple):
    """One line of the table.

    what: was done.
    seconds: median of the turns, wall clock.
    ratio: of the bare codec's seconds to these: 1 is as fast as decoding alone.
    note: why it was not run, or what differs.
    """

    what: str
    seconds: float
    ratio: float
    note: str = ""


def rows(count: int = 1000, turns: int = 5) -> list[Row]:
    """The table; empty where the real slices it is made from are not there."""
    slices = series.real_slices()
    if not slices:
        return []
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "series"
        series.grow(slices, source, count)
        return list(_rows(source, Path(folder) / "series.dcmark", count, turns))


def _rows(source: Path, place: Path, count: int, turns: int) -> Iterator[Row]:
    import imagecodecs

    import dcmark
    from dcmark.view.values import stack_values

    archive = dcmark.open_archive(place, create=True)
    dcmark.ingest([str(source)], archive).raise_for_errors()
    found = archive.read("files", ["sha256", "image_position_patient"]).to_pylist()
    keys = [(row["sha256"], 0) for row in sorted(found, key=lambda row: row["image_position_patient"][2])]
    payloads = archive.payloads(range(count))

    def bare() -> None:
        for payload in payloads:
            imagecodecs.htj2k_decode(payload)

    expected = stack_values(archive, keys, "hu").values
    memory = np.empty_like(expected)
    contestants: dict[str, Load] = {
        "bare codec (HTJ2K), one thread": bare,
        "dcmark, one thread, memory at hand": lambda: stack_values(archive, keys, "hu", out=memory).values,
        "dcmark, two threads, memory at hand": lambda: stack_values(archive, keys, "hu", threads=2, out=memory).values,
        "dcmark, one thread": lambda: stack_values(archive, keys, "hu").values,
        "dcmark, two threads": lambda: stack_values(archive, keys, "hu", threads=2).values,
    }
    peers, absent = _peers(source)
    contestants |= peers
    seconds: dict[str, list[float]] = {}
    for what, load in list(contestants.items()):
        result = load()
        if result is not None and not _same(result, expected):
            absent[what] = "gives other values"
            del contestants[what]
    del result
    for turn in range(turns):
        for what, load in contestants.items():
            slow = turn and seconds[what][0] > 5 * seconds["bare codec (HTJ2K), one thread"][0]
            if slow and turn >= SLOW:
                continue
            start = time.perf_counter()
            load()
            seconds.setdefault(what, []).append(time.perf_counter() - start)
    floor = float(np.median(seconds["bare codec (HTJ2K), one thread"]))
    for what, found_seconds in seconds.items():
        middle = float(np.median(found_seconds))
        yield Row(what, middle, floor / middle)
    for what, why in absent.items():
        yield Row(what, float("nan"), float("nan"), why)


def _same(found: NDArray[Any], expected: NDArray[np.float32]) -> bool:
    return found.shape == expected.shape and np.array_equal(found[::10], expected[::10])


def _peers(source: Path) -> tuple[dict[str, Load], dict[str, str]]:
    """The programs that are installed, and why the others are not run."""
    loaders = {
        "SimpleITK, from DICOM": _simpleitk,
        "dicom2nifti, from DICOM": _dicom2nifti,
        "MONAI (PydicomReader), from DICOM": _monai,
    }
    peers: dict[str, Load] = {}
    absent: dict[str, str] = {}
    for what, make in loaders.items():
        try:
            peers[what] = make(source)
        except ImportError as error:
            absent[what] = f"not installed ({error.name})"
    return peers, absent


def _simpleitk(source: Path) -> Load:
    import SimpleITK

    def load() -> NDArray[Any]:
        reader = SimpleITK.ImageSeriesReader()
        reader.SetFileNames(SimpleITK.ImageSeriesReader.GetGDCMSeriesFileNames(str(source)))
        reader.SetOutputPixelType(SimpleITK.sitkFloat32)
        found: NDArray[Any] = SimpleITK.GetArrayFromImage(reader.Execute())
        return found

    return load


def _dicom2nifti(source: Path) -> Load:
    from dicom2nifti import convert_dicom, settings

    settings.disable_validate_slice_increment()

    def load() -> NDArray[Any]:
        image = convert_dicom.dicom_series_to_nifti(str(source), None, reorient_nifti=False)["NII"]
        # Its arrays are (column, row, slice), rows from the back of the patient.
        found = np.asarray(image.dataobj, np.float32).transpose(2, 1, 0)
        affine = image.affine
        return found[:, :: -1 if affine[1, 1] > 0 else 1, :: -1 if affine[0, 0] > 0 else 1]

    return load


def _monai(source: Path) -> Load:
    from monai.data import PydicomReader
    from monai.transforms import LoadImage

    transform = LoadImage(reader=PydicomReader(swap_ij=False), image_only=True)

    def load() -> NDArray[Any]:
        found = np.asarray(transform(str(source)), np.float32)
        return np.ascontiguousarray(np.moveaxis(found, -1, 0))

    return load


def main() -> None:
    """Print the table."""
    for row in rows(*(int(argument) for argument in sys.argv[1:2])):
        print(f"{row.what:44s} {row.seconds:8.2f} s   {row.ratio:5.2f} of the bare codec   {row.note}")


if __name__ == "__main__":
    main()
