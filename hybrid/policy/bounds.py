"""How large may a share really be, given what was counted? Exact binomial bounds, without any library."""

from __future__ import annotations

import math

_TINY = 1e-300
_EPSILON = 1e-15
_MAX_TERMS = 10_000
_HALVINGS = 100
"""The search ends earlier, when two neighbouring doubles are left."""


def upper_bound(count: int, n: int, delta: float) -> float:
    """The Clopper-Pearson upper bound: with confidence 1 - delta the true share is no larger.

    It is the share at which as few as `count` of n independent trials would have had probability delta. Exact for
    every n, never optimistic, one-sided: a two-sided interval of 95 % takes delta = 0.025 on each side.

    Args:
        count: trials in which it happened, in [0, n].
        delta: the chance that the bound is too low, in (0, 1).
    Raises: ValueError if a number is out of range.
    Source: Clopper and Pearson 1934, Biometrika 26(4).
    """
    _check(count, n, delta)
    if count == n:
        return 1.0
    low, high = 0.0, 1.0
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        if not low < middle < high:
            break
        if at_most(count, n, middle) > delta:
            low = middle
        else:
            high = middle
    return high


def lower_bound(count: int, n: int, delta: float) -> float:
    """The Clopper-Pearson lower bound: with confidence 1 - delta the true share is no smaller."""
    return 1.0 - upper_bound(n - count, n, delta)


def at_most(count: int, n: int, share: float) -> float:
    """The chance that n independent trials of chance `share` give at most `count`.

    The relative error is below 1e-9 up to n = 1e6, where logarithms of factorials lose digits.

    Raises: ValueError if a number is out of range.
    """
    if n < 0 or not 0 <= share <= 1:
        raise ValueError(f"need n >= 0 trials of a chance in [0, 1]; got n={n}, share={share}")
    if count < 0:
        return 0.0
    if count >= n or share == 0:
        return 1.0
    if share == 1:
        return 0.0
    return regularised_beta(n - count, count + 1, 1.0 - share)


def most_errors(n: int, share: float, delta: float) -> int:
    """The largest count whose upper bound is at most `share`; -1 if not even 0 errors in n trials prove it.

    One number for all thresholds of one calibration set: a threshold passes if and only if it errs no oftener.

    Raises: ValueError if a number is out of range.
    """
    _check(0, n, delta)
    if not 0 <= share <= 1:
        raise ValueError(f"a share lies in [0, 1]; got {share}")
    low, high = -1, n
    if share == 1:
        return n
    while high - low > 1:
        middle = (low + high) // 2
        if at_most(middle, n, share) <= delta:
            low = middle
        else:
            high = middle
    return low


def most_errors_for_batch(n: int, batch: int, share: float, delta: float) -> int:
    """The largest count in n trials after which a batch to come is also seen to keep to `share`; -1 if there is none.

    `most_errors` is about the true share; what is observed in a batch varies around it. Thresholds loosen until one
    more error would pass among the n. Which sample a row is of does not depend on its score or label, so the batch is
    over its share only if, of the first errors of both together, too few fell among the n: a hypergeometric chance,
    whatever the data.

    Args:
        batch: trials to come. delta: the chance that more than `share` of them err.
    Source: as for tolerance limits by exceedances, Gumbel and von Schelling 1950, Ann. Math. Statist. 21(2).
    Raises: ValueError if a number is out of range.
    """
    _check(0, n, delta)
    if batch < 1 or not 0 <= share <= 1:
        raise ValueError(f"need a batch of at least 1 and a share in [0, 1]; got {batch} and {share}")
    # A product may round below the integer it stands for: 0.29 * 100 is 28.999...96.
    allowed = math.floor(share * batch + 1e-9)
    if allowed >= batch:
        return n
    low, high = -1, n
    while high - low > 1:
        middle = (low + high) // 2
        if _drawn_at_most(middle, n, batch, middle + allowed + 1) <= delta:
            low = middle
        else:
            high = middle
    return low


