"""Is a folder that cannot hold a ledger told as what it is, by every command that has `--data-dir`?"""

from __future__ import annotations

from pathlib import Path

import pytest

from hybrid.cli import main

COMMANDS = [
    pytest.param(["report"], id="report"),
    pytest.param(["explain", "last"], id="explain"),
    pytest.param(["keys", "list"], id="keys-list"),
    pytest.param(["keys", "add", "phone"], id="keys-add"),
]


@pytest.mark.parametrize("command", COMMANDS)
def test_a_file_is_no_folder(command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """It said that there are no keys, or that the disk had failed."""
    file = tmp_path / "notes.txt"
    file.touch()
    assert main([*command, "--data-dir", str(file)]) == 1
    assert f"{file} is a file" in capsys.readouterr().err


@pytest.mark.parametrize("command", COMMANDS)
def test_a_folder_is_no_ledger(command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """Nor is one that has the ledger's name."""
    (tmp_path / "hybrid.sqlite3").mkdir()
    assert main([*command, "--data-dir", str(tmp_path)]) == 1
    assert "is a folder" in capsys.readouterr().err
