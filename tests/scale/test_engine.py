"""Work spread over processes or a Dask cluster gives what one process gives; workers that die cost time only."""

from __future__ import annotations

import functools
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from scale_tools import content, dataset, hashes, slice_of

import dcmark
from dcmark import engine as engines
from dcmark.archive.events import check_events
from dcmark.cli import run
from dcmark.deid.apply import Deidentifier
from dcmark.deid.folders import deidentify_folders
from dcmark.deid.profile import load_profile
from dcmark.deid.vault import Secret, Vault
from dcmark.errors import DamageError, MissingExtraError, StorageError, UsageError
from dcmark.sharded import ingest_sharded

dask_warnings = pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::DeprecationWarning")
pytestmark = [dask_warnings]


def made(kind: str) -> engines.Engine:
    if kind == "processes":
        return engines.ProcessEngine(2)
    pytest.importorskip("distributed", reason="the extra dask is not installed")
    return engines.DaskEngine(None, 2)


@pytest.fixture(scope="module", params=["processes", "dask"])
def engine(request: pytest.FixtureRequest) -> Iterator[engines.Engine]:
    one = made(request.param)
    yield one
    one.close()


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return dataset(tmp_path_factory.mktemp("engine") / "data_dir")


@pytest.fixture(scope="module")
def whole(source: Path, tmp_path_factory: pytest.TempPathFactory) -> dcmark.Archive:
    archive = dcmark.open_archive(tmp_path_factory.mktemp("whole") / "a.dcmark", create=True)
    dcmark.ingest(source, archive)
    return archive


def square(number: int) -> int:
    return number * number


def failing(number: int) -> int:
    if number == 3:
        raise DamageError("three")
    return number


def dies_once(place: str, number: int) -> int:
    """The worker that gets 2 is killed the first time."""
    if number == 2 and not Path(place).exists():
        Path(place).touch()
        os.kill(os.getpid(), signal.SIGKILL if sys.platform != "win32" else signal.SIGTERM)
    return number


def always_dies(number: int) -> int:
    os._exit(number + 1)


def test_results_come_in_order_and_lazily(engine: engines.Engine) -> None:
    taken = []

    def units() -> Iterator[int]:
        for number in range(50):
            taken.append(number)
            yield number

    found = engine.map(square, units())
    assert next(found) == 0
    assert len(taken) <= 1 + engine.workers * engines.AHEAD
    assert list(found) == [n * n for n in range(1, 50)]
    assert list(engine.map(square, [])) == []


