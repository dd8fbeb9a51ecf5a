"""What breaks, breaks clearly: dead clouds, killed workers, clients that hang up, a killed gateway."""

import asyncio
import json
import os
import signal
import socket

import pytest

from hybrid.providers.fake import Answer, FakeProvider, Fault
from tests.e2e.serving import FAKE_MODEL, Serving, body, cloud_toml

IDLE = {"running": 0, "waiting": 0}


def _is_idle(state) -> bool:
    return all(state[name] == count for name, count in IDLE.items())


def _dead_url() -> str:
    """An address nobody listens on: bound once and given back."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{free.getsockname()[1]}/v1"


def _open_stream(server: Serving, text: str, **fields) -> socket.socket:
    """Send a chat request over a bare socket, which the test can close at any moment."""
    host, port = server.url.removeprefix("http://").removesuffix("/v1").split(":")
    connection = socket.create_connection((host, int(port)))
    content = json.dumps(body(text, **fields)).encode()
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nhost: {host}:{port}\r\ncontent-type: application/json\r\n"
        f"content-length: {len(content)}\r\n\r\n"
    )
    connection.sendall(head.encode() + content)
    return connection


def _last_row(server: Serving) -> dict:
    return server.explain("last")


@pytest.mark.parametrize("is_stream", [False, True], ids=["whole", "stream"])
def test_a_dead_cloud_gives_the_local_draft_marked_degraded(tmp_path, is_stream):
    """What was to be escalated comes from local after all, says so, and costs nothing."""
    with Serving(tmp_path, FAKE_MODEL + cloud_toml(_dead_url())) as server:
        answer = server.ask("[doubt] a question of more than sixteen tokens", stream=is_stream)
        report = server.report()

    assert answer.status_code == 200
    assert answer.headers["x-hybrid-route"] == "local"
    assert answer.headers["x-hybrid-degraded"] == answer.headers["x-hybrid-reason"] == "cloud_failure"
    assert (report["spent_usd"], report["reserved_usd"], report["requests"]) == (0, 0, 1)


@pytest.mark.parametrize("fault", [Fault.RESET, Fault.CUT, Fault.GARBAGE, Fault.ERROR_OBJECT])
def test_a_cloud_that_dies_in_mid_stream_is_an_error_event_and_never_another_answer(tmp_path, fault):
    """After the first released token nothing is taken back: an error event, no [DONE], a row that says failed."""

    async def scenario() -> None:
        error = {"error": {"message": "overloaded", "type": "server_error"}}
        script = Answer(chunks=("one ", "two "), fault=fault, after_chunks=2, error=error)
        async with FakeProvider(script) as cloud:
            with Serving(tmp_path, FAKE_MODEL + cloud_toml(cloud.base_url)) as server:
                answer = await asyncio.to_thread(server.ask, "x", model="cloud", stream=True)
                row = await asyncio.to_thread(_last_row, server)
                report = await asyncio.to_thread(server.report)
        assert '"one "' in answer.text
        assert "[DONE]" not in answer.text
        assert json.loads(answer.text.split("data: ")[-1])["error"]["src"] == "cloud"
        assert row["outcome"] == "failed"
        # What a provider bills for a broken answer is unknown, so the worst case is what was set aside for it.
        assert report["spent_usd"] > 0
        assert report["reserved_usd"] == 0

    asyncio.run(scenario())


def test_clouds_killed_in_mid_run_leave_no_request_hanging(tmp_path):
    """Ten doubtful requests, the cloud gone after the third: all ten are answered, all ten are in the ledger."""

    async def scenario() -> None:
        cloud = FakeProvider(Answer(chunks=("ok",)))
        await cloud.__aenter__()
        with Serving(tmp_path, FAKE_MODEL + cloud_toml(cloud.base_url)) as server:
            first = [await asyncio.to_thread(server.ask, f"[doubt] {n}") for n in range(3)]
            await cloud.__aexit__()
            rest = await asyncio.gather(*(asyncio.to_thread(server.ask, f"[doubt] {n}") for n in range(7)))
            report = await asyncio.to_thread(server.report)
        assert [answer.headers["x-hybrid-route"] for answer in first] == ["cloud"] * 3
        assert {answer.headers.get("x-hybrid-degraded") for answer in rest} == {"cloud_failure"}
        assert (report["requests"], report["outcomes"]["ok"]) == (10, 10)

    asyncio.run(scenario())


def test_a_worker_killed_in_mid_answer_is_a_clear_error_and_the_next_is_served(tmp_path):
    """kill -9 while a stream runs: an error event, the gateway stays, a new worker answers the next request."""
    with Serving(tmp_path) as server:
        request = body("[slow][endless]", stream=True, max_tokens=2000)
        with server.client.stream("POST", "/chat/completions", json=request) as answer:
            lines = answer.iter_lines()
            assert next(lines).startswith("data: ")
            os.kill(server.worker().pid, signal.SIGKILL)
            rest = [line for line in lines if line.startswith("data: ")]
        server.wait_until(lambda state: state["state"] == "ready")
        after = server.ask("still there?")
        state = server.local_state()

    assert json.loads(rest[-1].removeprefix("data: "))["error"]["code"] == "worker_died"
    assert after.json()["choices"][0]["message"]["content"] == "still there?"
    assert state["restarts"] == 1


def test_a_worker_killed_before_release_is_replaced_by_the_cloud(tmp_path):
    """While the draft is still held back the request is escalated instead of failing."""

    async def scenario() -> None:
        async with FakeProvider(Answer(chunks=("cloud",))) as cloud:
            with Serving(tmp_path, FAKE_MODEL + cloud_toml(cloud.base_url)) as server:
                asked = asyncio.create_task(asyncio.to_thread(server.ask, "[slow][endless]", max_tokens=2000))
                await asyncio.to_thread(server.wait_until, lambda state: state["running"] == 1)
                os.kill(server.worker().pid, signal.SIGKILL)
                answer = await asked
        assert answer.json()["choices"][0]["message"]["content"] == "cloud"
        assert answer.headers["x-hybrid-reason"] == "local_failure"

    asyncio.run(scenario())


def _hang_up(server: Serving, connection: socket.socket) -> dict:
    """Close the connection, wait until the engine is idle, and give the request's row."""
    connection.close()
    server.wait_until(_is_idle)
    while (row := _last_row(server))["outcome"] == "open":
        pass
    return row


