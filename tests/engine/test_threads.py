"""Are as many threads used as give the most, whatever comes and goes beside them?"""

import itertools
import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import pytest

from hybrid.engine.pressure import Pressure
from hybrid.engine.threads import (
    LONGEST_HOLD_S,
    Bounds,
    Choice,
    Tick,
    decide,
    expected_slowdown,
    is_held_up,
    is_undisturbed,
    rest,
)
from hybrid.engine.work import NO_WORK, work_of

TICK_S = 0.25
TWO = Bounds(most=2, cores=2)
ALL_THREADS = Choice(threads=2)
# Steps a second by (competitors, threads), as they came out for one stream on two cores: rough, but of that shape.
# Beside two competitors a second thread gets a share of its own.
ONE_STREAM = {(0, 2): 106.0, (0, 1): 60.0, (1, 2): 32.0, (1, 1): 60.0, (2, 2): 40.0, (2, 1): 26.0}
# A large batch, where two threads stay ahead beside one competitor.
LARGE_BATCH = {(0, 2): 20.0, (0, 1): 10.0, (1, 2): 13.0, (1, 1): 9.0, (2, 2): 9.0, (2, 1): 5.0}


@dataclass
class Machine:
    """A two-core machine with a model on it and `competitors` that come and go."""

    steps_per_s: dict[tuple[int, int], float]
    knows: tuple[str, ...] = ("waiting", "others_cores", "slowdown")
    noise: float = 0.0
    choice: Choice = ALL_THREADS
    at_s: float = 100.0
    steps: float = 0.0

    def run(self, competitors: int, seconds: float) -> list[int]:
        """Let some time pass; give the threads in use at each tick."""
        chance = random.Random(competitors)  # noqa: S311 - noise, not a secret
        used = []
        for _ in range(int(seconds / TICK_S)):
            self.at_s += TICK_S
            used.append(self.choice.threads)
            speed = self.steps_per_s[competitors, self.choice.threads] * (1 + chance.uniform(-self.noise, self.noise))
            self.steps += speed * TICK_S
            self.choice = decide(self.choice, self._tick(competitors, speed), TWO)
        return used

    def _tick(self, competitors: int, speed: float) -> Tick:
        threads, work = self.choice.threads, NO_WORK
        for _ in range(max(1, round(speed * TICK_S))):
            work = work.plus(work_of(step_s=1 / speed, prefill_tokens=0, decode_tokens=1))
        crowd = threads + competitors
        facts = {
            "waiting": max(0.0, 1 - 2 / crowd),
            "others_cores": competitors * min(1.0, 2 / crowd),
            "slowdown": self.steps_per_s[0, 2] / speed,
        }
        known = {name: value if name in self.knows else None for name, value in facts.items()}
        slowdown = known.pop("slowdown")
        return Tick(at_s=self.at_s, work=work, pressure=Pressure(seconds=TICK_S, **known), slowdown=slowdown)


def changes(used: Iterable[int]) -> int:
    """How often the number of threads changed."""
    return sum(1 for before, after in itertools.pairwise(used) if before != after)


KNOWLEDGE = [
    pytest.param(("waiting", "others_cores", "slowdown"), id="all-known"),
    pytest.param(("waiting", "others_cores"), id="no-reference"),
    pytest.param(("others_cores", "slowdown"), id="no-schedstat"),
    pytest.param(("waiting", "slowdown"), id="no-stat"),
    pytest.param(("slowdown",), id="no-proc"),
]


@pytest.mark.parametrize("knows", KNOWLEDGE)
def test_a_quiet_machine_keeps_all_threads(knows):
    """Where nothing disturbs, fewer threads are never even tried."""
    assert {2} == set(Machine(ONE_STREAM, knows).run(0, 120))


@pytest.mark.parametrize("knows", KNOWLEDGE)
def test_one_competitor_comes_and_goes(knows):
    """Beside a busy process one thread takes over within a second, and both are back soon after it left."""
    machine = Machine(ONE_STREAM, knows)
    machine.run(0, 5)
    beside = machine.run(1, 20)
    assert {1} == set(beside[2:9])
    # Trials of more threads take the rest.
    assert beside.count(1) >= 0.85 * len(beside)
    after = machine.run(0, 20)
    soon = 2 if "others_cores" in knows else 40
    assert {2} == set(after[soon:])


