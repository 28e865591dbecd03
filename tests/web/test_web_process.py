"""A server in a process of its own: many clients, sudden death, news, and a folder that is still being taken in."""

from __future__ import annotations

import json
import threading
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from web_tools import Running, mask

import dcmark
from dcmark.annotate.log import Log, verify
from dcmark.testing.synthetic import ct_series

CLIENTS = 16


@pytest.fixture
def running(path: Path) -> Iterator[Running]:
    server = Running("serve", path, "--port", "0", "--author", "Ada")
    yield server
    server.stop()


def ct_of(server: Running) -> str:
    items = server.json("/api/worklist")["items"]
    return next(item["id"] for item in items if item["patient"] == "Quist^Imogen")


def test_sixteen_clients_and_a_sudden_death(path, running):
    """Whatever was acknowledged is there; what was not can be sent again and is there once."""
    stack = ct_of(running)
    told: list[set[str]] = [set() for _ in range(CLIENTS)]
    open_requests: list[tuple[str, dict]] = []
    enough = threading.Event()

    def draw(number: int) -> None:
        connection = running.connect()
        for stroke in range(1000):
            name, client = uuid.uuid4().hex, str(uuid.uuid4())
            action = mask(stroke % 6, 10 * number, 1 + stroke, id=name)
            body = {"client": client, "based_on": None, "actions": [action], "author": f"reader {number}"}
            try:
                status, _, _ = running.ask("POST", f"/api/stacks/{stack}/events", body, connection)
            except OSError:
                open_requests.append((name, body))
                return
            except Exception as error:  # http.client words a closed connection in several ways
                assert type(error).__module__ == "http.client", error
                open_requests.append((name, body))
                return
            assert status == 201
            told[number].add(name)
            if sum(map(len, told)) >= 6 * CLIENTS and all(told):
                enough.set()

    with ThreadPoolExecutor(CLIENTS) as pool:
        jobs = [pool.submit(draw, number) for number in range(CLIENTS)]
        assert enough.wait(90)
        running.kill()
        for job in jobs:
            job.result(60)
    acknowledged = set().union(*told)
    assert len(acknowledged) >= 6 * CLIENTS
    assert len(open_requests) == CLIENTS
    archive = dcmark.open_archive(path)
    assert [one for one in verify(archive) if one.level == "error"] == []
    state = Log(archive).state()
    assert acknowledged <= set(state)
    for name in acknowledged:
        assert int(state[name].mask[0].array().sum()) >= 1
    again = Running("serve", path, "--port", "0")
    try:
        for _, body in open_requests:
            assert again.ask("POST", f"/api/stacks/{stack}/events", body)[0] == 201
    finally:
        again.stop()
    names = [one.annotation for one in Log(dcmark.open_archive(path)).events()]
    assert len(names) == len(set(names)), "one request, one event"
    assert acknowledged | {name for name, _ in open_requests} == set(names)
    assert verify(dcmark.open_archive(path)) == []


def test_an_orderly_end(path):
    server = Running("serve", path, "--port", "0")
    stack = ct_of(server)
    body = {"client": str(uuid.uuid4()), "actions": [mask(0, 0, 5)]}
    assert server.ask("POST", f"/api/stacks/{stack}/events", body)[0] == 201
    waiting = threading.Thread(target=lambda: server.ask("GET", "/api/events?after=" + head), daemon=True)
    head = server.json(f"/api/stacks/{stack}/annotations")["head"]
    waiting.start()
    time.sleep(0.2)
    began = time.monotonic()
    server.stop()
    assert time.monotonic() - began < 15, "who waits for news does not hold up the end"
    assert server.process.returncode == 0
    assert any("stopped" in line for line in server.said)
    log = "".join(server.logged)
    assert "POST act 201" in log
    for word in ("Quist", stack, "token", head):
        assert word not in log
    assert Log(dcmark.open_archive(path)).state()


def events_of(server: Running, found: list[tuple[str, object]]) -> threading.Thread:
    """Reads the stream of news into a list."""
    connection = server.connect()
    connection.request("GET", "/api/events", headers={**server.headers(), "Accept": "text/event-stream"})
    response = connection.getresponse()
    assert response.getheader("Content-Type").startswith("text/event-stream")

    def read() -> None:
        kind = "message"
        try:
            for line in response:
                text = line.decode().strip()
                if text.startswith("event: "):
                    kind = text[7:]
                elif text.startswith("data: "):
                    found.append((kind, json.loads(text[6:])))
                elif not text:
                    kind = "message"
        except (OSError, ValueError):
            pass
        finally:
            response.close()
            connection.close()

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    return thread