def allowed_errors(n: int, share: float, delta: float) -> int:
    """The largest count in n trials that proves a share, the true one and the one of as many trials to come; or -1.

    Whoever counts for themselves sees the second: what is promised is to be found kept in what is served.

    Raises: ValueError if a number is out of range.
    """
    return min(most_errors(n, share, delta), most_errors_for_batch(n, n, share, delta))


def rows_needed(share: float, delta: float) -> int:
    """The least number of trials that `allowed_errors` lets prove a share, if none of them errs.

    Raises: ValueError unless both lie in (0, 1).
    """
    n = trials_needed(share, delta)
    while allowed_errors(n, share, delta) < 0:
        n += 1
    return n


def _drawn_at_most(count: int, n: int, others: int, drawn: int) -> float:
    """The chance that of `drawn` out of n + others, without replacement, at most `count` are of the n."""
    if drawn - count > others:
        return 0.0
    log_chance = _log_choose(n, count) + _log_choose(others, drawn - count) - _log_choose(n + others, drawn)
    term, total = 1.0, 0.0
    # From the largest count downwards: the sum relative to its first term.
    for hit in range(count, -1, -1):
        total += term
        term *= hit * (others - drawn + hit) / ((n - hit + 1) * (drawn - hit + 1))
        if term <= 0 or term < _EPSILON * total:
            break
    return min(1.0, math.exp(log_chance) * total)


def _log_choose(n: int, k: int) -> float:
    return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)


def trials_needed(share: float, delta: float) -> int:
    """The least number of trials that can prove a share this small, if none of them errs.

    Raises: ValueError unless both lie in (0, 1).
    """
    if not 0 < share < 1 or not 0 < delta < 1:
        raise ValueError(f"share and delta lie in (0, 1); got {share} and {delta}")
    n = max(1, math.ceil(math.log(delta) / math.log1p(-share)))
    # Logarithms may round across an integer.
    while n > 1 and (1 - share) ** (n - 1) <= delta:
        n -= 1
    while (1 - share) ** n > delta:
        n += 1
    return n


def regularised_beta(a: float, b: float, x: float) -> float:
    """I_x(a, b): the chance that a Beta(a, b) variable is at most x, for a, b > 0 and x in [0, 1].

    By Lentz's continued fraction, on the side of the mean where it converges fast.

    Source: NIST Digital Library of Mathematical Functions, 8.17.22 (fraction) and 8.17.4 (symmetry).
    """
    if a <= 0 or b <= 0 or not 0 <= x <= 1:
        raise ValueError(f"the incomplete beta function needs a, b > 0 and x in [0, 1]; got {a}, {b}, {x}")
    if x in (0.0, 1.0):
        return x
    front = math.exp(math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x))
    if x < (a + 1) / (a + b + 2):
        return min(1.0, front * _fraction(a, b, x) / a)
    return max(0.0, 1.0 - front * _fraction(b, a, 1.0 - x) / b)


def _fraction(a: float, b: float, x: float) -> float:
    """The continued fraction of the incomplete beta function, by the modified Lentz method."""
    c, d = 1.0, 1.0 / _away_from_zero(1.0 - (a + b) * x / (a + 1.0))
    value = d
    for m in range(1, _MAX_TERMS):
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        for term in (even, odd):
            d = 1.0 / _away_from_zero(1.0 + term * d)
            c = _away_from_zero(1.0 + term / c)
            value *= c * d
        if abs(c * d - 1.0) < _EPSILON:
            break
    return value


def _away_from_zero(value: float) -> float:
    return value if abs(value) > _TINY else _TINY


def _check(count: int, n: int, delta: float) -> None:
    if n < 1 or not 0 <= count <= n or not 0 < delta < 1:
        raise ValueError(f"need 0 <= count <= n, n >= 1 and 0 < delta < 1; got count={count}, n={n}, delta={delta}")
