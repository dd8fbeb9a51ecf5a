"""Does our matrix multiplication, called by ggml in place of its own, give what the weights and columns say?"""

from __future__ import annotations

import ctypes
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from hybrid.backends import library, llama_cpp_context, matmul
from hybrid.backends.base import BackendOptions, BatchEntry
from hybrid.backends.llama_cpp import LlamaCppBackend
from tests.backends.ggml_graph import BLOCKS, dequantise, ggml, multiply, quantise

Array = NDArray[np.float32]
OURS = ("q4_0", "q4_1", "q5_0", "q5_1", "q8_0", "q4_K", "q5_K", "q6_K")
TEXT = "The kettle had been on for some minutes before anybody in the house remembered that the gas was out. " * 3
# 0.004 seen over 97 tokens, where ggml's own rounding diverges by as much from the same weights in float32.
MOST_DIVERGENCE_NATS = 0.03
needs_ours = pytest.mark.skipif(matmul.find_pair() is None, reason="no AVX2, no Linux on x86-64, or another llama.cpp")


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    yield
    release_all()


def release_all() -> None:
    while library._users:
        library.release_multiplier()


def have(who: matmul.Matmul) -> matmul.Multiplier:
    """Let the next models have it; no model is open here."""
    release_all()
    return library.choose_multiplier(who)


def limit_versions(count: int) -> None:
    """Let ours use the first `count` of what this processor can run."""
    assert library._ours is not None
    library._ours.hybrid_matmul_limit(count)


def count_versions() -> int:
    pair = matmul.find_pair()
    return 0 if pair is None else int(ctypes.CDLL(str(pair.ours)).hybrid_matmul_support())


@pytest.fixture(params=["avx2", "vnni"])
def each_version(request: pytest.FixtureRequest) -> Iterator[None]:
    """Ours as compiled for AVX2 and, where the processor has it, for VNNI."""
    count = ["avx2", "vnni"].index(request.param) + 1
    if count > count_versions():
        pytest.skip(f"no {request.param}")
    limit_versions(count)
    yield
    limit_versions(count_versions())


def random(seed: int, *shape: int) -> Array:
    generator = np.random.default_rng(seed)
    return (generator.standard_normal(shape) * generator.uniform(0.1, 3.0, (*shape[:-1], 1))).astype(np.float32)


def rounding(weights: Array, columns: Array) -> NDArray[np.float64]:
    """The most that quantising 32 numbers of a column to -127 to 127 can change a product, and float32 adds to it."""
    blocks = columns.reshape(*columns.shape[:-1], -1, 32)
    steps = np.repeat(np.abs(blocks).max(axis=-1) / 127, 32, axis=-1).astype(np.float64)
    sizes = np.abs(weights.astype(np.float64)).T
    return 0.5 * steps @ sizes + 1e-5 * (np.abs(columns.astype(np.float64)) @ sizes) + 1e-6


def check(kind: str, rows: int, length: int, columns: Array, *, threads: int = 2) -> None:
    data = quantise(kind, random(1, rows, length))
    weights = dequantise(kind, data, (rows, length))
    assert have("hybrid") == "hybrid"
    ours = multiply(kind, data, rows, columns, threads=threads)
    exact = columns.astype(np.float64) @ weights.astype(np.float64).T
    assert (np.abs(ours - exact) <= rounding(weights, columns)).all()


def test_vnni_is_used_wherever_the_processor_has_it():
    """As Linux names what it has."""
    flags = set(Path("/proc/cpuinfo").read_text().split()) if sys.platform == "linux" else set()
    has_it = {"avx512f", "avx512bw", "avx512vl", "avx512_vnni"} <= flags
    assert count_versions() == 0 or has_it == (count_versions() == 2)


def test_ours_is_built_wherever_it_can_run():
    """Else the tests below would be skipped, and nobody would know."""
    flags = set(Path("/proc/cpuinfo").read_text().split()) if sys.platform == "linux" else set()
    can_run = platform.machine() == "x86_64" and {"avx2", "fma", "f16c"} <= flags
    fits = metadata.version("llama-cpp-python") in matmul.FITTING_VERSIONS
    assert (matmul.find_pair() is not None) == (can_run and fits)


@needs_ours
@pytest.mark.usefixtures("each_version")
@pytest.mark.parametrize("kind", OURS)
@pytest.mark.parametrize("rows", [1, 7, 8, 61])
@pytest.mark.parametrize("count", [2, 3, 5, 6, 7, 12, 13])
def test_each_format_within_the_rounding_of_its_columns(kind: str, rows: int, count: int):
    """Whatever remains of eight rows, of a tile of columns."""
    length = 2 * BLOCKS.get(kind, 32)
    check(kind, rows, length, random(2, count, length))


