"""The run directory: everything about a training, and nothing that is ever half written.

    RUN/
      config.json         model, its settings, the options, and what data it learns from (hash, meaning)
      environment.json    versions and machine, an entry for every start
      log.jsonl           a report a line: images, losses, seconds
      sheets/             sample sheets, PNG, named by images seen
      checkpoints/        NNNNNNNNNNNN.safetensors with NNNNNNNNNNNN.json beside it, named by images seen

A checkpoint counts once its JSON is there, which is written last; both are written under another name
and renamed. A log line that was written after the last checkpoint is taken back when a run goes on.
"""

from __future__ import annotations

import errno
import json
import os
import platform
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from dcmark import __version__
from dcmark.errors import OutputExistsError, SourceError, StorageError, TrainingError, UsageError

FORMAT = 1
"""Version of the run directory."""


@dataclass(frozen=True)
class Checkpoint:
    """One checkpoint: its tensors' file, and what else there is to know."""

    path: Path
    about: dict[str, Any]

    @property
    def images_seen(self) -> int:
        """How many images had been shown."""
        return int(self.about["images_seen"])

    def tensors(self, prefix: str = "") -> dict[str, Tensor]:
        """The tensors whose names begin with ``prefix``.

        Raises:
            SourceError: the file cannot be read, or is damaged.
        """
        try:
            with safe_open(self.path, framework="pt") as opened:
                return {k: opened.get_tensor(k).clone() for k in opened.keys() if k.startswith(prefix)}  # noqa: SIM118
        except (OSError, SafetensorError) as error:
            raise SourceError(f"expected a readable checkpoint at {self.path}, found a damaged one") from error


VIEW_FILE = "view.json"
"""In a run directory: the view that the model learned from, where it learned from an archive."""


