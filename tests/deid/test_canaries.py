"""A canary for every attribute of the standard's table, at every depth, wherever it can hide; and real files."""

from __future__ import annotations

import io
import struct
import subprocess
import sys
import warnings
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from datetime import date
from pathlib import Path
from typing import Any

import pydicom
import pytest

from dcmark.deid.apply import Deidentifier
from dcmark.deid.check import left
from dcmark.deid.mapping import Identities
from dcmark.deid.profile import Profile, load_profile
from dcmark.deid.rewrite import deidentify, dictionary_vr
from dcmark.errors import HeldBackError
from dcmark.standard.confidentiality import Rule, rules
from dcmark.testing import encoding as enc

KEY = bytes(range(32))
BASIC = load_profile("basic")
CREATOR = "SAFE CREATOR"
SAFE = Profile("site", frozenset({"private"}), private={CREATOR: frozenset({(0x0019, 0x10)})})
DEPTHS = (0, 1, 3, 6)
TEXT = b"CANARY\xd67 "
"""Of eight bytes, that no dummy and no structure of a file holds."""
BY_VR = {
    "DA": b"19670413", "TM": b"121314.7", "DT": b"19670413121314.7 ", "AS": b"077Y", "UI": b"1.2.77.1234.567\0",
    "DS": b"77.12345", "IS": b"77123456",
}  # fmt: skip


def _vr(tag: int) -> str:
    return (dictionary_vr(tag) or b"UN").decode()


def _tag(rule: Rule) -> int:
    return int(rule.tag.replace("xxxxxx", "020010").replace("xx", "02"), 16)


def _element(tag: int, implicit: bool) -> tuple[bytes, bytes]:
    """An element with a canary, and the canary."""
    vr = _vr(tag)
    if vr == "SQ":
        inner = enc.element(0x0010, 0x4000, "LT", TEXT, implicit=implicit)
        return enc.sequence(tag >> 16, tag & 0xFFFF, [enc.item(inner)], implicit=implicit), TEXT
    canary = BY_VR.get(vr, TEXT)
    return enc.element(tag >> 16, tag & 0xFFFF, vr, canary, implicit=implicit), canary


def _nested(inner: bytes, depth: int, implicit: bool, undefined: bool, private: bool) -> bytes:
    """Some sequences deep: in one that the profile keeps, or in a private one that a site names as safe."""
    for _ in range(depth):
        item = enc.item(inner, undefined=undefined)
        if private:
            inner = enc.element(0x0019, 0x0010, "LO", CREATOR.encode(), implicit=implicit)
            inner += enc.sequence(0x0019, 0x1010, [item], undefined=undefined, implicit=implicit)
        else:
            inner = enc.sequence(0x5200, 0x9229, [item], undefined=undefined, implicit=implicit)
    return inner


def _cases(depth: int, private: bool) -> Iterator[tuple[str, bytes, bytes]]:
    number = 0
    for rule in rules():
        tag = _tag(rule)
        if tag >> 16 == 0x0002 or (tag >> 16 == 0x0000 and not depth):
            continue  # file meta information has no depth, see the test of it; a command in a file is held back
        number += 1
        implicit, undefined = number % 2 == 0, number % 3 == 0
        element, canary = _element(tag, implicit)
        inside = _nested(element, depth, implicit, undefined, private)
        yield rule.keyword or rule.tag, enc.file_head("implicit" if implicit else "explicit") + inside, canary


@pytest.mark.parametrize("private", [False, True], ids=["sequence", "private sequence"])
@pytest.mark.parametrize("depth", DEPTHS)
def test_no_attribute_of_the_table_is_left(depth: int, private: bool) -> None:
    profile, identities = (SAFE if private else BASIC), Identities(KEY)
    survived, tried = [], 0
    for name, data, canary in _cases(depth, private):
        assert canary in data
        clean = b"".join(deidentify(memoryview(data), profile, identities).chunks())
        tried += 1
        if canary in clean:
            survived.append(name)
        assert not any(one.certain for one in left(memoryview(clean), profile)), name
    assert tried > 640
    assert survived == []


