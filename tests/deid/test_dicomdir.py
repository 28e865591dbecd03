"""A DICOMDIR points at the files of a clean folder, under the names they have there; or is held back."""

from __future__ import annotations

import io
import json
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pydicom
import pytest

from dcmark.deid.apply import Deidentifier
from dcmark.deid.folders import deidentify_folders
from dcmark.deid.mapping import FILE_ID_PART, Identities
from dcmark.deid.profile import Profile, load_profile
from dcmark.deid.vault import Secret, Vault
from dcmark.errors import HeldBackError

KEY = b"k" * 32
BASIC = load_profile("basic")


@pytest.fixture
def disc(bundled: Path, tmp_path: Path) -> Path:
    """A disc of two patients, with a DICOMDIR that names its 31 files."""
    place = tmp_path / "disc"
    shutil.copytree(bundled / "dicomdirtests", place, ignore=shutil.ignore_patterns("DICOMDIR-*", "TINY_ALPHA"))
    return place


def _points_at_its_files(place: Path, originals: Path) -> int:
    """Every record names a file that is there and is the one it says; number of them."""
    directory = pydicom.dcmread(place / "DICOMDIR")
    seen = 0
    for record in directory.DirectoryRecordSequence:
        if "ReferencedFileID" not in record:
            continue
        parts = list(record.ReferencedFileID)
        assert len(parts) <= 8
        assert all(FILE_ID_PART.fullmatch(part) for part in parts)
        found = pydicom.dcmread(place.joinpath(*parts))
        assert found.SOPInstanceUID == record.ReferencedSOPInstanceUIDInFile
        seen += 1
    old = pydicom.dcmread(originals / "DICOMDIR")
    assert seen == sum("ReferencedFileID" in record for record in old.DirectoryRecordSequence)
    return seen


def _cleaned(disc: Path, out: Path, profile: Profile = BASIC, **options: object):
    return deidentify_folders([disc], out, Deidentifier(profile, KEY), **options)


def test_file_ids_become_the_new_names(disc: Path, tmp_path: Path) -> None:
    report = _cleaned(disc, tmp_path / "out", log=tmp_path / "log.jsonl")
    assert [finding.path for finding in report.findings] == ["README.txt"]
    assert _points_at_its_files(tmp_path / "out", disc) == 31
    whole = (tmp_path / "out" / "DICOMDIR").read_bytes()
    for name in (b"98892001", b"98892003", b"77654033", b"PYDICOM_TEST", b"Doe"):
        assert name not in whole
    directory = pydicom.dcmread(tmp_path / "out" / "DICOMDIR")
    images, old = (
        [one for one in found.DirectoryRecordSequence if one.DirectoryRecordType == "IMAGE"]
        for found in (directory, pydicom.dcmread(disc / "DICOMDIR"))
    )
    identities = Identities(KEY)
    assert [one.ReferencedSOPInstanceUIDInFile for one in images] == [
        identities.uid(one.ReferencedSOPInstanceUIDInFile) for one in old
    ]
    # The file set reads as one by another library.
    code = "import sys; from pydicom.fileset import FileSet; print(len(FileSet(sys.argv[1])))"
    read = [sys.executable, "-W", "ignore", "-c", code, str(tmp_path / "out" / "DICOMDIR")]
    assert subprocess.run(read, capture_output=True, text=True, check=True).stdout.strip() == "31"


def test_the_log_says_what_became_of_names(disc: Path, tmp_path: Path) -> None:
    report = _cleaned(disc, tmp_path / "out", log=tmp_path / "log.jsonl")
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    by_file = {line["file"]: dict(map(tuple, line["changes"])) for line in lines}
    assert by_file["DICOMDIR"].get("folder[0]") is None
    inside = [changes for name, changes in by_file.items() if name != "DICOMDIR"]
    assert all(changes["folder[0]"] == changes["folder[1]"] == "token" for changes in inside)
    assert report.renamed == len(inside)
    assert report.actions["rename"] == 31
    text = (tmp_path / "log.jsonl").read_text()
    assert not any(name in text for name in ("98892001", "CT2N", "Doe"))


def test_where_the_patients_folder_cannot_be_named_the_directory_is_held_back(disc: Path, tmp_path: Path) -> None:
    report = _cleaned(disc, tmp_path / "out", layout="{patient}/{image}/*")
    assert {finding.path for finding in report.findings} == {"README.txt", "DICOMDIR"}
    assert "S{0001}" in next(finding.message for finding in report.findings if finding.path == "DICOMDIR")
    assert not (tmp_path / "out" / "DICOMDIR").exists()


def test_pseudonyms_that_fit_keep_the_directory(disc: Path, tmp_path: Path) -> None:
    pytest.importorskip("cryptography")
    profile = Profile("t", patient="S{0001}")
    with Vault.create(tmp_path / "v.vault", Secret(key=KEY)) as vault:
        report = deidentify_folders(
            [disc], tmp_path / "out", Deidentifier(profile, vault=vault), layout="{patient}/{image}/*"
        )
    assert [finding.path for finding in report.findings] == ["README.txt"]
    assert _points_at_its_files(tmp_path / "out", disc) == 31
    assert {place.name for place in (tmp_path / "out").iterdir()} == {"DICOMDIR", "S0001", "S0002"}


def test_of_several_sources_none_is_passed_on(disc: Path, tmp_path: Path) -> None:
    shutil.copytree(disc, tmp_path / "second")
    report = deidentify_folders([disc, tmp_path / "second"], tmp_path / "out", Deidentifier(BASIC, KEY))
    assert sum(finding.path == "DICOMDIR" for finding in report.findings) == 2
    assert not list((tmp_path / "out").rglob("DICOMDIR*"))


def test_an_archive_gets_the_same_names(disc: Path, tmp_path: Path) -> None:
    import dcmark

    archive = dcmark.open_archive(tmp_path / "a.dcmark", create=True)
    dcmark.ingest(disc, archive, deidentifier=Deidentifier(BASIC, KEY), threads=1)
    dcmark.restore(archive, tmp_path / "out")
    assert _points_at_its_files(tmp_path / "out", disc) == 31


@pytest.mark.parametrize("name", ["A/B", "..", "", "A\\..\\B", "/etc/passwd"])
def test_names_that_lead_elsewhere_are_held_back(name: str, disc: Path) -> None:
    directory = pydicom.dcmread(disc / "DICOMDIR")
    record = next(one for one in directory.DirectoryRecordSequence if "ReferencedFileID" in one)
    stream = io.BytesIO()
    pydicom.dcmwrite(stream, directory)
    old = "\\".join(record.ReferencedFileID).encode()
    data = stream.getvalue()
    assert old in data
    data = data.replace(old, name.encode().ljust(len(old)) if name else b"\\".ljust(len(old)), 1)
    with pytest.raises(HeldBackError, match="below a DICOMDIR"):
        Deidentifier(BASIC, KEY).file(memoryview(data), "DICOMDIR")


def test_a_mutated_directory_is_made_clean_or_held_back(disc: Path) -> None:
    data, chance = (disc / "DICOMDIR").read_bytes(), random.Random(3)
    tool = Deidentifier(BASIC, KEY)
    made = 0
    for _ in range(400):
        altered = bytearray(data)
        for _ in range(chance.randint(1, 4)):
            altered[chance.randrange(132, len(altered))] = chance.randrange(256)
        try:
            tool.file(memoryview(altered), "disc/DICOMDIR")
            made += 1
        except HeldBackError:
            continue
    assert 0 < made < 400
