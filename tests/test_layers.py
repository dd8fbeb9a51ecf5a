"""Do imports point down the layers, as the design's section 2 draws them? Each violation is named."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

VOCABULARY = {"types", "errors", "fingerprints", "gguf", "gguf_format"}
DECISIONS = {"policy", "pricing"}
EFFECTS = {"engine", "backends", "native", "providers", "devices", "store", "catalog"}
CONFIG = {"config", "config_checks", "config_file", "config_schema", "config_secrets", "config_words"}
REQUEST = {
    "admission",
    "artefact",
    "promise_book",
    "attempt",
    "audit",
    "drawn",
    "drift_book",
    "embed",
    "further",
    "journal",
    "latencies",
    "labelling",
    "local_answer",
    "local_request",
    "lora",
    "prefixes",
    "promised",
    "race",
    "reasoned",
    "rejection",
    "resumed",
    "runtime_options",
    "speeds",
    "structured",
}
RECORD = {"explained", "plain", "record"}
OFFLINE = {"calibration", "tuning"}
MONEY = {"budgets", "forecast", "pacer", "price_book", "standing"}
ORCHESTRATION = (
    REQUEST
    | RECORD
    | MONEY
    | OFFLINE
    | {"runtime", "clouds", "climb", "cloud_health", "cloud_kinds", "glance", "ids", "wiring", "placing", "telemetry"}
)
ENTRY = {"server", "cli", "__main__"}
ROOT_PACKAGE = "__init__"
"""hybrid/__init__.py holds the version, which anyone may read."""

ARROWS = {"engine": {"backends", "native"}, "backends": {"native"}, "devices": {"backends", "native"}}
"""Effects that may import other effects."""

PURE = {
    f"hybrid.devices.{name}"
    for name in ("host", "mending", "needs", "nominal", "placement", "rates", "recommend")
}  # fmt: skip
"""Modules of effects that decide nevertheless, and so are pure: `devices` has its decisions beside its facts."""
PURE_MAY_IMPORT = {"hybrid.devices.shape"}
"""Values beside a reader of headers, which the vocabulary's own modules do."""

VALUE_MODULES = {
    "__future__", "bisect", "collections", "dataclasses", "datetime", "decimal", "enum", "fractions",
    "functools", "itertools", "math", "re", "statistics", "typing", "zlib", "zoneinfo",
}  # fmt: skip
"""The standard library's modules of values: what a pure module may import. zlib: its checksums."""

IMPURE_NAMES = {"now", "utcnow", "today"}
"""Methods of datetime's classes that read the clock."""

ENVIRONMENT = {"environ", "environb", "getenv"}

LATE_IMPORTS = {
    "hybrid.__main__": {"hybrid.cli": "Ctrl-C while it loads must meet a handler"},
    "hybrid.server.run": {"uvloop": "optional: not on every platform"},
    "hybrid.wiring": {
        "hybrid.cloud_kinds": "a machine without a cloud loads no HTTP client",
    },
    "hybrid.price_book": {
        "hybrid.providers.prices": "the price table is read only where a cloud has no price of yours",
    },
    "hybrid.cloud_kinds": {
        "hybrid.providers.openai": "a kind is loaded only where a cloud is of that kind",
        "hybrid.providers.anthropic": "a kind is loaded only where a cloud is of that kind",
        "hybrid.providers.gemini": "a kind is loaded only where a cloud is of that kind",
    },
    "hybrid.backends.llama_run": {"hybrid.native._native": "runs exist only where the extension was built"},
    "hybrid.providers.tokenizers": {"tiktoken": "an extra; takes 0.1 s to load, and only a long prompt needs it"},
    "hybrid.providers.wire": {"httpx2": "knows the trusted certificates, which plain HTTP does not need"},
    "hybrid.catalog.hub": {"huggingface_hub": "takes 0.3 s to load, and only a pull from Hugging Face needs it"},
    "hybrid.providers.prices": {"genai_prices": "its tables take 0.1 s to load, and only a cloud needs them"},
    "hybrid.backends.fake": {"llguidance": "takes 0.1 s to load, and only constrained answers need it"},
    "hybrid.backends.llama_cpp": {"llguidance.llamacpp": "takes 0.1 s to load, and only constrained answers need it"},
    "hybrid.engine.compiler": {"hybrid.engine.constraint": "loads llguidance, which only constrained answers need"},
    "hybrid.engine.loading": {
        "hybrid.backends.fake": "the worker loads the one backend it was told to run",
        "hybrid.backends.llama_cpp": "the worker loads the one backend it was told to run",
    },
    "hybrid.devices.measure_process": {
        "hybrid.backends.fake": "the measuring process loads the one backend it was told to run",
        "hybrid.backends.llama_cpp": "the measuring process loads the one backend it was told to run",
    },
    "hybrid.devices.power": {"pynvml": "optional: only where a GPU computes"},
    "hybrid.cli.serve": {
        "hybrid.server": "a port in use or a bad model is told before the HTTP server is loaded",
    },
    "hybrid.cli.local_model": {"hybrid.cli.models": "the progress bar is loaded only for a download"},
}
"""Imports inside functions, by module and what they import (or its package), with the reason."""


