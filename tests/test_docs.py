"""Do README, example and help tell the truth: is each command run by something, each key and option explained?"""

from __future__ import annotations

import importlib
import itertools
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import typer.main

from hybrid.cli import COMMANDS
from hybrid.config import OTHER_VARIABLES, json_schema, load

ROOT = Path(__file__).resolve().parent.parent
README = ROOT / "README.md"
EXAMPLE = ROOT / "hybrid.example.toml"

RUN_BY = {
    "scripts/serve": "tests/test_scripts.py",
    "scripts/test": ".ci/run",
    "scripts/check": ".ci/run",
    "curl": "tests/e2e/test_main_job.py",
    "hybrid --version": "tests/cli/test_main.py",
    "hybrid --help": "tests/cli/test_main.py",
    "hybrid serve": "tests/e2e/test_main_job.py",
    "hybrid bench": "tests/cli/test_bench.py",
    "hybrid chat": "tests/cli/test_chat.py",
    "hybrid devices": "tests/cli/test_devices.py",
    "hybrid models tune": "tests/cli/test_models_tune.py",
    "hybrid calibrate": "tests/cli/test_calibrate.py",
    "hybrid eval": "tests/cli/test_calibrate.py",
    "hybrid models": "tests/cli/test_models.py",
    "hybrid config": "tests/cli/test_config.py",
    "hybrid report": "tests/cli/test_report.py",
    "hybrid explain": "tests/cli/test_explain.py",
    "hybrid keys": "tests/cli/test_keys.py",
}
"""How a README command begins, and the script that runs it, or the tests that run the same command in the small."""


SEPARATORS = {";", "&&", "||", "|", "&"}


