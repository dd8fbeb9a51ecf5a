"""How do texts to embed become token ids? In a thread of their own, and checked before they are queued."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from hybrid.backends.base import Backend
from hybrid.engine.embedding import EmbeddingJob
from hybrid.engine.frames import Embed, Frame, Prepared, Refused
from hybrid.engine.intake import LONGEST_TOKEN_BYTES
from hybrid.errors import InvalidRequest, LocalError


class EmbeddingIntake:
    """Requests whose inputs are being tokenized; each then goes to the model's thread, or is refused."""

    def __init__(
        self, backend: Backend, *, submit: Callable[[EmbeddingJob], None], send: Callable[[Frame], None]
    ) -> None:
        self._backend = backend
        self._submit = submit
        self._send = send
        self._lock = threading.Lock()
        self._wanted: set[str] = set()
        self._requests: queue.SimpleQueue[Embed] = queue.SimpleQueue()
        self._is_started = False

    def put(self, frame: Embed) -> None:
        """Take a request in. The thread starts with the first one."""
        with self._lock:
            self._wanted.add(frame.id)
        if not self._is_started:
            self._is_started = True
            threading.Thread(target=self._take_all, name="tokenize-embeddings", daemon=True).start()
        self._requests.put(frame)

    def cancel(self, request_id: str) -> bool:
        """Forget a request; say whether it was still here."""
        with self._lock:
            was_wanted = request_id in self._wanted
            self._wanted.discard(request_id)
            return was_wanted

    def _take_all(self) -> None:
        while True:
            frame = self._requests.get()
            try:
                inputs = self._tokens_of_all(frame)
            except (InvalidRequest, LocalError) as refused:
                is_caller = isinstance(refused, InvalidRequest)
                answer: Frame = Refused(frame.id, str(refused), is_caller, refused.param, refused.code)
                inputs = []
            else:
                answer = Prepared(frame.id, sum(map(len, inputs)))
            if frame.id in self._wanted:
                self._send(answer)  # before the job is queued, or its vectors could overtake the count
            with self._lock:
                # Under the lock: a cancel that comes now finds the job in the model's inbox, before itself.
                if frame.id in self._wanted and inputs:
                    self._submit(EmbeddingJob(frame.id, inputs))
                self._wanted.discard(frame.id)

    def _tokens_of_all(self, frame: Embed) -> list[NDArray[np.int32]]:
        inputs: list[NDArray[np.int32]] = []
        for index, given in enumerate(frame.inputs):
            if frame.id not in self._wanted:
                break
            at = "input" if len(frame.inputs) == 1 else f"input[{index}]"
            inputs.append(np.asarray(self._tokens_of(given, at), dtype=np.int32))
        return inputs

    def _tokens_of(self, given: str | list[int], at: str) -> list[int]:
        facts = self._backend.facts
        if isinstance(given, str):
            least_tokens = len(given.encode("utf-8", "surrogatepass")) // LONGEST_TOKEN_BYTES
            if least_tokens > facts.context_tokens:
                raise too_long(at, f"at least {least_tokens}", facts.context_tokens)
            tokens = self._backend.tokenize_input(given)
        else:
            tokens = given
            unknown = next((token for token in tokens if not 0 <= token < facts.vocab_tokens), None)
            if unknown is not None:
                what = f"{at} has token {unknown}; {facts.name} has {facts.vocab_tokens} tokens, from 0"
                raise InvalidRequest(f"{what} to {facts.vocab_tokens - 1}", param="input", code="invalid_value")
        if not tokens:
            raise InvalidRequest(f"{at} is empty: it has no tokens", param="input", code="invalid_value")
        if len(tokens) > facts.context_tokens:
            raise too_long(at, str(len(tokens)), facts.context_tokens)
        return tokens


def too_long(at: str, tokens: str, context_tokens: int) -> InvalidRequest:
    """Say that an input does not fit, with both numbers: nothing is ever cut."""
    what = f"{at} has {tokens} tokens; the model takes at most {context_tokens} an input. Split it"
    return InvalidRequest(what, param="input", code="context_length_exceeded")
