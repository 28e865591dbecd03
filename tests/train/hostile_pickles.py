"""Pickles that do harm when a loader runs them, and pickles that cost it time or memory.

Each builder takes the text of a path; whoever executes the result makes a folder there.
"""

from __future__ import annotations

import pickle
import struct
from collections.abc import Callable

Payload = Callable[[str], bytes]


def text(value: str) -> bytes:
    """Push a string."""
    raw = value.encode()
    return b"X" + struct.pack("<I", len(raw)) + raw


def raw_bytes(value: bytes) -> bytes:
    """Push bytes."""
    return b"B" + struct.pack("<I", len(value)) + value


def name(module: str, attribute: str) -> bytes:
    """Push a global, the way of protocol 2."""
    return f"c{module}\n{attribute}\n".encode()


def stacked(module: str, attribute: str) -> bytes:
    """Push a global, the way of protocol 4."""
    return text(module) + text(attribute) + b"\x93"


def call(function: bytes, *arguments: bytes) -> bytes:
    """Call it with what the arguments push."""
    return function + b"(" + b"".join(arguments) + b"tR"


def program(body: bytes, protocol: int = 4) -> bytes:
    """A whole pickle."""
    return b"\x80" + bytes([protocol]) + body + b"."


def _python(path: str) -> str:
    return f"__import__('os').mkdir({path!r})"


def _in_process(path: str) -> bytes:
    """``[sys.executable, '-c', ...]``"""
    return b"]" + name("sys", "executable") + b"a" + text("-c") + b"a" + text(_python(path)) + b"a"


def _storage(inner: bytes) -> bytes:
    return call(name("torch.storage", "_load_from_bytes"), raw_bytes(inner))


_MAGIC = pickle.dumps(0x1950A86A20F9469CFC6C, 2) + pickle.dumps(1001, 2)


def _declared(kind: bytes, count: int, data: bytes, *, told: int | None = None) -> bytes:
    """A storage as ``torch.save`` wrote it, which may lie about itself."""
    system = pickle.dumps({"little_endian": True, "protocol_version": 1001, "type_sizes": {}}, 2)
    identity = b"(" + text("storage") + kind + text("0") + text("cpu") + b"J" + struct.pack("<i", count) + b"NtQ"
    keys = pickle.dumps(["0"], 2)
    length = struct.pack("<q", count if told is None else told)
    return _MAGIC + system + program(identity, 2) + keys + length + data


def _tensor(storage: bytes, offset: bytes, shape: bytes, stride: bytes) -> bytes:
    return call(name("torch._utils", "_rebuild_tensor_v2"), storage, offset, shape, stride, b"\x89", b"}")


def number(value: int) -> bytes:
    """Push a whole number of any size."""
    return pickle.dumps(value, 2)[2:-1]


def _module(state: bytes, source: str = "") -> bytes:
    """What the official persistence writes, with a module source of one's own."""
    items = {
        "type": text("class"),
        "version": number(6),
        "module_src": text(source),
        "class_name": text("Generator"),
        "state": state,
    }
    meta = b"}(" + b"".join(text(key) + value for key, value in items.items()) + b"u"
    return call(name("torch_utils.persistence", "_reconstruct_persistent_obj"), meta)


def _empty_state(**more: bytes) -> bytes:
    parts = {"_parameters": b"}", "_buffers": b"}", "_modules": b"}", **more}
    return b"}(" + b"".join(text(key) + value for key, value in parts.items()) + b"u"


def _checkpoint(network: bytes) -> bytes:
    return b"}" + text("G_ema") + network + b"s"


FLOAT = name("torch", "FloatStorage")

