"""The contract of exporters of training sets, as tests: subclass it in a test module of yours.

class TestMine(ExporterContract):
    export = staticmethod(export_mine)
    view = View(windows=("lung",), size=(32, 32), labels="body_part_examined")

    @pytest.fixture
    def archive(self): ...     # several patients with CT slices, all of which the view can render
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import pytest

from dcmark.archive.store import Archive
from dcmark.errors import DcmarkError, OutputExistsError, StorageError, UsageError
from dcmark.view.export import sets
from dcmark.view.export.base import originals
from dcmark.view.render import plan
from dcmark.view.view import View


class Killed(BaseException):
    """Stands for a kill in the middle."""


def side_file(folder: Path) -> Path:
    """The side file of the only set below a folder."""
    (found,) = folder.rglob("*view.json")
    return found


def written(folder: Path) -> dict[str, bytes]:
    """Every file below a folder."""
    return {str(place.relative_to(folder)): place.read_bytes() for place in folder.rglob("*") if place.is_file()}


class ExporterContract:
    """What every exporter of ``dcmark.exporters`` that takes a view keeps.

    Attributes:
        export: the exporter.
        view: one that it can export.
        unlike: another view that it can export.
    """

    export: ClassVar[Callable[..., Any]]
    view: ClassVar[View]
    unlike: ClassVar[View]

    def test_every_image_is_written_and_leads_back(self, archive: Archive, tmp_path: Path) -> None:
        """The side file names every image of the plan with its record, and the originals are found from it."""
        report = type(self).export(archive, tmp_path / "set", view=self.view)
        planned = plan(archive, self.view)
        assert (report.items, report.left_out) == (len(planned), 0)
        told = json.loads(side_file(tmp_path).read_text("utf-8"))
        assert told["view"] == self.view.as_dict()
        assert told["view_hash"] == self.view.hash
        expected = {(one.sha256, one.number) for one in planned.chosen}
        assert {(item["sha256"], item["frame"]) for item in told["items"]} == expected
        assert all({"item", "index", "grid", "to_original"} <= item.keys() for item in told["items"])
        assert [item["index"] for item in told["items"]] == list(range(len(planned)))
        found = originals(side_file(tmp_path))
        assert found == {bytes.fromhex(sha256) for sha256, _ in expected}

    def test_the_same_bytes_on_any_number_of_threads(self, archive: Archive, tmp_path: Path) -> None:
        """A set depends on the archive and the view only."""
        for threads in (1, 4):
            type(self).export(archive, tmp_path / str(threads) / "set", view=self.view, threads=threads)
        assert written(tmp_path / "1") == written(tmp_path / "4")

    @pytest.mark.parametrize("after", [0, 1, 7, -1])
    def test_an_interrupted_export_ends_as_an_undisturbed_one(
        self, archive: Archive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: int
    ) -> None:
        """Nothing looks whole after an interruption, and the same call then makes the same set."""
        export = type(self).export
        export(archive, tmp_path / "whole" / "set", view=self.view)
        whole = written(tmp_path / "whole")
        stop = after % len(plan(archive, self.view))
        monkeypatch.setattr(sets, "FLUSHED", 2)
        real, count = sets.Journal.add, 0

        def add(journal: sets.Journal, record: dict[str, Any]) -> None:
            nonlocal count
            if count == stop:
                raise Killed
            count += 1
            real(journal, record)

        monkeypatch.setattr(sets.Journal, "add", add)
        with pytest.raises(Killed):
            export(archive, tmp_path / "part" / "set", view=self.view)
        monkeypatch.setattr(sets.Journal, "add", real)
        assert not any(name.endswith("view.json") for name in written(tmp_path / "part"))
        for place in (tmp_path / "part").rglob("*draft"):
            with place.open("ab") as stream:
                stream.write(b"PK\3\4 torn")  # as a kill leaves it: an item cut short
        export(archive, tmp_path / "part" / "set", view=self.view)
        assert written(tmp_path / "part") == whole

    def test_what_is_left_of_another_set_is_not_gone_on_with(
        self, archive: Archive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """It is refused, or replaced where that is asked for."""

        def killed(_journal: sets.Journal, _record: dict[str, Any]) -> None:
            raise Killed

        with monkeypatch.context() as patched:
            patched.setattr(sets.Journal, "add", killed)
            with pytest.raises(Killed):
                type(self).export(archive, tmp_path / "set", view=self.view)
        with pytest.raises(OutputExistsError):
            type(self).export(archive, tmp_path / "set", view=self.unlike)
        report = type(self).export(archive, tmp_path / "set", view=self.unlike, overwrite=True)
        assert report.items == len(plan(archive, self.unlike))

    def test_a_finished_set_is_not_written_over(self, archive: Archive, tmp_path: Path) -> None:
        """Unless that is asked for."""
        type(self).export(archive, tmp_path / "set", view=self.view)
        before = written(tmp_path)
        with pytest.raises(OutputExistsError):
            type(self).export(archive, tmp_path / "set", view=self.view)
        assert written(tmp_path) == before
        type(self).export(archive, tmp_path / "set", view=self.view, overwrite=True)
        assert written(tmp_path) == before

    def test_an_empty_selection_writes_nothing(self, archive: Archive, tmp_path: Path) -> None:
        """And says what to change."""
        from dataclasses import replace

        with pytest.raises(UsageError, match="--where"):
            type(self).export(archive, tmp_path / "set", view=replace(self.view, where="false"))
        assert not written(tmp_path)

    def test_a_full_disk_leaves_nothing_that_looks_whole(self, archive: Archive, tmp_path: Path) -> None:
        """One clear error; with room again the same call makes the set."""
        resource = pytest.importorskip("resource", reason="file-size limits are of Unix")
        import signal

        limit = resource.getrlimit(resource.RLIMIT_FSIZE)
        old = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        try:
            resource.setrlimit(resource.RLIMIT_FSIZE, (5000, limit[1]))
            with pytest.raises(StorageError):
                type(self).export(archive, tmp_path / "set", view=self.view)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limit)
            signal.signal(signal.SIGXFSZ, old)
        assert not any(name.endswith("view.json") for name in written(tmp_path))
        assert type(self).export(archive, tmp_path / "set", view=self.view).items == len(plan(archive, self.view))

    def test_images_that_cannot_be_rendered_are_told(self, archive: Archive, tmp_path: Path) -> None:
        """A set of nothing is an error with the reason, not an empty set."""
        from dataclasses import replace

        with pytest.raises(DcmarkError, match="suvbw"):
            type(self).export(archive, tmp_path / "set", view=replace(self.view, quantity="suvbw"))
        assert not any(name.endswith("view.json") for name in written(tmp_path))
