"""De-identification: nothing the profile names is left, at any depth, and nothing else changes."""

from __future__ import annotations

import io
import itertools
import subprocess
import sys
from pathlib import Path

import pydicom
import pytest
from pydicom.datadict import dictionary_VR
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from dcmark.deid.mapping import Identities
from dcmark.deid.profile import Profile, load_profile
from dcmark.deid.rewrite import deidentify, dictionary_vr
from dcmark.errors import HeldBackError, UsageError
from dcmark.standard.confidentiality import OPTIONS, rules

KEY = bytes(range(32))
SYNTAXES = [ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian]
CANARIES = {
    "AE": "CANARYAE", "AS": "077Y", "CS": "CANARYCS", "DA": "19670413", "DS": "77.1234", "DT": "19670413121314",
    "IS": "771234", "LO": "CANARY^LO", "LT": "CANARY LT", "PN": "CANARY^PN", "SH": "CANARYSH", "ST": "CANARY ST",
    "TM": "121314.77", "UC": "CANARY UC", "UI": "1.2.77.1234", "UR": "http://canary", "UT": "CANARY UT",
    "OB": b"CANARYOB", "OW": b"CANARYOW", "OF": b"CANARYOF", "OD": b"CANARYOD", "OL": b"CANARYOL", "UN": b"CANARYUN",
    "US": 7712, "SS": 7712, "UL": 77123456, "SL": 77123456, "FL": 77.1234, "FD": 77.1234, "AT": 0x77123456,
    "OB or OW": b"CANARYOW", "US or SS": 7712, "UV": 77123456, "SV": 77123456, "OV": b"CANARYOV",
}  # fmt: skip


def _filled() -> Dataset:
    """Every attribute of the profile's table with a canary."""
    dataset = Dataset()
    for rule in rules():
        tag = int(rule.tag.replace("xxxxxx", "000010").replace("xx", "02"), 16)
        if tag >> 16 in (0x0000, 0x0002, 0x0004, 0xFFFA, 0xFFFC):
            continue
        try:
            vr = dictionary_VR(tag)
        except KeyError:
            vr = "UN"
        if vr == "SQ":
            inner = Dataset()
            inner.PatientComments = "CANARY inside"
            dataset.add_new(tag, "SQ", Sequence([inner]))
        else:
            dataset.add_new(tag, vr.split(" ")[0] if vr != "OB or OW" else "OW", CANARIES[vr])
    dataset.add_new(0x00190010, "LO", "CANARY CREATOR")
    dataset.add_new(0x00191001, "LO", "CANARY PRIVATE")
    return dataset


def _nested(depth: int, undefined: bool) -> Dataset:
    """The canaries, so many sequences deep, in a sequence that the profile keeps."""
    dataset = _filled()
    for _ in range(depth):
        outer = Dataset()
        outer.ReferencedStudySequence = Sequence([dataset])
        del outer.ReferencedStudySequence
        outer.SharedFunctionalGroupsSequence = Sequence([dataset])
        if undefined:
            outer["SharedFunctionalGroupsSequence"].is_undefined_length = True
            dataset.is_undefined_length_sequence_item = True
        dataset = outer
    return dataset


def _written(dataset: Dataset, syntax: UID) -> bytes:
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = syntax
    meta.MediaStorageSOPClassUID = UID("1.2.840.10008.5.1.4.1.1.7")
    meta.MediaStorageSOPInstanceUID = UID("1.2.77.1234")
    meta.SourceApplicationEntityTitle = "CANARYAE"
    dataset.file_meta = meta
    stream = io.BytesIO()
    dataset.save_as(stream, enforce_file_format=True)
    return stream.getvalue()


def _clean(data: bytes, profile: str | Profile = "basic", key: bytes = KEY) -> Dataset:
    chosen = load_profile(profile) if isinstance(profile, str) else profile
    made = deidentify(memoryview(data), chosen, Identities(key))
    return pydicom.dcmread(io.BytesIO(b"".join(made.chunks())))


