"""How long will a request wait? Learned from how long answers took, and from the load that the worker tells."""

from __future__ import annotations

from dataclasses import dataclass

from hybrid.engine.frames import Load

SMOOTHING = 0.1


@dataclass(slots=True)
class ServiceTime:
    """A running average of the seconds an answer takes from leaving the queue to its end; None until the first."""

    average_s: float | None = None

    def learn(self, seconds: float, load: Load) -> None:
        """Learn from one answer.

        What other programs added is taken out, and put in again as it is when a wait is predicted: they come and go
        within a second, the average follows over many requests.
        """
        undisturbed_s = seconds / (load.slowdown or 1.0)
        average = undisturbed_s if self.average_s is None else self.average_s
        self.average_s = average + SMOOTHING * (undisturbed_s - average)

    def wait_s(self, load: Load, *, answers: int, slots: int, prompt_tokens: int | None = None) -> float | None:
        """Predict how long a request submitted now waits for its prefill; None while nothing was measured.

        While slots are free only the prompts before it count; else as many answers must end as are ahead of it.

        Args:
            prompt_tokens: of the request; None where nobody counted: then it comes after all.
        """
        ahead = answers - slots + 1
        if ahead > 0:
            return None if self.average_s is None else self.average_s * (load.slowdown or 1.0) * ahead / slots
        before = sum(left for left, least in load.prompts if prompt_tokens is None or prompt_tokens >= least)
        return before / load.prefill_tok_s if load.prefill_tok_s else None
