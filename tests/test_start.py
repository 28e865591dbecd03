"""Starting is quick: what is heavy is imported when it is used."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = ("lance", "pyarrow", "duckdb", "pydicom", "numpy", "torch", "imagecodecs", "nibabel", "PIL", "highdicom")
TOLD = "import sys; print(*{name.partition('.')[0] for name in sys.modules})"


def _modules(script: str) -> set[str]:
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=120)
    return set(ran.stdout.splitlines()[-1].split())


@pytest.mark.parametrize(
    "script",
    [
        f"import dcmark; {TOLD}",
        f"import dcmark, dcmark.cli; {TOLD}",
        f"import dcmark.cli; assert dcmark.cli.run(['--help']) == 0; {TOLD}",
        f"import dcmark.cli; assert dcmark.cli.run(['ingest', '--help']) == 0; {TOLD}",
        f"import dcmark.cli; assert dcmark.cli.run(['--version']) == 0; {TOLD}",
        f"import dcmark.cli; assert dcmark.cli.run(['nonsense']) == 2; {TOLD}",
    ],
    ids=["import", "cli", "help", "help of a command", "version", "wrong usage"],
)
def test_nothing_heavy_is_imported(script: str) -> None:
    loaded = _modules(script)
    assert "dcmark" in loaded
    assert not loaded.intersection(HEAVY)


def test_every_public_name_is_there() -> None:
    """Names that are imported when first used are found all the same, and no other."""
    script = (
        "import dcmark\n"
        "assert set(dcmark.__all__) <= set(dir(dcmark)) | set(dcmark._HOMES)\n"
        "for name in dcmark.__all__: getattr(dcmark, name)\n"
        "try: dcmark.nonsense\n"
        "except AttributeError as error: print(error)\n"
    )
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=120)
    assert "nonsense" in ran.stdout
