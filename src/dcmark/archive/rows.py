"""Rows gathered in Python as Arrow record batches, ready to be appended to a table."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from dcmark.archive.schema import FRAMES, TABLES

ROW_GROUP_BYTES = 8 << 20
"""Payload bytes handed to the table at once."""


def record_batches(name: str, rows: list[dict[str, Any]]) -> Iterator[pa.RecordBatch]:
    """Rows of ``files`` or ``paths``, 1,024 at a time."""
    schema = TABLES[name]
    for start in range(0, len(rows), 1024):
        yield pa.RecordBatch.from_pylist(rows[start : start + 1024], schema)


def frame_batches(rows: list[dict[str, Any]]) -> Iterator[pa.RecordBatch]:
    """Rows of ``frames``; payloads are let go as they are handed over."""
    rows.reverse()
    while rows:
        group: list[dict[str, Any]] = []
        size = 0
        while rows and size < ROW_GROUP_BYTES:
            row = rows.pop()
            size += len(row["data"])
            group.append(row)
        arrays = [
            _blobs([row["data"] for row in group], field.type)
            if field.name == "data"
            else pa.array([row[field.name] for row in group], field.type)
            for field in FRAMES
        ]
        yield pa.RecordBatch.from_arrays(arrays, schema=FRAMES)


def _blobs(payloads: Sequence[bytes], kind: pa.ExtensionType) -> pa.Array:
    """Payloads as a Lance blob array, copied once; ``lance.blob_array`` copies them as its buffer grows."""
    offsets = np.zeros(len(payloads) + 1, np.int64)
    np.cumsum([len(payload) for payload in payloads], out=offsets[1:])
    buffers = [None, pa.py_buffer(offsets), pa.py_buffer(b"".join(payloads))]
    data = pa.Array.from_buffers(pa.large_binary(), len(payloads), buffers)
    fields = list(kind.storage_type)
    columns = [data if field.name == "data" else pa.nulls(len(payloads), field.type) for field in fields]
    return pa.ExtensionArray.from_storage(kind, pa.StructArray.from_arrays(columns, fields=fields))
