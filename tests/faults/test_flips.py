"""One flipped byte anywhere in an archive is found by ``verify``, or what comes back is right all the same."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import fault_tools as tools
import pytest

import dcmark
from dcmark.archive import store

# Runs in a process of its own: damage must neither end nor stall it.
FLIP = """
import json, random, shutil, sys
from pathlib import Path
import dcmark
import fault_tools as tools

place, out, seed, count = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], int(sys.argv[4])
expected = json.loads(sys.stdin.read())
files = sorted(p for p in place.rglob("*") if p.is_file() and p.stat().st_size)
sizes = [p.stat().st_size for p in files]
chance = random.Random(seed)
for number in range(count):
    # Half of them anywhere, half in any file: else the small ones that say where all is were hardly hit.
    target = chance.choices(files, sizes if number % 2 else None)[0]
    at, bit = chance.randrange(target.stat().st_size), 1 << chance.randrange(8)
    sound = target.read_bytes()
    target.write_bytes(sound[:at] + bytes([sound[at] ^ bit]) + sound[at + 1 :])
    print(json.dumps({"at": f"{target.relative_to(place).as_posix()} {at} {bit}"}), flush=True)
    shutil.rmtree(out, ignore_errors=True)
    wrong, found, right = "", False, False
    try:
        archive = dcmark.open_archive(place)
        found = not dcmark.verify(archive, threads=1).whole
        archive.refresh()
        dcmark.restore(archive, out, threads=1)
        back = tools.hashes(out)
        right = back == expected
        known = set(expected.values())
        wrong = "".join(f"{path} has other bytes; " for path, digest in back.items() if digest not in known)
    except dcmark.DcmarkError as error:
        found = found or error.code in ("damage", "version")
        right = right or found
    except BaseException as error:
        wrong = f"{type(error).__name__}: {error}"
    if tools.peak_bytes() > 1 << 30:
        wrong = wrong or "more than 1 GB of memory"
    print(json.dumps({"found": found, "right": right, "wrong": wrong}), flush=True)
    target.write_bytes(sound)
"""


def _flip(count: int, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tools.sources(folder / "source", largest=60_000)
    with monkeypatch.context() as context:
        context.setattr(store, "FLUSH_BYTES", 60_000)
        archive = dcmark.open_archive(folder / "a.dcmark", create=True)
        dcmark.ingest(source, archive, threads=1)
    expected = tools.hashes(source)
    child = tools.python(FLIP, archive.path, folder / "out", "flips", count, cwd=Path(__file__).parent, stdin=-1)
    try:
        said, errors = child.communicate(json.dumps(expected), timeout=60 + count / 2)
    except subprocess.TimeoutExpired:
        child.kill()
        said, errors = child.communicate()
        errors = "it stalled there"
    lines = [json.loads(line) for line in said.splitlines()]
    assert child.returncode == 0 and len(lines) == 2 * count, f"died at {lines[-1:]}: {errors[-2000:]}"
    outcomes = list(zip(lines[::2], lines[1::2], strict=True))
    bad = [(at["at"], out) for at, out in outcomes if out["wrong"] or not (out["found"] or out["right"])]
    assert not bad, "\n".join(map(str, bad[:20]))
    found = sum(out["found"] for _, out in outcomes)
    print(f"{count} flips: {found} found, {count - found} harmless")
    assert found > count // 3
    assert dcmark.verify(dcmark.open_archive(archive.path)).whole


def test_flip_a_few_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _flip(60, tmp_path, monkeypatch)


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_flip_1000_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _flip(1000, tmp_path, monkeypatch)
