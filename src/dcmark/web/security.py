"""Who may ask, and what an answer may do: checked before a route is looked for.

A page in another tab can send requests to this computer but cannot set their Host to a name of ours that is not in the
list, cannot read our cookie, cannot send it (SameSite=Strict) and cannot add our header. A program on this computer
cannot guess the token.
"""

from __future__ import annotations

import hmac
import logging
import os
import re
import secrets
import socket
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from threading import Lock
from typing import Any
from urllib.parse import parse_qs

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dcmark.errors import StorageError, UsageError

LOG = logging.getLogger("dcmark.web")
TOKEN_BYTES = 32
MOST_TICKETS = 64
HEADER = "x-dcmark"
SAFE_METHODS = frozenset({"GET", "HEAD"})
LOOPBACK = ("127.0.0.1", "localhost", "::1")

PAGE_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; font-src 'self'; "
    "connect-src 'self'; worker-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
FILE_POLICY = "default-src 'none'; frame-ancestors 'none'; sandbox"
"""For everything that is not the page itself: were it ever shown as a page, it could do nothing."""
HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=(), payment=(), usb=()",
}


class Session:
    """The secret of one server, and the tickets that hand it over.

    A ticket is a random number that stands in a link and is good for one visit: what a browser's history, a
    process list or a screenshot keeps of it is of no use. The token itself goes into a cookie that no script sees.

    Args:
        on_ticket: is told that a ticket was used, so that the terminal can show a fresh link.
        token: the secret; None: a new one.
    """

    def __init__(self, on_ticket: Callable[[], None] | None = None, token: str | None = None) -> None:
        self.token = token or secrets.token_hex(TOKEN_BYTES)
        self.on_ticket = on_ticket
        self._tickets: dict[str, None] = {}
        self._lock = Lock()

    def ticket(self) -> str:
        """A fresh ticket; the oldest unused one of many is forgotten."""
        one = secrets.token_hex(TOKEN_BYTES)
        with self._lock:
            self._tickets[one] = None
            while len(self._tickets) > MOST_TICKETS:
                self._tickets.pop(next(iter(self._tickets)))
        return one

    def redeem(self, ticket: str) -> bool:
        """Is this a ticket that was not used yet? It is used now."""
        with self._lock:
            found = [one for one in self._tickets if hmac.compare_digest(one.encode(), ticket.encode())]
            for one in found:
                del self._tickets[one]
        if found and self.on_ticket is not None:
            self.on_ticket()
        return bool(found)

    def accepts(self, token: str) -> bool:
        """Is this the token? Compared in constant time."""
        return hmac.compare_digest(self.token.encode(), token.encode("utf-8", "replace"))


def token_of(file: Path) -> str:
    """The token in a file, which is made with a new one where it is not there; only its owner may read it.

    Raises:
        UsageError: the file holds something else. StorageError: it cannot be read or written.
    """
    try:
        if not file.exists():
            with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as out:
                out.write(secrets.token_hex(TOKEN_BYTES) + "\n")
        text = file.read_text("ascii", "replace").strip()
    except OSError as error:
        raise StorageError(f"expected to read or make the token file {file}, found: {error.strerror}") from error
    if not re.fullmatch(r"[0-9a-f]{32,128}", text):
        raise UsageError(f"expected 32 to 128 hexadecimal digits in {file}, found something else; choose another file")
    return text


def hosts_of(host: str, port: int) -> frozenset[str]:
    """Values of Host that are answered: names of this computer, each with the port.

    Args:
        host: address or name that is listened on.
    """
    names = set(LOOPBACK) if host in LOOPBACK else {host}
    if host in ("0.0.0.0", "::"):  # noqa: S104  only reached where the user allowed it
        own = {socket.gethostname(), socket.getfqdn()}
        with suppress(OSError):
            own |= {str(info[4][0]) for info in socket.getaddrinfo(socket.gethostname(), None)}
        names = own | set(LOOPBACK)
    found = {f"[{name}]" if ":" in name else name.lower() for name in names}
    return frozenset({f"{name}:{port}" for name in found} | (found if port in (80, 443) else set()))


