"""An inventory lists what an ingest would read; its shards together give the archive that one writer gives."""

from __future__ import annotations

import random
import shutil
import sys
import zipfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scale_tools import content, dataset, hashes

import dcmark
from dcmark.cli import run
from dcmark.errors import OutputExistsError, SourceError, UsageError
from dcmark.inventory import SCHEMA, Inventory, read_inventory, write_inventory
from dcmark.read.base import Item


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return dataset(tmp_path_factory.mktemp("data_dir") / "data_dir")


def of(source: Path, place: Path) -> Inventory:
    write_inventory([source], place)
    return read_inventory(place)


def test_lists_what_ingest_reads(source: Path, tmp_path: Path) -> None:
    inventory = of(source, tmp_path / "i.parquet")
    rows = pq.read_table(tmp_path / "i.parquet").to_pylist()
    walked = {p.relative_to(source).as_posix(): p.stat().st_size for p in source.rglob("*") if p.is_file()}
    listed = {row["path"]: row["size"] for row in rows if row["code"] is None and row["container"] is None}
    assert listed == {path: size for path, size in walked.items() if not path.endswith((".zip", ".tar"))}
    members = {row["container"] for row in rows if row["container"] is not None}
    assert members == {"trial/delivery.zip", "trial/late.tar"}
    assert {unit["unit"] for unit in inventory.units().to_pylist() if unit["unit"].startswith("patient:")} >= {
        f"patient:trial/P{n}" for n in range(5)
    }


@pytest.mark.parametrize("shards", [1, 5])
def test_shards_give_what_one_writer_gives(source: Path, tmp_path: Path, shards: int) -> None:
    whole = dcmark.open_archive(tmp_path / "one.dcmark", create=True)
    dcmark.ingest(source, whole)
    place = tmp_path / "inv.parquet"
    assert run(["inventory", str(source), str(place), "-q"]) == 0
    archive = tmp_path / "many.dcmark"
    order = list(range(1, shards + 1))
    random.Random(shards).shuffle(order)
    for number in order:
        assert run(["ingest", str(archive), "--inventory", str(place), "--shard", f"{number}/{shards}", "-q"]) in (0, 3)
    opened = dcmark.open_archive(archive)
    assert content(opened) == content(whole)
    assert dcmark.verify(opened).whole
    dcmark.restore(opened, tmp_path / "out")
    assert hashes(tmp_path / "out") == expected(source)
    # Again, and by another division: nothing is new.
    for number in (1, 2):
        dcmark.ingest(read_inventory(place).shard(number, 2), opened)
    assert content(opened) == content(whole)


def expected(source: Path) -> dict[str, str]:
    """Hashes of files and members by the paths they are restored to."""
    out = source.parent / "expected"
    if not out.exists():
        archive = dcmark.open_archive(source.parent / "expected.dcmark", create=True)
        dcmark.ingest(source, archive)
        dcmark.restore(archive, out)
    return hashes(out)


def test_every_row_is_in_exactly_one_shard(source: Path, tmp_path: Path) -> None:
    inventory = of(source, tmp_path / "i.parquet")
    whole = pq.read_table(tmp_path / "i.parquet").num_rows
    for shards in (1, 2, 5, 40):
        parts = [inventory.shard(number, shards) for number in range(1, shards + 1)]
        assert sum(one.rows.num_rows for part in parts for one in part) == whole
        again = [inventory.shard(number, shards) for number in range(1, shards + 1)]
        assert [[o.rows for o in part] for part in parts] == [[o.rows for o in part] for part in again]
        together = list(inventory.shards(shards))
        assert [[o.rows for o in part] for part in together] == [[o.rows for o in part] for part in parts if part]


def test_a_patient_is_never_divided(source: Path, tmp_path: Path) -> None:
    inventory = of(source, tmp_path / "i.parquet")
    seen: dict[str, int] = {}
    for number in range(1, 5):
        for part in inventory.shard(number, 4):
            for path in part.rows.filter(pa.compute.is_null(part.rows["container"]))["path"].to_pylist():
                folders = path.split("/")
                if len(folders) > 2:
                    assert seen.setdefault("/".join(folders[:2]), number) == number


@settings(max_examples=25)
@given(st.lists(st.integers(0, 10**9), min_size=1, max_size=60), st.integers(1, 12))
def test_shards_are_even(sizes: list[int], shards: int) -> None:
    inventory = Inventory(Path("unused"), [])
    columns = {
        "source": pa.array([0] * len(sizes), pa.int32()),
        "unit": [f"patient:d/{n}" for n in range(len(sizes))],
        "files": pa.array([1] * len(sizes), pa.int64()),
        "bytes": pa.array(sizes, pa.int64()),
    }
    inventory._units = pa.table(columns)
    where = inventory.assignment(shards)
    loads = [0] * shards
    for (_, unit), shard in where.items():
        loads[shard] += sizes[int(unit.rpartition("/")[2])] + 100_000
    # Graham's bound for the largest first: 4/3 of the best there is, which is no less than these two.
    least = max(sum(loads) / shards, max(sizes) + 100_000)
    assert max(loads) <= 4 / 3 * least + 1 or max(loads) <= least + max(sizes) / 3 + 100_000


