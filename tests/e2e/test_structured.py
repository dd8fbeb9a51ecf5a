"""A client that needs a form gets it: schemas, grammars, biases, log-probabilities, through the official client."""

import asyncio
import json

import openai
import pydantic
import pytest

from hybrid.providers.fake import FakeProvider
from hybrid.types import Json
from tests.e2e.serving import FAKE_MODEL, Serving, cloud_toml

PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "age": {"type": "integer"}},
    "required": ["name", "age"],
    "additionalProperties": False,
}
JO = '{"name": "Jo", "age": 4}'
AMBIGUOUS = {"oneOf": [{"type": "number"}, {"type": "integer"}]}
"""Followed as anyOf while the answer is made, so the answer 1 gets through, and is found to be both when judged."""
SCHEMA_PARAM = "response_format.json_schema.schema"


def form(schema: Json, **fields: Json) -> Json:
    """Give a response_format for a schema."""
    return {"type": "json_schema", "json_schema": {"name": "form", "schema": schema, **fields}}


def grammar(syntax: str, definition: str) -> Json:
    """Give our response_format for a grammar."""
    return {"type": "grammar", "grammar": {"syntax": syntax, "definition": definition}}


def content(answer) -> str:
    """Give a whole answer's text."""
    return answer.json()["choices"][0]["message"]["content"]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """One server over the echo for the whole file: what a hostile form breaks, the next request notices."""
    with Serving(tmp_path_factory.mktemp("forms")) as running:
        yield running
        assert "well" == content(running.ask("well", response_format=grammar("regex", "[a-z]+")))
        assert running.local_state()["restarts"] == 0


@pytest.fixture(scope="module")
def starter(tmp_path_factory, starter_model):
    """One server over the starter model."""
    config = f"[local]\nmodel = {json.dumps(str(starter_model))}\nslots = 4\ncontext_tokens = 1024\n"
    with Serving(tmp_path_factory.mktemp("starter"), config) as running:
        yield running


@pytest.fixture
def sdk(server):
    """The official client."""
    with openai.OpenAI(base_url=server.url, api_key="none", max_retries=0, timeout=60) as client:
        yield client


@pytest.mark.parametrize("is_stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize(
    ("asked", "response_format", "expected"),
    [
        pytest.param(JO, form(PERSON, strict=True), JO, id="strict"),
        pytest.param(JO, form(PERSON), JO, id="not-strict"),
        pytest.param('{"any": ["thing"]}', {"type": "json_object"}, '{"any": ["thing"]}', id="json-object"),
        pytest.param("yes, of course", grammar("regex", "yes|no"), "yes", id="regex"),
        pytest.param("bba!", grammar("lark", 'start: "a" | "b" start'), "bba", id="lark"),
        pytest.param("plain", {"type": "text"}, "plain", id="text"),
    ],
)
def test_an_answer_has_the_form_that_was_asked_for(server, is_stream, asked, response_format, expected):
    """Streamed or whole, the text is what the form allows and ends where it does."""
    answer = server.ask(asked, stream=is_stream, response_format=response_format)

    assert 200 == answer.status_code
    if is_stream:
        events = [json.loads(line.removeprefix("data: ")) for line in answer.text.split("\n\n")[:-2]]
        assert expected == "".join(event["choices"][0]["delta"].get("content") or "" for event in events)
        assert "stop" == events[-1]["choices"][0]["finish_reason"]
    else:
        assert expected == content(answer)


class Person(pydantic.BaseModel):
    """What the client's own helper is given."""

    name: str
    age: int


def test_the_clients_own_parser_gets_its_object(sdk):
    """`parse` with a class sends its schema and returns an instance."""
    answer = sdk.chat.completions.parse(
        model="hybrid", messages=[{"role": "user", "content": JO}], response_format=Person
    )

    assert Person(name="Jo", age=4) == answer.choices[0].message.parsed


