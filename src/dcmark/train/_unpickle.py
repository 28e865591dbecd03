"""Reads an official checkpoint in a process of its own.

Takes the checkpoint on standard input. Writes a safetensors file to standard output, with
everything that is not a tensor as JSON in its metadata, and ends with status 0; or writes why not
to standard error and ends with status 3. Only the standard library is used, and before the first
byte is looked at the process gives up all rights that it can.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import math
import mmap
import os
import re
import struct
import sys
from collections.abc import Iterator
from typing import Any, NoReturn

from dcmark.train._machine import Budget, Machine, Network, Reader, RefusedError, Tensor, refuse

REFUSED, TRESPASSED = 3, 5
"""Exit statuses: the file was refused; the process did what it never should, and was stopped."""

MAX_MODULES = 20_000
MAX_DEPTH = 32
MAX_NAME = 200
_NAME = re.compile(r"[A-Za-z0-9_./\-]{1,200}")


def plain(value: Any, budget: Budget, depth: int = 0) -> Any:
    """Settings as plain data for JSON."""
    budget.take(16)
    if depth > MAX_DEPTH:
        refuse("settings nested too deeply")
    match value:
        case None | bool():
            return value
        case int() if abs(value) < 1 << 53:
            return value
        case float() if math.isfinite(value):
            return value
        case str() if len(value) <= 1000:
            budget.take(len(value))
            return value
        case list() | tuple():
            return [plain(item, budget, depth + 1) for item in value]
        case dict() if all(isinstance(key, str) and len(key) <= 200 for key in value):
            return {key: plain(item, budget, depth + 1) for key, item in value.items()}
    return refuse("settings that are no plain values")


def module_tensors(network: Network, budget: Budget) -> Iterator[tuple[str, Tensor]]:
    """Parameters and buffers of a persistent module and of all modules in it, by their dotted names."""
    todo: list[tuple[str, Any, int]] = [("", network, 0)]
    for visited in range(MAX_MODULES):
        if not todo:
            return
        prefix, module, depth = todo.pop()
        if not isinstance(module, Network) or depth > MAX_DEPTH:
            refuse("a module inside a module that is no such thing")
        state: Any = module.state.get("state") if isinstance(module.state, dict) else None
        match state:
            case {"_parameters": dict() as parameters, "_buffers": dict() as buffers, "_modules": dict() as inner}:
                passing = state.get("_non_persistent_buffers_set") or ()
                left_out = {name for name in passing if isinstance(name, str)}
            case _:
                refuse("a module without parameters, buffers and modules")
        for name, value in [*parameters.items(), *((k, v) for k, v in buffers.items() if k not in left_out)]:
            budget.take(64)
            if len(f"{prefix}{name}") > MAX_NAME:
                refuse("a module with a name longer than any needs")
            if isinstance(value, Tensor):
                yield f"{prefix}{name}", value
            elif value is not None:
                refuse("a parameter that is no tensor")
        if len(todo) + len(inner) > MAX_MODULES - visited or any(len(str(name)) > MAX_NAME for name in inner):
            refuse(f"more than {MAX_MODULES} modules, or one with a name longer than any needs")
        todo += [(f"{prefix}{name}.", child, depth + 1) for name, child in inner.items() if child is not None]
    refuse(f"more than {MAX_MODULES} modules")


def describe(value: Any, budget: Budget) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """What a checkpoint says, as JSON and as tensors named ``network/tensor``."""
    match value:
        case dict():
            return _describe_modules(value, budget)
        case (Network(kind="tfutil"), Network(kind="tfutil"), Network(kind="tfutil")):
            return _describe_tfutil(value, budget)
    return refuse("something that is neither a table of networks nor three networks")


def _describe_modules(table: dict[Any, Any], budget: Budget) -> tuple[dict[str, Any], dict[str, Tensor]]:
    networks: dict[str, Any] = {}
    tensors: dict[str, Tensor] = {}
    for name in ("G", "D", "G_ema", "augment_pipe"):
        network = table.get(name)
        if network is None:
            continue
        meta = network.state if isinstance(network, Network) else None
        match meta:
            case {"type": "class", "class_name": str(class_name), "state": dict() as state}:
                settings = plain(state.get("_init_kwargs") or {}, budget)
            case _:
                refuse("a network that is no module")
        if state.get("_init_args"):
            refuse("a network whose settings have no names")
        networks[name] = {"class": plain(class_name, budget), "settings": settings}
        tensors |= {f"{name}/{key}": tensor for key, tensor in module_tensors(network, budget)}
    if not networks:
        refuse("a table without networks")
    data = table.get("training_set_kwargs")
    kept = ("resolution", "use_labels", "max_size", "xflip")  # a path says where somebody keeps data
    training_set = {k: plain(data[k], budget) for k in kept if k in data} if isinstance(data, dict) else {}
    return {"format": "stylegan", "networks": networks, "training_set": training_set}, tensors


def _describe_tfutil(found: Any, budget: Budget) -> tuple[dict[str, Any], dict[str, Tensor]]:
    networks: dict[str, Any] = {}
    tensors: dict[str, Tensor] = {}
    for name, network in zip(("G", "D", "Gs"), found, strict=True):
        match network.state:
            case {"static_kwargs": dict() as settings, "build_func_name": str(made_by), "variables": list() as pairs}:
                networks[name] = {"class": plain(made_by, budget), "settings": plain(settings, budget)}
            case _:
                refuse("a network without settings and variables")
        for pair in pairs:
            match pair:
                case (str(key), Tensor() as tensor) if tensor.storage is not None:
                    tensors[f"{name}/{key}"] = tensor
                case _:
                    refuse("a variable that is no array")
    return {"format": "pggan", "networks": networks}, tensors


def safetensors(
    description: dict[str, Any], tensors: dict[str, Tensor], budget: Budget
) -> Iterator[bytes | memoryview]:
    """A safetensors file, piece by piece. Axes that lie in another order are listed in ``orders``."""
    header: dict[str, Any] = {}
    orders: dict[str, list[int]] = {}
    end = 0
    for name, tensor in tensors.items():
        if not _NAME.fullmatch(name) or tensor.storage is None:
            refuse("a tensor without a usable name")
        order = tensor.order()
        if order != list(range(len(order))):
            orders[name] = order
        start, end = end, end + len(tensor.values())
        shape = [tensor.shape[axis] for axis in order]
        header[name] = {"dtype": tensor.storage.dtype, "shape": shape, "data_offsets": [start, end]}
    budget.take(end)
    header["__metadata__"] = {"checkpoint": json.dumps(description | {"orders": orders})}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    yield struct.pack("<Q", len(text)) + text
    for tensor in tensors.values():
        yield tensor.values()


def confine(size: int) -> None:
    """Take away from this process, as far as the platform lets it, all that reading does not need."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).unshare(0x10000000 | 0x40000000)  # a user and a network namespace of its own
    if sys.platform != "win32":
        import resource

        limits = {
            "RLIMIT_AS": 4 * size + (512 << 20),
            "RLIMIT_CPU": 60 + size // (4 << 20),
            "RLIMIT_FSIZE": 2 * size + (16 << 20),
            "RLIMIT_NOFILE": 3,
            "RLIMIT_NPROC": 0,
            "RLIMIT_CORE": 0,
        }
        for name, limit in limits.items():
            with contextlib.suppress(OSError, ValueError, AttributeError):
                resource.setrlimit(getattr(resource, name), (limit, limit))
    # From here on nothing may be opened, imported, executed or connected: every such deed of the
    # interpreter is announced to this hook, and there is no way to take it out again.
    sys.addaudithook(lambda *_: os._exit(TRESPASSED))


def main() -> NoReturn:
    """Standard input to standard output, as the top of this file says."""
    size = os.fstat(0).st_size
    status = REFUSED
    try:
        if size == 0:
            refuse("an empty file")
        data = memoryview(mmap.mmap(0, size, access=mmap.ACCESS_READ))
        output = sys.stdout.buffer
        confine(size)
        budget = Budget(size)
        reader = Reader(data)
        description, tensors = describe(Machine(reader, budget).run(), budget)
        if reader.tell() != size:
            refuse("more bytes after the end of the pickle")
        for piece in safetensors(description, tensors, Budget(size)):
            output.write(piece)
        output.flush()
        status = 0
    except RefusedError as error:
        os.write(2, str(error).encode("ascii", "replace"))
    except MemoryError:
        os.write(2, b"more data than fits into memory")
    except Exception:  # noqa: BLE001  whatever a hostile file provokes ends in the one refusal
        os.write(2, b"a damaged or truncated pickle")
    os._exit(status)