@needs_ours
@pytest.mark.usefixtures("each_version")
@pytest.mark.parametrize("threads", [1, 2, 3, 5])
@pytest.mark.parametrize(("rows", "length", "count"), [(200, 96, 301), (16, 1536, 97), (3000, 256, 4), (8, 32, 4)])
def test_threads_and_groups_share_all_of_it(threads: int, rows: int, length: int, count: int):
    """More columns than a group, more panels than threads, fewer blocks than threads."""
    check("q4_1", rows, length, random(3, count, length), threads=threads)


@needs_ours
@pytest.mark.usefixtures("each_version")
def test_columns_of_several_planes():
    """The columns of a batch of three dimensions are columns like any other."""
    check("q8_0", 24, 64, random(4, 3, 5, 64))


@needs_ours
@pytest.mark.usefixtures("each_version")
def test_a_column_of_zeros_gives_zeros():
    """Also beside one whose numbers are too small to be quantised, and one of which are large."""
    columns = random(5, 6, 64)
    columns[1], columns[2], columns[3] = 0, 1e-38, columns[3] * 1e30
    data = quantise("q4_0", random(1, 16, 64))
    have("hybrid")
    ours = multiply("q4_0", data, 16, columns)
    assert not ours[1:3].any()
    check("q4_0", 16, 64, columns)


@needs_ours
@pytest.mark.usefixtures("each_version")
@pytest.mark.parametrize("kind", OURS)
@pytest.mark.parametrize("at", [0, 5, 31])
@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf])
def test_what_is_no_number_stays_none(kind: str, at: int, number: float):
    """A model that has gone wrong shows it; its neighbours' columns are as they were."""
    length = BLOCKS.get(kind, 32)
    columns, data = random(5, 5, length), quantise(kind, random(1, 8, length))
    have("hybrid")
    before = multiply(kind, data, 8, columns)
    columns[2, at] = number
    after = multiply(kind, data, 8, columns)
    assert not np.isfinite(after[2]).any()
    assert np.array_equal(np.delete(before, 2, axis=0), np.delete(after, 2, axis=0))


@needs_ours
@pytest.mark.usefixtures("each_version")
@pytest.mark.parametrize("kind", OURS)
def test_the_largest_codes_do_not_overflow(kind: str):
    """Sums of 16 bits hold them: weights and columns at their ends, of either sign."""
    length = BLOCKS.get(kind, 32)
    weights = np.full((8, length), 7.0, dtype=np.float32)
    weights[:, ::2] *= -1
    weights[4:] = np.abs(weights[4:])
    data = quantise(kind, weights)
    exact = dequantise(kind, data, (8, length))
    columns = np.full((6, length), 3.0, dtype=np.float32)
    columns[1] *= -1
    columns[2, ::2] *= -1
    have("hybrid")
    ours = multiply(kind, data, 8, columns)
    assert np.allclose(ours, columns.astype(np.float64) @ exact.astype(np.float64).T, rtol=1e-4, atol=1e-2)


@needs_ours
def test_what_is_not_ours_goes_on_to_ggml():
    """Formats we have no code for, and single columns: the same bits with ours on and off."""
    for kind, count in [("q2_K", 8), ("q4_1", 1), ("q6_K", 1)]:
        columns = random(6, count, 256)
        data = quantise(kind, random(7, 16, 256))
        have("hybrid")
        with_ours = multiply(kind, data, 16, columns)
        have("ggml")
        assert np.array_equal(with_ours, multiply(kind, data, 16, columns))


@needs_ours
def test_it_can_be_switched_off():
    """Then the result has ggml's rounding, and not ours."""
    columns, data = random(8, 8, 256), quantise("q4_1", random(9, 16, 256))
    have("hybrid")
    ours = multiply("q4_1", data, 16, columns)
    assert have("ggml") == "ggml"
    theirs = multiply("q4_1", data, 16, columns)
    assert not np.array_equal(ours, theirs)
    assert np.allclose(ours, theirs, rtol=0.02, atol=0.2)


