"""A JSON log holds JSON, also where libraries, threads and Python itself write into it."""

import json
import os
import subprocess
import sys

import pytest

WHAT_OTHERS_WRITE = {
    "a line of pika's": "import logging; logging.getLogger('pika.channel').critical('closed')",
    "a library's warning": "import logging; logging.getLogger('asyncio').warning('slow callback')",
    "a library's exception": (
        "import logging\ntry:\n 1 / 0\n"
        "except ZeroDivisionError:\n logging.getLogger('x').exception('no')"
    ),
    "a warning of Python's": "import warnings; warnings.warn('old', DeprecationWarning, 1)",
    "a thread that fails": (
        "import threading; t = threading.Thread(target=lambda: 1 / 0); t.start(); t.join()"
    ),
    "what cannot be raised": "class X:\n def __del__(self): 1 / 0\nX()",
    "an exception that ends all": "raise LookupError('gone')",
}


def log_of(code: str, level: str = "info") -> list[str]:
    """Return the lines that a program writes to stderr, with the services' log configured."""
    begin = (
        "from service_runtime import logs\n"
        f"logs.configure({level!r})\n"
        "logs.catch_what_nobody_does()\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "default", "-c", begin + code],
        env={**os.environ, "TERM": "xterm"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stdout == ""
    return done.stderr.splitlines()


@pytest.mark.parametrize("what", WHAT_OTHERS_WRITE)
def test_every_line_is_one_json_object_of_our_form(what: str) -> None:
    lines = log_of(WHAT_OTHERS_WRITE[what])

    assert lines
    for line in lines:
        fields = json.loads(line)
        assert fields["event"] in ("library.logged", "exception.uncaught"), line
        assert {"event", "level", "timestamp"} <= set(fields)


def test_a_library_s_line_says_whose_it_is_and_what() -> None:
    (line,) = log_of("import logging; logging.getLogger('asyncio').warning('slow %s', 'callback')")

    fields = json.loads(line)
    assert (fields["logger"], fields["text"]) == ("asyncio", "slow callback")
    assert fields["level"] == "warning"


@pytest.mark.parametrize("line", ["warning('gone')", "error('gone')", "info('gone')"])
def test_what_pika_says_of_a_lost_connection_is_left_to_the_driver(line: str) -> None:
    assert log_of(f"import logging; logging.getLogger('pika.connection').{line}", "debug") == []


def test_a_library_s_chatter_is_left_out() -> None:
    assert log_of("import logging; logging.getLogger('urllib3').info('hello')", "info") == []
