"""Arguments and options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

ArchivePath = Annotated[Path, typer.Argument(metavar="ARCHIVE", help="An archive, NAME.dcmark.")]
Where = Annotated[
    str | None,
    typer.Option("--where", metavar="SQL", help="Condition over the view files, e.g. \"modality = 'CT'\"."),
]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")]
Threads = Annotated[int | None, typer.Option("--threads", min=1, help="Threads; one a processor by default.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace what is in the way.")]
