"""The command line: parse, call, draw."""

from __future__ import annotations

import sys

INTERRUPTED = 130


def main() -> None:
    """Entry point of the command ``dcmark``; ends with the exit codes of docs/reference/cli.md."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """Run one command line and give its exit code; errors are told in words, never as a traceback."""
    import typer

    from dcmark.cli import draw
    from dcmark.cli.app import app
    from dcmark.errors import DcmarkError

    try:
        result = app(arguments, standalone_mode=False, prog_name="dcmark")
        # Some releases of the parser turn an interruption into an exit code of their own.
        return _interrupted() if result == INTERRUPTED else result if isinstance(result, int) else 0
    except typer.Exit as stop:
        return stop.exit_code
    except (typer.Abort, KeyboardInterrupt):
        return _interrupted()
    except DcmarkError as error:
        draw.error(error.code, str(error))
        return error.exit_code
    except BrokenPipeError:
        return 0
    except Exception as wrong:
        # The parser's own errors have no public base class in every release; all of them can word themselves.
        words = getattr(wrong, "format_message", None)
        if words is None:
            raise
        draw.error("usage", f"{words()} See: dcmark --help")
        return 2


def _interrupted() -> int:
    from dcmark.cli import draw

    draw.error("interrupted", "stopped; what was committed is safe, run the same command again to go on")
    return INTERRUPTED