class Run:
    """A run directory that exists.

    Attributes:
        path: the directory.
        config: what ``config.json`` says.
    """

    def __init__(self, path: Path) -> None:
        """
        Raises:
            SourceError: there is no run at this path.
        """
        self.path = path
        try:
            self.config = json.loads((path / "config.json").read_text(encoding="utf-8"))
            if self.config["format"] > FORMAT:
                raise TrainingError(f"expected a run of format {FORMAT} or older, found {self.config['format']}")
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise SourceError(f"expected the directory of a training run at {path}, found none") from error

    @classmethod
    def create(cls, path: Path, config: Mapping[str, Any]) -> Run:
        """A new run directory.

        Raises:
            OutputExistsError: something else is there.
        """
        if path.exists() and (not path.is_dir() or any(one.name != VIEW_FILE for one in path.iterdir())):
            raise OutputExistsError(f"expected no run, or an empty directory, at {path}, found something else there")
        for name in ("sheets", "checkpoints"):
            (path / name).mkdir(parents=True, exist_ok=True)
        _write_json(path / "config.json", {"format": FORMAT, **config})
        return cls(path)

    def checkpoints(self) -> list[Checkpoint]:
        """All complete ones, the oldest first."""
        found = []
        for about in sorted((self.path / "checkpoints").glob("*.json")):
            tensors = about.with_suffix(".safetensors")
            if tensors.is_file():
                found.append(Checkpoint(tensors, _read_json(about)))
        return found

    def last_checkpoint(self) -> Checkpoint:
        """The newest complete one.

        Raises:
            SourceError: there is none as yet.
        """
        found = self.checkpoints()
        if not found:
            raise SourceError(f"expected a checkpoint in {self.path}, found none as yet; let it train for longer")
        return found[-1]

    def save(self, tensors: Mapping[str, Tensor], about: Mapping[str, Any], *, keep: int) -> Checkpoint:
        """Write a checkpoint; then drop all but the last ``keep``.

        Raises:
            TrainingError: a weight is not finite; nothing is written.
            StorageError: the disk is full or refuses; the last checkpoint is untouched.
        """
        broken = [name for name, value in tensors.items() if value.is_floating_point() and not value.isfinite().all()]
        if broken:
            raise TrainingError(
                f"expected finite weights, found {len(broken)} tensors with NaN or infinity, such as {broken[0]}; "
                "nothing was saved: go on from the last checkpoint with a lower learning rate"
            )
        place = self.path / "checkpoints" / f"{int(about['images_seen']):012}.safetensors"
        draft = place.with_suffix(".draft")
        plain = {k: v.detach().cpu().clone(memory_format=torch.contiguous_format) for k, v in tensors.items()}
        try:
            save_file(plain, draft)
            _sync(draft)
            draft.replace(place)
            _write_json(place.with_suffix(".json"), dict(about))
        except (OSError, SafetensorError) as error:
            for unfinished in (draft, place.with_suffix(".json.draft")):
                unfinished.unlink(missing_ok=True)
            full = getattr(error, "errno", None) == errno.ENOSPC or "No space" in str(error)
            raise StorageError(
                f"expected to write a checkpoint to {place.parent}, found {'the disk full' if full else 'it refused'}; "
                "the checkpoints before it are whole: make room and run the same command again"
            ) from error
        for old in self.checkpoints()[:-keep]:
            old.path.with_suffix(".json").unlink(missing_ok=True)  # first what makes it count
            old.path.unlink(missing_ok=True)
        return Checkpoint(place, dict(about))

    def log(self, report: Mapping[str, Any]) -> None:
        """Append a line to the log."""
        with (self.path / "log.jsonl").open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(dict(report)) + "\n")

    def reports(self) -> list[dict[str, Any]]:
        """All lines of the log."""
        try:
            text = (self.path / "log.jsonl").read_text(encoding="utf-8")
        except FileNotFoundError:
            return []
        lines = []
        for line in text.splitlines():
            try:
                lines.append(json.loads(line))
            except ValueError:  # the line that was being written when the process was killed
                continue
        return lines

    def rewind_log(self, images_seen: int) -> None:
        """Take back what was logged after a checkpoint."""
        lines = [line for line in self.reports() if line.get("images", 0) <= images_seen]
        draft = self.path / "log.jsonl.draft"
        draft.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
        draft.replace(self.path / "log.jsonl")

    def note_environment(self, device: torch.device) -> None:
        """Add what this process runs on."""
        place = self.path / "environment.json"
        starts = _read_json(place)["starts"] if place.is_file() else []
        versions = {"dcmark": __version__, "python": platform.python_version(), "torch": torch.__version__}
        name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
        entry = {
            "time": datetime.now(UTC).isoformat(timespec="seconds"),
            "platform": sys.platform,
            "device": f"{device.type} {name}",
            "threads": torch.get_num_threads(),
            **versions,
        }
        _write_json(place, {"starts": [*starts, entry]})

    def sheet(self, name: str, picture: NDArray[Any]) -> Path:
        """Write a sample sheet, (rows, columns[, 3]) uint8 or uint16."""
        import imagecodecs

        place = self.path / "sheets" / f"{name}.png"
        place.write_bytes(imagecodecs.png_encode(picture))
        return place


def _read_json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SourceError(f"expected JSON in {path}, found it damaged") from error
    if not isinstance(found, dict):
        raise SourceError(f"expected a JSON object in {path}, found something else")
    return found


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    draft = path.with_name(path.name + ".draft")
    with draft.open("w", encoding="utf-8", newline="\n") as stream:
        json.dump(value, stream, indent=1)
        stream.flush()
        os.fsync(stream.fileno())
    draft.replace(path)


def _sync(path: Path) -> None:
    with path.open("rb+") as stream:
        os.fsync(stream.fileno())


def check_same(expected: Mapping[str, Any], found: Mapping[str, Any], what: str, but: tuple[str, ...] = ()) -> None:
    """Refuse to go on with something other than what a run was started with.

    Raises:
        UsageError: naming the first thing that differs.
    """
    for name in sorted(expected.keys() | found.keys()):
        if name not in but and expected.get(name) != found.get(name):
            raise UsageError(
                f"expected {what} {name} = {expected.get(name)!r}, with which the run was started, found "
                f"{found.get(name)!r}; go on as it was started, or start another run in another directory"
            )
