"""The command line: parse, call, draw."""

from __future__ import annotations

import sys


def main() -> None:
    """Entry point of the command ``dcmark``; ends with the exit codes of docs/reference/cli.md."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """Run one command line and give its exit code; errors are told in words, never as a traceback."""
    import click

    from dcmark.cli import draw
    from dcmark.cli.app import app
    from dcmark.errors import DcmarkError

    try:
        result = app(arguments, standalone_mode=False, prog_name="dcmark")
        return result if isinstance(result, int) else 0
    except click.exceptions.Exit as stop:
        return stop.exit_code
    except (click.Abort, KeyboardInterrupt):
        draw.error("interrupted", "stopped; what was committed is safe, run the same command again to go on")
        return 130
    except click.ClickException as wrong:
        draw.error("usage", wrong.format_message() + "; see: dcmark --help")
        return 2
    except DcmarkError as error:
        draw.error(error.code, str(error))
        return error.exit_code
    except BrokenPipeError:
        return 0
