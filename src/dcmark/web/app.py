"""The application: routes, the files of the page, errors as JSON, and the guard in front of all of it."""

from __future__ import annotations

import traceback
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from dcmark.errors import (
    DamageError,
    DcmarkError,
    LimitError,
    MissingExtraError,
    StorageError,
    UnsupportedError,
    UsageError,
    ValueMeaningError,
)
from dcmark.web import api, dicomweb
from dcmark.web.api import json_answer
from dcmark.web.limits import HttpError
from dcmark.web.security import LOG, PAGE_POLICY, Guard
from dcmark.web.service import Service

STATIC = Path(__file__).parent / "static"
KINDS = {
    ".css": "text/css; charset=utf-8", ".html": "text/html; charset=utf-8", ".ico": "image/x-icon",
    ".js": "text/javascript; charset=utf-8", ".json": "application/json", ".png": "image/png",
    ".svg": "image/svg+xml", ".wasm": "application/wasm", ".woff2": "font/woff2",
}  # fmt: skip
STATUS: tuple[tuple[type[DcmarkError], int], ...] = (
    (MissingExtraError, 501), (UsageError, 400), (LimitError, 413), (UnsupportedError, 422), (ValueMeaningError, 422),
    (StorageError, 507), (DamageError, 500),
)  # fmt: skip


def create_app(service: Service, hosts: Iterable[str], *, scheme: str = "http") -> ASGIApp:
    """The application of a server.

    Args:
        service: the state behind it.
        hosts: values of Host that are answered, see ``security.hosts_of``.
        scheme: ``http``, or ``https`` behind certificates.
    """

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        await service.started()
        yield
        await service.stopped()

    app = Starlette(
        routes=[*page_routes(), *api.ROUTES, *dicomweb.ROUTES],
        lifespan=lifespan,
        exception_handlers={DcmarkError: _told, HTTPException: _not_there, Exception: _unexpected},
    )
    app.state.service = service
    return Guard(_Caught(app), service.session, hosts, scheme=scheme, read_only=service.read_only)


def page_routes() -> list[Route]:
    """A route for every file of the page that there is; no other path is ever opened."""
    routes = []
    for place in sorted(STATIC.rglob("*")) if STATIC.is_dir() else ():
        name = place.relative_to(STATIC).as_posix()
        if place.is_file() and place.suffix in KINDS:
            routes.append(Route(f"/{name}", _file(place), methods=["GET"], name="page"))
            if name == "index.html":
                routes.append(Route("/", _file(place), methods=["GET"], name="page"))
    if not any(route.path == "/" for route in routes):
        routes.append(Route("/", _no_page, methods=["GET"], name="page"))
    return routes


def _file(place: Path) -> Any:
    data, kind = place.read_bytes(), KINDS[place.suffix]

    def page(_: Request) -> Response:
        headers = {"Content-Security-Policy": PAGE_POLICY, "Cache-Control": "no-cache"}
        return Response(data, headers=headers, media_type=kind)

    return page


def _no_page(_: Request) -> Response:
    text = "dcmark: the files of the page are not installed; build them in frontend/ with: npm run build\n"
    return Response(text, 503, media_type="text/plain; charset=utf-8")


def _told(_: Request, error: Exception) -> Response:
    """An error of dcmark: its word and its message, which never hold anything of a patient."""
    if isinstance(error, HttpError):
        return json_answer({"code": error.word, "message": str(error), **error.more}, error.status)
    assert isinstance(error, DcmarkError)
    status = next((number for kind, number in STATUS if isinstance(error, kind)), 422)
    return json_answer({"code": error.code, "message": str(error)}, status)


def _unexpected(_: Request, error: Exception) -> Response:
    del error
    text = "something unexpected went wrong; the terminal of the server says where"
    return json_answer({"code": "internal", "message": text}, 500)


def _not_there(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    words = {404: ("gone", "there is nothing at this address"), 405: ("method", "not with this method")}
    code, text = words.get(error.status_code, ("error", "the request failed"))
    return json_answer({"code": code, "message": text}, error.status_code, error.headers)


class _Caught:
    """Logs where something failed that nobody expected to, and nothing that it was about. (It is answered by then.)"""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await self.app(scope, receive, send)
        except Exception as error:
            if scope["type"] != "http":
                raise
            frames = traceback.extract_tb(error.__traceback__)[-3:]
            where = " < ".join(f"{Path(one.filename).name}:{one.lineno}" for one in reversed(frames))
            LOG.error("unexpected %s at %s", type(error).__name__, where)
