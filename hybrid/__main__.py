"""What does `python -m hybrid` run? The same as the `hybrid` command."""

from __future__ import annotations

import sys

from hybrid.cli import main

if __name__ == "__main__":
    sys.exit(main())
