"""The contract of readers, as tests: subclass it in a test module of yours.

class TestMine(ReaderContract):
    reader = MineReader()                                    # an object of what the entry point names
    samples = staticmethod(lambda: {"a.mine": b"...", ...})   # whole files that it takes apart
"""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest

from dcmark.read.base import Instance, Reader

HEAD = 4096
LARGEST = 64 << 20
"""Bytes that taking a small damaged file apart may need."""


def covered(instance: Instance, size: int) -> None:
    """Asserts what ``read.base.Instance`` promises of its segments and frames."""
    assert all(segment.length > 0 for segment in instance.segments)
    assert sum(segment.length for segment in instance.segments) == size
    inside = {segment.part for segment in instance.segments if segment.part >= 0}
    if instance.derived:
        assert not inside
        assert len(list(instance.derived)) == len(instance.derived) == instance.frames
    else:
        assert inside == set(range(instance.frames))
    if instance.frames:
        assert instance.layout is not None
        assert min(instance.layout.rows, instance.layout.columns, instance.layout.samples) > 0
    assert instance.kind


class ReaderContract:
    """What every reader of ``dcmark.readers`` keeps.

    Attributes:
        reader: the reader.
        samples: gives whole files of the format by name, small ones of every variant.
        frames: whether a sample has frames; a reader of files without pictures says False.
    """

    reader: ClassVar[Reader]
    samples: ClassVar[Callable[[], Mapping[str, bytes]]]
    frames: ClassVar[bool] = True

    @pytest.fixture
    def files(self) -> dict[str, bytes]:
        """The samples."""
        made = dict(type(self).samples())
        assert made
        return made

    def claimed(self, data: bytes, name: str) -> bool:
        """Whether the reader says that the file is its own."""
        return type(self).reader.claims(memoryview(data)[:HEAD], name)

    def test_its_name(self) -> None:
        """Short and lower case, as it stands in tables."""
        assert type(self).reader.name == type(self).reader.name.lower() != ""

    def test_it_takes_its_own_apart(self, files: dict[str, bytes]) -> None:
        """Every sample is claimed and understood, twice the same."""
        for name, data in files.items():
            assert self.claimed(data, name), name
            once, again = (type(self).reader.take_apart(memoryview(data), name) for _ in range(2))
            covered(once, len(data))
            assert once.kind != "opaque", name
            assert (once.frames > 0) == self.frames, name
            assert (once.segments, once.frames, once.tags) == (again.segments, again.frames, again.tags)
            assert not [finding for finding in once.findings if finding.level == "error"], name

    def test_it_leaves_others_alone(self) -> None:
        """DICOM, text, and noise belong to nobody else."""
        noise = np.random.default_rng(0).bytes(HEAD)
        for foreign in (bytes(128) + b"DICM" + bytes(500), b"a text\n" * 50, b"{}", noise, b"\0", b"\xff" * 700):
            assert not self.claimed(foreign, "a file"), foreign[:8]

    def test_a_cut_anywhere_is_kept_whole_or_told(self, files: dict[str, bytes]) -> None:
        """No byte is lost, nothing is raised, and what is missing is said or has no frame."""
        for name, data in files.items():
            for end in {*range(1, min(len(data), 400), 7), *np.linspace(1, len(data) - 1, 60, dtype=int).tolist()}:
                cut = data[:end]
                if self.claimed(cut, name):
                    covered(type(self).reader.take_apart(memoryview(cut), name), len(cut))

    def test_bytes_changed_anywhere_cost_neither_the_file_nor_memory(self, files: dict[str, bytes]) -> None:
        """Sizes that a header merely declares are not believed."""
        random = np.random.default_rng(1)
        for name, data in files.items():
            type(self).reader.take_apart(memoryview(data), name)  # imports are not what is measured
            for _ in range(150):
                changed = bytearray(data)
                for at in random.integers(0, min(len(data), 600), random.integers(1, 6)):
                    changed[int(at)] = (0, 1, 0x7F, 0x80, 0xFE, 0xFF, int(random.integers(256)))[random.integers(7)]
                if not self.claimed(bytes(changed), name):
                    continue
                tracemalloc.start()
                try:
                    covered(type(self).reader.take_apart(memoryview(bytes(changed)), name), len(changed))
                    assert tracemalloc.get_traced_memory()[1] < LARGEST
                finally:
                    tracemalloc.stop()

    def test_an_archive_gives_them_back(self, files: dict[str, bytes], tmp_path: Path) -> None:
        """Byte for byte, by the reader that its entry point names."""
        import dcmark
        from dcmark.read.formats import readers

        assert type(self).reader.name in {reader.name for reader in readers()}
        source = tmp_path / "in"
        for name, data in files.items():
            place = source / name
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(data)
        archive = dcmark.open_archive(tmp_path / "a.dcmark", create=True)
        dcmark.ingest(source, archive).raise_for_errors()
        dcmark.restore(archive, tmp_path / "out")
        back = {place.name: place.read_bytes() for place in (tmp_path / "out").rglob("*") if place.is_file()}
        assert back == {Path(name).name: data for name, data in files.items()}
