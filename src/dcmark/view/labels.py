"""Labels of images for conditional training: from tags by SQL, or from annotations."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from dcmark.archive.query import query
from dcmark.archive.store import Archive
from dcmark.errors import LabelError, UsageError

BY_ANNOTATION = "annotation:"
MOST_CLASSES = 65_536
Key = tuple[str, int]


@dataclass(frozen=True, slots=True)
class Labels:
    """Labels of a list of images.

    Attributes:
        values: one an image: the number of a class, or a vector of ``dimensions`` numbers; empty: no labels.
        classes: names of the classes in the order of their numbers; empty for vectors.
        source: what they come from.
    """

    values: tuple[int | tuple[float, ...], ...] = ()
    classes: tuple[str, ...] = ()
    source: str = ""

    @property
    def dimensions(self) -> int:
        """Of a label as a vector: the number of classes, or of the numbers; 0 without labels."""
        if self.classes or not self.values:
            return len(self.classes)
        first = self.values[0]
        return len(first) if isinstance(first, tuple) else 0

    def as_dict(self) -> dict[str, Any]:
        """For side files: what the numbers mean."""
        return {"source": self.source, "classes": list(self.classes), "dimensions": self.dimensions}

    def chosen(self, places: Sequence[int]) -> Labels:
        """The labels of some of the images; classes keep their numbers."""
        return Labels(tuple(self.values[place] for place in places), self.classes, self.source)


def labels_of(archive: Archive, source: str, frames: Sequence[Key]) -> Labels:
    """Labels of frames.

    Args:
        source: SQL expression over the view ``files`` (texts, whole numbers and truth values become classes, in the
            order of their names; numbers with a fraction and lists of numbers become vectors), or ``annotation:A|B|C``:
            which of these labels an annotation gives the frame, its instance, series, study or patient; the classes
            in the order given. Rejected annotations do not count.
        frames: (SHA-256 of the file, number of the frame) of each.

    Raises:
        QueryError: the expression is refused.
        LabelError: an image has no label or several, or vectors differ in length.
    """
    if not source:
        return Labels()
    if source.startswith(BY_ANNOTATION):
        return _annotated(archive, source, frames)
    rows = query(archive, f"SELECT sha256, ({source}\n) AS label FROM files").to_pylist()
    by_file = {row["sha256"]: row["label"] for row in rows}
    found = [by_file.get(sha256) for sha256, _ in frames]
    if missing := sum(one is None or one == "" for one in found):
        raise LabelError(
            f"expected a label for every image; found none for {missing} of {len(found)} (NULL or empty); leave them "
            f"out with --where \"({source}) IS NOT NULL\", or name a class: coalesce({source}, 'other')"
        )
    if any(isinstance(one, float | Decimal | list | tuple) for one in found):
        return Labels(_vectors(found), (), source)
    if any(not isinstance(one, str | int | bool) for one in found):
        kind = next(type(one).__name__ for one in found if not isinstance(one, str | int | bool))
        raise UsageError(f"expected text, numbers or lists of numbers for labels; found {kind}; cast it in the SQL")
    numbers = all(isinstance(one, int) and not isinstance(one, bool) for one in found)
    names: list[Any] = sorted(set(found)) if numbers else sorted({_name(one) for one in found})
    if len(names) > MOST_CLASSES:
        raise LabelError(f"expected at most {MOST_CLASSES} classes; found {len(names)}; is that expression a label?")
    place = {name: number for number, name in enumerate(names)}
    return Labels(
        tuple(place[one if numbers else _name(one)] for one in found), tuple(str(name) for name in names), source
    )


def _name(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _vectors(found: Sequence[Any]) -> tuple[tuple[float, ...], ...]:
    made = []
    for one in found:
        vector = tuple(one) if isinstance(one, list | tuple) else (one,)
        if not vector or not all(isinstance(x, int | float | Decimal) and math.isfinite(x) for x in vector):
            raise LabelError("expected finite numbers in every label; found another value; handle it in the SQL")
        made.append(tuple(float(x) for x in vector))
    lengths = sorted({len(one) for one in made})
    if len(lengths) > 1:
        raise LabelError(f"expected vectors of one length; found lengths {lengths}")
    return tuple(made)


def _annotated(archive: Archive, source: str, frames: Sequence[Key]) -> Labels:
    classes = tuple(name.strip() for name in source.removeprefix(BY_ANNOTATION).split("|"))
    if len(set(classes)) != len(classes) or not all(classes):
        raise UsageError(f"expected {BY_ANNOTATION}A|B|... with labels that differ; found {source!r}")
    of_frame = labels_of_frames(archive, frames)
    values, missing, several = [], 0, 0
    for key in frames:
        own = [number for number, name in enumerate(classes) if name in of_frame.get(key, ())]
        missing += not own
        several += len(own) > 1
        values.append(own[0] if own else -1)
    if missing or several:
        raise LabelError(
            f"expected one of {', '.join(classes)} for every image; found {missing} images of {len(frames)} without "
            f"and {several} with several; choose by annotation first (--annotated), or annotate them"
        )
    return Labels(tuple(values), classes, source)


def labels_of_frames(archive: Archive, frames: Sequence[Key]) -> dict[Key, set[str]]:
    """Names of the labels that annotations give frames.

    Regions and points count on the frames they mark; a label of kind ``label`` on all frames of what it is about.
    """
    marked = query(
        archive,
        """SELECT a.label, f.sha256, f.frame FROM annotations a JOIN annotation_frames f USING (id)
           WHERE a.status <> 'rejected'""",
    ).to_pylist()
    found: dict[Key, set[str]] = {}
    for row in marked:
        found.setdefault((row["sha256"], row["frame"]), set()).add(row["label"])
    wider = query(
        archive,
        """SELECT DISTINCT a.label, f.sha256 FROM annotations a JOIN files f ON
               (a.level = 'instance' AND a.target_file = f.sha256)
            OR (a.level = 'series' AND a.series_instance_uid = f.series_instance_uid)
            OR (a.level = 'study' AND a.study_instance_uid = f.study_instance_uid)
            OR (a.level = 'patient' AND a.patient_id = f.patient_id)
           WHERE a.status <> 'rejected' AND a.kind = 'label'""",
    ).to_pylist()
    of_file: dict[str, set[str]] = {}
    for row in wider:
        of_file.setdefault(row["sha256"], set()).add(row["label"])
    in_frame = query(
        archive,
        """SELECT label, target_file AS sha256, target_frame AS frame FROM annotations
           WHERE status <> 'rejected' AND level = 'frame' AND target_file IS NOT NULL""",
    ).to_pylist()
    for row in in_frame:
        found.setdefault((row["sha256"], row["frame"] or 0), set()).add(row["label"])
    volumes = query(
        archive,
        "SELECT label, volume FROM annotations WHERE status <> 'rejected' AND level = 'volume' AND kind = 'label'",
    ).to_pylist()
    if volumes:
        known = {volume.id: volume for volume in archive.volumes()}
        for row in volumes:
            if row["volume"] in known:
                for frame in known[row["volume"]].frames:
                    found.setdefault((frame.file, frame.frame), set()).add(row["label"])
    return {key: found.get(key, set()) | of_file.get(key[0], set()) for key in frames}
