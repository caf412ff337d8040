"""The program: its commands as a group, its errors as one message each.

Exit codes: 0 done; 1 the input can't be used, a budget can't be met or a file is not what was trained; 2 wrong usage;
130 interrupted.
"""

from __future__ import annotations

import errno
import io
import logging
import os
import sys
import warnings
from typing import Annotated, Any

import typer
from rich.markup import escape
from typer.core import TyperGroup

import bitsmith
from bitsmith.cli.settings import typed_command
from bitsmith.cli.show import err
from bitsmith.errors import BitsmithError, RecipeError
from bitsmith.train import asked_for, first_to_fail, is_lost, join, processes

_TOGETHER = ("run", "search", "train")  # commands that several processes can work at
_NO_MEMORY = ("can't allocate memory", "out of memory")


class _InterruptedError(BaseException):
    """Ctrl-C in a command; not a KeyboardInterrupt, which typer would answer in its own way."""


class _Commands(TyperGroup):
    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as error:
            raise _InterruptedError from error


app = typer.Typer(
    cls=_Commands,
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Search low-precision convolutional networks under hard budgets; get files that run as integers, verified.",
)


@app.callback(invoke_without_command=True)
def _start(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version.", is_eager=True)] = False,
) -> None:
    if version:
        print(bitsmith.__version__)
        raise typer.Exit
    if asked_for() > 1:
        _join(context.invoked_subcommand)


def _join(command: str | None) -> None:
    """Learn together with the other processes that torchrun has started; only the first one talks.

    Raises:
        RecipeError: a command that one process does.
    """
    if command not in _TOGETHER:
        if os.environ.get("RANK", "0") != "0":
            raise typer.Exit(1)
        raise RecipeError(
            f"bitsmith {command} is done by one process: start it without torchrun, which is for {', '.join(_TOGETHER)}"
        )
    if join().rank > 0:
        sys.stdout = sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 - until the end


def main() -> None:
    """Run the command line; every error is one message."""
    # Libraries talk to developers by warnings; what users must know, we say ourselves.
    warnings.filterwarnings("ignore")
    logging.getLogger("torch").setLevel(logging.ERROR)
    for stream in (sys.stdout, sys.stderr):  # a terminal of ASCII, or a path that is no text: "\\u2026", not the end
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        app()
    except BitsmithError as error:
        sys.exit(_fail(str(error), 1))
    except _InterruptedError:
        sys.exit(_fail(f"interrupted; what was finished is kept. Go on with: {typed_command()}", 130))
    except (MemoryError, RuntimeError) as error:  # torch tells in words where memory ends
        if asked_for() > 1 and is_lost(error):
            way = "its own message or the system's log tells why; the same command goes on from the last checkpoint"
            sys.exit(_fail(f"another process of this run has ended; {way}", 1))
        if not isinstance(error, MemoryError) and not any(words in str(error) for words in _NO_MEMORY):
            raise
        way = "take a smaller batch_size (the recipe's train, float_plan and method.plan have one each)"
        sys.exit(_fail(f"out of memory; {way}, or a smaller input", 1))
    except OSError as error:
        way = "; free some space, then the same command goes on" if error.errno in (errno.ENOSPC, errno.EDQUOT) else ""
        sys.exit(_fail(f"{error.strerror or error}: {error.filename or ''}".rstrip(": ") + way, 1))


def _fail(message: str, code: int) -> int:
    """Print an error; of several processes the first that fails does."""
    if not first_to_fail():
        return code
    if processes().rank > 0:
        sys.stderr = sys.__stderr__
    err.print(f"[bold red]error:[/] {escape(' '.join(message.split()))}", soft_wrap=True)
    return code
