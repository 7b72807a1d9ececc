"""Exit codes, and how exceptions become them: one place for the whole command line."""

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, NoReturn

import click

SAFE: Final = 0
VIOLATED: Final = 1
USAGE: Final = 2
INCONCLUSIVE: Final = 3
INFRASTRUCTURE: Final = 4


class Terminated(KeyboardInterrupt):
    """SIGTERM; like Ctrl-C, it lets every context manager clean up."""


def fail(code: int, text: str) -> NoReturn:
    """Say what is wrong on stderr and end with a code."""
    click.echo(f"teardown: {text}", err=True)
    sys.exit(code)


@contextmanager
def exit_codes() -> Iterator[None]:
    """Turn what goes wrong inside into one line on stderr and the contract's exit code.

    A signal ends with 128 + its number, after everything started has been taken away.
    """
    signal.signal(signal.SIGTERM, _terminate)
    try:
        yield
    except Terminated:
        fail(128 + signal.SIGTERM, "ended by SIGTERM; nothing is left behind")
    except KeyboardInterrupt:
        fail(128 + signal.SIGINT, "interrupted; nothing is left behind")
    except Exception as error:
        code = _code_of(error)
        if code is None:
            raise
        fail(code, str(error))


def _code_of(error: Exception) -> int | None:
    """Return the exit code of an error; None for one that nobody expects.

    The classes are imported only now: a command that needs no broker starts without them.
    """
    from service_runtime.losses import SessionLost, TopologyMismatch
    from teardown_lab.benchmark.clients import BenchFailed
    from teardown_lab.broker.choice import BrokerUnavailable
    from teardown_lab.checker.history import HistoryError
    from teardown_lab.experiment.lab import RunRefused
    from teardown_lab.experiment.stack import StackFailed
    from teardown_lab.leftovers import RunFolderError
    from teardown_lab.replay.conductor import ReplayFailed
    from vm_manager.yaml_text import OrderingError

    if isinstance(error, OrderingError | HistoryError | RunRefused):
        return USAGE
    broken = (BenchFailed, BrokerUnavailable, ReplayFailed, RunFolderError, StackFailed)
    if isinstance(error, (*broken, SessionLost, TopologyMismatch, OSError)):
        return INFRASTRUCTURE
    return None


def _terminate(*_: object) -> NoReturn:
    raise Terminated
