"""How fast is one model file here? Measured in a process of its own, so that its memory and crashes stay contained.

Started by hybrid/devices/measure.py as `python -m hybrid.devices.measure_process PLAN`; answers in JSON lines.
"""

from __future__ import annotations

import logging
import os
import resource
import signal
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Self

import msgspec
import numpy as np
from numpy.typing import NDArray

from hybrid.backends.base import Backend, BackendOptions, BatchEntry
from hybrid.devices.others import OthersWatch
from hybrid.devices.power import EnergyMeter, find_power
from hybrid.devices.speed import (
    Failed,
    Figure,
    Line,
    Measured,
    ModelSpeed,
    Progressed,
    SpeedPlan,
    ThreadSpeed,
    best_threads,
    figure,
)
from hybrid.errors import HybridError
from hybrid.native import SampleParams, sample_row

TEXT = (
    "The river rises in the hills north of the town and reaches the sea after ninety kilometres. In spring it carries "
    "three times the water of late summer, and the old mills along its banks were built for the difference: each has "
    "a pond, a sluice and a second, smaller wheel. Ask who keeps them running today and you will hear of a teacher, "
    "two farmers and a man of 81 who learned the trade from his mother. def weir(m): return 2.1 * m ** 1.5\n"
)
"""What the model reads: ordinary prose with a little code, because experts of a mixture are chosen by what is read."""

LARGEST_SHARE = 0.25
"""Share of the time that one measurement may take the first time; a longer one is left out."""
THREADS_PROMPT_TOKENS = 128
Emit = Callable[[Line], None]


