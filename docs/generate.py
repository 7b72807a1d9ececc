"""Write the pages of docs/ that are made from the code: `make docs`, or with --check compare them.

Each page is text made by one module of `generator`; nothing else is written by hand into it.
"""

import sys
from pathlib import Path

from generator import catalogue, metrics, protocol

PAGES = {
    "catalogue.md": catalogue.page,
    "metrics.md": metrics.page,
    "protocol.md": protocol.page,
}
FOLDER = Path(__file__).parent


def main(arguments: list[str]) -> int:
    """Write every page; with --check write nothing, and return 1 when one differs."""
    differing = []
    for name, page in PAGES.items():
        file = FOLDER / name
        text = page()
        if file.is_file() and file.read_text(encoding="utf-8") == text:
            continue
        differing.append(name)
        if "--check" not in arguments:
            file.write_text(text, encoding="utf-8")
    if "--check" not in arguments:
        sys.stdout.write(f"docs: {', '.join(differing) or 'nothing'} changed\n")
        return 0
    if differing:
        sys.stderr.write(f"docs: {', '.join(differing)} differ from the code; run `make docs`\n")
    return 1 if differing else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