@pytest.mark.parametrize(("depth", "undefined"), [(0, False), (1, False), (1, True), (3, True), (6, False), (6, True)])
@pytest.mark.parametrize("syntax", SYNTAXES)
def test_no_canary_is_left_at_any_depth(depth: int, undefined: bool, syntax: UID) -> None:
    data = _written(_nested(depth, undefined), syntax)
    made = deidentify(memoryview(data), load_profile("basic"), Identities(KEY))
    out = b"".join(made.chunks())
    clean = pydicom.dcmread(io.BytesIO(out))
    left = [
        (element.tag, element.keyword)
        for element in itertools.chain(clean.iterall(), clean.file_meta)
        if _is_canary(element.value)
    ]
    assert left == []
    assert not any(element.tag.is_private for element in clean.iterall())


def _is_canary(value: object) -> bool:
    values = value if isinstance(value, list | pydicom.multival.MultiValue) else [value]
    known = {str(v) for v in CANARIES.values()}
    return any(("CANARY" in str(v) or "canary" in str(v) or str(v) in known) for v in values)


def test_private_sequences_go_with_all_they_hold() -> None:
    dataset, inner = Dataset(), Dataset()
    inner.PatientName = "CANARY^PN"
    block = dataset.private_block(0x0019, "SOME CREATOR", create=True)
    block.add_new(0x01, "SQ", Sequence([inner]))
    assert not any(e.tag.is_private for e in _clean(_written(dataset, ExplicitVRLittleEndian)).iterall())


def test_safe_private_elements_stay_under_the_option_and_nothing_else_private() -> None:
    dataset = Dataset()
    safe = dataset.private_block(0x0019, "SAFE", create=True)
    safe.add_new(0x01, "DS", "1.5")
    safe.add_new(0x02, "LO", "CANARY")
    other = dataset.private_block(0x0019, "OTHER", create=True)
    other.add_new(0x01, "LO", "CANARY")
    profile = Profile("t", frozenset({"private"}), private={"SAFE": frozenset({(0x0019, 0x01)})})
    clean = _clean(_written(dataset, ExplicitVRLittleEndian), profile)
    assert [e.value for e in clean if e.tag.is_private] == ["SAFE", 1.5]


def test_what_the_profile_does_not_name_keeps_its_bytes(bundled: Path) -> None:
    for name in ("CT_small.dcm", "MR_small_RLE.dcm", "MR_small_bigendian.dcm", "image_dfl.dcm", "JPEG2000.dcm"):
        data = (bundled / name).read_bytes()
        before, after = pydicom.dcmread(io.BytesIO(data)), _clean(data)
        profile = load_profile("basic")
        for element in before:
            if profile.action(int(element.tag)) is None and not element.tag.is_private and element.tag.element:
                assert after[element.tag].value == element.value, element.tag
        assert after.PixelData == before.PixelData


def test_the_file_says_what_was_done(bundled: Path) -> None:
    clean = _clean((bundled / "CT_small.dcm").read_bytes(), "basic+dates-modified+patient")
    assert clean.PatientIdentityRemoved == "YES"
    assert clean.LongitudinalTemporalInformationModified == "MODIFIED"
    codes = [item.CodeValue for item in clean.DeidentificationMethodCodeSequence]
    assert codes == ["113100", OPTIONS["dates-modified"][0], OPTIONS["patient"][0]]


