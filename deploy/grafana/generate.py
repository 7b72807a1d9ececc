"""Write the dashboard's JSON from the code in `boards`; with --check compare them.

.venv/bin/python deploy/grafana/generate.py [--check]
"""

import sys
from pathlib import Path

from boards.dashboard import text

FILE = Path(__file__).parent / "dashboards" / "teardown.json"


def main(arguments: list[str]) -> int:
    """Write the file; with --check write nothing, and return 1 when it differs."""
    made = text()
    is_same = FILE.is_file() and FILE.read_text(encoding="utf-8") == made
    if "--check" in arguments:
        if not is_same:
            sys.stderr.write(
                "the dashboard differs from its code: run deploy/grafana/generate.py\n"
            )
        return 0 if is_same else 1
    FILE.parent.mkdir(exist_ok=True)
    FILE.write_text(made, encoding="utf-8")
    sys.stdout.write(f"dashboard: {'nothing' if is_same else FILE.name} changed\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
