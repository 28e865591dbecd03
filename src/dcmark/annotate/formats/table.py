"""CSV of labels and measurements: a row a statement about a patient, study, series, volume, image or frame."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dcmark.annotate.formats.base import Context, Imported, Written, malformed, read_text, reading_file
from dcmark.annotate.model import Annotation, Code, Label, Level, Target
from dcmark.errors import SourceError, UsageError
from dcmark.read.volume_model import FrameId

if TYPE_CHECKING:
    from dcmark.annotate.places import Places

COLUMNS = (
    "level", "patient", "study", "series", "volume", "instance", "sha256", "frame", "label", "code", "scheme",
    "meaning", "value", "unit", "text", "status", "author", "time",
)  # fmt: skip
_OTHER_NAMES = {
    "patientid": "patient", "patient_id": "patient", "studyinstanceuid": "study", "study_instance_uid": "study",
    "seriesinstanceuid": "series", "series_instance_uid": "series", "sopinstanceuid": "instance",
    "sop_instance_uid": "instance", "file": "path", "filename": "path", "path": "path", "class": "label",
    "reader": "author", "slice": "frame",
}  # fmt: skip
_KEYS: tuple[tuple[str, Level], ...] = (
    ("frame", "frame"), ("sha256", "instance"), ("path", "instance"), ("instance", "instance"), ("volume", "volume"),
    ("series", "series"), ("study", "study"), ("patient", "patient"),
)  # fmt: skip
MOST_CELLS = 1 << 20


class CsvFormat:
    """Comma-separated values with a header; names of columns are those of ``COLUMNS`` or DICOM keywords."""

    name = "csv"
    suffixes = (".csv", ".tsv")

    def read(self, source: Path, context: Context) -> Imported:
        """A label a row; a measurement where there is a value with a unit."""
        with reading_file("CSV with a header", source.name):
            csv.field_size_limit(MOST_CELLS)
            rows = csv.reader(
                read_text(source).splitlines(keepends=True), strict=True,
                delimiter="\t" if source.suffix.lower() == ".tsv" else ",",
            )  # fmt: skip
            imported = Imported()
            try:
                head = [_OTHER_NAMES.get(name.strip().lower(), name.strip().lower()) for name in next(rows, [])]
                if "label" not in head:
                    raise malformed(source.name, "line 1", "a column 'label'", "none")
                if not any(key in head for key, _ in _KEYS):
                    raise malformed(source.name, "line 1", "a column that says what is labelled", "none")
                for cells in rows:
                    if not any(cell.strip() for cell in cells):
                        continue
                    place = f"line {rows.line_num}"
                    if len(cells) != len(head):
                        raise malformed(source.name, place, f"{len(head)} cells", f"{len(cells)}")
                    row = dict(zip(head, (cell.strip() for cell in cells), strict=True))
                    imported.annotations.append(_annotation(row, source.name, place, context))
            except csv.Error as error:
                raise malformed(source.name, f"line {rows.line_num}", "CSV", str(error)) from error
            return imported

    def write(self, annotations: Sequence[Annotation], out: Path, context: Context) -> Written:
        """``labels.csv``."""
        written = Written(exact_labels=True, tolerance=1e-9)
        path = out / "labels.csv"
        count = 0
        with path.open("w", encoding="utf-8", newline="") as stream:
            table = csv.writer(stream)
            table.writerow(COLUMNS)
            for one in annotations:
                if one.kind not in ("label", "measurement") or (one.target.level == "region" and not one.target.file):
                    written.leave_out(one, "the format holds labels and measurements of whole things only")
                    continue
                target = one.target
                if target.level == "region":
                    target = context.places.target("frame", [FrameId(target.file, target.frame or 0)])
                cells = _cells(replace(one, target=target), context.places)
                table.writerow([cells[name] for name in COLUMNS])
                written.meant.append(
                    replace(one, target=_bare(target, context.places), contours=(), mask=())
                )  # fmt: skip
                count += 1
        if count:
            written.files.append(path)
        return written


def _bare(target: Target, places: Places) -> Target:
    """What a row gives back."""
    return _target({"level": target.level, **_keys(target, places)}, "labels.csv", "", places)


def _keys(target: Target, places: Places) -> dict[str, str]:
    instance = str(places.file(target.file)["sop_instance_uid"] or "") if target.file else ""
    return {
        "patient": target.patient,
        "study": target.study,
        "series": target.series,
        "volume": target.volume,
        "instance": instance,
        "sha256": target.file,
        "frame": "" if target.frame is None else str(target.frame),
    }


def _cells(one: Annotation, places: Places) -> dict[str, Any]:
    code = one.label.code or Code("", "", "")
    return {
        "level": one.target.level,
        **_keys(one.target, places),
        "label": one.label.name,
        "code": code.value,
        "scheme": code.scheme,
        "meaning": code.meaning,
        "value": "" if one.value is None else repr(one.value),
        "unit": one.unit,
        "text": one.text,
        "status": one.status,
        "author": one.author,
        "time": one.time,
    }


def _annotation(row: dict[str, str], name: str, place: str, context: Context) -> Annotation:
    if not row["label"]:
        raise malformed(name, place, "a label", "an empty cell")
    target = _target(row, name, place, context.places)
    value: float | None = None
    if row.get("value"):
        try:
            value = float(row["value"])
        except ValueError:
            value = float("nan")
        if not abs(value) < 1e15:
            raise malformed(name, place, "a finite number for value")
    status = row.get("status") or "draft"
    if status not in ("draft", "reviewed", "rejected"):
        raise malformed(name, place, "draft, reviewed or rejected for status")
    code = Code(row["code"], row.get("scheme", ""), row.get("meaning", "")) if row.get("code") else None
    return Annotation(
        "measurement" if value is not None and row.get("unit") else "label",
        target,
        Label(row["label"], code),
        value=value,
        unit=row.get("unit", ""),
        text=row.get("text", ""),
        author=row.get("author") or context.author,
        time=row.get("time", ""),
        status=status,  # type: ignore[arg-type]
        origin=name,
    )


def _target(row: dict[str, str], name: str, place: str, places: Places) -> Target:
    """What a row is about: the narrowest thing it names, which must be in the archive."""
    asked = row.get("level", "")
    level = next((level for key, level in _KEYS if row.get(key)), None)
    if asked in ("patient", "study", "series", "volume", "instance", "frame"):
        level = asked  # type: ignore[assignment]
    if level is None:
        raise malformed(name, place, "a cell that says what is labelled", "none")

    def missing(what: str) -> UsageError:
        return UsageError(f"{name}, {place}: expected a {what} of the archive, found one that is not in it")

    if level in ("instance", "frame"):
        file = _file(row, places)
        if file is None:
            raise missing("file (instance, sha256 or path)")
        number = row.get("frame", "")
        if number and not number.isdigit():
            raise malformed(name, place, "the number of a frame from 0")
        frame = FrameId(file, int(number or 0))
        if level == "frame" and frame.frame >= max(1, places.file(file)["frames"] or 1):
            raise missing("frame")
        return places.target(level, [frame])
    if level == "volume":
        volume = places.volumes.get(row["volume"])
        if volume is None:
            raise missing("volume")
        return places.target("volume", [FrameId(*volume.frames[0])], volume)
    column = {"series": "series_instance_uid", "study": "study_instance_uid"}
    wanted = row.get(level, "")
    if not wanted:
        raise SourceError(f"{name}, {place}: expected a {level}, found an empty cell")
    known = places.known(column[level]) if level in column else places.known("patient_id", "patient")
    if wanted not in known:
        raise missing(level)
    return places.target(level, [FrameId(known[wanted], 0)])


def _file(row: dict[str, str], places: Places) -> str | None:
    if row.get("sha256"):
        try:
            return str(places.file(row["sha256"].lower())["sha256"])
        except UsageError:
            return None
    if row.get("instance"):
        return places.file_of_instance(row["instance"])
    found = set(places.by_path.get(row.get("path", "").replace("\\", "/"), []))
    return found.pop() if len(found) == 1 else None
