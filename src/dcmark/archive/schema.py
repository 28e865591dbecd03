"""The tables of an archive: names, columns, format version. docs/format.md is the contract in words."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import lance
import pyarrow as pa

from dcmark.read.tags import COLUMNS

FORMAT_VERSION = 1
STORAGE_VERSION = "2.2"
"""Lance data storage version of every table."""

INFO_FILE = "archive.json"
LARGEST_HEADER = 1 << 20
"""Header bytes of a file above this stand in ``frames`` as bulk parts, not in ``files``."""
BULK_CHUNK = 16 << 20
"""Bytes of one bulk part, unpacked."""

_TYPES = {
    "text": pa.string(),
    "integer": pa.int64(),
    "number": pa.float64(),
    "numbers": pa.list_(pa.float64()),
}
_FINDING = pa.struct([("level", pa.string()), ("code", pa.string()), ("message", pa.string()), ("action", pa.string())])
_SEGMENT = pa.struct([("part", pa.int32()), ("length", pa.int64())])

FILES = pa.schema(
    [
        pa.field("sha256", pa.binary(32), nullable=False),
        pa.field("size", pa.int64(), nullable=False),
        pa.field("kind", pa.string(), nullable=False),
        pa.field("transfer_syntax", pa.string(), nullable=False),
        pa.field("frames", pa.int32(), nullable=False),
        pa.field("batch", pa.int64(), nullable=False),
        pa.field("first_row", pa.int64(), nullable=False),
        pa.field("parts", pa.int32(), nullable=False),
        pa.field("segments", pa.list_(_SEGMENT), nullable=False),
        pa.field("header", pa.binary()),
        pa.field("header_codec", pa.string()),
        pa.field("header_length", pa.int64(), nullable=False),
        pa.field("number", pa.string()),
        pa.field("big_endian", pa.bool_()),
        pa.field("findings", pa.list_(_FINDING), nullable=False),
        *(pa.field(column.name, _TYPES[column.type]) for column in COLUMNS),
        pa.field("check", pa.binary(8), nullable=False),
    ]
)
FRAMES = pa.schema(
    [
        pa.field("batch", pa.int64(), nullable=False),
        pa.field("row", pa.int64(), nullable=False),
        pa.field("first_row", pa.int64(), nullable=False),
        pa.field("number", pa.int32(), nullable=False),
        pa.field("codec", pa.string(), nullable=False),
        pa.field("length", pa.int64(), nullable=False),
        pa.field("crc", pa.uint32(), nullable=False),
        pa.field("lowest", pa.int64()),
        pa.field("highest", pa.int64()),
        lance.blob_field("data"),
    ]
)
PATHS = pa.schema(
    [
        pa.field("root", pa.binary(16), nullable=False),
        pa.field("source", pa.string(), nullable=False),
        pa.field("path", pa.string(), nullable=False),
        pa.field("path_bytes", pa.binary()),
        pa.field("dataset", pa.string(), nullable=False),
        pa.field("patient", pa.string(), nullable=False),
        pa.field("image", pa.string(), nullable=False),
        pa.field("size", pa.int64()),
        pa.field("mtime_ns", pa.int64()),
        pa.field("seen_ns", pa.int64(), nullable=False),
        pa.field("sha256", pa.binary(32)),
        pa.field("findings", pa.list_(_FINDING), nullable=False),
        pa.field("check", pa.binary(8), nullable=False),
    ]
)
TABLES = {"files": FILES, "frames": FRAMES, "paths": PATHS}


def row_check(row: Mapping[str, Any]) -> bytes:
    """Eight bytes that change when any column of a row changes: a flipped bit in a table is found.

    BLAKE2b-64 of the row without ``check`` and without columns that are null, as JSON with sorted
    keys and no white space; bytes as lower-case hex.
    """
    kept = {key: value for key, value in row.items() if key != "check" and value is not None}
    text = _JSON.encode(kept)
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()


def _plain(value: Any) -> Any:
    if isinstance(value, bytes | memoryview):
        return bytes(value).hex()
    raise TypeError(f"no column holds a {type(value).__name__}")


_JSON = json.JSONEncoder(sort_keys=True, separators=(",", ":"), default=_plain)
