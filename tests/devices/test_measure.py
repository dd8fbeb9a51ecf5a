"""Does measuring a model in a process of its own give every figure, leave out what it must, and say why it failed?"""

from __future__ import annotations

import os
from pathlib import Path

import msgspec
import pytest

from hybrid.devices.measure import measure_model
from hybrid.devices.measure_process import measure_here
from hybrid.devices.speed import Figure, Progressed, SpeedPlan, ThreadSpeed, best_threads, figure
from hybrid.errors import LocalFailure
from tests.tiny_gguf import TinyGguf

SMALL = SpeedPlan(
    model_path="",
    backend="fake",
    context_tokens=512,
    prefill_tokens=(8, 32),
    decode_sequences=(1, 4),
    depth_tokens=8,
    decode_steps=4,
    first_token_prompt=16,
    thread_counts=(1,),
    rounds=2,
)


def exact(value: float) -> Figure:
    """A figure without spread."""
    return Figure(value, value, value, 1)


def test_every_figure_asked_for_is_there():
    """Each length, number of sequences and of threads has a figure of as many samples as there were rounds."""
    speed = measure_model(SMALL)
    assert ([8, 32], [1, 4]) == (list(speed.prefill_tok_s), list(speed.decode_tok_s))
    assert speed.ttft_s is not None
    figures = [*speed.prefill_tok_s.values(), *speed.decode_tok_s.values(), speed.ttft_s]
    assert {2} == {one.n for one in figures}
    assert all(0 < one.low <= one.median <= one.high for one in figures)
    assert ([1], None, ()) == ([one.threads for one in speed.by_threads], speed.best_threads, speed.left_out)


def test_progress_rises_to_the_end():
    """The shares told never fall and stay in [0, 1], and loading is told first."""
    told: list[Progressed] = []
    measure_here(SMALL, told.append)
    shares = [one.share for one in told]
    assert "loading" == told[0].what
    assert shares == sorted(shares)
    assert shares[-1] < 1


def test_what_the_context_cannot_hold_is_left_out_and_told():
    """A prompt or a number of sequences beyond the context is named with both numbers; the rest is measured."""
    plan = msgspec.structs.replace(SMALL, prefill_tokens=(8, 513), decode_sequences=(1, 43))
    speed = measure_here(plan, lambda _: None)
    assert ([8], [1]) == (list(speed.prefill_tok_s), list(speed.decode_tok_s))
    assert {
        "a prompt of 513 tokens: needs 513 tokens, the context holds 512",
        "43 sequences together: needs 516 tokens, the context holds 512",
    } == set(speed.left_out)


def test_what_the_time_does_not_allow_is_left_out_and_told():
    """With next to no time the run still ends, and each figure that is missing is named with the reason."""
    speed = measure_here(msgspec.structs.replace(SMALL, budget_s=1e-9), lambda _: None)
    assert {} == {**speed.prefill_tok_s, **speed.decode_tok_s}
    assert 6 == len(speed.left_out)
    assert all("would take" in reason for reason in speed.left_out)


def test_memory_is_told():
    """The process's largest memory is there, and not smaller after the load than before it."""
    speed = measure_model(SMALL)
    assert speed.rss_bytes is not None
    assert speed.rss_before_bytes is not None
    assert 0 < speed.rss_before_bytes <= speed.rss_bytes


@pytest.mark.parametrize(
    ("plan", "expected"),
    [
        pytest.param(SpeedPlan(model_path="/nowhere.gguf"), "/nowhere.gguf", id="no-file"),
        pytest.param(
            msgspec.structs.replace(SMALL, backend="llama_cpp", model_path="{tiny}"), "cannot load it", id="no-model"
        ),
    ],
)
def test_a_model_that_cannot_be_loaded_is_a_failure_with_its_reason(tmp_path, plan, expected):
    """What the backend says reaches the caller as LocalFailure."""
    tiny = tmp_path / "tiny.gguf"
    tiny.write_bytes(TinyGguf().build())
    plan = msgspec.structs.replace(plan, model_path=plan.model_path.format(tiny=tiny))
    with pytest.raises(LocalFailure, match=expected):
        measure_model(plan)


def test_a_process_that_dies_is_told_of():
    """A process that cannot even start Python ends the call with its last line, not with silence."""
    with pytest.raises(LocalFailure, match=r"the measuring process ended with status \d+; it said: "):
        measure_model(SMALL, environment={**os.environ, "PYTHONHOME": "/nowhere"})


def test_interrupting_ends_the_process():
    """An exception out of the progress callback, as Ctrl-C is, leaves no process behind."""
    before = children()

    def interrupt(_: Progressed) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        measure_model(SMALL, on_progress=interrupt)
    assert before == children()


def children() -> list[str]:
    """The processes this one has started."""
    return Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()


def test_a_real_model_is_measured(starter_model):
    """llama.cpp with options of every kind: threads, a batch raised to its least, flash attention, cache formats."""
    plan = msgspec.structs.replace(
        SMALL,
        backend="llama_cpp",
        model_path=str(starter_model),
        rounds=1,
        threads=2,
        thread_counts=(1, 2),
        batch_tokens=16,
        flash_attention=True,
        key_cache="q8_0",
        value_cache="q8_0",
    )
    speed = measure_model(plan, environment={**os.environ, "GOMP_SPINCOUNT": "1000"})
    assert ("smollm2-135m", 2, 4 + 32, [1, 2]) == (
        speed.name,
        speed.threads,
        speed.batch_tokens,
        [one.threads for one in speed.by_threads],
    )
    assert speed.rss_bytes is not None
    assert speed.file_bytes < speed.rss_bytes


def test_a_cache_format_that_is_none_is_refused(starter_model):
    """The formats there are, are listed."""
    plan = msgspec.structs.replace(SMALL, backend="llama_cpp", model_path=str(starter_model), key_cache="q9")
    with pytest.raises(LocalFailure, match=r"no KV cache format 'q9'; there are f32, .*q8_0"):
        measure_model(plan)


def test_a_figure_is_the_median_and_the_extremes():
    """Median, extremes and number, rounded to four significant digits; of nothing there is none."""
    assert Figure(2.0, 1.0, 9.0, 3) == figure([9.0, 1.0, 2.0])
    assert 1235.0 == figure([1234.567]).median
    assert 2.0 == figure([9.0, 1.0, 2.0]).spread
    with pytest.raises(ValueError, match="no sample"):
        figure([])


@pytest.mark.parametrize(
    ("tried", "expected"),
    [
        pytest.param([], None, id="nothing-tried"),
        pytest.param([(2, 100, 10)], None, id="no-choice"),
        pytest.param([(1, 100, 10), (2, 190, 18)], 2, id="more-is-faster"),
        pytest.param([(2, 190, 18), (4, 150, 9)], 2, id="more-is-slower"),
        pytest.param([(2, 190, 18), (4, 192, 18.1)], 2, id="alike-leaves-cores-free"),
    ],
)
def test_best_threads(tried, expected):
    """The number that answers a chat soonest, the smaller one of a tie; None without a choice."""
    speeds = [ThreadSpeed(threads, exact(prefill), exact(decode)) for threads, prefill, decode in tried]
    assert expected == best_threads(speeds)