def test_two_competitors():
    """Beside a second busy process both threads pay again, which is found out before the pauses end; and back."""
    machine = Machine(ONE_STREAM)
    machine.run(0, 2)
    for competitors, best, soon_s in [(1, 1, 1), (2, 2, 3), (1, 1, 3), (2, 2, 5), (0, 2, 1)]:
        used = machine.run(competitors, 30)[int(soon_s / TICK_S) :]
        assert used.count(best) >= 0.9 * len(used), (competitors, used)


@pytest.mark.parametrize("knows", KNOWLEDGE)
def test_a_batch_that_wants_both_keeps_both(knows):
    """Where fewer threads are slower, trials end, ever more rarely, and cost a few per cent of a minute."""
    machine = Machine(LARGE_BATCH, knows)
    machine.run(0, 2)
    machine.steps = 0.0
    used = machine.run(1, 60)
    assert machine.steps >= 0.96 * 60 * LARGE_BATCH[1, 2]
    assert changes(used) <= 12
    assert used.count(2) >= 0.9 * len(used)


@pytest.mark.parametrize("noise", [0.1, 0.3])
def test_noise_does_not_make_it_oscillate(noise):
    """With steps that vary, threads change a few times a minute at most, and little speed is lost."""
    machine = Machine(ONE_STREAM, noise=noise)
    assert {2} == set(machine.run(0, 60))
    machine.steps = 0.0
    used = machine.run(1, 120)
    assert changes(used) <= 16
    assert machine.steps >= 0.9 * 120 * ONE_STREAM[1, 1]


def test_bursts_are_waited_out():
    """A competitor that comes and goes every second does not drag the threads along: they come back ever later."""
    machine = Machine(ONE_STREAM)
    used = []
    for _ in range(60):
        used += machine.run(1, 1.0) + machine.run(0, 1.0)
    assert changes(used) <= 30
    assert 1.0 < machine.choice.hold_s <= LONGEST_HOLD_S


def test_many_cores_give_way_at_once():
    """On many cores the threads go to what others leave in one trial, and back in one step."""
    bounds = Bounds(most=16, cores=16)
    speed = {16: 20.0, 10: 60.0}
    choice, seen = Choice(threads=16), []
    for number, others in enumerate([0.0] * 4 + [6.0] * 6 + [0.0] * 5):
        at = speed[choice.threads]
        work = NO_WORK
        for _ in range(10):
            work = work.plus(work_of(step_s=1 / at, prefill_tokens=0, decode_tokens=1))
        held_up = others > 0 and choice.threads == 16
        pressure = Pressure(seconds=TICK_S, waiting=0.3 if held_up else 0.0, others_cores=others)
        tick = Tick(at_s=TICK_S * number, work=work, pressure=pressure, slowdown=3.0 if held_up else 1.0)
        choice = decide(choice, tick, bounds)
        seen.append(choice.threads)
    assert [16, 10, 16] == [threads for threads, _ in itertools.groupby(seen)]


def test_one_core_has_no_choice():
    """With one thread there is nothing to decide, whatever the pressure."""
    choice = Choice(threads=1)
    work = work_of(step_s=0.3, prefill_tokens=0, decode_tokens=1)
    tick = Tick(at_s=9.0, work=work, pressure=Pressure(seconds=1, waiting=0.9, others_cores=1.0), slowdown=9.0)
    assert 1 == decide(choice, tick, Bounds(most=1, cores=1)).threads


def test_a_trial_that_cannot_be_judged_is_given_up():
    """If the work changes in kind so that nothing can be compared, all threads are back after a few seconds."""
    pressed = Pressure(seconds=TICK_S, waiting=0.5, others_cores=1.0)
    choice, used = Choice(threads=2, was_held_up=True), []
    for number in range(20):
        work = work_of(step_s=TICK_S, prefill_tokens=0, decode_tokens=number + 1)
        choice = decide(choice, Tick(at_s=number * TICK_S, work=work, pressure=pressed), TWO)
        used.append(choice.threads)
    assert [1] * 8 + [2] * 8 + [1] * 4 == used


