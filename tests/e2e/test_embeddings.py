"""A user embeds texts and chooses adapters, through `hybrid serve` and the official client, with real models."""

import base64
import json
import os
import socket
import struct

import numpy as np
import openai
import pytest

from hybrid.types import Json
from tests.e2e.forks import run
from tests.e2e.serving import FAKE_MODEL, HYBRID, Serving, body, cloud_toml
from tests.tiny_bert import CONTEXT_TOKENS, WIDTH, write_bert
from tests.tiny_lora import write_lora

TEXTS = ["The cat sat on the mat.", "Stocks fell on Monday.", "x", "word " * 200]
# As in tests/backends/test_embedding.py: what other batch shapes do to rounding.
BATCHING_COSINE = 0.998


@pytest.fixture(scope="module")
def server(starter_model, tmp_path_factory):
    """The starter with adapters, and a random BERT as the second model: one server for the whole file."""
    folder = tmp_path_factory.mktemp("embeddings")
    bert = write_bert(folder / "bert.gguf")
    write_lora(folder / "zero.gguf", starter_model)
    write_lora(folder / "loud.gguf", starter_model, seed=1, strength=0.05)
    config = (
        f"[local]\nmodel = {json.dumps(str(starter_model))}\nembedding_model = {json.dumps(str(bert))}\n"
        "context_tokens = 1024\nslots = 4\n"
        '[[lora]]\nname = "zero"\npath = "zero.gguf"\n[[lora]]\nname = "loud"\npath = "loud.gguf"\nscale = 0.5\n'
        '[aliases]\n"text-embedding-3-small" = "local/smollm2-135m"\n"loud-bot" = "local/smollm2-135m+loud"\n'
    )
    with Serving(folder, config) as running:
        yield running
        assert 0 == running.local_state()["restarts"]


def _client(server: Serving) -> openai.OpenAI:
    return openai.OpenAI(base_url=server.url, api_key="none", max_retries=0, timeout=60)


def _vectors(server: Serving, given: Json, **fields: Json) -> list[np.ndarray]:
    answer = _client(server).embeddings.create(input=given, **{"model": "text-embedding-3-small", **fields})
    return [np.array(one.embedding) for one in answer.data]


def test_a_batch_is_what_its_texts_are_alone(server):
    """N texts in one request, and N requests of one: the same vectors within rounding, each of length 1."""
    together = _vectors(server, TEXTS)
    alone = [_vectors(server, text)[0] for text in TEXTS]

    assert all(float(a @ b) >= BATCHING_COSINE for a, b in zip(together, alone, strict=True))
    assert [1.0] * len(TEXTS) == pytest.approx([float(np.linalg.norm(vector)) for vector in together], abs=1e-5)


def test_the_same_text_is_the_same_vector(server):
    """Asked again alone, bit for bit, in both forms and as its own tokens."""
    asked = {"model": "text-embedding-3-small", "input": TEXTS[0]}
    floats = server.client.post("/embeddings", json=asked).json()["data"][0]["embedding"]
    packed = server.client.post("/embeddings", json={**asked, "encoding_format": "base64"}).json()["data"][0][
        "embedding"
    ]

    assert floats == list(struct.unpack(f"<{len(floats)}f", base64.b64decode(packed)))


def test_the_embedding_model_answers_for_hybrid_and_local(server):
    """`hybrid`, `local` and its name mean the second model, loaded when asked for; usage counts [CLS] too."""
    for model in ("hybrid", "local", "bert", "local/bert"):
        raw = _client(server).embeddings.with_raw_response.create(model=model, input=["the cat sat", "a dog"])
        answer = raw.parse()
        assert ([WIDTH, WIDTH], 9, "bert") == (
            [len(one.embedding) for one in answer.data],
            answer.usage.prompt_tokens,
            answer.model,
        )
        assert ("local", "bert") == (raw.headers["x-hybrid-route"], raw.headers["x-hybrid-model"])


