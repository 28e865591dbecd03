"""A disk that fills up gives one clear error, costs nothing that was committed, and the same command goes on later."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import sys
from pathlib import Path

import fault_tools as tools
import pytest

# The first folder fits; the second does not. Runs where the file system or the limit lies around it.
SCENARIO = """
import contextlib, io, json, shutil, subprocess, sys
from pathlib import Path
from dcmark.cli import run
import dcmark, fault_tools as tools

small, large, disk, how = Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]), sys.argv[4]
place = disk / "a.dcmark"

def command(*arguments):
    said = io.StringIO()
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
        code = run([*map(str, arguments)])
    return {"code": code, "said": said.getvalue().strip()}

def room(size):
    if how == "tmpfs":
        subprocess.run(["mount", "-o", f"remount,size={size}", str(disk)], check=True)
    else:
        import resource
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))

room(8_000_000 if how == "tmpfs" else 300_000)
result = {"first": command("ingest", "-q", small, place)}
result["full"] = command("ingest", "-q", large, place)
archive = dcmark.open_archive(place)
result["whole"] = dcmark.verify(archive).whole
out = Path(sys.argv[5])
result["kept"] = tools.restored(archive, out / "kept") if how == "tmpfs" else {}
if how == "tmpfs":
    with contextlib.suppress(OSError), open(disk / "filler", "wb", buffering=0) as filler:
        while filler.write(bytes(4096)) == 4096:
            pass
else:
    room(20_000)
result["no room to restore"] = command("restore", "-q", place, disk / "out")
shutil.rmtree(disk / "out", ignore_errors=True)
room(200_000_000)
result["again"] = command("ingest", "-q", large, place)
archive = dcmark.open_archive(place)
result["whole again"] = dcmark.verify(archive).whole
if how == "tmpfs":
    result["swept"] = command("gc", "--exclusive", place)
    result["all"] = tools.restored(archive, out / "all")
print(json.dumps(result))
"""


def _folders(folder: Path) -> tuple[Path, Path]:
    small = tools.sources(folder / "small", ("CT_small.dcm", "MR_small.dcm", "rtplan.dcm"))
    large = folder / "large"
    large.mkdir()
    # Noise, for it does not shrink; each file its own.
    for number in range(30):
        (large / f"{number:02}.bin").write_bytes(random.Random(number).randbytes(500_000))
    return small, large


def _check(result: dict[str, dict[str, object]], word: str) -> None:
    assert result["first"]["code"] in (0, 3), result["first"]
    full = result["full"]
    assert full["code"] == 1, full
    said = str(full["said"])
    assert said.startswith("dcmark: error (storage): expected to write to ") and len(said.splitlines()) == 1, said
    assert word in said and "run the same command again" in said and "committed before is safe" in said
    assert result["whole"] is True
    assert result["no room to restore"]["code"] == 1, result["no room to restore"]
    assert "error (storage)" in str(result["no room to restore"]["said"])
    assert result["again"]["code"] == 3  # the noise is no image: kept whole, and said so
    assert result["whole again"] is True


def _private_mounts() -> bool:
    if not sys.platform.startswith("linux") or shutil.which("unshare") is None:
        return False
    tried = subprocess.run(
        ["unshare", "-rm", "mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", "/mnt"], capture_output=True, check=False
    )
    return tried.returncode == 0


def test_full_file_system(tmp_path: Path) -> None:
    if not _private_mounts():
        pytest.skip("no user namespaces with mounts here; the file-size limit stands in")
    small, large = _folders(tmp_path)
    disk, out = tmp_path / "disk", tmp_path / "out"
    disk.mkdir()
    out.mkdir()
    mount = 'mount -t tmpfs -o size=8m tmpfs "$0" && exec "$@"'
    inside = [sys.executable, "-c", SCENARIO, *map(str, (small, large, disk, "tmpfs", out))]
    ran = subprocess.run(
        ["unshare", "-rm", "sh", "-c", mount, str(disk), *inside],
        cwd=Path(__file__).parent, capture_output=True, text=True, timeout=200, check=False,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr[-3000:]
    result = json.loads(ran.stdout)
    _check(result, "the disk full; free space")
    kept, expected = result["kept"], tools.hashes(small)
    assert {name.removeprefix("small/"): digest for name, digest in kept.items() if "bin" not in name} == expected
    everything = {f"small/{n}": d for n, d in expected.items()}
    everything |= {f"large/{n}": d for n, d in tools.hashes(large).items()}
    assert result["all"] == everything
    assert result["swept"]["code"] == 0


@pytest.mark.skipif(sys.platform == "win32", reason="a limit on the size of files is a POSIX matter")
def test_file_size_limit(tmp_path: Path) -> None:
    small, large = _folders(tmp_path)
    disk, out = tmp_path / "disk", tmp_path / "out"
    disk.mkdir()
    child = tools.python(SCENARIO, small, large, disk, "limit", out, cwd=Path(__file__).parent)
    said, errors = child.communicate(timeout=200)
    assert child.returncode == 0, errors[-3000:]
    _check(json.loads(said), "a limit on the size of files")
