"""Items of a data set, read in a clean process for one that was forked.

Lance keeps threads that a fork does not copy: what uses it afterwards hangs or crashes now and then. A forked process
therefore starts this module as a program of its own and asks it, over pipes that nobody else can open.
"""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, BinaryIO, Protocol

from dcmark.errors import StorageError


class Readable(Protocol):
    """What can be sent to another process, and read there."""

    def read(self, indices: Sequence[int]) -> list[Any]:
        """Items by their numbers, without tensors."""
        ...


class Elsewhere:
    """A process that reads items of a data set; it ends with the one that asks."""

    def __init__(self, items: Readable) -> None:
        """
        Raises:
            StorageError: no process can be started.
        """
        paths = os.pathsep.join(path for path in sys.path if path)
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "dcmark.view.elsewhere"],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": paths},
            )  # fmt: skip
        except OSError as error:
            raise StorageError(f"expected to start a process that reads; that failed ({error.strerror})") from error
        self._send(items)

    def _send(self, what: Any) -> None:
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):  # the answer that does not come tells
            pickle.dump(what, self._process.stdin, protocol=5)
            self._process.stdin.flush()

    def read(self, indices: Sequence[int]) -> list[Any]:
        """Items by their numbers.

        Raises:
            DcmarkError: as the other process raised it. StorageError: it ended.
        """
        self._send(list(indices))
        try:
            found = pickle.load(self._process.stdout)  # type: ignore[arg-type]  # noqa: S301  what we sent comes back
        except EOFError as error:
            code = self._process.wait()
            raise StorageError(f"expected images from the process that reads; it ended with code {code}") from error
        if isinstance(found, BaseException):
            raise found
        made: list[Any] = found
        return made

    def __del__(self) -> None:
        process = getattr(self, "_process", None)
        if process is not None:
            for pipe in (process.stdin, process.stdout):
                with suppress(OSError):
                    pipe.close()
            process.wait()


def serve(asked: BinaryIO, answers: BinaryIO) -> None:
    """Answers until nobody asks any more."""
    items: Readable = pickle.load(asked)  # noqa: S301  from the process that started this one
    while True:
        try:
            indices = pickle.load(asked)  # noqa: S301
        except EOFError:
            return
        try:
            found: Any = items.read(indices)
        except Exception as error:  # noqa: BLE001  raised again where it was asked for
            found = error
        pickle.dump(found, answers, protocol=5)
        answers.flush()


if __name__ == "__main__":
    out = sys.stdout.buffer
    sys.stdout = sys.stderr  # what a library prints must not mix with answers
    with suppress(KeyboardInterrupt):
        serve(sys.stdin.buffer, out)
