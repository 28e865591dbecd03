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
_RUN = pa.struct([("file", pa.binary(32)), ("first", pa.int32()), ("count", pa.int32())])
_SPLIT = pa.struct([("attribute", pa.string()), ("value", pa.string())])
VOLUMES = pa.schema(
    [
        pa.field("what", pa.string(), nullable=False),
        pa.field("series", pa.string(), nullable=False),
        pa.field("seen", pa.int64(), nullable=False),
        pa.field("build", pa.int64(), nullable=False),
        pa.field("derivation", pa.int32(), nullable=False),
        pa.field("id", pa.string()),
        pa.field("series_instance_uid", pa.string()),
        pa.field("number", pa.int32()),
        pa.field("modality", pa.string()),
        pa.field("grid", pa.string()),
        pa.field("files", pa.int32()),
        pa.field("first_file", pa.binary(32)),
        pa.field("detached", pa.binary(32)),
        pa.field("frames", pa.list_(_RUN)),
        pa.field("shape", pa.list_(pa.int32())),
        pa.field("affine", pa.list_(pa.float64())),
        pa.field("spacing", pa.list_(pa.float64())),
        pa.field("slice_index", pa.list_(pa.float64())),
        pa.field("positions", pa.list_(pa.float64())),
        pa.field("split", pa.list_(_SPLIT)),
        pa.field("phase", pa.int32()),
        pa.field("phases", pa.int32()),
        pa.field("tiles", pa.list_(pa.int32())),
        pa.field("missing", pa.int32()),
        pa.field("verdict", pa.string()),
        pa.field("findings", pa.list_(_FINDING)),
    ]
)
EVENTS = pa.schema(
    [
        pa.field("seq", pa.int64(), nullable=False),
        pa.field("time_ns", pa.int64(), nullable=False),
        pa.field("verb", pa.string(), nullable=False),
        pa.field("annotation", pa.string(), nullable=False),
        pa.field("of", pa.int64()),
        pa.field("together", pa.string(), nullable=False),
        pa.field("author", pa.string(), nullable=False),
        pa.field("tool", pa.string(), nullable=False),
        pa.field("tool_version", pa.string(), nullable=False),
        pa.field("kind", pa.string(), nullable=False),
        pa.field("status", pa.string(), nullable=False),
        pa.field("label", pa.string(), nullable=False),
        pa.field("code", pa.string(), nullable=False),
        pa.field("level", pa.string(), nullable=False),
        pa.field("patient", pa.string(), nullable=False),
        pa.field("study", pa.string(), nullable=False),
        pa.field("series", pa.string(), nullable=False),
        pa.field("volume", pa.string(), nullable=False),
        pa.field("file", pa.string(), nullable=False),
        pa.field("frame", pa.int32()),
        pa.field("value", pa.float64()),
        pa.field("unit", pa.string(), nullable=False),
        pa.field("body", pa.string(), nullable=False),
        pa.field("batch", pa.int64()),
        pa.field("first_row", pa.int64()),
        pa.field("planes", pa.int32(), nullable=False),
        pa.field("digest", pa.binary(32)),
        pa.field("previous", pa.binary(32), nullable=False),
        pa.field("hash", pa.binary(32), nullable=False),
    ]
)
MASKS = pa.schema(
    [
        pa.field("batch", pa.int64(), nullable=False),
        pa.field("row", pa.int64(), nullable=False),
        pa.field("file", pa.binary(32), nullable=False),
        pa.field("frame", pa.int32(), nullable=False),
        pa.field("rows", pa.int32(), nullable=False),
        pa.field("columns", pa.int32(), nullable=False),
        pa.field("top", pa.int32(), nullable=False),
        pa.field("left", pa.int32(), nullable=False),
        pa.field("height", pa.int32(), nullable=False),
        pa.field("width", pa.int32(), nullable=False),
        pa.field("levels", pa.int32(), nullable=False),
        pa.field("data", pa.large_binary(), nullable=False),
    ]
)
TABLES = {
    "files": FILES, "frames": FRAMES, "paths": PATHS, "volumes": VOLUMES, "annotations": EVENTS, "masks": MASKS,
}  # fmt: skip


def row_check(row: Mapping[str, Any]) -> bytes:
    """Eight bytes that change when any column of a row changes: a flipped bit in a table is found.

    BLAKE2b-64 of the row without ``check`` and without columns that are null, as JSON with sorted
    keys and no white space; bytes as lower-case hex.
    """
    kept = {key: value for key, value in row.items() if key != "check" and value is not None}
    return hashlib.blake2b(canonical_json(kept).encode("utf-8", "surrogatepass"), digest_size=8).digest()


def canonical_json(values: Mapping[str, Any]) -> str:
    """JSON with sorted keys and no white space; bytes as lower-case hex."""
    return _JSON.encode(values)


def _plain(value: Any) -> Any:
    if isinstance(value, bytes | memoryview):
        return bytes(value).hex()
    raise TypeError(f"no column holds a {type(value).__name__}")


_JSON = json.JSONEncoder(sort_keys=True, separators=(",", ":"), default=_plain)