@pytest.mark.parametrize("is_stream", [False, True], ids=["whole", "stream"])
def test_hanging_up_in_decode_frees_the_slot(tmp_path, is_stream):
    """The client goes while tokens are drawn: the slot is free again and the row says cancelled."""
    with Serving(tmp_path) as server:
        connection = _open_stream(server, "[slow][endless]", stream=is_stream, max_tokens=3000)
        server.wait_until(lambda state: state["running"] == 1)
        row = _hang_up(server, connection)

    assert row["outcome"] == "cancelled"


def test_hanging_up_in_prefill_frees_the_slot(tmp_path):
    """The client goes while its long prompt is computed: no token was drawn, and the slot is free again."""
    with Serving(tmp_path, FAKE_MODEL + "context_tokens = 200000\n") as server:
        connection = _open_stream(server, "[slow]" * 20_000, max_tokens=10)
        server.wait_until(lambda state: state["running"] == 1)
        row = _hang_up(server, connection)

    assert row["outcome"] == "cancelled"
    assert row["ttft_s"] is None
    assert row["local_completion_tokens"] == 0


def test_hanging_up_in_the_queue_takes_it_out(tmp_path):
    """The client goes before a slot was free: it never enters the batch."""
    with Serving(tmp_path) as server:
        running = [_open_stream(server, "[slow][endless]", max_tokens=3000) for _ in range(2)]
        server.wait_until(lambda state: state["running"] == 2)
        queued = _open_stream(server, "waiting", max_tokens=3000)
        server.wait_until(lambda state: state["waiting"] == 1)
        queued.close()
        server.wait_until(lambda state: state["waiting"] == 0)
        while (row := _last_row(server))["outcome"] == "open":
            pass
        for connection in running:
            connection.close()
        server.wait_until(_is_idle)

    assert row["outcome"] == "cancelled"
    assert row["queue_s"] is None


