"""What the figures were measured on."""

from __future__ import annotations

import datetime
import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PACKAGES = ("dcmark", "imagecodecs", "pylance", "pyarrow", "numpy", "pydicom", "SimpleITK", "dcm2niix")


def describe() -> list[str]:
    """Machine, system, versions and date, a line each."""
    load = f"; load of the machine when it began: {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
    return [
        f"- {datetime.datetime.now(datetime.UTC):%Y-%m-%d}{load}",
        f"- {_processor()}, {os.cpu_count()} processors, {_memory()}; {platform.system()} {platform.machine()}",
        f"- Python {platform.python_version()}, " + ", ".join(f"{name} {_version(name)}" for name in PACKAGES),
    ]


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or "unknown processor"


def _memory() -> str:
    try:
        import psutil
    except ImportError:
        return "memory unknown"
    return f"{psutil.virtual_memory().total / 2**30:.0f} GiB of memory"


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"
