"""Series made by hand for the tests of volumes, and what these tests ask again and again."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np

from dcmark.read.volumes import FrameRow, FrameTags, find_volumes, frames_of

CT = "1.2.840.10008.5.1.4.1.1.2"
TIMES = ("acquisition_time", "content_time")
AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)


def series(count: int = 20, step: float = 2.0, **changes) -> list[FrameRow]:
    """An ordinary axial CT series: 20 slices, 2 mm apart."""
    return [
        {
            "file": f"file{i:03d}",
            "frame": 0,
            "series_instance_uid": "1.2.3",
            "sop_class_uid": CT,
            "sop_instance_uid": f"1.2.3.{i}",
            "content_key": f"pixels{i}",
            "modality": "CT",
            "image_type": "ORIGINAL\\PRIMARY\\AXIAL",
            "rows": 64,
            "columns": 48,
            "photometric_interpretation": "MONOCHROME2",
            "image_position_patient": (-100.0, -80.0, 10.0 + i * step),
            "image_orientation_patient": AXIAL,
            "pixel_spacing": (0.7, 0.7),
            "slice_thickness": step,
            "instance_number": i + 1,
            "acquisition_number": 1,
            "acquisition_time": f"1200{i * 0.25:09.6f}",
            "content_time": f"1210{i * 0.25:09.6f}",
            "frame_of_reference_uid": "1.2.9",
            "rescale_type": "HU",
            **changes,
        }
        for i in range(count)
    ]


def renamed(rows: list[FrameRow], name: str, **changes) -> list[FrameRow]:
    """The same rows as other files."""
    return [
        {
            **row,
            "file": f"{name}{row['file']}",
            "sop_instance_uid": f"{row['sop_instance_uid']}.{len(name)}9",
            **changes,
        }
        for row in rows
    ]


def found(rows: list[FrameRow]):
    """Volumes of rows, after a check that every frame is in one place exactly."""
    result = find_volumes(FrameTags.from_rows(rows))
    placed = [row for item in (*result.volumes, *result.leftovers) for row in item.table_rows]
    assert sorted(placed) == list(range(len(rows)))
    return result


def only(rows: list[FrameRow]):
    result = found(rows)
    assert len(result.volumes) == 1
    assert not result.leftovers
    return result.volumes[0]


def codes(item) -> set[str]:
    return {finding.code for finding in item.findings}


def message(item, code: str) -> str:
    return next(finding.message for finding in item.findings if finding.code == code)


def later(rows, **changes):
    """A second phase of the same places, one minute and 20 instances later."""
    return [
        {
            **row,
            "content_key": f"later{row.get('content_key')}",
            "instance_number": row["instance_number"] + 20,
            "acquisition_time": f"1201{row.get('acquisition_time', '0000')[4:]}",
            "content_time": f"1211{row.get('content_time', '0000')[4:]}",
            **changes,
        }
        for row in renamed(rows, "later")
    ]


def without(rows, *names):
    return [{key: value for key, value in row.items() if key not in names} for row in rows]


def tilted(rows):
    return [{**row, "image_position_patient": (3.0, 0.31 * 2 * i, 2.0 * i)} for i, row in enumerate(rows)]


def wandering(rows):
    rng = np.random.default_rng(4)
    return [{**row, "image_position_patient": (*rng.uniform(-3, 3, 2), 2.0 * i)} for i, row in enumerate(rows)]


def changing(rows):
    heights = np.cumsum(np.random.default_rng(5).uniform(1, 3, len(rows))).tolist()
    return [
        {**row, "image_position_patient": (0.0, 0.0, z), "slice_thickness": 1.0}
        for z, row in zip(heights, rows, strict=True)
    ]


def read_folder(folder: Path):
    """Frames of all DICOM files under a folder, without their pixels."""
    import pydicom

    rows: list[FrameRow] = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                try:
                    dataset = pydicom.dcmread(path, stop_before_pixels=True)
                except pydicom.errors.InvalidDicomError:
                    continue
                rows += frames_of(dataset, str(path))
    return rows
