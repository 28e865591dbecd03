"""The routes of the page (docs/reference/http.md). Each reads a request, calls one method, and words the answer."""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

import anyio.to_thread
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from dcmark import plugins
from dcmark.annotate.formats import names as format_names
from dcmark.config import MIB
from dcmark.errors import UnsupportedError, UsageError
from dcmark.findings import Finding
from dcmark.web import assist, tags
from dcmark.web.board import STATES, listed
from dcmark.web.limits import LIMITS, HttpError, body_to, json_of, whole_number
from dcmark.web.service import Service

KEPT = "private, max-age=31536000, immutable"
HTJ2K = frozenset({"1.2.840.10008.1.2.4.201", "1.2.840.10008.1.2.4.202", "1.2.840.10008.1.2.4.203"})
PAGE_ITEMS = 500
MOST_ITEMS = 5000


def json_answer(content: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """JSON in ASCII: text of files may hold half a surrogate pair, which no UTF-8 can."""
    body = json.dumps(content, separators=(",", ":"), allow_nan=False).encode()
    return Response(body, status, dict(headers or {}), "application/json")


def service_of(request: Request) -> Service:
    """The state behind a request."""
    found: Service = request.app.state.service
    return found


async def in_thread(work: Callable[..., Any], *values: Any) -> Any:
    """What a function gives that reads or writes the archive."""
    return await anyio.to_thread.run_sync(work, *values)


# The archive ----------------------------------------------------------------------------------------------------------


def archive(request: Request) -> Response:
    """What the archive is, and how far an ingest got."""
    from dcmark import __version__

    service = service_of(request)
    ingesting = service.ingesting
    return json_answer(
        {
            "id": service.archive.info.id,
            "name": service.name,
            "read_only": service.read_only,
            "version": __version__,
            "counts": dict(service.catalogue.now().counts),
            "ingest": None if ingesting is None else ingesting.as_dict(),
            "author": service.author,
        }
    )


def worklist(request: Request) -> Response:
    """Stacks to be looked at, with what was done on them."""
    service, query = service_of(request), request.query_params
    search, modality, state = (query.get(name, "") for name in ("search", "modality", "state"))
    if state and state not in STATES:
        raise UsageError(f"expected state to be one of {', '.join(STATES)}, found something else")
    limit = whole_number(query.get("limit", str(PAGE_ITEMS)), "limit", 0, MOST_ITEMS)
    offset = whole_number(query.get("offset", "0"), "offset", 0, 1 << 31)
    snapshot, marked = service.catalogue.now(), service.board.marked()
    words = search[:1000].lower().split()
    searched = [item for item in snapshot.items.values() if all(word in item.words for word in words)]
    stated = {item.id: marked.get(item.id, (0, "todo"))[1] for item in searched}
    found = [
        item
        for item in searched
        if (not modality or item.modality == modality) and (not state or stated[item.id] == state)
    ]
    states = {item.id: stated[item.id] for item in found}
    counts = {
        "state": Counter(stated[item.id] for item in searched if not modality or item.modality == modality),
        "modality": Counter(item.modality for item in searched if not state or stated[item.id] == state),
    }
    after = next((name for name in states if states[name] == "todo"), None)
    after = after or next((name for name in states if states[name] == "draft"), None)
    items = [listed(item, marked) for item in found[offset : offset + limit]]
    return json_answer({"items": items, "total": len(found), "next": after, "counts": counts})


def report(request: Request) -> Response:
    """The page about the archive, as a file."""
    from dcmark.out.report.page import report as write_report

    with tempfile.TemporaryDirectory(prefix="dcmark-") as folder:
        place = Path(folder) / "report.html"
        write_report(service_of(request).archive_now(), place)
        return attachment(place.read_bytes(), "report.html", "text/html; charset=utf-8")


def attachment(data: bytes, name: str, kind: str = "application/octet-stream") -> Response:
    """A file that is saved and never shown."""
    plain = "".join(c if c.isascii() and (c.isalnum() or c in "._-") else "_" for c in name)
    disposition = f"attachment; filename=\"{plain}\"; filename*=UTF-8''{quote(name, safe='')}"
    return Response(data, media_type=kind, headers={"Content-Disposition": disposition})


# Stacks ---------------------------------------------------------------------------------------------------------------


def stack(request: Request) -> Response:
    """What a stack is: size, scale, place, windows, slices."""
    found = service_of(request).board.stack(request.path_params["id"])
    return json_answer(found.info)


def frame(request: Request) -> Response:
    """One frame as packed pixels, or as its HTJ2K codestream where asked for."""
    found = service_of(request).board.stack(request.path_params["id"], pixels=True)
    k = whole_number(request.path_params["k"], "the slice", 0, len(found.frames) - 1)
    key = found.frames[k]
    coded = "image/jph" in request.headers.get("accept", "")
    tag = f'"{key.file}-{key.frame}{"-jph" if coded else ""}"'
    headers = {"ETag": tag, "Cache-Control": KEPT, "Vary": "Accept"}
    if tag in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=headers)
    if coded:
        data = found.codestream(k, HTJ2K)
        if data is not None:
            return Response(data, media_type="image/jph", headers=headers)
    pixels = found.pixels(k, k + 1)
    return _pixels(pixels, pixels.shape[1:], headers)