def test_uids_map_one_to_one_and_alike_in_another_process() -> None:
    identities = Identities(KEY)
    old = [f"1.2.826.0.1.{n}" for n in range(2000)]
    new = [identities.uid(uid) for uid in old]
    assert len(set(new)) == len(old)
    assert all(UID(uid).is_valid and len(uid) <= 64 for uid in new)
    assert identities.uid("1.2.840.10008.5.1.4.1.1.2") == "1.2.840.10008.5.1.4.1.1.2"
    code = (
        f"from dcmark.deid.mapping import Identities as I; i = I({KEY!r}); print(i.uid({old[7]!r}), i.pseudonym('x'))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert found == [new[7], identities.pseudonym("x")]
    assert Identities(b"y" * 32).uid(old[7]) != new[7]


def test_all_dates_of_a_patient_move_by_one_number_of_days() -> None:
    shifts = set()
    for study, series in (("20200229", "20200301"), ("20191231", "20200101")):
        dataset = Dataset()
        dataset.PatientID, dataset.StudyDate, dataset.SeriesDate = "A", study, series
        dataset.AcquisitionDateTime = series + "101112.5+0100"
        clean = _clean(_written(dataset, ExplicitVRLittleEndian), "basic+dates-modified")
        from datetime import date

        for before, after in ((study, clean.StudyDate), (series, clean.SeriesDate)):
            shifts.add(date.fromisoformat(str(after)) - date.fromisoformat(before))
        assert str(clean.AcquisitionDateTime)[8:] == "101112.5+0100"
        assert str(clean.AcquisitionDateTime)[:8] == clean.SeriesDate
    assert len(shifts) == 1
    assert Identities(KEY).days("A") != Identities(KEY).days("B")


def test_references_between_objects_hold(bundled: Path) -> None:
    dataset, item = Dataset(), Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = "1.2.840.10008.5.1.4.1.1.2", "1.2.3.4"
    dataset.SourceImageSequence, dataset.SOPInstanceUID = Sequence([item]), "1.2.3.9"
    clean = _clean(_written(dataset, ImplicitVRLittleEndian))
    assert clean.SourceImageSequence[0].ReferencedSOPInstanceUID == Identities(KEY).uid("1.2.3.4")
    assert clean.SourceImageSequence[0].ReferencedSOPClassUID == "1.2.840.10008.5.1.4.1.1.2"
    assert clean.SOPInstanceUID == Identities(KEY).uid("1.2.3.9")


def test_a_dicomdir_points_at_its_records_again(bundled: Path) -> None:
    data = (bundled / "dicomdirtests" / "DICOMDIR").read_bytes()
    before, after = pydicom.dcmread(io.BytesIO(data)), _clean(data)
    assert len(after.DirectoryRecordSequence) == len(before.DirectoryRecordSequence)
    places = [item.seq_item_tell for item in after.DirectoryRecordSequence]
    old_places = [item.seq_item_tell for item in before.DirectoryRecordSequence]
    for old, new in zip(before.DirectoryRecordSequence, after.DirectoryRecordSequence, strict=True):
        for name in ("OffsetOfTheNextDirectoryRecord", "OffsetOfReferencedLowerLevelDirectoryEntity"):
            if old[name].value:
                assert places.index(new[name].value) == old_places.index(old[name].value)
            else:
                assert new[name].value == 0
    names = {str(item.PatientName) for item in before.DirectoryRecordSequence if "PatientName" in item}
    assert not names & {str(e.value) for e in after.iterall()}


def test_ages_are_capped_and_dates_may_stay() -> None:
    dataset = Dataset()
    dataset.PatientAge, dataset.StudyDate = "094Y", "20200301"
    clean = _clean(_written(dataset, ExplicitVRLittleEndian), "basic+patient+dates-full")
    assert (clean.PatientAge, clean.StudyDate) == ("089Y", "20200301")


def test_what_cannot_be_read_to_its_end_is_held_back(bundled: Path) -> None:
    for data in ((bundled / "rtplan_truncated.dcm").read_bytes(), (bundled / "CT_small.dcm").read_bytes()[:1003]):
        with pytest.raises(HeldBackError, match="end to end"):
            deidentify(memoryview(data), load_profile("basic"), Identities(KEY))


def test_a_site_has_rules_of_its_own(tmp_path: Path) -> None:
    place = tmp_path / "site.toml"
    place.write_text('options = ["patient"]\npatient = "S-{hash}"\n[rules]\nStationName = "keep"\nRows = "remove"\n')
    profile = load_profile(str(place))
    dataset = Dataset()
    dataset.StationName, dataset.Rows, dataset.PatientID = "CT1", 7, "X"
    clean = _clean(_written(dataset, ExplicitVRLittleEndian), profile)
    assert clean.StationName == "CT1"
    assert "Rows" not in clean
    assert dictionary_vr(0x00280010) == b"US"
    for text in ("optons = []\n", 'patient = "S"\n', '[rules]\nNoSuchKeyword = "keep"\n', '[rules]\nRows = "burn"\n'):
        place.write_text(text)
        with pytest.raises(UsageError, match="expected"):
            load_profile(str(place))


def test_the_policy_is_told_in_words() -> None:
    text = "\n".join(load_profile("basic+dates-modified").explain())
    assert "StudyDate" in text.split("moved by")[1].split("\n")[0]
    assert "InstitutionName" in text.split("removed:")[1].split("\n")[0] + text
