"""How does a sequence get its grammar and hold nobody up? Compiled in a thread of its own, and queued after it."""

from __future__ import annotations

import logging
import queue
import threading
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING

from hybrid.backends.base import Backend
from hybrid.engine.frames import Grammar
from hybrid.engine.sequence import Sequence
from hybrid.errors import HybridError, LocalFailure

if TYPE_CHECKING:
    from hybrid.engine.constraint import Grammars

log = logging.getLogger(__name__)


class Compiler:
    """Takes sequences with their grammars and passes them on constrained, or says why not.

    Not in the thread that takes messages in, which must see the next cancel at once, nor in the model's.
    `submit` and `refuse` are called in its own thread, which starts with the first grammar.
    """

    def __init__(
        self, backend: Backend, *, submit: Callable[[Sequence], None], refuse: Callable[[str, HybridError], None]
    ) -> None:
        self._backend = backend
        self._submit = submit
        self._refuse = refuse
        self._inbox: queue.SimpleQueue[tuple[Sequence, Grammar]] = queue.SimpleQueue()
        # Guards the moment in which a sequence is passed on: a cancel comes either before it, and is obeyed here, or
        # after it, and finds the sequence in the model's inbox.
        self._lock = threading.Lock()
        self._pending: Counter[str] = Counter()  # how many answers to each request wait here
        self._thread: threading.Thread | None = None

    def put(self, sequence: Sequence, grammar: Grammar) -> None:
        """Compile `grammar`, then pass `sequence` on with it."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="grammars", daemon=True)
            self._thread.start()
        with self._lock:
            self._pending[sequence.id] += 1
        self._inbox.put((sequence, grammar))

    def cancel(self, sequence_id: str) -> None:
        """Forget the sequences of a request that are still here."""
        with self._lock:
            del self._pending[sequence_id]

    def _run(self) -> None:
        from hybrid.engine.constraint import Grammars

        grammars = Grammars(self._backend)
        while True:
            sequence, grammar = self._inbox.get()
            failure = self._constrain(sequence, grammar, grammars) if sequence.id in self._pending else None
            with self._lock:
                if sequence.id not in self._pending:
                    continue
                self._pending[sequence.id] -= 1
                self._pending += Counter()  # drops what counts nothing
                if failure is None:
                    self._submit(sequence)
                else:
                    self._refuse(sequence.id, failure)

    @staticmethod
    def _constrain(sequence: Sequence, grammar: Grammar, grammars: Grammars) -> HybridError | None:
        try:
            sequence.constraint = grammars.constraint(grammar)
        except HybridError as refused:
            return refused
        except BaseException:
            # The thread's boundary: without it nobody would be constrained again. A panic in Rust is no Exception.
            log.exception("a grammar could not be compiled")
            return LocalFailure("the answer's grammar could not be compiled; the log has the details")
        return None