@pytest.mark.parametrize("depth", DEPTHS)
def test_private_sequences_that_nobody_calls_safe_go(depth: int) -> None:
    for _, data, canary in _cases(depth, private=True):
        clean = b"".join(deidentify(memoryview(data), BASIC, Identities(KEY)).chunks())
        assert depth == 0 or CREATOR.encode() not in clean
        assert canary not in clean


def test_file_meta_information_keeps_only_what_is_needed() -> None:
    wanted = [rule for rule in rules() if rule.tag.startswith("0002")]
    assert wanted
    # Every element that the standard puts there, and a private one.
    for number in (3, 0x13, 0x16, 0x17, 0x18, 0x26, 0x27, 0x28, 0x31, 0x32, 0x33, 0x35, 0x36, 0x37, 0x38, 0x100, 0x102):
        vr = "OB" if number == 0x102 else _vr(0x00020000 + number)
        canary = BY_VR.get(vr, TEXT)
        head = enc.file_head("explicit")
        data = head + enc.element(2, number, vr, canary) + enc.element(8, 0x60, "CS", b"CT")
        size = struct.unpack_from("<I", data, 140)[0] + len(data) - len(head) - 10
        data = data[:140] + struct.pack("<I", size) + data[144:]
        clean = b"".join(deidentify(memoryview(data), BASIC, Identities(KEY)).chunks())
        if number != 0x13:  # the name of a program
            assert canary not in clean, hex(number)
        read = pydicom.dcmread(io.BytesIO(clean))
        assert read.Modality == "CT"


@pytest.mark.parametrize("depth", [0, 1, 3, 6])
def test_no_attribute_is_left_in_a_dicomdir(depth: int) -> None:
    """Depth 0 is a key of a directory record."""
    survived = []
    for rule in rules():
        tag = _tag(rule)
        if tag >> 16 == 0x0002:
            continue
        element, canary = _element(tag, implicit=False)
        links = enc.element(4, 0x1400, "UL", b"\0" * 4) + enc.element(4, 0x1410, "US", b"\xff\xff")
        links += enc.element(4, 0x1420, "UL", b"\0" * 4) + enc.element(4, 0x1430, "CS", b"PATIENT ")
        record = links + _nested(element, depth, implicit=False, undefined=False, private=False)
        sequence = enc.sequence(4, 0x1220, [enc.item(record)])
        first = len(enc.file_head("explicit", sop_class="1.2.840.10008.1.3.10")) + 3 * 12 + 10 + 12
        root = enc.element(4, 0x1200, "UL", struct.pack("<I", first))
        root += enc.element(4, 0x1202, "UL", struct.pack("<I", first)) + enc.element(4, 0x1212, "US", b"\0\0")
        data = enc.file_head("explicit", sop_class="1.2.840.10008.1.3.10")
        data += enc.element(4, 0x1130, "CS", b"WARD SIX") + root + sequence
        clean = b"".join(deidentify(memoryview(data), BASIC, Identities(KEY)).chunks())
        if canary in clean:
            survived.append(rule.keyword or rule.tag)
        assert b"WARD SIX" not in clean
    assert survived == []


# Real files ---------------------------------------------------------------------------------------------------------


def _files(root: Path) -> list[Path]:
    return [place for place in sorted(root.rglob("*")) if place.is_file()]


def _walk(dataset: pydicom.Dataset, path: str = "") -> Iterator[tuple[str, pydicom.DataElement]]:
    for tag in sorted(dataset.keys()):
        try:
            element = dataset[tag]
        except Exception:
            continue  # pydicom cannot read this one
        yield f"{path}{int(tag):08X}", element
        if element.VR == "SQ":
            for number, item in enumerate(element.value or []):
                yield from _walk(item, f"{path}{int(tag):08X}[{number}].")


def _read(data: bytes) -> pydicom.Dataset:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pydicom.dcmread(io.BytesIO(data), force=True)


def _texts(value: Any) -> list[str]:
    many = value if isinstance(value, list | pydicom.multival.MultiValue) else [value]
    return [text for text in (str(one).strip(" \0") for one in many) if text]


