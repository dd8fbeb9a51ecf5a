"""Several clouds behind the real process: the cheapest answers, a failing one is left, resting ones say until when."""

from __future__ import annotations

import asyncio
import json

from hybrid.providers.fake import Answer, FakeProvider, Fault
from tests.e2e.serving import FAKE_MODEL, Serving

BUSY = Answer(status=429, headers={"retry-after": "120"}, error={"error": {"message": "slow down"}})
BROKEN = Answer(status=500, error={"error": {"message": "boom"}})


def ladder_toml(*clouds: tuple[str, str, int], order: str = "price") -> str:
    """The fake local model and these clouds: name, base URL, and USD a million answer tokens."""
    blocks = [
        f'[[cloud]]\nname = "{name}"\nbase_url = "{url}"\nmodels = ["m"]\nmax_wait_s = 0\n'
        f'[prices."{name}/m"]\ninput_usd_per_mtok = 0\noutput_usd_per_mtok = {usd}\n'
        for name, url, usd in clouds
    ]
    return FAKE_MODEL + "".join(blocks) + f'[budget]\nusd_per_day = 1\n[policy]\ncloud_order = "{order}"\n'


def asked(tmp_path, first: Answer, second: Answer, *requests: dict, order: str = "price"):
    """Ask a dear cloud that is listed first, and a cheap one; the answers, their explanations, and both clouds."""

    async def scenario():
        async with FakeProvider(first) as dear, FakeProvider(second) as cheap:
            config = ladder_toml(("dear", dear.base_url, 9), ("cheap", cheap.base_url, 2), order=order)
            with Serving(tmp_path, config) as server:
                answers, explained = [], []
                for request in requests:
                    answers.append(await asyncio.to_thread(server.ask, "hard", **request))
                    explained.append(await asyncio.to_thread(server.hybrid, "explain", "last"))
                return answers, explained, dear, cheap, await asyncio.to_thread(server.report)

    return asyncio.run(scenario())


def test_the_cheapest_answers_though_the_dear_one_is_listed_first(tmp_path):
    """And `explain` says in which order they would have been tried."""
    answers, explained, dear, cheap, _ = asked(tmp_path, Answer(), Answer(), {"model": "cloud"})
    assert (200, 0, 1) == (answers[0].status_code, len(dear.requests), len(cheap.requests))
    assert "by price: cheap/m (about $" in explained[0]


def test_the_order_may_be_as_listed(tmp_path):
    """`policy.cloud_order = "listed"`: the user's order is the rule."""
    answers, explained, dear, cheap, _ = asked(tmp_path, Answer(), Answer(), {"model": "cloud"}, order="listed")
    assert (200, 1, 0) == (answers[0].status_code, len(dear.requests), len(cheap.requests))
    assert "as listed: dear/m, cheap/m" in explained[0]


def test_a_request_that_asks_for_more_leaves_the_weaker_cloud_out(tmp_path):
    """`x-hybrid-min-quality` against `[[cloud]] quality`: the weak are not asked; where all are, none is."""

    async def scenario():
        async with FakeProvider(Answer()) as dear, FakeProvider(Answer()) as cheap:
            config = ladder_toml(("dear", dear.base_url, 9), ("cheap", cheap.base_url, 2))
            for name, quality in (("dear", 0.9), ("cheap", 0.8)):
                config = config.replace(f'name = "{name}"\n', f'name = "{name}"\nquality = {{ m = {quality} }}\n')
            with Serving(tmp_path, config) as server:
                statuses = []
                for least in ("0.8", "0.85", "0.95"):
                    answer = await asyncio.to_thread(
                        server.ask, "hard", model="cloud", headers={"x-hybrid-min-quality": least}
                    )
                    statuses.append(answer.status_code)
                assert "m is right in 0.9, 0.95 are asked for" in answer.text
                return statuses, len(dear.requests), len(cheap.requests)

    assert ([200, 200, 400], 1, 1) == asyncio.run(scenario())


def test_where_all_clouds_are_too_weak_hybrid_answers_here(tmp_path):
    """However doubtful the draft, whole or streamed: 200, local, marked, no call; and `explain` names the numbers."""

    async def scenario():
        async with FakeProvider(Answer()) as cloud:
            config = ladder_toml(("big", cloud.base_url, 2))
            config = config.replace('name = "big"\n', 'name = "big"\nquality = { m = 0.8 }\n')
            asks = {"x-hybrid-min-quality": "0.95"}
            with Serving(tmp_path, config) as server:
                answers = [
                    await asyncio.to_thread(server.ask, text, stream=stream, headers=asks)
                    for text in ("easy", "[doubt] hard")
                    for stream in (False, True)
                ]
                explained = await asyncio.to_thread(server.hybrid, "explain", "last")
                told = await asyncio.to_thread(server.explain, "last")
                good_enough = await asyncio.to_thread(
                    server.ask, "[doubt] hard", headers={"x-hybrid-min-quality": "0.8"}
                )
                return answers, explained, told, good_enough, len(cloud.requests)

    answers, explained, told, good_enough, calls = asyncio.run(scenario())
    assert {(200, "local")} == {(one.status_code, one.headers["x-hybrid-route"]) for one in answers}
    assert ("cloud", 1) == (good_enough.headers["x-hybrid-route"], calls)
    assert "m is right in 0.8, 0.95 are asked for" in explained
    assert "degraded: capability, not what the policy wanted" in " ".join(explained.split())
    assert ("run_local", "capability") == (
        told["decision"]["decision"]["kind"], told["decision"]["decision"]["no_fallback"]
    )  # fmt: skip
    assert any(change["fact"].endswith("quality") for change in told["decision"]["counterfactuals"]), explained
    assert "capability" == answers[2].headers["x-hybrid-degraded"]


