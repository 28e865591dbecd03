"""``dcmark deidentify`` and ``dcmark reidentify``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, cast

import typer

from dcmark.cli import draw
from dcmark.cli.options import Json, Quiet, Where

if TYPE_CHECKING:
    from dcmark.archive.source import ArchiveSource
    from dcmark.deid.apply import Deidentifier
    from dcmark.deid.pixels.policy import TextPolicy
    from dcmark.deid.profile import Profile
    from dcmark.deid.vault import Secret, Vault

PASSPHRASE = "DCMARK_VAULT_PASSPHRASE"  # noqa: S105  the name of a variable
KEY_PASSWORD = "DCMARK_KEY_PASSWORD"  # noqa: S105  the name of a variable

ProfileName = Annotated[
    str, typer.Option("--profile", help="basic, basic+OPTION+..., or a file NAME.toml; see --explain.")
]
VaultPath = Annotated[
    Path | None, typer.Option("--vault", help="Encrypted file that leads back; made where there is none.")
]
KeyFile = Annotated[
    Path | None,
    typer.Option("--key-file", help=f"32 secret bytes, made where there are none; else {PASSPHRASE} or a prompt."),
]
KeepHeldBack = Annotated[
    bool, typer.Option("--keep-held-back", help="Put files that are held back into the vault, whole.")
]

Text = Annotated[
    str,
    typer.Option(
        metavar="auto|mask|hold|keep",
        help="Text in pixels: mask it, hold back files at risk, or keep pixels as they are; auto masks where the "
        "profile has +pixels, and holds back otherwise.",
    ),
]
TextEverywhere = Annotated[bool, typer.Option("--text-everywhere", help="Look at CT, MR and all others too.")]


def deidentify(
    paths: Annotated[
        list[Path] | None,
        typer.Argument(metavar="SRC... OUT", help="Folders, files, zip, tar, 7z; the new folder last."),
    ] = None,
    profile: ProfileName = "basic",
    vault: VaultPath = None,
    key_file: KeyFile = None,
    layout: Annotated[str | None, typer.Option(help="Folder pattern, as for ingest.")] = None,
    keep_held_back: KeepHeldBack = False,
    text: Text = "auto",
    text_everywhere: TextEverywhere = False,
    review: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.html",
            help="Page that shows what was masked and held back for its pixels; it identifies patients.",
        ),
    ] = None,
    recipient: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="CERT.pem",
            help="Put what is taken out into each file, encrypted for this certificate; may be repeated.",
        ),
    ] = None,
    log: Annotated[
        Path | None, typer.Option(help="Write what was done to each file: attribute, action, no value.")
    ] = None,
    explain: Annotated[bool, typer.Option("--explain", help="Print the policy in words, and do nothing.")] = False,
    check: Annotated[
        bool, typer.Option("--check", help="Tell what identifying is left in SRC..., and change nothing.")
    ] = False,
    quiet: Quiet = False,
    json: Json = False,
) -> int:
    """Write clean copies of DICOM files by the standard's profile; what cannot be made clean is held back."""
    from dcmark import engine as engines
    from dcmark.deid.folders import deidentify_folders
    from dcmark.deid.profile import load_profile
    from dcmark.errors import UsageError

    chosen = load_profile(profile)
    if explain:
        for line in chosen.explain():
            draw.line(line)
        return 0
    paths = paths or []
    if check:
        return _check(paths, chosen, json=json, quiet=quiet)
    if len(paths) < 2:
        raise UsageError("expected at least one source and a new folder: dcmark deidentify SRC... OUT")
    *sources, out = paths
    if any(_opened(place) for place in sources):
        raise UsageError(
            "expected folders, files, zip, tar or 7z, found an archive; restore it first, or ingest with --deidentify "
            "what it was made of"
        )
    if engines.current() is not None and "{hash}" not in chosen.patient:
        raise UsageError(
            "expected one process where pseudonyms count, for one has to count them; found --workers, --scheduler or "
            "--engine: leave them out, or use {hash} in the profile's pattern"
        )
    looked = text_policy(text, chosen, everything=text_everywhere)
    tool = deidentifier(chosen, vault, key_file, keep_held_back=keep_held_back, text=looked)
    if review is not None:
        from dcmark.deid.pixels.review import Review

        if review.exists() or review.resolve().is_relative_to(out.resolve()):
            raise UsageError(f"expected a new file outside of {out} for --review, since it identifies patients")
        tool.review = Review()
    if recipient:
        from dcmark.deid.encrypted import read_recipients

        tool.recipients = read_recipients(recipient)
    try:
        report = deidentify_folders(sources, out, tool, layout=layout, log=log, progress=draw.progress(quiet))
    finally:
        if tool.vault is not None:
            tool.vault.close()
        if tool.review is not None and review is not None:
            tool.review.write(review)
    if json:
        found = {"files": report.files, "held_back": report.held_back, "renamed": report.renamed}
        findings = [finding.as_dict() for finding in report.findings]
        draw.as_json({**found, "actions": dict(report.actions), "findings": findings})
    else:
        for finding in report.findings:
            draw.line(f"{finding.level}\t{finding.code}\t{finding.path}\t{finding.message}")
        draw.line(
            f"{report.files} files written, {report.held_back} held back, {report.renamed} under other names; "
            f"{draw.counts(dict(report.actions))}"
        )
    return draw.NEEDS_A_LOOK if report.held_back else 0


