"""Nobody gets in who should not, on no route; nothing that a file says becomes more than text."""

from __future__ import annotations

import json
import logging
import re

import pytest
from web_tools import HOST, HOSTILE, ORIGIN, Client

from dcmark.cli import run
from dcmark.errors import UsageError
from dcmark.web.security import LOG, PAGE_POLICY, hosts_of, token_of
from dcmark.web.serve import Listening

FILLED = {
    "id": "0123456789abcdef", "k": "0", "name": "random-walker", "study": "1.2.3", "series": "1.2.3.4",
    "instance": "1.2.3.4.5", "frames": "1", "path": "7FE00010", "path:path": "7FE00010",
}  # fmt: skip


def every_route(client: Client) -> list[tuple[str, str]]:
    """Method and an address of every route there is."""
    found = []
    for route in client.routes:
        address = re.sub(r"{([^}]+)}", lambda match: FILLED[match.group(1)], route.path)
        found += [(method, address) for method in sorted(route.methods - {"HEAD"})]
    return found


def test_the_walk_sees_every_part(reader):
    routes = every_route(reader)
    assert len(routes) > 40
    assert {method for method, _ in routes} == {"GET", "POST", "PUT"}
    for part in ("/", "/api/archive", "/api/import", "/dicom-web/studies", "/dicom-web/studies/1.2.3/metadata"):
        assert any(address == part for _, address in routes)


BAD_EVERYWHERE = {
    "another host": {"host": "evil.example"},
    "another host with our port": {"host": "evil.example:8337"},
    "another port": {"host": "127.0.0.1:1"},
    "a host that begins with ours": {"host": f"{HOST}.evil.example"},
    "no host": {"host": None},
    "no cookie": {"cookie": None},
    "a wrong token": {"cookie": "dcmark-8337=" + "0" * 64},
    "an empty token": {"cookie": "dcmark-8337="},
    "a cookie of another port": {"cookie": "dcmark-8338=TOKEN"},
    "a wrong bearer": {"cookie": None, "authorization": "Bearer " + "0" * 64},
    "another origin": {"origin": "http://evil.example"},
    "the origin of another port": {"origin": "http://127.0.0.1:81"},
    "the origin without a port": {"origin": "http://127.0.0.1"},
    "another scheme": {"origin": f"https://{HOST}"},
    "the null origin": {"origin": "null"},
    "a request of another site": {"sec_fetch_site": "cross-site"},
    "a request of the same site": {"sec_fetch_site": "same-site"},
}
BAD_WRITES = {
    "no header": {"x_dcmark": None},
    "another header": {"x_dcmark": "0"},
    "no origin": {"origin": None},
}


@pytest.mark.parametrize("what", BAD_EVERYWHERE)
def test_every_route_refuses(reader, what):
    bad = {k: v and v.replace("TOKEN", reader.service.session.token) for k, v in BAD_EVERYWHERE[what].items()}
    for method, address in every_route(reader):
        if "sec_fetch_site" in bad and address == "/":
            continue  # the page itself may be come to from a link
        answer = reader.ask(method, address, **bad)
        assert answer.status in (401, 403, 421), f"{method} {address} let in {what}"
        assert answer.code in ("host", "token", "origin")


@pytest.mark.parametrize("what", BAD_WRITES)
def test_every_route_that_writes_refuses(reader, what):
    writes = [(method, address) for method, address in every_route(reader) if method != "GET"]
    assert len(writes) >= 7
    for method, address in writes:
        assert reader.ask(method, address, b"{}", **BAD_WRITES[what]).status == 403, f"{method} {address}: {what}"


def test_every_route_lets_the_owner_in(reader):
    for method, address in every_route(reader):
        if address == "/api/events":
            continue  # waits for news
        answer = reader.ask(method, address, b"{}")
        assert answer.status not in (401, 403, 421, 500), f"{method} {address}: {answer.status} {answer.body[:200]!r}"
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["x-frame-options"] == "DENY"
        policy = answer.headers["content-security-policy"]
        assert "unsafe" not in policy
        assert "default-src 'none'" in policy
        assert "frame-ancestors 'none'" in policy


