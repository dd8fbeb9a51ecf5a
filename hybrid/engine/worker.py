"""What runs in the worker process? One thread takes messages in, one owns the model; a socket ties them to the gateway.

Started by the supervisor as `python -m hybrid.engine.worker FD OPTIONS_JSON`. It ends when the socket does,
so a gateway that dies in any way never leaves a model behind in memory.
"""

from __future__ import annotations

import logging
import math
import os
import queue
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeAlias

import msgspec
import numpy as np
from numpy.typing import NDArray

from hybrid.backends.base import Backend
from hybrid.engine.chat_template import ChatTemplate
from hybrid.engine.compiler import Compiler
from hybrid.engine.detokenize import Aside, Detokenizer
from hybrid.engine.drafting import Drafter
from hybrid.engine.embedding import Embedding, EmbeddingJob
from hybrid.engine.embedding_intake import EmbeddingIntake
from hybrid.engine.engine import Engine
from hybrid.engine.formats.speech import hear
from hybrid.engine.frames import (
    Cancel,
    Embed,
    End,
    Load,
    LoadFailed,
    Prepare,
    Ready,
    Refused,
    Step,
    Submit,
    TokenDelta,
    to_worker,
)
from hybrid.engine.intake import Intake
from hybrid.engine.loading import WorkerOptions, load_backend, load_drafter
from hybrid.engine.logprobs import LogprobQueue
from hybrid.engine.options import option_tokens
from hybrid.engine.pressure import PressureReader
from hybrid.engine.prompt_keeper import Closing, PromptKeeper, Restored
from hybrid.engine.prompt_store import PromptStore, open_store
from hybrid.engine.report import StepReport
from hybrid.engine.sequence import Sequence
from hybrid.engine.wire import Outbox, receive, send
from hybrid.errors import HybridError, InvalidRequest, LocalError
from hybrid.fingerprints import template_fingerprint
from hybrid.native import SampleParams

log = logging.getLogger(__name__)


IDLE_LOOK_S = 1.0
"""How often the machine is looked at while nothing runs, until the model is unloaded."""


CLOSE_LIMIT_S = 2.0
"""What is to be saved is saved within this when the gateway goes; it kills a worker that takes longer than 3 s."""


Order: TypeAlias = Sequence | EmbeddingJob | str | Restored | Closing | None
"""For the model's thread: what to run, an id to cancel, a file that was read, None to look at the inbox again."""


