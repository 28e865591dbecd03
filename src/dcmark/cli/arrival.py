"""``dcmark listen``, and what ``dcmark ingest`` does with folders it watches and with DICOMweb servers."""

from __future__ import annotations

import logging
import re
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dcmark.cli.options import ArchivePath, Threads

if TYPE_CHECKING:
    from dcmark.archive.store import Archive
    from dcmark.ingestion import IngestReport

Watch = Annotated[bool, typer.Option("--watch", help="Go on taking in new files of folders, until interrupted.")]
QuietFor = Annotated[
    float,
    typer.Option("--quiet-for", min=0.1, metavar="SECONDS", help="With --watch: how long a file has not changed."),
]


def listen(
    archive: ArchivePath,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 for any that is free.")] = 11112,
    aet: Annotated[str, typer.Option(help="Own AE title; who calls another is rejected.")] = "DCMARK",
    allow: Annotated[
        list[str] | None, typer.Option(metavar="AET", help="AE title that may send; several times; all by default.")
    ] = None,
    host: Annotated[str, typer.Option(help="Address; others than this computer need --allow-remote.")] = "127.0.0.1",
    allow_remote: Annotated[
        bool, typer.Option("--allow-remote", help="Let other computers connect; needs --allow.")
    ] = False,
    tls_cert: Annotated[Path | None, typer.Option("--tls-cert", metavar="PEM", help="Certificate for TLS.")] = None,
    tls_key: Annotated[Path | None, typer.Option("--tls-key", metavar="PEM", help="Its private key.")] = None,
    tls_ca: Annotated[
        Path | None, typer.Option("--tls-ca", metavar="PEM", help="Senders need a certificate signed by one of these.")
    ] = None,
    max_associations: Annotated[int, typer.Option(min=1, max=200, help="At once.")] = 16,
    max_object_size: Annotated[int, typer.Option(min=1, metavar="MIB", help="Largest object, MiB.")] = 4096,
    spool: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Where objects wait; ARCHIVE.spool by default.")
    ] = None,
    threads: Threads = None,
) -> int:
    """Receive objects by DICOM network (C-STORE, C-ECHO) and store them, until interrupted."""
    from dcmark.errors import MissingExtraError, UsageError

    try:
        from dcmark.arrival.listener import Listener, Listening
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            (error.name or "").partition(".")[0], "network", "listening for DICOM objects"
        ) from error
    from dcmark.archive.store import open_archive
    from dcmark.arrival.intake import Intake, default_spool
    from dcmark.arrival.spool import Spool

    where = Listening(
        host, port, aet, tuple(allow or ()), allow_remote, tls_cert, tls_key, tls_ca, max_associations
    ).checked()  # fmt: skip
    if spool is None and re.match("[a-z0-9+]{2,}:/", str(archive)):
        raise UsageError("expected --spool DIR, a folder on a disk of this computer, for an archive that is elsewhere")
    _silence()
    opened = open_archive(archive, create=True)
    kept = Spool(spool or default_spool(Path(archive)), max_object_size << 20)
    try:
        intake = Intake(opened, kept, threads=threads, say=_say)
        with interruption() as stop:
            listener = Listener(where, kept)
            intake.start()
            _say(f"dcmark listens as {where.aet} on {where.host} port {listener.port}; stop with Ctrl+C")
            if allow_remote and tls_cert is None:
                _say("without TLS: the network reads what is sent, and an AE title proves nothing")
            while not stop.wait(0.5) and intake.running:
                pass
            listener.stop()
            intake.stop()
        if intake.error is not None:
            raise intake.error
        left = len(kept.waiting(1))
        refused = sum(count for outcome, count in listener.outcomes.items() if outcome != "stored")
        _say(f"stopped; {intake.stored} objects taken in, {refused} refused")
        if left:
            _say(f"objects are left in {kept.folder}; the next run takes them in")
        return 1 if left else 0
    finally:
        kept.close()


def watch_folders(places: list[Any], archive: Archive, quiet_s: float, **options: Any) -> IngestReport:
    """``ingest`` with ``--watch``: until interrupted."""
    from dcmark import engine
    from dcmark.arrival.watch import watch
    from dcmark.errors import UsageError

    if engine.current() is not None:
        raise UsageError("expected --watch without --engine, --scheduler and --workers: one process watches")
    with interruption() as stop:
        _say("watching; stop with Ctrl+C")
        return watch([Path(place) for place in places], archive, stop, quiet_s=quiet_s, say=_say, **options)


def source_of(place: str, archive: Archive | None) -> Any:
    """A source named on the command line: a DICOMweb server as a source, everything else as it is.

    Args:
        archive: whose instances are not fetched again; None: all are.
    """
    if not place.startswith(("dicomweb+http://", "dicomweb+https://")):
        return place
    from dcmark.errors import MissingExtraError, UsageError

    try:
        from dcmark.arrival.dicomweb import DicomwebSource
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        raise MissingExtraError(package, "network", "fetching from a DICOMweb server") from error
    from dcmark import engine

    if engine.current() is not None:
        raise UsageError("expected a DICOMweb server without --engine, --scheduler and --workers: use --threads")
    _silence()
    return DicomwebSource(place, archive)


@contextmanager
def interruption() -> Iterator[threading.Event]:
    """An event that SIGINT or SIGTERM sets, for an orderly end; a second one interrupts at once."""
    stop = threading.Event()

    def on_signal(number: int, frame: object) -> None:
        del number, frame
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()

    before = {number: signal.signal(number, on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _silence() -> None:
    """Nothing that was sent may reach the terminal by way of the libraries' own logs and warnings."""
    import warnings

    for name in ("pynetdicom", "pydicom", "dicomweb_client", "urllib3"):
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)
        warnings.filterwarnings("ignore", module=rf"{name}(\..*)?$")


def _say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", flush=True)


def register(app: typer.Typer) -> None:
    """Enter the commands."""
    app.command()(listen)
