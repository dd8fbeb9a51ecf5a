"""How do conversations become token ids while messages go on being read? Tokenized in a thread beside."""

from __future__ import annotations

import json
import queue
import re
import threading
from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from hybrid.backends.base import Backend
from hybrid.engine.chat_template import ChatTemplate
from hybrid.engine.formats.speech import Speech
from hybrid.engine.frames import Frame, Prepare, Prepared, Refused
from hybrid.engine.shield import Shield, pieces
from hybrid.errors import InvalidRequest, LocalError

LONGEST_TOKEN_BYTES = 256
"""No vocabulary we know has a token of more bytes; a text of more than that times the context cannot fit it."""
LARGE_CHARS = 1 << 14
"""From this length on control tokens are counted before a text is tokenized: half a megabyte of nothing else took 4 to
6 s, and the time grows with the square of the length."""
MOST_MARKS = 64
_MARK = re.compile(r"<[^<>\s]{1,64}>|\[[^\[\]\s]{1,64}\]")
"""How the control tokens of the vocabularies that we know are written."""


class Intake:
    """Prepared prompts by request id.

    Tokenizing a large text takes seconds, and one full of control tokens much longer (llama.cpp looks for each of
    them in what is left), so a thread of its own does it: who cancels or submits meanwhile need not wait, and what
    cannot fit the context by its length alone is not tokenized at all.
    """

    def __init__(
        self, backend: Backend, template: ChatTemplate, speech: Speech, *, send: Callable[[Frame], None]
    ) -> None:
        self._backend = backend
        self._template = template
        self._shield = Shield(backend.control_texts())
        self._speech = speech
        self._send = send
        self._lock = threading.Lock()
        self._wanted: set[str] = set()
        self._prepared: dict[str, NDArray[np.int32]] = {}
        self._texts: queue.SimpleQueue[tuple[str, list[str]]] = queue.SimpleQueue()

    def start(self) -> None:
        """Start tokenizing."""
        threading.Thread(target=self._tokenize_all, name="tokenize", daemon=True).start()

    def prepare(self, frame: Prepare) -> None:
        """Render a conversation and have it tokenized. From the main thread: the template's time limit needs it."""
        try:
            if not self._backend.facts.can_generate:
                what = f"{self._backend.facts.name} is an embedding model and writes no text; ask it at /v1/embeddings"
                raise InvalidRequest(what, param="model")
            tools = None if frame.tools is None else self._shield.guard(json.loads(frame.tools))
            messages, variables = self._shield.guard(json.loads(frame.messages)), self._shield.guard(frame.variables)
            text = self._template.render(messages, tools=tools, variables=variables)
        except RecursionError:
            self._send(Refused(frame.id, "messages or tools are nested too deeply", is_caller=True))
            return
        except (InvalidRequest, LocalError) as refused:
            self._send(
                Refused(frame.id, str(refused), isinstance(refused, InvalidRequest), refused.param or "messages")
            )
            return
        with self._lock:
            self._wanted.add(frame.id)
        self._texts.put((frame.id, pieces(text)))

    def take(self, request_id: str) -> NDArray[np.int32] | None:
        """Give the prepared tokens away; None if they were cancelled."""
        with self._lock:
            return self._prepared.pop(request_id, None)

    def cancel(self, request_id: str) -> bool:
        """Forget a prompt; say whether there was one."""
        with self._lock:
            was_wanted = request_id in self._wanted
            self._wanted.discard(request_id)
            return self._prepared.pop(request_id, None) is not None or was_wanted

    def _tokenize_all(self) -> None:
        while True:
            request_id, texts = self._texts.get()
            if request_id not in self._wanted:
                continue
            least_tokens = self._least_tokens(texts)
            if least_tokens > self._backend.facts.context_tokens:
                self._tell(request_id, None, Prepared(request_id, least_tokens))
                continue
            try:
                tokens = [token for text in texts for token in self._backend.tokenize(text)]
            except LocalError as failed:
                self._tell(request_id, None, Refused(request_id, str(failed), is_caller=False))
                continue
            if not tokens:
                why = "the model's chat template makes nothing of this conversation, and a prompt needs a token"
                self._tell(request_id, None, Refused(request_id, why, is_caller=True))
                continue
            is_thinking = self._speech.opens_thinking(texts[-1])
            answer = Prepared(request_id, len(tokens), is_thinking=is_thinking)
            self._tell(request_id, np.asarray(tokens, dtype=np.int32), answer)

    def _least_tokens(self, texts: Sequence[str]) -> int:
        """Give a number of tokens that texts have at least: by length, by what parts them, or by control tokens."""
        size_bytes = len("".join(texts).encode("utf-8", "surrogatepass"))
        least_tokens = max(size_bytes // LONGEST_TOKEN_BYTES, sum(1 for text in texts if text))
        if sum(map(len, texts)) < LARGE_CHARS:
            return least_tokens
        marks = Counter(mark for text in texts for mark in _MARK.findall(text))
        known = (count for mark, count in marks.most_common(MOST_MARKS) if self._backend.marker(mark) is not None)
        return max(least_tokens, sum(known))

    def _tell(self, request_id: str, tokens: NDArray[np.int32] | None, answer: Frame) -> None:
        with self._lock:
            if request_id not in self._wanted:
                return
            self._wanted.discard(request_id)
            if tokens is not None:
                self._prepared[request_id] = tokens
        self._send(answer)
