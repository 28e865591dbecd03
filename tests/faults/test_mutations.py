"""Files that were cut, spliced and scrambled are ingested without crash, hang or hunger, and come back exact."""

from __future__ import annotations

import json
import os
import random
from pathlib import Path

import fault_tools as tools
import pytest

import dcmark
from dcmark.testing.corpus import bundled

INGEST = """
import json, sys
import dcmark, dcmark.ingestion
import fault_tools as tools

archive = dcmark.open_archive(sys.argv[2], create=True)
report = dcmark.ingest(sys.argv[1], archive)
assert dcmark.verify(archive).whole
print(json.dumps({"codes": report.codes, "opaque": report.opaque, "refused": report.refused,
                  "files": report.files + report.duplicates, "peak": tools.peak_bytes()}))
"""
LENGTHS = [bytes.fromhex(word) for word in ["ffffffff", "feffffff", "ffffff7f", "00000000", "01000000", "00000040"]]
"""Undefined, odd, huge, none."""
TAGS = [bytes.fromhex(tag) for tag in ["feff00e0", "feff0de0", "feffdde0", "e07f1000", "28000800"]]
MARKS = [b"DICM", b"SQ", b"UN", *TAGS]
"""The DICOM mark, value representations, item and delimiters, Pixel Data, Number of Frames."""


def mutated(data: bytes, chance: random.Random) -> bytes:
    """A file with one to four things done to it, most of them where its header is."""
    changed = bytearray(data)
    for _ in range(chance.choice((1, 1, 2, 4))):
        header = min(len(changed), 2048)
        at = chance.randrange(header if chance.random() < 0.5 else len(changed)) if changed else 0
        match chance.randrange(9):
            case 0:  # bits
                for _ in range(chance.choice((1, 3, 20))):
                    if changed:
                        changed[chance.randrange(len(changed))] ^= 1 << chance.randrange(8)
            case 1:  # a byte
                changed[at : at + 1] = chance.randbytes(1)
            case 2:  # a length that lies
                changed[at : at + 4] = chance.choice(LENGTHS)
            case 3:  # a mark where none belongs
                mark = chance.choice(MARKS)
                changed[at : at + len(mark)] = mark
            case 4:  # cut
                del changed[at:]
            case 5:  # a piece gone
                del changed[at : at + chance.choice((1, 2, 7, 300))]
            case 6:  # a piece twice
                changed[at:at] = changed[at : at + chance.choice((1, 8, 500))]
            case 7:  # noise inside or behind
                where = at if chance.random() < 0.5 else len(changed)
                changed[where:where] = chance.randbytes(chance.choice((1, 13, 400)))
            case _:  # a length of the true file, off by a little
                changed[at : at + 1] = bytes([(changed[at] + chance.choice((1, 2, 255, 254))) % 256 if changed else 0])
    return bytes(changed)


def _mutate(count: int, folder: Path) -> None:
    files = sorted(path for path in bundled().rglob("*") if path.is_file() and path.suffix != ".json")
    originals = [path.read_bytes() for path in files if path.stat().st_size <= 120_000]
    assert len(originals) > 60
    for number in range(count):
        chance = random.Random(number)
        place = folder / "mutated" / f"{number // 500:02}" / f"{number:05}.dcm"
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(mutated(chance.choice(originals), chance))
        os.utime(place, ns=(tools.LONG_AGO_NS, tools.LONG_AGO_NS))
    archive = folder / "a.dcmark"
    child = tools.python(INGEST, folder / "mutated", archive, cwd=Path(__file__).parent)
    said, errors = child.communicate(timeout=120 + count / 10)
    assert child.returncode == 0, errors[-3000:]
    report = json.loads(said)
    print(f"{count} mutated files: {report}")
    assert report["files"] == count
    assert report["refused"] == 0
    assert report["peak"] < 1 << 30
    assert "reader-failed" not in report["codes"]
    assert report["opaque"] > count // 100, "hardly anything was broken"
    assert tools.restored(dcmark.open_archive(archive), folder / "out") == tools.hashes(folder / "mutated")


def test_a_few_mutated_files(tmp_path: Path) -> None:
    _mutate(300, tmp_path)


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_10_000_mutated_files(tmp_path: Path) -> None:
    _mutate(10_000, tmp_path)