@needs_ours
@pytest.mark.parametrize("kind", OURS)
@pytest.mark.parametrize(("rows", "count"), [(61, 13), (32, 40), (9, 2)])
def test_both_versions_give_the_same_bits(kind: str, rows: int, count: int):
    """The sums of a block are whole numbers in both, and its floats are added in the same order."""
    if count_versions() < 2:
        pytest.skip("no AVX-512 with VNNI")
    columns, data = random(12, count, 768), quantise(kind, random(13, rows, 768))
    columns[1, 5] = np.nan
    have("hybrid")
    limit_versions(1)
    of_avx2 = multiply(kind, data, rows, columns)
    limit_versions(2)
    assert np.array_equal(of_avx2, multiply(kind, data, rows, columns), equal_nan=True)


@needs_ours
def test_several_graphs_at_once():
    """Two models in one process share nothing that one of them writes."""
    have("hybrid")
    jobs = [(random(20 + i, 5 + 40 * i, 512), quantise("q4_K", random(30 + i, 64, 512))) for i in range(4)]
    alone = [multiply("q4_K", data, 64, columns) for columns, data in jobs]
    with ThreadPoolExecutor(4) as pool:
        for _ in range(10):
            together = pool.map(lambda job: multiply("q4_K", job[1], 64, job[0]), jobs)
            assert all(np.array_equal(a, b) for a, b in zip(alone, together, strict=True))


