"""The outermost layer of the command line: whatever happens inside becomes an exit code.

`exits` handles what is expected to go wrong. This file handles what may go wrong anywhere: a
signal, an output that nobody reads any more, and bugs of our own. None of them ends with 1, which
would say that an ordering was violated.
"""

import contextlib
import os
import sys
import tempfile
import traceback
from collections.abc import Sequence
from typing import Final

import click
from click.shell_completion import shell_complete

from teardown_lab.cli.exits import Terminated, output_is_closed, was_interrupted, was_terminated
from teardown_lab.exit_codes import ExitCode

_COMPLETE: Final = "_TEARDOWN_COMPLETE"
"""Set by the shell's completion, as click's documentation has it."""


def run(arguments: Sequence[str]) -> int:
    """Run a command; return the exit code, after everything that it started is taken away."""
    code = _code_of(arguments)
    return code if _flush() else ExitCode.OUTPUT_CLOSED


def _code_of(arguments: Sequence[str]) -> int:
    try:
        return _invoke(arguments)
    except Terminated:
        return _told(ExitCode.TERMINATED, "ended by SIGTERM; nothing is left behind")
    except (KeyboardInterrupt, click.Abort):
        return _told(ExitCode.INTERRUPTED, "interrupted; nothing is left behind")
    except click.ClickException as error:
        with contextlib.suppress(BrokenPipeError):
            error.show()
        return error.exit_code
    except Exception as error:
        if isinstance(error, BrokenPipeError) and output_is_closed():
            return ExitCode.OUTPUT_CLOSED
        if was_terminated():
            return _told(ExitCode.TERMINATED, "ended by SIGTERM; nothing is left behind")
        if was_interrupted():
            return _told(ExitCode.INTERRUPTED, "interrupted; nothing is left behind")
        return _told(ExitCode.INFRASTRUCTURE, _bug(error))


def _invoke(arguments: Sequence[str]) -> int:
    """Do what click's own `main` does, which ends with 1 when its output is closed."""
    from teardown_lab.cli.commands import teardown

    instruction = os.environ.get(_COMPLETE)
    if instruction:
        return shell_complete(teardown, {}, "teardown", _COMPLETE, instruction)
    try:
        with teardown.make_context("teardown", list(arguments)) as context:
            teardown.invoke(context)
    except click.exceptions.Exit as end:
        return end.exit_code
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    return 0


def _told(code: int, text: str) -> int:
    with contextlib.suppress(OSError):
        click.echo(f"teardown: {text}", err=True)
    return code


def _bug(error: Exception) -> str:
    """Return what to say of a bug of ours; its traceback goes to a file that only the user reads.

    The exception's own text stays in that file: it could repeat a URL with its password.
    """
    last = traceback.extract_tb(error.__traceback__)[-1]
    place = f"{type(error).__name__} at {os.path.basename(last.filename)}:{last.lineno}"
    said = f"this is a bug of teardown itself, so nothing is judged: {place}."
    lines = traceback.format_exception(error)
    try:
        descriptor, path = tempfile.mkstemp(prefix="teardown-bug-", suffix=".txt")
        with open(descriptor, "w", encoding="utf-8", errors="backslashreplace") as file:
            file.write(f"teardown {' '.join(sys.argv[1:])}\n{''.join(lines)}")
    except OSError:
        return f"{said} Please report it, with the command and with this:\n{''.join(lines)}"
    return f"{said} Please report it, with the command and {path}"


def _flush() -> bool:
    """Write out what stdout and stderr still hold; False if nobody takes it.

    What could not be written is dropped, or Python would end with a code of its own.
    """
    taken = True
    for stream, descriptor in ((sys.stdout, 1), (sys.stderr, 2)):
        try:
            if stream is not None:
                stream.flush()
        except OSError:
            taken = False
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, descriptor)
            os.close(nowhere)
    return taken