def test_the_starter_fills_in_a_form_at_any_temperature(starter):
    """A 135M model that babbles gives documents its schema accepts, four at once."""
    tags = {"type": "array", "items": {"enum": ["red", "green"]}, "maxItems": 3}
    wanted = {
        **PERSON,
        "properties": {"name": {"type": "string", "maxLength": 8}, "age": {"enum": [1, 2]}, "tags": tags},
    }

    async def ask_all() -> list[str]:
        async with openai.AsyncOpenAI(base_url=starter.url, api_key="none", max_retries=0, timeout=100) as client:
            asked = [
                client.chat.completions.create(
                    model="local",
                    messages=[{"role": "user", "content": "Anything."}],
                    response_format=form(wanted),
                    temperature=2,
                    seed=seed,
                    max_tokens=200,
                )
                for seed in range(4)
            ]
            return [answer.choices[0].message.content for answer in await asyncio.gather(*asked)]

    for text in asyncio.run(ask_all()):
        document = json.loads(text)
        assert {"name", "age"} <= set(document) <= {"name", "age", "tags"}
        assert len(document["name"]) <= 8
        assert document["age"] in (1, 2)
        assert set(document.get("tags", [])) <= {"red", "green"}


def test_an_answer_cut_by_its_limit_says_so(server):
    """Half a document is not judged: it is `length`, as everywhere."""
    answer = server.ask(JO, response_format=form(PERSON), max_tokens=10)

    assert ("length", JO[:10]) == (answer.json()["choices"][0]["finish_reason"], content(answer))


def test_an_answer_cut_by_the_clients_stop_string_is_not_judged(server):
    """Who asks for a stop string within a document gets the document up to it."""
    answer = server.ask(JO, response_format=form(PERSON), stop="age")

    assert ("stop", '{"name": "Jo", "') == (answer.json()["choices"][0]["finish_reason"], content(answer))


@pytest.mark.parametrize(
    ("response_format", "param", "message"),
    [
        pytest.param(form({"type": "strng"}), SCHEMA_PARAM, "Invalid type", id="unknown-type"),
        pytest.param(form({"not": {}}), SCHEMA_PARAM, "Unimplemented keys", id="unsupported-keyword"),
        pytest.param(form({"$ref": "#"}), SCHEMA_PARAM, "nothing may come", id="recursion-without-end"),
        pytest.param(form({"$ref": "file:///etc/passwd"}), SCHEMA_PARAM, "does not fetch", id="reads-a-file"),
        pytest.param(form({"type": "integer", "multipleOf": 1_234_567}), SCHEMA_PARAM, "too long", id="too-costly"),
        pytest.param(
            form({"enum": ["x" * 30 + str(n) for n in range(9_000)]}), SCHEMA_PARAM, "at most", id="too-large"
        ),
        pytest.param(form({"type": "string", "pattern": "("}), SCHEMA_PARAM, "unclosed", id="pattern"),
        pytest.param(grammar("regex", "(a"), "response_format.grammar.definition", "unclosed", id="regex"),
        pytest.param(grammar("lark", "start: x"), "response_format.grammar.definition", "unknown name", id="lark"),
        pytest.param(grammar("lark", "start: <|no_such|>"), "response_format", "unknown special", id="control-token"),
        pytest.param(grammar("gbnf", "x"), "response_format.grammar.syntax", "gbnf", id="syntax"),
    ],
)
def test_a_form_that_cannot_be_kept_to_is_refused(server, response_format, param, message):
    """It is a 400 that names the parameter and says why, never an answer without the form."""
    answer = server.ask(JO, response_format=response_format)
    error = answer.json()["error"]

    assert (400, param) == (answer.status_code, error["param"])
    assert message in error["message"]


def test_a_deep_form_is_refused_by_the_parser(server):
    """What nests deeper than any schema needs never reaches the compiler."""
    deep: Json = {"type": "string"}
    for _ in range(200):
        deep = {"type": "array", "items": deep}

    assert 400 == server.ask("x", response_format=form(deep)).status_code


