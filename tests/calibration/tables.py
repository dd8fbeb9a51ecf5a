"""Marked answers of an invented model that knows how sure it is, for tests of what is made of them."""

from pathlib import Path

import numpy as np

from hybrid.calibration.datasets import Dataset, Question, Recorded
from hybrid.calibration.drafts import Answer
from hybrid.calibration.table import Row, Table
from hybrid.types import FinishReason


def dataset(questions) -> Dataset:
    """A dataset of these questions, from no file."""
    return Dataset(Path("invented.jsonl"), "0" * 64, tuple(questions))


def choices(count: int, *, seed: int = 0, knows: float = 2.0, cloud: float | None = 0.8) -> Table:
    """Questions with four options; the likelier the chosen one, the oftener it is right. knows 0: nothing is told.

    cloud: how often the cloud is right; None: it is not asked.
    """
    rng = np.random.default_rng(seed)
    rows = []
    for number in range(count):
        logits = rng.normal(size=4)
        shares = np.exp(logits * 1.5) / np.exp(logits * 1.5).sum()
        place = int(shares.argmax())
        sure = 1 / (1 + np.exp(-knows * (6 * shares[place] - 3.6)))
        is_right = bool(rng.random() < sure)
        cloud_right = None if cloud is None else bool(rng.random() < cloud)
        letter = "ABCD"[place]
        gold = letter if is_right else "ABCD"[(place + 1) % 4]
        recorded = {} if cloud_right is None else {"big": Recorded(correct=cloud_right)}
        question = Question(
            id=f"q{number}", question=f"q{number}?", choices=tuple("wxyz"), answer=gold, scorer="choice",
            task="invented", recorded=recorded,
        )  # fmt: skip
        logprobs = np.log(shares * 0.98)
        answer = Answer(
            key=f"k{number}",
            text=letter,
            finish=FinishReason.LENGTH,
            prompt_tokens=50,
            logprobs=(float(logprobs[place]),),
            entropies=(float(-(shares * np.log(shares)).sum()),),
            margins=(float(np.sort(shares)[3] - np.sort(shares)[2]),),
            options=tuple(float(one) for one in logprobs),
            total_s=1.0,
        )
        rows.append(
            Row(question=question, answer=answer, draft=answer.draft(), is_right=is_right, cloud_right=cloud_right)
        )
    return Table(tuple(rows))


def texts(count: int, *, seed: int = 0, tokens: int = 40) -> Table:
    """Free text of so many tokens: the surer the model is of them from the first on, the oftener it is right."""
    rng = np.random.default_rng(seed)
    rows = []
    for number in range(count):
        sureness = rng.normal()
        doubts = np.exp(rng.normal(size=tokens) - 2 * sureness - 1)
        is_right = bool(rng.random() < 1 / (1 + np.exp(-3 * sureness)))
        question = Question(id=f"t{number}", question=f"t{number}?", answer="gold", scorer="text", task="invented")
        answer = Answer(
            key=f"t{number}",
            text="gold" if is_right else "lead",
            finish=FinishReason.STOP,
            prompt_tokens=50,
            logprobs=tuple(float(-one) for one in doubts),
            entropies=tuple(float(one) for one in doubts),
            margins=tuple(float(np.exp(-one)) for one in doubts),
            total_s=1.0,
        )
        rows.append(Row(question=question, answer=answer, draft=answer.draft(), is_right=is_right))
    return Table(tuple(rows))
