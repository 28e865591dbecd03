"""The vault: whoever holds the key gets the original bytes; nobody else gets anything, and no change goes unseen."""

from __future__ import annotations

import io
import random
import subprocess
import sys
from pathlib import Path

import pydicom
import pytest

from dcmark.deid.apply import Deidentifier
from dcmark.deid.check import left
from dcmark.deid.folders import deidentify_folders
from dcmark.deid.profile import Profile, load_profile
from dcmark.deid.vault import Secret, Vault
from dcmark.errors import DamageError, DcmarkError, HeldBackError, OutputExistsError, StorageError, VaultKeyError
from dcmark.reidentification import reidentify

pytest.importorskip("cryptography")
SECRET = Secret(key=b"s" * 32)
BASIC = load_profile("basic")


def _files(*roots: Path) -> list[Path]:
    return [place for root in roots for place in sorted(root.rglob("*")) if place.is_file()]


def _round_trip(root: Path, folder: Path) -> tuple[int, int]:
    """Everything of a folder through clean files and vault, and back; (made clean, held back)."""
    with Vault.create(folder / "v.vault", SECRET) as vault:
        tool = Deidentifier(BASIC, vault=vault, keep_held_back=True)
        report = deidentify_folders([root], folder / "clean", tool)
    with Vault.open(folder / "v.vault", SECRET) as vault:
        back = reidentify([folder / "clean"], vault, folder / "back")
    assert back.damaged == 0
    originals = {place.relative_to(root).as_posix(): place.read_bytes() for place in _files(root)}
    # What is inside containers is made clean by itself, and comes back by itself.
    plain = {name: data for name, data in originals.items() if (folder / "back" / name).is_file()}
    assert all((folder / "back" / name).read_bytes() == data for name, data in plain.items())
    assert {
        n for n in originals.keys() - plain.keys() if not n.lower().endswith((".zip", ".tar", ".7z", "gz"))
    } == set()
    return report.files, report.held_back


def test_the_originals_come_back_byte_for_byte(bundled: Path, tmp_path: Path) -> None:
    clean, held = _round_trip(bundled, tmp_path)
    assert clean > 150
    assert held < 15  # what is no DICOM, and what is cut


@pytest.mark.corpus
def test_the_originals_of_the_corpus_come_back(corpus: Path, tmp_path: Path) -> None:
    clean, held = _round_trip(corpus, tmp_path)
    assert clean > 600
    assert held < clean / 4


def test_a_clean_file_holds_nothing_that_a_second_look_would_change(bundled: Path) -> None:
    tool = Deidentifier(BASIC, b"k" * 32)
    for place in _files(bundled):
        try:
            clean = tool.file(memoryview(place.read_bytes()), place.name)
        except HeldBackError:
            continue
        assert [found for found in left(memoryview(clean.data), BASIC) if found.certain] == [], place.name


def test_what_is_left_in_a_file_as_it_came_is_told(bundled: Path) -> None:
    found = list(left(memoryview((bundled / "CT_small.dcm").read_bytes()), BASIC))
    paths = {one.path for one in found if one.certain}
    assert {"00100010", "00100020", "00080080", "00080020", "00200010"} <= paths


def test_another_key_or_passphrase_is_refused(tmp_path: Path) -> None:
    Vault.create(tmp_path / "k.vault", SECRET).close()
    with pytest.raises(VaultKeyError):
        Vault.open(tmp_path / "k.vault", Secret(key=b"t" * 32))
    with pytest.raises(VaultKeyError, match="key file"):
        Vault.open(tmp_path / "k.vault", Secret(passphrase="s"))
    Vault.create(tmp_path / "p.vault", Secret(passphrase="correct horse")).close()
    with pytest.raises(VaultKeyError):
        Vault.open(tmp_path / "p.vault", Secret(passphrase="correct h0rse"))
    Vault.open(tmp_path / "p.vault", Secret(passphrase="correct horse")).close()


def _small_vault(place: Path, bundled: Path, count: int = 4) -> None:
    with Vault.create(place, SECRET) as vault:
        tool = Deidentifier(Profile("t", patient="S-{0001}"), vault=vault)
        for source in _files(bundled)[:count]:
            tool.file(memoryview(source.read_bytes()), source.name)