EXECUTES: dict[str, Payload] = {
    "os.mkdir": lambda p: program(call(name("os", "mkdir"), text(p))),
    "os.mkdir, protocol 0": lambda p: f"cos\nmkdir\n(V{p}\ntR.".encode(),
    "os.mkdir, stacked": lambda p: program(call(stacked("os", "mkdir"), text(p))),
    "os.makedirs": lambda p: program(call(name("os", "makedirs"), text(p))),
    "os.system": lambda p: program(call(name("os", "system"), text(f"mkdir {p}"))),
    "eval": lambda p: program(call(name("builtins", "eval"), text(_python(p)))),
    "exec": lambda p: program(call(name("builtins", "exec"), text(_python(p)))),
    "exec, stacked": lambda p: program(call(stacked("builtins", "exec"), text(_python(p)))),
    "exec, old name": lambda p: program(call(name("__builtin__", "eval"), text(_python(p))), 2),
    "map": lambda p: program(
        call(name("builtins", "list"), call(name("builtins", "map"), name("os", "mkdir"), b"]" + text(p) + b"a"))
    ),
    "getattr": lambda p: program(
        call(
            call(
                name("builtins", "getattr"),
                call(name("importlib", "import_module"), text("os")),
                text("mkdir"),
            ),
            text(p),
        )
    ),
    "dotted name": lambda p: program(call(stacked("os", "path.os.mkdir"), text(p))),
    "dotted through an allowed one": lambda p: program(
        call(stacked("collections", "_sys.modules.__class__")) + b"0" + call(name("os", "mkdir"), text(p))
    ),
    "partial": lambda p: program(call(call(name("functools", "partial"), name("os", "mkdir"), text(p)))),
    "methodcaller": lambda p: program(
        call(
            call(name("operator", "methodcaller"), text("mkdir"), text(p)),
            call(name("importlib", "import_module"), text("os")),
        )
    ),
    "subprocess.call": lambda p: program(call(name("subprocess", "call"), _in_process(p))),
    "subprocess.Popen": lambda p: program(
        call(name("subprocess", "Popen.wait"), call(name("subprocess", "Popen"), _in_process(p)))
    ),
    "subprocess.check_output": lambda p: program(call(name("subprocess", "check_output"), _in_process(p))),
    "timeit": lambda p: program(
        call(name("timeit", "timeit"), text(_python(p)), text("pass"), name("time", "time"), number(1))
    ),
    "runpy": lambda p: program(
        call(
            name("code", "InteractiveInterpreter.runsource"),
            call(name("code", "InteractiveInterpreter")),
            text(_python(p)),
        )
    ),
    "cProfile": lambda p: program(call(name("cProfile", "run"), text(_python(p)))),
    "pathlib": lambda p: program(call(name("pathlib", "Path.mkdir"), call(name("pathlib", "Path"), text(p)))),
    "nested pickle": lambda p: program(
        call(name("pickle", "loads"), raw_bytes(program(call(name("os", "mkdir"), text(p)))))
    ),
    "torch.load": lambda p: program(
        call(name("torch.serialization", "pickle.loads"), raw_bytes(program(call(name("os", "mkdir"), text(p)))))
    ),
    "INST": lambda p: program(b"(" + text(p) + b"ios\nmkdir\n"),
    "OBJ": lambda p: program(b"(" + name("os", "mkdir") + text(p) + b"o"),
    "build of a class": lambda p: program(
        name("types", "SimpleNamespace") + b")\x81}" + text("x") + call(name("os", "mkdir"), text(p)) + b"sb"
    ),
    "among good data": lambda p: program(
        b"}" + text("G") + b"}s" + text("D") + call(name("os", "mkdir"), text(p)) + b"s"
    ),
    "thrown away": lambda p: program(call(name("os", "mkdir"), text(p)) + b"0N"),
    "in an element of a list": lambda p: program(b"]" + call(name("os", "mkdir"), text(p)) + b"a"),
    "as a key": lambda p: program(b"}" + call(name("os", "mkdir"), text(p)) + b"Ns"),
    "in a memo": lambda p: program(name("os", "mkdir") + b"q\x00" + b"0h\x00(" + text(p) + b"tR"),
    "after a pop mark": lambda p: program(b"(NN1" + call(name("os", "mkdir"), text(p))),
    "in state of a module": lambda p: program(
        _checkpoint(_module(_empty_state(_parameters=b"}" + text("w") + call(name("os", "mkdir"), text(p)) + b"s")))
    ).replace(name("torch_utils.persistence", "_reconstruct_persistent_obj"), name("builtins", "dict")),
}
"""Any loader of Python's runs these."""