class Worker:
    """The threads of a worker and what they share: an inbox to the model's, an outbox from it."""

    def __init__(
        self,
        connection: socket.socket,
        backend: Backend,
        template: ChatTemplate,
        drafter: Drafter,
        store: PromptStore | None = None,
        *,
        is_adaptive: bool = True,
    ) -> None:
        self._connection = connection
        self._outbox = Outbox(connection)
        self._send = self._outbox.put
        self._backend = backend
        self._speech = hear(backend.facts.chat_template)
        self._intake = Intake(backend, template, self._speech, send=self._send)
        self._inbox: queue.SimpleQueue[Order] = queue.SimpleQueue()
        self._engine = Engine(
            backend,
            drafter=drafter,
            read_pressure=PressureReader().read,
            is_adaptive=is_adaptive,
            emit=self._send_step,
        )
        self._keeper = None if store is None else PromptKeeper(self._engine.cache, store, wake=self._deliver)
        self._embedding = Embedding(backend, self._send)
        self._embedding_intake = EmbeddingIntake(backend, submit=self._deliver, send=self._send)
        self._compiler = Compiler(backend, submit=self._deliver, refuse=self._refuse)

    def run(self) -> None:
        """Serve until the gateway closes the socket. Messages here, in the main thread; the model in its own."""
        self._outbox.start()
        model_thread = threading.Thread(target=self._own_model, name="model", daemon=True)
        model_thread.start()
        self._intake.start()
        while (body := receive(self._connection)) is not None:
            frame = to_worker.decode(body)
            if isinstance(frame, Prepare):
                self._intake.prepare(frame)
            elif isinstance(frame, Submit):
                self._submit(frame)
            elif isinstance(frame, Embed):
                self._embedding_intake.put(frame)
            else:
                self._cancel(frame)
        if self._keeper is not None:
            self._deliver(Closing())
            model_thread.join(CLOSE_LIMIT_S)

    def _deliver(self, order: Order) -> None:
        """Put an order before the model's thread, which looks at it after the step it is in."""
        self._inbox.put(order)
        self._engine.hasten()

    def _submit(self, frame: Submit) -> None:
        prompt = self._intake.take(frame.id)
        if prompt is None:
            return  # cancelled between the two messages
        params = SampleParams(
            temperature=frame.temperature,
            top_k=frame.top_k,
            top_p=frame.top_p,
            min_p=frame.min_p,
            presence_penalty=frame.presence_penalty,
            frequency_penalty=frame.frequency_penalty,
            repetition_penalty=frame.repetition_penalty,
        )
        for choice in range(frame.choices):
            sequence = self._sequence(frame, choice, prompt, params)
            if frame.grammar is None:
                self._deliver(sequence)
            else:
                self._compiler.put(sequence, frame.grammar)

    def _sequence(self, frame: Submit, choice: int, prompt: NDArray[np.int32], params: SampleParams) -> Sequence:
        return Sequence(
            id=frame.id,
            choice=choice,
            prompt=prompt,
            params=params,
            seed=(frame.seed + choice) % (1 << 64),
            max_output_tokens=frame.max_output_tokens,
            detokenizer=Detokenizer(tuple(frame.stop), aside=self._aside(frame)),
            isolation=frame.isolation if frame.adapter is None else f"{frame.isolation}\0{frame.adapter}",
            adapter=frame.adapter,
            shown={token: text.encode() for text, token in find_markers(self._backend, frame.shown).items()},
            due_s=time.monotonic() + min(frame.patience_s, math.inf if frame.deadline_s is None else frame.deadline_s),
            bias=_bias(frame.logit_bias),
            logprobs=None if frame.top_logprobs is None else LogprobQueue(self._backend, frame.top_logprobs),
            options=option_tokens(self._backend, frame.options),
        )

    def _aside(self, frame: Submit) -> Aside | None:
        thinking = self._speech.thinking
        return None if thinking is None else Aside(*thinking, is_open=frame.is_thinking)

    def _refuse(self, request_id: str, why: HybridError) -> None:
        # The check process has passed it, so it names a control token this model does not have: the client's grammar.
        param = why.param or "response_format"
        self._send(Refused(request_id, str(why), is_caller=isinstance(why, InvalidRequest), param=param))

    def _cancel(self, frame: Cancel) -> None:
        if not self._intake.cancel(frame.id) and not self._embedding_intake.cancel(frame.id):
            # Of several answers to a request some may be in the model's hands already.
            self._compiler.cancel(frame.id)
            self._deliver(frame.id)
            self._engine.interrupt(frame.id)

    def _own_model(self) -> None:
        """Drain the inbox, step, emit; sleep on the inbox when there is nothing to do."""
        try:
            while True:
                is_idle = not self._engine.has_work and not self._embedding.has_work
                has_saved = is_idle and self._keeper is not None and self._keeper.save_next()
                was_cancelled = self._drain_inbox(is_waiting=is_idle and not has_saved)
                if was_cancelled:
                    self._send_step(StepReport())  # so that the gateway sees the slot free now, not a step later
                if self._embedding.has_work:
                    self._engine.hasten()  # it has a turn after each step
                if self._engine.has_work:
                    self._send_step(self._engine.step())
                if self._embedding.has_work:
                    self._embed()
        except _Closed:
            return
        except Exception:
            # The thread boundary: without its model the process is of no use, and the supervisor starts another.
            log.exception("the model's thread failed")
            os._exit(70)

    def _embed(self) -> None:
        decoding = sum(1 for sequence in self._engine.running if sequence.pending == 1)
        self._embedding.step(decoding=decoding, decode_step_s=self._engine.pace.decode_step_s)

    def _drain_inbox(self, *, is_waiting: bool) -> bool:
        """Apply every order in the inbox, waiting for the first if asked; say whether one was a cancel."""
        was_cancelled = False
        self._engine.attend()
        while True:
            try:
                order = self._inbox.get(block=is_waiting, timeout=IDLE_LOOK_S)
            except queue.Empty:
                if is_waiting and self._engine.neighbours.look_idly(time.perf_counter()):
                    self._send_step(StepReport())  # so that the next request is routed by how busy the machine is now
                return was_cancelled
            is_waiting = False
            if isinstance(order, Sequence):
                self._enter(order)
            elif isinstance(order, EmbeddingJob):
                self._embedding.submit(order)
            elif isinstance(order, str):
                self._leave(order)
                was_cancelled = True
            elif order is not None:
                self._obey_keeper(order)

    def _enter(self, sequence: Sequence) -> None:
        # What an adapter computed is not kept on disk: after a restart its place may be another file's.
        if self._keeper is None or sequence.adapter is not None or not self._keeper.enter(sequence):
            self._engine.submit(sequence)

    def _leave(self, sequence_id: str) -> None:
        if self._keeper is not None:
            self._keeper.cancel(sequence_id)
        self._engine.cancel(sequence_id)
        self._embedding.cancel(sequence_id)

    def _obey_keeper(self, order: Restored | Closing) -> None:
        assert self._keeper is not None
        if isinstance(order, Closing):
            self._keeper.close()
            raise _Closed
        for sequence in self._keeper.arrive(order):
            self._engine.submit(sequence)

    def _send_step(self, report: StepReport) -> None:
        tokens = [
            TokenDelta(d.id, d.text, s.logprob, s.entropy, s.margin, d.logprobs, d.choice, d.options)
            for d in report.deltas
            if (s := d.signal) is not None
        ]
        ends = [
            End(
                d.id,
                d.finish.value if d.finish else None,
                d.failure,
                d.prompt_tokens,
                d.completion_tokens,
                d.cached_tokens,
                d.stopped_by,
                d.choice,
            )
            for d in report.deltas
            if d.finish or d.failure
        ]
        self._send(Step(report.started, tokens, ends, self._load()))

    def _load(self) -> Load:
        engine = self._engine
        return Load(
            running=len(engine.running),
            waiting=len(engine.waiting),
            free_slots=self._backend.facts.slots - len(engine.running),
            free_cells=engine.free_cells,
            prefill_tok_s=engine.pace.prefill_tok_s,
            decode_tok_s=engine.pace.decode_tok_s,
            threads=engine.neighbours.threads,
            slowdown=engine.neighbours.slowdown,
            others_cores=engine.neighbours.others_cores,
            prompts=engine.prompts(),
        )