def test_a_hostile_form_holds_nobody_up(server):
    """While a form that takes a second to refuse is looked at, plain requests and other forms are served."""

    async def ask(client: openai.AsyncOpenAI, response_format: Json) -> str:
        answer = await client.chat.completions.create(
            model="local", messages=[{"role": "user", "content": "yes"}], response_format=response_format
        )
        return answer.choices[0].message.content

    async def ask_all() -> list[object]:
        hostile = [form({"type": "integer", "multipleOf": 1_234_568 + n}) for n in range(2)]
        async with openai.AsyncOpenAI(base_url=server.url, api_key="none", max_retries=0, timeout=60) as client:
            asked = [*hostile, {"type": "text"}, grammar("regex", "yes")]
            return await asyncio.gather(*(ask(client, one) for one in asked), return_exceptions=True)

    *refused, plain, formed = asyncio.run(ask_all())

    assert all(isinstance(one, openai.BadRequestError) for one in refused)
    assert ("yes", "yes") == (plain, formed)


@pytest.mark.parametrize("is_stream", [False, True], ids=["whole", "stream"])
def test_an_answer_found_wrong_at_the_end_is_no_answer(server, is_stream):
    """Whole it is a 500, in a stream an error event in place of the end."""
    answer = server.ask("1", response_format=form(AMBIGUOUS), stream=is_stream, model="local")
    if is_stream:
        assert "[DONE]" not in answer.text
        error = json.loads(answer.text.split("data: ")[-1])["error"]
    else:
        assert 500 == answer.status_code
        error = answer.json()["error"]

    assert ("local_failure", "local") == (error["code"], error["src"])
    assert "valid under each of" in error["message"]


@pytest.mark.parametrize("is_stream", [False, True], ids=["whole", "stream"])
def test_a_wrong_answer_goes_to_the_cloud_instead(tmp_path, is_stream):
    """With a cloud the draft is escalated for `verifier`; should that fail too, the draft still is no answer."""

    async def scenario() -> None:
        async with FakeProvider() as cloud:
            with Serving(tmp_path / "a", FAKE_MODEL + cloud_toml(cloud.base_url)) as server:
                answer = await asyncio.to_thread(server.ask, "1", response_format=form(AMBIGUOUS), stream=is_stream)
                explained = await asyncio.to_thread(server.explain, answer.headers["x-hybrid-request-id"])
            assert ("cloud", "verifier") == (answer.headers["x-hybrid-route"], answer.headers["x-hybrid-reason"])
            assert form(AMBIGUOUS) == cloud.requests[0].body["response_format"]
            assert "verifier" == explained["decision"]["review"]["checks"][-1]["rule"]
        dead = cloud_toml("http://127.0.0.1:9/v1")
        with Serving(tmp_path / "b", FAKE_MODEL + dead) as server:
            failed = await asyncio.to_thread(server.ask, "1", response_format=form(AMBIGUOUS), stream=is_stream)
        assert 502 == failed.status_code

    asyncio.run(scenario())


def test_a_form_only_a_cloud_can_keep_to_goes_there(tmp_path):
    """What the local engine cannot follow is no error where a cloud may; our own grammars never go to one."""

    async def scenario() -> None:
        async with FakeProvider() as cloud:
            with Serving(tmp_path, FAKE_MODEL + cloud_toml(cloud.base_url)) as server:
                paid = await asyncio.to_thread(server.ask, "x", response_format=form({"not": {"type": "null"}}))
                ours = await asyncio.to_thread(server.ask, "[doubt] x", response_format=grammar("regex", r"\[.*"))
                broken = await asyncio.to_thread(server.ask, "x", response_format=grammar("regex", "("))
            assert ("cloud", "capability") == (paid.headers["x-hybrid-route"], paid.headers["x-hybrid-reason"])
            assert "local" == ours.headers["x-hybrid-route"]
            assert 400 == broken.status_code
            assert 1 == len(cloud.requests)

    asyncio.run(scenario())