def allowed(unit: str) -> set[str]:
    """Name the units of hybrid/ that `unit` may import, itself among them."""
    if unit in VOCABULARY or unit == ROOT_PACKAGE:
        return VOCABULARY
    if unit in DECISIONS:
        return DECISIONS | VOCABULARY
    if unit in EFFECTS:
        return {unit} | ARROWS.get(unit, set()) | VOCABULARY
    if unit in CONFIG:
        return CONFIG | VOCABULARY
    if unit in ORCHESTRATION:
        return ORCHESTRATION | CONFIG | DECISIONS | EFFECTS | VOCABULARY
    if unit == "server":
        return {"server"} | ORCHESTRATION | CONFIG | VOCABULARY
    return ENTRY | ORCHESTRATION | CONFIG | EFFECTS | VOCABULARY


def violations(module: str, source: str) -> Iterator[str]:
    """Name each way in which a module, such as `hybrid.store.db`, breaks the layers."""
    unit = module.removeprefix("hybrid").removeprefix(".").partition(".")[0] or ROOT_PACKAGE
    if unit not in VOCABULARY | DECISIONS | EFFECTS | CONFIG | ORCHESTRATION | ENTRY | {ROOT_PACKAGE}:
        yield f"{module} has no layer: place {unit!r} in tests/test_layers.py and in the design"
        return
    tree = ast.parse(source)
    is_pure = unit in DECISIONS or module in PURE
    for imported, line in imports(tree):
        where = f"{module}:{line}"
        if imported.startswith("."):
            yield f"{where} imports {imported} relatively; write the whole name"
        elif imported.partition(".")[0] == "hybrid":
            target = imported.removeprefix("hybrid").removeprefix(".").partition(".")[0] or ROOT_PACKAGE
            if module in PURE and imported not in PURE | PURE_MAY_IMPORT:
                yield f"{where} imports {imported}; a pure module of {unit} imports only its like"
            elif target != ROOT_PACKAGE and target not in allowed(unit):
                yield f"{where} imports {imported}; {unit} may import {', '.join(sorted(allowed(unit)))}"
        elif is_pure and imported.partition(".")[0] not in VALUE_MODULES:
            yield f"{where} imports {imported}; a pure module imports only the standard library's value modules"
        elif unit in VOCABULARY and not is_standard(imported):
            yield f"{where} imports {imported}; the vocabulary imports only the standard library"
    yield from _environment_reads(module, unit, tree)
    yield from _late_imports(module, tree)
    yield from _hidden_imports(module, unit, tree)
    if is_pure:
        yield from _clock_reads(module, tree)


