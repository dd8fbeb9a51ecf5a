"""How does one request hear from the worker? Item by item, through an inbox that the supervisor fills."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from hybrid.engine.formats.speech import Speech
from hybrid.engine.frames import End, Refused, TokenDelta, Vector
from hybrid.errors import InvalidRequest, LocalError, LocalFailure
from hybrid.types import Finished, FinishReason, TextDelta, TokenSignal, Usage


@dataclass(frozen=True, slots=True)
class Started:
    """The request left the queue and its prefill began."""


Item: TypeAlias = Started | TextDelta | Finished | LocalError | InvalidRequest | Vector | int
"""What a waiting request is told; an int is its prompt's or inputs' token count."""


class Owner(Protocol):
    """What a generation tells whoever made it."""

    def release(self, request_id: str) -> None:
        """The request is over, or nobody waits for it any more."""

    def served(self, seconds: float) -> None:
        """It took so long from leaving the queue to its end."""


class Generation:
    """One generation in the worker, item by item. A `next` that is cancelled loses nothing."""

    def __init__(self, request_id: str, inbox: asyncio.Queue[Item], owner: Owner) -> None:
        self._owner = owner
        self._request_id = request_id
        self._inbox = inbox
        self._started_s: float | None = None

    async def next(self) -> Started | TextDelta | Finished:
        """Wait for the next item; the `Finished` of the last answer is the last.

        Raises: LocalError if the worker dies or the generation breaks.
        """
        item = await self._inbox.get()
        if isinstance(item, LocalError | InvalidRequest):
            raise item
        assert not isinstance(item, int | Vector)
        if isinstance(item, Started):
            self._started_s = time.monotonic()
        elif isinstance(item, Finished) and self._started_s is not None:
            self._owner.served(time.monotonic() - self._started_s)
        return item

    def __enter__(self) -> Generation:
        return self

    def __exit__(self, *_: object) -> None:
        self._owner.release(self._request_id)


def text_deltas(tokens: Iterable[TokenDelta], speech: Speech | None) -> Iterator[tuple[str, TextDelta]]:
    """Turn the tokens of a step, or a run of steps, into events, each with its request's id.

    One event tells all tokens of an answer, unless each must be known to belong to thinking or not, or has
    log-probabilities to go with its text.
    """
    for (request_id, choice), group in itertools.groupby(tokens, lambda token: (token.id, token.choice)):
        said = list(group)
        is_joined = speech is not None and speech.thinking is None and not any(token.logprobs for token in said)
        for part in [said] if is_joined else [[token] for token in said]:
            signals = tuple(TokenSignal(token.logprob, token.entropy, token.margin, token.options) for token in part)
            yield request_id, TextDelta("".join(token.text for token in part), signals, part[0].logprobs, choice)


def refusal(refused: Refused) -> InvalidRequest | LocalFailure:
    """Turn the worker's refusal into the error it is."""
    if refused.is_caller:
        return InvalidRequest(refused.message, param=refused.param, code=refused.code or InvalidRequest.code)
    return LocalFailure(refused.message)


def ended(end: End) -> Finished | LocalError:
    """Turn the worker's end of a sequence into an event, or into the failure that it was."""
    if end.finish is None:
        return LocalFailure(end.failure or "the generation broke")
    usage = Usage(
        prompt_tokens=end.prompt_tokens, completion_tokens=end.completion_tokens, cached_tokens=end.cached_tokens
    )
    return Finished(FinishReason(end.finish), usage, end.stopped_by, end.choice)
