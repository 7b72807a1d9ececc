"""Exit codes, and how exceptions become them: one place for the whole command line."""

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, NoReturn

import click

from service_runtime.amqp_session import SessionLost, TopologyMismatch
from teardown_lab.broker.choice import BrokerUnavailable
from teardown_lab.checker.history import HistoryError
from teardown_lab.experiment.lab import RunRefused
from teardown_lab.experiment.stack import StackFailed
from teardown_lab.leftovers import RunFolderError
from teardown_lab.replay.conductor import ReplayFailed
from vm_manager.yaml_text import OrderingError

SAFE: Final = 0
VIOLATED: Final = 1
USAGE: Final = 2
INCONCLUSIVE: Final = 3
INFRASTRUCTURE: Final = 4

_USAGE_ERRORS = (OrderingError, HistoryError, RunRefused)
_INFRASTRUCTURE_ERRORS = (
    BrokerUnavailable,
    StackFailed,
    SessionLost,
    TopologyMismatch,
    RunFolderError,
    ReplayFailed,
    OSError,
)


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
    except _USAGE_ERRORS as error:
        fail(USAGE, str(error))
    except _INFRASTRUCTURE_ERRORS as error:
        fail(INFRASTRUCTURE, str(error))
    except Terminated:
        fail(128 + signal.SIGTERM, "ended by SIGTERM; nothing is left behind")
    except KeyboardInterrupt:
        fail(128 + signal.SIGINT, "interrupted; nothing is left behind")


def _terminate(*_: object) -> NoReturn:
    raise Terminated