@pytest.mark.parametrize(
    ("fields", "status", "code", "what"),
    [
        pytest.param(
            {"input": "the " * 500}, 400, "context_length_exceeded", f"at most {CONTEXT_TOKENS}", id="too-long"
        ),
        pytest.param({"input": [5000]}, 400, "invalid_value", "has token 5000", id="no-such-token"),
        pytest.param({"dimensions": 8}, 400, "unsupported_parameter", f"{WIDTH} dimensions", id="dimensions"),
        pytest.param({"model": "cloud/x"}, 400, "unsupported_parameter", "local model only", id="cloud"),
        pytest.param({"model": "nobody"}, 404, "model_not_found", "bert", id="unknown-model"),
    ],
)
def test_what_cannot_be_embedded_is_told(server, fields, status, code, what):
    """A clear error with its numbers; nothing is cut or guessed."""
    answer = server.client.post("/embeddings", json={"model": "local", "input": "the cat", **fields})
    error = answer.json()["error"]
    assert (status, code) == (answer.status_code, error["code"])
    assert what in error["message"]


def test_an_embedding_model_does_not_chat(server):
    """Asked for a chat, the second model's worker refuses; it does not die."""
    answer = server.client.post("/chat/completions", json=body("hello", model="local/bert"))
    assert (400, True) == (answer.status_code, "embedding model" in answer.json()["error"]["message"])


def test_an_adapter_is_chosen_by_name(server):
    """Each adapter is listed and answers by its name or an alias; one of zeros says what the base says."""
    names = {model.id for model in _client(server).models.list()}
    assert {"local/smollm2-135m+zero", "local/smollm2-135m+loud", "local/bert", "loud-bot"} <= names

    def answer(model: str) -> tuple[str, str]:
        got = server.ask("Name three colours.", model=model, temperature=0, max_tokens=24)
        return got.json()["choices"][0]["message"]["content"], got.headers["x-hybrid-model"]

    base, zero, loud = (answer(model) for model in ("local", "local/smollm2-135m+zero", "loud-bot"))
    assert base[0] == zero[0] != loud[0]
    assert ["smollm2-135m", "smollm2-135m+zero", "smollm2-135m+loud"] == [base[1], zero[1], loud[1]]
    assert 404 == server.ask("x", model="local/smollm2-135m+other").status_code


def test_an_adapter_that_does_not_fit_ends_the_start(starter_model, tmp_path):
    """`hybrid serve` says which adapter and why, with exit status 2, also where a cloud could answer."""
    (tmp_path / "hybrid.toml").write_text(
        f"[local]\nmodel = {json.dumps(str(starter_model))}\n"
        f'[[lora]]\nname = "bad"\npath = {json.dumps(str(write_bert(tmp_path / "bert.gguf")))}\n'
        + cloud_toml("http://127.0.0.1:9/v1")
    )
    command = [*HYBRID, "serve", "--port", "0", "--config", str(tmp_path / "hybrid.toml")]
    done = run(command, os.environ)
    assert (2, True) == (done.returncode, "lora 'bad': bert.gguf is no adapter" in done.stderr)


def test_the_ledger_knows_embeddings(tmp_path):
    """A row with route, model and tokens, explained by id; refused requests are rows too."""
    with Serving(tmp_path, FAKE_MODEL) as server:
        answer = server.client.post("/embeddings", json={"model": "hybrid", "input": "abc"})
        assert 400 == server.client.post("/embeddings", json={"model": "hybrid", "input": ""}).status_code
        explained = server.explain(answer.headers["x-hybrid-request-id"])
        report = server.report()
    assert ("ok", "local", "fake", 3) == tuple(
        explained[key] for key in ("outcome", "route", "model", "local_prompt_tokens")
    )
    assert 2 == report["requests"]


def test_a_client_that_hangs_up_frees_the_worker(tmp_path):
    """In the midst of a large request the client goes: it is cancelled, and the next one is served."""
    with Serving(tmp_path, FAKE_MODEL) as server:
        url = server.client.base_url
        content = json.dumps({"model": "local", "input": ["[slow] text " * 30] * 500}).encode()
        with socket.create_connection((url.host, url.port)) as connection:
            head = f"POST /v1/embeddings HTTP/1.1\r\nhost: {url.host}\r\ncontent-type: application/json\r\n"
            connection.sendall(f"{head}content-length: {len(content)}\r\n\r\n".encode() + content)
            assert 200 == server.client.post("/embeddings", json={"model": "local", "input": "by then"}).status_code
        while '"cancelled"' not in server.hybrid("report", "--json"):
            pass
        assert 200 == server.client.post("/embeddings", json={"model": "local", "input": "next"}).status_code
