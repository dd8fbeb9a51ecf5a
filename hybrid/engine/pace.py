"""How long is a step, and how much prompt fits into one? Speeds measured from the steps themselves."""

from __future__ import annotations

from dataclasses import dataclass

SMOOTHING = 0.2
"""Weight of the newest step in a running average: about the last five steps count."""
MIN_CHUNK_TOKENS = 16
"""Below this llama.cpp's matrix kernels lose most of their speed to per-step overhead."""
FIRST_CHUNK_TOKENS = 64
IDLE_STEP_S = 0.15
"""Longest step while nobody decodes: a cancelled request leaves at the next step, and must within 500 ms."""
MIN_BUSY_STEP_S = 0.06


@dataclass(slots=True)
class Pace:
    """Running averages of step times; None until the first step of the kind."""

    prefill_token_s: float | None = None
    decode_step_s: float | None = None
    decode_sequences: float = 1.0

    def prefill_budget_tokens(self, *, decoding: int, batch_tokens: int) -> int:
        """Give the prompt tokens the next step may take.

        With streams running the step may last about twice their usual one, so a long prompt slows them
        by no more than that; without, up to `IDLE_STEP_S`.
        """
        if self.prefill_token_s is None:
            return min(FIRST_CHUNK_TOKENS, batch_tokens)
        target_s = IDLE_STEP_S
        if decoding:
            target_s = min(max(self.decode_step_s or MIN_BUSY_STEP_S, MIN_BUSY_STEP_S), IDLE_STEP_S)
        return max(MIN_CHUNK_TOKENS, min(batch_tokens, int(target_s / self.prefill_token_s)))

    def observe(self, *, step_s: float, prefill_tokens: int, decode_tokens: int) -> None:
        """Learn from one finished step of `step_s` seconds."""
        if decode_tokens and not prefill_tokens:
            self.decode_step_s = _smooth(self.decode_step_s, step_s)
            self.decode_sequences = _smooth(self.decode_sequences, float(decode_tokens))
        elif prefill_tokens >= MIN_CHUNK_TOKENS:
            share_s = max(step_s - (self.decode_step_s or 0.0) * bool(decode_tokens), step_s * 0.25)
            self.prefill_token_s = _smooth(self.prefill_token_s, share_s / prefill_tokens)

    @property
    def prefill_tok_s(self) -> float | None:
        """Prompt tokens a second."""
        return None if self.prefill_token_s is None else 1.0 / self.prefill_token_s

    @property
    def decode_tok_s(self) -> float | None:
        """Tokens a second that ONE sequence gets in the batches seen lately."""
        return None if self.decode_step_s is None else 1.0 / self.decode_step_s


def _smooth(average: float | None, value: float) -> float:
    return value if average is None else average + SMOOTHING * (value - average)
