"""Does the `hybrid` command find its commands, answer at once, and end with the right exit code?"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest

import hybrid
from hybrid.cli import COMMANDS, main

PROJECT = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8"))
HEAVY = {"typer", "rich", "msgspec", "starlette", "uvicorn", "httpx2", "numpy", "llama_cpp", "openai", "asyncio"}


def python(*args: str) -> subprocess.CompletedProcess[str]:
    """Run this interpreter apart, so that what this process already imported does not count."""
    return subprocess.run([sys.executable, *args], capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize("flag", ["--version", "--help"])
def test_the_instant_answers_import_nothing_heavy(flag):
    """--version and --help stay instant because they import no library; counted, not timed."""
    script = (
        f"import sys; from hybrid.cli import main; code = main([{flag!r}]); print(sorted(sys.modules)); sys.exit(code)"
    )
    done = python("-c", script)
    modules = set(done.stdout.splitlines()[-1].strip("[]").replace("'", "").split(", "))
    assert (0, set()) == (done.returncode, HEAVY & modules)


def test_version_is_the_packages(capsys):
    """--version prints the name and the version on stdout."""
    assert 0 == main(["--version"])
    assert f"hybrid {hybrid.__version__}\n" == capsys.readouterr().out


def test_help_lists_every_command(capsys):
    """--help names each command with its line."""
    assert 0 == main(["--help"])
    out = capsys.readouterr().out
    assert all(f"  {name} " in out and command.summary in out for name, command in COMMANDS.items())


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        pytest.param(["repor"], "hybrid: no command 'repor'; did you mean 'report'? hybrid --help", id="near"),
        pytest.param(["zzz"], "hybrid: no command 'zzz'; hybrid --help", id="near-nothing"),
        pytest.param(["--verbose"], "hybrid: no option '--verbose'; hybrid --help", id="option"),
        pytest.param([], "hybrid: which command?", id="none"),
        pytest.param(["config", "shwo"], "No such command 'shwo'", id="subcommand"),
        pytest.param(["config", "show", "--colour"], "No such option: --colour", id="command-option"),
    ],
)
def test_bad_usage_is_two_and_on_stderr(args, expected, capsys):
    """A command line nobody understands exits 2, says why on stderr, and prints no data."""
    assert 2 == main(args)
    captured = capsys.readouterr()
    assert "" == captured.out
    assert expected in captured.err


def test_an_error_is_one_sentence(tmp_path, capsys):
    """Our own errors become `hybrid: message` and their exit code, without a traceback."""
    missing = tmp_path / "none.toml"
    assert 2 == main(["config", "show", "--config", str(missing)])
    assert f"hybrid: no configuration file {missing}\n" == capsys.readouterr().err


def test_a_reader_that_leaves_is_no_traceback():
    """`hybrid config schema | true`: a closed pipe ends the command without a word on stderr."""
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "wb") as closed:
        done = subprocess.run(
            [sys.executable, "-m", "hybrid", "config", "schema"], stdout=closed, stderr=subprocess.PIPE, timeout=60
        )
    assert (b"", 1) == (done.stderr, done.returncode)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_output_that_cannot_be_written_is_one_sentence():
    """`hybrid config schema > FILE` on a full disk: exit code 1, and no traceback."""
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            [sys.executable, "-m", "hybrid", "config", "schema"], stdout=full, stderr=subprocess.PIPE, timeout=60
        )
    assert (b"hybrid: cannot write or read: No space left on device\n", 1) == (done.stderr, done.returncode)


def test_a_folder_that_cannot_be_looked_into_is_one_sentence(capsys):
    """A path that the system refuses, here for its length, is told with the system's reason."""
    assert 1 == main(["report", "--data-dir", "x" * 300])
    err = capsys.readouterr().err
    assert err.startswith("hybrid: xxx")
    assert err.endswith("File name too long\n")