@pytest.mark.parametrize("is_stream", [False, True], ids=["whole", "stream"])
def test_hanging_up_in_a_cloud_call_closes_the_connection_to_it(tmp_path, is_stream):
    """The client goes while the cloud is silent: the cloud's connection is closed and the reservation settled."""

    async def scenario() -> None:
        async with FakeProvider(Answer(chunks=("one",), fault=Fault.STALL, after_chunks=0)) as cloud:
            with Serving(tmp_path, FAKE_MODEL + cloud_toml(cloud.base_url)) as server:
                connection = _open_stream(server, "x", model="cloud", stream=is_stream)
                request = await cloud.request(0)
                connection.close()
                async with asyncio.timeout(10):
                    await request.gone.wait()
                while (row := await asyncio.to_thread(_last_row, server))["outcome"] == "open":
                    pass
                report = await asyncio.to_thread(server.report)
        assert row["outcome"] == "cancelled"
        assert report["reserved_usd"] == 0
        assert report["spent_usd"] > 0

    asyncio.run(scenario())


def test_a_killed_gateway_loses_no_request_and_no_money(tmp_path):
    """kill -9 of everything during a cloud call: the next start finds the request and counts the worst case."""

    async def scenario() -> None:
        async with FakeProvider(Answer(fault=Fault.STALL, after_chunks=0)) as cloud:
            config = FAKE_MODEL + cloud_toml(cloud.base_url)
            with Serving(tmp_path, config) as server:
                connection = _open_stream(server, "x", model="cloud")
                await cloud.request(0)
                worker = server.worker()
                server.process.kill()
                await asyncio.to_thread(worker.wait, 10)
                connection.close()
            with Serving(tmp_path, config) as server:
                report = await asyncio.to_thread(server.report)
        assert report["outcomes"]["lost"] == 1
        assert report["reserved_usd"] == 0
        assert report["spent_usd"] > 0

    asyncio.run(scenario())


def test_a_stand_in_holds_nothing_of_the_draft_it_replaces(tmp_path):
    """A doubted stream whose cloud refuses at once is generated anew: exactly the answer, without a stray token."""

    async def scenario() -> None:
        refusal = Answer(status=400, error={"error": {"message": "no"}})  # a refusal that opens no circuit
        async with FakeProvider(refusal) as cloud:
            with Serving(tmp_path, FAKE_MODEL + cloud_toml(cloud.base_url)) as server:
                question = "[doubt] the quick brown fox jumps over"
                answers = [await asyncio.to_thread(server.ask, question, stream=True) for _ in range(12)]
        for answer in answers:
            chunks = [json.loads(line[6:]) for line in answer.text.splitlines() if line.startswith("data: {")]
            said = "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks if chunk["choices"])
            assert said == question
            assert answer.headers["x-hybrid-degraded"] == "cloud_failure"

    asyncio.run(scenario())


@pytest.mark.parametrize("deadline_ms", ["35", "63", "90", "137"])
@pytest.mark.parametrize("is_stream", [False, True], ids=["whole", "stream"])
def test_a_deadline_that_passes_is_a_504(tmp_path, deadline_ms, is_stream):
    """Whatever the timer's grain, the answer is deadline_exceeded and never an internal error."""
    headers = {"x-hybrid-deadline-ms": deadline_ms, "x-hybrid-policy": "local-only"}
    with Serving(tmp_path) as server:
        answers = [server.ask("[slow][endless]", stream=is_stream, headers=headers) for _ in range(4)]

    for answer in answers:
        codes = [answer.json()["error"]["code"]] if answer.status_code != 200 else []
        events = [line[6:] for line in answer.text.splitlines() if line.startswith('data: {"error"')]
        codes += [json.loads(event)["error"]["code"] for event in events]
        assert answer.status_code in (504, 503, 200)
        assert set(codes) <= {"deadline_exceeded", "model_not_ready"}
        assert codes


