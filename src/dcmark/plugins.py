"""Plug-ins are found through entry points and loaded when they are first used."""

from __future__ import annotations

from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from dcmark.errors import MissingExtraError, UsageError

EXTRA_OF_PACKAGE = {
    "nibabel": "formats",
    "nrrd": "formats",
    "py7zr": "formats",
    "tifffile": "formats",
    "google_crc32c": "formats",
    "highdicom": "annotate",
    "torch": "train",
    "safetensors": "train",
    "av": "video",
    "onnxruntime": "text",
    "rapidocr_onnxruntime": "text",
    "skimage": "web",
    "starlette": "web",
    "uvicorn": "web",
}


@cache
def _group(group: str) -> dict[str, EntryPoint]:
    return {point.name: point for point in sorted(entry_points(group=group))}


def names(group: str) -> list[str]:
    """Names of all plug-ins of a group, sorted; nothing is imported."""
    return sorted(_group(group))


def load(group: str, name: str) -> Any:
    """The object a plug-in's entry point names.

    Raises:
        UsageError: no plug-in of that name; the message lists those there are.
        MissingExtraError: the plug-in needs a package that is not installed.
    """
    point = _group(group).get(name)
    if point is None:
        known = ", ".join(names(group)) or "none"
        raise UsageError(f"unknown name {name!r} for {group}; expected one of: {known}")
    try:
        return point.load()
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        raise MissingExtraError(package, EXTRA_OF_PACKAGE.get(package, "all"), f"{name!r}") from error