def _both(root: Path, profile: Profile) -> Iterator[tuple[Path, pydicom.Dataset, pydicom.Dataset]]:
    """Originals and clean files as another library reads them; every file is one or is held back with a reason."""
    tool = Deidentifier(profile, KEY)
    for place in _files(root):
        data = place.read_bytes()
        try:
            clean = tool.file(memoryview(data), place.name).data
        except HeldBackError as error:
            assert "expected" in str(error)
            continue
        yield place, _read(data), _read(clean)


_DUMMY = {"REMOVED", "19000101", "000000", "19000101000000", "000Y", "0", "0.0", "2.25.0", "UNKNOWN", "YES", "NO"}


def _nothing_is_left(root: Path) -> int:
    """No value of an attribute of the table is where it was, at any depth. By pydicom, not by what made it clean."""
    named = {int(rule.tag, 16) for rule in rules() if "x" not in rule.tag} | {0x00100010, 0x00100020}
    looked, found = 0, Counter[str]()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for _, before, after in _both(root, BASIC):
            looked += 1
            values: dict[int, set[str]] = defaultdict(set)
            for _, element in _walk(before):
                if int(element.tag) in named and element.VR not in ("SQ", "OB", "OW", "UN"):
                    values[int(element.tag)].update(_texts(element.value))
            for _, element in _walk(after):
                tag = int(element.tag)
                assert not element.tag.is_private
                if tag in named and element.VR not in ("SQ", "OB", "OW", "UN"):
                    for text in _texts(element.value):
                        standard = element.VR == "UI" and text.startswith("1.2.840.10008.")
                        if text in values[tag] and text not in _DUMMY and not standard:
                            found[element.keyword] += 1
    assert found == Counter()
    return looked


def test_no_identifying_value_is_left_in_the_bundled_files(bundled: Path) -> None:
    assert _nothing_is_left(bundled) > 150


@pytest.mark.corpus
def test_no_identifying_value_is_left_in_the_corpus(corpus: Path) -> None:
    assert _nothing_is_left(corpus) > 600


def _maps(root: Path) -> tuple[int, int]:
    """UIDs one to one, those of the standard as they were, one shift of whole days a patient; (UIDs, patients)."""
    forth: dict[str, str] = {}
    shifts: dict[str, set[int]] = defaultdict(set)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for _, before, after in _both(root, load_profile("basic+dates-modified")):
            patient = str(before.get("PatientID") or "") or str(before.get("PatientName") or "")
            if "DirectoryRecordSequence" in before:
                continue  # of several patients
            there = dict(_walk(after))
            for path, element in _walk(before):
                other = there.get(path)
                if other is None:
                    continue
                old, new = _texts(element.value), _texts(other.value)
                if element.VR == "UI" and len(old) == len(new):
                    for a, b in zip(old, new, strict=True):
                        if a.startswith("1.2.840.10008."):
                            assert a == b, "a UID of the standard was altered"
                        elif a != b:
                            assert forth.setdefault(a, b) == b
                if element.VR in ("DA", "DT") and len(old) == len(new) == 1 and old != new and patient:
                    try:
                        days = date.fromisoformat(new[0][:8]) - date.fromisoformat(old[0][:8])
                    except ValueError:
                        continue
                    if new[0] not in _DUMMY:
                        shifts[patient].add(days.days)
                        assert new[0][8:] == old[0][8:]
    assert len(set(forth.values())) == len(forth), "two UIDs became one"
    assert all(len(found) == 1 for found in shifts.values())
    return len(forth), len(shifts)


def test_identities_of_the_bundled_files_map_one_to_one(bundled: Path) -> None:
    uids, patients = _maps(bundled)
    assert uids > 200
    assert patients > 15


@pytest.mark.long
@pytest.mark.corpus
def test_identities_of_the_corpus_map_one_to_one(corpus: Path) -> None:
    uids, patients = _maps(corpus)
    assert uids > 1200
    assert patients > 40