def _check(paths: list[Path], profile: Profile, *, json: bool, quiet: bool) -> int:
    from dcmark.deid.check import check_sources

    report = check_sources([_opened(path) or path for path in paths], profile, progress=draw.progress(quiet))
    if json:
        draw.as_json(report.as_dict())
    else:
        for (tag, rule), count in sorted(report.certain.items()):
            draw.line(f"left\t{tag}\t{rule}\tin {count} files, for example {report.examples[tag, rule]}")
        for finding in report.findings:
            draw.line(f"{finding.level}\t{finding.code}\t{finding.path}\t{finding.message}")
        draw.line(
            f"{report.files} DICOM files looked at, {report.unclean} with something identifying left, "
            f"{report.unread} that cannot be read from end to end or are no DICOM"
        )
    return draw.NEEDS_A_LOOK if report.unclean or report.unread else 0


def reidentify(
    paths: Annotated[
        list[Path],
        typer.Argument(
            metavar="CLEAN... VAULT OUT",
            help="An archive, or folders, files, zip, tar, 7z of clean files; the vault; an empty or new folder.",
        ),
    ],
    key_file: KeyFile = None,
    private_key: Annotated[
        Path | None,
        typer.Option(metavar="KEY.pem", help="Without VAULT: attributes encrypted in the files themselves."),
    ] = None,
    certificate: Annotated[
        Path | None, typer.Option(metavar="CERT.pem", help="Of the private key, where its file does not hold it.")
    ] = None,
    where: Where = None,
    quiet: Quiet = False,
) -> int:
    """Write the originals back, byte for byte, for who holds the key."""
    from dcmark.errors import UsageError

    if private_key is not None:
        return _decrypt(paths, private_key, certificate, quiet=quiet)
    if len(paths) < 3:
        raise UsageError("expected an archive or clean files, a vault and a new folder: dcmark reidentify A VAULT OUT")
    from dcmark.deid.vault import Vault
    from dcmark.reidentification import reidentify as run

    *clean, vault, out = paths
    source = _opened(clean[0]) if len(clean) == 1 else None
    with Vault.open(vault, secret(key_file, new=False)) as found:
        report = run(
            clean if source is None else source.archive, found, out, where=where, progress=draw.progress(quiet)
        )
    for finding in report.findings:
        draw.line(f"{finding.level}\t{finding.code}\t{finding.path}\t{finding.message}")
    draw.line(f"{report.files} originals written, {report.damaged} damaged")
    return 4 if report.damaged else 0