def shell_commands(text: str) -> Iterator[list[str]]:
    """Yield the words of each command in the ```sh blocks of a page; pipes and && separate commands."""
    for block in re.findall(r"^```sh\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            yield from _commands_of(line)


def _commands_of(line: str) -> Iterator[list[str]]:
    lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    for is_separator, group in itertools.groupby(lexer, SEPARATORS.__contains__):
        # X=1 in front of a command sets a variable for it.
        words = list(itertools.dropwhile(re.compile(r"\w+=").match, group))
        if words and not is_separator:
            yield [words[0].removeprefix(".venv/bin/"), *words[1:]]


def pages() -> list[Path]:
    """The documentation a user reads: at the top, and one README a package."""
    return [ROOT / "CONTRIBUTING.md", README, *sorted((ROOT / "hybrid").rglob("README.md"))]


def command_lines() -> Iterator[tuple[str, list[str]]]:
    """Yield each `hybrid` command, such as `hybrid config show`, with its options as --help lists them."""
    for name, command in COMMANDS.items():
        top = typer.main.get_command(importlib.import_module(command.module).app)
        yield from _walk(f"hybrid {name}", top)


def _walk(path: str, command: Any) -> Iterator[tuple[str, list[str]]]:
    options = [max(param.opts, key=len) for param in command.params if param.opts[0].startswith("-")]
    yield path, [option for option in options if option != "--help"]
    for name, child in getattr(command, "commands", {}).items():
        yield from _walk(f"{path} {name}", child)


def test_every_readme_command_is_run():
    """Each command in the README's sh blocks is run by a script or a test that exists."""
    unknown = []
    for words in shell_commands(README.read_text(encoding="utf-8")):
        runner = next((RUN_BY[start] for start in RUN_BY if words[: len(start.split())] == start.split()), None)
        if runner is None or not (ROOT / runner).exists():
            unknown.append(shlex.join(words))
    assert [] == unknown


def test_the_readme_uses_commands_and_options_that_exist():
    """No `hybrid` command line in any page names a command or an option that --help does not know."""
    known = dict(command_lines())
    wrong = []
    for page in pages():
        for words in shell_commands(page.read_text(encoding="utf-8")):
            if words[0] != "hybrid" or words[1:2] in (["--version"], ["--help"]):
                continue
            path = max((name for name in known if words[: len(name.split())] == name.split()), key=len, default="")
            given = [word.partition("=")[0] for word in words if word.startswith("--")]
            wrong += [f"{page.name}: {shlex.join(words)}"] if not path or set(given) - {*known[path], "--help"} else []
    assert [] == wrong


def test_every_command_and_option_is_in_the_docs():
    """What --help offers, a page explains: each command by its name, each option by its spelling."""
    text = "\n".join(page.read_text(encoding="utf-8") for page in pages())
    missing = [
        f"{path} {option}".strip()
        for path, options in command_lines()
        for option in ["", *options]
        if not re.search(rf"(?<![\w-]){re.escape(option or path)}(?![\w-])", text)
    ]
    assert [] == missing


def test_every_variable_is_in_the_docs():
    """The HYBRID_ variables that are no configuration key are explained on a page."""
    text = "\n".join(page.read_text(encoding="utf-8") for page in pages())
    assert [] == [name for name in OTHER_VARIABLES if name not in text]


def test_links_lead_somewhere():
    """Each relative link of each page is to a file of this repository."""
    broken = [
        f"{page.relative_to(ROOT)}: {target}"
        for page in pages()
        for target in re.findall(r"\]\(([^)#\s]+)", page.read_text(encoding="utf-8"))
        if "://" not in target and not (page.parent / target).exists()
    ]
    assert [] == broken


def test_the_readme_is_short():
    """The README keeps to 200 lines."""
    assert len(README.read_text(encoding="utf-8").splitlines()) <= 200


def test_the_example_loads():
    """hybrid.example.toml is a right configuration, and nothing in it needs a warning."""
    loaded = load(EXAMPLE, {})
    assert 1 == len(loaded.config.cloud)
    assert () == loaded.warnings


def test_the_example_has_every_key():
    """Each key of the schema stands in the example under its table, set or as a comment, and nothing else does."""
    lines: dict[str, set[str]] = {}
    table = ""
    for line in EXAMPLE.read_text(encoding="utf-8").splitlines():
        if opened := re.match(r"(?:# )?\[+(\w+)", line):
            table = opened[1]
        elif key := re.match(r"(?:# )?([a-z_]+) = ", line):
            lines.setdefault(table, set()).add(key[1])
    definitions = json_schema()["$defs"]
    tables = {name: name.capitalize() for name in ("server", "local", "cloud", "lora", "policy", "budget")}
    named = {"tags": "Tag", "prices": "Price"}
    expected = {name: set(definitions[f"{kind}Config"]["properties"]) for name, kind in tables.items()}
    assert {
        **expected,
        **{name: set(definitions[f"{kind}Config"]["properties"]) for name, kind in named.items()},
    } == lines


def test_the_example_shows_the_defaults():
    """A value the example sets without need is the default, so that copying a line changes nothing by surprise."""
    loaded, default = load(EXAMPLE, {}), load(None, {"HOME": "/nonexistent"})
    chosen = {"ttft_ms", "total_ms", "usd_per_day"}
    changed = [
        f"{section}.{key}"
        for section in ("server", "local", "policy", "budget")
        for key, value in msgspec.structs.asdict(getattr(loaded.config, section)).items()
        if key not in chosen and value != getattr(getattr(default.config, section), key)
    ]
    assert [] == changed


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("```sh\na b  # why\n```\n", [["a", "b"]], id="comment"),
        pytest.param("```sh\na \\\n  b | c && d &\n```\n", [["a", "b"], ["c"], ["d"]], id="joined-and-split"),
        pytest.param("```sh\nX=1 .venv/bin/a 'b c'\n\n```\n", [["a", "b c"]], id="variable-and-quotes"),
        pytest.param("```toml\na = 1\n```\n", [], id="other-language"),
    ],
)
def test_shell_blocks_are_read(text, expected):
    """Commands are found as a shell would split them."""
    assert expected == list(shell_commands(text))