def imports(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """Yield each imported module and its line; `from hybrid import x` is `hybrid.x`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            if node.level:
                yield f"{'.' * node.level}{node.module or ''}", node.lineno
            elif node.module == "hybrid":
                names = (alias.name for alias in node.names)
                yield from (("hybrid" if name.startswith("__") else f"hybrid.{name}", node.lineno) for name in names)
            else:
                yield str(node.module), node.lineno


def is_standard(imported: str) -> bool:
    """Whether a module is the standard library's."""
    return imported.partition(".")[0] in sys.stdlib_module_names


def _environment_reads(module: str, unit: str, tree: ast.AST) -> Iterator[str]:
    if unit not in DECISIONS | EFFECTS | VOCABULARY | {"server"}:
        return
    # {**os.environ, ...} only hands the environment on to a child process.
    handed_on = {
        id(value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Dict)
        for key, value in zip(node.keys, node.values, strict=True)
        if key is None
    }
    for node in ast.walk(tree):
        named = isinstance(node, ast.Attribute) and node.attr in ENVIRONMENT and id(node) not in handed_on
        taken = isinstance(node, ast.ImportFrom) and node.module == "os"
        if named or (taken and ENVIRONMENT & {alias.name for alias in node.names}):
            yield f"{module}:{node.lineno} reads the environment; a leaf takes options"


def _hidden_imports(module: str, unit: str, tree: ast.AST) -> Iterator[str]:
    if unit in ENTRY:
        return
    for node in ast.walk(tree):
        name = node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""
        if name in ("import_module", "__import__"):
            yield f"{module}:{node.lineno} calls {name}, which hides an import from this test"


def _clock_reads(module: str, tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and node.attr in IMPURE_NAMES:
            yield f"{module}:{node.lineno} calls {node.attr}; a pure module is given the time"


def _late_imports(module: str, tree: ast.AST) -> Iterator[str]:
    reasons = LATE_IMPORTS.get(module, {})
    for function in ast.walk(tree):
        if not isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        for imported, line in imports(function):
            parts = imported.split(".")
            if not any(".".join(parts[:depth]) in reasons for depth in range(1, len(parts) + 1)):
                yield f"{module}:{line} imports {imported} inside a function; move it up, or give LATE_IMPORTS a reason"


def modules() -> Iterator[tuple[str, Path]]:
    """Yield every module of hybrid/ with its file."""
    for path in sorted((ROOT / "hybrid").rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts), path


@pytest.mark.parametrize(("module", "path"), [pytest.param(*found, id=found[0]) for found in modules()])
def test_a_module_keeps_to_its_layer(module, path):
    """No import points up or sideways, no leaf reads the environment, no import hides in a function."""
    assert [] == list(violations(module, path.read_text(encoding="utf-8")))


def test_every_late_import_is_still_there():
    """An exception nobody needs any more is removed."""
    sources = {module: path.read_text(encoding="utf-8") for module, path in modules()}
    stale = [
        f"{module}: {imported}"
        for module, reasons in LATE_IMPORTS.items()
        for imported in reasons
        if not any(
            name == imported or name.startswith(f"{imported}.") for name, _ in imports(ast.parse(sources[module]))
        )
    ]
    assert [] == stale


@pytest.mark.parametrize(
    ("module", "source", "expected"),
    [
        pytest.param("hybrid.types", "import hybrid.policy", "imports hybrid.policy; types may", id="vocabulary-up"),
        pytest.param("hybrid.gguf", "import numpy", "only the standard library", id="vocabulary-third-party"),
        pytest.param(
            "hybrid.policy.route", "from hybrid.store import db", "imports hybrid.store;", id="pure-to-effect"
        ),
        pytest.param(
            "hybrid.store.db", "from hybrid.policy.model import Reason", "hybrid.policy.model", id="effect-to-pure"
        ),
        pytest.param("hybrid.store.db", "import hybrid.pricing", "imports hybrid.pricing", id="effect-to-pricing"),
        pytest.param(
            "hybrid.pricing", "import hybrid.providers.prices", "imports hybrid.providers", id="pricing-to-effect"
        ),
        pytest.param("hybrid.store.db", "from hybrid import catalog", "imports hybrid.catalog", id="effect-to-effect"),
        pytest.param("hybrid.native", "import hybrid.backends.base", "imports hybrid.backends", id="arrow-backwards"),
        pytest.param("hybrid.backends.fake", "import hybrid.engine", "imports hybrid.engine", id="arrow-backwards-too"),
        pytest.param("hybrid.engine.worker", "import hybrid.config", "imports hybrid.config", id="leaf-reads-config"),
        pytest.param("hybrid.engine.worker", "import os\nos.environ['X']", "reads the environment", id="leaf-environ"),
        pytest.param("hybrid.store.db", "from os import getenv", "reads the environment", id="leaf-getenv"),
        pytest.param("hybrid.config", "import hybrid.engine", "imports hybrid.engine", id="config-to-effect"),
        pytest.param("hybrid.runtime", "import hybrid.cli.serve", "imports hybrid.cli", id="orchestration-up"),
        pytest.param("hybrid.server.app", "import hybrid.store.ledger", "imports hybrid.store", id="server-to-effect"),
        pytest.param("hybrid.server.app", "import hybrid.cli", "imports hybrid.cli", id="server-to-cli"),
        pytest.param("hybrid.cli.report", "import hybrid.policy", "imports hybrid.policy", id="cli-to-decision"),
        pytest.param("hybrid.policy.route", "import time", "value modules", id="pure-time"),
        pytest.param("hybrid.devices.placement", "import os", "value modules", id="pure-placement"),
        pytest.param(
            "hybrid.devices.placement", "import hybrid.devices.probe", "imports only its like", id="pure-to-probe"
        ),
        pytest.param("hybrid.policy.route", "import random", "value modules", id="pure-random"),
        pytest.param("hybrid.policy.route", "import logging", "value modules", id="pure-logging"),
        pytest.param("hybrid.pricing", "import numpy as np", "value modules", id="pure-third-party"),
        pytest.param("hybrid.pricing", "from datetime import datetime\ndatetime.now()", "calls now", id="pure-clock"),
        pytest.param("hybrid.store.db", "def f():\n    import json", "inside a function", id="late"),
        pytest.param("hybrid.server.run", "async def f():\n    import json", "inside a function", id="late-other"),
        pytest.param("hybrid.store.db", "from .rows import x", "relatively", id="relative"),
        pytest.param(
            "hybrid.store.db", "import importlib\nimportlib.import_module(x)", "hides an import", id="importlib"
        ),
        pytest.param("hybrid.utils", "", "hybrid.utils has no layer", id="unplaced"),
    ],
)
def test_a_planted_violation_is_caught(module, source, expected):
    """The checker finds each kind of violation, and names the module and the line."""
    found = list(violations(module, source))
    assert 1 == len(found), found
    assert expected in found[0]
    assert found[0].startswith(module)


@pytest.mark.parametrize(
    ("module", "source"),
    [
        pytest.param(
            "hybrid.engine.worker", "from hybrid.backends.base import Backend\nimport hybrid.native", id="arrows"
        ),
        pytest.param(
            "hybrid.policy.route", "from decimal import Decimal\nimport hybrid.types, hybrid.pricing", id="pure"
        ),
        pytest.param("hybrid.runtime", "import hybrid.policy.route, hybrid.store.ledger, time", id="runtime-sees-both"),
        pytest.param("hybrid.store.db", "from hybrid import __version__\nimport hybrid.gguf", id="down"),
        pytest.param("hybrid.catalog.wheel", "import os\nchild = {**os.environ, 'TMPDIR': x}", id="environ-handed-on"),
        pytest.param("hybrid.cli.serve", "import os, hybrid.server.run\nos.environ", id="entry"),
        pytest.param("hybrid.server.run", "def f():\n    import uvloop", id="late-with-reason"),
    ],
)
def test_what_the_design_allows_is_not_complained_of(module, source):
    """The checker lets the arrows of the design through."""
    assert [] == list(violations(module, source))
