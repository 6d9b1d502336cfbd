"""The command line: thin, lazy, and quiet about its insides.

Each command lives in a file of its own under `_cli`; nothing here or there imports torch before a command runs.
Bad input ends with one line on stderr and exit status 2; a bug keeps its traceback.
"""

from __future__ import annotations

import errno
import sys

import typer

from patchclamp.app.commands import COMMANDS
from patchclamp.base.errors import PatchclampError, printable

app = typer.Typer(
    name="patchclamp",
    help="Record any unit of a network, say what it encodes, prove what it causes, change it.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for _name, _command in COMMANDS.items():
    app.command(_name)(_command)

# click's UsageError, of which typer has a copy of its own.
_USAGE_ERROR: type[Exception] = typer.BadParameter.__bases__[0]
_FILE_ERRORS = (
    errno.ENOENT,
    errno.ELOOP,
    errno.ENAMETOOLONG,
    errno.EACCES,
    errno.EISDIR,
    errno.ENOTDIR,
    errno.ENOSPC,
    errno.EROFS,
    errno.EDQUOT,
)


LONGEST = 1200
"""Characters of a refusal: what a user typed, or a list of all that there is, may have thousands."""


@app.callback(invoke_without_command=True)
def _root(
    version: bool = typer.Option(False, "--version", help="Print the version and leave."),
) -> None:
    if version:
        from importlib.metadata import version as installed

        typer.echo(f"patchclamp {installed('patchclamp')}")
        raise typer.Exit


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and end the process with its exit status: 0 done, 1 a claim or check failed, 2 bad input."""
    sys.exit(run(arguments))


def run(arguments: list[str] | None = None) -> int:
    """Run the command line and return the exit status."""
    try:
        status = app(args=arguments, standalone_mode=False)
    except PatchclampError as error:
        return _complain(str(error))
    except _USAGE_ERROR as error:
        return _complain(f"{_message(error)} (see patchclamp --help)")
    except OSError as error:
        if error.errno not in _FILE_ERRORS:
            raise
        return _complain(f"{error.filename or 'writing'}: {error.strerror}")
    except (KeyboardInterrupt, typer.Abort):
        return _complain("stopped", 130)
    return status if isinstance(status, int) else 0


def _message(error: Exception) -> str:
    format_message = getattr(error, "format_message", None)
    return str(format_message() if format_message is not None else error)


def _complain(message: str, status: int = 2) -> int:
    line = printable(" ".join(message.split()))
    line = line if len(line) <= LONGEST else f"{line[:LONGEST]} ... ({len(line)} characters)"
    print(f"patchclamp: {line}", file=sys.stderr)
    return status


if __name__ == "__main__":
    main()