class _Closed(Exception):
    """The model's thread has nothing left to do."""


def _bias(by_token: dict[int, float]) -> tuple[NDArray[np.int32], NDArray[np.float32]] | None:
    if not by_token:
        return None
    return np.array(list(by_token), dtype=np.int32), np.array(list(by_token.values()), dtype=np.float32)


def find_markers(backend: Backend, texts: Iterable[str]) -> dict[str, int]:
    """Give those of the texts that are one control token of this model, with the token."""
    return {text: token for text in texts if (token := backend.marker(text)) is not None}


def _ready(backend: Backend) -> Ready:
    facts = backend.facts
    speech = hear(facts.chat_template)
    return Ready(
        name=facts.name,
        architecture=facts.architecture,
        vocab_tokens=facts.vocab_tokens,
        context_tokens=facts.context_tokens,
        slots=facts.slots,
        kv_cells=facts.kv_cells,
        threads=facts.threads,
        device=facts.device,
        file_bytes=facts.file_bytes,
        fingerprint=facts.fingerprint,
        template_fingerprint=template_fingerprint(facts.chat_template),
        speech=speech,
        markers=find_markers(backend, speech.markers),
        dimensions=facts.dimensions,
        multiplier=facts.multiplier,
    )


def main(argv: list[str]) -> None:
    """Load the model, say so, serve until the socket closes, and end without unwinding native threads."""
    # Ctrl-C in a terminal reaches the whole process group; the gateway decides when the worker ends.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s", stream=sys.stderr)
    connection = socket.socket(fileno=int(argv[0]))
    options = msgspec.json.decode(argv[1], type=WorkerOptions)
    # Never below what whoever started us chose, which takes a privilege. Threads inherit it, so it comes before them.
    os.setpriority(os.PRIO_PROCESS, 0, max(options.nice, os.getpriority(os.PRIO_PROCESS, 0)))
    try:
        backend = load_backend(options)
        facts = backend.facts
        template = ChatTemplate(facts.chat_template, bos_text=facts.bos_text, eos_text=facts.eos_text)
        drafter = load_drafter(options, backend)
    except LocalError as failed:
        send(connection, LoadFailed(str(failed)))
        os._exit(1)
    store = open_store(Path(options.prompt_folder), options.prompt_bytes, Path(options.model_path), facts)
    worker = Worker(connection, backend, template, drafter, store, is_adaptive=options.is_adaptive)
    send(connection, _ready(backend))
    worker.run()
    os._exit(0)


if __name__ == "__main__":
    _argv: list[Any] = sys.argv[1:]
    main(_argv)
