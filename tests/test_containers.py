"""Folders, files, zip, tar and 7z give every file once, and say what they cannot give."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import random
import shutil
import socket
import stat
import subprocess
import sys
import tarfile
import tempfile
import textwrap
import time
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from dcmark.config import LIMITS, MIB, Limits
from dcmark.errors import LimitError, SourceError
from dcmark.findings import Finding
from dcmark.read.base import Item, Source
from dcmark.read.containers import failure, load, open_source
from dcmark.read.sources.members import safe_name

posix = pytest.mark.skipif(os.name == "nt", reason="needs links, pipes or names that Windows does not have")
KINDS = ("zip", "tar", "tar.gz", "tar.bz2", "tar.xz", "tar.zst", "7z")
NAMES = {
    "i0000,0000b.dcm": b"comma",
    "Patient Åsa/1/blåbär 1.dcm": b"swedish" * 1000,
    "Patient Åsa/1/2.dcm": bytes(70_000),
    "empty": b"",
    "日本/レントゲン.dcm": random.Random(0).randbytes(200_000),
    "a/b/c/d/e/f.txt": b"deep",
}


def walk(source: Source, limits: Limits = LIMITS) -> tuple[dict[str, bytes], dict[str, list[str]]]:
    """Contents by path, and paths by code of finding; what cannot be read is a finding as it is in an ingest."""
    contents: dict[str, bytes] = {}
    findings: dict[str, list[str]] = {}

    def note(finding: Finding) -> None:
        assert finding.message and finding.level in ("info", "warning", "error")
        findings.setdefault(finding.code, []).append(finding.path)

    for found in source.items():
        if isinstance(found, Finding):
            note(found)
            continue
        assert found.path not in contents, "a path is given once"
        assert not found.path.startswith("/") and ".." not in found.path.split("/")
        try:
            with load(found, limits) as buffer:
                contents[found.path] = bytes(buffer.data)
        except (SourceError, LimitError, OSError) as error:
            note(failure(error, found.path))
    return contents, findings


def make(kind: str, target: Path, members: dict[str, bytes]) -> Path:
    """A container of that kind."""
    if kind == "zip":
        with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as packed:
            for name, content in members.items():
                packed.writestr(name, content)
    elif kind == "7z":
        py7zr = pytest.importorskip("py7zr")
        with pytest.MonkeyPatch.context() as patch, py7zr.SevenZipFile(target, "w") as packed:
            patch.setattr("py7zr.py7zr.check_archive_path", lambda _: True)  # else it writes no hostile names
            for name, content in members.items():
                packed.writef(io.BytesIO(content), name)
    else:
        target.write_bytes(compress(kind, tar_bytes(members)))
    return target


def tar_bytes(members: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as packed:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            packed.addfile(info, io.BytesIO(content))
    return stream.getvalue()


def compress(kind: str, data: bytes) -> bytes:
    packers: dict[str, Callable[[bytes], bytes]] = {
        "tar": bytes,
        "tar.gz": lambda data: gzip.compress(data, 1),
        "tar.bz2": bz2.compress,
        "tar.xz": lambda data: lzma.compress(data, preset=1),
        "tar.zst": lambda data: zstandard.ZstdCompressor().compress(data),
    }
    return packers[kind](data)


# -- folders ------------------------------------------------------------------------------------


def test_a_folder_gives_every_file_once_in_the_order_of_its_names(tmp_path: Path) -> None:
    for name, content in NAMES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(content)
    (tmp_path / "no files in here").mkdir()
    contents, findings = walk(open_source(tmp_path))
    assert contents == NAMES and findings == {}
    for number in (10, 9, 100, 1):
        (tmp_path / f"i{number}").write_bytes(b"")
    order = [path for path in walk(open_source(tmp_path))[0] if path.startswith("i") and "," not in path]
    assert order == ["i1", "i9", "i10", "i100"]


def test_items_say_where_how_large_and_when(tmp_path: Path) -> None:
    file = tmp_path / "sub" / "a.dcm"
    file.parent.mkdir()
    file.write_bytes(b"12345")
    os.utime(file, ns=(1, 1_700_000_000_123_456_700))
    (item,) = open_source(tmp_path).items()
    assert isinstance(item, Item)
    assert (item.source, item.path, item.size, item.sequential) == (tmp_path.name, "sub/a.dcm", 5, False)
    assert item.mtime_ns == file.stat().st_mtime_ns
    assert item.root == str(tmp_path.resolve())


@posix
def test_links_are_never_followed_out_or_round(tmp_path: Path) -> None:
    inside, outside = tmp_path / "in", tmp_path / "out"
    (inside / "real").mkdir(parents=True)
    outside.mkdir()
    (outside / "secret").write_bytes(b"secret")
    (inside / "real" / "a").write_bytes(b"a")
    (inside / "loop").symlink_to(inside)
    (inside / "real" / "up").symlink_to("..")
    (inside / "to file").symlink_to("real/a")
    (inside / "broken").symlink_to("nowhere")
    (inside / "circle").symlink_to("circle")
    (inside / "climbs").symlink_to(outside)
    (inside / "climbs to file").symlink_to(outside / "secret")
    contents, findings = walk(open_source(inside))
    assert contents == {"real/a": b"a", "to file": b"a"}
    assert sorted(findings["link-to-folder"]) == ["loop", "real/up"]
    assert findings["link-outside"] == ["climbs", "climbs to file"]
    assert sorted(findings["link-broken"]) == ["broken", "circle"]
    # The one that is handed over is followed, for that is what the user names.
    assert walk(open_source(inside / "climbs"))[0] == {"secret": b"secret"}


@pytest.mark.skipif(sys.platform != "linux", reason="names of any bytes")
def test_names_that_are_no_text_come_through(tmp_path: Path) -> None:
    raw = os.fsencode(tmp_path) + b"/caf\xe9\xff.dcm"
    with open(raw, "wb") as stream:  # noqa: PTH123
        stream.write(b"latin")
    ((path, content),) = walk(open_source(tmp_path))[0].items()
    assert os.fsencode(path) == b"caf\xe9\xff.dcm" and content == b"latin"


@posix
def test_pipes_and_sockets_are_told_and_never_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with socket.socket(socket.AF_UNIX) as server:
        here = Path.cwd()
        os.chdir(tmp_path)  # the path of a socket has to be short
        try:
            server.bind("sock")
        finally:
            os.chdir(here)
    (tmp_path / "link").symlink_to("pipe")
    contents, findings = walk(open_source(tmp_path))
    assert contents == {} and sorted(findings["special-file"]) == ["link", "pipe", "sock"]
    with pytest.raises(SourceError, match="found a device, a pipe or a socket"):
        open_source(tmp_path / "pipe")


@contextmanager
def without_rights() -> Iterator[Path]:
    """A folder of a user for whom rights count, as they do not for root."""
    folder = Path(tempfile.mkdtemp())
    root = os.geteuid() == 0
    try:
        if root:
            os.chown(folder, 65534, 65534)
            os.seteuid(65534)
        yield folder
    finally:
        if root:
            os.seteuid(0)
        for place in [folder, *folder.rglob("*")]:
            place.chmod(0o700)
        shutil.rmtree(folder)


@posix
def test_what_may_not_be_read_is_told_and_the_rest_given() -> None:
    with without_rights() as folder:
        (folder / "closed").mkdir()
        (folder / "closed" / "a").write_bytes(b"a")
        (folder / "b").write_bytes(b"b")
        (folder / "c").write_bytes(b"c")
        (folder / "d.zip").write_bytes(b"PK")
        for name in ("closed", "b", "d.zip"):
            (folder / name).chmod(0)
        contents, findings = walk(open_source(folder))
        assert contents == {"c": b"c"}
        assert findings == {"unreadable": ["b", "closed", "d.zip"]}
        with pytest.raises(SourceError, match="cannot list"):
            open_source(folder / "closed")
        with pytest.raises(SourceError, match="cannot read"):
            open_source(folder / "b")


@posix
def test_a_source_that_may_not_be_written_is_read_all_the_same() -> None:
    with tempfile.TemporaryDirectory() as other:  # import what is needed while Python's own files may be read
        walk(open_source(make("zip", Path(other) / "b.zip", {"x": b"x"})))
    with without_rights() as folder:
        (folder / "sub").mkdir()
        (folder / "sub" / "a").write_bytes(b"a")
        make("zip", folder / "b.zip", {"x": b"x"})
        for place in [*folder.rglob("*"), folder]:
            place.chmod(0o555 if place.is_dir() else 0o444)
        assert walk(open_source(folder))[0] == {"sub/a": b"a", "b.zip/x": b"x"}


def test_what_vanishes_while_being_read_is_a_finding(tmp_path: Path) -> None:
    for name in ("a", "b", "sub/c"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    items = open_source(tmp_path).items()
    first = next(items)
    assert isinstance(first, Item)
    shutil.rmtree(tmp_path / "sub")
    (tmp_path / "a").unlink()
    with pytest.raises(FileNotFoundError):
        load(first)
    rest = list(items)
    assert [found.path for found in rest] == ["b", "sub"]
    assert isinstance(rest[1], Finding) and rest[1].code == "unreadable"


@posix
def test_a_file_that_becomes_a_pipe_or_a_link_is_not_opened(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"x")
    (tmp_path / "b").write_bytes(b"x")
    first, second = (found for found in open_source(tmp_path).items() if isinstance(found, Item))
    (tmp_path / "a").unlink()
    os.mkfifo(tmp_path / "a")
    with pytest.raises(SourceError, match="expected a regular file"):
        load(first)
    (tmp_path / "b").unlink()
    (tmp_path / "b").symlink_to("/etc/hostname")
    with pytest.raises(OSError):
        load(second)


def test_a_deep_folder_is_no_matter(tmp_path: Path) -> None:
    folder = tmp_path
    for _ in range(200 if os.name != "nt" else 20):
        folder /= "d"
    folder.mkdir(parents=True)
    (folder / "a").write_bytes(b"a")
    assert list(walk(open_source(tmp_path))[0].values()) == [b"a"]


# -- single files -------------------------------------------------------------------------------


def test_a_file_is_a_source_of_itself(tmp_path: Path, bundled: Path) -> None:
    (tmp_path / "i0000,0000b.dcm").write_bytes(b"x")
    assert walk(open_source(tmp_path / "i0000,0000b.dcm")) == ({"i0000,0000b.dcm": b"x"}, {})
    directory = bundled / "dicomdirtests" / "DICOMDIR"
    assert walk(open_source(directory)) == ({"DICOMDIR": directory.read_bytes()}, {})


@pytest.mark.parametrize("name", ["nowhere", "nul\0in it", "a" * 5000])
def test_what_is_not_there_is_said_so(tmp_path: Path, name: str) -> None:
    with pytest.raises(SourceError, match="expected a file or a folder"):
        open_source(tmp_path / name)


def test_a_large_file_is_mapped_and_gone_afterwards(tmp_path: Path) -> None:
    content = random.Random(1).randbytes(3 * MIB)
    (tmp_path / "a").write_bytes(content)
    (item,) = open_source(tmp_path / "a").items()
    assert isinstance(item, Item)
    with load(item, replace(LIMITS, in_memory=MIB)) as buffer:
        assert buffer.data == content
    with pytest.raises(LimitError, match="member_bytes"):
        load(item, replace(LIMITS, member_bytes=MIB))


# -- containers, alike --------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_a_container_gives_every_member_once(tmp_path: Path, kind: str) -> None:
    packed = make(kind, tmp_path / f"Some, name.{kind}", NAMES)
    source = open_source(packed)
    assert source.label == "Some, name"
    assert walk(source) == (NAMES, {})
    assert walk(source) == (NAMES, {}), "and again"
    (alone,) = open_source(packed, containers="keep").items()
    assert isinstance(alone, Item) and alone.path == packed.name
    with load(alone) as buffer:
        assert buffer.data == packed.read_bytes()


@pytest.mark.parametrize("kind", KINDS)
def test_within_a_folder_members_stand_below_their_container(tmp_path: Path, kind: str) -> None:
    (tmp_path / "sub").mkdir()
    make(kind, tmp_path / "sub" / f"x.{kind}", {"scapis/1.dcm": b"1", "2.dcm": b"2"})
    (tmp_path / "sub" / "y").write_bytes(b"y")
    contents, findings = walk(open_source(tmp_path))
    assert contents == {f"sub/x.{kind}/scapis/1.dcm": b"1", f"sub/x.{kind}/2.dcm": b"2", "sub/y": b"y"}
    assert findings == {"container-opened": [f"sub/x.{kind}"]}
    assert list(walk(open_source(tmp_path, containers="keep"))[0]) == [f"sub/x.{kind}", "sub/y"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_container_in_a_container_is_kept_as_a_file(tmp_path: Path, kind: str) -> None:
    inner = make("zip", tmp_path / "inner.zip", {"a": b"a"}).read_bytes()
    packed = make(kind, tmp_path / f"outer.{kind}", {"inner.zip": inner, "b": b"b"})
    contents, findings = walk(open_source(packed))
    assert contents == {"inner.zip": inner, "b": b"b"}
    assert findings == {"container-nested": ["inner.zip"]}


@pytest.mark.parametrize("kind", KINDS)
def test_a_dicomdir_is_a_member_like_any_other(tmp_path: Path, bundled: Path, kind: str) -> None:
    content = (bundled / "dicomdirtests" / "DICOMDIR").read_bytes()
    packed = make(kind, tmp_path / f"media.{kind}", {"DICOMDIR": content, "77654033/CR1/6154": b"x"})
    assert walk(open_source(packed)) == ({"DICOMDIR": content, "77654033/CR1/6154": b"x"}, {})


CLIMBING = ["../up", "a/../../up", "/etc/passwd", "C:/x", "c:x", "C:\\x", "\\\\host\\share\\x", "a\\..\\..\\x", ".. /x"]


@pytest.mark.parametrize("kind", KINDS)
def test_names_that_lead_out_are_refused(tmp_path: Path, kind: str) -> None:
    members = dict.fromkeys(CLIMBING, b"x") | {"inside": b"i", "./dot/./a": b"a"}
    packed = make(kind, tmp_path / f"x.{kind}", members)
    contents, findings = walk(open_source(packed))
    assert contents == {"inside": b"i", "dot/a": b"a"}
    assert len(findings["path-escapes"]) == len(CLIMBING)


def test_a_name_with_a_nul_is_refused(tmp_path: Path) -> None:
    packed = make("zip", tmp_path / "x.zip", {"naXe": b"x", "b": b"b"})
    packed.write_bytes(packed.read_bytes().replace(b"naXe", b"na\0e"))
    contents, findings = walk(open_source(packed))
    assert contents == {"b": b"b"} and findings == {"path-escapes": ["na\ufffde"]}


@pytest.mark.parametrize("kind", ["zip", "tar", "7z"])
def test_names_that_windows_keeps_for_devices_are_kept_and_told(tmp_path: Path, kind: str) -> None:
    members = {"CON": b"1", "sub/aux.dcm": b"2", "com1": b"3", "nul.tar.x/a": b"4", "console": b"5", "auxiliary": b"6"}
    contents, findings = walk(open_source(make(kind, tmp_path / f"x.{kind}", members)))
    assert contents == members
    assert findings == {"reserved-name": ["CON", "sub/aux.dcm", "com1", "nul.tar.x/a"]}


@given(st.text())
def test_a_safe_name_never_leads_anywhere_else(name: str) -> None:
    safe = safe_name(name)
    if safe is not None:
        parts = safe.replace("\\", "/").split("/")
        assert "\0" not in safe and not safe.startswith(("/", "\\"))
        assert all(part.strip(" .") or ".." not in part for part in parts)
        assert safe[1:2] != ":" or not safe[0].isascii() or not safe[0].isalpha()
        assert safe_name(safe) == safe


@pytest.mark.parametrize("kind", ["zip", "tar", "7z"])
def test_two_members_of_one_name_are_both_kept(tmp_path: Path, kind: str) -> None:
    packed = tmp_path / f"x.{kind}"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        make(kind, packed, {"a": b"1", "b": b"2", "c": b"3"})
        if kind == "zip":
            packed.write_bytes(packed.read_bytes().replace(b"b", b"a").replace(b"c", b"a"))
        elif kind == "tar":
            packed.write_bytes(tar_bytes({"a": b"1"})[:1024] + tar_bytes({"a": b"2"})[:1024] + tar_bytes({"a": b"3"}))
        else:
            with pytest.importorskip("py7zr").SevenZipFile(packed, "w") as made:
                for content in (b"1", b"2", b"3"):
                    made.writef(io.BytesIO(content), "a")
    contents, findings = walk(open_source(packed))
    assert contents == {"a": b"1", "a#2": b"2", "a#3": b"3"}
    assert findings == {"duplicate-name": ["a#2", "a#3"]}


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_named_as_a_container_that_is_none(tmp_path: Path, kind: str) -> None:
    fake = tmp_path / f"x.{kind}"
    for content in (b"", b"no container", bytes(100)):
        fake.write_bytes(content)
        with pytest.raises(SourceError, match="cannot open"):
            open_source(fake)
        contents, findings = walk(open_source(tmp_path))
        assert contents == {fake.name: content} and findings == {"container-kept": [fake.name]}


# -- damage -------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_a_container_cut_short_gives_what_is_whole_and_says_so(tmp_path: Path, kind: str) -> None:
    noise = {f"{n}.dcm": random.Random(n).randbytes(40_000) for n in range(8)}
    whole = make(kind, tmp_path / f"whole.{kind}", noise).read_bytes()
    for share in (0.02, 0.3, 0.6, 0.9):
        cut = tmp_path / f"cut.{kind}"
        cut.write_bytes(whole[: int(len(whole) * share)])
        try:
            contents, findings = walk(open_source(cut))
        except SourceError as error:
            assert "expected" in str(error)
            continue
        assert set(findings) & {"container-damaged", "damaged"}, share
        assert all(noise[name] == content for name, content in contents.items())


@pytest.mark.parametrize("kind", KINDS)
def test_no_damage_crashes_hangs_or_gives_other_bytes_unnoticed(tmp_path: Path, kind: str) -> None:
    """Bytes changed anywhere: refused, a finding, or no harm; where the kind has checksums never other bytes."""
    members = {f"p/{n}.dcm": (b"slice %d " % n) * 300 + random.Random(n).randbytes(500) for n in range(6)}
    whole = make(kind, tmp_path / f"whole.{kind}", members).read_bytes()
    chance = random.Random(kind)
    place = tmp_path / f"damaged.{kind}"
    began = time.process_time()
    for _ in range(150):
        damaged = bytearray(whole)
        for _ in range(chance.choice((1, 1, 4))):
            # Tables stand at the ends; a good part of the damage should hit them.
            at = chance.choice((chance.randrange(len(whole)), chance.randrange(64), -1 - chance.randrange(300)))
            damaged[at] = chance.choice((0, 0xFF, 0x7F, 0x80, chance.randrange(256)))
        place.write_bytes(damaged)
        try:
            contents, findings = walk(open_source(place))
        except (SourceError, LimitError):
            continue
        if kind in ("zip", "7z", "tar.gz", "tar.bz2", "tar.xz"):
            whole_ones = set(members.values())
            others = [name for name, content in contents.items() if content and content not in whole_ones]
            # One flipped bit may turn an attribute, so that a member is a folder or its checksum is not defined.
            assert not others or kind == "7z" or findings, others
    assert time.process_time() - began < 60


def test_damage_in_one_zip_member_costs_only_that_one(tmp_path: Path) -> None:
    packed = tmp_path / "x.zip"
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_STORED) as made:
        for name in "abc":
            made.writestr(name, name.encode() * 1000)
    packed.write_bytes(packed.read_bytes().replace(b"b" * 1000, b"b" * 500 + b"B" + b"b" * 499))
    contents, findings = walk(open_source(packed))
    assert list(contents) == ["a", "c"] and findings == {"damaged": ["b"]}


def test_bytes_behind_a_tar_are_told(tmp_path: Path) -> None:
    one, two = tar_bytes({"a": b"1"}), tar_bytes({"b": b"2"})
    (tmp_path / "x.tar").write_bytes(one + two)
    contents, findings = walk(open_source(tmp_path / "x.tar"))
    assert contents == {"a": b"1"} and list(findings) == ["trailing-data"]


def test_a_tar_without_its_end_mark_is_told(tmp_path: Path) -> None:
    (tmp_path / "x.tar").write_bytes(tar_bytes({"a": b"1"})[:1024])
    contents, findings = walk(open_source(tmp_path / "x.tar"))
    assert contents == {"a": b"1"} and list(findings) == ["container-damaged"]


# -- encryption ---------------------------------------------------------------------------------


def test_an_encrypted_zip_member_is_told_and_the_rest_given(tmp_path: Path) -> None:
    packed = tmp_path / "x.zip"
    with zipfile.ZipFile(packed, "w") as made:
        made.writestr("open", b"o")
        made.writestr("closed", b"c" * 20)
    data = bytearray(packed.read_bytes())
    for mark, at in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        start = data.rindex(mark)
        data[start + at] |= 1
    packed.write_bytes(data)
    contents, findings = walk(open_source(packed))
    assert contents == {"open": b"o"} and findings == {"encrypted": ["closed"]}


def test_an_encrypted_7z_is_told(tmp_path: Path) -> None:
    py7zr = pytest.importorskip("py7zr")
    for hidden in (False, True):
        packed = tmp_path / f"{hidden}.7z"
        with py7zr.SevenZipFile(packed, "w", password="secret", header_encryption=hidden) as made:
            made.writef(io.BytesIO(b"a" * 100), "a")
            made.writef(io.BytesIO(b"b" * 100), "b")
        if hidden:
            with pytest.raises(SourceError, match="encrypted; unpack it beforehand"):
                open_source(packed)
        else:
            assert walk(open_source(packed)) == ({}, {"encrypted": ["a", "b"]})
    contents, findings = walk(open_source(tmp_path))
    assert list(contents) == ["True.7z"] and findings["container-kept"] == ["True.7z"]


def test_a_zip_packed_in_a_way_nobody_knows_is_told(tmp_path: Path) -> None:
    packed = make("zip", tmp_path / "x.zip", {"a": b"a"})
    data = bytearray(packed.read_bytes())
    data[data.rindex(b"PK\x01\x02") + 10] = 97
    packed.write_bytes(data)
    assert walk(open_source(packed)) == ({}, {"unsupported-method": ["a"]})


# -- what only one kind has -----------------------------------------------------------------------


def test_every_way_that_zip_packs(tmp_path: Path) -> None:
    packed = tmp_path / "x.zip"
    ways = [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA]
    expected = {f"{way}.dcm": random.Random(way).randbytes(3000) * 50 for way in ways}
    with zipfile.ZipFile(packed, "w") as made:
        for way, (name, content) in zip(ways, expected.items(), strict=True):
            made.writestr(name, content, way)
        with made.open(zipfile.ZipInfo("64.dcm"), "w", force_zip64=True) as stream:
            stream.write(b"zip64")
        made.mkdir("folder")
    assert walk(open_source(packed)) == ({**expected, "64.dcm": b"zip64"}, {})


def test_zip_names_as_windows_and_old_tools_write_them(tmp_path: Path) -> None:
    packed = tmp_path / "x.zip"
    with zipfile.ZipFile(packed, "w") as made:
        for name, system in (("dir\\a.dcm", 0), ("dir/b.dcm", 0), ("back\\slash", 3)):
            info = zipfile.ZipInfo("x")
            info.filename, info.create_system = name, system
            made.writestr(info, name)
        made.writestr("blaaab", b"x")
    packed.write_bytes(packed.read_bytes().replace(b"blaaab", "bläb".encode() + b"!"))
    assert list(walk(open_source(packed))[0]) == ["dir/a.dcm", "dir/b.dcm", "back\\slash", "bläb!"]


def test_links_and_devices_in_containers_have_no_bytes(tmp_path: Path) -> None:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as packed:
        for name, type_ in (("soft", tarfile.SYMTYPE), ("hard", tarfile.LNKTYPE), ("dev", tarfile.CHRTYPE),
                            ("pipe", tarfile.FIFOTYPE), ("folder", tarfile.DIRTYPE)):  # fmt: skip
            info = tarfile.TarInfo(name)
            info.type, info.linkname = type_, "/etc/passwd"
            packed.addfile(info)
    (tmp_path / "x.tar").write_bytes(stream.getvalue())
    contents, findings = walk(open_source(tmp_path / "x.tar"))
    assert contents == {}
    assert findings == {"link-in-container": ["soft", "hard"], "special-file": ["dev", "pipe"]}
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as made:
        info = zipfile.ZipInfo("soft")
        info.create_system, info.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
        made.writestr(info, "/etc/passwd")
    assert walk(open_source(tmp_path / "x.zip")) == ({}, {"link-in-container": ["soft"]})


def test_long_names_and_dialects_of_tar(tmp_path: Path) -> None:
    name = "/".join(["långt namn " * 5] * 6) + "/a.dcm"
    for dialect in (tarfile.PAX_FORMAT, tarfile.GNU_FORMAT):
        with tarfile.open(tmp_path / "x.tar", "w", format=dialect) as packed:
            info = tarfile.TarInfo(name)
            info.size = 3
            packed.addfile(info, io.BytesIO(b"abc"))
        assert walk(open_source(tmp_path / "x.tar")) == ({name: b"abc"}, {})


def test_packed_streams_in_several_pieces(tmp_path: Path) -> None:
    data = tar_bytes(NAMES)
    for kind in ("tar.gz", "tar.bz2", "tar.xz", "tar.zst"):
        place = tmp_path / f"x.{kind}"
        place.write_bytes(compress(kind, data[:5000]) + compress(kind, data[5000:]))
        assert walk(open_source(place)) == (NAMES, {}), kind


def test_7z_solid_and_in_several_blocks(tmp_path: Path) -> None:
    py7zr = pytest.importorskip("py7zr")
    packed = tmp_path / "x.7z"
    expected: dict[str, bytes] = {}
    for block in range(3):
        with py7zr.SevenZipFile(packed, "a" if block else "w") as made:
            for number in range(4):
                name = f"scapis/5-{block}/{number:04}.dcm"
                expected[name] = random.Random(name).randbytes(20_000)
                made.writef(io.BytesIO(expected[name]), name)
    assert walk(open_source(packed)) == (expected, {})
    # Of a block that nobody reads from nothing is unpacked, and members may be left out in between.
    items = [found for found in open_source(packed).items() if isinstance(found, Item)]
    assert [item.path for item in items] == list(expected)
    with pytest.raises(SourceError, match="after the next one"):
        load(items[0])
    for found in open_source(packed).items():
        assert isinstance(found, Item)
        if found.path.endswith("3.dcm"):
            with load(found) as buffer:
                assert buffer.data == expected[found.path]


@pytest.mark.parametrize("filter_name", ["LZMA2", "LZMA", "BZIP2", "DEFLATE", "ZSTD", "PPMD", "COPY"])
def test_every_way_that_7z_packs(tmp_path: Path, filter_name: str) -> None:
    py7zr = pytest.importorskip("py7zr")
    filters = [{"id": getattr(py7zr, f"FILTER_{filter_name}")}]
    if filter_name == "PPMD":
        filters[0] |= {"order": 6, "mem": 24}
    packed = tmp_path / "x.7z"
    with py7zr.SevenZipFile(packed, "w", filters=filters) as made:
        for name, content in NAMES.items():
            made.writef(io.BytesIO(content), name)
    assert walk(open_source(packed)) == (NAMES, {})


def test_zip_members_may_be_read_at_any_time_and_from_several_threads(tmp_path: Path) -> None:
    from concurrent.futures import ThreadPoolExecutor

    members = {f"{n}": random.Random(n).randbytes(30_000) for n in range(40)}
    packed = make("zip", tmp_path / "x.zip", members)
    items = [found for found in open_source(packed).items() if isinstance(found, Item)]
    with ThreadPoolExecutor(8) as threads:
        for item, buffer in zip(items, threads.map(load, items), strict=True):
            with buffer:
                assert buffer.data == members[item.path]


# -- bombs ----------------------------------------------------------------------------------------

SMALL = replace(LIMITS, container_grace=4 * MIB, container_ratio=20, member_bytes=64 * MIB)


@pytest.mark.parametrize("kind", KINDS[:1] + KINDS[2:])
def test_a_container_that_swells_is_left(tmp_path: Path, kind: str) -> None:
    members = {"first": b"good", **{f"{n}": bytes(8 * MIB) for n in range(6)}}
    packed = make(kind, tmp_path / f"x.{kind}", members)
    contents, findings = walk(open_source(packed, limits=SMALL), SMALL)
    assert contents["first"] == b"good" and "6" not in contents and len(contents) < 3
    assert findings["container-limit"] == [""]


@pytest.mark.parametrize("kind", KINDS)
def test_a_member_that_is_too_large_is_left(tmp_path: Path, kind: str) -> None:
    packed = make(kind, tmp_path / f"x.{kind}", {"large": random.Random(2).randbytes(2 * MIB), "small": b"s"})
    limits = replace(LIMITS, member_bytes=MIB)
    contents, findings = walk(open_source(packed, limits=limits), limits)
    assert contents == {"small": b"s"} and findings == {"too-large": ["large"]}


@pytest.mark.parametrize("kind", ["zip", "tar", "7z"])
def test_too_many_members_end_the_walk(tmp_path: Path, kind: str) -> None:
    packed = make(kind, tmp_path / f"x.{kind}", {str(n): b"" for n in range(50)})
    limits = replace(LIMITS, container_members=20)
    contents, findings = walk(open_source(packed, limits=limits), limits)
    assert len(contents) <= 20 and findings["container-limit"] == [""]


def test_bombs_cost_bounded_time_and_memory(tmp_path: Path) -> None:
    """With the limits as they are: many gigabytes of zeros behind some kilobytes, in a process of its own."""
    if sys.platform != "linux":
        pytest.skip("reads the peak of memory from /proc")
    zeros = bytes(64 * MIB)
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as made:
        made.writestr("0", zeros)
        made.filelist *= 1000  # every entry of the directory points to the same bytes
    with zipfile.ZipFile(tmp_path / "b.zip", "w", zipfile.ZIP_BZIP2) as made:
        for n in range(5):
            made.writestr(str(n), zeros)
    header = tarfile.TarInfo("huge")
    header.size = 1 << 40
    block = zstandard.ZstdCompressor().compress(zeros)
    (tmp_path / "c.tar.zst").write_bytes(
        zstandard.ZstdCompressor().compress(header.tobuf(tarfile.GNU_FORMAT)) + block * 2000
    )
    (tmp_path / "d.tar.xz").write_bytes(lzma.compress(header.tobuf(tarfile.GNU_FORMAT) + zeros * 4, preset=0))
    pax = tarfile.TarInfo("pax")
    pax.type, pax.size = tarfile.XHDTYPE, 1 << 32
    (tmp_path / "e.tar.gz").write_bytes(gzip.compress(pax.tobuf(tarfile.USTAR_FORMAT) + zeros, 1))
    script = """
        import sys
        from dcmark.errors import DcmarkError
        from dcmark.findings import Finding
        from dcmark.read.containers import load, open_source
        import dcmark.read.sources.tars, dcmark.read.sources.zips, zstandard, lzma
        for place in sys.argv[1:]:
            left = []
            try:
                items = open_source(place).items()
            except DcmarkError:
                continue
            for found in items:
                if isinstance(found, Finding):
                    left.append(found.code)
                    continue
                try:
                    load(found).close()
                except DcmarkError as error:
                    left.append(error.code)
            assert left, place
        print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
    """
    places = [str(tmp_path / name) for name in ("a.zip", "b.zip", "c.tar.zst", "d.tar.xz", "e.tar.gz")]
    command = [sys.executable, "-c", textwrap.dedent(script), *places]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) * 1024 < 400 * MIB


def test_a_header_that_declares_much_allocates_nothing(tmp_path: Path) -> None:
    """A ZIP directory of gigabytes and a 7z header of a terabyte, in files of some hundred bytes."""
    packed = make("zip", tmp_path / "x.zip", {"a": b"a" * 100})
    data = bytearray(packed.read_bytes())
    end = data.rindex(b"PK\x05\x06")
    data[end + 8 : end + 12] = b"\xff\xff\xff\xff"
    data[end + 12 : end + 16] = b"\xf0\xff\xff\x7f"
    packed.write_bytes(data)
    with pytest.raises((SourceError, LimitError)):
        open_source(packed)
    contents, findings = walk(open_source(tmp_path))
    assert findings == {"container-kept": ["x.zip"]} and list(contents) == ["x.zip"]
    data = bytearray(make("7z", tmp_path / "x.7z", {"a": b"a"}).read_bytes())
    data[20:28] = (1 << 40).to_bytes(8, "little")
    data[8:12] = zlib.crc32(data[12:32]).to_bytes(4, "little")
    (tmp_path / "x.7z").write_bytes(data)
    with pytest.raises((SourceError, LimitError), match="cannot open"):
        open_source(tmp_path / "x.7z")
