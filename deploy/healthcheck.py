"""Ask a service in this container for one of its probes: exit code 0 if it answers 200."""

import http.client
import os
import sys


def main(path: str) -> int:
    """Return 0 when the probe at `path` says yes."""
    port = int(os.environ["METRICS_PORT"])
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=2)
    try:
        connection.request("GET", path)
        return int(connection.getresponse().status != 200)
    except OSError:
        return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
