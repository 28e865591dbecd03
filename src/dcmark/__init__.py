"""dcmark: folders of medical images into one annotated, training-ready, reversible archive, and back.

    import dcmark
    archive = dcmark.open_archive("scans.dcmark", create=True)
    report = dcmark.ingest("ct/", archive)
    report.raise_for_errors()
    dcmark.verify(archive, read_data="5%")
    dcmark.restore(archive, "out/")

Everything heavy is imported when it is first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dcmark.errors import DcmarkError
from dcmark.findings import Finding

if TYPE_CHECKING:
    from dcmark.archive.query import query
    from dcmark.archive.restore import RestoreReport, restore
    from dcmark.archive.store import Archive, open_archive
    from dcmark.archive.verify import VerifyReport, verify
    from dcmark.ingestion import IngestReport, ingest
    from dcmark.out.report.page import report
    from dcmark.view.frames import frame
    from dcmark.view.view import View
    from dcmark.view.volumes import values

__version__ = "0.1.0"

_HOMES = {
    "Archive": "dcmark.archive.store",
    "open_archive": "dcmark.archive.store",
    "query": "dcmark.archive.query",
    "restore": "dcmark.archive.restore",
    "RestoreReport": "dcmark.archive.restore",
    "verify": "dcmark.archive.verify",
    "VerifyReport": "dcmark.archive.verify",
    "ingest": "dcmark.ingestion",
    "IngestReport": "dcmark.ingestion",
    "report": "dcmark.out.report.page",
    "frame": "dcmark.view.frames",
    "values": "dcmark.view.volumes",
    "View": "dcmark.view.view",
}

__all__ = [
    "Archive",
    "DcmarkError",
    "Finding",
    "IngestReport",
    "RestoreReport",
    "VerifyReport",
    "View",
    "frame",
    "ingest",
    "open_archive",
    "query",
    "report",
    "restore",
    "values",
    "verify",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'dcmark' has no attribute {name!r}")
    from importlib import import_module

    value = globals()[name] = getattr(import_module(_HOMES[name]), name)
    return value
