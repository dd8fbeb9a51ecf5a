"""Which module answers which `hybrid` command, and how does a command end?

Command modules are imported only when their command runs, so `--version` and `--help` stay instant.
Exit codes: 0 done, 1 failed, 2 bad usage, 130 interrupted.
"""

from __future__ import annotations

import codecs
import contextlib
import difflib
import importlib
import io
import os
import sys
from collections.abc import Callable, Sequence
from typing import NamedTuple

from hybrid import __version__
from hybrid.cli.printable import without_controls
from hybrid.errors import CommandError, HybridError


class Command(NamedTuple):
    """A command's module, which has `app: typer.Typer`, and its line in `hybrid --help`."""

    module: str
    summary: str


COMMANDS = {
    "serve": Command("hybrid.cli.serve", "Answer OpenAI-style requests here, and pay a cloud for the hard ones."),
    "chat": Command("hybrid.cli.chat", "Talk in the terminal; shows route, confidence and cost of each answer."),
    "bench": Command("hybrid.cli.bench", "Measure this machine and its models: speeds, roofs, and what to do next."),
    "devices": Command("hybrid.cli.devices", "Say what this machine has, what will be used, and why."),
    "models": Command("hybrid.cli.models", "List, recommend, pull, tune, show and remove local models."),
    "calibrate": Command(
        "hybrid.cli.calibrate", "Learn when local answers are right, and what may be promised of them."
    ),
    "eval": Command(
        "hybrid.cli.evaluate", "Measure local, cloud and hybrid on a dataset, with intervals and a picture."
    ),
    "config": Command("hybrid.cli.config", "Show, check or describe the configuration."),
    "report": Command("hybrid.cli.report", "Say what was answered where, and what it cost and saved."),
    "explain": Command("hybrid.cli.explain", "Replay one decision: the facts, each rule, the outcome."),
    "keys": Command("hybrid.cli.keys", "Add, list and revoke client API keys."),
}

EXTRAS = {"sklearn": "calibrate", "matplotlib": "calibrate"}
"""What some commands import beyond the base installation, and the extra that brings it."""
BAD_USAGE = 2
INTERRUPTED = 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run one `hybrid` command line and return its exit code; errors are one sentence on stderr."""
    args = list(sys.argv[1:] if argv is None else argv)
    _open_closed()
    _escape_unprintable()
    try:
        code = _dispatch(args)
        sys.stdout.flush()
    except HybridError as exc:
        _complain(str(exc))
        return exc.exit_code if isinstance(exc, CommandError) else 1
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        _drop_output()  # the reader (`head`, a pager) left
        return 1
    except OSError as exc:
        # A full disk behind `>`, a folder that may not be looked into: the machine's fault, and no traceback's worth.
        _complain(f"{exc.filename or 'cannot write or read'}: {exc.strerror or exc}")
        _drop_output()
        return 1
    except UnicodeEncodeError as exc:
        # Bytes of an argument or a file name that are no text; Python can carry them, SQLite and JSON cannot.
        _complain(f"{exc.object!r} holds bytes that are no UTF-8 text; type it in UTF-8, or rename the file")
        return 1
    return code


def _drop_output() -> None:
    """Give up on what was not written yet, or Python would complain of it once more at exit."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _open_closed() -> None:
    """Give a stream that the shell closed (`>&-`) somewhere to go.

    Its number would else go to the next file that is opened, the ledger perhaps, and llama.cpp's log be written there.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number, which is this one
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(number, "w" if number else "r", encoding="utf-8", closefd=False))


def _escape_unprintable() -> None:
    """Where a terminal's or pipe's encoding lacks a character, write it as JSON does instead of failing."""
    codecs.register_error("hybrid.escape", _escaped)
    for stream in (sys.stdout, sys.stderr):
        # A stream whose file was changed underneath it refuses, and stays as it is.
        with contextlib.suppress(OSError):
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(errors="hybrid.escape")


def _escaped(failed: UnicodeError) -> tuple[str, int]:
    if not isinstance(failed, UnicodeEncodeError):
        raise failed
    units = failed.object[failed.start : failed.end].encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{high:02x}{low:02x}" for high, low in zip(units[::2], units[1::2], strict=True)), failed.end


def _dispatch(args: list[str]) -> int:
    first = args[0] if args else None
    if first == "--version":
        print(f"hybrid {__version__}")
        return 0
    if first in ("--help", "-h"):
        print(_overview())
        return 0
    if first is None:
        _complain("which command?")
        print(_overview(), file=sys.stderr)
        return BAD_USAGE
    if first not in COMMANDS:
        return _reject(first)
    return _run(first, args[1:])


def _run(name: str, args: list[str]) -> int:
    """Hand the rest of the command line to the command's own parser."""
    try:
        app: Callable[..., object] = importlib.import_module(COMMANDS[name].module).app
    except ModuleNotFoundError as missing:
        package = (missing.name or "").partition(".")[0]
        if package not in EXTRAS:
            raise
        extra = EXTRAS[package]
        what = f"hybrid {name} needs {package}, which the extra {extra!r} brings"
        raise CommandError(f"{what}: .venv/bin/pip install '.[{extra}]' in the source tree") from missing
    try:
        app(args=args, prog_name=f"hybrid {name}")
    except SystemExit as exc:
        return exc.code if isinstance(exc.code, int) else int(exc.code is not None)
    return 0


def _reject(word: str) -> int:
    near = difflib.get_close_matches(word, COMMANDS, n=1, cutoff=0.5)
    kind = "option" if word.startswith("-") else "command"
    hint = f"did you mean {near[0]!r}? " if near and kind == "command" else ""
    _complain(f"no {kind} {word!r}; {hint}hybrid --help lists what there is")
    return BAD_USAGE


def _complain(message: str) -> None:
    # A message may quote a model file or a name, which must not steer the terminal.
    print(f"hybrid: {without_controls(message)}", file=sys.stderr)


def _overview() -> str:
    width = max(map(len, COMMANDS))
    commands = "\n".join(f"  {name:<{width}}  {command.summary}" for name, command in COMMANDS.items())
    return (
        "Usage: hybrid COMMAND [ARGUMENTS]\n\n"
        "Answers LLM requests on this machine and pays a cloud only for the hard ones.\n\n"
        f"Commands:\n{commands}\n\n"
        "Options:\n  --version  Print the version.\n  --help     Print this. hybrid COMMAND --help tells more."
    )