def test_three_runs_in_two_processes_give_the_same_files(bundled: Path, tmp_path: Path) -> None:
    (tmp_path / "s.key").write_bytes(KEY)
    code = (
        "import sys; from pathlib import Path; from dcmark.deid.apply import Deidentifier\n"
        "from dcmark.deid.folders import deidentify_folders; from dcmark.deid.profile import load_profile\n"
        "for out in sys.argv[3:]:\n"
        "    tool = Deidentifier(load_profile('basic+dates-modified'), Path(sys.argv[1]).read_bytes())\n"
        "    deidentify_folders([sys.argv[2]], out, tool)\n"
    )
    for outs in (("one",), ("two", "three")):
        places = [str(tmp_path / out) for out in outs]
        command = [sys.executable, "-c", code, str(tmp_path / "s.key"), str(bundled), *places]
        subprocess.run(command, check=True, capture_output=True)
    first, *others = (
        {place.relative_to(root).as_posix(): place.read_bytes() for place in _files(root)}
        for root in (tmp_path / "one", tmp_path / "two", tmp_path / "three")
    )
    assert len(first) > 150
    assert all(other == first for other in others)


def test_embedded_documents_become_empty_ones_of_their_kind() -> None:
    from dcmark.testing.objects import encapsulated_pdf

    clean = b"".join(deidentify(memoryview(encapsulated_pdf()), BASIC, Identities(KEY)).chunks())
    read = pydicom.dcmread(io.BytesIO(clean))
    assert read.EncapsulatedDocument.startswith(b"%PDF")
    assert b"Catalog /Pages" not in clean
    assert read.EncapsulatedDocumentLength == len(read.EncapsulatedDocument)
    assert [one for one in left(memoryview(clean), BASIC) if one.certain] == []


@pytest.mark.parametrize("options", ["basic", "basic+graphics"])
def test_overlays_and_icons_go(options: str) -> None:
    from dcmark.testing.builders import icon, overlay

    for data in (overlay(), icon()):
        clean = b"".join(deidentify(memoryview(data), load_profile(options), Identities(KEY)).chunks())
        read = pydicom.dcmread(io.BytesIO(clean))
        assert "IconImageSequence" not in read
        assert not any(element.tag.group >> 8 == 0x60 for element in read)


def test_a_folder_and_an_archive_are_checked_alike(bundled: Path, tmp_path: Path, command: Callable[..., Any]) -> None:
    import dcmark
    from dcmark.archive.source import ArchiveSource
    from dcmark.deid.check import check_sources

    for number, name in enumerate(("CT_small.dcm", "MR_small.dcm", "rtplan.dcm")):
        (tmp_path / "in" / str(number)).mkdir(parents=True)
        (tmp_path / "in" / str(number) / name).write_bytes((bundled / name).read_bytes())
    archive = dcmark.open_archive(tmp_path / "a.dcmark", create=True)
    dcmark.ingest(tmp_path / "in", archive)
    of_folder = check_sources([tmp_path / "in"], BASIC)
    of_archive = check_sources([ArchiveSource(archive)], BASIC)
    assert of_folder.unclean == of_archive.unclean == 3
    assert of_folder.certain == of_archive.certain
    told = command("deidentify", "--check", "a.dcmark")
    assert told.returncode == 3
    assert "00100010" in told.stdout
    assert "CompressedSamples" not in told.stdout


def _references(root: Path) -> tuple[int, int]:
    """References to other instances that lead to one of the set, before and after."""
    before: list[tuple[str, list[str]]] = []
    after: list[tuple[str, list[str]]] = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for _, *both in _both(root, BASIC):
            for found, dataset in zip((before, after), both, strict=True):
                elements = (element for _, element in _walk(dataset) if element.keyword == "ReferencedSOPInstanceUID")
                found.append((str(dataset.get("SOPInstanceUID", "")), [str(one.value) for one in elements]))
    counts = []
    for found in (before, after):
        there = {uid for uid, _ in found if uid}
        counts.append(sum(one in there for _, named in found for one in named))
    return counts[0], counts[1]


def test_references_of_the_bundled_files_hold(bundled: Path) -> None:
    before, after = _references(bundled)
    assert before == after > 0


@pytest.mark.long
@pytest.mark.corpus
def test_references_of_the_corpus_hold(corpus: Path) -> None:
    before, after = _references(corpus)
    assert before == after > 1000