def test_a_cloud_that_fails_before_its_first_token_is_left_for_the_next(tmp_path):
    """Streamed or whole, the client sees one good answer; `explain` has each rung, why it was left, and its money."""
    requests = [{"model": "cloud", "stream": is_stream} for is_stream in (False, True)]
    answers, explained, _, _, report = asked(tmp_path, Answer(chunks=("from dear",)), BROKEN, *requests)
    assert [200, 200] == [answer.status_code for answer in answers]
    assert "from dear" == answers[0].json()["choices"][0]["message"]["content"]
    assert answers[1].text.endswith("data: [DONE]\n\n")
    for shown in explained:
        assert "cheap/m left: provider_unavailable: cheap: answered HTTP 500: boom" in shown
        assert "released from cloud: m" in shown
        assert "cheap/m  $0.0" in shown  # what was set aside for it, and is spent: a 500 may have been billed
    assert 0 == report["reserved_usd"]


def test_a_break_after_the_first_token_is_never_another_cloud_s_text(tmp_path):
    """The stream ends with its error, and the dear cloud is not asked."""
    broken = Answer(chunks=("one ", "two "), fault=Fault.CUT, after_chunks=2)
    answers, _, dear, _, _ = asked(tmp_path, Answer(), broken, {"model": "cloud", "stream": True})
    assert "provider_unavailable" == json.loads(answers[0].text.split("data: ")[-1])["error"]["code"]
    assert [] == dear.requests


def test_a_pinned_provider_is_not_left_for_another(tmp_path):
    """`cloud/NAME` means that one: its failure is the answer."""
    answers, _, dear, _, _ = asked(tmp_path, Answer(), BROKEN, {"model": "cloud/cheap"})
    assert (502, "provider_unavailable", []) == (
        answers[0].status_code,
        answers[0].json()["error"]["code"],
        dear.requests,
    )


def test_when_all_rest_the_client_is_told_when_to_come_back_and_local_goes_on(tmp_path):
    """Both are rate limiting: who wants the cloud gets a 503 with Retry-After, others their local answer."""
    requests = [{"model": "cloud"}, {"model": "cloud"}, {"model": "hybrid"}]
    answers, explained, dear, cheap, _ = asked(tmp_path, BUSY, BUSY, *requests)
    first, second, local = answers
    assert ["provider_throttled", "cloud_resting"] == [one.json()["error"]["code"] for one in (first, second)]
    assert "120" == first.headers["retry-after"]
    # What is left of it: on a busy machine a few seconds lie between the two.
    assert 100 <= int(second.headers["retry-after"]) <= 120
    assert (503, 503, 1, 1) == (first.status_code, second.status_code, len(dear.requests), len(cheap.requests))
    assert (200, "local") == (local.status_code, local.headers["x-hybrid-route"])
    assert "cheap/m rests after provider_throttled" in explained[1]


def test_a_doubted_draft_is_kept_and_marked_while_all_clouds_rest(tmp_path):
    """The draft that would have been replaced says that the clouds failed it."""

    async def scenario():
        async with FakeProvider(BUSY) as cloud:
            with Serving(tmp_path, ladder_toml(("big", cloud.base_url, 2))) as server:
                answers = [await asyncio.to_thread(server.ask, "[doubt] x") for _ in range(2)]
                return answers, len(cloud.requests)

    answers, calls = asyncio.run(scenario())
    assert (["cloud_failure"] * 2, 1) == ([one.headers["x-hybrid-degraded"] for one in answers], calls)


def test_a_connection_is_made_while_the_draft_is_and_none_for_what_may_not_leave(tmp_path):
    """The doubted draft's call comes on the connection that was made ahead; a private request makes none."""

    async def scenario():
        async with FakeProvider(Answer(chunks=("cloud",))) as cloud:
            config = ladder_toml(("big", cloud.base_url, 2)).replace("[policy]\n", '[policy]\nprivate_tags = ["hr"]\n')
            with Serving(tmp_path, config) as server:
                await asyncio.to_thread(server.ask, "x", headers={"x-hybrid-tag": "hr"})
                await asyncio.to_thread(server.ask, "x", model="local")
                before = cloud._connections
                answer = await asyncio.to_thread(server.ask, "[doubt] x")
                return before, answer.headers["x-hybrid-route"], cloud._connections, len(cloud.requests)

    assert (0, "cloud", 1, 1) == asyncio.run(scenario())
