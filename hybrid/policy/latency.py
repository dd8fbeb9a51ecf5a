"""How long would local take? Predictions from measured speeds, the queue and the prompt's length."""

from __future__ import annotations

from dataclasses import dataclass

from hybrid.policy.model import Signals


@dataclass(frozen=True, slots=True)
class Prediction:
    """Seconds to the first token and to the last; None where a speed it needs was never measured."""

    ttft_s: float | None
    total_s: float | None


def predict(signals: Signals) -> Prediction:
    """Predict a local run: queue, then prefill of the whole prompt, then one decode step a token.

    The total assumes the answer runs to its limit, which is the only bound known beforehand; with no
    limit there is no prediction of the total, because a guess would escalate short answers.
    """
    if signals.prompt_tokens is None or not signals.prefill_tok_s:
        return Prediction(None, None)
    ttft_s = (signals.queue_wait_s or 0.0) + signals.prompt_tokens / signals.prefill_tok_s
    if signals.max_output_tokens is None or not signals.decode_tok_s:
        return Prediction(ttft_s, None)
    return Prediction(ttft_s, ttft_s + signals.max_output_tokens / signals.decode_tok_s)
