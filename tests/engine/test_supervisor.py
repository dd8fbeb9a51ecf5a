"""The worker process: it serves, it dies, it comes back, and nobody waits for ever. Real processes, fake model."""

import asyncio
import os
import signal

import msgspec
import pytest

from hybrid.engine.frames import Submit
from hybrid.engine.generation import Generation, Started
from hybrid.engine.process import SupervisorOptions
from hybrid.engine.supervisor import Supervisor, WorkerState
from hybrid.errors import InvalidRequest, LocalFailure, ModelFileError, ModelNotReady, QueueFull, WorkerDied
from hybrid.types import Finished, FinishReason, TextDelta

TIME_LIMIT_S = 20


def _options(**changes: object) -> SupervisorOptions:
    options = {"backend": "fake", "model_path": "", "context_tokens": 4096, "slots": 2, "threads": 1, **changes}
    return SupervisorOptions(**options)  # type: ignore[arg-type]


def _supervisor(**changes: object) -> Supervisor:
    return Supervisor(_options(**changes))


def _submit(name: str, limit: int = 1000) -> Submit:
    return Submit(name, limit, 0.0, 0, 1.0, 0.0, 0.0, 0.0, 1.0, 7, [])


async def _ask(supervisor: Supervisor, name: str, text: str) -> tuple[str, FinishReason]:
    await supervisor.prepare(name, [{"role": "user", "content": text}])
    said = ""
    with await supervisor.submit(_submit(name)) as generation:
        while True:
            item = await generation.next()
            if isinstance(item, TextDelta):
                said += item.text
            elif isinstance(item, Finished):
                return said, item.reason


async def _read_out(generation: Generation) -> None:
    while not isinstance(await generation.next(), Finished):
        pass


def _with_worker(scenario, **changes: object) -> None:
    async def main() -> None:
        supervisor = _supervisor(**changes)
        async with asyncio.timeout(TIME_LIMIT_S):
            supervisor.start()
            assert await supervisor.wait_settled() is WorkerState.READY
            try:
                await scenario(supervisor)
            finally:
                await supervisor.stop()

    asyncio.run(main())


def test_requests_at_once_are_answered_each_with_its_own():
    """Five conversations over two slots come back whole, with the worker's own counts."""

    async def scenario(supervisor: Supervisor) -> None:
        answers = await asyncio.gather(*(_ask(supervisor, f"r{n}", f"question {n}") for n in range(5)))
        assert answers == [(f"question {n}", FinishReason.STOP) for n in range(5)]
        assert supervisor.load.free_slots == 2

    _with_worker(scenario)


def test_a_killed_worker_fails_its_requests_and_is_replaced():
    """kill -9 in mid-generation: the waiting request gets WorkerDied, and the next one is served by a new process."""

    async def scenario(supervisor: Supervisor) -> None:
        await supervisor.prepare("r", [{"role": "user", "content": "[endless]"}])
        first_pid = supervisor.pid
        with await supervisor.submit(_submit("r", 3000)) as generation:
            assert isinstance(await generation.next(), Started)
            os.kill(first_pid, signal.SIGKILL)
            with pytest.raises(WorkerDied, match="SIGKILL"):
                await _read_out(generation)
        with pytest.raises((ModelNotReady, WorkerDied)):
            await supervisor.prepare("early", [{"role": "user", "content": "x"}])
        assert await supervisor.wait_settled() is WorkerState.READY
        assert supervisor.pid != first_pid
        assert await _ask(supervisor, "next", "again") == ("again", FinishReason.STOP)

    _with_worker(scenario)


def test_leaving_a_generation_frees_its_slot():
    """A request that is dropped while it decodes or waits leaves no slot, no cell and no queue entry behind."""

    async def scenario(supervisor: Supervisor) -> None:
        for name in ("a", "b", "c"):
            await supervisor.prepare(name, [{"role": "user", "content": "[endless]"}])
        running = await supervisor.submit(_submit("a", 3000))
        second = await supervisor.submit(_submit("b", 3000))
        waiting = await supervisor.submit(_submit("c", 3000))
        assert isinstance(await running.next(), Started)
        for generation in (waiting, running, second):
            with generation:
                pass
        assert await _ask(supervisor, "d", "free?") == ("free?", FinishReason.STOP)
        assert (supervisor.load.free_slots, supervisor.load.free_cells, supervisor.load.waiting) == (2, 4096, 0)

    _with_worker(scenario)


def test_the_queue_is_bounded():
    """With both slots taken and the queue full, one more request is told to come back later."""

    async def scenario(supervisor: Supervisor) -> None:
        held = []
        for n in range(3):
            await supervisor.prepare(f"r{n}", [{"role": "user", "content": "[endless]"}])
            held.append(await supervisor.submit(_submit(f"r{n}", 3000)))
        await supervisor.prepare("late", [{"role": "user", "content": "x"}])
        with pytest.raises(QueueFull) as caught:
            await supervisor.submit(_submit("late"))
        assert caught.value.retry_after_s >= 1
        for generation in held:
            with generation:
                pass

    _with_worker(scenario, max_queue=1)


