"""Viewers of others in a browser: fetched from npm as they are shipped, and served beside DICOMweb by a small proxy.

None of their files is kept in this project: they lie in ``build/viewers`` of the checkout, which is ignored, or where
DCMARK_VIEWERS says.
"""

from __future__ import annotations

import http.client
import os
import shutil
import subprocess
import tarfile
import tempfile
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

PLACE = Path(os.environ.get("DCMARK_VIEWERS") or Path(__file__).parents[2] / "build" / "viewers")
PACKAGES = {"ohif": "@ohif/app@3.12.10", "niivue": "@niivue/niivue@0.69.0"}
OHIF_CONFIG = """window.config = {
  routerBasename: null, extensions: [], modes: [], customizationService: {}, showStudyList: true,
  maxNumberOfWebWorkers: 2, showWarningMessageForCrossOrigin: false, showCPUFallbackMessage: false,
  showLoadingIndicator: true, strictZSpacingForVolumeViewport: true, investigationalUseDialog: {option: "never"},
  maxNumRequests: {interaction: 100, thumbnail: 75, prefetch: 25}, defaultDataSourceName: "dcmark",
  dataSources: [{
    namespace: "@ohif/extension-default.dataSourcesModule.dicomweb", sourceName: "dcmark",
    configuration: {
      friendlyName: "dcmark", name: "dcmark", qidoRoot: "/dicom-web", wadoRoot: "/dicom-web",
      wadoUriRoot: "/dicom-web", qidoSupportsIncludeField: true, imageRendering: "wadors",
      thumbnailRendering: "wadors", enableStudyLazyLoad: true, supportsFuzzyMatching: false, supportsWildcard: true,
      bulkDataURI: {enabled: true},
    },
  }],
};
"""
KINDS = {
    ".css": "text/css", ".html": "text/html; charset=utf-8", ".ico": "image/x-icon", ".js": "text/javascript",
    ".json": "application/json", ".png": "image/png", ".svg": "image/svg+xml", ".wasm": "application/wasm",
    ".woff2": "font/woff2",
}  # fmt: skip
CHROMIUM = ["--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--disable-background-networking"]
"""WebGL on the processor: there is no GPU where tests run."""


def package(name: str, fetch: bool | None = None) -> Path | None:
    """Folder of a viewer as npm has it; None where it is not there and is not, or cannot be, fetched.

    Args:
        name: of ``PACKAGES``.
        fetch: ask npm for it; None: where DCMARK_FETCH says so (``make test-interop`` does).
    """
    wanted = PACKAGES[name]
    folder = PLACE / wanted.replace("/", "-").lstrip("@")
    npm = shutil.which("npm")
    if folder.is_dir():
        return folder / "package"
    if npm is None or not (os.environ.get("DCMARK_FETCH") if fetch is None else fetch):
        return None
    PLACE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=PLACE) as scratch:
        command = [npm, "pack", "--silent", "--pack-destination", scratch, wanted]
        if subprocess.run(command, cwd=scratch, stdout=subprocess.DEVNULL, check=False).returncode:
            return None
        (packed,) = Path(scratch).glob("*.tgz")
        with tarfile.open(packed) as archive:
            archive.extractall(Path(scratch) / "whole", filter="data")
        (Path(scratch) / "whole").rename(folder)
    return folder / "package"


class Proxy:
    """Files of a viewer and, on the same origin, DICOMweb of a server that is told the token.

    Args:
        static: folder of the files; an address without a file gives its ``index.html``.
        base: DICOMweb of the server, e.g. ``http://127.0.0.1:8337/dicom-web``; empty: none.
        token: for it.
        pages: files that are given instead or besides, by address.
    """

    def __init__(self, static: Path, base: str = "", token: str = "", pages: dict[str, bytes | Path] | None = None):
        self.asked: list[tuple[str, int]] = []
        self.studies: list[dict[str, Any]] = []
        self.failed: list[str] = []
        self.static, self.target, self.token = static.resolve(), urlsplit(base), token
        self.pages = pages or {}
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                outer.answer(self)

            def log_message(self, *_: Any) -> None:
                pass

        class Server(ThreadingHTTPServer):
            def handle_error(self, *_: Any) -> None:  # a browser that closes a connection is no news
                pass

        self.server = Server(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.origin = f"http://127.0.0.1:{self.server.server_address[1]}"
        self.thread = threading.Thread(target=self.server.serve_forever, daemon=True)
        self.thread.start()

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        """One request."""
        path = urlsplit(request.path).path
        try:
            if self.target.netloc and path.startswith("/dicom-web/"):
                status, kind, body = self.forwarded(request)
            else:
                status, kind, body = self.file(path)
            self.asked.append((request.path, status))
            request.send_response(status)
            for name, value in {
                "Content-Type": kind, "Content-Length": str(len(body)), "Cache-Control": "no-store",
                "Cross-Origin-Opener-Policy": "same-origin", "Cross-Origin-Embedder-Policy": "require-corp",
            }.items():  # fmt: skip
                request.send_header(name, value)
            request.end_headers()
            request.wfile.write(body)
        except (ConnectionError, TimeoutError):
            request.close_connection = True  # the browser went on to another page

    def file(self, path: str) -> tuple[int, str, bytes]:
        """A file of the viewer."""
        kind = KINDS.get(Path(path).suffix, "application/octet-stream")
        if path in self.pages:
            given = self.pages[path]
            data = given if isinstance(given, bytes) else given.read_bytes()
            return 200, kind if Path(path).suffix else KINDS[".html"], data
        place = (self.static / path.lstrip("/")).resolve()
        if place.is_relative_to(self.static) and place.is_file():
            return 200, kind, place.read_bytes()
        if Path(path).suffix in KINDS or not (self.static / "index.html").exists():
            return 404, "text/plain", b""
        return 200, KINDS[".html"], (self.static / "index.html").read_bytes()

    def forwarded(self, request: BaseHTTPRequestHandler) -> tuple[int, str, bytes]:
        """What the server says; addresses in it lead through here."""
        connection = http.client.HTTPConnection(self.target.netloc, timeout=120)
        headers = {"Authorization": f"Bearer {self.token}", "Accept": request.headers.get("Accept", "*/*")}
        connection.request("GET", request.path, headers=headers)
        answer = connection.getresponse()
        body, kind = answer.read(), answer.getheader("Content-Type") or ""
        connection.close()
        if "json" in kind:
            body = body.replace(f"http://{self.target.netloc}".encode(), self.origin.encode())
        if answer.status >= 400:
            self.failed.append(f"{answer.status} {request.path} {headers['Accept']} {body[:200]!r}")
        return answer.status, kind, body

    def end(self) -> None:
        """Serve no more."""
        self.server.shutdown()
        self.server.server_close()
        self.thread.join(10)


def ohif(folder: Path, base: str, token: str) -> Proxy:
    """OHIF, unmodified, over a server."""
    return Proxy(folder / "dist", base, token, {"/app-config.js": OHIF_CONFIG.encode()})
