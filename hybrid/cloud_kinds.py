"""Which provider speaks to a configured cloud, and what counts its prompts? Each kind's module is loaded only where a
cloud is of that kind."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TypeAlias

from hybrid.config import CloudConfig
from hybrid.providers import tokenizers
from hybrid.providers.base import Provider, Timeouts
from hybrid.providers.keys import ApiKey, Keys
from hybrid.types import Capability

BY_BYTES = "bytes"
"""What a cloud's `tokenizer` is where nothing shall count its prompts."""

Maker: TypeAlias = Callable[[CloudConfig, ApiKey, Timeouts], Provider]


def provider_of(cloud: CloudConfig, api_keys: tuple[str, ...] | Keys) -> Provider:
    """Make the provider of a `[[cloud]]`; nothing is opened before its first call.

    api_keys: the preferred first; none for an API that asks for none.

    Raises: ValueError for a URL or key that cannot work.
    """
    keys = api_keys if isinstance(api_keys, Keys) else Keys(api_keys, refused_rest_s=cloud.key_rest_s)
    timeouts = Timeouts(
        connect_s=cloud.connect_timeout_s,
        first_token_s=cloud.first_token_timeout_s,
        between_tokens_s=cloud.between_tokens_timeout_s,
        total_s=cloud.total_timeout_s,
    )
    return MAKERS[cloud.kind](cloud, keys, timeouts)


def tokenizer_of(cloud: CloudConfig, model: str) -> str | None:
    """Name what counts the prompts of a cloud's model: what is configured, or else what its provider published, if any.

    Raises: ValueError if a tokenizer is configured that there is not.
    """
    if cloud.tokenizer is None:
        return tokenizers.published(cloud.base_url, model) if cloud.kind == "openai" else None
    if cloud.tokenizer == BY_BYTES:
        return None
    tokenizers.check(cloud.tokenizer)
    return cloud.tokenizer


def keep_vocabularies(folder: Path) -> None:
    """Have tiktoken keep what it fetches in a folder of ours, unless the user names one.

    It takes the place from the environment alone, and else keeps them where the system's next start may clean up.
    """
    os.environ.setdefault("TIKTOKEN_CACHE_DIR", str(folder))


def _openai(cloud: CloudConfig, api_key: ApiKey, timeouts: Timeouts) -> Provider:
    from hybrid.providers.openai import OpenAIProvider, Options

    options = Options(max_tokens_field=cloud.max_tokens_field, api=cloud.api, api_version=cloud.api_version)
    options = replace(options, capabilities=_bounded(options.capabilities, cloud))
    return OpenAIProvider(cloud.name, base_url=cloud.base_url, api_key=api_key, timeouts=timeouts, options=options)


def _anthropic(cloud: CloudConfig, api_key: ApiKey, timeouts: Timeouts) -> Provider:
    from hybrid.providers.anthropic import AnthropicProvider, Options, takes_prefill

    options = Options(
        reasoning=cloud.reasoning or "effort",
        structured=cloud.structured,
        has_sampling=cloud.sampling,
        has_prefill=all(takes_prefill(model) for model in cloud.models),
        caches_prompts=cloud.cache_prompts,
    )
    options = replace(options, capabilities=_bounded(options.capabilities, cloud))
    return AnthropicProvider(cloud.name, base_url=cloud.base_url, api_key=api_key, timeouts=timeouts, options=options)


def _gemini(cloud: CloudConfig, api_key: ApiKey, timeouts: Timeouts) -> Provider:
    from hybrid.providers.gemini import GeminiProvider, Options, Reasoning, wants_budget

    # Newer models take a budget as well, so one old model among them decides for all.
    by_name: Reasoning = "budget" if any(wants_budget(model) for model in cloud.models) else "effort"
    options = Options(reasoning=cloud.reasoning or by_name, has_sampling=cloud.sampling)
    options = replace(options, capabilities=_bounded(options.capabilities, cloud))
    return GeminiProvider(cloud.name, base_url=cloud.base_url, api_key=api_key, timeouts=timeouts, options=options)


def _bounded(known: frozenset[Capability], cloud: CloudConfig) -> frozenset[Capability]:
    return known if cloud.capabilities is None else frozenset(cloud.capabilities)


MAKERS: Mapping[str, Maker] = {"openai": _openai, "anthropic": _anthropic, "gemini": _gemini}
"""By `cloud.kind`."""
