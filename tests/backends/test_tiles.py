"""Is a llama.cpp whose AMX ends the process found out before a model is loaded, and done without?"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from hybrid.backends import library, llama_cpp_context, tiles_trial
from hybrid.backends.base import BackendOptions
from hybrid.backends.matmul import Multiplier
from hybrid.errors import ModelFileError
from hybrid.gguf import GgufHeader, read_header


@pytest.fixture
def built_with_amx(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """As on a processor that has it; what is tried there is the test's to say."""
    monkeypatch.setattr(library, "_HAS_TILES", b"CPU : ")
    library.has_sound_tiles.cache_clear()
    yield monkeypatch
    monkeypatch.undo()
    library.has_sound_tiles.cache_clear()


def try_instead(patch: pytest.MonkeyPatch, folder: Path, program: str) -> None:
    trial = folder / "trial.py"
    trial.write_text(program)
    patch.setattr(tiles_trial, "__file__", str(trial))


def test_the_installed_library_is_sound():
    """The one that scripts/prepare.sh built: here it computes what is expected, or has no AMX to be tried."""
    command = [sys.executable, "-I", tiles_trial.__file__, library.llama.llama_cpp._lib._name]
    tried = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (tried.returncode, library.has_sound_tiles()) == (0, True), tried.stderr


@pytest.mark.parametrize(
    ("program", "why"),
    [
        ("import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)\n", "signal 11"),
        ("raise SystemExit(1)\n", "wrong products"),
    ],
)
def test_one_that_fails_is_done_without(
    built_with_amx: pytest.MonkeyPatch,
    tmp_path: Path,
    starter_model: Path,
    caplog: pytest.LogCaptureFixture,
    program: str,
    why: str,
):
    """The weights are then laid out as in the file, and the log says what is lost, once."""
    try_instead(built_with_amx, tmp_path, program)
    asked: list[Any] = []
    built_with_amx.setattr(library.llama, "llama_model_load_from_file", lambda _path, params: asked.append(params))
    for _ in range(2):
        with pytest.raises(ModelFileError):
            llama_cpp_context.load_model(read_header(starter_model), BackendOptions(model_path=tmp_path / "m.gguf"))
    assert [params.use_extra_bufts for params in asked] == [False, False]
    [warning] = [record.message for record in caplog.records if "AMX" in record.message]
    assert why in warning


def test_one_that_cannot_be_tried_is_not_trusted(
    built_with_amx: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    built_with_amx.setattr(library, "_TILES_LIMIT_S", 0.2)
    try_instead(built_with_amx, tmp_path, "import time\ntime.sleep(60)\n")
    assert not library.has_sound_tiles()
    assert "cannot be tried" in caplog.text


def test_a_sound_one_is_used(built_with_amx: pytest.MonkeyPatch, tmp_path: Path, starter_model: Path):
    try_instead(built_with_amx, tmp_path, "")
    asked: list[Any] = []
    built_with_amx.setattr(library.llama, "llama_model_load_from_file", lambda _path, params: asked.append(params))
    with pytest.raises(ModelFileError):
        llama_cpp_context.load_model(read_header(starter_model), BackendOptions(model_path=tmp_path / "m.gguf"))
    assert asked[0].use_extra_bufts


def of_format(header: GgufHeader, name: str, *, suffix: str = "") -> GgufHeader:
    """The same model with all matrices of one format."""
    return replace(
        header, tensors=tuple(replace(one, type_name=name, name=one.name + suffix) for one in header.tensors)
    )


@pytest.mark.parametrize(
    ("kind", "suffix", "multiplier", "version", "expected"),
    [
        ("Q4_K", "", "hybrid", 2, False),
        ("Q6_K", "", "hybrid", 3, False),
        ("Q4_1", "", "hybrid", 2, True),
        ("Q4_K", "", "ggml", 2, True),
        ("Q4_K", "", "hybrid", 1, True),
        ("Q4_K", "_exps.weight", "hybrid", 2, True),
    ],
)
def test_its_layout_is_asked_for_where_it_is_the_faster(
    built_with_amx: pytest.MonkeyPatch,
    tmp_path: Path,
    starter_model: Path,
    kind: str,
    suffix: str,
    multiplier: Multiplier,
    version: int,
    expected: bool,  # noqa: FBT001
):
    """K-quants are multiplied faster by ours with VNNI; who has not that, or wants ggml, keeps AMX."""
    try_instead(built_with_amx, tmp_path, "")
    built_with_amx.setattr(library, "_ours", SimpleNamespace(hybrid_matmul_support=lambda: version))
    built_with_amx.setattr(library, "_users", [multiplier])
    header = of_format(read_header(starter_model), kind, suffix=suffix)
    assert expected is library.wants_layouts(header, "auto")


def test_a_llama_cpp_without_amx_keeps_its_layouts(monkeypatch: pytest.MonkeyPatch, starter_model: Path):
    """Those of AVX2 are no slower beside ours."""
    monkeypatch.setattr(library, "_HAS_TILES", b"no such thing")
    assert library.wants_layouts(of_format(read_header(starter_model), "Q4_K"), "auto")


def test_wrong_products_are_told_from_right_ones(monkeypatch: pytest.MonkeyPatch):
    """What `main` compares with, where a multiplication gives what it should, or nothing at all."""
    right = [
        float(tiles_trial.LENGTH * (row % 7 + 1) * (column + 1))
        for column in range(tiles_trial.COLUMNS)
        for row in range(tiles_trial.ROWS)
    ]
    monkeypatch.setattr(tiles_trial.resource, "setrlimit", lambda *_: None)
    monkeypatch.setattr(tiles_trial, "_buffer_type", lambda _ggml: object())
    name = library.llama.llama_cpp._lib._name
    monkeypatch.setattr(tiles_trial, "_product", lambda *_: right)
    assert tiles_trial.main(name) == 0
    monkeypatch.setattr(tiles_trial, "_product", lambda *_: [0.0] * len(right))
    assert tiles_trial.main(name) == 1
