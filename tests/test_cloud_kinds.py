"""Does each kind of cloud get its provider and its price, and is nothing loaded that no cloud needs?"""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from decimal import Decimal

import pytest
from genai_prices.data_snapshot import get_snapshot

from hybrid.cloud_kinds import provider_of, tokenizer_of
from hybrid.config import load
from hybrid.config_schema import CLOUD_KINDS, CloudConfig, Config
from hybrid.errors import ConfigError
from hybrid.price_book import price_of
from hybrid.pricing import worst_case_usd
from hybrid.providers.anthropic import AnthropicProvider
from hybrid.providers.gemini import GeminiProvider
from hybrid.providers.openai import OpenAIProvider
from hybrid.types import Capability, ChatRequest, Message, Sampling, TextPart
from hybrid.wiring import cloud_models

HOMES = {
    "openai": "https://api.openai.com/v1",
    "anthropic": "https://api.anthropic.com/v1",
    "gemini": "https://generativelanguage.googleapis.com/v1beta",
}


def cloud(kind: str, **keys) -> CloudConfig:
    """A `[[cloud]]` of this kind at its own address."""
    return CloudConfig(name="big", kind=kind, base_url=HOMES[kind], models=keys.pop("models", ("m",)), **keys)


def asking(text: str = "x", **fields) -> ChatRequest:
    """A request of one message."""
    return ChatRequest(model="hybrid", messages=(Message("user", (TextPart(text),)),), **fields)


def test_every_kind_has_its_provider():
    """The names that the configuration takes are those somebody answers to."""
    expected = {"openai": OpenAIProvider, "anthropic": AnthropicProvider, "gemini": GeminiProvider}
    assert expected == {kind: type(provider_of(cloud(kind), ("sk",))) for kind in CLOUD_KINDS}


HOT = asking(sampling=Sampling(temperature=0.5))
UNTHINKING = asking(extra={"reasoning_effort": "none"})
BEGUN = ChatRequest(model="hybrid", messages=(*HOT.messages, Message("assistant", (TextPart("{"),))))
OPTIONS = [
    pytest.param(cloud("anthropic", models=("claude-opus-4-5",)), BEGUN, set(), id="prefill"),
    pytest.param(
        cloud("anthropic", models=("claude-opus-4-6",)), BEGUN, {"assistant message at the end"}, id="no-prefill"
    ),
    pytest.param(cloud("anthropic"), HOT, set(), id="anthropic-samples"),
    pytest.param(cloud("anthropic", sampling=False), HOT, {"temperature"}, id="anthropic-without-sampling"),
    pytest.param(cloud("gemini", sampling=False), HOT, {"temperature"}, id="gemini-without-sampling"),
    pytest.param(cloud("gemini", models=("gemini-2.5-flash",)), UNTHINKING, set(), id="gemini-budget-by-name"),
    pytest.param(
        cloud("gemini", models=("gemini-3-pro",)), UNTHINKING, {"reasoning_effort"}, id="gemini-level-by-name"
    ),
    pytest.param(
        cloud("gemini", models=("gemini-2.5-flash",), reasoning="effort"),
        UNTHINKING,
        {"reasoning_effort"},
        id="as-told",
    ),
    pytest.param(cloud("openai"), asking(stop=("x",)), set(), id="chat-stops"),
    pytest.param(cloud("openai", api="responses"), asking(stop=("x",)), {"stop"}, id="responses-does-not"),
]


@pytest.mark.parametrize(("configured", "request_", "expected"), OPTIONS)
def test_the_configuration_reaches_the_provider(configured, request_, expected):
    """What differs between models is a key of their cloud."""
    assert expected == set(provider_of(configured, ("sk",)).missing(request_))


@pytest.mark.parametrize("kind", CLOUD_KINDS)
def test_capabilities_may_be_narrowed(kind):
    """A cloud whose models do less says so."""
    narrow = provider_of(cloud(kind, capabilities=(Capability.TOOLS,)), ("sk",))
    assert frozenset({Capability.TOOLS}) == narrow.capabilities