def test_rest_ends_trials_and_brings_threads_back():
    """While nothing runs a trial proves nothing, and an idle machine gets all of its threads back at once."""
    quiet, busy = Pressure(seconds=1, others_cores=0.1), Pressure(seconds=1, others_cores=1.0)
    assert 2 == rest(Choice(threads=1), Tick(at_s=5.0, work=NO_WORK, pressure=quiet), TWO).threads
    assert 1 == rest(Choice(threads=1), Tick(at_s=5.0, work=NO_WORK, pressure=busy), TWO).threads
    pressed = Tick(at_s=1.0, work=NO_WORK, pressure=Pressure(seconds=1, waiting=0.5, others_cores=1.0))
    tried = decide(Choice(threads=2, was_held_up=True), pressed, TWO)
    assert 1 == tried.threads
    assert (2, None) == _fate(rest(tried, Tick(at_s=2.0, work=NO_WORK, pressure=busy), TWO))


def _fate(choice: Choice) -> tuple[int, object]:
    return choice.threads, choice.trial


@pytest.mark.parametrize(
    ("pressure", "slowdown", "expected"),
    [
        pytest.param({"waiting": 0.5}, None, True, id="waits"),
        pytest.param({"waiting": 0.5}, 1.1, False, id="waits-but-is-not-slow"),
        pytest.param({"waiting": 0.5, "others_cores": 1.0}, None, True, id="waits-for-others"),
        pytest.param({"waiting": 0.5, "others_cores": 0.2}, None, False, id="waits-for-our-own-gateway"),
        pytest.param({"waiting": 0.01, "stalled": 0.9, "preempted_per_s": 99.0}, 9.0, False, id="slow-by-itself"),
        pytest.param({"stalled": 0.5}, 2.0, True, id="somebody-waits"),
        pytest.param({"stalled": 0.01, "preempted_per_s": 99.0}, 2.0, False, id="nobody-waits"),
        pytest.param({"preempted_per_s": 99.0}, None, True, id="pushed-off"),
        pytest.param({"preempted_per_s": 1.0}, 2.0, False, id="never-pushed-off"),
        pytest.param({}, 2.0, True, id="only-slow"),
        pytest.param({}, None, False, id="unknown"),
    ],
)
def test_what_holds_threads_up(pressure, slowdown, expected):
    """The best evidence there is decides; nothing known is no reason to change anything."""
    tick = Tick(at_s=0.0, work=NO_WORK, pressure=Pressure(seconds=1, **pressure), slowdown=slowdown)
    assert expected == is_held_up(tick, now=2, then=1)


@pytest.mark.parametrize(
    ("pressure", "expected"),
    [
        pytest.param({}, True, id="unknown"),
        pytest.param({"waiting": 0.0, "others_cores": 1.0}, True, id="room-for-all"),
        pytest.param({"waiting": 0.2}, False, id="waits"),
        pytest.param({"waiting": 0.2, "others_cores": 0.1}, True, id="waits-for-our-own-gateway"),
        pytest.param({"waiting": 0.2, "others_cores": 0.8}, False, id="waits-for-others"),
        pytest.param({"others_cores": 0.8}, False, id="others"),
    ],
)
def test_what_may_be_the_reference(pressure, expected):
    """Only steps that nothing disturbed may say how fast the machine is."""
    assert expected is is_undisturbed(Pressure(seconds=1, **pressure))


@pytest.mark.parametrize(
    ("others_cores", "bounds", "expected"),
    [
        pytest.param(None, TWO, None, id="unknown"),
        pytest.param(0.1, TWO, 1.0, id="quiet"),
        pytest.param(1.0, TWO, 2.0, id="one-beside-two-cores"),
        pytest.param(2.0, TWO, 4.0, id="two-beside-two-cores"),
        pytest.param(8.0, Bounds(most=4, cores=16), 1.0, id="room-for-all"),
        pytest.param(12.0, Bounds(most=16, cores=16), 3.5, id="most-of-many-cores"),
        pytest.param(1.0, Bounds(most=1, cores=1), 4.0, id="one-core"),
    ],
)
def test_what_to_expect_of_a_machine_that_others_use(others_cores, bounds, expected):
    """The guess is what others leave, or half a fair share, and never better than undisturbed."""
    found = expected_slowdown(Pressure(seconds=1, others_cores=others_cores), bounds)
    assert (found is None and expected is None) or expected == pytest.approx(found)


def test_decisions_need_no_clock():
    """The same trace gives the same choices: nothing but the facts decides."""
    make: Callable[[], Machine] = lambda: Machine(ONE_STREAM, noise=0.2)  # noqa: E731
    one, other = make(), make()
    assert [one.run(n, 7) for n in (0, 1, 2, 0)] == [other.run(n, 7) for n in (0, 1, 2, 0)]
