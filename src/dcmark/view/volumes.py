"""Values of volumes: ``dcmark.values(volume)``."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from dcmark.archive.assemble import ASSEMBLY_COLUMNS, file_pieces
from dcmark.archive.store import Archive
from dcmark.archive.volume_source import array_header
from dcmark.config import LIMITS, Limits
from dcmark.errors import DamageError, LimitError, UnsupportedError, UsageError
from dcmark.findings import Finding
from dcmark.read import arrays
from dcmark.read.native import native_frame
from dcmark.read.pixels import recipe_of
from dcmark.read.volumes import split_mosaic
from dcmark.view.files import columns_as_dataset
from dcmark.view.values import Array, Values, stack_stored, stack_values

if TYPE_CHECKING:
    from pydicom import Dataset

    from dcmark.read.volumes import Volume


def values(volume: Volume, quantity: str | None = None, *, threads: int = 1, limits: Limits = LIMITS) -> Values:
    """Physical values of a volume of an archive, as one array in the order of its slices.

    Args:
        volume: from ``archive.volumes()``.
        quantity: e.g. ``hu``, ``suvbw``, ``gy``, ``stored``; None for the first that the headers define. See
            docs/reference/values.md.
        threads: that decode.

    Returns:
        ``values`` (slices, rows, columns) float32, NaN where a pixel has no value, with ``quantity`` and ``unit``.
        Where slices are missing, ``volume.slice_index`` says where the others stand.

    Raises:
        UsageError: the volume is not one of an archive.
        UnsupportedError, ValueMeaningError, LimitError, DamageError: as ``stack_values``.
    """
    archive = archive_of(volume)
    if getattr(volume, "detached", ""):
        stored, dataset = _detached(archive, volume, limits)
        recipe = recipe_of(dataset, stored.dtype, 0, quantity)
        found = np.empty(stored.shape, np.float32)
        recipe.fill(stored, found)
        return Values(found, recipe.scale.quantity, recipe.scale.unit, recipe.scale.how)
    if volume.tiles is None:
        return stack_values(archive, volume.frames, quantity, threads=threads, limits=limits)
    one = stack_values(archive, volume.frames, quantity, limits=limits)
    return Values(split_mosaic(one.values[0], volume), one.quantity, one.unit, one.how)


def stored_values(volume: Volume, *, threads: int = 1, limits: Limits = LIMITS) -> Array:
    """Stored values of a volume in their own type; otherwise as ``values``."""
    if getattr(volume, "detached", ""):
        return _detached(archive_of(volume), volume, limits)[0]
    array = stack_stored(archive_of(volume), volume.frames, threads=threads, limits=limits)
    return array if volume.tiles is None else split_mosaic(array[0], volume)


def archive_of(volume: Volume) -> Archive:
    """The archive a volume lies in.

    Raises:
        UsageError: none.
    """
    archive = getattr(volume, "archive", None)
    if not isinstance(archive, Archive):
        raise UsageError("expected a volume of an archive, found one found elsewhere; use archive.volumes()")
    return archive


# Pixels in another file than their header -----------------------------------------------------------------------------


def _detached(archive: Archive, volume: Volume, limits: Limits) -> tuple[Array, Dataset]:
    """Stored values of a volume whose pixels stand in a file of their own, and what the header says of them."""
    detached = getattr(volume, "detached", "")
    header, _ = array_header(archive, _row(archive, volume.frames[0].file))
    row = _row(archive, detached)
    if isinstance(header, Finding):
        raise UnsupportedError(header.message)
    if row["size"] > limits.member_bytes or header.frame_bytes * len(volume.frames) > limits.member_bytes:
        raise LimitError(f"expected at most {limits.member_bytes} bytes of pixels; found a file of {row['size']}")
    with ThreadPoolExecutor(1) as executor:
        data = memoryview(b"".join(file_pieces(archive, row, executor)))
    if header.encoding == "raw" and bytes(data[:2]) == b"\x1f\x8b" and header.detached.lower().endswith(".gz"):
        header = replace(header, encoding="gzip")
    instance = arrays.take_apart(data, replace(header, detached=""), header.kind, limits)
    layout = instance.layout
    wanted = {frame.frame for frame in volume.frames}
    if layout is None or instance.frames <= max(wanted):
        reason = instance.findings[-1].message if instance.findings else "slices are missing"
        raise UnsupportedError(f"expected the pixels of {len(wanted)} slices; {reason}")
    frames: dict[int, Any] = {}
    if instance.derived:
        frames = {k: bytes(one) for k, one in enumerate(instance.derived) if k in wanted}
    else:
        at = 0
        for segment in instance.segments:
            if segment.part in wanted:
                frames[segment.part] = data[at : at + segment.length]
            at += segment.length
    stored = np.stack([native_frame(frames[frame.frame], layout, limits) for frame in volume.frames])
    return stored, columns_as_dataset(dict(instance.tags))


def _row(archive: Archive, digest: str) -> dict[str, Any]:
    rows = archive.read("files", [*ASSEMBLY_COLUMNS, "kind"], f"sha256 = X'{digest}'").to_pylist()
    if not rows:
        raise DamageError("a file of a volume is not in the archive; it is damaged, or the volume of another archive")
    return dict(rows[0])
