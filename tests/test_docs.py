"""What the documents say is so: their commands parse, their links lead somewhere."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import typer.main

from dcmark.cli.app import app

ROOT = Path(__file__).parent.parent
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])


def _commands(page: Path) -> list[str]:
    """Lines of code blocks that call dcmark, continued lines joined, comments cut."""
    blocks = re.findall(r"^```[a-z]*\n(.*?)^```", page.read_text("utf-8"), re.MULTILINE | re.DOTALL)
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    return [re.sub(r"\s#.*", "", line) for line in lines if re.match(r"(\$ )?dcmark ", line)]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_commands_parse(page: Path) -> None:
    for line in _commands(page):
        words = shlex.split(line.removeprefix("$ "))[1:]
        if "|" in line or "..." in words or any(word.startswith("[") for word in words):
            continue  # a pattern of a command, not one
        command, context = typer.main.get_command(app), None
        while hasattr(command, "commands"):
            assert words and words[0] in command.commands, f"no command for: {line}"
            command = command.commands[words.pop(0)]
        if "--help" in words:
            continue
        context = command.make_context("dcmark", words)  # raises for an unknown option or a missing argument
        context.close()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text("utf-8")):
        if not re.match(r"[a-z]+:", target):
            assert (page.parent / target).exists(), f"{page.name} links to {target}, which is not there"


def test_every_command_is_in_the_reference() -> None:
    text = (ROOT / "docs/reference/cli.md").read_text("utf-8")
    names = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    missing = [name for name in names if not re.search(rf"\b{name}\b", text)]
    assert missing == []