def test_an_error_is_raised_where_it_is_due(engine: engines.Engine) -> None:
    found = engine.map(failing, range(6))
    assert [next(found) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(DamageError, match="three"):
        next(found)
    assert list(engine.map(square, range(4))) == [0, 1, 4, 9]


def test_a_dead_worker_costs_time_only(engine: engines.Engine, tmp_path: Path) -> None:
    work = functools.partial(dies_once, str(tmp_path / "died"))
    assert list(engine.map(work, range(8))) == list(range(8))
    assert (tmp_path / "died").exists()


def test_work_that_kills_every_worker_is_given_up() -> None:
    one = made("processes")
    try:
        with pytest.raises(StorageError, match="its worker dead"):
            list(one.map(always_dies, range(2)))
    finally:
        one.close()


def test_ingest(engine: engines.Engine, source: Path, whole: dcmark.Archive, tmp_path: Path) -> None:
    archive = dcmark.open_archive(tmp_path / "a.dcmark", create=True)
    report = ingest_sharded([source], archive, engine)
    assert content(archive) == content(whole)
    assert archive.count("files") == whole.count("files"), "nothing is stored twice"
    assert report.files + report.duplicates == whole.count("paths") - report.refused - sum(
        row["sha256"] is None for row in whole.read("paths", ["sha256"]).to_pylist()
    )
    again = ingest_sharded([source], archive, engine)
    assert again.files == 0
    assert content(archive) == content(whole)


def test_verify_and_restore(engine: engines.Engine, whole: dcmark.Archive, tmp_path: Path) -> None:
    alone = dcmark.verify(whole)
    dcmark.restore(whole, tmp_path / "alone")
    with engines.use(engine):
        report = dcmark.verify(whole)
        restored = dcmark.restore(whole, tmp_path / "spread")
    assert (report.files, report.files_read, report.bytes_read) == (alone.files, alone.files_read, alone.bytes_read)
    assert report.whole and report.orphans == alone.orphans
    assert hashes(tmp_path / "spread") == hashes(tmp_path / "alone")
    assert restored.files == len(hashes(tmp_path / "alone"))


def test_damage_is_found_by_workers(engine: engines.Engine, tmp_path: Path) -> None:
    archive = dcmark.open_archive(tmp_path / "a.dcmark", create=True)
    source = tmp_path / "source"
    source.mkdir()
    for number in range(6):
        (source / f"{number}.dcm").write_bytes(slice_of("P1", 1, number, 400))
    dcmark.ingest(source, archive)
    (blob, *_) = sorted((archive.path / "frames.lance" / "data").rglob("*.blob"))
    data = bytearray(blob.read_bytes())
    for at in range(40, len(data) // 2, 200):
        data[at] ^= 255
    blob.write_bytes(data)
    archive.refresh()
    alone = dcmark.verify(archive)
    with engines.use(engine):
        report = dcmark.verify(archive)
        restored = dcmark.restore(archive, tmp_path / "out")
    assert not report.whole and 0 < len(alone.findings) < 6
    assert {(f.path, f.code) for f in report.findings} == {(f.path, f.code) for f in alone.findings}
    assert restored.damaged == len(alone.findings)


def test_volumes(engine: engines.Engine, source: Path, whole: dcmark.Archive, tmp_path: Path) -> None:
    archive = dcmark.open_archive(tmp_path / "a.dcmark", create=True)
    dcmark.ingest(source, archive, describe=False)
    with engines.use(engine):
        ours = archive.volumes()
    assert [(v.id, v.frames) for v in ours] == [(v.id, v.frames) for v in whole.volumes()]


def test_exports(engine: engines.Engine, whole: dcmark.Archive, tmp_path: Path) -> None:
    pytest.importorskip("nibabel")
    from dcmark.view.export.images import export_images
    from dcmark.view.export.nifti import export_nifti
    from dcmark.view.export.npy import export_npy

    for export in (export_images, export_npy, export_nifti):
        name = export.__name__
        one = export(whole, tmp_path / f"{name} alone")  # type: ignore[operator]
        with engines.use(engine):
            other = export(whole, tmp_path / f"{name} spread")  # type: ignore[operator]
        assert (one.items, one.left_out) == (other.items, other.left_out) and one.items
        assert hashes(tmp_path / f"{name} spread") == hashes(tmp_path / f"{name} alone")


def test_training_sets(engine: engines.Engine, whole: dcmark.Archive, tmp_path: Path) -> None:
    from dcmark.view.export.stylegan3 import export_stylegan3
    from dcmark.view.view import View

    view = View(where="modality = 'CT'", size=(16, 16))
    export_stylegan3(whole, tmp_path / "alone.zip", view=view)
    with engines.use(engine):
        export_stylegan3(whole, tmp_path / "spread.zip", view=view)
    assert (tmp_path / "alone.zip").read_bytes() == (tmp_path / "spread.zip").read_bytes()


@pytest.mark.parametrize("with_vault", [False, True])
def test_deidentify(engine: engines.Engine, source: Path, tmp_path: Path, with_vault: bool) -> None:
    pytest.importorskip("cryptography")
    profile, key = load_profile("basic"), bytes(range(32))
    reports = {}
    for name in ("alone", "spread"):
        vault = Vault.create(tmp_path / f"{name}.vault", Secret(key=key)) if with_vault else None
        tool = Deidentifier(profile, key if vault is None else vault.key, vault)
        with engines.use(engine if name == "spread" else None):
            reports[name] = deidentify_folders([source], tmp_path / name, tool)
        if vault is not None:
            vault.close()
    if not with_vault:
        assert hashes(tmp_path / "spread") == hashes(tmp_path / "alone")
    assert reports["spread"].files == reports["alone"].files > 0
    assert reports["spread"].actions == reports["alone"].actions
    assert reports["spread"].held_back == reports["alone"].held_back
    if with_vault:
        with Vault.open(tmp_path / "spread.vault", Secret(key=key)) as opened:
            assert len(list(opened)) == len(set(hashes(tmp_path / "spread").values()))


def test_ingest_of_clean_files(engine: engines.Engine, source: Path, tmp_path: Path) -> None:
    tool = Deidentifier(load_profile("basic"), bytes(range(32)))
    alone, many = (dcmark.open_archive(tmp_path / f"{name}.dcmark", create=True) for name in ("alone", "many"))
    dcmark.ingest(source, alone, deidentifier=tool)
    ingest_sharded([source], many, engine, deidentifier=tool)
    assert dcmark.open_archive(many.path).info.hashes_cover == "de-identified"
    for name in ("files", "frames", "volumes"):
        assert content(many)[name] == content(alone)[name]


def test_a_vault_has_one_writer(source: Path, tmp_path: Path) -> None:
    pytest.importorskip("cryptography")
    words = ["--deidentify", "basic", "--vault", str(tmp_path / "v"), "--key-file", str(tmp_path / "k")]
    assert run(["ingest", str(source), str(tmp_path / "a.dcmark"), *words, "--workers", "2", "-q"]) == 2


def test_agreement(engine: engines.Engine, source: Path, tmp_path: Path) -> None:
    import numpy as np

    from dcmark.annotate.agree import compare
    from dcmark.annotate.log import Log
    from dcmark.annotate.model import Annotation, Contour, Label, Target
    from dcmark.annotate.places import Places

    archive = dcmark.open_archive(tmp_path / "a.dcmark", create=True)
    dcmark.ingest(source, archive)
    sides: list[list[Any]] = [[], []]
    chance = np.random.default_rng(4)
    for volume in archive.volumes():
        for side in (0, 1):
            frame = volume.frames[0]
            low, high = sorted(chance.uniform(1, 7, 2))
            corners = ((low, low), (high + 1, high + 1))
            sides[side].append(
                Annotation(
                    kind="box", target=Target(level="region", file=frame.file, frame=frame.frame),
                    label=Label("lesion"), contours=(Contour(corners, frame),), author=f"reader {side}",
                )
            )  # fmt: skip
    log = Log(archive)
    log.add([*sides[0], *sides[1]])
    annotations = list(log.state().annotations())
    one, other = ([a for a in annotations if a.author == f"reader {side}"] for side in (0, 1))
    alone = compare(one, other, Places(archive))
    with engines.use(engine):
        spread = compare(one, other, Places(archive))
    assert spread == alone
    assert len(alone.overlaps) > 3
    assert list(check_events(archive)) == []


def test_the_command_line(source: Path, whole: dcmark.Archive, tmp_path: Path) -> None:
    place = str(tmp_path / "a.dcmark")
    assert run(["ingest", str(source), place, "--workers", "2", "-q"]) in (0, 3)
    assert content(dcmark.open_archive(place)) == content(whole)
    assert run(["verify", place, "--workers", "2", "-q"]) == 0
    assert run(["ingest", str(source), place, "--scheduler", "tcp://127.0.0.1:1"]) == 2
    assert (
        run(["ingest", str(source), place, "--engine", "dask", "--scheduler", "tcp://127.0.0.1:1", "--workers", "2"])
        == 2
    )
    assert run(["ingest", str(source), place, "--engine", "spark"]) == 2


def test_options_that_do_not_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    for words in ({"scheduler": "tcp://x:1"}, {"name": "dask", "scheduler": "tcp://x:1", "workers": 2}):
        with pytest.raises(UsageError), engines.opened(**words):  # type: ignore[arg-type]
            pass
    with engines.opened() as none:
        assert none is None
    assert engines.current() is None
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(MissingExtraError, match="dask"), engines.opened("dask"):
        pass