def repacked(kind: str, length: int, rows: int, columns: int) -> tuple[bytes, bytes]:
    """Bytes as ggml's repack.h lays them out; the codes and six-bit factors are any bytes at all."""
    generator = np.random.default_rng(11)

    def halves(count: int) -> bytes:
        return generator.uniform(0.01, 0.1, count).astype(np.float16).tobytes()

    weights, numbers = [], []
    for _ in range(rows // 8 * (length // (256 if kind == "q4_K" else 32))):
        weights.append(halves(16) + generator.bytes(96 + 1024) if kind == "q4_K" else halves(8) + generator.bytes(128))
    for _ in range(columns // 4 * (length // (256 if kind == "q4_K" else 32))):
        codes = generator.integers(-128, 128, 1024 if kind == "q4_K" else 128).astype(np.int8)
        if kind == "q4_0":
            numbers.append(halves(4) + codes.tobytes())
            continue
        # Eight of each of four columns in turn; the sums of 16 likewise, four of each.
        of_column = codes.reshape(32, 4, 8).transpose(1, 0, 2).reshape(4, 16, 16).sum(axis=-1)
        sums = of_column.reshape(4, 4, 4).transpose(1, 0, 2).astype(np.int16)
        scales = generator.uniform(0.01, 0.1, 4).astype(np.float32)
        numbers.append(scales.tobytes() + codes.tobytes() + sums.tobytes())
    return b"".join(weights), b"".join(numbers)


@needs_ours
@pytest.mark.usefixtures("each_version")
@pytest.mark.parametrize(("kind", "name"), [("q4_K", "ggml_gemm_q4_K_8x8_q8_K"), ("q4_0", "ggml_gemm_q4_0_8x8_q8_0")])
@pytest.mark.parametrize(("length", "rows", "columns"), [(256, 8, 4), (768, 40, 12), (512, 16, 200)])
def test_repacked_weights_as_ggml_has_it(kind: str, name: str, length: int, rows: int, columns: int):
    """On the same bytes, the same products: only float32 sums in another order."""
    weights, numbers = repacked(kind, length, rows, columns)
    have("hybrid")
    results = []
    stride = rows + 3
    for code in (getattr(ctypes.CDLL(None), name), getattr(ggml(), name)):
        out = np.zeros((columns, stride), dtype=np.float32)
        code(length, out.ctypes.data_as(ctypes.c_void_p), ctypes.c_size_t(stride), weights, numbers, columns, rows)
        results.append(out)
    ours, theirs = results
    assert not ours[:, rows:].any()
    assert np.allclose(ours, theirs, rtol=1e-4, atol=1e-3 * np.abs(theirs).max())


@needs_ours
def test_a_model_computes_with_it(starter_model: Path, monkeypatch: pytest.MonkeyPatch):
    """The model says who multiplies, and its next tokens are about as likely as with ggml's."""
    monkeypatch.setattr(llama_cpp_context, "wants_layouts", lambda *_: False)  # what lies in AMX's layout is not ours
    rows = {}
    for who in ("hybrid", "ggml"):
        backend = LlamaCppBackend(BackendOptions(model_path=starter_model, context_tokens=64, slots=1, matmul=who))
        assert who == backend.facts.multiplier
        logits = backend.decode([BatchEntry(0, backend.tokenize(TEXT)[:32], 0, logits=32)]).astype(np.float64)
        rows[who] = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
        backend.close()
    ours, theirs = rows["hybrid"], rows["ggml"]
    divergence_nats = (np.exp(theirs) * (theirs - ours)).sum(axis=-1).mean()
    assert 0 < divergence_nats < MOST_DIVERGENCE_NATS


@needs_ours
def test_the_first_open_model_decides(starter_model: Path):
    """Nothing is switched under a graph that is computed; when the last is closed, the next decides anew."""
    release_all()
    first = LlamaCppBackend(BackendOptions(model_path=starter_model, context_tokens=64, slots=1, matmul="ggml"))
    second = LlamaCppBackend(BackendOptions(model_path=starter_model, context_tokens=64, slots=1, matmul="hybrid"))
    assert "ggml" == first.facts.multiplier == second.facts.multiplier
    first.close()
    second.close()
    assert library.choose_multiplier("hybrid") == "hybrid"


def run_python(code: str, **environment: str) -> str:
    command = [sys.executable, "-c", code]
    env = {**os.environ, **environment}
    return subprocess.run(command, capture_output=True, text=True, check=True, env=env).stdout.strip()


CHOSEN = "from hybrid.backends import library; print(library.choose_multiplier('hybrid'))"


@needs_ours
@pytest.mark.parametrize("variable", ["LLAMA_CPP_LIB_PATH", "LD_LIBRARY_PATH"])
def test_libraries_from_elsewhere_keep_their_own(tmp_path: Path, variable: str):
    """Nobody has looked at these; theirs are the functions that are called, not those of the package beside them."""
    pair = matmul.find_pair()
    assert pair is not None
    copies = shutil.copytree(pair.ggml.parent, tmp_path / "lib")
    said = run_python(CHOSEN + "; print(open('/proc/self/maps').read())", **{variable: str(copies)})
    who, maps = said.split("\n", 1)
    assert who == "ggml"
    assert str(copies / "libggml-cpu.so") in maps
    assert str(pair.ggml) not in maps


@needs_ours
def test_where_llama_cpp_came_first_its_own_stays():
    """The linker has bound to the first definition; that is seen, and said."""
    assert run_python(f"import llama_cpp; {CHOSEN}") == "ggml"
    assert run_python(CHOSEN) == "hybrid"


@needs_ours
def test_ours_is_switched_off_where_ggml_does_not_call_it():
    """Whoever linked ggml in another way: the trial of the start sees that nothing comes to ours."""
    code = (
        "import ctypes; from hybrid.backends import matmul; pair = matmul.find_pair();"
        "first = ctypes.CDLL(str(pair.ggml), mode=ctypes.RTLD_GLOBAL);"
    )
    assert run_python(code + CHOSEN) == "ggml"


def test_knowing_who_multiplies_loads_no_llama_cpp():
    """The gateway and the commands ask for it."""
    code = (
        "import sys; from hybrid.backends.matmul import who_multiplies as who; who(); print('llama_cpp' in sys.modules)"
    )
    assert run_python(code) == "False"


@pytest.fixture
def fresh(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    matmul.find_pair.cache_clear()
    yield monkeypatch
    monkeypatch.undo()
    matmul.find_pair.cache_clear()


@pytest.mark.parametrize("version", ["0.3.35", "0.3.37", "0.3.36+cu124"])
def test_another_llama_cpp_keeps_its_own(fresh: pytest.MonkeyPatch, version: str):
    """Nobody has looked whether its structures are those that we name."""
    fresh.setattr(matmul.metadata, "version", lambda _name: version)
    assert matmul.find_pair() is None
    assert (matmul.who_multiplies("hybrid"), matmul.multiplier_version()) == ("ggml", "ggml")


def test_where_ours_was_not_built_ggml_multiplies(fresh: pytest.MonkeyPatch):
    """As on ARM or macOS."""
    fresh.setattr(matmul, "_LIBRARY", "libhybrid_nothing.so")
    assert matmul.who_multiplies("hybrid") == "ggml"


@pytest.mark.parametrize(("wanted", "who"), [("auto", "hybrid"), ("hybrid", "hybrid"), ("ggml", "ggml")])
def test_who_multiplies(fresh: pytest.MonkeyPatch, wanted: matmul.Matmul, who: str):
    """Ours, unless somebody asks for ggml's."""
    fresh.setattr(matmul, "find_pair", lambda: matmul.Pair(Path("ours.so"), Path("ggml.so")))
    assert who == matmul.who_multiplies(wanted)