def test_a_silent_cloud_gives_way_to_a_whole_draft(tmp_path):
    """A finished local draft is returned, degraded, when the cloud says nothing within its time."""

    async def scenario() -> None:
        async with FakeProvider(Answer(fault=Fault.NO_HEADERS)) as cloud:
            config = FAKE_MODEL + cloud_toml(cloud.base_url).replace(
                "[prices", "first_token_timeout_s = 0.5\n[prices", 1
            )
            with Serving(tmp_path, config) as server:
                answer = await asyncio.to_thread(server.ask, "[doubt] finished")
                late = await asyncio.to_thread(server.ask, "[doubt] late", headers={"x-hybrid-deadline-ms": "400"})
        assert answer.json()["choices"][0]["message"]["content"] == "[doubt] finished"
        assert answer.headers["x-hybrid-degraded"] == "cloud_failure"
        assert late.json()["choices"][0]["message"]["content"] == "[doubt] late"

    asyncio.run(scenario())


def test_a_call_that_never_connected_costs_nothing(tmp_path):
    """The client goes while the cloud's TLS handshake hangs: no byte of the request left, so nothing is booked."""

    async def scenario() -> None:
        async with FakeProvider() as cloud:
            url = cloud.base_url.replace("http://", "https://")
            with Serving(tmp_path, FAKE_MODEL + cloud_toml(url)) as server:
                connection = _open_stream(server, "x", model="cloud")
                while not await asyncio.to_thread(lambda: server.report()["reserved_usd"]):
                    pass
                connection.close()
                while (row := await asyncio.to_thread(_last_row, server))["outcome"] == "open":
                    pass
                report = await asyncio.to_thread(server.report)
        assert row["outcome"] == "cancelled"
        assert (report["spent_usd"], report["reserved_usd"]) == (0, 0)

    asyncio.run(scenario())


@pytest.mark.parametrize("number", [signal.SIGKILL, 35], ids=["SIGKILL", "a-nameless-signal"])
def test_a_worker_that_dies_while_it_takes_a_prompt_is_not_the_callers_fault(tmp_path, number):
    """The request fails as the worker's failure, 503, and a new worker serves the next one."""

    async def scenario() -> None:
        with Serving(tmp_path) as server:
            worker = server.worker()
            worker.suspend()
            asked = asyncio.create_task(asyncio.to_thread(server.ask, "hello", model="local"))
            while not await asyncio.to_thread(lambda: server.report()["requests"]):
                pass
            worker.send_signal(number)
            worker.resume()
            answer = await asked
            await asyncio.to_thread(server.wait_until, lambda state: state["state"] == "ready" and state["restarts"])
            after = await asyncio.to_thread(server.ask, "again")
        assert answer.status_code == 503
        assert after.status_code == 200

    asyncio.run(scenario())


def test_a_huge_prompt_does_not_hold_up_the_others(tmp_path):
    """Eight megabytes are refused as too long for the context, and whoever asks beside it is answered meanwhile."""

    async def scenario() -> None:
        with Serving(tmp_path) as server:
            huge = asyncio.create_task(asyncio.to_thread(server.ask, "<|im_start|>" * 600_000))
            beside = await asyncio.to_thread(server.ask, "hi")
            refused = await huge
        assert beside.json()["choices"][0]["message"]["content"] == "hi"
        assert (refused.status_code, refused.json()["error"]["code"]) == (400, "context_length_exceeded")

    asyncio.run(scenario())


def test_local_goes_on_without_a_readable_ledger(tmp_path):
    """A file that is no database stops the cloud and not the local answers."""
    (tmp_path / "hybrid.sqlite3").write_bytes(os.urandom(50_000))
    with Serving(tmp_path, FAKE_MODEL + cloud_toml(_dead_url())) as server:
        answer = server.ask("[doubt] still here")

    assert answer.status_code == 200
    assert answer.headers["x-hybrid-route"] == "local"