def frames(request: Request) -> Response:
    """Several frames in a row, one behind the other."""
    found = service_of(request).board.stack(request.path_params["id"], pixels=True)
    count = len(found.frames)
    first = whole_number(request.query_params.get("from", ""), "from", 0, count - 1)
    last = whole_number(request.query_params.get("to", ""), "to", first + 1, count)
    if (last - first) * found.frame_bytes > LIMITS.answer_bytes:
        raise HttpError(413, "limit", f"expected at most {LIMITS.answer_bytes // MIB} MiB of frames, found more")
    pixels = found.pixels(first, last)
    return _pixels(pixels, pixels.shape[1:], {"Cache-Control": KEPT})


def _pixels(pixels: Any, shape: tuple[int, ...], headers: Mapping[str, str]) -> Response:
    told = {"X-Dcmark-Dtype": pixels.dtype.name, "X-Dcmark-Shape": ",".join(map(str, shape)), **headers}
    return Response(pixels.tobytes(), media_type="application/octet-stream", headers=told)


def thumbnail(request: Request) -> Response:
    """A small picture of the middle frame."""
    found = service_of(request).board.stack(request.path_params["id"], pixels=True)
    return Response(found.thumbnail, media_type="image/jpeg", headers={"Cache-Control": KEPT})


def proxy(request: Request) -> Response:
    """The stack reduced to 8 bits and a few voxels, for the view in 3-D."""
    found = service_of(request).board.stack(request.path_params["id"], pixels=True)
    most = whole_number(request.query_params.get("max", "192"), "max", 16, LIMITS.proxy_side)
    pixels, affine = found.proxy(most)
    headers = {"X-Dcmark-Affine": json.dumps(affine), "Cache-Control": KEPT}
    return _pixels(pixels, pixels.shape, headers)


def elements(request: Request) -> Response:
    """The header of the file of a slice, as text."""
    found = service_of(request).board.stack(request.path_params["id"])
    k = whole_number(request.query_params.get("frame", "0"), "frame", 0, len(found.frames) - 1)
    return json_answer({"elements": tags.elements(found.dataset(k), LIMITS.elements)})


# Annotations ----------------------------------------------------------------------------------------------------------


def labels(request: Request) -> Response:
    """Label sets."""
    return json_answer({"sets": service_of(request).board.label_sets()})


async def keep_labels(request: Request) -> Response:
    """Add or replace a label set."""
    service, plain = service_of(request), await json_of(request)
    await in_thread(service.board.keep_labels, plain)
    service.news()
    return json_answer({"sets": await in_thread(service.board.label_sets)})


def marks(request: Request) -> Response:
    """Annotations of a stack."""
    author = request.query_params.get("author")
    return json_answer(service_of(request).board.annotations(request.path_params["id"], author))


async def act(request: Request) -> Response:
    """Store what was done; answered when it is stored."""
    service, plain = service_of(request), await json_of(request)
    found = await in_thread(service.board.act, request.path_params["id"], plain)
    service.news()
    return json_answer(found, 201)


def review(request: Request) -> Response:
    """Where readers disagree."""
    label = request.query_params.get("label", "")
    return json_answer(service_of(request).board.disagreement(request.path_params["id"], label))


