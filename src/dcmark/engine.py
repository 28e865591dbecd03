"""Where independent pieces of work are done: in this process, in processes beside it, or on a Dask cluster.

    with engine.opened("dask", scheduler="tcp://head:8786") as chosen, engine.use(chosen):
        dcmark.verify(archive)

An engine does one thing: ``map`` a function over units that do not depend on one another, and give the results in the
order of the units. A unit may be done more than once (its worker died, or the connection was lost), so what it does to
an archive or a folder must be the same when it is done again. Functions that can spread their work ask ``current``.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from contextvars import ContextVar
from functools import lru_cache
from multiprocessing import get_context
from typing import Any, Literal, Protocol, TypeVar

from dcmark.errors import MissingExtraError, StorageError, UsageError

T = TypeVar("T")
R = TypeVar("R")
EngineName = Literal["local", "dask"]

MOST_DEATHS = 5
"""Workers that one unit may take with it, or in a row that die without a result, before the work is given up."""
PATIENCE_S = 600.0
"""How long a scheduler that is gone is waited for, seconds."""
_MUCH = 1 << 16
AHEAD = 2
"""Units handed to an engine for each worker: enough that none waits, few enough that results do not pile up."""


class Engine(Protocol):
    """Does independent pieces of work.

    Contract: ``map`` gives one result a unit, in the order of the units, and takes no more units than it needs to keep
    its workers busy. An exception of ``work`` is raised where its result is due. A worker that dies costs time only.

    Attributes:
        workers: how many units are done at once.
        closures: may ``work`` be a function made inside another, or must it be importable by name?
        lost: workers, or connections to them, lost so far.
    """

    workers: int
    closures: bool
    lost: int

    def map(self, work: Callable[[T], R], units: Iterable[T]) -> Iterator[R]:
        """What ``work`` makes of each unit."""
        ...

    def close(self) -> None:
        """Let the workers go."""
        ...


_current: ContextVar[Engine | None] = ContextVar("dcmark_engine", default=None)


def current() -> Engine | None:
    """The engine that work is to be spread over; None to do it here, on threads."""
    return _current.get()


@contextmanager
def use(engine: Engine | None) -> Iterator[None]:
    """Inside the block, work is spread over this engine."""
    token = _current.set(engine)
    try:
        yield
    finally:
        _current.reset(token)


@contextmanager
def opened(
    name: EngineName = "local", *, workers: int | None = None, scheduler: str | None = None
) -> Iterator[Engine | None]:
    """An engine by name, closed at the end.

    Args:
        name: ``local``: this process and its threads, or ``workers`` processes where more than one is asked for.
            ``dask``: a Dask cluster.
        workers: processes; for Dask without a scheduler those of a cluster on this machine (None: one a processor).
        scheduler: address of a Dask scheduler that is running, e.g. ``tcp://head:8786``.

    Raises:
        UsageError: options that do not fit, or no scheduler answers.
        MissingExtraError: ``dask`` without the extra of that name.
    """
    if scheduler is not None and name != "dask":
        raise UsageError("expected --engine dask with --scheduler; the local engine has none")
    if scheduler is not None and workers is not None:
        raise UsageError("expected --workers or --scheduler, found both; a running scheduler has its own workers")
    if name == "local":
        if workers is None or workers == 1:
            yield None
            return
        engine: Engine = ProcessEngine(workers)
    else:
        engine = DaskEngine(scheduler, workers)
    try:
        yield engine
    finally:
        engine.close()


class ProcessEngine:
    """Processes on this machine, started afresh (``spawn``), so that it works on every system."""

    closures = False

    def __init__(self, workers: int) -> None:
        if workers < 1:
            raise UsageError(f"expected 1 worker or more; found {workers}")
        self.workers, self.lost = workers, 0
        self._pool = self._started()

    def _started(self) -> ProcessPoolExecutor:
        return ProcessPoolExecutor(self.workers, get_context("spawn"))

    def map(self, work: Callable[[T], R], units: Iterable[T]) -> Iterator[R]:
        """What ``work`` makes of each unit; a worker that dies is replaced, and its unit done again."""
        source = iter(units)
        waiting: deque[tuple[T, Future[R]]] = deque()
        deaths, exhausted = 0, False
        try:
            while True:
                while not exhausted and len(waiting) < self.workers * AHEAD:
                    try:
                        unit = next(source)
                    except StopIteration:
                        exhausted = True
                        break
                    waiting.append((unit, self._submit(work, unit)))
                if not waiting:
                    return
                try:
                    result = waiting[0][1].result()
                except BrokenProcessPool as lost:
                    deaths, self.lost = deaths + 1, self.lost + 1
                    _give_up(deaths, lost)
                    self._pool.shutdown(wait=False, cancel_futures=True)
                    self._pool = self._started()
                    waiting = deque((unit, self._submit(work, unit)) for unit, _ in waiting)
                    continue
                waiting.popleft()
                deaths = 0
                yield result
        finally:
            for _, future in waiting:
                future.cancel()

    def _submit(self, work: Callable[[T], R], unit: T) -> Future[R]:
        try:
            return self._pool.submit(work, unit)
        except BrokenProcessPool as lost:  # a worker died since the last one was handed over
            future: Future[R] = Future()
            future.set_exception(lost)
            return future

    def close(self) -> None:
        """Stop the processes."""
        self._pool.shutdown(wait=True, cancel_futures=True)


class DaskEngine:
    """A Dask cluster: one that runs, or one made on this machine for as long as it is needed.

    Args:
        scheduler: address; None for a cluster of our own.
        workers: of our own cluster; None: one a processor.
    """

    closures = True

    def __init__(self, scheduler: str | None = None, workers: int | None = None) -> None:
        try:
            import distributed
        except ModuleNotFoundError as error:
            raise MissingExtraError("distributed", "dask", "--engine dask") from error
        self._dask: Any = distributed
        self.lost = 0
        self._address, self._own = scheduler, workers or os.cpu_count() or 1
        self._cluster: Any = None
        self._client: Any = self._connected(patience_s=10.0)
        self.workers = self._count()

    def _connected(self, patience_s: float) -> Any:
        """A client of the scheduler.

        Raises:
            UsageError: none answers within the time.
        """
        if self._address is None:
            import dask

            # Off: a page served to the network, letting go of workers that hold much memory for a moment, a profiler
            # that looks at them every 10 ms, and giving memory back to the system after every frame.
            dask.config.set(
                {
                    "distributed.scheduler.allowed-failures": MOST_DEATHS,
                    "distributed.scheduler.http.routes": [],
                    "distributed.worker.profile.enabled": False,
                    "distributed.nanny.pre-spawn-environ": {"OMP_NUM_THREADS": 1},
                }
            )
            self._cluster = self._dask.LocalCluster(
                n_workers=self._own,
                threads_per_worker=1,
                processes=True,
                dashboard_address="127.0.0.1:0",
                memory_limit=0,
                silence_logs=50,
            )
            return self._dask.Client(self._cluster, set_as_default=False)
        until = time.monotonic() + patience_s
        while True:
            try:
                return self._dask.Client(self._address, timeout=5, set_as_default=False)
            except (OSError, TimeoutError, ValueError) as error:
                if time.monotonic() >= until or isinstance(error, ValueError):
                    raise UsageError(
                        f"expected a Dask scheduler at {self._address}, found none that answers; check the address, "
                        "or start one with: dask scheduler"
                    ) from error
                time.sleep(0.5)

    def _count(self) -> int:
        if self._cluster is not None:
            return self._own
        threads: dict[str, int] = self._client.nthreads()
        return max(1, sum(threads.values()))

    def map(self, work: Callable[[T], R], units: Iterable[T]) -> Iterator[R]:
        """What ``work`` makes of each unit. Lost with a worker or the scheduler, a unit is done again."""
        source = iter(units)
        waiting: deque[tuple[T, Any]] = deque()
        deaths, exhausted = 0, False
        work = self._shared(work)
        try:
            while True:
                while not exhausted and len(waiting) < max(self.workers, 1) * AHEAD:
                    try:
                        unit = next(source)
                    except StopIteration:
                        exhausted = True
                        break
                    waiting.append((unit, self._submit(work, unit)))
                if not waiting:
                    return
                try:
                    # What work raises is handed over as a value: all that is raised here is the cluster's.
                    made, failure = waiting[0][1].result()
                except Exception as lost:  # noqa: BLE001  of many kinds
                    deaths, self.lost = deaths + 1, self.lost + 1
                    _give_up(deaths, lost)
                    if not isinstance(lost, self._dask.scheduler.KilledWorker):
                        self._reconnect()
                    waiting = deque((unit, self._submit(work, unit)) for unit, _ in waiting)
                    continue
                waiting.popleft()
                deaths = 0
                if failure is not None:
                    raise failure
                yield made
        finally:
            for _, future in waiting:
                if future is not None:
                    future.cancel()

    def _shared(self, work: Callable[[T], R]) -> Callable[[T], R]:
        """A function that carries much with it as bytes that are sent as they are, and unpacked once a worker."""
        from distributed.protocol.pickle import dumps

        packed = dumps(work)
        return work if len(packed) < _MUCH else _Packed(packed)

    def _submit(self, work: Callable[[T], R], unit: T) -> Any:
        try:
            return self._client.submit(_guarded, work, unit, pure=False)
        except Exception as lost:  # noqa: BLE001  whatever the client says when its scheduler went away just now
            return _Lost(lost)

    def _reconnect(self) -> None:
        self.close()
        try:
            self._client = self._connected(PATIENCE_S)
        except UsageError as error:
            raise StorageError(
                f"the Dask scheduler is gone and none came back within {PATIENCE_S:.0f} s; what was done is safe, run "
                "the same command again"
            ) from error
        self.workers = self._count()

    def close(self) -> None:
        """Leave the cluster; one of our own ends."""
        for one in (self._client, self._cluster):
            if one is not None:
                try:
                    one.close(timeout=10)
                except Exception:  # noqa: BLE001, S112  it may be gone already, and nothing is left to do about it
                    continue
        self._cluster = None


class _Packed:
    """A function as bytes; unpacked when it is first called in a process, and kept there."""

    def __init__(self, packed: bytes) -> None:
        import zlib

        self._packed = zlib.compress(packed, 1)

    def __call__(self, unit: Any) -> Any:
        return _unpacked(self._packed)(unit)


@lru_cache(1)
def _unpacked(packed: bytes) -> Callable[[Any], Any]:
    import zlib

    from distributed.protocol.pickle import loads

    work: Callable[[Any], Any] = loads(zlib.decompress(packed))
    return work


class _Lost:
    """Stands for a future that could not be had."""

    def __init__(self, why: Exception) -> None:
        self._why = why

    def result(self) -> Any:
        raise self._why

    def cancel(self) -> None:
        """Nothing to cancel."""


def _guarded(work: Callable[[T], R], unit: T) -> tuple[R | None, Exception | None]:
    try:
        return work(unit), None
    except Exception as error:  # noqa: BLE001  handed over and raised where the result is due
        return None, error


def _give_up(deaths: int, error: BaseException | None = None) -> None:
    if deaths > MOST_DEATHS:
        raise StorageError(
            f"expected a piece of work to be done, found its worker dead {deaths} times in a row; look at the workers' "
            "memory and logs, then run the same command again: what was done is safe"
        ) from error