def test_a_failing_step_fails_the_request_and_not_the_worker():
    """An engine failure reaches the request as LocalFailure; the same process serves on."""

    async def scenario(supervisor: Supervisor) -> None:
        pid = supervisor.pid
        with pytest.raises(LocalFailure, match="told to fail"):
            await _ask(supervisor, "r", "[fail]")
        assert await _ask(supervisor, "next", "fine") == ("fine", FinishReason.STOP)
        assert supervisor.pid == pid

    _with_worker(scenario)


def test_a_model_that_cannot_be_loaded_is_final_and_says_why(tmp_path):
    """A file that is no GGUF is not tried again and again; requests are told the reason."""
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"not a model")

    async def main() -> None:
        supervisor = _supervisor(backend="llama_cpp", model_path=str(broken))
        async with asyncio.timeout(TIME_LIMIT_S):
            supervisor.start()
            assert await supervisor.wait_settled() is WorkerState.FAILED
            assert "GGUF" in (supervisor.problem or "")
            with pytest.raises(ModelNotReady, match="GGUF"):
                await supervisor.prepare("r", [{"role": "user", "content": "x"}])
            await supervisor.stop()

    asyncio.run(main())


@pytest.mark.parametrize(
    ("unusable", "expected"),
    [
        pytest.param({"backend": "llama_cpp", "model_path": "/nowhere.gguf"}, "nowhere.gguf", id="refused"),
        pytest.param({"environment": {"PYTHONHOME": "/nowhere"}}, "exited with status 1", id="dies"),
    ],
)
def test_what_was_never_ready_is_loaded_otherwise(unusable, expected):
    """At its first failure, which is given as the reason; whoever waits for the model never sees it failed."""
    reasons: list[str] = []

    def fall_back(why: str) -> SupervisorOptions:
        reasons.append(why)
        return _options(untuned=why)

    async def main() -> None:
        supervisor = Supervisor(_options(**unusable), fall_back)
        async with asyncio.timeout(TIME_LIMIT_S):
            supervisor.start()
            assert await supervisor.wait_settled() is WorkerState.READY
            assert ("hi", FinishReason.STOP) == await _ask(supervisor, "r", "hi")
            assert (None, 0) == (supervisor.problem, supervisor.restarts)
            [why] = reasons
            assert expected in why
            assert why == supervisor.options.untuned
            await supervisor.stop()

    asyncio.run(main())


def test_what_is_loaded_otherwise_fails_as_anything_does(tmp_path):
    """Tried once: its own reason is told, and nothing goes round in circles."""
    broken, asked = tmp_path / "broken.gguf", []
    broken.write_bytes(b"not a model")

    def fall_back(why: str) -> SupervisorOptions:
        asked.append(why)
        return _options(backend="llama_cpp", model_path=str(broken))

    async def main() -> None:
        supervisor = Supervisor(_options(backend="llama_cpp", model_path="/nowhere.gguf"), fall_back)
        async with asyncio.timeout(TIME_LIMIT_S):
            supervisor.start()
            assert await supervisor.wait_settled() is WorkerState.FAILED
            assert "broken.gguf" in (supervisor.problem or "")
            assert 1 == len(asked)
            await supervisor.stop()

    asyncio.run(main())


def test_where_nothing_else_can_be_loaded_that_is_the_reason():
    """What would be loaded otherwise does not fit: its own sentence is told."""

    def fall_back(_why: str) -> SupervisorOptions:
        raise ModelFileError("it needs 9 GB and 1 GB are free")

    async def main() -> None:
        supervisor = Supervisor(_options(backend="llama_cpp", model_path="/nowhere.gguf"), fall_back)
        async with asyncio.timeout(TIME_LIMIT_S):
            supervisor.start()
            assert await supervisor.wait_settled() is WorkerState.FAILED
            assert "it needs 9 GB and 1 GB are free" == supervisor.problem
            await supervisor.stop()

    asyncio.run(main())


def test_the_worker_ends_with_its_gateway():
    """When the gateway's end of the socket closes, however it happens, the process ends by itself."""

    async def main() -> None:
        supervisor = _supervisor()
        async with asyncio.timeout(TIME_LIMIT_S):
            supervisor.start()
            await supervisor.wait_settled()
            process = supervisor._process
            await supervisor.stop()
            assert process is not None
            assert process._process.returncode == 0

    asyncio.run(main())


@pytest.mark.parametrize("value", [pytest.param(10**30, id="large"), pytest.param("\ud83d", id="half-a-character")])
def test_a_conversation_may_hold_whatever_json_does(value):
    """Arguments of an earlier call reach the template, whatever numbers and characters a model wrote in them."""

    async def scenario(supervisor: Supervisor) -> None:
        call = {"function": {"name": "f", "arguments": {"a": value}}}
        message = {"role": "user", "content": "hello", "tool_calls": [call]}
        assert await supervisor.prepare("r", [message], tools=[{"function": {"maximum": value}}]) > 0

    _with_worker(scenario)


