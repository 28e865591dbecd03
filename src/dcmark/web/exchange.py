"""Annotations of a stack out to a file, and from a file that was sent into the log."""

from __future__ import annotations

import io
import tempfile
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

from dcmark.annotate import formats
from dcmark.annotate.exchange import export_annotations, import_annotations
from dcmark.annotate.log import Log
from dcmark.archive.store import open_archive
from dcmark.errors import UnsupportedError
from dcmark.findings import Finding

if TYPE_CHECKING:
    from dcmark.web.service import Service

_GZIP = b"\x1f\x8b"


def exported(service: Service, stack: str, format_: str) -> tuple[str, bytes]:
    """The annotations of a stack that are not rejected, in a format: a name, and a file or a zip of several.

    Raises:
        UsageError: there are none that the format can hold.
        MissingExtraError: the format needs a package that is not installed.
    """
    service.board.stack(stack)
    archive = open_archive(service.catalogue.path)
    service.board.journal.refresh()
    ids = {row["annotation"] for row in service.board.rows_on(stack) if row["status"] != "rejected"}
    chosen = list(Log(archive).state().annotations(lambda row: row["annotation"] in ids))
    with tempfile.TemporaryDirectory(prefix="dcmark-") as folder:
        out = Path(folder) / "out"
        report = export_annotations(archive, format_, out, annotations=chosen)
        files = [out / name for name in report.files]
        if len(files) == 1:
            return f"{stack}-{files[0].name}", files[0].read_bytes()
        packed = io.BytesIO()
        with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive_file:
            for name, file in zip(report.files, files, strict=True):
                archive_file.write(file, name)
        return f"{stack}-{format_}.zip", packed.getvalue()


def imported(service: Service, place: Path, format_: str) -> tuple[int, list[Finding]]:
    """Add the annotations of an uploaded file: all of them or none. Their number, and what was left out.

    Raises:
        UnsupportedError: the format is one of folders.
        SourceError: the file is not what it should be. UsageError: it fits no image of the archive.
    """
    suffixes = formats.load(format_).suffixes
    if not suffixes:
        raise UnsupportedError(
            f"expected a format of single files, found {format_!r}, which is a folder; use: dcmark annotations import"
        )
    suffix = suffixes[0]
    if suffix.endswith(".gz"):
        with place.open("rb") as stream:
            suffix = suffix if stream.read(2) == _GZIP else suffix.removesuffix(".gz")
    named = place.replace(place.with_name("upload" + suffix))
    report = import_annotations(open_archive(service.catalogue.path), format_, named, author=service.author)
    service.board.journal.refresh()
    return report.annotations, report.findings
