"""How long did answers take, here and at each cloud? Learned from every answer, kept over restarts."""

from __future__ import annotations

import asyncio
import math
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Self

from hybrid.engine.generation import Started
from hybrid.errors import ProviderTimeout, StoreError
from hybrid.journal import Journal
from hybrid.policy.latency import (
    FLOOR_S,
    PRIOR_CLOUD_TOKEN,
    PRIOR_CLOUD_TTFT,
    PRIOR_PREFILL_ERROR,
    PRIOR_TOTAL_ERROR,
    PRIOR_TTFT_ERROR,
    cloud_total,
    is_queued,
    prefill_point_s,
)
from hybrid.policy.model import CloudLatency, LocalErrors, Signals
from hybrid.policy.spread import Spread
from hybrid.policy.tracker import Tracker, beyond
from hybrid.prefixes import PrefixBook
from hybrid.store.samples import Sample
from hybrid.types import ChatRequest, Event, Finished, TextDelta

CLOUD_HALF_LIFE = 128
"""Calls after which an old one weighs half: a tail of one in a hundred takes some hundreds to be seen."""
ENOUGH_ANSWERS = 8
"""Answers from which on their length is no accident."""
MAX_TAGS = 256
"""Tags whose answers are remembered: clients invent them freely."""

_PRIORS: dict[str, Spread | None] = {
    "cloud_ttft_s": PRIOR_CLOUD_TTFT,
    "cloud_token_s": PRIOR_CLOUD_TOKEN,
    "cloud_whole_s": PRIOR_CLOUD_TTFT,
    "cloud_tokens": None,
    "prefill_error": PRIOR_PREFILL_ERROR,
    "ttft_error": PRIOR_TTFT_ERROR,
    "total_error": PRIOR_TOTAL_ERROR,
    "answer_tokens": None,
}
"""What is learned, by its name in the store, and what is taken for granted before."""


@dataclass(slots=True)
class LocalRun:
    """One local generation, in seconds after the request's arrival; None for what has not happened yet."""

    submitted_s: float
    started_s: float | None = None
    first_token_s: float | None = None
    ended_s: float | None = None
    tokens: int = 0
    has_failed: bool = False

    def hear(self, item: Started | TextDelta | Finished, now_s: float) -> None:
        """Note what the worker tells."""
        if isinstance(item, Started):
            self.started_s = self.started_s or now_s
        elif isinstance(item, TextDelta):
            self.first_token_s = self.first_token_s or now_s
            self.tokens += len(item.signals)
        else:
            self.ended_s = now_s


