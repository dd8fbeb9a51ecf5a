"""What runs first, by `hybrid` and by `python -m hybrid`? As little as can be, so that Ctrl-C is quiet from then on."""

from __future__ import annotations

import sys

INTERRUPTED = 130


def main() -> int:
    """Load the command line and run it. Ctrl-C while it still loads ends as it does later: 130, and no traceback."""
    try:
        from hybrid.cli import main as run

        return run()
    except KeyboardInterrupt:
        return INTERRUPTED


if __name__ == "__main__":
    sys.exit(main())
