"""A long system prompt is computed once, even over a restart: with the starter, through `hybrid serve` twice."""

import pytest

from tests.e2e.serving import Serving

CONFIG = """[local]
model = "{model}"
context_tokens = 2048
slots = 2
temperature = 0
prompt_cache_bytes = {prompt_cache_bytes}
[policy]
min_confidence = 0
"""
PATIENCE_S = 300.0
"""On a busy machine 1,000 tokens of prompt take longer than what the other tests allow an answer."""
RULES = "".join(f"Rule {n}: answer question {n} briefly, and never mention rule {n + 1}. " for n in range(1, 53))


def _ask(server: Serving, question: str) -> tuple[str, int, int]:
    """Give the answer, the prompt's tokens and how many of them were cached."""
    messages = [{"role": "system", "content": RULES}, {"role": "user", "content": question}]
    answer = server.client.post(
        "/chat/completions",
        json={"model": "local", "messages": messages, "max_tokens": 12, "temperature": 0},
        timeout=PATIENCE_S,
    ).json()
    usage = answer["usage"]
    cached = usage["prompt_tokens_details"]["cached_tokens"]
    return answer["choices"][0]["message"]["content"], usage["prompt_tokens"], cached


@pytest.mark.parametrize("damage", [False, True], ids=["sound", "damaged"])
def test_a_restarted_server_starts_from_the_saved_system_prompt(tmp_path, starter_model, damage):
    """The first request after a restart finds the rules cached and answers as before; damaged, it does without."""
    config = CONFIG.format(model=starter_model, prompt_cache_bytes=100_000_000)
    with Serving(tmp_path, config) as server:
        before = _ask(server, "What is rain?")
        _ask(server, "Name a colour.")
    (saved,) = (tmp_path / "prompts").glob("*.prompt")
    if damage:
        saved.write_bytes(saved.read_bytes()[:-1] + b"\xff")
    with Serving(tmp_path, config) as server:
        answer, prompt_tokens, cached = _ask(server, "What is rain?")

    assert before[2] == 0
    assert (before[0], before[1]) == (answer, prompt_tokens)
    assert (cached == 0) if damage else (cached > 1000)
    assert saved.exists() is not damage


def test_nothing_is_saved_by_default(tmp_path):
    """Without `local.prompt_cache_bytes` there is not even a folder: prompts are private."""
    with Serving(tmp_path) as server:
        for question in ("What is rain?", "Name a colour."):
            _ask(server, question)

    assert not (tmp_path / "prompts").exists()
