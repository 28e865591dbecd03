"""Annotations made on de-identified images refer to the originals once whoever holds the vault exports them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest

import dcmark
from dcmark.annotate.exchange import export_annotations, import_annotations, import_from_archive
from dcmark.annotate.log import Log
from dcmark.annotate.masks import make_plane
from dcmark.annotate.model import Annotation, Code, Contour, Label
from dcmark.annotate.places import Places
from dcmark.annotate.raster import regions
from dcmark.deid.apply import Deidentifier
from dcmark.deid.profile import Profile
from dcmark.deid.vault import Secret, Vault
from dcmark.errors import DamageError, UsageError
from dcmark.originals import export_on_originals
from dcmark.read.volume_model import FrameId
from dcmark.testing.standins import drli
from dcmark.testing.synthetic import ct_series

pytest.importorskip("cryptography")
SECRET = Secret(key=b"s" * 32)
PROFILE = Profile("t", patient="S-{0001}")
LIVER = Label("liver", Code("10200004", "SCT", "Liver"), Code("91723000", "SCT", "Anatomical Structure"), "#cc3311")


@pytest.fixture(scope="module")
def scans(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("scans") / "ctpa" / "Svensson Sven" / "1"
    hu = np.random.default_rng(1).integers(-200, 300, (6, 40, 48))
    ct_series(place, hu, spacing_mm=(3.0, 0.9, 0.7), patient="Svensson^Sven", tags={"PatientID": "19121212-1212"})
    return place.parents[1]


@pytest.fixture(scope="module")
def clean(scans: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[dcmark.Archive, Path]:
    """An archive of de-identified images with annotations made on it, and the vault."""
    folder = tmp_path_factory.mktemp("clean")
    archive = dcmark.open_archive(folder / "a.dcmark", create=True)
    with Vault.create(folder / "v.vault", SECRET) as vault:
        dcmark.ingest(scans, archive, deidentifier=Deidentifier(PROFILE, vault=vault))
    Log(archive, "Ada").add(_made(archive))
    return archive, folder / "v.vault"


def _made(archive: dcmark.Archive) -> list[Annotation]:
    places = Places(archive)
    (volume,) = places.volumes.values()
    frames = [FrameId(*frame) for frame in volume.frames]
    planes = []
    for k, frame in enumerate(frames[1:]):
        mask = np.zeros((40, 48), bool)
        mask[3 : 20 + k, 4 : 12 + 2 * k] = True
        planes.append(make_plane(frame, mask))
    ring = ((10.25, 8.5), (10.5, 30.25), (28.75, 31.0), (30.0, 9.5))
    return [
        Annotation("mask", places.target("volume", frames, volume), LIVER, mask=planes),
        Annotation(
            "polygon", places.target("region", [frames[2]]), Label("lesion"), (Contour(ring, frames[2]),), author="Ada"
        ),
        Annotation("label", places.target("study", frames), Label("steatosis")),
        Annotation("label", places.target("patient", frames), Label("follow-up")),
    ]


def _originals(scans: Path) -> dict[str, pydicom.Dataset]:
    return {found.SOPInstanceUID: found for found in map(pydicom.dcmread, scans.rglob("*.dcm"))}


def _uids(dataset: pydicom.Dataset, keyword: str) -> set[str]:
    return {str(element.value) for element in dataset.iterall() if element.keyword == keyword}


@pytest.mark.parametrize("format", ["seg", "rtstruct", "sr"])
def test_dicom_objects_refer_to_the_original_instances(
    format: str, scans: Path, clean: tuple[dcmark.Archive, Path], tmp_path: Path
) -> None:
    archive, place = clean
    chosen = [one for one in Log(archive).state().annotations() if format != "rtstruct" or one.kind != "label"]
    with Vault.open(place, SECRET) as vault:
        report = export_on_originals(archive, vault, format, tmp_path / "out", annotations=chosen)
    originals = _originals(scans)
    some = next(iter(originals.values()))
    assert report.annotations
    for file in report.files:
        made = pydicom.dcmread(tmp_path / "out" / file)
        assert (made.PatientID, str(made.PatientName)) == ("19121212-1212", "Svensson^Sven")
        assert made.StudyInstanceUID == some.StudyInstanceUID
        assert made.StudyDate == some.StudyDate
        referenced = _uids(made, "ReferencedSOPInstanceUID")
        assert referenced
        assert referenced <= {*originals, some.StudyInstanceUID}
        assert _uids(made, "FrameOfReferenceUID") <= {some.FrameOfReferenceUID}
    assert not list(tmp_path.glob(".out*")), "originals were left behind"


def test_what_comes_back_marks_the_same_pixels(scans: Path, clean: tuple[dcmark.Archive, Path], tmp_path: Path) -> None:
    """Round the whole way: export on the originals, import where the originals are, compare pixels."""
    archive, place = clean
    masks = [one for one in Log(archive).state().annotations() if one.kind == "mask"]
    with Vault.open(place, SECRET) as vault:
        report = export_on_originals(archive, vault, "seg", tmp_path / "out", annotations=masks)
    plain = dcmark.open_archive(tmp_path / "plain.dcmark", create=True)
    dcmark.ingest(scans, plain)
    import_annotations(plain, "seg", tmp_path / "out")
    (there,), (here,) = Log(plain).state().annotations(), masks
    assert len(report.files) == 1

    def areas(one: Annotation, where: dcmark.Archive) -> list[tuple[float, int, tuple[int, ...]]]:
        places = Places(where)
        found = [(places.plane(frame), mask) for frame, mask in regions(one, places.size).items()]
        return sorted((float(plane.origin[2]), int(mask.sum()), tuple(np.argwhere(mask)[0])) for plane, mask in found)

    assert areas(there, plain) == areas(here, archive)


def test_json_and_csv_name_the_originals(scans: Path, clean: tuple[dcmark.Archive, Path], tmp_path: Path) -> None:
    archive, place = clean
    state = Log(archive).state()
    with Vault.open(place, SECRET) as vault:
        for format, kinds in (("coco", {"polygon"}), ("csv", {"label"})):
            chosen = [one for one in state.annotations() if one.kind in kinds]
            export_on_originals(archive, vault, format, tmp_path / format, annotations=chosen)
            text = "".join(file.read_text() for file in sorted((tmp_path / format).rglob("*")) if file.is_file())
            assert "S-0001" not in text
            assert "19121212-1212" in text or format == "coco"
    (said,) = (tmp_path / "coco").rglob("*.json")
    names = {image["file_name"] for image in json.loads(said.read_text())["images"]}
    assert names
    originals = {hashlib.sha256(file.read_bytes()).hexdigest() for file in scans.rglob("*.dcm")}
    assert {name[:64] for name in names} <= originals


def test_another_vault_and_nothing_to_export_are_refused(clean: tuple[dcmark.Archive, Path], tmp_path: Path) -> None:
    archive, place = clean
    chosen = list(Log(archive).state().annotations())
    with Vault.create(tmp_path / "other.vault", SECRET) as other, pytest.raises(DamageError, match="does not know"):
        export_on_originals(archive, other, "seg", tmp_path / "out", annotations=chosen)
    with Vault.open(place, SECRET) as vault, pytest.raises(UsageError, match="found none"):
        export_on_originals(archive, vault, "seg", tmp_path / "out", annotations=[])
    assert not (tmp_path / "out").exists()


def test_the_command(scans: Path, tmp_path: Path, command: Callable[..., Any]) -> None:
    run = command
    keys = ("--vault", "v.vault", "--key-file", "s.key")
    made = run("ingest", str(scans), "a.dcmark", "--deidentify", "basic", *keys)
    assert made.returncode == 0, made.stderr
    archive = dcmark.open_archive(tmp_path / "a.dcmark")
    Log(archive, "Ada").add(_made(archive)[:1])
    assert run("annotations", "export", "seg", "a.dcmark", "clean-seg").returncode == 0
    told = run("annotations", "export", "seg", "a.dcmark", "out", *keys)
    assert told.returncode == 0, told.stderr
    (here,), (there,) = ((tmp_path / name).rglob("*.dcm") for name in ("clean-seg", "out"))
    assert pydicom.dcmread(here).PatientID.startswith("P-")
    assert pydicom.dcmread(there).PatientID == "19121212-1212"
    (tmp_path / "t.key").write_bytes(b"x" * 32)
    refused = run("annotations", "export", "seg", "a.dcmark", "out2", "--vault", "v.vault", "--key-file", "t.key")
    assert refused.returncode == 1
    assert not (tmp_path / "out2").exists()


def test_several_processes_with_a_vault_are_refused_before_anything_is_made(
    scans: Path, tmp_path: Path, command: Callable[..., Any]
) -> None:
    run = command
    assert run("inventory", str(scans), "i.parquet").returncode == 0
    keys = ("--deidentify", "basic", "--vault", "v.vault", "--key-file", "s.key")
    for words in (
        ("ingest", str(scans), "a.dcmark", *keys, "--workers", "2"),
        ("ingest", "a.dcmark", "--inventory", "i.parquet", "--shard", "1/2", *keys),
    ):
        told = run(*words)
        assert told.returncode == 2, told.stderr
        assert "one process" in told.stderr
        assert "--key-file" in told.stderr
    (tmp_path / "p.toml").write_text('patient = "S-{0001}"\n')
    counts = ("--profile", "p.toml", "--vault", "v.vault", "--key-file", "s.key", "--workers", "2")
    told = run("deidentify", str(scans), "out", *counts)
    assert (told.returncode, "one process where pseudonyms count" in told.stderr) == (2, True)
    assert not any((tmp_path / name).exists() for name in ("v.vault", "s.key", "out", "a.dcmark"))


def test_an_archive_ingested_in_two_halves_fits(tmp_path: Path) -> None:
    """Images first, then segmentation, presentation state, key objects and report: all still point at the images."""
    root = drli(tmp_path, patients=2, slices=8, rows=64, columns=64)
    plain = dcmark.open_archive(tmp_path / "plain.dcmark", create=True)
    dcmark.ingest(root, plain)
    Log(plain, "Ada")
    wanted = import_from_archive(plain)
    # Structures too, as another program would have made them on the originals.
    contours = [one for one in Log(plain).state().annotations() if one.kind in ("polygon", "freehand", "mask")]
    export_annotations(plain, "rtstruct", root / "AI-DRLI-001" / "4", annotations=contours)
    expected = import_annotations(plain, "rtstruct", root / "AI-DRLI-001" / "4")
    halves = [tmp_path / name for name in ("first", "second")]
    for patient in ("AI-DRLI-001", "AI-DRLI-002"):
        for half, names in zip(halves, (("1",), ("2", "3", "4")), strict=True):
            for name in names:
                if (root / patient / name).exists():
                    (half / "drli" / patient).mkdir(parents=True, exist_ok=True)
                    (root / patient / name).rename(half / "drli" / patient / name)
    archive = dcmark.open_archive(tmp_path / "clean.dcmark", create=True)
    profile = Profile("t", frozenset({"structured", "graphics"}))
    for half in halves:
        report = dcmark.ingest(half / "drli", archive, deidentifier=Deidentifier(profile, b"k" * 32))
        assert report.refused == 0
    found = import_from_archive(archive)
    assert wanted.annotations
    assert [one.message for one in found.findings if one.level == "error"] == []
    assert found.annotations == wanted.annotations + expected.annotations
    assert found.files == wanted.files + expected.files
