"""What the tests of the server use: requests without a network, and a server in a process of its own."""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import re
import signal
import subprocess
import sys
import threading
import uuid
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from dcmark.web.app import create_app
from dcmark.web.security import hosts_of
from dcmark.web.service import Service

PORT = 8337
HOST = f"127.0.0.1:{PORT}"
ORIGIN = f"http://{HOST}"
HOSTILE = "<script>alert(1)</script>^\"'><img src=x onerror=alert(2)>"


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    def json(self):
        return json.loads(self.body)

    @property
    def code(self) -> str:
        return self.json()["code"]


class Client:
    """A browser that is logged in, talking to the application without a network.

    Every header can be left out (None) or replaced, as an attacker would.
    """

    def __init__(self, path: Path, **options) -> None:
        self.service = Service(path, **{"author": "Ada", **options})
        self.service.port = PORT
        self.app = create_app(self.service, hosts_of("127.0.0.1", PORT))

    @property
    def routes(self):
        return self.app.app.app.routes

    def ask(self, method: str, path: str, body: bytes | dict | None = None, **headers: str | None) -> Answer:
        own = {
            "host": HOST,
            "cookie": f"{self.app.cookie}={self.service.session.token}",
            "origin": None if method in ("GET", "HEAD") else ORIGIN,
            "x-dcmark": None if method in ("GET", "HEAD") else "1",
        }
        own |= {name.replace("_", "-"): value for name, value in headers.items()}
        data = json.dumps(body).encode() if isinstance(body, dict) else body or b""
        own.setdefault("content-length", str(len(data)))
        split = urlsplit(path)
        scope = {
            "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": method, "scheme": "http",
            "path": split.path, "raw_path": split.path.encode(), "query_string": split.query.encode(),
            "root_path": "", "client": ("127.0.0.1", 5), "server": ("127.0.0.1", PORT),
            "headers": [(k.encode(), v.encode("latin-1")) for k, v in own.items() if v is not None],
        }  # fmt: skip
        return asyncio.run(self._ask(scope, data))

    async def _ask(self, scope, data: bytes) -> Answer:
        pieces = [data[i : i + 1000] for i in range(0, len(data), 1000)] or [b""]
        ended = asyncio.Event()
        answer = Answer(0, {}, b"")

        async def receive():
            if pieces:
                return {"type": "http.request", "body": pieces.pop(0), "more_body": bool(pieces)}
            await ended.wait()
            return {"type": "http.disconnect"}

        async def send(message) -> None:
            if message["type"] == "http.response.start":
                answer.status = message["status"]
                for name, value in message["headers"]:
                    answer.headers[name.decode()] = value.decode("latin-1")
            else:
                answer.body += message.get("body", b"")
                if not message.get("more_body"):
                    ended.set()

        await self.app(scope, receive, send)
        return answer

    def get(self, path: str, **headers: str | None) -> Answer:
        return self.ask("GET", path, **headers)

    def post(self, path: str, body: bytes | dict | None = None, **headers: str | None) -> Answer:
        return self.ask("POST", path, body, **headers)

    def stack(self, **wanted) -> dict:
        """The first item of the list of work like this."""
        items = self.get("/api/worklist").json()["items"]
        return next(item for item in items if all(item[name] == value for name, value in wanted.items()))

    def act(self, stack: str, *actions: dict, based_on: str | None = None, client: str = "", **more) -> Answer:
        body = {"client": client or str(uuid.uuid4()), "based_on": based_on, "actions": list(actions), **more}
        return self.post(f"/api/stacks/{stack}/events", body)


def mask(k: int, *runs: int, name: str = "liver", **more) -> dict:
    """An action that adds a mask on one slice."""
    label = {"name": name, "color": "#cc3311", "code": {"value": "10200004", "scheme": "SCT", "meaning": "Liver"}}
    return {
        "type": "add",
        "annotation": {"kind": "mask", "label": label, "mask": {"slices": [{"k": k, "runs": [*runs]}]}, **more},
    }


class Running:
    """A server in a process of its own."""

    def __init__(self, *arguments: str | Path) -> None:
        script = "import sys; from dcmark.cli import run; sys.exit(run(sys.argv[1:]))"
        self.process = subprocess.Popen(
            [sys.executable, "-c", script, *map(str, arguments)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONWARNINGS": ""},
        )
        self.said, self.logged = [], []
        self.link = ""
        while not self.link:
            line = self.process.stdout.readline()
            assert line, f"no link: {self.said} {self.process.stderr.read()}"
            self.said.append(line)
            found = re.search(r"https?://\S+/\?token=[0-9a-f]+", line)
            self.link = found.group() if found else ""
        self.origin, _, self.ticket = self.link.partition("/?token=")
        self.readers = [
            threading.Thread(target=lambda s=stream, k=kept: k.extend(s), daemon=True)
            for stream, kept in ((self.process.stdout, self.said), (self.process.stderr, self.logged))
        ]
        for reader in self.readers:
            reader.start()
        status, headers, _ = self.ask("GET", f"/?token={self.ticket}")
        assert status == 303
        self.cookie = headers["set-cookie"].partition(";")[0]

    def connect(self, timeout: float = 60) -> http.client.HTTPConnection:
        return http.client.HTTPConnection(self.origin.partition("//")[2], timeout=timeout)

    def headers(self) -> dict[str, str]:
        return {"Cookie": getattr(self, "cookie", ""), "Origin": self.origin, "X-Dcmark": "1"}

    def ask(self, method: str, path: str, body: dict | None = None, connection=None):
        own = connection or self.connect()
        data = None if body is None else json.dumps(body)
        own.request(method, path, data, self.headers())
        response = own.getresponse()
        content = response.read()
        headers = {name.lower(): value for name, value in response.getheaders()}
        if connection is None:
            own.close()
        return response.status, headers, content

    def json(self, path: str):
        status, _, content = self.ask("GET", path)
        assert status == 200, content
        return json.loads(content)

    def stop(self) -> None:
        """As Ctrl+C does."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
        self._end()

    def kill(self) -> None:
        """At once, without a chance to write anything."""
        self.process.kill()
        self._end()

    def _end(self) -> None:
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        for reader in self.readers:
            reader.join(10)
        self.process.stdout.close()
        self.process.stderr.close()