def test_every_altered_byte_and_every_cut_is_found(bundled: Path, tmp_path: Path) -> None:
    _small_vault(tmp_path / "v.vault", bundled)
    whole = (tmp_path / "v.vault").read_bytes()
    chance = random.Random(7)
    for at in [*range(80), *(chance.randrange(len(whole)) for _ in range(150))]:
        altered = bytearray(whole)
        altered[at] ^= 1 << chance.randrange(8)
        (tmp_path / "w.vault").write_bytes(altered)
        with pytest.raises(DcmarkError):
            Vault.open(tmp_path / "w.vault", SECRET)
    for _ in range(60):
        (tmp_path / "w.vault").write_bytes(whole[: chance.randrange(len(whole))])
        try:
            found = Vault.open(tmp_path / "w.vault", SECRET)
        except DcmarkError:
            continue
        # Cut exactly between two records: what is missing is missed when it is asked for.
        with found, Vault.open(tmp_path / "v.vault", SECRET) as original:
            missing = [clean for clean in original if clean not in found]
            assert missing
            with pytest.raises(DamageError, match="does not"):
                found.find(missing[0])


def test_records_cannot_change_places(bundled: Path, tmp_path: Path) -> None:
    _small_vault(tmp_path / "v.vault", bundled)
    whole = (tmp_path / "v.vault").read_bytes()
    at = 12 + 4 + int.from_bytes(whole[12:16], "little")
    records = []
    while at < len(whole):
        behind = at + 4 + int.from_bytes(whole[at : at + 4], "little")
        records.append((at, behind))
        at = behind
    (a, b), (c, d) = records[2:4]
    (tmp_path / "w.vault").write_bytes(whole[:a] + whole[c:d] + whole[a:b] + whole[d:])
    with pytest.raises(DamageError, match="not what was written"):
        Vault.open(tmp_path / "w.vault", SECRET)
    (tmp_path / "w.vault").write_bytes(whole[:a] + whole[c:])
    with pytest.raises(DamageError):
        Vault.open(tmp_path / "w.vault", SECRET)


def test_nothing_of_a_patient_can_be_read_without_the_key(bundled: Path, tmp_path: Path) -> None:
    _small_vault(tmp_path / "v.vault", bundled, 20)
    raw = (tmp_path / "v.vault").read_bytes()
    for name in (b"CompressedSamples", b"CT_small", b"1CT1"):
        assert name not in raw


def test_numbers_of_patients_are_remembered(bundled: Path, tmp_path: Path) -> None:
    def names() -> list[str]:
        tool = Deidentifier(Profile("t", patient="S-{0001}"), vault=vault)
        files = [bundled / n for n in ("CT_small.dcm", "MR_small.dcm", "CT_small.dcm")]
        made = [tool.file(memoryview(f.read_bytes()), f.name).data for f in files]
        return [str(pydicom.dcmread(io.BytesIO(data)).PatientID) for data in made]

    with Vault.create(tmp_path / "v.vault", SECRET) as vault:
        first = names()
    with Vault.open(tmp_path / "v.vault", SECRET, append=True) as vault:
        assert names() == first == ["S-0001", "S-0002", "S-0001"]


def test_one_writer_at_a_time(tmp_path: Path) -> None:
    with Vault.create(tmp_path / "v.vault", SECRET), pytest.raises(StorageError, match="only writer"):
        Vault.open(tmp_path / "v.vault", SECRET, append=True)


def test_folder_to_folder(bundled: Path, tmp_path: Path) -> None:
    source = tmp_path / "in" / "set" / "Svensson" / "thorax"
    source.mkdir(parents=True)
    for name in ("CT_small.dcm", "MR_small.dcm"):
        (source / name).write_bytes((bundled / name).read_bytes())
    (source / "letter.txt").write_text("Dear Mr Svensson")
    profile = Profile("t", patient="S-{hash}", folders=frozenset({"set"}))
    report = deidentify_folders(
        [tmp_path / "in"], tmp_path / "out", Deidentifier(profile, b"k" * 32), log=tmp_path / "log.jsonl"
    )
    written = [place.relative_to(tmp_path / "out").as_posix() for place in _files(tmp_path / "out")]
    assert report.files == 2
    assert report.held_back == 1
    assert [f.code for f in report.findings] == ["held-back"]
    assert all(name.startswith("set/S-") and "Svensson" not in name for name in written)
    log = (tmp_path / "log.jsonl").read_text()
    assert "00100010" in log
    assert "CompressedSamples" not in log
    with pytest.raises(OutputExistsError):
        deidentify_folders([tmp_path / "in"], tmp_path / "out", Deidentifier(profile, b"k" * 32))


