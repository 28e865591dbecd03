"""Makes ``tests/data/format-1``: an archive of format version 1 that every later release must read.

    python tests/data/make_format_1.py

Run once a format version, by the first release that writes it; afterwards the archive stays as it is.
The files in it are pydicom's test files (MIT licence) and a few made here.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from pathlib import Path

import dcmark
from dcmark.archive import store
from dcmark.testing.corpus import bundled

PLACE = Path(__file__).parent / "format-1"
NAMES = {
    "ct/patient 1/1/CT_small.dcm": "CT_small.dcm",
    "ct/patient 1/1/twin.dcm": "CT_small.dcm",
    "ct/patient 1/2/big_endian.dcm": "MR_small_bigendian.dcm",
    "ct/patient 2/1/rle.dcm": "MR_small_RLE.dcm",
    "ct/patient 2/1/deflated.dcm": "image_dfl.dcm",
    "ct/patient 2/2/i0000,0000b.dcm": "rtplan.dcm",
    "ct/patient 2/2/truncated.dcm": "rtplan_truncated.dcm",
    "ct/patient 2/3/multiframe.dcm": "rtdose_rle.dcm",
}
LONG_AGO_NS = 1_600_000_000_000_000_000


def main() -> None:
    """Make the files, the archive and the list of what must come back."""
    with tempfile.TemporaryDirectory() as scratch:
        source = Path(scratch) / "source"
        for place, name in NAMES.items():
            _add(source / place, (bundled() / name).read_bytes())
        _add(source / "ct" / "notes åäö.txt", b"kept whole\n")
        _add(source / "ct" / "empty", b"")
        # More header than a row of files holds: it becomes a bulk part.
        _add(source / "ct" / "long.bin", bytes(range(256)) * 8192)
        shutil.rmtree(PLACE, ignore_errors=True)
        archive = dcmark.open_archive(PLACE / "archive.dcmark", create=True)
        store.FLUSH_BYTES = 30_000  # several pieces of each table
        dcmark.ingest(source, archive, threads=1)
        shutil.rmtree(archive.path / "volumes.lance", ignore_errors=True)  # derived, made anew where it is wanted
        expected = {
            place.relative_to(source).as_posix(): hashlib.sha256(place.read_bytes()).hexdigest()
            for place in sorted(source.rglob("*"))
            if place.is_file()
        }
    (PLACE / "expected.json").write_text(json.dumps(expected, indent=2, ensure_ascii=False) + "\n", "utf-8")
    size = sum(place.stat().st_size for place in PLACE.rglob("*") if place.is_file())
    print(f"{len(expected)} files, {size} bytes in {PLACE}")


def _add(place: Path, content: bytes) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_bytes(content)
    os.utime(place, ns=(LONG_AGO_NS, LONG_AGO_NS))


if __name__ == "__main__":
    main()
