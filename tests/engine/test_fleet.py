"""Models by name: loaded when asked for, unloaded when idle or in the way. Real workers, fake model."""

import asyncio

import pytest

from hybrid.engine.fleet import Fleet, ModelPlan
from hybrid.engine.process import SupervisorOptions
from hybrid.engine.supervisor import Supervisor, WorkerState
from hybrid.errors import CatalogError, ModelNotReady

TIME_LIMIT_S = 30
OPTIONS = SupervisorOptions(backend="fake", model_path="", context_tokens=512, slots=1, threads=1)


class Machine:
    """Memory that models take and give back, counted by the workers that live; while they load it still seems free."""

    def __init__(self, room: int) -> None:
        self.room = room
        self.fleet: Fleet | None = None

    def available(self) -> int:
        assert self.fleet is not None
        return self.room - sum(
            loaded.supervisor.state is not WorkerState.LOADING for loaded in self.fleet._loaded.values()
        )


def _plan(name: str) -> ModelPlan:
    if name == "unknown":
        raise CatalogError("no such model")
    options = OPTIONS
    if name == "broken":
        options = SupervisorOptions(
            backend="llama_cpp", model_path="/nowhere.gguf", context_tokens=512, slots=1, threads=1
        )
    return ModelPlan(options, needed_bytes=1)


def _with_fleet(scenario, *, room: int = 2, keep_alive_s: float = 0.0) -> None:
    async def main() -> None:
        machine = Machine(room)
        fleet = Fleet(
            default="first",
            first=Supervisor(OPTIONS),
            others=lambda: ("first", "second"),
            plan=_plan,
            available_bytes=machine.available,
            keep_alive_s=keep_alive_s,
        )
        machine.fleet = fleet
        async with asyncio.timeout(TIME_LIMIT_S):
            fleet.start()
            try:
                await scenario(fleet)
            finally:
                await fleet.stop()

    asyncio.run(main())


def test_the_default_is_the_first_name_and_others_load_when_asked_for():
    """`local` is the first model; another name starts another process, and both stay while there is room."""

    async def scenario(fleet: Fleet) -> None:
        first, second = await fleet.acquire(), await fleet.acquire("second")
        assert fleet.names == ("first", "second")
        assert first is await fleet.acquire("first")
        assert first.pid != second.pid
        assert (first.state, second.state) == (WorkerState.READY, WorkerState.READY)

    _with_fleet(scenario)


def test_requests_at_once_load_a_model_once():
    """Ten requests for a model that is not there share one worker."""

    async def scenario(fleet: Fleet) -> None:
        supervisors = await asyncio.gather(*(fleet.acquire("second") for _ in range(10)))
        assert len(set(map(id, supervisors))) == 1

    _with_fleet(scenario)


def test_the_longest_unused_makes_room():
    """With room for one more than none, the idle model goes when another is asked for, and comes back later."""

    async def scenario(fleet: Fleet) -> None:
        first = await fleet.acquire()
        await fleet.acquire("second")
        assert fleet.peek() is None
        assert first.state is WorkerState.STOPPED
        assert (await fleet.acquire()).state is WorkerState.READY
        assert fleet.peek("second") is None

    _with_fleet(scenario, room=1)


def test_a_busy_model_is_never_unloaded():
    """A model that holds a request stays; the other is refused with what it needs and what is free."""

    async def scenario(fleet: Fleet) -> None:
        first = await fleet.acquire()
        await first.prepare("r", [{"role": "user", "content": "hold on"}])
        with pytest.raises(ModelNotReady, match="GB are free"):
            await fleet.acquire("second")
        first.release("r")
        assert (await fleet.acquire("second")).state is WorkerState.READY

    _with_fleet(scenario, room=1)


@pytest.mark.parametrize("names", [("first", "second"), ("second", "first")])
def test_a_model_that_is_waited_for_is_not_taken_away(names):
    """While the default loads, who asks for it gets it; another one that does not fit beside it is refused."""

    async def hold(fleet: Fleet, name: str) -> None:
        await (await fleet.acquire(name)).prepare(name, [{"role": "user", "content": "hold on"}])

    async def scenario(fleet: Fleet) -> None:
        found = await asyncio.gather(*(hold(fleet, name) for name in names), return_exceptions=True)
        told = dict(zip(names, found, strict=True))
        assert told["first"] is None
        assert isinstance(told["second"], ModelNotReady)
        assert "GB are free" in str(told["second"])

    _with_fleet(scenario, room=1)


def test_an_idle_model_is_unloaded_and_loaded_again():
    """After keep_alive_s without a request its process ends; the next request starts a new one."""

    async def scenario(fleet: Fleet) -> None:
        first = await fleet.acquire()
        pid = first.pid
        while fleet.peek() is not None:  # noqa: ASYNC110 - nothing tells of an unload
            await asyncio.sleep(0)
        assert first.state is WorkerState.STOPPED
        assert (await fleet.acquire()).pid != pid

    _with_fleet(scenario, keep_alive_s=0.2)


@pytest.mark.parametrize(
    ("name", "error", "words"),
    [("unknown", CatalogError, "no such model"), ("broken", ModelNotReady, "failed")],
)
def test_what_cannot_be_loaded_says_why_and_leaves_the_others_alone(name, error, words):
    """A wrong name or a broken file is told to whoever asked; the default goes on, and a second try is a new try."""

    async def scenario(fleet: Fleet) -> None:
        for _ in range(2):
            with pytest.raises(error, match=words):
                await fleet.acquire(name)
        assert (await fleet.acquire()).state is WorkerState.READY

    _with_fleet(scenario, room=3)


def test_waiting_for_a_load_ends_with_the_deadline():
    """A request that cannot wait is told that the model is loading, and the loading goes on."""

    async def scenario(fleet: Fleet) -> None:
        with pytest.raises(ModelNotReady, match="still loading"):
            await fleet.acquire("second", wait_s=0.001)
        assert (await fleet.acquire("second")).state is WorkerState.READY

    _with_fleet(scenario)