class Run:
    """One plan carried out on one loaded model, in rounds: a slow minute of the machine then shows in every spread."""

    def __init__(self, backend: Backend, plan: SpeedPlan, emit: Emit) -> None:
        self._backend, self._plan, self._emit = backend, plan, emit
        self._started_s = time.perf_counter()
        self._until_s = self._started_s + plan.budget_s
        tokens = backend.tokenize(TEXT)
        longest = max((*plan.prefill_tokens, plan.first_token_prompt or 1, plan.depth_tokens + plan.decode_steps, 128))
        self._tokens = (tokens * (longest // len(tokens) + 2))[: longest + len(tokens)]
        self._samples: dict[tuple[str, int], list[float]] = defaultdict(list)
        self._cost_s: dict[tuple[str, int], float] = {}
        self._left_out: dict[tuple[str, int], str] = {}
        power = find_power(wants_gpu=backend.facts.device == "gpu")
        self._power = power
        self._meters: dict[tuple[str, int], EnergyMeter] = defaultdict(lambda: EnergyMeter(power.counter))

    # ---- single measurements; each leaves the cache empty

    def prefill_s(self, count: int, meter: EnergyMeter | None = None) -> float:
        """Take in a prompt of `count` tokens; seconds until the logits of its last one are there."""
        try:
            with _Timed(meter) as timed:
                self._read(0, count)
        finally:
            self._backend.forget(0)
        return timed.seconds

    def decode_s(self, sequences: int, meter: EnergyMeter | None = None) -> float:
        """Decode `sequences` together; median seconds of one step."""
        depth, steps_s = self._plan.depth_tokens, []
        try:
            for slot in range(sequences):
                self._read(slot, depth)
            self._step(sequences, depth)  # the first step after a prompt also frees what the prompt needed
            with _Timed(meter):
                for number in range(1, self._plan.decode_steps):
                    with _Timed() as timed:
                        self._step(sequences, depth + number)
                    steps_s.append(timed.seconds)
        finally:
            for slot in range(sequences):
                self._backend.forget(slot)
        return float(np.median(steps_s))

    def first_token_s(self, count: int) -> float:
        """Tokenize, take in `count` tokens, draw one and spell it: a client's wait when nobody else is there."""
        text = TEXT * (count // 60 + 1)
        try:
            with _Timed() as timed:
                self._backend.tokenize(text)
                row = self._read(0, count)
                drawn = sample_row(row, SampleParams(), seed=1, position=count)
                self._backend.piece(drawn.token)
        finally:
            self._backend.forget(0)
        return timed.seconds

    def _read(self, slot: int, count: int) -> NDArray[np.float32]:
        """Take in a prompt of `count` tokens and give the logits after it."""
        largest = self._backend.facts.batch_tokens
        for start in range(0, count, largest):
            end = min(start + largest, count)
            rows = self._backend.decode([BatchEntry(slot, self._tokens[start:end], start, logits=int(end == count))])
        row: NDArray[np.float32] = rows[0]
        return row

    def _step(self, sequences: int, position: int) -> None:
        # Each sequence reads on at another place, as different chats would.
        tokens = [self._tokens[(position + 7 * slot) % len(self._tokens)] for slot in range(sequences)]
        self._backend.decode([BatchEntry(slot, [token], position, logits=1) for slot, token in enumerate(tokens)])

    # ---- the rounds

    def run(self) -> None:
        """Measure everything that fits into the time. Raises: LocalFailure if the model cannot be run."""
        self.prefill_s(min(32, self._room_tokens))
        self.decode_s(1)
        todo = self._todo()
        for number in range(self._plan.rounds):
            for index, key in enumerate(todo):
                self._emit(Progressed((number + index / len(todo)) / self._plan.rounds, _words(*key)))
                if key not in self._left_out:
                    self._measure(key, is_first_round=number == 0)

    @property
    def _room_tokens(self) -> int:
        return min(self._backend.facts.context_tokens, self._backend.facts.kv_cells)

    def _todo(self) -> list[tuple[str, int]]:
        plan, facts = self._plan, self._backend.facts
        needs = {("prefill", count): count for count in sorted(plan.prefill_tokens)}
        needs |= {("first_token", plan.first_token_prompt): plan.first_token_prompt} if plan.first_token_prompt else {}
        each = plan.depth_tokens + plan.decode_steps
        needs |= {("decode", count): count * each for count in sorted(plan.decode_sequences)}
        needs |= {("threads", count): 2 * each + THREADS_PROMPT_TOKENS for count in sorted(plan.thread_counts)}
        for key, tokens in needs.items():
            if tokens > self._room_tokens:
                self._left_out[key] = f"{_words(*key)}: needs {tokens} tokens, the context holds {self._room_tokens}"
            elif key[0] == "decode" and key[1] > facts.sequence_ids:
                self._left_out[key] = f"{_words(*key)}: the backend tells {facts.sequence_ids} sequences apart"
        # The cheap ones first: should the time run out, it is the dear ones that are missing.
        return sorted((key for key in needs if key not in self._left_out), key=lambda key: needs[key])

    def _measure(self, key: tuple[str, int], *, is_first_round: bool) -> None:
        left_s = self._until_s - time.perf_counter()
        predicted_s = self._predict_s(key)
        if predicted_s > left_s or (is_first_round and predicted_s > LARGEST_SHARE * self._plan.budget_s):
            if not self._samples[key]:
                self._left_out[key] = (
                    f"{_words(*key)}: would take {predicted_s:.0f} s of {self._plan.budget_s:.0f} s in all"
                )
            return
        with _Timed() as timed:
            self._sample(key)
        self._cost_s[key] = timed.seconds

    def _predict_s(self, key: tuple[str, int]) -> float:
        """What the measurement took before, or what the last smaller one of its kind took, scaled up."""
        kind, count = key
        if key in self._cost_s:
            return self._cost_s[key]
        if kind == "threads":
            usual_s = self._cost_s.get(("prefill", THREADS_PROMPT_TOKENS), 0.0) + 2 * self._cost_s.get(("decode", 1), 0)
            return usual_s * max(1.0, self._backend.facts.threads / count)
        smaller = [known for known in self._cost_s if known[0] == kind and known[1] < count]
        if not smaller:
            return 0.0
        nearest = max(smaller, key=lambda known: known[1])
        return self._cost_s[nearest] * count / nearest[1]

    def _sample(self, key: tuple[str, int]) -> None:
        kind, count = key
        if kind == "prefill":
            self._samples[key].append(count / self.prefill_s(count, self._meters[key]))
        elif kind == "decode":
            self._samples[key].append(count / self.decode_s(count, self._meters[key]))
        elif kind == "first_token":
            self._samples[key].append(self.first_token_s(count))
        else:
            self._try_threads(count)

    def _try_threads(self, threads: int) -> None:
        self._backend.set_threads(decode=threads, prefill=threads)
        try:
            self.decode_s(1)  # starts the threads
            prefill_s, step_s = self.prefill_s(THREADS_PROMPT_TOKENS), self.decode_s(1)
            self._samples["threads_prefill", threads].append(THREADS_PROMPT_TOKENS / prefill_s)
            self._samples["threads", threads].append(1 / step_s)
        finally:
            loaded_with = self._backend.facts.threads
            self._backend.set_threads(decode=loaded_with, prefill=loaded_with)

    # ---- the result

    def result(self, *, load_s: float, rss_before_bytes: int | None, others_cores: float) -> ModelSpeed:
        """Put together what `run` has measured."""
        facts, threads = self._backend.facts, self._by_threads()
        firsts = list(self._figures("first_token").values())
        return ModelSpeed(
            name=facts.name,
            fingerprint=facts.fingerprint,
            file_bytes=facts.file_bytes,
            context_tokens=facts.context_tokens,
            threads=facts.threads,
            batch_tokens=facts.batch_tokens,
            depth_tokens=self._plan.depth_tokens,
            device=facts.device,
            prefill_tok_s=self._figures("prefill"),
            decode_tok_s=self._figures("decode"),
            prefill_tok_j=self._per_joule("prefill", steps=1),
            decode_tok_j=self._per_joule("decode", steps=self._plan.decode_steps - 1),
            power=self._power.told,
            ttft_s=firsts[0] if firsts else None,
            load_s=round(load_s, 3),
            rss_bytes=peak_rss_bytes(),
            rss_before_bytes=rss_before_bytes,
            by_threads=threads,
            best_threads=best_threads(threads),
            left_out=tuple(self._left_out.values()),
            others_cores=round(others_cores, 2),
            measured_s=round(time.perf_counter() - self._started_s, 1),
        )

    def _by_threads(self) -> tuple[ThreadSpeed, ...]:
        prefill, decode = self._figures("threads_prefill"), self._figures("threads")
        return tuple(ThreadSpeed(count, prefill[count], decode[count]) for count in decode)

    def _figures(self, wanted: str) -> dict[int, Figure]:
        found = {count: samples for (kind, count), samples in self._samples.items() if kind == wanted and samples}
        return {count: figure(found[count]) for count in sorted(found)}

    def _per_joule(self, wanted: str, *, steps: int) -> dict[int, float]:
        found = {}
        for (kind, count), meter in sorted(self._meters.items()):
            if kind == wanted and (used_j := meter.used_j) is not None:
                found[count] = round(len(self._samples[kind, count]) * steps * count / used_j, 4)
        return found


class _Timed:
    """Seconds of what is inside, and its energy where a meter is given. The backend has finished when it returns."""

    def __init__(self, meter: EnergyMeter | None = None) -> None:
        self.seconds, self._meter = 0.0, meter

    def __enter__(self) -> Self:
        if self._meter is not None:
            self._meter.start()
        self._started_s = time.perf_counter()
        return self

    def __exit__(self, *_: object) -> None:
        self.seconds = time.perf_counter() - self._started_s
        if self._meter is not None:
            self._meter.stop()


def _words(kind: str, count: int) -> str:
    return {
        "prefill": f"a prompt of {count} tokens",
        "decode": f"{count} sequence{'s' if count > 1 else ''} together",
        "first_token": f"the first token after {count}",
        "threads": f"{count} thread{'s' if count > 1 else ''}",
    }[kind]


def peak_rss_bytes() -> int | None:
    """The largest resident memory this process ever had.

    Not getrusage on Linux: its figure begins with the memory of whoever started us.
    """
    if sys.platform == "linux":
        try:
            lines = Path("/proc/self/status").read_text().splitlines()
            return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))
        except (OSError, StopIteration, ValueError):
            return None
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # bytes on macOS


def load_backend(plan: SpeedPlan) -> Backend:
    """Load the model as the worker does. Raises: LocalError if it cannot be, ValueError for an option that is none."""
    options = BackendOptions(
        model_path=Path(plan.model_path),
        context_tokens=plan.context_tokens,
        slots=max(plan.decode_sequences, default=1),
        threads=plan.threads,
        batch_tokens=plan.batch_tokens,
        flash_attention=plan.flash_attention,
        key_cache=plan.key_cache,
        value_cache=plan.value_cache,
        matmul=plan.matmul,
    )
    if plan.backend == "fake":
        from hybrid.backends.fake import FakeBackend

        return FakeBackend(options)
    from hybrid.backends.llama_cpp import LlamaCppBackend

    return LlamaCppBackend(options)


def measure_here(plan: SpeedPlan, emit: Emit) -> ModelSpeed:
    """Load the model into this process and carry the plan out. Raises: what `load_backend` and `Run.run` raise."""
    emit(Progressed(0.0, "loading"))
    rss_before_bytes, started_s = peak_rss_bytes(), time.perf_counter()
    backend = load_backend(plan)
    load_s = time.perf_counter() - started_s
    watch = OthersWatch()
    run = Run(backend, plan, emit)
    run.run()
    return run.result(load_s=load_s, rss_before_bytes=rss_before_bytes, others_cores=watch.cores())


def main(argv: list[str]) -> None:
    """Measure, tell, and end without unwinding native threads."""
    # Ctrl-C in a terminal reaches the whole process group; whoever started us decides when we end.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(message)s", stream=sys.stderr)
    encoder = msgspec.json.Encoder()

    def emit(line: Line) -> None:
        try:
            sys.stdout.buffer.write(encoder.encode(line) + b"\n")
            sys.stdout.buffer.flush()
        except OSError:
            os._exit(0)  # whoever asked is gone

    try:
        emit(Measured(measure_here(msgspec.json.decode(argv[0], type=SpeedPlan), emit)))
    except (HybridError, ValueError) as failed:
        emit(Failed(str(failed)))
        os._exit(1)
    os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1:])
