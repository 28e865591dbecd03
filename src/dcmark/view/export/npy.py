"""``dcmark export npy``: frames as stacks of numpy's own format, with a table that says what each slice is.

export_npy(archive, "npy/", where="modality = 'CT'", quantity="hu", size=256)
stack = numpy.load("npy/256x256_float32.npy", mmap_mode="r")     # (slices, rows, columns)
table = pandas.read_csv("npy/slices.csv")                        # a row a slice: stack, index, sha256, ...
"""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from dcmark.archive.faults import writing
from dcmark.archive.store import Archive
from dcmark.errors import DcmarkError, UsageError
from dcmark.progress import NoProgress, Progress
from dcmark.read.tags import COLUMNS
from dcmark.view.export.base import ExportReport, Selected, begin, each_frame, finish, item_line, select
from dcmark.view.export.resize import placed, resized
from dcmark.view.frames import Frame

Array = NDArray[Any]
TABLE = "slices.csv"
HEADER_BYTES = 256
"""Of a stack: room for its shape, which is known when the last slice is written."""
CSV_TAGS = (
    "StudyID", "Exposure", "Rows", "Columns", "PixelSpacing", "InstanceNumber", "AcquisitionNumber", "SliceLocation",
    "BodyPartExamined",
)  # fmt: skip
"""Attributes in the table beside dataset, patient, image and slice; ``tags`` adds more."""
_OPENS_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def export_npy(
    archive: Archive,
    out: str | os.PathLike[str],
    *,
    where: str | None = None,
    quantity: str = "stored",
    size: int | None = None,
    tags: Sequence[str] = (),
    overwrite: bool = False,
    threads: int | None = None,
    progress: Progress | None = None,
) -> ExportReport:
    """Write one ``.npy`` stack for each shape and type of frames, ``slices.csv`` and ``view.json``.

    Args:
        archive: where from.
        out: an empty or absent folder, unless ``overwrite``.
        where: SQL condition over the view ``files``; None: all.
        quantity: ``stored`` for stored values in their own type; ``physical`` for the first quantity of each header,
            or one by name (``hu``, ``suvbw``, ...), float32, NaN where a pixel has no value.
        size: side of square slices: area averages, the shape kept, padded with the lowest value of the slice.
        tags: keywords of attributes to add to the table; those that are columns of ``files``.
        overwrite: write into a folder that holds something.
        threads: None: one a processor.
        progress: is told of each frame.

    Raises:
        QueryError, UsageError: the condition is refused or chooses nothing; an unknown tag.
        OutputExistsError: ``out`` has something in it.
        StorageError: ``out`` cannot be written.
    """
    keywords = (*CSV_TAGS, *_checked(tags))
    columns = {column.keyword: column.name for column in COLUMNS}
    chosen, without = select(archive, where, [columns[keyword] for keyword in keywords])
    place = begin(out, overwrite)
    report = ExportReport(without_frames=without)
    progress = progress or NoProgress()

    def work(at: int, one: Frame) -> tuple[Array, str, str]:
        del at
        if quantity == "stored":
            values, meant, unit = one.stored, "stored", "1"
        else:
            found = one.physical(None if quantity == "physical" else quantity)
            values, meant, unit = found.values, found.quantity, found.unit
        finite = values[np.isfinite(values)] if values.dtype.kind == "f" else values
        lowest = float(finite.min()) if finite.size else 0.0
        return resized(values, placed(values.shape, size), lowest), meant, unit

    about = {"exporter": "npy", "archive": archive.info.id, "where": where, "values": quantity, "size": size}
    progress.start("export npy", len(chosen))
    try:
        with writing(place), _Stacks(place) as stacks, (place / TABLE).open("w", encoding="utf-8", newline="") as file:
            table = csv.writer(file)
            fixed = ["dataset", "patient", "image", "slice"]
            table.writerow([*fixed, *keywords, "quantity", "unit", "stack", "index", "path", "frame", "sha256"])

            def items() -> Iterator[str]:
                made_from: set[str] = set()
                for at, made in each_frame(archive, chosen, work, threads=threads or os.cpu_count() or 1):
                    one = chosen[at]
                    if isinstance(made, DcmarkError):
                        report.leave_out(one, made)
                    else:
                        values, meant, unit = made
                        name, index = stacks.add(values)
                        said = [_cell(one.row[columns[keyword]]) for keyword in keywords]
                        table.writerow(
                            [
                                *_where_from(one),
                                *said,
                                meant,
                                unit,
                                name,
                                index,
                                _cell(one.row["path"]),
                                one.number,
                                one.sha256,
                            ]
                        )
                        report.items += 1
                        made_from.add(one.sha256)
                        report.files = len(made_from)
                        to_original = placed(_shape(one, values, size), size).to_original()
                        yield item_line(
                            {
                                "item": name,
                                "index": index,
                                "sha256": one.sha256,
                                "frame": one.number,
                                "to_original": to_original,
                            }
                        )
                    progress.advance(1, 0)

            finish(place, about, items(), report)
    finally:
        progress.finish()
    return report


