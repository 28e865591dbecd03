"""Contact sheets as a PDF, one a page, with what each slice is."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

from dcmark.errors import MissingExtraError
from dcmark.out.report.pictures import ACROSS, Sheet

MARGIN = 36.0
"""Points around a page of A4."""


def write_sheets(sheets: Sequence[Sheet], out: Path, *, title: str) -> None:
    """Write contact sheets, a page each.

    Raises:
        MissingExtraError: the extra ``report`` is not installed.
        OSError: the file cannot be written.
    """
    try:
        from reportlab.lib.pagesizes import A4, landscape
        from reportlab.lib.utils import ImageReader
        from reportlab.pdfgen.canvas import Canvas
    except ImportError as error:
        raise MissingExtraError("reportlab", "report", "a PDF of the contact sheets") from error
    width, height = landscape(A4)
    draft = io.BytesIO()
    page = Canvas(draft, pagesize=(width, height), pageCompression=1, invariant=1)
    page.setTitle(title)
    for sheet in sheets:
        page.setFont("Helvetica-Bold", 13)
        page.drawString(MARGIN, height - MARGIN, f"{title}: {sheet.name}")
        page.setFont("Helvetica", 9)
        words = f"{len(sheet.frames)} of {sheet.total:,} frames, drawn at random; {ACROSS} across, read row by row"
        page.drawString(MARGIN, height - MARGIN - 14, words)
        room = (width - 2 * MARGIN, height - 2 * MARGIN - 26)
        scale = min(room[0] / sheet.width, room[1] / sheet.height)
        size = (sheet.width * scale, sheet.height * scale)
        picture = ImageReader(io.BytesIO(sheet.jpeg))
        page.drawImage(picture, (width - size[0]) / 2, height - MARGIN - 26 - size[1], *size)
        page.showPage()
    page.save()
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_bytes(draft.getvalue())
