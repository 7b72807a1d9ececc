"""The exit codes of `teardown`: one table for verdicts, command line and README.md."""

from enum import IntEnum


class ExitCode(IntEnum):
    """How a command ended; a signal counts from 128, as shells have it."""

    SAFE = 0
    VIOLATED = 1
    USAGE = 2
    INCONCLUSIVE = 3
    INFRASTRUCTURE = 4
    """The broker or the services failed, or we did: a bug of ours is no verdict."""
    INTERRUPTED = 130
    OUTPUT_CLOSED = 141
    """Nobody reads stdout or stderr any more, as after `teardown demo | head -3`."""
    TERMINATED = 143
