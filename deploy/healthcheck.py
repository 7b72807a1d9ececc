"""Ask the service in this container for one of its pages: exit code 0 if it answers 200.

A second word prints the page's lines that begin with it:
`healthcheck.py /metrics teardown_manager_elected`.
"""

import http.client
import os
import sys


def main(path: str, wanted: str | None = None) -> int:
    """Return 0 when the page at `path` is there, and say what it has of what is `wanted`."""
    port = int(os.environ["METRICS_PORT"])
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=2)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        lines = answer.read().decode().splitlines()
    except OSError:
        return 1
    if wanted is not None:
        sys.stdout.writelines(f"{line}\n" for line in lines if line.startswith(wanted))
    return int(answer.status != 200)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
