"""A stack machine for the pickles of official checkpoints, which can do nothing but put data together.

A pickle is a program for such a machine. This one knows no way to import, look up, construct or
call anything of Python's: the few names that the two published formats use are matched letter by
letter, and each stands for a piece of data defined here. The ``pickle`` module's loader is never
used; ``pickletools.genops`` only splits the bytes into opcodes.
"""

from __future__ import annotations

import math
import pickletools
import re
import struct
from collections.abc import Callable
from typing import Any, NoReturn

MAX_OPCODES = 1_000_000
_TEXT = re.compile(r"[A-Za-z0-9_.\-]{1,100}")

STORAGES = {
    "torch FloatStorage": "F32",
    "torch DoubleStorage": "F64",
    "torch HalfStorage": "F16",
    "torch BFloat16Storage": "BF16",
    "torch LongStorage": "I64",
    "torch IntStorage": "I32",
    "torch ShortStorage": "I16",
    "torch CharStorage": "I8",
    "torch ByteStorage": "U8",
    "torch BoolStorage": "BOOL",
}
DTYPES = {
    "f4": "F32",
    "f8": "F64",
    "f2": "F16",
    "i8": "I64",
    "i4": "I32",
    "i2": "I16",
    "i1": "I8",
    "u1": "U8",
    "b1": "BOOL",
}
SIZES = {"F64": 8, "I64": 8, "F32": 4, "I32": 4, "F16": 2, "BF16": 2, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1}


class RefusedError(Exception):
    """The file is not one of the two formats, or asks for something that no such file needs."""


def refuse(found: str) -> NoReturn:
    """Stop reading; ``found`` completes the sentence "found ..."."""
    raise RefusedError(found)


class Reader:
    """A file-like view of bytes that are there: asking for more than that allocates nothing."""

    def __init__(self, data: memoryview) -> None:
        self._data, self._at = data, 0

    def view(self, count: int) -> memoryview:
        """At most ``count`` bytes from here on."""
        count = min(max(count, 0), len(self._data) - self._at)
        self._at += count
        return self._data[self._at - count : self._at]

    def read(self, count: int) -> bytes:
        """The same, copied."""
        return bytes(self.view(count))

    def readline(self) -> bytes:
        """Up to and with the next line feed, but no more than any name needs."""
        line = bytes(self._data[self._at : self._at + 4096])
        return self.read(line.find(b"\n") + 1 or len(line))

    def tell(self) -> int:
        """Bytes read so far."""
        return self._at


class Budget:
    """What a file may cost: opcodes executed, and bytes copied, in relation to its size."""

    def __init__(self, size: int) -> None:
        self.opcodes, self.bytes = MAX_OPCODES, 2 * size + (1 << 20)

    def opcode(self) -> None:
        """Count one opcode."""
        self.opcodes -= 1
        if self.opcodes < 0:
            refuse(f"more than {MAX_OPCODES} opcodes")

    def take(self, count: int) -> None:
        """Count bytes."""
        self.bytes -= count
        if self.bytes < 0:
            refuse("more data than the file holds")


class Global:
    """A name that a pickle mentions: nothing but its text."""

    def __init__(self, text: str) -> None:
        self.text = text


class Storage:
    """A run of numbers of one type, still lying in the file."""

    def __init__(self, dtype: str, data: memoryview) -> None:
        self.dtype, self.data = dtype, data


class Tensor:
    """Shape and strides over a storage."""

    storage: Storage | None = None
    offset = 0
    shape: tuple[int, ...] = ()
    strides: tuple[int, ...] = ()

    def over(self, storage: Any, offset: Any, shape: Any, strides: Any) -> Tensor:
        """Lay the tensor over a storage; all of it must lie within."""
        if not isinstance(storage, Storage) or not isinstance(shape, tuple) or not isinstance(strides, tuple):
            refuse("a tensor that is not made of a storage, a shape and strides")
        if len(shape) > 8 or len(shape) != len(strides):
            refuse("a tensor of more than 8 dimensions")
        for number in (offset, *shape, *strides):
            if type(number) is not int or not 0 <= number < 1 << 48:
                refuse("a tensor whose shape is not made of whole numbers")
        end = offset + math.prod(shape)
        if end * SIZES[storage.dtype] > len(storage.data):
            refuse("a tensor larger than its storage")
        self.storage, self.offset, self.shape, self.strides = storage, offset, shape, strides
        return self

    def order(self) -> list[int]:
        """The axes from the slowest to the fastest; together they must cover the storage without gaps."""
        long = [axis for axis, length in enumerate(self.shape) if length != 1]
        axes = sorted(long, key=lambda axis: -self.strides[axis])
        expected = 1
        for axis in reversed(axes):
            if self.strides[axis] != expected and 0 not in self.shape:
                refuse("a tensor with gaps or repetitions")
            expected *= self.shape[axis]
        if axes == long:
            return list(range(len(self.shape)))
        return axes + [axis for axis in range(len(self.shape)) if axis not in axes]

    def values(self) -> memoryview:
        """Its bytes in the order of ``order``."""
        assert self.storage is not None
        size = SIZES[self.storage.dtype]
        return self.storage.data[self.offset * size : (self.offset + math.prod(self.shape)) * size]