async def events(request: Request) -> Response:
    """What is new, as it happens, or the next that is new."""
    service = service_of(request)
    if "text/event-stream" in request.headers.get("accept", ""):
        return StreamingResponse(_stream(request, service), media_type="text/event-stream")
    after = request.query_params.get("after") or None
    await in_thread(service.board.journal.refresh)
    if after == service.board.journal.head and not service.closing:
        await service.wait(LIMITS.seconds_waiting)
    return json_answer(await in_thread(service.board.changed_after, after))


async def _stream(request: Request, service: Service) -> AsyncIterator[bytes]:
    head, told = service.board.journal.head, service.ingesting
    yield _event(None, {"head": head, "stacks": []})
    yield _event("ingest", None if told is None else told.as_dict())
    while not service.closing:
        await service.wait(15.0)
        if await request.is_disconnected():
            return
        silent = True
        if service.ingesting != told:
            told, silent = service.ingesting, False
            yield _event("ingest", None if told is None else told.as_dict())
        if service.board.journal.head != head:
            news = await in_thread(service.board.changed_after, head)
            head, silent = news["head"], False
            yield _event(None, news)
        if silent:
            yield b": still here\n\n"


def _event(name: str | None, data: Any) -> bytes:
    return f"{f'event: {name}' + chr(10) if name else ''}data: {json.dumps(data)}\n\n".encode()


# Exchange, assist, tickets --------------------------------------------------------------------------------------------


def export(request: Request) -> Response:
    """The annotations of a stack in a format, as a file or a zip of files."""
    from dcmark.web.exchange import exported

    service, format_ = service_of(request), request.query_params.get("format", "")
    if format_ not in format_names():
        raise UsageError(f"expected a format of {', '.join(format_names())}, found another")
    name, data = exported(service, request.path_params["id"], format_)
    return attachment(data, name)


async def import_(request: Request) -> Response:
    """Add the annotations of a file that is sent."""
    from dcmark.web.exchange import imported

    service, format_ = service_of(request), request.query_params.get("format", "")
    if format_ not in format_names():
        raise UsageError(f"expected a format of {', '.join(format_names())}, found another")
    with tempfile.TemporaryDirectory(prefix="dcmark-") as folder:
        place = Path(folder) / "upload"
        await body_to(request, place, LIMITS.import_bytes)
        added, findings = await in_thread(imported, service, place, format_)
    service.news()
    return json_answer({"added": added, "findings": [_found(one) for one in findings]}, 201)


def _found(finding: Finding) -> dict[str, Any]:
    return finding.as_dict()


def assists(request: Request) -> Response:
    """Names of the assistants there are."""
    del request
    return json_answer({"names": plugins.names(assist.GROUP)})


async def assisted(request: Request) -> Response:
    """A mask that an assistant proposes."""
    service, plain = service_of(request), await json_of(request, 16 * MIB)
    name = request.path_params["name"]
    if name not in plugins.names(assist.GROUP):
        raise HttpError(404, "gone", "expected the name of an assistant, found another")
    found = await in_thread(service.board.stack, request.path_params["id"])
    if found.colour:
        raise UnsupportedError("expected a stack of grey frames, found colours")
    return json_answer(await in_thread(assist.proposed, name, found, plain.get("prompts")))


def ticket(request: Request) -> Response:
    """A link for one more browser, good for one visit."""
    service = service_of(request)
    return json_answer({"url": service.link(service.session.ticket())}, 201)


ROUTES = [
    Route("/api/archive", archive),
    Route("/api/worklist", worklist),
    Route("/api/report", report),
    Route("/api/labels", labels),
    Route("/api/labels", keep_labels, methods=["PUT"]),
    Route("/api/assist", assists),
    Route("/api/events", events),
    Route("/api/tickets", ticket, methods=["POST"]),
    Route("/api/import", import_, methods=["POST"]),
    Route("/api/review/{id}", review),
    Route("/api/stacks/{id}", stack),
    Route("/api/stacks/{id}/frames", frames),
    Route("/api/stacks/{id}/frames/{k}", frame),
    Route("/api/stacks/{id}/thumbnail.jpg", thumbnail),
    Route("/api/stacks/{id}/proxy", proxy),
    Route("/api/stacks/{id}/tags", elements),
    Route("/api/stacks/{id}/annotations", marks),
    Route("/api/stacks/{id}/events", act, methods=["POST"]),
    Route("/api/stacks/{id}/assist/{name}", assisted, methods=["POST"]),
    Route("/api/stacks/{id}/export", export),
]
