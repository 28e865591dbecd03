"""Whatever is sent to it, the listener goes on serving, and holds no more than before."""

from __future__ import annotations

import random
import socket
import struct
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import arrival_tools as tools
import pytest

pytestmark = pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")  # of pynetdicom, as a sender
ANSWERS: list[bytes] = []
CT, EXPLICIT, ECHO = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.1"


def item(kind: int, content: bytes) -> bytes:
    return struct.pack(">BxH", kind, len(content)) + content


def associate(called: bytes = b"DCMARK", calling: bytes = b"EVIL", contexts: int = 1, sop_class: str = CT) -> bytes:
    """An A-ASSOCIATE-RQ (PS3.8 table 9-11)."""
    syntax = item(0x30, sop_class.encode()) + item(0x40, EXPLICIT.encode())
    asked = b"".join(item(0x20, bytes([2 * n + 1, 0, 0, 0]) + syntax) for n in range(contexts))
    user = item(0x50, item(0x51, struct.pack(">I", 16384)) + item(0x52, b"1.2.3"))
    body = struct.pack(">H2x16s16s32x", 1, called.ljust(16), calling.ljust(16))
    body += item(0x10, b"1.2.840.10008.3.1.1.1") + asked + user
    return struct.pack(">BxI", 1, len(body)) + body


def value(context: int, control: int, data: bytes) -> bytes:
    """A P-DATA-TF with one presentation data value."""
    return struct.pack(">BxIIBB", 4, len(data) + 6, len(data) + 2, context, control) + data


def command(uid: str = "1.2.3.4", field: int = 1, data: int = 1, sop_class: str = CT) -> bytes:
    """A command set, C-STORE-RQ unless told otherwise (PS3.7 table 9.3-1)."""

    def element(number: int, content: bytes) -> bytes:
        content += b"\0" * (len(content) % 2)
        return struct.pack("<HHI", 0, number, len(content)) + content

    body = element(0x0002, sop_class.encode()) + element(0x0100, struct.pack("<H", field))
    body += element(0x0110, b"\1\0") + element(0x0700, b"\0\0") + element(0x0800, struct.pack("<H", data))
    body += element(0x1000, uid.encode())
    return element(0, struct.pack("<I", len(body))) + body


def _until_closed(connection: socket.socket, seconds: float = 3.0) -> bytes:
    """What comes until the other side closes, or goes on waiting."""
    connection.settimeout(seconds)
    got = b""
    with suppress(OSError):
        while piece := connection.recv(65536):
            got += piece
    return got


def _established(connection: socket.socket, **asked) -> None:
    connection.sendall(associate(**asked))
    connection.settimeout(10)
    answer = connection.recv(65536)[:1]
    assert answer in (b"\2", b"\3")  # accepted, or there are too many
    ANSWERS.append(answer)


Attack = Callable[[socket.socket, random.Random], None]


def noise(connection: socket.socket, chance: random.Random) -> None:
    connection.sendall(chance.randbytes(chance.randrange(1, 5000)))


def cut_request(connection: socket.socket, chance: random.Random) -> None:
    whole = associate()
    connection.sendall(whole[: chance.randrange(len(whole))])


def flipped_request(connection: socket.socket, chance: random.Random) -> None:
    whole = bytearray(associate(contexts=chance.randrange(1, 4)))
    for _ in range(chance.randrange(1, 6)):
        whole[chance.randrange(6, len(whole))] = chance.randrange(256)
    connection.sendall(whole)
    connection.shutdown(socket.SHUT_WR)
    _until_closed(connection)


def huge_length(connection: socket.socket, chance: random.Random) -> None:
    connection.sendall(struct.pack(">BxI", chance.randrange(1, 8), 0xFFFFFFFF) + chance.randbytes(3000))
    _until_closed(connection)


def huge_data(connection: socket.socket, chance: random.Random) -> None:
    _established(connection)
    connection.sendall(struct.pack(">BxI", 4, 0x7FFFFFFF) + bytes(200_000))
    _until_closed(connection)


def wrong_titles(connection: socket.socket, chance: random.Random) -> None:
    connection.sendall(associate(called=chance.choice([b"OTHER", b"", b"\xff\xfe", b"../../x"])))
    _until_closed(connection, 0.2)


