"""How do steps follow each other without waiting for Python? The extension calls llama.cpp by addresses.

The thread that calls computes; another takes what was drawn, and looks at it while the next steps are computed.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from hybrid.backends.base import Hear
from hybrid.backends.library import llama
from hybrid.backends.llama_batch import LlamaBatch
from hybrid.native import IS_NATIVE, RowDraw

if TYPE_CHECKING:
    from hybrid.native._native import StepRun


class LlamaRun:
    """Runs of steps in one context. flag: what ends a run after the step it is in, while it is up.

    is_on: whether one computes now; set by whoever asks for it.
    """

    def __init__(self, context: Any, vocabulary: Any, batch: LlamaBatch) -> None:
        self._batch = batch
        self._context, self._vocabulary = int(context), int(vocabulary)
        self._hearing = ThreadPoolExecutor(1, "hearing", _let_compute)  # starts with its first run
        self.flag = ctypes.c_bool(False)
        self.is_on = False
        self.is_there = _can_call(batch)

    def steps(
        self, draws: Sequence[RowDraw], *, vocab_tokens: int, steps: int, bundle: int, threads: int, hear: Hear
    ) -> tuple[int, int]:
        """Compute what the batch holds, then what was drawn, and so on; give llama.cpp's last status and the steps.

        Each token of the batch must be another sequence's and want its row. `hear` is as in `Backend.run`.
        """
        from hybrid.native._native import StepRun

        decode, logits_at, is_end = addresses()
        run = StepRun(
            decode=decode,
            logits_at=logits_at,
            is_end=is_end,
            context=self._context,
            vocabulary=self._vocabulary,
            batch=ctypes.addressof(self._batch.native),
            flag=ctypes.addressof(self.flag),
            draws=draws,
            n_vocab=vocab_tokens,
            steps=steps,
            threads=threads,
        )
        if steps <= bundle:  # nothing would be heard before its end
            status = run.compute()
            _hear_all(run, bundle, hear)
            return status, run.done
        hearing = self._hearing.submit(_hear_all, run, bundle, hear)
        try:
            status = run.compute()
        finally:
            hearing.result()
        return status, run.done


def _let_compute() -> None:
    """Let this thread never push off the one that wakes it, which is about to compute the next step.

    Linux would rather run it there and then, on the core of who computes: 0.4 ms of a step of eight.
    """
    if hasattr(os, "SCHED_BATCH"):
        with suppress(OSError):  # a sandbox may forbid it
            os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))


def _hear_all(run: StepRun, bundle: int, hear: Hear) -> None:
    """Let each bundle be heard as soon as it is there."""
    is_last = False
    try:
        while not is_last:
            steps, is_last = run.take(bundle)
            if not hear(steps, is_last=is_last):
                run.stop()
    except BaseException:
        run.stop()  # whoever computes waits for this thread, and is told of it then
        raise


def share_openmp() -> None:
    """Let the threads that compute the rows of a step draw from them too, where llama.cpp has loaded GNU OpenMP.

    They still spin when a step is over: others would have to take their cores, which took 0.4 ms of a step of eight.
    """
    if not IS_NATIVE or not hasattr(os, "RTLD_NOLOAD"):
        return
    from hybrid.native._native import share_with

    try:
        library = ctypes.CDLL("libgomp.so.1", mode=os.RTLD_NOLOAD | os.RTLD_NOW)
        share_with(ctypes.cast(library.GOMP_parallel, ctypes.c_void_p).value or 0)
    except (OSError, AttributeError):
        return  # another OpenMP, or none


def addresses() -> tuple[int, int, int]:
    """Where llama.cpp's functions are that a run calls: decode, the row of a token, whether a token ends a text."""
    functions = (llama.llama_decode, llama.llama_get_logits_ith, llama.llama_vocab_is_eog)
    decode, logits_at, is_end = (ctypes.cast(function, ctypes.c_void_p).value or 0 for function in functions)
    return decode, logits_at, is_end


def _can_call(batch: LlamaBatch) -> bool:
    """See that the extension is there and knows the batch as this library lays it out."""
    if not IS_NATIVE:
        return False
    from hybrid.native._native import batch_bytes

    return batch_bytes() == ctypes.sizeof(batch.native) and all(addresses())