class LatencyBook:
    """All that was learned of times and lengths. One for a runtime; whoever wants to keep it is told each number.

    Args:
        save: told what was measured, to be given as `samples` at the next start, the oldest first.
    """

    def __init__(
        self, save: Callable[[Sequence[Sample]], None] = lambda _: None, samples: Iterable[Sample] = ()
    ) -> None:
        self._save = save
        self._trackers: OrderedDict[tuple[str, str], Tracker] = OrderedDict()
        self.prefixes = PrefixBook()
        for sample in samples:
            if sample.kind in _PRIORS:
                self._tracker(sample.kind, sample.subject).add(sample.value)

    # ---- local

    def local(self, model: str, tag: str | None) -> LocalErrors:
        """Give how far predictions of a local model were off, and how long its answers are, those to a tag if known."""
        lengths = None if tag is None else self._known("answer_tokens", _tagged(model, tag), ENOUGH_ANSWERS)
        return LocalErrors(
            prefill=self._known("prefill_error", model),
            ttft=self._known("ttft_error", model),
            total=self._known("total_error", model),
            answer_tokens=lengths or self._known("answer_tokens", model, ENOUGH_ANSWERS),
        )

    def learn(self, request: ChatRequest, model: str, signals: Signals, run: LocalRun, journal: Journal) -> None:
        """Learn from a local generation, whoever answered the request in the end."""
        if run.first_token_s is not None:
            self.prefixes.learn(request, model)
        if request.extra.get("n", 1) != 1:
            return  # several answers share a prompt and decode side by side: another matter
        # A draft that was silent to the end was cut off, by the race that it lost or with the request.
        cut_s = journal.hedge.ended_s if journal.hedge is not None else None
        cut_s = None if run.has_failed else cut_s or journal.elapsed_s
        self.learn_local(model, request.tag, signals, run, decided_s=journal.decided_s, cut_s=cut_s)

    def learn_local(
        self, model: str, tag: str | None, signals: Signals, run: LocalRun, *, decided_s: float, cut_s: float | None
    ) -> None:
        """Compare what was predicted with what came.

        Args:
            decided_s: when the prediction was made, after arrival. cut_s: when nobody waited any longer; None if the
                model failed, which says nothing about its speed.
        """
        prefill_s = prefill_point_s(signals)
        measured: list[Sample] = []
        if prefill_s is not None:
            kind = "ttft_error" if is_queued(signals) else "prefill_error"
            predicted_s = (signals.queue_wait_s or 0.0) + prefill_s
            if run.first_token_s is not None:
                measured.append(Sample(kind, model, _error(run.first_token_s - decided_s, predicted_s)))
            elif cut_s is not None:
                # It was still silent when it was cut off, so it is one of the slow ones; how slow, nobody saw.
                beyond = self._tracker(kind, model).beyond(_error(cut_s - decided_s, predicted_s))
                measured.append(Sample(kind, model, beyond))
            if run.ended_s is not None and signals.decode_tok_s:
                predicted_s += run.tokens / signals.decode_tok_s
                measured.append(Sample("total_error", model, _error(run.ended_s - decided_s, predicted_s)))
        if run.ended_s is not None and run.tokens:
            measured.append(Sample("answer_tokens", model, float(run.tokens)))
            if tag is not None:
                measured.append(Sample("answer_tokens", _tagged(model, tag), float(run.tokens)))
        self._learn(measured)

    # ---- clouds

    def cloud(self, provider: str, model: str) -> CloudLatency | None:
        """Give how long a cloud model takes; None before its first call."""
        subject = f"{provider}/{model}"
        ttft = self._trackers.get(("cloud_ttft_s", subject))
        token = self._trackers.get(("cloud_token_s", subject))
        calls = max(ttft.count if ttft else 0, token.count if token else 0)
        if not calls:
            return None
        return CloudLatency(
            self._known("cloud_ttft_s", subject) or PRIOR_CLOUD_TTFT,
            self._known("cloud_token_s", subject) or PRIOR_CLOUD_TOKEN,
            calls,
            self._known("cloud_whole_s", subject),
        )

    def timing(self, provider: str, model: str, *, is_stream: bool) -> Timing:
        """Learn from when the events of a call come, within whose span it is made."""
        return Timing(self, f"{provider}/{model}", is_stream=is_stream)

    def learn_call(self, subject: str, timing: Timing, *, was_given_up: bool) -> None:
        """Learn from a call to a cloud model that ended, or was given up."""
        if timing.first_s is not None:
            self._learn_heard(subject, timing, timing.first_s)
        elif was_given_up and timing.is_stream:
            beyond_s = self._tracker("cloud_ttft_s", subject).beyond(timing.elapsed_s)
            self._learn([Sample("cloud_ttft_s", subject, beyond_s)])
        elif was_given_up:
            self._learn_whole_beyond(subject, timing.elapsed_s)

    def _learn_whole_beyond(self, subject: str, least_s: float) -> None:
        """Learn from an answer that was fetched whole and not waited for: all of it takes longer than `least_s`.

        What is known says how much longer, as of other times, and how much of that is to be laid on slow tokens and how
        much on many: as much as either varies. How many are usual is known of this cloud or, before its first answer,
        of the local model, which is asked the same.
        """
        own = self._known("cloud_tokens", subject)
        lengths = own or self._local_lengths()
        if lengths is None:
            return  # a time for nobody knows how much
        token = self._known("cloud_token_s", subject) or PRIOR_CLOUD_TOKEN
        ended_s = beyond(cloud_total(self.cloud(*subject.split("/", 1)), lengths), least_s)
        slower = max(ended_s - self._begun_s(subject), FLOOR_S) / (token.at(0.5) * lengths.at(0.5))
        varies, also = (math.log(one.at(0.9) / one.at(0.5)) ** 2 + 1e-9 for one in (token, lengths))
        share = varies / (varies + also)
        measured = [Sample("cloud_token_s", subject, token.at(0.5) * slower**share)]
        if own is not None:
            measured.append(Sample("cloud_tokens", subject, own.at(0.5) * slower ** (1 - share)))
        self._learn(measured)

    def _local_lengths(self) -> Spread | None:
        """How long answers of the local model are that has given most; None before the first."""
        local = [tracker for (kind, _), tracker in self._trackers.items() if kind == "answer_tokens"]
        return max(local, key=lambda tracker: tracker.count).spread if local else None

    def _learn_heard(self, subject: str, timing: Timing, first_s: float) -> None:
        """Learn from an answer's times. Of a whole one only the end is seen; its tokens bear what is left.

        One that ends before it was thought to begin says that it begins sooner. Kept apart from what streams tell: of
        whole answers only the quick ones say so.
        """
        measured = [Sample("cloud_ttft_s", subject, first_s)] if timing.is_stream else []
        ended_s, tokens = timing.ended_s, timing.answer_tokens
        if ended_s is not None and tokens:
            before_s, count = (first_s, tokens - 1) if timing.is_stream else (self._begun_s(subject), tokens)
            if ended_s < before_s:
                measured.append(Sample("cloud_whole_s", subject, ended_s))
            measured.append(Sample("cloud_tokens", subject, float(tokens)))
            if count:
                measured.append(Sample("cloud_token_s", subject, max(0.0, ended_s - before_s) / count))
        self._learn(measured)

    def _begun_s(self, subject: str) -> float:
        """What a whole answer is thought to take beside its tokens."""
        known = self._known("cloud_whole_s", subject) or self._known("cloud_ttft_s", subject)
        return (known or PRIOR_CLOUD_TTFT).at(0.5)

    # ---- the memory

    def _learn(self, measured: list[Sample]) -> None:
        for sample in measured:
            self._tracker(sample.kind, sample.subject).add(sample.value)
        if measured:
            # What cannot be kept is learned all the same, until the process ends.
            with suppress(StoreError):
                self._save(measured)

    def _known(self, kind: str, subject: str, least: int = 1) -> Spread | None:
        tracker = self._trackers.get((kind, subject))
        return None if tracker is None or tracker.count < least else tracker.spread

    def _tracker(self, kind: str, subject: str) -> Tracker:
        key = (kind, subject)
        tracker = self._trackers.get(key)
        if tracker is None:
            half_life = {"half_life": CLOUD_HALF_LIFE} if kind.startswith("cloud_") else {}
            tracker = self._trackers[key] = Tracker(_PRIORS[kind], **half_life)
            self._forget_tags()
        elif "\t" in subject:
            self._trackers.move_to_end(key)
        return tracker

    def _forget_tags(self) -> None:
        """Drop the tag that was unheard of the longest, where there are too many."""
        tagged = [key for key in self._trackers if "\t" in key[1]]
        if len(tagged) > MAX_TAGS:
            del self._trackers[tagged[0]]