def many_contexts(connection: socket.socket, chance: random.Random) -> None:
    connection.sendall(associate(contexts=128, sop_class=chance.choice([CT, "../../x", "1" * 64, "9" * 200])))
    connection.settimeout(5)
    connection.recv(10)


def silent(connection: socket.socket, chance: random.Random) -> None:
    time.sleep(chance.uniform(0, 0.05))


def reset(connection: socket.socket, chance: random.Random) -> None:
    connection.sendall(associate()[: chance.randrange(300)])
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def garbage_command(connection: socket.socket, chance: random.Random) -> None:
    _established(connection)
    connection.sendall(value(1, 3, chance.randbytes(chance.randrange(200))))
    _until_closed(connection)


def flipped_command(connection: socket.socket, chance: random.Random) -> None:
    _established(connection)
    whole = bytearray(command())
    for _ in range(chance.randrange(1, 6)):
        whole[chance.randrange(len(whole))] = chance.randrange(256)
    connection.sendall(value(1, 3, bytes(whole)) + value(1, 2, chance.randbytes(100)))
    connection.shutdown(socket.SHUT_WR)
    _until_closed(connection)


def endless_command(connection: socket.socket, chance: random.Random) -> None:
    _established(connection)
    for _ in range(30):
        connection.sendall(value(1, 1, bytes(10_000)))
    _until_closed(connection)


def data_without_command(connection: socket.socket, chance: random.Random) -> None:
    _established(connection)
    connection.sendall(value(chance.choice([1, 3, 255]), 2, b"data"))
    _until_closed(connection)


def lying_values(connection: socket.socket, chance: random.Random) -> None:
    _established(connection)
    connection.sendall(struct.pack(">BxIIBB", 4, 20, chance.choice([0, 1, 19, 0xFFFFFFFF]), 1, 3) + bytes(14))
    _until_closed(connection)


def lying_data(connection: socket.socket, chance: random.Random) -> None:
    """Elements that go on for gigabytes, in an object that is complete to the protocol."""
    _established(connection)
    element = struct.pack("<HH2s2xI", 0x7FE0, 0x10, b"OW", 0xFFFFFFF0) + bytes(50)
    connection.sendall(value(1, 3, command()) + value(1, 2, element))
    connection.settimeout(10)
    answer = connection.recv(65536)
    assert answer[:1] in (b"\4", b"\7", b""), answer[:20]


def left_in_the_middle(connection: socket.socket, chance: random.Random) -> None:
    _established(connection)
    connection.sendall(value(1, 3, command()) + value(1, 0, bytes(chance.randrange(10_000))))


def climbing_uid(connection: socket.socket, chance: random.Random) -> None:
    _established(connection)
    uid = chance.choice(["../../../x", "/etc/passwd", "..", "C:\\x", "1\0.2", "a" * 65])
    connection.sendall(value(1, 3, command(uid)) + value(1, 2, b"x" * 20))
    connection.settimeout(10)
    connection.recv(65536)


def flood(connection: socket.socket, chance: random.Random) -> None:
    """Requests without waiting for an answer."""
    _established(connection)
    one = value(1, 3, command()) + value(1, 2, bytes(1000))
    connection.sendall(one * 50)
    _until_closed(connection)


def other_services(connection: socket.socket, chance: random.Random) -> None:
    _established(connection)
    field = chance.choice([0x20, 0x21, 0x10, 0x100, 0x8001, 0x8030, 0xFFF, 0x150])
    connection.sendall(value(1, 3, command(field=field)))
    _until_closed(connection)


def out_of_order(connection: socket.socket, chance: random.Random) -> None:
    release, abort = struct.pack(">BxI4x", 5, 4), struct.pack(">BxI4x", 7, 4)
    connection.sendall(b"".join(chance.choice([release, abort, associate(), value(1, 3, command())]) for _ in range(6)))
    connection.shutdown(socket.SHUT_WR)
    _until_closed(connection)


ATTACKS: list[Attack] = [
    noise, cut_request, flipped_request, huge_length, huge_data, wrong_titles, many_contexts, silent, reset,
    garbage_command, flipped_command, endless_command, data_without_command, lying_values, lying_data,
    left_in_the_middle, climbing_uid, flood, other_services, out_of_order,
]  # fmt: skip


def _attack(port: int, count: int, seed: int) -> None:
    chance = random.Random(seed)
    for number in range(count):
        attack = ATTACKS[(number + seed) % len(ATTACKS)]
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
            attack(connection, chance)