def _decrypt(paths: list[Path], private_key: Path, certificate: Path | None, *, quiet: bool) -> int:
    import os

    from dcmark.deid.encrypted import decrypt_folders, read_private_key
    from dcmark.errors import UsageError

    if len(paths) < 2:
        raise UsageError("expected clean files and a new folder: dcmark reidentify SRC... OUT --private-key KEY.pem")
    *sources, out = paths
    key = read_private_key(private_key, certificate, os.environ.get(KEY_PASSWORD))
    report = decrypt_folders([_opened(one) or one for one in sources], out, key, progress=draw.progress(quiet))
    for finding in report.findings:
        draw.line(f"{finding.level}\t{finding.code}\t{finding.path}\t{finding.message}")
    draw.line(f"{report.files} files written with their original attributes, {report.held_back} held back")
    return draw.NEEDS_A_LOOK if report.held_back else 0


def _opened(place: Path) -> ArchiveSource | None:
    """The files of an archive; None where the place is something else."""
    if not (place / "archive.json").is_file():
        return None
    import dcmark
    from dcmark.archive.source import ArchiveSource

    return ArchiveSource(dcmark.open_archive(place))


def text_policy(text: str, profile: Profile, *, everything: bool = False) -> TextPolicy:
    """What is done about text in pixels.

    Raises:
        UsageError: no such word.
    """
    from dcmark.deid.pixels.policy import TextPolicy
    from dcmark.errors import UsageError

    if text == "auto":
        text = "mask" if "pixels" in profile.options else "hold"
    if text not in ("mask", "hold", "keep"):
        raise UsageError(f"expected auto, mask, hold or keep for --text; found {text!r}")
    if text != "mask" and "pixels" in profile.options:
        raise UsageError(f"expected --text mask with the option pixels of the profile, found {text}")
    return TextPolicy(cast("Literal['mask', 'hold', 'keep']", text), everything, profile.regions)


def deidentifier(
    profile: Profile,
    vault: Path | None,
    key_file: Path | None,
    *,
    keep_held_back: bool = False,
    text: TextPolicy | None = None,
) -> Deidentifier:
    """What applies the policy, with its secrets from where the user says."""
    from dcmark.deid.apply import Deidentifier

    if vault is None:
        from dcmark.errors import UsageError

        if key_file is None:
            raise UsageError(
                "expected --vault FILE (leads back to the originals) or --key-file FILE (the same names every time, "
                "no way back); found neither"
            )
        return Deidentifier(profile, secret(key_file, new=True).key, keep_held_back=keep_held_back, text=text)
    return Deidentifier(profile, vault=open_vault(vault, key_file), keep_held_back=keep_held_back, text=text)


def open_vault(path: Path, key_file: Path | None) -> Vault:
    """The vault to write to; a new one where there is none."""
    from dcmark.deid.vault import Vault

    if path.exists():
        return Vault.open(path, secret(key_file, new=False), append=True)
    made = Vault.create(path, secret(key_file, new=True))
    draw.line(f"made a new vault, {path}: keep it apart from the clean data; without it nothing leads back")
    return made


def secret(key_file: Path | None, *, new: bool) -> Secret:
    """The key of a file, made where ``new`` allows it, else a passphrase from the environment or the terminal."""
    import os

    from dcmark.deid.vault import Secret, make_key_file, read_key_file

    if key_file is not None:
        if new and not key_file.exists():
            make_key_file(key_file)
            draw.line(f"made a new key file, {key_file}: whoever has it can lead back; keep it apart from the data")
        return read_key_file(key_file)
    passphrase = os.environ.get(PASSPHRASE)
    if passphrase is None:
        passphrase = typer.prompt("Passphrase of the vault", hide_input=True, confirmation_prompt=new)
    return Secret(passphrase=passphrase)