class DType:
    """A numpy number type."""

    def __init__(self, code: str) -> None:
        self.code = code


class Network:
    """A network as a checkpoint describes it: ``state`` as found, interpreted only at the end."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.state: Any = None


def _tensor(storage: Any = None, offset: Any = 0, size: Any = (), stride: Any = (), *_: Any) -> Tensor:
    return Tensor().over(storage, offset, size, stride)


def _parameter(data: Any = None, *_: Any) -> Tensor:
    return data if isinstance(data, Tensor) else refuse("a parameter that is no tensor")


def _persistent(meta: Any = None, *_: Any) -> Network:
    network = Network("module")
    network.state = meta
    return network


def _dtype(code: Any = None, *_: Any) -> DType:
    known = isinstance(code, str) and code in DTYPES
    return DType(DTYPES[code]) if known else refuse("numbers of a type that is not supported")


def _scalar(dtype: Any = None, data: Any = None) -> Tensor:
    return _array(dtype, (), data, fortran=False, into=Tensor())


def _array(dtype: Any, shape: Any, data: Any, *, fortran: Any, into: Tensor) -> Tensor:
    if not isinstance(dtype, DType) or not isinstance(data, bytes) or not isinstance(shape, tuple) or len(shape) > 8:
        refuse("an array that is not made of numbers")
    strides, step = [], 1
    for length in shape if fortran is True else reversed(shape):
        strides.append(step)
        step *= length if type(length) is int else refuse("an array without a shape")
    if step * SIZES[dtype.code] != len(data):
        refuse("an array with more or fewer numbers than its shape says")
    if fortran is not True:
        strides.reverse()
    return into.over(Storage(dtype.code, memoryview(data)), 0, shape, tuple(strides))


def _empty(*args: Any) -> dict[Any, Any]:
    return refuse("a dictionary made of arguments") if args else {}


def _set(items: Any = None, *_: Any) -> list[Any]:
    return items if isinstance(items, list) else []


class Machine:
    """Interprets one pickle after the other from a reader."""

    def __init__(self, reader: Reader, budget: Budget) -> None:
        self.reader, self.budget = reader, budget
        self.calls: dict[str, Callable[..., Any]] = {
            "collections OrderedDict": _empty,
            "dnnlib.util EasyDict": _empty,
            "builtins set": _set,
            "torch_utils.persistence _reconstruct_persistent_obj": _persistent,
            "torch.storage _load_from_bytes": self._load_storage,
            "torch._utils _rebuild_tensor_v2": _tensor,
            "torch._utils _rebuild_parameter": _parameter,
            "numpy dtype": _dtype,
            "_codecs encode": self._encode,
        }
        for module in ("numpy.core.multiarray", "numpy._core.multiarray"):
            self.calls[f"{module} _reconstruct"] = lambda *_: Tensor()
            self.calls[f"{module} scalar"] = _scalar
        self.news: dict[str, Callable[[], Any]] = {
            "dnnlib.util EasyDict": _empty,
            "tfutil Network": lambda: Network("tfutil"),
        }
        self.names = {*self.calls, *self.news, "numpy ndarray"}
        self.persistent: Callable[[Any], Any] | None = None

    def _encode(self, text: Any = None, encoding: Any = None) -> bytes:
        """How protocol 2 writes bytes: as text of the same code points."""
        if not isinstance(text, str) or encoding != "latin1":
            refuse("text that does not stand for bytes")
        self.budget.take(len(text))
        return text.encode("latin-1")

    def _load_storage(self, data: Any = None) -> Storage:
        """A storage as ``torch.save`` wrote it before it used zip files: five pickles, then the numbers."""
        if not isinstance(data, bytes):
            refuse("a storage that is not made of bytes")
        inner = Machine(Reader(memoryview(data)), self.budget)
        inner.calls, inner.news, inner.names = {}, {}, set(STORAGES)
        if inner.run() != 0x1950A86A20F9469CFC6C or inner.run() != 1001:
            refuse("a storage of an unknown version")
        system = inner.run()
        if not isinstance(system, dict) or system.get("little_endian") is not True:
            refuse("a storage that is not little endian")
        inner.persistent = lambda identity: identity
        declared = inner.run()
        inner.persistent = None
        keys = inner.run()
        match declared:
            case ("storage", Global(text=kind), str(key), str(), int(count), None) if keys == [key]:
                dtype = STORAGES[kind]
            case _:
                refuse("a storage that does not describe itself")
        if struct.pack("<q", count) != inner.reader.read(8):
            refuse("a storage of two lengths")
        numbers = inner.reader.view(len(data))
        if len(numbers) != count * SIZES[dtype]:
            refuse("a storage with more or fewer numbers than it says")
        return Storage(dtype, numbers)

    def run(self) -> Any:
        """The value of the next pickle."""
        stack: list[Any] = []
        marks: list[int] = []
        memo: dict[int, Any] = {}

        def since_mark() -> list[Any]:
            start = marks.pop()
            items = stack[start:]
            del stack[start:]
            return items

        argument: Any
        for opcode, argument, _ in pickletools.genops(self.reader):  # type: ignore[arg-type]
            self.budget.opcode()
            match opcode.name:
                case "BININT" | "BININT1" | "BININT2" | "LONG1" | "BINFLOAT":
                    stack.append(argument)
                case "BINUNICODE" | "SHORT_BINUNICODE" | "BINBYTES" | "SHORT_BINBYTES":
                    self.budget.take(len(argument))
                    stack.append(argument)
                case "BINGET" | "LONG_BINGET":
                    stack.append(memo[argument])
                case "MEMOIZE":
                    memo[len(memo)] = stack[-1]
                case "BINPUT" | "LONG_BINPUT":
                    memo[argument] = stack[-1]
                case "NONE":
                    stack.append(None)
                case "NEWTRUE" | "NEWFALSE":
                    stack.append(opcode.name == "NEWTRUE")
                case "EMPTY_TUPLE":
                    stack.append(())
                case "EMPTY_LIST" | "EMPTY_SET":
                    stack.append([])
                case "EMPTY_DICT":
                    stack.append({})
                case "MARK":
                    marks.append(len(stack))
                case "TUPLE":
                    stack.append(tuple(since_mark()))
                case "TUPLE1" | "TUPLE2" | "TUPLE3":
                    count = int(opcode.name[-1])
                    if count > len(stack):
                        refuse("a pickle that takes more than it has")
                    stack[-count:] = [tuple(stack[-count:])]
                case "APPEND":
                    self._extend(stack, [stack.pop()])
                case "APPENDS" | "ADDITEMS":
                    self._extend(stack, since_mark())
                case "SETITEM":
                    value, key = stack.pop(), stack.pop()
                    self._assign(stack, [key, value])
                case "SETITEMS":
                    self._assign(stack, since_mark())
                case "GLOBAL":
                    stack.append(self._global(argument))
                case "STACK_GLOBAL":
                    name, module = stack.pop(), stack.pop()
                    if not isinstance(name, str) or not isinstance(module, str) or " " in module + name:
                        refuse("a name that is no text")
                    stack.append(self._global(f"{module} {name}"))
                case "REDUCE":
                    arguments, function = stack.pop(), stack.pop()
                    stack.append(self._call(self.calls, function, arguments))
                case "NEWOBJ":
                    arguments, function = stack.pop(), stack.pop()
                    stack.append(self._call(self.news, function, arguments))
                case "BUILD":
                    self._build(stack.pop(), stack[-1])
                case "BINPERSID" if self.persistent is not None:
                    stack.append(self.persistent(stack.pop()))
                case "PROTO" if 2 <= argument <= 5:
                    pass
                case "FRAME":
                    pass
                case "STOP":
                    return stack.pop() if len(stack) == 1 and not marks else refuse("a pickle with leftovers")
                case other:
                    refuse(f"the opcode {other}, which no checkpoint needs")
        return refuse("a pickle without an end")

    def _global(self, text: str) -> Global:
        if text not in self.names:
            shown = ".".join(text.split(" ")) if _TEXT.fullmatch(text.replace(" ", ".")) else "of odd characters"
            refuse(f"the name {shown}, which no checkpoint needs")
        return Global(text)

    @staticmethod
    def _call(known: dict[str, Callable[..., Any]], function: Any, arguments: Any) -> Any:
        if not isinstance(function, Global) or function.text not in known or not isinstance(arguments, tuple):
            refuse("a call that no checkpoint needs")
        return known[function.text](*arguments)

    @staticmethod
    def _extend(stack: list[Any], items: list[Any]) -> None:
        if not isinstance(stack[-1], list):
            refuse("items put into something that is no list")
        stack[-1].extend(items)

    @staticmethod
    def _assign(stack: list[Any], items: list[Any]) -> None:
        if not isinstance(stack[-1], dict) or len(items) % 2:
            refuse("items put into something that is no dictionary")
        for key, value in zip(items[::2], items[1::2], strict=True):
            # Only texts and small numbers: nothing whose hash could be long in coming.
            if not isinstance(key, str) and not (isinstance(key, int) and abs(key) < 1 << 31):
                refuse("a dictionary with a key that is neither text nor a small number")
            stack[-1][key] = value

    @staticmethod
    def _build(state: Any, target: Any) -> None:
        match target, state:
            case Network(kind="tfutil"), dict():
                target.state = state
            case Tensor(storage=None), (int(), shape, dtype, fortran, data):
                _array(dtype, shape, data, fortran=fortran, into=target)
            case DType(), (3, "<" | "|" | "=", None, None, None, -1, -1, 0):
                pass
            case _:
                refuse("a state that no checkpoint needs")