def _attack_at_once(port: int, count: int, at_once: int = 4) -> None:
    failed: list[BaseException] = []

    def run(seed: int) -> None:
        try:
            _attack(port, count // at_once, seed)
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=run, args=(seed,)) for seed in range(at_once)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed, failed


def _calm(server: tools.Listening) -> None:
    """Wait until what the attacks left open is let go of, ten seconds after the last of them."""
    state, since, end = (0, 0), time.monotonic(), time.monotonic() + 60
    while time.monotonic() - since < 1 or (server.threads > 40 and time.monotonic() < end):
        now = server.threads, server.descriptors
        if now != state:
            state, since = now, time.monotonic()
        time.sleep(0.05)


def _withstand(folder: Path, warm: int, count: int) -> None:
    files = [*tools.objects(folder / "sent", 4).values()]
    server = tools.Listening(folder / "a.dcmark", "--allow", "EVIL", "--allow", "ME")
    assert set(tools.send(server.port, files[:2]).values()) == {0}
    _attack_at_once(server.port, warm)
    _calm(server)
    before, memory, idle = server.descriptors, server.resident, server.threads
    began = time.monotonic()
    ANSWERS.clear()
    _attack_at_once(server.port, count)
    took = time.monotonic() - began
    _calm(server)
    assert server.threads <= idle + 2
    assert server.descriptors <= before + 4
    grown = server.resident - memory
    print(f"{count} in {took:.0f} s; memory {memory >> 20} MiB, then {grown / 2**20:+.1f}; descriptors {before}")
    # Those that want an association have one: the attacks are met inside, not turned away at the door.
    wanting = sum("_established" in attack.__code__.co_names for attack in ATTACKS) / len(ATTACKS)
    assert ANSWERS.count(b"\2") > 0.9 * wanting * count
    assert grown < 48 << 20
    assert set(tools.send(server.port, files[2:]).values()) == {0}
    assert server.stop() == 0
    tools.expect_stored(folder / "a.dcmark", files, folder / "out")
    assert not server.logged, server.logged[:5]
    spool = folder / "a.dcmark.spool"
    assert {place.name for place in spool.rglob("*")} == {"lock", "drafts", "arrived"}
    assert {place.name for place in folder.iterdir()} == {"sent", "a.dcmark", "a.dcmark.spool"}


def test_hostile_associations(tmp_path: Path) -> None:
    _withstand(tmp_path, 40, 160)


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_ten_thousand_hostile_associations(tmp_path: Path) -> None:
    _withstand(tmp_path, 1000, 10_000)


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.__name__)
def test_each_attack_is_made(attack: Attack, server: tools.Listening) -> None:
    """The attack reaches its end without being refused at the door, and the server answers afterwards."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection, suppress(ConnectionError):
        attack(connection, random.Random(1))
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
        connection.sendall(associate(sop_class=ECHO))
        connection.settimeout(10)
        assert connection.recv(65536)[:1] == b"\2"
        connection.sendall(value(1, 3, command(field=0x30, data=0x0101, sop_class=ECHO)))
        assert connection.recv(65536)[:1] == b"\4"
        connection.sendall(struct.pack(">BxI4x", 5, 4))
        assert connection.recv(100)[:1] == b"\6"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory):
    running = tools.Listening(tmp_path_factory.mktemp("hostile") / "a.dcmark")
    yield running
    assert running.stop() == 0
    assert not running.logged


def test_half_open_connections_keep_nobody_out_for_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from dcmark.arrival import listener, upper
    from dcmark.arrival.spool import Spool

    for module in (listener, upper):
        monkeypatch.setattr(module, "REQUEST_S", 1.0)
    (file,) = tools.objects(tmp_path / "sent", 1).values()
    spool = Spool(tmp_path / "spool")
    listening = listener.Listener(listener.Listening(associations=2), spool)
    held = [socket.create_connection(("127.0.0.1", listening.port)) for _ in range(40)]
    for number, one in enumerate(held):
        with suppress(OSError):
            one.sendall(associate()[: number * 5])
    assert tools.send(listening.port, [file]) == {}
    tools.until(lambda: tools.send(listening.port, [file]) == {file: 0}, 30)
    for one in held:
        one.close()
    listening.stop()
    assert listening.associations == 0
    spool.close()
