"""What does a drawn token make of its sequence? Text that may be shown, maybe its end, and what the gateway is told."""

from __future__ import annotations

from collections.abc import Callable

from hybrid.backends.base import Backend
from hybrid.engine.report import Delta, failed
from hybrid.engine.sequence import Sequence
from hybrid.errors import LocalFailure
from hybrid.native import Sampled
from hybrid.types import FinishReason


def take(sequence: Sequence, sampled: Sampled | Exception, backend: Backend, clock: Callable[[], float]) -> Delta:
    """Add a drawn token to its sequence and say what came of it. Slot and cells are the caller's affair.

    Of the backend only what reads the vocabulary is used.
    """
    try:
        if isinstance(sampled, LocalFailure):
            raise sampled
        if isinstance(sampled, Exception):
            raise LocalFailure(f"the model gave unusable logits: {sampled}")
        if sequence.constraint is not None:
            sequence.constraint.advance(sampled.token, is_end=backend.is_end(sampled.token))
    except LocalFailure as broken:
        return failed(sequence, broken)  # this answer is lost; the others may be sound
    sequence.output.append(sampled.token)
    if sequence.first_token_s is None:
        sequence.first_token_s = clock()
    return _advance(sequence, sampled, backend)


def _advance(sequence: Sequence, drawn: Sampled, backend: Backend) -> Delta:
    detokenizer, logprobs = sequence.detokenizer, sequence.logprobs
    is_end = backend.is_end(drawn.token)
    text = "" if is_end else detokenizer.push(sequence.shown.get(drawn.token) or backend.piece(drawn.token))
    if logprobs is not None and not is_end:
        logprobs.push(drawn, detokenizer.settled_chars)
    is_complete = sequence.constraint is not None and sequence.constraint.is_complete
    finish: FinishReason | None = None
    if is_end or is_complete or detokenizer.is_stopped:
        finish = FinishReason.STOP
    elif len(sequence.output) >= sequence.max_output_tokens:
        finish = FinishReason.LENGTH
    if finish is not None:
        text += detokenizer.flush()
        if detokenizer.is_stopped:
            finish = FinishReason.STOP
    return Delta(
        sequence.id,
        sequence.choice,
        text,
        drawn,
        finish,
        prompt_tokens=len(sequence.prompt),
        completion_tokens=len(sequence.output),
        cached_tokens=sequence.cached_tokens,
        stopped_by=detokenizer.stopped_by,
        logprobs=() if logprobs is None else logprobs.take(detokenizer.shown_chars),
    )
