"""Archives of every format version that was ever released are read by every later release."""

from __future__ import annotations

import hashlib
import json
import shutil
import stat
from pathlib import Path

import lance
import pyarrow as pa
import pytest

import dcmark
from dcmark.archive import schema
from dcmark.archive.store import Archive
from dcmark.cli import run
from dcmark.errors import DamageError, FormatVersionError
from dcmark.testing.corpus import bundled

FORMAT_1 = Path(__file__).parent / "data" / "format-1"
EXPECTED: dict[str, str] = json.loads((FORMAT_1 / "expected.json").read_text("utf-8"))


def hashes(folder: Path) -> dict[str, str]:
    files = (place for place in folder.rglob("*") if place.is_file())
    return {p.relative_to(folder).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A copy of the archive of format 1."""
    return Path(shutil.copytree(FORMAT_1 / "archive.dcmark", tmp_path / "archive.dcmark"))


def test_format_1_gives_back_what_came_in(place: Path, tmp_path: Path) -> None:
    archive = dcmark.open_archive(place)
    assert archive.info.format_version == 1
    report = dcmark.verify(archive)
    assert report.whole and report.files_read == len(set(EXPECTED.values())) and report.orphans == 0
    assert dcmark.restore(archive, tmp_path / "out").findings == []
    assert hashes(tmp_path / "out") == EXPECTED


def test_format_1_answers_questions(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    archive = dcmark.open_archive(place)
    sql = "SELECT count(*) AS n, sum(paths)::INT AS p, sum(frames)::INT AS f FROM files"
    (counts,) = dcmark.query(archive, sql).to_pylist()
    assert counts == {"n": len(set(EXPECTED.values())), "p": len(EXPECTED), "f": 19}
    (ct,) = dcmark.query(archive, "SELECT * FROM files WHERE modality = 'CT' AND kind = 'dicom'").to_pylist()
    assert (ct["rows"], ct["columns"], ct["patient_id"], ct["dataset"]) == (128, 128, "1CT1", "ct")
    codecs = dcmark.query(archive, "SELECT DISTINCT codec FROM frames ORDER BY codec")["codec"].to_pylist()
    assert codecs == ["1.2.840.10008.1.2.5", "htj2k", "htj2k+be"]
    assert run(["ls", str(place), "files"]) == 0
    assert "ct/notes åäö.txt" in capsys.readouterr().out
    assert run(["findings", str(place)]) == 0
    assert "truncated" in capsys.readouterr().out


def test_reading_writes_nothing(place: Path, tmp_path: Path) -> None:
    before = hashes(place)
    for entry in [place, *place.rglob("*")]:
        entry.chmod(stat.S_IRUSR | (stat.S_IXUSR if entry.is_dir() else 0))
    try:
        archive = dcmark.open_archive(place)
        assert dcmark.verify(archive).whole
        dcmark.query(archive, "SELECT * FROM files")
        dcmark.restore(archive, tmp_path / "out")
        assert hashes(place) == before
    finally:
        for entry in [place, *place.rglob("*")]:
            entry.chmod(stat.S_IRWXU)


def test_format_1_takes_more(place: Path) -> None:
    archive = dcmark.open_archive(place)
    report = dcmark.ingest([bundled() / "MR_small.dcm", bundled() / "CT_small.dcm"], archive)
    assert (report.files, report.duplicates) == (1, 1)
    assert dcmark.verify(archive).whole


def test_an_archive_without_a_later_column(place: Path) -> None:
    """A release may add columns for tags; archives from before read as null there, and get them when written."""
    files = lance.dataset(str(place / "files.lance"))
    assert "burned_in_annotation" in schema.FILES.names
    files.drop_columns(["burned_in_annotation"])
    archive = dcmark.open_archive(place)
    assert dcmark.verify(archive).whole
    sql = "SELECT DISTINCT burned_in_annotation AS b FROM files"
    assert dcmark.query(archive, sql)["b"].to_pylist() == [None]
    dcmark.ingest(bundled() / "MR_small.dcm", archive)
    assert dcmark.verify(archive).whole
    assert len(archive.read("files")) == len(set(EXPECTED.values())) + 1


def test_an_archive_with_a_column_of_a_later_release(place: Path, bundled: Path, tmp_path: Path) -> None:
    """What is not known is left alone, but counts in the checksum of the row it stands in."""
    files = lance.dataset(str(place / "files.lance"))
    rows = [{**row, "colour_of_the_couch": "green"} for row in dcmark.open_archive(place).read("files").to_pylist()]
    rows = [{**row, "check": schema.row_check(row)} for row in rows]
    later = files.schema.append(pa.field("colour_of_the_couch", pa.string()))
    lance.write_dataset(pa.Table.from_pylist(rows, later), files.uri, mode="overwrite")
    archive = dcmark.open_archive(place)
    assert dcmark.verify(archive).whole
    assert dcmark.ingest(bundled / "MR_small.dcm", archive).files == 1
    assert dcmark.verify(archive).whole
    dcmark.restore(archive, tmp_path / "out")


def _with_info(place: Path, **changes: object) -> Path:
    info = json.loads((place / "archive.json").read_text("utf-8"))
    (place / "archive.json").write_text(json.dumps(info | changes), "utf-8")
    return place


def test_a_newer_format_is_refused(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    newer = schema.FORMAT_VERSION + 1
    _with_info(place, format_version=newer, created_by="dcmark 99.1")
    words = rf"expected .* format {newer - 1} .* found format {newer} .*99\.1.*update"
    with pytest.raises(FormatVersionError, match=words):
        dcmark.open_archive(place)
    assert run(["ls", str(place)]) == 1
    assert "error (version)" in capsys.readouterr().err


@pytest.mark.parametrize("version", [0, -1, "one", None, []])
def test_a_nonsense_format_is_damage(place: Path, version: object) -> None:
    with pytest.raises(DamageError, match=r"archive\.json is damaged"):
        dcmark.open_archive(_with_info(place, format_version=version))


def test_the_archive_on_disk_is_what_the_contract_says(place: Path) -> None:
    """``docs/format.md``, followed with Lance and the codecs alone, gives the bytes of every file."""
    import imagecodecs
    import zstandard

    def unpack(codec: str, payload: bytes, length: int) -> bytes:
        if codec == "zstd":
            return zstandard.ZstdDecompressor().decompress(payload, length)
        if codec.startswith("htj2k"):
            image = imagecodecs.htj2k_decode(payload)
            return image.astype(image.dtype.newbyteorder(">" if "+be" in codec else "<")).tobytes()
        return payload

    frames = lance.dataset(str(place / "frames.lance"))
    rows = frames.to_table(columns=["batch", "row", "number", "codec", "length"]).to_pylist()
    blobs = frames.read_blobs("data", indices=list(range(len(rows))), preserve_order=True)
    payloads = [payload for _, payload in blobs]
    parts = {
        (row["batch"], row["row"]): (row["number"], unpack(row["codec"], payload, row["length"]))
        for row, payload in zip(rows, payloads, strict=True)
    }
    found = set()
    for file in lance.dataset(str(place / "files.lance")).to_table().to_pylist():
        mine = [parts[file["batch"], file["first_row"] + i] for i in range(file["parts"])]
        if file["header"] is not None:
            header = unpack(file["header_codec"], file["header"], file["header_length"])
        else:
            header = b"".join(content for number, content in mine if number < 0)
        frame = {number: content for number, content in mine if number >= 0}
        content = b""
        for segment in file["segments"]:
            if segment["part"] < 0:
                content, header = content + header[: segment["length"]], header[segment["length"] :]
            else:
                n, length = segment["part"], segment["length"]
                content, frame[n] = content + frame[n][:length], frame[n][length:]
        assert hashlib.sha256(content).digest() == file["sha256"]
        found.add(file["sha256"].hex())
    assert found == set(EXPECTED.values())


def test_an_archive_can_be_sent_to_another_process(place: Path) -> None:
    import pickle

    archive = dcmark.open_archive(place)
    archive.read("files")
    again = pickle.loads(pickle.dumps(archive))
    assert isinstance(again, Archive) and dcmark.verify(again, read_data="none").whole