class Timing:
    """The times of one call, in seconds since it began; learned from when its span ends.

    A call that is given up before its first event, or takes too long for its limits, counts as slower than that.
    """

    __slots__ = ("_began_s", "_book", "_subject", "answer_tokens", "ended_s", "first_s", "is_stream")

    def __init__(self, book: LatencyBook, subject: str, *, is_stream: bool) -> None:
        self._book, self._subject, self.is_stream = book, subject, is_stream
        self._began_s = time.monotonic()
        self.first_s: float | None = None
        self.ended_s: float | None = None
        self.answer_tokens = 0

    @property
    def elapsed_s(self) -> float:
        """How long it has been going on."""
        return time.monotonic() - self._began_s

    def heard(self, event: Event) -> None:
        """Note when an event came."""
        if self.first_s is None:
            self.first_s = self.elapsed_s
        if isinstance(event, Finished):
            self.ended_s = self.elapsed_s
            self.answer_tokens = 0 if event.usage is None else event.usage.completion_tokens

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        given_up = (GeneratorExit, asyncio.CancelledError, ProviderTimeout)
        self._book.learn_call(self._subject, self, was_given_up=kind is not None and issubclass(kind, given_up))


def _tagged(model: str, tag: str) -> str:
    return f"{model}\t{tag.casefold()[:200]}"


def _error(actual_s: float, predicted_s: float) -> float:
    """How many times longer it took than predicted; see `policy.latency.FLOOR_S`."""
    return (actual_s + FLOOR_S) / (predicted_s + FLOOR_S)