def _shape(one: Selected, values: Array, size: int | None) -> tuple[int, ...]:
    return values.shape if size is None else (one.row["rows"] or 1, one.row["columns"] or 1)


def _checked(tags: Sequence[str]) -> list[str]:
    known = {column.keyword for column in COLUMNS}
    unknown = [tag for tag in tags if tag not in known]
    if unknown:
        raise UsageError(
            f"expected keywords that are columns of the archive (docs/reference/sql.md); found {', '.join(unknown)}"
        )
    return [tag for tag in dict.fromkeys(tags) if tag not in CSV_TAGS]


def _where_from(one: Selected) -> list[str]:
    row = one.row
    image = row["image"] or row["series_number"] or row["series_instance_uid"]
    return [_cell(row["dataset"]), _cell(row["patient"] or row["patient_id"]), _cell(image), _slice(one)]


def _slice(one: Selected) -> str:
    name = (one.row["path"] or one.sha256).rsplit("/", 1)[-1]
    return _cell(name if one.row["frames"] == 1 else f"{name}#{one.number + 1}")


def _cell(value: Any) -> str:
    r"""A value as text of a table: several joined by ``\``; text that a spreadsheet would run as a formula, quoted."""
    if value is None:
        return ""
    if isinstance(value, list):
        return "\\".join(f"{part:g}" if isinstance(part, float) else str(part) for part in value)
    if isinstance(value, float):
        return f"{value:.10g}"
    text = str(value)
    return f"'{text}" if isinstance(value, str) and text.startswith(_OPENS_FORMULA) else text


class _Stacks:
    """Stacks being written: one file for each shape and type, named when whole."""

    def __init__(self, place: Path) -> None:
        self._place = place
        self._open: dict[str, _Stack] = {}

    def __enter__(self) -> _Stacks:
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        for name, stack in self._open.items():
            if kind is None:
                stack.stream.seek(0)
                stack.stream.write(_header((stack.count, *stack.shape), stack.dtype))
            stack.stream.close()
            draft = self._place / f"{name}.draft"
            if kind is None:
                draft.replace(self._place / name)
            else:
                draft.unlink(missing_ok=True)

    def add(self, values: Array) -> tuple[str, int]:
        """Append a slice; the stack it went to and its place there."""
        values = np.ascontiguousarray(values)
        if values.dtype.byteorder == ">":
            values = values.astype(values.dtype.newbyteorder("<"))
        name = "x".join(map(str, values.shape)) + f"_{values.dtype.name}.npy"
        if name not in self._open:
            stream = (self._place / f"{name}.draft").open("wb")
            stream.write(bytes(HEADER_BYTES))
            self._open[name] = _Stack(stream, values.shape, values.dtype)
        stack = self._open[name]
        stack.stream.write(values.data.cast("B"))
        stack.count += 1
        return name, stack.count - 1


@dataclass(slots=True)
class _Stack:
    stream: BinaryIO
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    count: int = 0


def _header(shape: tuple[int, ...], dtype: np.dtype[Any]) -> bytes:
    """Of numpy's format, version 1.0, padded to ``HEADER_BYTES``."""
    said = repr({"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape})
    length = HEADER_BYTES - 10
    return b"\x93NUMPY\x01\x00" + length.to_bytes(2, "little") + said.ljust(length - 1).encode("ascii") + b"\n"