@pytest.mark.parametrize("alternatives", [0, 3])
def test_logprobs_are_told_as_openai_tells_them(sdk, alternatives):
    """Each token with its bytes, its natural log-probability, and as many alternatives as asked for."""
    answer = sdk.chat.completions.create(
        model="hybrid",
        messages=[{"role": "user", "content": "né"}],
        logprobs=True,
        top_logprobs=alternatives,
    )
    told = answer.choices[0].logprobs.content

    assert [("n", [110]), ("\\xc3", [0xC3]), ("\\xa9", [0xA9])] == [(token.token, token.bytes) for token in told]
    assert all(-0.1 < token.logprob < 0 for token in told)
    assert [alternatives] * 3 == [len(token.top_logprobs) for token in told]
    assert answer.choices[0].logprobs.refusal is None


def test_streamed_logprobs_line_up_with_the_text(sdk):
    """What a stop string holds back is told with its text, what it cuts is not told, and all else is."""
    stream = sdk.chat.completions.create(
        model="hybrid",
        messages=[{"role": "user", "content": "a STUB, a STOP sign"}],
        stop="STOP",
        logprobs=True,
        top_logprobs=1,
        stream=True,
    )
    shown, told = "", ""
    for chunk in stream:
        choice = chunk.choices[0]
        shown += choice.delta.content or ""
        told += "".join(token.token for token in choice.logprobs.content) if choice.logprobs else ""
        assert told == shown

    assert "a STUB, a " == told


def test_no_logprobs_unless_asked(sdk):
    """`logprobs` is null in an answer to a request without it."""
    answer = sdk.chat.completions.create(model="hybrid", messages=[{"role": "user", "content": "x"}])

    assert answer.choices[0].logprobs is None


def test_logit_bias_moves_the_answer(server):
    """-100 bans a token, 100 forces one; a token the vocabulary does not have is a 400."""
    banned = server.ask("hello", logit_bias={str(ord("h")): -100}, max_tokens=1)
    forced = server.ask("hello", logit_bias={str(ord("x")): 100}, max_tokens=3)
    unknown = server.ask("hello", logit_bias={"260": 1})

    assert "h" != content(banned)
    assert "xxx" == content(forced)
    error = unknown.json()["error"]
    assert (400, "logit_bias", "invalid_value") == (unknown.status_code, error["param"], error["code"])


def test_biased_requests_stay_where_their_tokens_are(tmp_path):
    """Token ids are the local vocabulary's: a doubtful biased draft is not sent to a cloud, where they mean others."""

    async def scenario() -> None:
        async with FakeProvider() as cloud:
            with Serving(tmp_path, FAKE_MODEL + cloud_toml(cloud.base_url)) as server:
                stays = await asyncio.to_thread(server.ask, "[doubt] x", logit_bias={"1": -1})
                asked = await asyncio.to_thread(server.ask, "x", logit_bias={"1": -1}, model="cloud")
            assert "local" == stays.headers["x-hybrid-route"]
            assert "cloud" == asked.headers["x-hybrid-route"]

    asyncio.run(scenario())


def test_a_client_that_goes_while_its_form_compiles_leaves_nothing(server):
    """Hanging up during the check frees everything: nothing runs, nothing waits, the next form is kept to."""

    async def leave() -> None:
        async with openai.AsyncOpenAI(base_url=server.url, api_key="none", max_retries=0, timeout=60) as client:
            hostile = form({"type": "integer", "multipleOf": 1_234_599})
            messages = [{"role": "user", "content": "x"}]
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.2):
                    await client.chat.completions.create(model="local", messages=messages, response_format=hostile)

    asyncio.run(leave())

    assert server.wait_until(lambda state: state["running"] == state["waiting"] == 0)
    assert "no" == content(server.ask("no", response_format=grammar("regex", "yes|no")))
