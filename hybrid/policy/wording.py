"""Is the cloud likely right on a question, by its words alone? A hashed logistic model as plain numbers.

Where a cloud fails is told by what is asked, and hardly by how a small model fares at it: the words of a question rank
its right answers where a draft's confidence does not. The fit is hybrid/calibration/wordings.py.
"""

from __future__ import annotations

import itertools
import math
import re
import zlib
from dataclasses import dataclass

CLOUD_WORDS = "cloud_words"
"""The feature that it gives to the model of P(cloud right): a logit."""

TEXT_CHARS = 4000
"""Of a longer question only the beginning is read."""

_TOKENS = re.compile(r"\w+|[^\w\s]")


@dataclass(frozen=True, slots=True)
class Wording:
    """weights: one a bucket, in logits. intercept: of a question without words."""

    weights: tuple[float, ...]
    intercept: float

    def __post_init__(self) -> None:
        if not self.weights:
            raise ValueError("a model of words has weights")
        if not all(map(math.isfinite, (*self.weights, self.intercept))):
            raise ValueError("the weights of words must be finite")


def buckets_of(text: str, count: int) -> set[int]:
    """The buckets, of so many, that a text's words and pairs of neighbours fall into, whatever their case."""
    tokens = _TOKENS.findall(text[:TEXT_CHARS].casefold())
    pairs = [f"{one} {next_one}" for one, next_one in itertools.pairwise(tokens)]
    return {zlib.crc32(term.encode("utf-8", "surrogatepass")) % count for term in (*tokens, *pairs)}


def logit_of(wording: Wording, text: str) -> float:
    """The logit of the chance that the cloud is right on a question of these words."""
    found = buckets_of(text, len(wording.weights))
    if not found:
        return wording.intercept
    return wording.intercept + math.fsum(wording.weights[bucket] for bucket in found) / math.sqrt(len(found))
