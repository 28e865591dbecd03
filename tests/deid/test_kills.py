"""``kill -9`` at any moment: archive or folder and vault agree, and the work can be finished and led back."""

from __future__ import annotations

import hashlib
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

import dcmark
from dcmark.deid.apply import Deidentifier
from dcmark.deid.folders import deidentify_folders
from dcmark.deid.profile import Profile, load_profile
from dcmark.deid.vault import Secret, Vault
from dcmark.reidentification import reidentify
from dcmark.testing.corpus import bundled

pytest.importorskip("cryptography")
pytestmark = pytest.mark.skipif(os.name == "nt", reason="kill -9")

SECRET = Secret(key=b"s" * 32)
PROFILE = Profile("t", patient="S-{0001}", options=load_profile("basic").options)
NAMES = (
    "CT_small.dcm", "MR_small.dcm", "MR_small_RLE.dcm", "MR_small_bigendian.dcm", "MR_truncated.dcm", "JPEG2000.dcm",
    "JPEG-lossy.dcm", "SC_rgb_small_odd.dcm", "SC_rgb_jpeg.dcm", "liver_1frame.dcm", "rtdose.dcm", "rtplan.dcm",
    "image_dfl.dcm", "ExplVR_BigEnd.dcm", "examples_palette.dcm", "test-SR.dcm", "waveform_ecg.dcm", "reportsi.dcm",
)  # fmt: skip
CHILD = """
import sys, os
from pathlib import Path
import dcmark, dcmark.deid.folders as folders, dcmark.deid.source as source
from dcmark.archive import store
from dcmark.deid.apply import Deidentifier
from dcmark.deid.profile import Profile
from dcmark.deid.vault import Secret, Vault
import dcmark.ingestion, dcmark.archive.volumes, cryptography.hazmat.primitives.ciphers.aead
folders.SYNC_EVERY, source.GATHERED_FILES, store.FLUSH_BYTES = 3, 3, 60_000
print("ready", flush=True)
scans, out, place = sys.argv[2], sys.argv[3], Path(sys.argv[4])
secret = Secret(key=b"s" * 32)
vault = Vault.open(place, secret, append=True) if place.exists() else Vault.create(place, secret)
tool = Deidentifier(Profile("t", patient="S-{0001}"), vault=vault)
if sys.argv[1] == "ingest":
    dcmark.ingest(scans, dcmark.open_archive(out, create=True), deidentifier=tool, threads=2)
else:
    folders.deidentify_folders([scans], out, tool)
vault.close()
print("done", flush=True)
sys.stdin.read()
"""


def _hashes(folder: Path) -> dict[str, str]:
    files = (place for place in folder.rglob("*") if place.is_file())
    return {p.relative_to(folder).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def _scans(folder: Path) -> Path:
    for number, name in enumerate(NAMES):
        target = folder / f"Svensson {number % 3}" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes((bundled() / name).read_bytes())
    return folder


def _run(way: str, scans: Path, out: Path, vault: Path, after: float | None) -> float:
    """De-identify in a process and kill it; without ``after`` once it is done. Seconds it worked."""
    command = [sys.executable, "-c", CHILD, way, str(scans), str(out), str(vault)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
        began = time.perf_counter()
        if after is None:
            assert child.stdout.readline() == "done\n"
        else:
            time.sleep(after)
        worked = time.perf_counter() - began
        child.kill()
    return worked


def _agree(way: str, out: Path, place: Path) -> int:
    """Everything that is there can be led back now, before anything is repeated; number of clean files."""
    there: set[bytes] = set()
    if way == "ingest" and (out / "archive.json").exists():
        archive = dcmark.open_archive(out)
        assert dcmark.verify(archive, threads=1).whole
        there = set(archive.read("files", ["sha256"])["sha256"].to_pylist())
    elif way == "folder" and out.exists():
        files = [place for place in out.rglob("*") if place.is_file() and not place.name.endswith(".draft")]
        there = {hashlib.sha256(place.read_bytes()).digest() for place in files}
    if not place.exists():
        assert not there
        return 0
    with Vault.open(place, SECRET, append=True) as vault:
        assert there <= set(vault), "a clean file that the vault does not know"
    return len(there)


def _finish(way: str, scans: Path, out: Path, place: Path, back: Path) -> None:
    """The same work again with the same vault, and the way back."""
    vault = Vault.open(place, SECRET, append=True) if place.exists() else Vault.create(place, SECRET)
    with vault:
        tool = Deidentifier(PROFILE, vault=vault)
        if way == "ingest":
            archive = dcmark.open_archive(out, create=True)
            dcmark.ingest(scans, archive, deidentifier=tool, threads=1)
            assert dcmark.verify(archive, threads=1).whole
            report = reidentify(archive, vault, back)
        else:
            again = out.with_name(out.name + "-again")
            deidentify_folders([scans], again, tool)
            mapped = {name: digest for name, digest in _hashes(out).items() if not name.endswith(".draft")}
            assert mapped.items() <= _hashes(again).items(), "the same key made another name or another file"
            report = reidentify([again], vault, back)
        assert report.damaged == 0


def _kill_at_random_moments(count: int, folder: Path) -> None:
    scans = _scans(folder / "scans")
    originals = _hashes(scans)
    for way in ("ingest", "folder"):
        warm = [_run(way, scans, folder / f"{way}-warm{n}", folder / f"{way}-warm{n}.vault", None) for n in range(2)]
        duration = max(min(warm), 0.02)
        chance = random.Random(way)
        early = late = 0
        for number in range(count // 2):
            out, vault, back = (folder / f"{way}{number}{end}" for end in ("", ".vault", ".back"))
            for _ in range(1 + (chance.random() < 0.2)):
                if way == "folder" and out.exists():
                    break  # a folder is made once; the next run gets another
                _run(way, scans, out, vault, chance.uniform(0, duration))
                there = _agree(way, out, vault)
            early += there < len(originals)
            late += there > 0
            _finish(way, scans, out, vault, back)
            assert _hashes(back) == originals
        if count >= 50:
            assert early > count // 10, "most kills came too late to test anything"
            assert late > count // 50, "most kills came too early to test anything"


def test_kill_at_a_few_moments(tmp_path: Path) -> None:
    _kill_at_random_moments(10, tmp_path)


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_kill_at_500_moments(tmp_path: Path) -> None:
    _kill_at_random_moments(500, tmp_path)
