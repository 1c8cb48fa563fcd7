"""The command line: every command parses, calls one function and prints its result.

Exit codes: 0 done, 1 something failed while working, 2 misuse (one line on stderr says what to do), 130
Ctrl-C.
"""

from __future__ import annotations

import io
import os
import sys
import warnings
from collections.abc import Sequence
from typing import Annotated, TextIO

import typer

from identisim.cli import evaluations, exports, installation, pictures, trainings, worlds
from identisim.errors import InputError

app = typer.Typer(
    add_completion=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for command in (
    pictures.compare,
    pictures.embed,
    pictures.search,
    pictures.masks,
    installation.metrics,
    installation.pull,
    exports.export,
    installation.doctor,
):
    app.command()(command)
app.add_typer(worlds.app, name="world")
app.add_typer(evaluations.app, name="evaluate")
app.add_typer(trainings.app, name="train")


@app.callback(invoke_without_command=True)
def start(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version.", is_eager=True)] = False,
) -> None:
    """Do these two pictures show the same thing? Similarities: higher = more alike."""
    if version:
        from identisim import __version__

        print(f"identisim {__version__}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        print(context.get_help())


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line (None = the process's own arguments) and return its exit code."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        # a file name that the terminal's encoding lacks must not end a run
        sys.stdout.reconfigure(errors="backslashreplace")
    warnings.showwarning = _warn
    try:
        command = typer.main.get_command(app)
        code = command.main(args=arguments, prog_name="identisim", standalone_mode=False)
        sys.stdout.flush()
    except KeyboardInterrupt:
        code = 130
    except InputError as error:
        from identisim.downloads import TransferError

        return _complain(str(error), 1 if isinstance(error, TransferError) else 2)
    except (OSError, MemoryError, ImportError, RuntimeError) as error:
        _drop_unwritable_output()
        if isinstance(error, BrokenPipeError):
            return 1
        return _complain(f"{type(error).__name__}: {error}", 1)
    except Exception as error:
        # typer's own errors (unknown option, missing argument): their class moved between its versions
        if not hasattr(error, "format_message"):
            raise
        return _complain(error.format_message(), 2)
    return _complain("interrupted", code) if code == 130 else int(code or 0)


def _warn(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    print(f"identisim: warning: {message}", file=sys.stderr)


def _complain(message: str, code: int) -> int:
    print("identisim:", *message.split(), file=sys.stderr)
    return code


def _drop_unwritable_output() -> None:
    """Forget what a full disk or a reader that left (`| head`) does not take: Python would fail at exit."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
