"""``dcmark annotate`` and ``dcmark serve``: the page in the browser."""

from __future__ import annotations

import getpass
from pathlib import Path
from typing import Annotated, Any

import typer

from dcmark.cli import draw
from dcmark.cli.options import ArchivePath

Host = Annotated[str, typer.Option(help="Address to listen on; others than this computer need --allow-remote.")]
Port = Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 for any that is free.")]
AllowRemote = Annotated[
    bool, typer.Option("--allow-remote", help="Let other computers connect; needs --tls-cert and --tls-key.")
]
Certificate = Annotated[Path | None, typer.Option("--tls-cert", metavar="PEM", help="Certificate for https.")]
Key = Annotated[Path | None, typer.Option("--tls-key", metavar="PEM", help="Its private key.")]
ReadOnly = Annotated[bool, typer.Option("--read-only", help="Nothing can be changed.")]
Author = Annotated[str | None, typer.Option(help="Name in annotations; your user name by default.")]
TokenFile = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="Holds the token of programs (Authorization: Bearer); made where it is none."),
]
NoBrowser = Annotated[bool, typer.Option("--no-browser", help="Only print the link.")]


def annotate(
    place: Annotated[Path, typer.Argument(metavar="FOLDER_OR_ARCHIVE", help="Images, or an archive.")],
    archive: Annotated[
        Path | None, typer.Option(metavar="ARCHIVE", help="Where images of a folder go; beside it by default.")
    ] = None,
    host: Host = "127.0.0.1",
    port: Port = 0,
    allow_remote: AllowRemote = False,
    tls_cert: Certificate = None,
    tls_key: Key = None,
    read_only: ReadOnly = False,
    author: Author = None,
    no_browser: NoBrowser = False,
) -> None:
    """Open the page to look at images and annotate them; a folder is taken in while you look."""
    from dcmark.archive.schema import INFO_FILE
    from dcmark.archive.store import open_archive
    from dcmark.errors import SourceError, UsageError

    where = _listening(host, port, allow_remote, tls_cert, tls_key)
    if not place.exists():
        raise SourceError(f"expected a folder of images or an archive at {place}, found nothing; check the path")
    source: Path | None = None
    if not (place / INFO_FILE).is_file():
        if read_only:
            raise UsageError("expected an archive with --read-only, found other files: taking them in would write")
        source = place.resolve()
        place = archive or source.with_name(source.name + ".dcmark")
        open_archive(place, create=True)
        draw.line(f"taking in {source} into the archive {place}")
    elif archive is not None:
        raise UsageError("expected --archive with a folder of images, found an archive already")
    _serve(place, where, author, read_only, source, no_browser)


def serve(
    archive: ArchivePath,
    host: Host = "127.0.0.1",
    port: Port = 8337,
    allow_remote: AllowRemote = False,
    tls_cert: Certificate = None,
    tls_key: Key = None,
    read_only: ReadOnly = False,
    author: Author = None,
    token_file: TokenFile = None,
) -> None:
    """Serve an archive: the page, and DICOMweb (QIDO-RS, WADO-RS, STOW-RS) under /dicom-web."""
    where = _listening(host, port, allow_remote, tls_cert, tls_key)
    _serve(archive, where, author, read_only, None, True, token_file, access_log=True)


def _listening(host: str, port: int, allow_remote: bool, certificate: Path | None, key: Path | None) -> Any:
    from dcmark.errors import MissingExtraError

    try:
        from dcmark.web.serve import Listening
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        raise MissingExtraError(package, "web", "the page") from error
    return Listening(host, port, allow_remote, certificate, key).checked()


def _serve(
    archive: Path,
    where: Any,
    author: str | None,
    read_only: bool,
    source: Path | None,
    no_browser: bool,
    token_file: Path | None = None,
    access_log: bool = False,
) -> None:
    from dcmark.web import serve as server
    from dcmark.web.security import token_of

    server.serve(
        archive,
        where,
        author=_user() if author is None else author,
        read_only=read_only,
        ingest=source,
        browser=not no_browser,
        access_log=access_log,
        token=None if token_file is None else token_of(token_file),
        say=_say,
    )


def _say(text: str) -> None:
    print(text, flush=True)


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError, ImportError):  # a user without a name, as in some containers
        return ""


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command()(annotate)
    app.command()(serve)