def test_commands_from_folder_to_originals(bundled: Path, tmp_path: Path) -> None:
    """The way of docs/how-to/deidentify.md, as a user goes it."""

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([sys.executable, "-m", "dcmark", *words], capture_output=True, text=True, cwd=tmp_path)

    source = tmp_path / "scans"
    source.mkdir()
    for name in ("CT_small.dcm", "MR_small_bigendian.dcm", "image_dfl.dcm"):
        (source / name).write_bytes((bundled / name).read_bytes())
    (source / "notes.txt").write_text("words")
    keys = ("--key-file", "study.key")
    assert run("deidentify", "--check", "scans").returncode == 3
    made = run("deidentify", "scans", "clean", "--vault", "study.vault", "--text", "keep", *keys)
    assert made.returncode == 3, made.stderr  # notes.txt is held back
    assert "3 files written, 1 held back" in made.stdout
    assert run("deidentify", "--check", "clean").returncode == 0
    assert run("ingest", "clean", "clean.dcmark").returncode == 0
    assert run("reidentify", "clean.dcmark", "study.vault", "back", *keys).returncode == 0
    for place in source.glob("*.dcm"):
        assert (tmp_path / "back" / place.name).read_bytes() == place.read_bytes()
    # With what was held back, from the folder itself.
    made = run("deidentify", "scans", "clean2", "--vault", "whole.vault", "--keep-held-back", "--text", "keep", *keys)
    assert made.returncode == 3
    assert run("reidentify", "clean2", "whole.vault", "back2", *keys).returncode == 0
    assert {p.name: p.read_bytes() for p in (tmp_path / "back2").iterdir()} == {
        p.name: p.read_bytes() for p in source.iterdir()
    }
    refused = run("deidentify", "scans", "clean3", "--keep-held-back", *keys)
    assert (refused.returncode, "--vault" in refused.stderr) == (2, True)
    (tmp_path / "other.key").write_bytes(b"x" * 32)
    refused = run("reidentify", "clean.dcmark", "study.vault", "back3", "--key-file", "other.key")
    assert refused.returncode == 1
    assert "expected the passphrase or key file" in refused.stderr
    told = run("deidentify", "--explain", "--profile", "basic+patient")
    assert told.returncode == 0
    assert "Retain Patient Characteristics" in told.stdout


def test_ingest_makes_clean_on_the_way_in_and_the_vault_leads_back(bundled: Path, tmp_path: Path) -> None:
    import dcmark
    from dcmark.errors import UsageError

    source = tmp_path / "ctpa" / "Svensson Sven" / "1"
    source.mkdir(parents=True)
    for name in ("CT_small.dcm", "MR_small_bigendian.dcm", "image_dfl.dcm"):
        (source / name).write_bytes((bundled / name).read_bytes())
    (source / "notes.txt").write_text("Svensson")
    archive = dcmark.open_archive(tmp_path / "a.dcmark", create=True)
    profile = Profile("t", patient="S-{0001}", folders=frozenset({"ctpa"}))
    with Vault.create(tmp_path / "v.vault", SECRET) as vault:
        report = dcmark.ingest(tmp_path / "ctpa", archive, deidentifier=Deidentifier(profile, vault=vault))
        assert (report.files, report.refused) == (3, 1)
        again = dcmark.ingest(tmp_path / "ctpa", archive, deidentifier=Deidentifier(profile, vault=vault))
        assert (again.files, again.duplicates) == (0, 3)
    assert dcmark.open_archive(tmp_path / "a.dcmark").info.hashes_cover == "de-identified"
    assert dcmark.verify(archive).whole
    assert {row["patient_id"][:2] for row in dcmark.query(archive, "SELECT patient_id FROM files").to_pylist()} == {
        "S-"
    }
    stored = b"".join(place.read_bytes() for place in _files(tmp_path / "a.dcmark"))
    for identifying in (b"Svensson", b"CompressedSamples", b"CT_small"):
        assert identifying not in stored
    with pytest.raises(UsageError, match="--deidentify"):
        dcmark.ingest(tmp_path / "ctpa", archive)
    with Vault.open(tmp_path / "v.vault", SECRET) as vault:
        assert reidentify(archive, vault, tmp_path / "back").files == 3
    for place in source.glob("*.dcm"):
        assert (tmp_path / "back" / "Svensson Sven" / "1" / place.name).read_bytes() == place.read_bytes()