def test_other_methods_are_refused(reader):
    for method in ("TRACE", "OPTIONS", "CONNECT", "PATCH", "BREW"):
        for _, address in every_route(reader):
            assert reader.ask(method, address).status == 405


def test_read_only_refuses_every_write(made):
    client = Client(made, read_only=True)
    for method, address in every_route(client):
        answer = client.ask(method, address, b"{}") if address != "/api/events" else None
        if method != "GET":
            assert (answer.status, answer.code) == (403, "read-only")
    assert client.get("/api/archive").json()["read_only"] is True


def test_a_link_is_good_once(reader):
    ticket = reader.service.session.ticket()
    first = reader.get(f"/?token={ticket}", cookie=None)
    assert first.status == 303
    assert first.headers["location"] == "/"
    cookie = first.headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=strict" in cookie
    assert ticket not in cookie
    assert reader.get("/api/archive", cookie=cookie.partition(";")[0]).status == 200
    assert reader.get(f"/?token={ticket}", cookie=None).status == 401
    assert reader.get(f"/?token={'0' * 64}", cookie=None).status == 401
    assert reader.get(f"/?token={ticket}", cookie=None, host="evil.example").status == 421
    assert len(ticket) >= 32
    assert len(reader.service.session.token) >= 32


def test_programs_may_bring_the_token(client, ct):
    token = f"Bearer {client.service.session.token}"
    answer = client.ask("POST", "/api/tickets", cookie=None, origin=None, x_dcmark=None, authorization=token)
    assert answer.status == 201
    ticket = answer.json()["url"].partition("token=")[2]
    assert client.get(f"/?token={ticket}", cookie=None).status == 303


def test_a_token_file_is_made_once_and_for_its_owner(tmp_path):
    file = tmp_path / "token"
    token = token_of(file)
    assert re.fullmatch("[0-9a-f]{64}", token)
    assert token_of(file) == token
    assert file.stat().st_mode & 0o077 == 0 or not hasattr(__import__("os"), "getuid")
    file.write_text("short")
    with pytest.raises(UsageError, match="hexadecimal"):
        token_of(file)


def test_a_host_without_its_port_is_still_ours(reader):
    assert reader.get("/api/archive", host="127.0.0.1").status == 200
    assert reader.get("/api/archive", host="LOCALHOST:8337").status == 200
    assert reader.get("/api/archive", host="[::1]:8337").status == 200
    assert "evil" not in "".join(hosts_of("127.0.0.1", 1))


def test_hostile_text_stays_text(reader):
    """On every answer that holds it: JSON, never a page, and under a policy that runs nothing."""
    item = reader.stack(patient=HOSTILE)
    stack = f"/api/stacks/{item['id']}"
    seen = 0
    for address in (
        "/api/worklist", stack, f"{stack}/tags", "/dicom-web/studies", "/dicom-web/instances",
        f"/dicom-web/studies/{item['study']}/metadata",
    ):  # fmt: skip
        answer = reader.get(address)
        assert answer.status == 200
        assert answer.headers["content-type"] in ("application/json", "application/dicom+json")
        assert "script-src" not in answer.headers["content-security-policy"]
        seen += "<script>alert(1)" in json.dumps(answer.json())
    assert seen >= 4
    report = reader.get("/api/report")
    assert report.headers["content-disposition"].startswith("attachment")
    assert "sandbox" in report.headers["content-security-policy"]
    assert b"<script>alert(1)" not in report.body


def test_hostile_names_stay_in_their_header(reader):
    from dcmark.web.api import attachment

    answer = attachment(b"", '"; filename="x.html\r\nX-Evil: 1')
    disposition = answer.headers["content-disposition"]
    assert "\r" not in disposition
    assert "\n" not in disposition
    assert disposition.count('"') == 2


def test_no_path_of_a_request_is_opened(reader):
    for address in (
        "/../pyproject.toml",
        "/assets/../../app.py",
        "/%2e%2e/app.py",
        "/assets/..%2f..%2fapp.py",
        "/app.py",
    ):
        assert reader.get(address).status == 404
    for name in ("..%2f..%2fetc%2fpasswd", "../../etc/passwd", "%00", "a" * 5000):
        assert reader.get(f"/api/stacks/{name}").status == 404