class Guard:
    """The outermost layer: Host, token, Origin, and the headers of every answer; writes the access log.

    Args:
        app: what is guarded.
        session: whose token is asked for.
        hosts: values of Host that are answered, see ``hosts_of``.
        scheme: ``http``, or ``https`` behind certificates.
        read_only: refuse everything that writes.
    """

    def __init__(
        self, app: ASGIApp, session: Session, hosts: Iterable[str], *, scheme: str = "http", read_only: bool = False
    ) -> None:
        self.app, self.session, self.scheme, self.read_only = app, session, scheme, read_only
        self.hosts = frozenset(host.lower() for host in hosts)
        if not self.hosts:
            raise UsageError("expected one host name or more to answer to, found none")
        # Some programs leave the port out. What matters is the name: a page elsewhere cannot choose it.
        self.names = frozenset(re.sub(r":[0-9]+$", "", host) for host in self.hosts)
        ports = {host.rpartition(":")[2] for host in self.hosts if ":" in host}
        self.cookie = f"dcmark-{min(ports) if ports else '0'}"  # cookies of one host are shared by all its ports

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
            return
        began, status, size = time.perf_counter(), 0, 0
        refused = self._refusal(scope)

        async def told(message: Message) -> None:
            nonlocal status, size
            if message["type"] == "http.response.start":
                status = message["status"]
                _harden(MutableHeaders(scope=message))
            elif message["type"] == "http.response.body":
                size += len(message.get("body", b""))
            await send(message)

        try:
            if refused is not None:
                await refused(scope, receive, told)
            else:
                await self.app(scope, receive, told)
        finally:
            # No path, query or header: they hold UIDs, names to search for, and the token.
            what = getattr(scope.get("endpoint"), "__name__", "refused" if refused is not None else "none")
            spent = 1000 * (time.perf_counter() - began)
            LOG.info("%s %s %d %d bytes %.1f ms", _method(scope), what, status, size, spent)

    def _refusal(self, scope: Scope) -> Response | None:
        """Why a request is not let through, as the answer to it; None where it is."""
        headers = Headers(scope=scope)
        hosts = headers.getlist("host")
        if len(hosts) != 1 or hosts[0].lower() not in self.hosts | self.names:
            return _error(421, "host", "expected a Host of this server, found another")
        if scope["method"] not in ("GET", "HEAD", "POST", "PUT", "DELETE"):
            return _error(405, "method", "expected GET, HEAD, POST, PUT or DELETE, found another method")
        if scope["path"] == "/" and scope["method"] == "GET":
            ticket = parse_qs(scope["query_string"].decode("latin-1")).get("token", [""])[0]
            if ticket:
                return self._handed_over(ticket)
        bearer = headers.get("authorization", "")
        program = bearer.startswith("Bearer ") and self.session.accepts(bearer[7:].strip())
        if not program and not any(self.session.accepts(value) for value in _cookies(headers, self.cookie)):
            text = "expected the token of this server, found none or another; open the link that the terminal shows"
            return _error(401, "token", text)
        if headers.get("sec-fetch-site", "none") not in ("same-origin", "none") and scope["path"] != "/":
            return _error(403, "origin", "expected a request of the page itself, found one of another site")
        origins = headers.getlist("origin")
        if any(not self._own(origin) for origin in origins) or len(origins) > 1:
            return _error(403, "origin", "expected the Origin of this server, found another")
        if scope["method"] in SAFE_METHODS:
            return None
        # Only a browser adds a cookie by itself, so only then has the request to prove where it comes from.
        if not program and (not origins or headers.get(HEADER) != "1"):
            return _error(403, "origin", "expected an Origin of this server and the header X-Dcmark: 1 to write")
        if self.read_only:
            return _error(403, "read-only", "this server was started with --read-only; nothing can be changed")
        return None

    def _own(self, origin: str) -> bool:
        scheme, _, host = origin.lower().partition("://")
        if ":" not in host.rpartition("]")[2]:  # browsers leave out the port of the scheme
            return scheme == self.scheme and (host in self.hosts or f"{host}:{_PORTS[self.scheme]}" in self.hosts)
        return scheme == self.scheme and host in self.hosts

    def _handed_over(self, ticket: str) -> Response:
        if not self.session.redeem(ticket):
            return _error(401, "token", "this link was used before or is wrong; the terminal shows a fresh one")
        answer = RedirectResponse("/", 303)
        answer.set_cookie(
            self.cookie, self.session.token, httponly=True, samesite="strict", secure=self.scheme == "https", path="/"
        )
        return answer


_PORTS = {"http": 80, "https": 443}


def _cookies(headers: Headers, name: str) -> list[str]:
    pairs = [pair.strip().partition("=") for line in headers.getlist("cookie") for pair in line.split(";")]
    return [value for key, _, value in pairs if key == name]


def _harden(headers: MutableHeaders) -> None:
    for name, value in HEADERS.items():
        headers[name] = value
    headers.setdefault("Content-Security-Policy", FILE_POLICY)
    headers.setdefault("Cache-Control", "no-store")


def _error(status: int, code: str, message: str) -> Response:
    return JSONResponse({"code": code, "message": message}, status)


def _method(scope: Scope) -> str:
    method: Any = scope.get("method")
    return method if method in ("GET", "HEAD", "POST", "PUT", "DELETE") else "other"
