"""How exceptions become exit codes: one place for the whole command line."""

import select
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, NoReturn

import click

from teardown_lab.exit_codes import ExitCode

_seen: Final = {"interrupt": False, "terminate": False}


class Terminated(KeyboardInterrupt):
    """SIGTERM; like Ctrl-C, it lets every context manager clean up."""


def warn(text: str) -> None:
    """Say on stderr what is wrong; the command goes on."""
    click.echo(f"teardown: {text}", err=True)


def fail(code: int, text: str) -> NoReturn:
    """Say what is wrong on stderr and end with a code."""
    warn(text)
    sys.exit(code)


@contextmanager
def exit_codes() -> Iterator[None]:
    """Turn what goes wrong inside into one line on stderr and the contract's exit code.

    A signal ends with 128 + its number, after everything started has been taken away.
    """
    signal.signal(signal.SIGTERM, _terminate)
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, _interrupt)
    try:
        yield
    except Terminated:
        fail(ExitCode.TERMINATED, "ended by SIGTERM; nothing is left behind")
    except KeyboardInterrupt:
        fail(ExitCode.INTERRUPTED, "interrupted; nothing is left behind")
    except Exception as error:
        if isinstance(error, BrokenPipeError) and output_is_closed():
            raise  # quietly: `outermost` has a code for it
        code = _code_of(error)
        if code is None:
            raise
        fail(code, str(error))


def output_is_closed() -> bool:
    """Tell whether stdout or stderr leads to a pipe that nobody reads any more."""
    poll = select.poll()
    for descriptor in (1, 2):
        poll.register(descriptor, 0)
    return any(event & select.POLLERR for _, event in poll.poll(0))


def was_interrupted() -> bool:
    """Tell whether Ctrl-C came, also where some code has made another exception of it."""
    return _seen["interrupt"]


def was_terminated() -> bool:
    """Tell whether SIGTERM came, also where some code has made another exception of it."""
    return _seen["terminate"]


def _code_of(error: Exception) -> int | None:
    """Return the exit code of an error; None for one that nobody expects.

    The classes are imported only now: a command that needs no broker starts without them.
    """
    from service_runtime.amqp.lost_session import SessionLost, TopologyMismatch
    from teardown_lab.benchmark.clients import BenchFailed
    from teardown_lab.broker.errors import BrokerMisnamed, BrokerUnavailable
    from teardown_lab.checker.history import HistoryError
    from teardown_lab.experiment.lab import RunRefused
    from teardown_lab.experiment.stack import StackFailed
    from teardown_lab.leftovers.run_folder import RunFolderError
    from teardown_lab.replay.conductor import ReplayFailed
    from vm_manager.yaml_text import OrderingError

    if isinstance(error, BrokerMisnamed | HistoryError | OrderingError | RunRefused):
        return ExitCode.USAGE
    broken = (BenchFailed, BrokerUnavailable, ReplayFailed, RunFolderError, StackFailed)
    if isinstance(error, (*broken, SessionLost, TopologyMismatch, OSError)):
        return ExitCode.INFRASTRUCTURE
    return None


def _terminate(*_: object) -> NoReturn:
    _seen["terminate"] = True
    raise Terminated


def _interrupt(*_: object) -> NoReturn:
    _seen["interrupt"] = True
    raise KeyboardInterrupt