def until(condition, seconds: float = 30.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come about"
        time.sleep(0.02)


def test_two_browsers_see_each_other(path, running):
    stack = ct_of(running)
    news: list = []
    thread = events_of(running, news)
    until(lambda: len(news) >= 2)
    assert news[0] == ("message", {"head": None, "stacks": []})
    assert news[1] == ("ingest", None)
    body = {"client": str(uuid.uuid4()), "actions": [mask(0, 0, 5)]}
    _, _, content = running.ask("POST", f"/api/stacks/{stack}/events", body)
    head = json.loads(content)["head"]
    until(lambda: ("message", {"head": head, "stacks": [stack]}) in news)
    # Another process, e.g. the command line.
    log = Log(dcmark.open_archive(path), "Bob")
    log.set_status(next(iter(log.state())), "reviewed")
    until(lambda: len([one for one in news if one[0] == "message"]) >= 3)
    assert news[-1][1]["stacks"] == [stack]
    assert running.json(f"/api/stacks/{stack}/annotations")["annotations"][0]["status"] == "reviewed"
    running.stop()
    thread.join(10)
    assert not thread.is_alive()


def test_waiting_for_the_next_change(running):
    stack = ct_of(running)
    body = {"client": str(uuid.uuid4()), "actions": [mask(0, 0, 5)]}
    _, _, content = running.ask("POST", f"/api/stacks/{stack}/events", body)
    head = json.loads(content)["head"]
    answers: list = []
    waiting = threading.Thread(target=lambda: answers.append(running.json(f"/api/events?after={head}")))
    waiting.start()
    time.sleep(0.3)
    assert not answers
    body = {"client": str(uuid.uuid4()), "actions": [mask(1, 0, 5)]}
    running.ask("POST", f"/api/stacks/{stack}/events", body)
    waiting.join(20)
    assert answers[0]["stacks"] == [stack]
    assert answers[0]["head"] != head
    assert running.json("/api/events?after=")["stacks"] == [stack]


def test_a_folder_is_shown_while_it_is_taken_in(tmp_path):
    """The link comes first; the page is told how far it is; in the end everything is there."""
    hu = np.random.default_rng(0).integers(-500, 500, (150, 192, 192))
    ct_series(tmp_path / "scans" / "ct", hu)
    server = Running("annotate", tmp_path / "scans", "--no-browser")
    try:
        news: list = []
        events_of(server, news)
        first = server.json("/api/archive")
        assert first["name"] == "scans.dcmark"
        assert not any("new files" in line for line in server.said[: server.said.index(server_line(server)) + 1])
        until(lambda: server.json("/api/archive")["ingest"] is None, 120)
        until(lambda: any(kind == "ingest" and data is None for kind, data in news))
        steps = [data for kind, data in news if kind == "ingest" and data is not None]
        assert steps, "progress was told"
        assert all(step["done"] <= step["total"] or step["total"] == 0 for step in steps)
        until(lambda: server.json("/api/archive")["counts"]["files"] == 150)
        (item,) = server.json("/api/worklist")["items"]
        assert (item["kind"], item["frames"]) == ("volume", 150)
        assert server.ask("GET", f"/api/stacks/{item['id']}/frames/0")[0] == 200
        assert any("150 new files" in line for line in server.said)
    finally:
        server.stop()
    assert dcmark.verify(dcmark.open_archive(tmp_path / "scans.dcmark")).whole
    again = Running("annotate", tmp_path / "scans", "--no-browser")
    try:
        until(lambda: any("0 new files, 150 duplicates" in line or "150 unchanged" in line for line in again.said), 60)
    finally:
        again.stop()


def server_line(server: Running) -> str:
    return next(line for line in server.said if server.ticket in line)


def test_read_only_takes_no_folder(tmp_path, capsys):
    from dcmark.cli import run

    (tmp_path / "scans").mkdir()
    assert run(["annotate", str(tmp_path / "scans"), "--read-only"]) == 2
    assert run(["annotate", str(tmp_path / "nothing")]) == 1
    assert not (tmp_path / "scans.dcmark").exists()
    assert "--read-only" in capsys.readouterr().err


def test_the_port_is_taken(path, running, capsys):
    from dcmark.cli import run

    port = running.origin.rpartition(":")[2]
    assert run(["serve", str(path), "--port", port]) == 2
    assert "--port" in capsys.readouterr().err
