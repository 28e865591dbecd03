"""Checks and names that the settings of all networks share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from dcmark.errors import UnsupportedError, UsageError

Precision = Literal["float32", "float16", "bfloat16"]


def check_resolution(resolution: int) -> None:
    """Refuse what is no power of two from 8 to 16384 pixels.

    Raises:
        UsageError: saying what was found.
    """
    if isinstance(resolution, bool) or resolution not in [1 << i for i in range(3, 15)]:
        raise UsageError(f"expected resolution to be a power of two from 8 to 16384 pixels, found {resolution!r}")


def check_range(config: Any, name: str, least: float, most: float) -> None:
    """Refuse a setting outside its range.

    Raises:
        UsageError: naming the setting, the range and what was found.
    """
    value = getattr(config, name)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not least <= value <= most:
        raise UsageError(f"expected {name} to be a number from {least:g} to {most:g}, found {value!r}")


def renamed(
    settings: Mapping[str, Any], names: Mapping[str, str], nested: str, nested_names: Mapping[str, str]
) -> dict[str, Any]:
    """Official keyword arguments under our names; those of the ``nested`` dictionary too.

    Raises:
        UnsupportedError: an argument that has no counterpart.
    """
    inner = settings.get(nested) or {}
    if not isinstance(inner, Mapping):
        raise UnsupportedError(f"expected {nested} of the checkpoint to be a table of settings, found something else")
    given = [(key, names.get(key), value) for key, value in settings.items() if key != nested]
    given += [(f"{nested}.{key}", nested_names.get(key), value) for key, value in inner.items()]
    unknown = sorted(str(key) for key, ours, _ in given if ours is None)
    if unknown:
        raise UnsupportedError(
            f"the checkpoint was made with settings that are not supported: {', '.join(unknown)[:200]}; "
            "only models of the published architectures can be loaded"
        )
    return {ours: value for _, ours, value in given if ours is not None}


def in_official_words(
    config: Any, names: Mapping[str, str], nested: str = "", nested_names: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """The inverse of :func:`renamed`: all settings as official keyword arguments."""
    settings: dict[str, Any] = {
        theirs: getattr(config, ours) for theirs, ours in names.items() if hasattr(config, ours)
    }
    if nested:
        settings[nested] = {theirs: getattr(config, ours) for theirs, ours in (nested_names or {}).items()}
    return settings
