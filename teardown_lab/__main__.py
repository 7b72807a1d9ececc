"""`teardown`: the command line's entry, which minds Ctrl-C before it imports anything of weight.

The commands are listed in `teardown_lab.cli.commands`.
"""

import os
import signal
import sys
from typing import NoReturn


def main() -> NoReturn:
    """Run the command that the arguments name, and end with the contract's exit code."""
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, _end_at_once)
    from teardown_lab.cli.outermost import run

    code = run(sys.argv[1:])
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        # What is left is Python's own end; a traceback of it would help nobody.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    sys.exit(code)


def _end_at_once(*_: object) -> NoReturn:
    """End without a word of Python's: nothing is started yet that would have to be removed.

    An exception instead could be lost in the middle of an import.
    """
    os._exit(128 + signal.SIGINT)


if __name__ == "__main__":
    main()
