"""Where is the ledger that a command means? In the folder of `--data-dir`, or of HYBRID_DATA_DIR, or one's own."""

from __future__ import annotations

from pathlib import Path

from hybrid.config import at_home, data_dir
from hybrid.errors import CommandError
from hybrid.store.db import DATABASE_NAME


def ledger_path(folder: Path | None) -> Path:
    """Give the ledger's file in the folder that `--data-dir` named; None names none. It may not be there yet.

    Raises: CommandError where a file is in the folder's place, or a folder in the file's.
    """
    path = (at_home(folder) if folder else data_dir()) / DATABASE_NAME
    if path.parent.is_file():
        raise CommandError(f"{path.parent} is a file; name the folder that {DATABASE_NAME} lies in")
    if path.is_dir():
        raise CommandError(f"{path} is a folder, and the ledger would be a file there; name another folder")
    return path
