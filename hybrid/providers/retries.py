"""May a call be sent once more? A budget that keeps retries to a share of the calls, so that they cannot pile up."""

from __future__ import annotations


class RetryBudget:
    """A bucket of tokens: each call puts a share of one in, each retry takes a whole one out.

    When everything fails at once the bucket runs dry, and a provider in trouble sees few more calls than it would
    without any retries. One that rarely fails has its retries to hand.
    """

    __slots__ = ("_most", "_share", "_tokens")

    def __init__(self, *, share: float = 0.2, most: float = 10.0) -> None:
        """share: retries a call, in the long run. most: how many may follow each other after a quiet time."""
        self._share, self._most = share, most
        self._tokens = most

    def deposit(self) -> None:
        """A call begins."""
        self._tokens = min(self._tokens + self._share, self._most)

    def withdraw(self) -> bool:
        """Take the right to one retry; False if there is none."""
        if self._tokens < 1.0:
            return False
        self._tokens -= 1.0
        return True