@pytest.mark.parametrize(
    ("configured", "model", "expected"),
    [
        pytest.param(cloud("openai"), "gpt-4o", "gpt-4o", id="published"),
        pytest.param(cloud("openai", tokenizer="bytes"), "gpt-4o", None, id="not-wanted"),
        pytest.param(cloud("openai", tokenizer="cl100k_base"), "mine", "cl100k_base", id="named"),
        pytest.param(cloud("anthropic"), "claude", None, id="none-published"),
    ],
)
def test_prompts_are_counted_by_what_is_configured_or_published(configured, model, expected):
    """A name of its own goes first; other vendors published none."""
    assert expected == tokenizer_of(configured, model)


def test_a_tokenizer_that_there_is_not_is_told_at_the_start(tmp_path):
    """By the cloud's name, with those there are."""
    file = tmp_path / "hybrid.toml"
    file.write_text(
        '[[cloud]]\nname = "big"\nbase_url = "http://127.0.0.1:1/v1"\nmodels = ["m"]\ntokenizer = "o300k"\n'
    )
    with pytest.raises(ConfigError, match=r"cloud 'big': there is no tokenizer 'o300k'.*o200k_base"):
        cloud_models(load(file, {}).config, {})


def priced(provider_id: str, key: str) -> list[str]:
    """The models of a provider whose listed price has this key, by their own names."""
    found = next(one for one in get_snapshot().providers if one.id == provider_id)
    return [model.id for model in found.models if getattr(model.prices, key, None) is not None]


def test_anthropic_cache_writes_are_priced_and_reserved():
    """The table's rate for writing reaches the price, and the worst case is all of the prompt written."""
    model = priced("anthropic", "cache_write_mtok")[-1]
    price = price_of(Config(), cloud("anthropic"), model)
    assert price.cache_write_usd_per_mtok > price.input_usd_per_mtok
    assert price.cache_write_usd_per_mtok == worst_case_usd(
        replace(price, steps=()), prompt_tokens_bound=1_000_000, max_output_tokens=0
    )


def test_a_gemini_model_has_its_listed_price():
    """Behind Google's address the table answers."""
    assert Decimal(0) < price_of(Config(), cloud("gemini"), priced("google", "input_mtok")[0]).output_usd_per_mtok


LOADED = """
import os, sys
from pathlib import Path
from hybrid.config import load
from hybrid.wiring import cloud_models
cloud_models(load(Path(sys.argv[1]), {"K": "sk"}).config, {"K": "sk"})
print(*sorted(name for name in sys.modules if name.startswith("hybrid.providers.")))
"""


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        pytest.param(None, set(), id="no-cloud"),
        pytest.param("openai", {"openai"}, id="openai"),
        pytest.param("anthropic", {"anthropic"}, id="anthropic"),
        pytest.param("gemini", {"gemini"}, id="gemini"),
    ],
)
def test_a_kind_is_loaded_only_where_it_is_configured(tmp_path, kind, expected):
    """A gateway without a cloud loads no provider, one with a cloud no other kind's; and never a fake."""
    file = tmp_path / "hybrid.toml"
    text = f'[[cloud]]\nname = "big"\nkind = "{kind}"\nbase_url = "{HOMES[kind]}"\nmodels = ["m"]\n' if kind else ""
    file.write_text(text + ('api_key_env = "K"\n' if kind else ""))
    assert load(file, {"K": "sk"}).config is not None
    done = subprocess.run(
        [sys.executable, "-c", LOADED, str(file)], env=dict(os.environ), check=True, capture_output=True, text=True
    )
    loaded = {name.removeprefix("hybrid.providers.") for name in done.stdout.split()}
    assert expected == loaded & {"openai", "anthropic", "gemini"}
    assert set() == {name for name in loaded if name.startswith("fake")}
