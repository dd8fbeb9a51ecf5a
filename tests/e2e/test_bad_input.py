"""Whatever is sent, the answer is a clear error of the right kind, and the server goes on."""

import json
import os
import subprocess

import pytest

from tests.e2e.forks import run
from tests.e2e.serving import HYBRID, Serving, body


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """One server for the whole file: what a bad request breaks, the next one notices."""
    with Serving(tmp_path_factory.mktemp("bad")) as running:
        yield running
        assert running.ask("still well?").status_code == 200
        assert running.local_state()["restarts"] == 0


JSON = {"content-type": "application/json"}


@pytest.mark.parametrize(
    ("content", "status", "code"),
    [
        pytest.param(b"not json", 400, "invalid_json", id="not-json"),
        pytest.param(b"", 400, "invalid_json", id="empty"),
        pytest.param(b"[1, 2]", 400, None, id="not-an-object"),
        pytest.param(b'"text"', 400, None, id="a-string"),
        pytest.param(b"\xff\xfe{}", 400, None, id="not-utf8"),
        pytest.param(b"[" * 100_000, 400, None, id="very-deep"),
        pytest.param(b'{"model": "hybrid", "messages": ' + b"9" * 50_000 + b"}", 400, None, id="huge-number"),
        pytest.param(b'{"model": "hybrid", "messages": [], "temperature": NaN}', 400, None, id="nan"),
        pytest.param(b" " * (11 << 20), 413, "request_too_large", id="too-large"),
    ],
)
def test_a_broken_body(server, content, status, code):
    """A body that is no JSON object of the API is refused with 4xx in OpenAI's envelope."""
    answer = server.client.post("/chat/completions", content=content, headers=JSON)

    assert status == answer.status_code
    error = answer.json()["error"]
    assert error["message"]
    assert code is None or code == error["code"]


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        pytest.param({"temperature": -1}, "temperature", id="negative-temperature"),
        pytest.param({"temperature": 1e9}, "temperature", id="absurd-temperature"),
        pytest.param({"max_tokens": -5}, "max_tokens", id="negative-max-tokens"),
        pytest.param({"max_tokens": 10**30}, "max_tokens", id="absurd-max-tokens"),
        pytest.param({"top_p": 2}, "top_p", id="top-p"),
        pytest.param({"top_k": -5}, "top_k", id="negative-top-k"),
        pytest.param({"n": 0}, "n", id="no-answers"),
        pytest.param({"n": -(2**40)}, "n", id="negative-n"),
        pytest.param({"seed": 2**80}, "seed", id="seed"),
        pytest.param({"stop": ["x"] * 1000}, "stop", id="many-stops"),
        pytest.param({"presence_penalty": 100}, "presence_penalty", id="penalty"),
        pytest.param({"messages": []}, "messages", id="no-messages"),
        pytest.param({"messages": [{"role": "wizard", "content": "x"}]}, "messages", id="unknown-role"),
        pytest.param({"messages": "hello"}, "messages", id="messages-text"),
        pytest.param({"stream": "yes"}, "stream", id="stream-text"),
        pytest.param({"n_discard": -1}, "n_discard", id="unknown-field"),
        pytest.param({"max_tokens": 0}, "max_tokens", id="no-tokens"),
        pytest.param({"max_tokens": 2**63}, "max_tokens", id="max-tokens-of-64-bits"),
        pytest.param({"max_completion_tokens": -1}, "max_completion_tokens", id="negative-completion-tokens"),
        pytest.param({"n": 2**31}, "n", id="n-of-32-bits"),
        pytest.param({"n": 1.5}, "n", id="half-an-answer"),
        pytest.param({"top_k": 2**31}, "top_k", id="top-k-of-32-bits"),
        pytest.param({"top_p": -0.1}, "top_p", id="negative-top-p"),
        pytest.param({"min_p": -1}, "min_p", id="negative-min-p"),
        pytest.param({"min_p": 1.1}, "min_p", id="min-p"),
        pytest.param({"seed": -(2**64)}, "seed", id="negative-seed"),
        pytest.param({"seed": 2**64}, "seed", id="seed-of-65-bits"),
        pytest.param({"stop": [""]}, "stop", id="empty-stop"),
        pytest.param({"stop": "x" * 10_000}, "stop", id="long-stop"),
        pytest.param({"stop": [1]}, "stop", id="stop-number"),
        pytest.param({"frequency_penalty": -1e300}, "frequency_penalty", id="frequency-penalty"),
        pytest.param({"repetition_penalty": 0}, "repetition_penalty", id="no-repetition-penalty"),
        pytest.param({"repetition_penalty": -1}, "repetition_penalty", id="negative-repetition-penalty"),
        pytest.param({"logprobs": True, "top_logprobs": -1}, "top_logprobs", id="negative-top-logprobs"),
        pytest.param({"logprobs": True, "top_logprobs": 10**6}, "top_logprobs", id="many-top-logprobs"),
        pytest.param({"logit_bias": {"-1": 5}}, "logit_bias", id="bias-of-a-negative-token"),
        pytest.param({"logit_bias": {"4294967296": 5}}, "logit_bias", id="bias-of-a-token-of-33-bits"),
        pytest.param({"logit_bias": {"260": 5}}, "logit_bias", id="bias-one-past-the-vocabulary"),
        pytest.param({"logit_bias": {"1": 1e30}}, "logit_bias", id="absurd-bias"),
        pytest.param({"logit_bias": {"1e3": 1}}, "logit_bias", id="bias-of-no-number"),
    ],
)
def test_a_bad_parameter_is_named(server, fields, param):
    """A value out of range is a 400 whose `param` names it, before anything reaches native code."""
    answer = server.ask("x", **fields)

    assert answer.status_code == 400
    assert param in answer.json()["error"]["param"]


