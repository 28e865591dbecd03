"""Clean files are as valid as what came in, and nothing named is left inside private sequences that stay."""

from __future__ import annotations

import io
import itertools
import re
import shutil
import subprocess
from pathlib import Path

import pydicom
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import UID, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from dcmark.deid.apply import is_dicom
from dcmark.deid.mapping import Identities
from dcmark.deid.profile import Profile, load_profile
from dcmark.deid.rewrite import deidentify
from dcmark.errors import HeldBackError

KEY = bytes(range(32))
VALIDATOR = shutil.which("dciodvfy")
CREATOR = "SAFE CREATOR"
PROFILES = ("basic", "basic+dates-modified+patient+descriptors+device+institution+structured+graphics")


def _clean(data: bytes, profile: Profile) -> bytes:
    return b"".join(deidentify(memoryview(data), profile, Identities(KEY)).chunks())


def _errors(data: bytes, place: Path) -> set[str]:
    """What the validator calls an error, without the values it quotes."""
    assert VALIDATOR is not None
    place.write_bytes(data)
    said = subprocess.run([VALIDATOR, str(place)], capture_output=True, timeout=60, check=False)
    lines = (said.stderr + said.stdout).decode("utf-8", "replace").splitlines()
    # Pixel Data is the same bytes before and after; the validator gets to it only once it knows the class.
    errors = [line for line in lines if line.startswith("Error") and "PixelData has incorrect" not in line]
    return {re.sub(r"<[^>]*>|[0-9.]+", "", line) for line in errors}


@pytest.mark.skipif(VALIDATOR is None, reason="needs dciodvfy of Debian's dicom3tools")
@pytest.mark.parametrize("name", PROFILES)
def test_no_new_errors_of_validity(name: str, tmp_path: Path) -> None:
    files = sorted((Path(pydicom.__file__).parent / "data" / "test_files").glob("*.dcm"))
    looked, worse = _new_errors([file for file in files if file.stat().st_size <= 1 << 20], name, tmp_path)
    assert looked > 40
    assert worse == {}


@pytest.mark.long
@pytest.mark.corpus
@pytest.mark.skipif(VALIDATOR is None, reason="needs dciodvfy of Debian's dicom3tools")
@pytest.mark.parametrize("name", [*PROFILES, "basic+dates-full+uids"])
def test_no_new_errors_of_validity_in_the_corpus(name: str, corpus: Path, tmp_path: Path) -> None:
    looked, worse = _new_errors([file for file in sorted(corpus.rglob("*")) if file.is_file()], name, tmp_path)
    assert looked > 600
    assert worse == {}


def _new_errors(files: list[Path], name: str, folder: Path) -> tuple[int, dict[str, list[str]]]:
    """Files looked at, and what the validator says of clean files and not of their originals."""
    profile, looked, worse = load_profile(name), 0, {}
    for file in files:
        data = file.read_bytes()
        if not is_dicom(memoryview(data)):
            continue
        try:
            clean = _clean(data, profile)
        except HeldBackError:
            continue
        looked += 1
        new = _errors(clean, folder / "clean.dcm") - _errors(data, folder / "original.dcm")
        if new:
            worse[file.name] = sorted(new)
    return looked, worse


@pytest.mark.parametrize("depth", [1, 3, 6])
@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRLittleEndian])
def test_private_sequences_that_stay_are_treated_inside(depth: int, syntax: UID) -> None:
    dataset = Dataset()
    dataset.PatientID, dataset.PatientName = "CANARY-ID", "CANARY^NAME"
    dataset.InstitutionName = dataset.AccessionNumber = "CANARY"
    dataset.StudyInstanceUID = "1.2.77.1234"
    for _ in range(depth):
        outer = Dataset()
        outer.private_block(0x0019, CREATOR, create=True).add_new(0x10, "SQ", Sequence([dataset]))
        dataset = outer
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = syntax
    meta.MediaStorageSOPClassUID = UID("1.2.840.10008.5.1.4.1.1.7")
    meta.MediaStorageSOPInstanceUID = UID("1.2.77.1234")
    dataset.file_meta = meta
    stream = io.BytesIO()
    dataset.save_as(stream, enforce_file_format=True)
    profile = Profile("site", frozenset({"private"}), private={CREATOR: frozenset({(0x0019, 0x10)})})
    clean = _clean(stream.getvalue(), profile)
    assert b"CANARY" not in clean
    assert b"1.2.77.1234" not in clean
    back = pydicom.dcmread(io.BytesIO(clean))
    assert all("CANARY" not in str(element.value) for element in itertools.chain(back.iterall(), back.file_meta))