def test_what_changed_since_is_taken_as_it_is(source: Path, tmp_path: Path) -> None:
    copy = tmp_path / "data_dir"
    shutil.copytree(source, copy)
    inventory = of(copy, tmp_path / "i.parquet")
    victim, other = sorted(copy.rglob("*.dcm"))[:2]
    victim.unlink()
    other.write_bytes(b"something else")
    archive = dcmark.open_archive(tmp_path / "a.dcmark", create=True)
    report = dcmark.ingest(inventory.shard(1, 1), archive)
    assert report.codes["vanished"] == 1
    rows = {row["path"]: row["size"] for row in archive.read("paths", ["path", "size"]).to_pylist()}
    assert rows[other.relative_to(copy).as_posix()] == 14


@pytest.mark.skipif(sys.platform == "win32", reason="links need a privilege there")
def test_no_path_leads_out(source: Path, tmp_path: Path) -> None:
    """An inventory that was tampered with reads nothing outside of its source."""
    place = tmp_path / "i.parquet"
    of(source, place)
    secret = tmp_path / "secret.dcm"
    secret.write_bytes(b"secret")
    inside = source / "door"
    inside.unlink(missing_ok=True)
    inside.symlink_to(tmp_path)
    about = pq.read_metadata(place).metadata[b"dcmark"].decode()
    climbing = [
        "../" * 9 + str(secret)[1:], str(secret), "../secret.dcm", "door/secret.dcm", "./../x", "a\0b",
        "trial/../../secret.dcm",
    ]  # fmt: skip
    rows = [{"source": 0, "unit": "folder:", "path": path, "size": 6, "mtime_ns": 1} for path in climbing]
    forged = pa.Table.from_pylist(rows, SCHEMA)
    with pq.ParquetWriter(place, SCHEMA) as writer:
        writer.write_table(forged)
        writer.add_key_value_metadata({"dcmark": about})
    try:
        found = [one for part in read_inventory(place).shard(1, 1) for one in part.items()]
    finally:
        inside.unlink()
    assert len(found) == len(climbing)
    assert not any(isinstance(one, Item) for one in found)


@pytest.mark.parametrize("damage", ["cut", "other", "empty", "no metadata"])
def test_a_damaged_inventory_is_told(source: Path, tmp_path: Path, damage: str) -> None:
    place = tmp_path / "i.parquet"
    of(source, place)
    if damage == "cut":
        place.write_bytes(place.read_bytes()[:-100])
    elif damage == "empty":
        place.write_bytes(b"")
    elif damage == "other":
        pq.write_table(pa.table({"a": [1]}), place)
    else:
        pq.write_table(pq.read_table(place).replace_schema_metadata(None), place)
    with pytest.raises(SourceError, match="expected an inventory"):
        read_inventory(place)
    assert run(["ingest", str(tmp_path / "a.dcmark"), "--inventory", str(place)]) == 1


def test_wrong_calls_are_told(source: Path, tmp_path: Path) -> None:
    place = tmp_path / "i.parquet"
    inventory = of(source, place)
    with pytest.raises(OutputExistsError):
        write_inventory([source], place)
    with pytest.raises(UsageError, match="from 1/3 to 3/3"):
        inventory.shard(4, 3)
    target = str(tmp_path / "a.dcmark")
    for shard in ("0/3", "4/3", "x", "1", "1/0"):
        assert run(["ingest", target, "--inventory", str(place), "--shard", shard]) == 2
    assert run(["ingest", str(source), target, "--shard", "1/2"]) == 2
    assert run(["ingest", str(source), target, "--inventory", str(place)]) == 2
    assert run(["inventory", str(source)]) == 2


def test_a_container_as_source(tmp_path: Path, source: Path) -> None:
    packed = tmp_path / "scapis.zip"
    with zipfile.ZipFile(packed, "w") as made:
        for file in sorted((source / "trial").rglob("*.dcm")):
            made.write(file, f"scapis/{file.relative_to(source / 'trial').as_posix()}")
    one, many = (dcmark.open_archive(tmp_path / f"{n}.dcmark", create=True) for n in ("one", "many"))
    dcmark.ingest(packed, one)
    inventory = of(packed, tmp_path / "i.parquet")
    taken: list[Any] = []
    for number in (2, 1, 3):
        parts = inventory.shard(number, 3)
        taken.append(sum(part.files for part in parts))
        dcmark.ingest(parts, many)
    assert all(taken), "members of a zip are divided by patient"
    assert content(many) == content(one)