@pytest.mark.parametrize("value", ["-1", "0", "nan", "inf", "1e400", "9" * 400, "ten", "\u0663"])
@pytest.mark.parametrize("header", ["x-hybrid-deadline-ms", "x-hybrid-max-cost-usd"])
def test_a_hostile_header_is_refused_or_harmless(server, header, value):
    """A deadline or cost that is no positive number is a 400 that names the header; no cost at all is one."""
    answer = server.client.post(
        "/chat/completions",
        json=body("x"),
        headers=[(b"content-type", b"application/json"), (header.encode(), value.encode())],
    )

    is_free = header == "x-hybrid-max-cost-usd" and value == "0"
    assert answer.status_code == (200 if is_free else 400)
    assert is_free or answer.json()["error"]["param"] == header


def test_an_unknown_model_lists_the_valid_ones(server):
    """404 with the names this server answers to."""
    answer = server.ask("x", model="gpt-unheard-of")

    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "model_not_found")
    assert "hybrid" in answer.json()["error"]["message"]


@pytest.mark.parametrize(("text", "fields"), [("x" * 20_000, {}), ("x", {"max_tokens": 900_000})])
def test_more_than_the_context_holds_is_a_400_with_both_numbers(server, text, fields):
    """Nothing is truncated: the error states the prompt's tokens and the context's."""
    answer = server.ask(text, **fields)

    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "context_length_exceeded")
    assert "8192" in answer.json()["error"]["message"]


def test_a_contradiction_of_model_and_header_is_a_400(server):
    """model=local with x-hybrid-policy: cloud-only can mean nothing."""
    answer = server.ask("x", model="local", headers={"x-hybrid-policy": "cloud-only"})

    assert answer.status_code == 400


def test_every_refusal_is_in_the_ledger(server):
    """A refused request has a row: rejected, with its error code."""
    refused = server.ask("x", model="nobody")
    row = server.explain(refused.headers["x-hybrid-request-id"])

    assert (row["outcome"], row["error_code"]) == ("rejected", "model_not_found")


def _serve(folder, *arguments: str, config: str = "") -> subprocess.CompletedProcess[str]:
    """Run `hybrid serve` where it should refuse to start."""
    (folder / "hybrid.toml").write_text(config)
    command = [*HYBRID, "serve", "--config", str(folder / "hybrid.toml"), *arguments]
    return run(command, {**os.environ, "HYBRID_DATA_DIR": str(folder)})


@pytest.mark.parametrize("kind", ["truncated", "not-a-model", "missing", "a-folder"])
def test_a_bad_model_file_ends_serve_with_a_clear_error(tmp_path, starter_model, kind):
    """`serve --model` of a damaged, foreign or absent file exits 1 at once and says what is wrong with it."""
    path = tmp_path / "model.gguf"
    if kind == "truncated":
        with starter_model.open("rb") as whole:
            path.write_bytes(whole.read(1 << 22))
    elif kind == "not-a-model":
        path.write_text("<html>not found</html>" * 1000)
    elif kind == "a-folder":
        path.mkdir()
    done = _serve(tmp_path, "--port", "0", "--model", str(path))

    assert done.returncode == 1
    assert "model.gguf" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_port_in_use_is_told_before_the_model_loads(tmp_path, server):
    """The second server on a port exits 1 and names the port and the option."""
    port = server.url.split(":")[2].removesuffix("/v1")
    done = _serve(tmp_path, "--port", port, config='[local]\nmodel = ""\nbackend = "fake"\n')

    assert done.returncode == 1
    assert f"port {port} is taken" in done.stderr
    assert "--port" in done.stderr


def test_an_unknown_key_names_the_nearest(tmp_path):
    """A typo in hybrid.toml exits 2 with the file, the line and the key that was probably meant."""
    done = _serve(tmp_path, config="[policy]\nhold_token = 3\n")

    assert done.returncode == 2
    assert "policy.hold_tokens" in done.stderr


def test_off_loopback_needs_a_client_key(tmp_path):
    """Listening to other machines without any client key is refused with the command that makes one."""
    config = '[server]\nhost = "0.0.0.0"\n[local]\nmodel = ""\nbackend = "fake"\n'
    done = _serve(tmp_path, "--port", "0", config=config)

    assert done.returncode == 2
    assert "hybrid keys add" in done.stderr


def test_the_message_body_helper_is_valid(server):
    """The requests above are bad for one reason only: the plain one is served."""
    answer = server.client.post("/chat/completions", content=json.dumps(body("fine")).encode(), headers=JSON)

    assert answer.json()["choices"][0]["message"]["content"] == "fine"