def test_the_page_has_its_own_policy(reader):
    answer = reader.get("/")
    if answer.status == 503:
        pytest.skip("the files of the page are not built here")
    assert answer.headers["content-security-policy"] == PAGE_POLICY
    text = answer.body.decode()
    assert not re.search(r"<script(?![^>]*\bsrc=)", text), "inline script"
    assert not re.search(r"\son\w+=|style=", text), "inline handlers or styles"
    for source in re.findall(r'(?:src|href)="([^"]+)"', text):
        assert source.startswith("/"), source
        assert reader.get(source).status == 200


def test_the_log_says_nothing_about_patients(client, ct, caplog):
    LOG.propagate = True
    with caplog.at_level(logging.INFO, "dcmark.web"):
        client.get("/api/worklist?search=Quist")
        client.get(f"/api/stacks/{ct}")
        client.get("/dicom-web/studies?PatientID=QX-7411")
        client.get("/dicom-web/studies/1.2.3/metadata?x=Quist")
        client.get(f"/?token={client.service.session.ticket()}")
        client.act(ct, {"type": "add", "annotation": {"kind": "text", "label": {"name": "Quist"}, "text": "Imogen"}})
        client.get("/Quist/Imogen")
    assert len(caplog.records) >= 7
    for word in ("Quist", "Imogen", "QX-7411", ct, "1.2.3", client.service.session.token, "token"):
        assert word not in caplog.text
    assert "GET worklist 200" in caplog.text


def test_an_unexpected_error_tells_nothing(client, monkeypatch, caplog):
    LOG.propagate = True

    def broken(_):
        raise RuntimeError("Quist^Imogen")

    monkeypatch.setattr(client.service.catalogue, "now", lambda: broken(0))
    with caplog.at_level(logging.INFO, "dcmark.web"):
        answer = client.get("/api/worklist")
    assert (answer.status, answer.code) == (500, "internal")
    assert b"Quist" not in answer.body
    assert "Quist" not in caplog.text
    assert "RuntimeError" in caplog.text


def test_sizes_are_capped(client, ct, monkeypatch):
    from dcmark.web import limits

    assert client.post(f"/api/stacks/{ct}/events", b"{}", content_length=str(1 << 40)).status == 413
    assert client.post("/dicom-web/studies", b"x", content_length=str(1 << 50)).status in (413, 415)
    assert client.post(f"/api/stacks/{ct}/events", b"{}", content_encoding="gzip").status == 415
    assert client.post(f"/api/stacks/{ct}/events", b"[" * 100_000).status == 400
    assert client.post(f"/api/stacks/{ct}/events", b'{"a": NaN}').status == 400
    many = [{"type": "remove", "id": "0" * 32}] * (limits.LIMITS.actions + 1)
    assert client.act(ct, *many).status == 400
    undeclared = client.post("/api/import?format=coco", b"x" * 2000, content_length=None)
    assert undeclared.status == 422
    assert client.get(f"/api/stacks/{ct}/proxy?max=100000").status == 400


def test_beyond_this_computer_only_with_tls(tmp_path, capsys):
    with pytest.raises(UsageError, match="--allow-remote"):
        Listening("0.0.0.0").checked()
    with pytest.raises(UsageError, match="--tls-cert"):
        Listening("192.0.2.1", allow_remote=True).checked()
    with pytest.raises(UsageError, match="together"):
        Listening(certificate=tmp_path / "c").checked()
    with pytest.raises(UsageError, match="PEM"):
        Listening(certificate=tmp_path / "c", key=tmp_path / "k").checked()
    assert Listening("127.0.0.2").checked().scheme == "http"
    assert run(["serve", str(tmp_path), "--host", "0.0.0.0"]) == 2
    assert "sees and changes" in capsys.readouterr().err


def test_the_origin_matters_for_our_own_token_too(client):
    """A page of another site cannot write even where a browser would send the cookie."""
    answer = client.post("/api/tickets", origin="http://evil.example")
    assert (answer.status, answer.code) == (403, "origin")
    assert client.post("/api/tickets", origin=ORIGIN).status == 201
