"""Frames out of an archive: stored, physical and display values, without the files they came in.

    one = frame(archive, sha256, 0)
    one.stored                      # what the file holds
    one.physical("hu").values       # float32, with quantity, unit and mask
    one.display(window="lung")      # 8-bit grey levels

``read_frames`` gives many of them in order, read in runs and decoded on several threads.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from numpy.typing import NDArray

from dcmark.archive.assemble import Part, read_parts
from dcmark.archive.store import Archive
from dcmark.config import LIMITS, Limits
from dcmark.errors import UsageError
from dcmark.read.display import display
from dcmark.read.pixels import Physical, physical
from dcmark.read.video import VideoReader
from dcmark.read.windows import Choice
from dcmark.view.files import StoredFile, digest_of, stored_files

if TYPE_CHECKING:
    from pydicom import Dataset

Array = NDArray[Any]
FrameKey = tuple[str | bytes, int]
"""SHA-256 of a file (hexadecimal or 32 bytes) and the number of a frame in it, from 0."""
T = TypeVar("T")

RUN = 64
"""Most frames read at once: enough for the storage to read them in one plan."""
RUN_BYTES = 64 << 20
"""Decoded bytes of a run, so that it stays in memory whatever the size of the frames."""
BLOCK = 512
"""Frames whose files are looked up at once. Their headers may take a MiB each."""


@dataclass(frozen=True, eq=False)
class Frame:
    """One frame of an archive.

    Attributes:
        file: it is in.
        number: in the file, from 0.
        stored: (rows, columns) or (rows, columns, samples); see ``read.codecs``.
    """

    file: StoredFile
    number: int
    stored: Array

    @property
    def dataset(self) -> Dataset:
        """The header of the file, without its pixels."""
        return self.file.dataset

    def physical(self, quantity: str | None = None) -> Physical:
        """Physical values; see ``read.pixels.physical``.

        Raises:
            ValueMeaningError: the header does not define the quantity; the message names what is missing.
        """
        start = self.file.series_start if self.file.row["modality"] == "PT" else None
        return physical(self.stored, self.dataset, self.number, quantity, series_start=start)

    def display(self, window: Choice = None, *, bits: int = 8) -> Array:
        """What is to be seen: grey levels or red, green and blue; see ``read.display.display``."""
        return display(self.stored, self.dataset, self.number, window, bits=bits)


def frame(archive: Archive, sha256: str | bytes, number: int = 0, *, limits: Limits = LIMITS) -> Frame:
    """One frame of an archive, decoded.

    Args:
        sha256: of the file, hexadecimal or 32 bytes.
        number: of the frame, from 0.

    Raises:
        UsageError: no such file or frame.
        UnsupportedError: the file has no pixels; DecodeError where they cannot be decoded.
        LimitError: the frame is larger than ``limits.frame_bytes``.
        DamageError: the archive is damaged there.
    """
    (found,) = read_frames(archive, [(sha256, number)], limits=limits)
    return found


def read_frames(
    archive: Archive, frames: Sequence[FrameKey], *, threads: int = 1, limits: Limits = LIMITS
) -> Iterator[Frame]:
    """Frames in the order asked for. Arguments and errors as for ``map_frames``."""
    return map_frames(archive, frames, lambda _, one: one, threads=threads, limits=limits)


def map_frames(
    archive: Archive,
    frames: Sequence[FrameKey],
    work: Callable[[int, Frame], T],
    *,
    threads: int = 1,
    limits: Limits = LIMITS,
) -> Iterator[T]:
    """What ``work(place in the list, frame)`` gives for every frame, in the order asked for.

    Memory holds two runs of frames a thread at most, however long the list.

    Args:
        frames: which.
        threads: that decode and work; with 1 the calling thread does.

    Raises:
        UsageError: no such file or frame.
        UnsupportedError, DecodeError, LimitError, DamageError: one frame cannot be given; those before it were.
    """
    if threads < 1:
        raise UsageError(f"expected 1 thread or more; found {threads}")
    runs = _runs(archive, frames, max(1, min(RUN, len(frames) // (2 * threads))))

    def decoded(run: _Run, parts: dict[int, Part]) -> Iterator[T]:
        videos: dict[int, VideoReader] = {}
        for place, (position, file, number) in enumerate(run.wanted, run.start):
            part = parts[position]
            if file.video:
                if position not in videos:
                    videos[position] = VideoReader(part.unpack(), file.layout, limits)
                stored = videos[position].frame(number)
            else:
                stored = file.decode(part, number, limits)
            yield work(place, Frame(file, number, stored))

    def whole(run: _Run) -> list[T]:
        return list(decoded(run, _read(archive, run)))

    if len(frames) == 1:
        for run in runs:
            yield from decoded(run, _read(archive, run))
    elif threads == 1:
        # The storage reads the next run while this one is decoded.
        with ThreadPoolExecutor(1, "dcmark-read") as reader:
            for run, parts in _ahead(reader, lambda run: (run, _read(archive, run)), runs, 1):
                yield from decoded(run, parts)
    else:
        with ThreadPoolExecutor(threads, "dcmark-frames") as pool:
            for results in _ahead(pool, whole, runs, 2 * threads - 1):
                yield from results


@dataclass(frozen=True, slots=True)
class _Run:
    """Frames that are read at once.

    start: place of the first one in the list asked for.
    wanted: position in the table, file, and number in the file of each.
    """

    start: int
    wanted: list[tuple[int, StoredFile, int]]


def _read(archive: Archive, run: _Run) -> dict[int, Part]:
    """The stored parts of a run by position; all frames of a video lie in one."""
    positions = list(dict.fromkeys(position for position, _, _ in run.wanted))
    return dict(zip(positions, read_parts(archive, positions), strict=True))


def _ahead(pool: Executor, task: Callable[[_Run], T], runs: Iterator[_Run], count: int) -> Iterator[T]:
    """Results of a task in order, ``count`` of them under way beyond the one that is waited for."""
    under_way: deque[Future[T]] = deque()
    try:
        for run in runs:
            under_way.append(pool.submit(task, run))
            if len(under_way) > count:
                yield under_way.popleft().result()
        while under_way:
            yield under_way.popleft().result()
    finally:
        for left in under_way:
            left.cancel()


def _runs(archive: Archive, frames: Sequence[FrameKey], most: int) -> Iterator[_Run]:
    """The list in runs; the files of several runs are looked up at once."""
    files: dict[bytes, StoredFile] = {}
    for block in range(0, len(frames), BLOCK):
        keys = [(digest_of(sha256), number) for sha256, number in frames[block : block + BLOCK]]
        kept = {digest: files[digest] for digest, _ in keys if digest in files}
        files = kept | stored_files(archive, [digest for digest, _ in keys if digest not in kept])
        run, size = _Run(block, []), 0
        for place, (digest, number) in enumerate(keys, block):
            file = files[digest]
            size += file.frame_bytes
            if run.wanted and (len(run.wanted) >= most or size > RUN_BYTES):
                yield run
                run, size = _Run(place, []), file.frame_bytes
            run.wanted.append((file.position(number), file, number))
        yield run
