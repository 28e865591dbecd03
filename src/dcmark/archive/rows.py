"""Rows gathered in Python as Arrow record batches, ready to be appended to a table."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from dcmark.archive.schema import FRAMES, TABLES

Bytes = bytes | memoryview
ROW_GROUP_BYTES = 8 << 20
"""Payload bytes handed to the table at once."""


def record_batches(name: str, rows: list[dict[str, Any]]) -> Iterator[pa.RecordBatch]:
    """Rows of ``files`` or ``paths``, 1,024 at a time."""
    schema = TABLES[name]
    for start in range(0, len(rows), 1024):
        some = rows[start : start + 1024]
        arrays = [_array([row.get(field.name) for row in some], field.type) for field in schema]
        yield pa.RecordBatch.from_arrays(arrays, schema=schema)


def _array(values: list[Any], kind: pa.DataType) -> pa.Array:
    # Arrow's own allocator keeps what other threads free, and Lance frees these: it would grow with every commit.
    return pa.array(values, kind, memory_pool=pa.system_memory_pool())


def frame_batches(rows: Sequence[dict[str, Any]], starts: Sequence[int], payloads: Bytes) -> Iterator[pa.RecordBatch]:
    """Rows of ``frames``, some MiB at a time; nothing is copied.

    Args:
        rows: all columns but ``data``.
        starts: where the payload of each row begins in ``payloads``, and the end of the last one.
        payloads: one behind the other.
    """
    first = 0
    while first < len(rows):
        last = first + 1
        while last < len(rows) and starts[last + 1] - starts[first] <= ROW_GROUP_BYTES:
            last += 1
        arrays = [
            _blobs(starts[first : last + 1], payloads, field.type)
            if field.name == "data"
            else _array([row[field.name] for row in rows[first:last]], field.type)
            for field in FRAMES
        ]
        yield pa.RecordBatch.from_arrays(arrays, schema=FRAMES)
        first = last


def _blobs(starts: Sequence[int], payloads: Bytes, kind: pa.ExtensionType) -> pa.Array:
    """Payloads as a Lance blob array; ``lance.blob_array`` would copy them."""
    count = len(starts) - 1
    buffers = [None, pa.py_buffer(np.array(starts, np.int64)), pa.py_buffer(payloads)]
    data = pa.Array.from_buffers(pa.large_binary(), count, buffers)
    fields = list(kind.storage_type)
    columns = [data if field.name == "data" else pa.nulls(count, field.type) for field in fields]
    return pa.ExtensionArray.from_storage(kind, pa.StructArray.from_arrays(columns, fields=fields))
