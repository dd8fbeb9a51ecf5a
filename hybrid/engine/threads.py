"""How many threads should compute now? Decided from pressure and from trials, as a pure function of what was seen.

Threads of llama.cpp meet several hundred times a step, so one that has to wait for a core holds up all of them: beside
one busy process on two cores, two threads give a third of what one gives. How it comes out depends on model, batch and
scheduler, so it is not modelled but tried: fewer for a moment, kept if that gave no fewer tokens a second.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from hybrid.engine.pressure import Pressure
from hybrid.engine.work import NO_WORK, Work, gain

TRIAL_S, TRIAL_STEPS, TRIAL_LIMIT_S = 0.35, 3, 2.0
"""A trial is judged after so much time in so many steps, and given up if it cannot be by then."""
KEEP_FEWER_GAIN, KEEP_MORE_GAIN = 1.03, 1.15
"""Fewer are kept if they are no slower, beyond noise; more must pay. The band between them keeps it steady."""
FIRST_PAUSE_S, LONGEST_PAUSE_S = 2.0, 60.0
"""Until the next trial in a direction that failed, doubled each time: wrong guesses cost some 1 % in the long run."""
LONGEST_BLIND_PAUSE_S = 10.0
"""The same for more threads where nobody tells what others use: trying is the only way to learn that they are gone."""
FIRST_HOLD_S, LONGEST_HOLD_S = 0.5, 16.0
"""How long there must be room before threads come back; doubled each time they came back too soon."""
TOO_SOON_S = 10.0
ROOM_SLACK_CORES = 0.35
"""A core is free enough for a thread if others use less than this of it."""
WAITING, STALLED, PREEMPTED_PER_S = 0.10, 0.15, 20.0
"""From where threads are held up, each used only where the one before it is unknown."""
QUIET_WAITING, QUIET_CORES = 0.05, 0.3
"""Below either nothing disturbs: the gateway and its clients use some of a core themselves."""
HOLDING_CORES = 0.5
"""Others that use less cannot hold a thread up so much that computing without it pays."""
NOTABLE_CORES, NOTABLE_SHARE, NOTABLE_WAITING = 0.4, 0.1, 0.2
"""Others changed if they use so many cores, and that share of all, more or less, or if waiting changed so much."""
NOTABLY_SLOW = 1.25
HOPEFUL = 0.75
"""Fewer threads can win only if the step is slower by about their share; less is asked, for memory may be the bound."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """most: threads when nothing disturbs. cores: of the machine."""

    most: int
    cores: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Tick:
    """What was seen since the last decision. slowdown: against undisturbed steps; None where none are known."""

    at_s: float
    work: Work
    pressure: Pressure
    slowdown: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """Another number of threads is being tried since `began_s`; `back_to` was in use before and did `base`."""

    began_s: float
    pressure: Pressure
    back_to: int
    base: Work
    work: Work = NO_WORK


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """The threads to use now, and what the next decision must remember.

    recent: the work of the last tick with these threads. was_held_up: whether others held them up in it.
    fewer_at_s, more_at_s: no trial in that direction before.
    room_since_s: since when there is room for more. raised_at_s: when threads last came back.
    settled: the pressure when the last trial was judged; notably another one, twice in a row (was_changed), is a reason
    to try again before the pause is over, but not before `early_at_s`.
    """

    threads: int
    trial: Trial | None = None
    recent: Work = NO_WORK
    was_held_up: bool = False
    fewer_at_s: float = 0.0
    fewer_pause_s: float = FIRST_PAUSE_S
    more_at_s: float = 0.0
    more_pause_s: float = FIRST_PAUSE_S
    room_since_s: float | None = None
    hold_s: float = FIRST_HOLD_S
    raised_at_s: float | None = None
    settled: Pressure | None = None
    was_changed: bool = False
    early_at_s: float = 0.0


def decide(choice: Choice, tick: Tick, bounds: Bounds) -> Choice:
    """Choose how many threads compute until the next tick. Pure."""
    choice = _watch_room(choice, tick, bounds)
    if choice.trial is not None:
        return _judge(choice, choice.trial, tick)
    if choice.room_since_s is not None and tick.at_s - choice.room_since_s >= choice.hold_s:
        return _come_back(choice, tick, bounds)
    # What was done just now; with few long steps, also what was before.
    base = tick.work if tick.work.steps >= TRIAL_STEPS else choice.recent.plus(tick.work)
    fewer = _fewer(choice.threads, tick.pressure, bounds)
    # Twice in a row: the tick in which others came is partly undisturbed, and no trial would win against it.
    held_up = fewer > 0 and is_held_up(tick, now=choice.threads, then=fewer)
    changed = _has_changed(choice.settled, tick.pressure, bounds)
    is_early = changed and choice.was_changed and tick.at_s >= choice.early_at_s
    if held_up and choice.was_held_up and (is_early or tick.at_s >= choice.fewer_at_s):
        return _try(choice, tick, fewer, base)
    is_time_for_more = is_early or tick.at_s >= choice.more_at_s
    if choice.threads < bounds.most and choice.room_since_s is None and is_time_for_more:
        return _try(choice, tick, choice.threads + 1, base)
    return replace(choice, recent=tick.work, was_held_up=held_up, was_changed=changed)


def rest(choice: Choice, tick: Tick, bounds: Bounds) -> Choice:
    """Choose for when work comes again, as nothing runs: trials are given up, threads come back where there is room."""
    if choice.trial is not None:
        choice = replace(choice, threads=choice.trial.back_to, trial=None)
    choice = _watch_room(replace(choice, recent=NO_WORK, was_held_up=False), tick, bounds)
    return choice if choice.room_since_s is None else _come_back(choice, tick, bounds)


def is_held_up(tick: Tick, *, now: int, then: int) -> bool:
    """Say whether others hold the threads up so much that `then` instead of `now` threads may be faster."""
    if tick.slowdown is not None and tick.slowdown < max(NOTABLY_SLOW, HOPEFUL * now / then):
        return False
    seen = tick.pressure
    if seen.others_cores is not None and seen.others_cores < HOLDING_CORES:
        return False
    if seen.waiting is not None:
        return seen.waiting > WAITING
    if seen.stalled is not None:
        return seen.stalled > STALLED
    if seen.preempted_per_s is not None:
        return seen.preempted_per_s > PREEMPTED_PER_S
    return tick.slowdown is not None


def is_undisturbed(pressure: Pressure) -> bool:
    """Say whether a step as it was just now may serve as the reference. Where nothing is known, any may."""
    waiting, others_cores = pressure.waiting, pressure.others_cores
    if waiting is None and others_cores is None:
        return True
    is_unhindered = waiting is not None and waiting < QUIET_WAITING
    return is_unhindered or (others_cores is not None and others_cores < QUIET_CORES)


def expected_slowdown(pressure: Pressure, bounds: Bounds) -> float | None:
    """Guess how much slower steps would be now, from what others use, while nothing runs; None where that is unknown.

    Either the cores that others leave compute, or every thread gets its fair share, of which meeting loses half, as
    was seen on two cores: 1/2 of the speed beside one busy process, 1/4 beside two.
    """
    others = pressure.others_cores
    if others is None:
        return None
    if others < QUIET_CORES:
        return 1.0
    most = min(bounds.most, bounds.cores)
    fair = bounds.cores * most / max(most + others, bounds.cores) / 2
    return max(1.0, most / min(most, max(bounds.cores - others, fair)))


def _watch_room(choice: Choice, tick: Tick, bounds: Bounds) -> Choice:
    """Note since when others leave room for another thread."""
    target = _with_room(tick.pressure, bounds)
    has_room = choice.threads < bounds.most and target is not None and target > choice.threads
    if not has_room:
        return replace(choice, room_since_s=None)
    return (
        choice if choice.room_since_s is not None else replace(choice, room_since_s=tick.at_s - tick.pressure.seconds)
    )


def _with_room(pressure: Pressure, bounds: Bounds) -> int | None:
    if pressure.others_cores is None:
        return None
    return max(1, min(bounds.most, int(bounds.cores - pressure.others_cores + ROOM_SLACK_CORES)))


def _has_changed(settled: Pressure | None, now: Pressure, bounds: Bounds) -> bool:
    """Say whether others press notably more or less than when a trial was judged last."""
    if settled is None:
        return False

    def differs(before: float | None, after: float | None, by: float) -> bool:
        return before is not None and after is not None and abs(after - before) > by

    notable_cores = max(NOTABLE_CORES, NOTABLE_SHARE * bounds.cores)
    return differs(settled.others_cores, now.others_cores, notable_cores) or differs(
        settled.waiting, now.waiting, NOTABLE_WAITING
    )


def _fewer(threads: int, pressure: Pressure, bounds: Bounds) -> int:
    """The smaller number worth trying: what others leave room for, where that is known; 0 where there is none."""
    room = _with_room(pressure, bounds)
    if room is None:
        return threads - max(1, threads // 4) if threads > 1 else 0
    return min(room, threads - 1)


def _come_back(choice: Choice, tick: Tick, bounds: Bounds) -> Choice:
    """Use what others leave room for, at once: that a core is idle needs no trial."""
    return replace(
        choice,
        threads=_with_room(tick.pressure, bounds) or bounds.most,
        recent=NO_WORK,
        room_since_s=None,
        raised_at_s=tick.at_s,
        fewer_at_s=tick.at_s + FIRST_HOLD_S,
        fewer_pause_s=FIRST_PAUSE_S,
    )


def _try(choice: Choice, tick: Tick, threads: int, base: Work) -> Choice:
    trial = Trial(began_s=tick.at_s, pressure=tick.pressure, back_to=choice.threads, base=base)
    return replace(choice, threads=threads, trial=trial, recent=NO_WORK, was_held_up=False, was_changed=False)


def _judge(choice: Choice, trial: Trial, tick: Tick) -> Choice:
    """Go on with a trial, or end it: keep what it tried, or go back and wait longer before the next."""
    work = trial.work.plus(tick.work)
    times_faster = gain(trial.base, work)
    is_enough = work.seconds >= TRIAL_S and work.steps >= TRIAL_STEPS and times_faster is not None
    if not is_enough and tick.at_s - trial.began_s < TRIAL_LIMIT_S:
        return replace(choice, trial=replace(trial, work=work))
    choice = replace(choice, trial=None, recent=tick.work)
    is_fewer = choice.threads < trial.back_to
    wanted = KEEP_FEWER_GAIN if is_fewer else KEEP_MORE_GAIN
    if is_enough and times_faster is not None and times_faster >= wanted:
        return _keep(choice, tick, is_fewer=is_fewer)
    choice = replace(choice, threads=trial.back_to, recent=NO_WORK)
    pause_s = choice.fewer_pause_s if is_fewer else choice.more_pause_s
    early_at_s = tick.at_s + max(FIRST_PAUSE_S, pause_s / 4)
    choice = replace(choice, settled=trial.pressure, early_at_s=early_at_s)
    if is_fewer:
        return replace(choice, fewer_at_s=tick.at_s + pause_s, fewer_pause_s=min(2 * pause_s, LONGEST_PAUSE_S))
    longest_s = LONGEST_BLIND_PAUSE_S if tick.pressure.others_cores is None else LONGEST_PAUSE_S
    return replace(
        choice,
        more_at_s=tick.at_s + min(pause_s, longest_s),
        more_pause_s=min(2 * pause_s, longest_s),
    )


def _keep(choice: Choice, tick: Tick, *, is_fewer: bool) -> Choice:
    choice = replace(choice, settled=tick.pressure, early_at_s=tick.at_s + FIRST_PAUSE_S)
    if not is_fewer:
        return replace(choice, fewer_at_s=tick.at_s + FIRST_HOLD_S, more_at_s=tick.at_s, raised_at_s=tick.at_s)
    came_back_too_soon = choice.raised_at_s is not None and tick.at_s - choice.raised_at_s < TOO_SOON_S
    more_pause_s = min(2 * choice.more_pause_s, LONGEST_PAUSE_S) if came_back_too_soon else FIRST_PAUSE_S
    return replace(
        choice,
        hold_s=min(2 * choice.hold_s, LONGEST_HOLD_S) if came_back_too_soon else FIRST_HOLD_S,
        fewer_at_s=tick.at_s,
        fewer_pause_s=FIRST_PAUSE_S,
        more_at_s=tick.at_s + more_pause_s,
        more_pause_s=more_pause_s,
    )
