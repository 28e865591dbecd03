"""Listening: the socket, uvicorn, the link in the terminal, and an orderly end."""

from __future__ import annotations

import ipaddress
import logging
import socket
import sys
import webbrowser
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import uvicorn

from dcmark.errors import StorageError, UsageError
from dcmark.web.app import create_app
from dcmark.web.security import LOG, LOOPBACK, Session, hosts_of
from dcmark.web.service import Service

END_S = 3
"""How long requests under way may take when the server ends, seconds."""


@dataclass(frozen=True, slots=True)
class Listening:
    """Where and how a server listens.

    Attributes:
        host: address or name.
        port: 0 for any that is free.
        allow_remote: others than this computer may connect.
        certificate, key: PEM files for TLS.
    """

    host: str = "127.0.0.1"
    port: int = 0
    allow_remote: bool = False
    certificate: Path | None = None
    key: Path | None = None

    @property
    def scheme(self) -> str:
        """``https`` with a certificate."""
        return "https" if self.certificate is not None else "http"

    def checked(self) -> Listening:
        """Itself, when it may listen there.

        Raises:
            UsageError: beyond this computer without ``allow_remote`` and TLS, or files that are not there.
        """
        if (self.certificate is None) != (self.key is None):
            raise UsageError("expected --tls-cert and --tls-key together, found one of them")
        for file in (self.certificate, self.key):
            if file is not None and not file.is_file():
                raise UsageError(f"expected a PEM file at {file}, found none")
        if not loopback(self.host):
            if not self.allow_remote:
                raise UsageError(
                    f"--host {self.host} lets other computers connect: whoever has the link sees and changes "
                    "everything in the archive; if that is what you want, add --allow-remote, --tls-cert and --tls-key"
                )
            if self.certificate is None:
                raise UsageError(
                    "expected --tls-cert and --tls-key with --allow-remote: without TLS the network reads all images "
                    "and the token"
                )
        return self


def loopback(host: str) -> bool:
    """Does a host name or address mean this computer alone?"""
    if host in LOOPBACK:
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def listen(where: Listening) -> socket.socket:
    """A socket bound to where a server listens.

    Raises:
        UsageError: it cannot be bound: taken, not allowed, or no address of this computer.
    """
    bound: socket.socket | None = None
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            where.host, where.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        bound = socket.socket(family, kind, protocol)
        if sys.platform != "win32":
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
        bound.listen(128)
    except OSError as error:
        if bound is not None:
            bound.close()
        reason = error.strerror or "refused"
        raise UsageError(
            f"expected to listen on {where.host} port {where.port}, found: {reason}; choose another --port"
        ) from error
    return bound


def serve(
    path: Path,
    where: Listening,
    *,
    author: str = "",
    read_only: bool = False,
    ingest: Path | None = None,
    browser: bool = True,
    token: str | None = None,
    access_log: bool = False,
    say: Callable[[str], None] = print,
) -> None:
    """Serve an archive until it is interrupted.

    Args:
        path: of the archive.
        where: to listen.
        author: of annotations for which the page names nobody.
        read_only: nothing may be changed.
        ingest: a folder whose files are stored meanwhile.
        browser: open the page in the browser of this computer.
        token: for programs; None: a new one that nobody is told.
        access_log: a line for every request, to standard error; else errors alone.
        say: is told what the user should see.

    Raises:
        UsageError: it may not, or cannot listen there.
        FormatVersionError: there is no archive.
        StorageError: TLS files that cannot be used.
    """
    where.checked()
    bound = listen(where)
    port = int(bound.getsockname()[1])
    shown = f"[{where.host}]" if ":" in where.host else where.host
    if where.host in ("0.0.0.0", "::"):  # noqa: S104  only with --allow-remote
        shown = socket.getfqdn()
    base = f"{where.scheme}://{shown}:{port}"

    def link(ticket: str) -> str:
        return f"{base}/?token={ticket}"

    session = Session(token=token)
    service = Service(path, author=author, read_only=read_only, session=session)
    service.link, service.port = link, port
    session.on_ticket = lambda: say(f"for another browser: {link(session.ticket())}")
    config = uvicorn.Config(
        create_app(service, hosts_of(where.host, port), scheme=where.scheme),
        access_log=False,
        log_config=None,
        server_header=False,
        proxy_headers=False,
        ws="none",
        http="h11",
        timeout_graceful_shutdown=END_S,
        limit_concurrency=512,
        ssl_certfile=str(where.certificate) if where.certificate else None,
        ssl_keyfile=str(where.key) if where.key else None,
    )
    try:
        config.load()
    except OSError as error:
        raise StorageError("expected a certificate and its key in PEM files, found others") from error
    _log_to_terminal(logging.INFO if access_log else logging.WARNING)
    if ingest is not None:
        service.ingest(ingest, say)
    first = link(session.ticket())
    say(f"dcmark serves {service.name} at {first}")
    say("the link is good for one browser; stop with Ctrl+C")
    if browser:
        with suppress(webbrowser.Error):
            webbrowser.open(first)
    with suppress(KeyboardInterrupt):
        _Server(config, service).run(sockets=[bound])
    say("stopped; everything that was saved is in the archive")


class _Server(uvicorn.Server):
    """Lets go of whoever waits for news when it is to end."""

    def __init__(self, config: uvicorn.Config, service: Service) -> None:
        super().__init__(config)
        self.service = service

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        await self.service.stopped()
        await super().shutdown(sockets)


def _log_to_terminal(level: int) -> None:
    """The log to standard error; a line a request at level INFO. (Uvicorn's own would hold paths and queries.)"""
    if not LOG.handlers:
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
        LOG.addHandler(handler)
    LOG.setLevel(level)
    LOG.propagate = False