@pytest.mark.parametrize(
    "args",
    [
        pytest.param(["explain", "\udcff"], id="explain"),
        pytest.param(["report", "--tag", "\udcff"], id="report"),
        pytest.param(["keys", "revoke", "\udcff"], id="keys"),
    ],
)
def test_an_argument_that_is_no_text_is_one_sentence(tmp_path, args, capsys):
    """A byte that is no UTF-8, which Python hands on as half a surrogate pair, ends a command without a traceback."""
    assert 0 == main(["keys", "add", "laptop", "--data-dir", str(tmp_path)])
    capsys.readouterr()
    assert 1 == main([*args, "--data-dir", str(tmp_path)])
    said = capsys.readouterr()
    expected = "hybrid: '\\udcff' holds bytes that are no UTF-8 text; type it in UTF-8, or rename the file\n"
    assert ("", expected) == (said.out, said.err)


def test_characters_that_the_terminal_lacks_are_escaped(tmp_path):
    """With an encoding of ASCII alone a command tells what it has, as JSON writes such characters."""
    path = tmp_path / "hybrid.toml"
    path.write_text('[policy]\nprivate_tags = ["Gr\u00fc\u00dfe \U0001f600"]\n', encoding="utf-8")
    command = [sys.executable, "-m", "hybrid", "config", "show", "--json", "--config", str(path)]
    done = subprocess.run(command, env={**os.environ, "PYTHONIOENCODING": "ascii"}, capture_output=True, timeout=60)
    assert 0 == done.returncode
    assert ["Gr\u00fc\u00dfe \U0001f600"] == json.loads(done.stdout)["values"]["policy.private_tags"]["value"]


def test_an_interrupt_is_130_and_silent():
    """Ctrl-C ends a command with 130 and no traceback."""
    script = "import hybrid.cli as c\ndef stop(args): raise KeyboardInterrupt\nc._dispatch = stop\nexit(c.main(['x']))"
    done = python("-c", script)
    assert (130, "", "") == (done.returncode, done.stdout, done.stderr)


INTERRUPTED_WHILE_LOADING = """
import os, runpy, signal, sys
class Interrupts:
    def find_spec(self, name, *_):
        if name == "hybrid.errors":
            signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's job in the background ignores it
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Interrupts())
sys.argv = ["hybrid", "--version"]
"""
SCRIPT = metadata.EntryPoint("hybrid", PROJECT["project"]["scripts"]["hybrid"], "console_scripts")


@pytest.mark.skipif(os.name != "posix", reason="no signals to send here")
@pytest.mark.parametrize(
    "start",
    [
        pytest.param(f"from {SCRIPT.module} import {SCRIPT.attr} as start\nsys.exit(start())", id="script"),
        pytest.param("runpy.run_module('hybrid', run_name='__main__')", id="module"),
    ],
)
def test_an_interrupt_while_the_command_loads_is_130_and_silent(start):
    """Ctrl-C in the first tenth of a second, before our own modules are there, is no traceback either."""
    done = python("-c", INTERRUPTED_WHILE_LOADING + start)
    assert (130, "", "") == (done.returncode, done.stdout, done.stderr)


def test_the_module_runs_as_the_command():
    """`python -m hybrid` is the same command."""
    done = python("-m", "hybrid", "--version")
    assert (0, f"hybrid {hybrid.__version__}\n") == (done.returncode, done.stdout)


CLOSED = """
import os
for number in (0, 1, 2):
    os.close(number)
os.execv({python!r}, [{python!r}, "-c", {script!r}])
"""


@pytest.mark.skipif(os.name != "posix", reason="no file descriptors here")
def test_closed_streams_are_no_place_for_a_file(tmp_path):
    """With `>&- 2>&- <&-` a command runs, and no file that it opens gets a stream's number, which a log would fill."""
    told = tmp_path / "told"
    script = f"""
import os
from hybrid.cli import main
code = main(["config", "schema"])
with open({str(told)!r}, "w") as file:
    file.write(f"{{code}} {{file.fileno() > 2}}")
"""
    done = python("-c", CLOSED.format(python=sys.executable, script=script))
    assert (0, "0 True") == (done.returncode, told.read_text())
