"""What the fault tests share: a few small real files, and what an archive holds in a form to compare."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import dcmark
from dcmark.archive.store import Archive
from dcmark.testing.corpus import bundled

NAMES = (
    "CT_small.dcm", "MR_small.dcm", "MR_small_RLE.dcm", "MR_small_bigendian.dcm", "MR_truncated.dcm", "JPEG2000.dcm",
    "JPEG-lossy.dcm", "JPEGLSNearLossless_16.dcm", "SC_rgb_small_odd.dcm", "SC_rgb_jpeg.dcm", "liver_1frame.dcm",
    "SC_rgb_rle_16bit_2frame.dcm", "SC_ybr_full_422_uncompressed.dcm", "rtdose.dcm", "rtdose_rle.dcm", "rtplan.dcm",
    "rtplan_truncated.dcm", "image_dfl.dcm", "no_meta.dcm", "meta_missing_tsyntax.dcm", "ExplVR_BigEnd.dcm",
    "examples_palette.dcm", "test-SR.dcm", "waveform_ecg.dcm", "badVR.dcm", "DICOMDIR", "empty_charset_LEI.dcm",
    "nested_priv_SQ.dcm", "reportsi.dcm",
)  # fmt: skip
"""Of pydicom's test files: every way a file can lie in an archive, and small."""
LONG_AGO_NS = 1_600_000_000_000_000_000


def sources(folder: Path, names: tuple[str, ...] = NAMES, largest: int = 1 << 20) -> Path:
    """A folder with copies of small real files, as old as real data is."""
    for number, name in enumerate(names):
        found = bundled() / name
        if not found.is_file() and name == "DICOMDIR":
            found = bundled() / "dicomdirtests" / name
        if found.stat().st_size > largest:
            continue
        target = folder / f"patient {number % 3}" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(found, target)
        os.utime(target, ns=(LONG_AGO_NS + number, LONG_AGO_NS + number))
    # A second place of the same content, and a file without a byte.
    twin = folder / "twin é.dcm"
    shutil.copyfile(folder / "patient 0" / "CT_small.dcm", twin)
    (folder / "empty.dcm").touch()
    for extra in (twin, folder / "empty.dcm"):
        os.utime(extra, ns=(LONG_AGO_NS, LONG_AGO_NS))
    return folder


def hashes(folder: Path) -> dict[str, str]:
    """SHA-256 of every file below a folder."""
    files = (place for place in folder.rglob("*") if place.is_file())
    return {p.relative_to(folder).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def content(archive: Archive) -> dict[str, Any]:
    """The rows of an archive without what differs from run to run: random numbers, order, times of reading."""
    archive.refresh()
    parts = {}
    for row in archive.read("frames").to_pylist():
        key = (row["batch"], row["row"])
        parts[key] = tuple(row[n] for n in ("number", "codec", "length", "crc", "lowest", "highest"))
    files = {}
    for row in archive.read("files").to_pylist():
        batch, first, count = (row.pop(n) for n in ("batch", "first_row", "parts"))
        row.pop("check")
        row["stored"] = [parts[batch, first + i] for i in range(count)]
        assert row["sha256"] not in files, "one writer stored a file twice"
        files[row["sha256"]] = row
    columns = ["path", "size", "mtime_ns", "sha256", "dataset", "patient", "image"]
    paths = {tuple(row.values()) for row in archive.read("paths", columns).to_pylist()}
    return {"files": files, "paths": paths}


def differences(found: dict[str, Any], expected: dict[str, Any]) -> list[str]:
    """In words, where two archives differ; nothing when they hold the same."""
    told = []
    if found["paths"] != expected["paths"]:
        told.append(f"paths: {sorted(map(str, found['paths'] ^ expected['paths']))[:5]}")
    for sha256 in found["files"].keys() | expected["files"].keys():
        one, other = found["files"].get(sha256), expected["files"].get(sha256)
        if one is None or other is None:
            told.append(f"{sha256.hex()[:8]} is only in {'the second' if one is None else 'the first'}")
        else:
            told += [f"{sha256.hex()[:8]} {n}: {one[n]!r} {other[n]!r}" for n in other if one.get(n) != other[n]]
    return told


def restored(archive: Archive, out: Path) -> dict[str, str]:
    """SHA-256 by path of everything an archive gives back."""
    dcmark.restore(archive, out, threads=1)
    found = hashes(out)
    shutil.rmtree(out)
    return found


def python(script: str, *arguments: object, **options: Any) -> subprocess.Popen[str]:
    """A Python process that runs a script."""
    command = [sys.executable, "-c", script, *map(str, arguments)]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, **options)


def peak_bytes() -> int:
    """The most memory this process ever held, bytes."""
    status = Path("/proc/self/status")
    if status.exists():  # what getrusage says there counts the parent in
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    if sys.platform == "win32":
        import psutil

        return int(psutil.Process().memory_info().peak_wset)
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