REFUSED: dict[str, Payload] = {
    "pickle in a storage": lambda p: program(_storage(program(call(name("os", "mkdir"), text(p))))),
    "pickle in a storage after the magic": lambda p: program(
        _storage(_MAGIC + program(call(name("os", "mkdir"), text(p)), 2))
    ),
    "pickle as the kind of a storage": lambda p: program(
        _storage(_declared(call(name("os", "mkdir"), text(p)), 1, b"\0" * 4))
    ),
    "storage in a storage in a storage": lambda p: program(
        _storage(program(_storage(program(_storage(program(call(name("os", "mkdir"), text(p))))))))
    ),
    "zip of torch": lambda p: b"PK\x03\x04" + program(call(name("os", "mkdir"), text(p))),
    "extension registry": lambda p: program(b"\x82\x01(" + text(p) + b"tR"),
    "NEWOBJ_EX": lambda p: program(name("os", "mkdir") + b"(" + text(p) + b"t}\x92"),
    "persistent id outside": lambda p: program(text(p) + b"Q"),
    "persistent id as text": lambda p: b"P" + p.encode() + b"\n.",
    "object dtype": lambda p: program(call(name("numpy", "dtype"), text("O8"), b"\x89", b"\x88")),
    "codec that unpacks": lambda p: program(call(name("_codecs", "encode"), text(p), text("zlib_codec"))),
    "name of two words": lambda p: program(stacked("os mkdir", "x")),
    "name with a line feed": lambda p: program(stacked("os\nmkdir", "x")),
    "name of a name": lambda p: program(stacked("torch_utils.persistence", "_reconstruct_persistent_obj.__globals__")),
    "name of another alphabet": lambda p: program(stacked("оs", "mkdir")),
    "network without a state": lambda p: program(_checkpoint(_module(b"N"))),
    "module of a class without tables": lambda p: program(_checkpoint(_module(b"}"))),
    "parameters that are text": lambda p: program(
        _checkpoint(_module(_empty_state(_parameters=b"}" + text("w") + text(p) + b"s")))
    ),
    "module that holds itself": lambda p: program(
        b"}q\x00" + text("G_ema") + _module(_empty_state(_modules=b"}" + text("a") + b"h\x00s")) + b"s"
    ),
    "list that holds itself": lambda p: program(b"]q\x00h\x00a"),
    "settings that hold themselves": lambda p: program(
        _checkpoint(_module(_empty_state(_init_kwargs=b"}q\x01" + text("a") + b"h\x01s")))
    ),
    "billion laughs": lambda p: program(
        b"]"
        + text("ha")
        + b"aq\x00"
        + b"".join(b"](" + (b"h" + bytes([i])) * 10 + b"eq" + bytes([i + 1]) for i in range(30))
        + b"\x85"
    ),
    "billion laughs in settings": lambda p: program(
        _checkpoint(
            _module(
                _empty_state(
                    _init_kwargs=b"}"
                    + text("a")
                    + b"]"
                    + text("ha")
                    + b"a\x940"
                    + b"".join(b"](" + (b"h" + bytes([i])) * 10 + b"e\x940" for i in range(25))
                    + b"h\x19s"
                )
            )
        )
    ),
    "deep tuples": lambda p: program(b"N" + b"\x85" * 300_000),
    "deep lists": lambda p: program(b"]" * 200_000 + b"a" * 199_999),
    "deep dictionaries": lambda p: program((b"}" + text("a")) * 50_000 + b"N" + b"s" * 50_000),
    "deep storages": lambda p: program(_deep_storages(40)),
    "deep modules": lambda p: program(_checkpoint(_deep_modules(60))),
    "deep settings": lambda p: program(
        _checkpoint(_module(_empty_state(_init_kwargs=(b"}" + text("a")) * 200 + b"N" + b"s" * 200)))
    ),
    "more opcodes than any needs": lambda p: program(b"N0" * 1_000_000 + b"N"),
    "a text of 2^62 bytes": lambda p: b"\x80\x04\x8d" + struct.pack("<Q", 1 << 62) + b"x.",
    "bytes of 2^62 bytes": lambda p: b"\x80\x04\x8e" + struct.pack("<Q", 1 << 62) + b"x.",
    "bytes of 4 GB": lambda p: b"\x80\x04B" + struct.pack("<I", 0xFFFFFFFF) + b"x.",
    "a byte array of 2^60 bytes": lambda p: b"\x80\x05\x96" + struct.pack("<Q", 1 << 60) + b"x.",
    "a frame of 2^60 bytes": lambda p: b"\x80\x04\x95" + struct.pack("<Q", 1 << 60) + b"N.",
    "a number of 2^31 bytes": lambda p: b"\x80\x04\x8b" + struct.pack("<i", 0x7FFFFFFF) + b"\1.",
    "a number of many digits": lambda p: b"L" + b"9" * 100_000 + b"L\n.",
    "a memo of index 2^32": lambda p: program(b"Nr" + b"\xff" * 4 + b"0N"),
    "a memo that is not there": lambda p: program(b"h\x07"),
    "copies without end": lambda p: program(text("x" * 60_000) + b"2" * 60_000),
    "an empty stack": lambda p: program(b"0"),
    "marks without end": lambda p: program(b"(" * 100_000),
    "a tuple of more than there is": lambda p: program(b"N\x87"),
    "no end": lambda p: b"\x80\x04N",
    "nothing but an end": lambda p: b".",
    "two pickles": lambda p: (
        program(_checkpoint(_module(_empty_state()))) + program(call(name("os", "mkdir"), text(p)))
    ),
    "a future protocol": lambda p: b"\x80\xffN.",
    "a storage that says more than it has": lambda p: program(_storage(_declared(FLOAT, 1 << 30, b"\0" * 4))),
    "a storage of two lengths": lambda p: program(_storage(_declared(FLOAT, 1, b"\0" * 4, told=1 << 40))),
    "a storage of fewer than none": lambda p: program(_storage(_declared(FLOAT, -1, b""))),
    "a tensor beyond its storage": lambda p: program(
        _tensor(_storage(_declared(FLOAT, 1, b"\0" * 4)), number(0), number(1 << 40) + b"\x85", number(1) + b"\x85")
    ),
    "a tensor before its storage": lambda p: program(
        _tensor(_storage(_declared(FLOAT, 1, b"\0" * 4)), number(-4), number(1) + b"\x85", number(1) + b"\x85")
    ),
    "a tensor of one number repeated": lambda p: program(
        _checkpoint(
            _module(
                _empty_state(
                    _parameters=b"}"
                    + text("w")
                    + _tensor(
                        _storage(_declared(FLOAT, 2, b"\0" * 8)),
                        number(0),
                        number(1) + number(2) + b"\x86",
                        number(0) + number(0) + b"\x86",
                    )
                    + b"s"
                )
            )
        )
    ),
    "a tensor of huge dimensions and none": lambda p: program(
        _tensor(
            _storage(_declared(FLOAT, 1, b"\0" * 4)),
            number(0),
            number(0) + number(1 << 70) + b"\x86",
            number(1) + number(1) + b"\x86",
        )
    ),
    "an array of more than it holds": lambda p: program(
        call(name("numpy.core.multiarray", "scalar"), call(name("numpy", "dtype"), text("f8")), raw_bytes(b"\0"))
    ),
    "a table with keys that take long to hash": lambda p: program(
        b"}" + b"".join(number(i * ((1 << 61) - 1)) + b"Ns" for i in range(2000))
    ),
    "a name that leaves the folder": lambda p: program(
        _checkpoint(
            _module(
                _empty_state(
                    _parameters=b"}"
                    + text("../../w\n")
                    + _tensor(
                        _storage(_declared(FLOAT, 1, b"\0" * 4)), number(0), number(1) + b"\x85", number(1) + b"\x85"
                    )
                    + b"s"
                )
            )
        )
    ),
    "text that is no text": lambda p: b"\x80\x04X\x04\0\0\0\xff\xfe\xfd\xfc.",
}
"""No checkpoint: refused, whatever a loader of Python's would do with them."""


def _deep_storages(depth: int) -> bytes:
    body = b"N"
    for _ in range(depth):
        body = _storage(_MAGIC + program(body, 2))
    return body


def _deep_modules(depth: int) -> bytes:
    body = _module(_empty_state())
    for _ in range(depth):
        body = _module(_empty_state(_modules=b"}" + text("a") + body + b"s"))
    return body


def with_source(path: str) -> bytes:
    """A well-formed checkpoint of one empty module whose source would act when executed."""
    return program(_checkpoint(_module(_empty_state(), source=_python(path))))