def test_a_conversation_nested_too_deeply_is_refused():
    """It is the client's fault, and nothing of it is left behind."""

    async def scenario(supervisor: Supervisor) -> None:
        deep: list[object] = []
        for _ in range(10_000):
            deep = [deep]
        with pytest.raises(InvalidRequest, match="nested too deeply"):
            await supervisor.prepare("r", [{"role": "user", "content": "hello", "tool_calls": deep}])
        assert not supervisor.is_busy

    _with_worker(scenario)


def test_adapters_share_no_cached_prompt():
    """The same long prompt with another adapter is computed anew, and without one again; asked again it is cached."""

    async def scenario(supervisor: Supervisor) -> None:
        cached = []
        for number, adapter in enumerate((None, 0, None, 0)):
            name = f"r{number}"
            await supervisor.prepare(name, [{"role": "user", "content": "the same long question"}])
            with await supervisor.submit(msgspec.structs.replace(_submit(name), adapter=adapter)) as generation:
                while not isinstance(item := await generation.next(), Finished):
                    pass
                cached.append((item.usage.cached_tokens > 0, item.usage.completion_tokens > 0))
        assert [(False, True), (False, True), (True, True), (True, True)] == cached

    _with_worker(scenario, adapters=(("loud.gguf", 1.0),))


def test_embeddings_come_back_in_order_with_the_tokens_counted():
    """Texts and token ids of one request each get their vector, at their place."""

    async def scenario(supervisor: Supervisor) -> None:
        found = await supervisor.embed("e", ["aab", [97, 97, 98], "b" * 500])
        assert 506 == found.prompt_tokens
        assert found.values[0] == found.values[1] != found.values[2]
        assert [1024, 1024, 1024] == [len(values) for values in found.values]
        assert not supervisor.is_busy

    _with_worker(scenario)


@pytest.mark.parametrize(
    ("inputs", "expected"),
    [
        pytest.param(["x" * 4097], "input has 4097 tokens; the model takes at most 4096", id="over-the-context"),
        pytest.param(["x" * 2_000_000], "at least 7812 tokens; the model takes at most 4096", id="far-over-it"),
        pytest.param(["a", [260]], r"input\[1\] has token 260; fake has 260 tokens, from 0 to 259", id="no-such-token"),
        pytest.param([[]], "is empty", id="no-tokens"),
    ],
)
def test_inputs_the_model_cannot_take_are_refused(inputs, expected):
    """What does not fit or is no token is the caller's fault, told with its numbers, and never cut."""

    async def scenario(supervisor: Supervisor) -> None:
        with pytest.raises(InvalidRequest, match=expected):
            await supervisor.embed("e", inputs)
        assert not supervisor.is_busy

    _with_worker(scenario)


def test_streams_go_on_while_a_large_embedding_is_computed():
    """A chat that comes after a large request is answered before that is done, which then ends as well."""

    async def scenario(supervisor: Supervisor) -> None:
        large = asyncio.create_task(supervisor.embed("e", ["[slow] text " * 20] * 40))
        await asyncio.sleep(0)
        assert ("hello", FinishReason.STOP) == await _ask(supervisor, "chat", "hello")
        assert not large.done()
        large.cancel()
        await asyncio.wait((large,))
        assert not supervisor.is_busy
        assert 1 == len((await supervisor.embed("next", ["next"])).values)

    _with_worker(scenario)


def test_a_killed_worker_fails_its_embeddings():
    """kill -9 while vectors are computed: who waits for them is told."""

    async def scenario(supervisor: Supervisor) -> None:
        waiting = asyncio.create_task(supervisor.embed("e", ["[slow] text " * 20] * 40))
        await supervisor.embed("small", ["by then the large one runs"])
        os.kill(supervisor.pid, signal.SIGKILL)
        with pytest.raises(WorkerDied, match="SIGKILL"):
            await waiting

    _with_worker(scenario)


def test_embedding_requests_are_bounded():
    """One more than may wait is told so, and the others are served."""

    async def scenario(supervisor: Supervisor) -> None:
        first = asyncio.create_task(supervisor.embed("a", ["[slow] text"] * 10))
        await asyncio.sleep(0)
        with pytest.raises(QueueFull):
            await supervisor.embed("b", ["text"])
        assert 10 == len((await first).values)

    _with_worker(scenario, max_queue=1)


def test_an_embedding_model_refuses_to_chat():
    """A worker whose model only embeds says so to who wants text of it."""

    async def scenario(supervisor: Supervisor) -> None:
        with pytest.raises(InvalidRequest, match="embedding model"):
            await supervisor.prepare("r", [{"role": "user", "content": "hello"}])
        assert 1 == len((await supervisor.embed("e", ["hello"])).values)

    _with_worker(scenario, is_embedder=True)
