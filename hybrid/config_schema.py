"""Which configuration keys exist, with their defaults, ranges and meaning?

One struct a section of `hybrid.toml`. The descriptions feed `hybrid config schema`; nothing here reads a file.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from decimal import Decimal
from typing import Annotated, Literal, TypeAlias

from msgspec import Meta, Struct, field

from hybrid.types import Capability

STARTER_MODEL = "smollm2-135m"
BACKENDS = ("auto", "llama_cpp", "fake")
"""Values of `local.backend` that have a file in `hybrid/backends/`, besides `auto`."""
CLOUD_KINDS = ("openai", "anthropic", "gemini")
"""Values of `cloud.kind` that have a file in `hybrid/providers/`."""
LATER = {
    "local.backend": ("torch", "openai"),
    "cloud.kind": (),
}
"""Values the contract names that no file answers to yet: an error that says so, not "unknown"."""

Name: TypeAlias = Annotated[
    str,
    Meta(
        pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$(?!\n)",
        extra={"words": "1 to 64 small letters, digits, dots, - and _, in quotes"},
    ),
]
# Printable ASCII without space, quote and backslash: it travels in headers and is quoted in TOML.
ModelName: TypeAlias = Annotated[
    str,
    Meta(
        pattern=r"^[!#-\[\]-~]{1,200}$(?!\n)",
        extra={"words": "a model's name in quotes, up to 200 characters of ASCII without spaces"},
    ),
]
Variable: TypeAlias = Annotated[
    str,
    Meta(
        pattern=r"^[A-Z_][A-Z0-9_]*$(?!\n)",
        extra={"words": "the name of an environment variable in capitals (not the key itself), in quotes"},
    ),
]
Seconds: TypeAlias = Annotated[float, Meta(gt=0, le=86_400)]
Milliseconds: TypeAlias = Annotated[int, Meta(ge=1, le=86_400_000)]
Tokens: TypeAlias = Annotated[int, Meta(ge=1, le=16_777_216)]
Share: TypeAlias = Annotated[float, Meta(ge=0, le=1)]


class ServerConfig(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """[server]: where the gateway listens and what it accepts."""

    host: Annotated[str, Meta(min_length=1, description="Address to listen on; only loopback needs no client key.")] = (
        "127.0.0.1"
    )
    port: Annotated[int, Meta(ge=0, le=65_535, description="TCP port; 0 takes a free one.")] = 8484
    max_body_bytes: Annotated[
        int, Meta(ge=1, le=2**31, description="Largest request body that is read; a larger one is a 413.")
    ] = 10 * 1024 * 1024
    allowed_hosts: Annotated[
        tuple[Annotated[str, Meta(min_length=1)], ...],
        Meta(description="Host headers answered besides the loopback names and server.host (DNS rebinding guard)."),
    ] = ()


class LocalConfig(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """[local]: the model that answers on this machine, and how it draws tokens where a client does not say."""

    model: Annotated[str, Meta(description='Catalog name or path of a .gguf file; "" runs no local model.')] = (
        STARTER_MODEL
    )
    embedding_model: Annotated[
        str, Meta(description='Model of /v1/embeddings: a catalog name or path of a .gguf; "" takes local.model.')
    ] = ""
    backend: Annotated[
        str, Meta(description="Who runs the model: auto, llama_cpp, or fake (canned answers, for tests).")
    ] = "auto"
    context_tokens: Annotated[
        int, Meta(ge=16, le=16_777_216, description="Tokens of prompt and answer together that one request may use.")
    ] = 8192
    slots: Annotated[int, Meta(ge=0, le=1024, description="Requests decoded together; 0 chooses from the machine.")] = 0
    keep_alive_s: Annotated[
        float, Meta(ge=0, le=31_536_000, description="Seconds an idle model stays in memory; 0 keeps it always.")
    ] = 300.0
    max_queue: Annotated[
        int, Meta(ge=0, le=100_000, description="Requests that may wait for a slot; one more is a 429.")
    ] = 64
    prompt_cache_bytes: Annotated[
        int,
        Meta(
            ge=0,
            le=2**50,
            description="Room on disk for the caches of system prompts, kept over restarts; 0 saves none.",
        ),
    ] = 0
    threads: Annotated[
        int, Meta(ge=0, le=4096, description="CPU threads for the model; 0: a thread a physical core.")
    ] = 0
    adapt_threads: Annotated[
        bool, Meta(description="Use fewer threads while other programs keep cores busy, where that is no slower.")
    ] = True
    nice: Annotated[
        int, Meta(ge=0, le=19, description="How far the model steps back behind other programs; 0: an equal of theirs.")
    ] = 0
    matmul: Annotated[
        Literal["auto", "hybrid", "ggml"],
        Meta(
            description="Who multiplies a quantised model's weights with several tokens at once: ours on a processor "
            "with AVX2 (hybrid), or llama.cpp's library (ggml); auto takes ours wherever it can be had."
        ),
    ] = "auto"
    kv_layout: Annotated[
        Literal["auto", "unified", "split"],
        Meta(
            description="KV cache: one pool of context_tokens for all requests (unified), or as many for each slot, "
            "which computes faster (split); auto takes split where its memory is a small share of the machine's."
        ),
    ] = "auto"
    speculation: Annotated[
        Literal["auto", "off"],
        Meta(description="Guess tokens ahead where the text repeats and it measures faster; off never guesses."),
    ] = "auto"
    draft_model: Annotated[
        str, Meta(description='Small model with the same vocabulary that guesses too: name or path; "" is none.')
    ] = ""
    tuned: Annotated[bool, Meta(description="Run what `hybrid models tune` chose, where its record holds here.")] = True
    temperature: Annotated[float, Meta(ge=0, le=2, description="Where a client gives none; 0 is greedy.")] = 0.7
    top_p: Annotated[Share, Meta(description="Where a client gives none; 1 is off.")] = 0.95
    min_p: Annotated[Share, Meta(description="Where a client gives none; 0 is off.")] = 0.05
    top_k: Annotated[int, Meta(ge=0, le=2**31 - 1, description="Where a client gives none; 0 is off.")] = 40
    max_output_tokens: Annotated[
        Tokens | None,
        Meta(description="Longest answer where a client gives no bound; unset: up to the context."),
    ] = None
    max_reasoning_tokens: Annotated[
        Tokens | None,
        Meta(description="Longest thinking before an answer, for models that think; unset: as long as they like."),
    ] = None


class CloudConfig(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """[[cloud]]: one paid API. Of all that can answer a request, policy.cloud_order says which is tried first."""

    name: Annotated[Name, Meta(description="Its name in model names, prices, headers and reports.")]
    base_url: Annotated[str, Meta(description="Where its API begins, such as https://api.openai.com/v1.")]
    models: Annotated[
        tuple[ModelName, ...],
        Meta(min_length=1, description="Models that may be paid, the preferred first."),
    ]
    kind: Annotated[
        str, Meta(description="The API it speaks: openai (and every compatible one), anthropic, or gemini.")
    ] = "openai"
    api: Annotated[
        Literal["chat", "responses"],
        Meta(description="Of kind openai: chat completions, or the Responses API, the only one to some models."),
    ] = "chat"
    api_version: Annotated[
        Annotated[
            str,
            Meta(
                pattern=r"^[A-Za-z0-9._-]{1,64}$(?!\n)",
                extra={"words": "up to 64 letters, digits, dots, - and _, in quotes"},
            ),
        ]
        | None,
        Meta(
            description="Of kind openai: the api-version that Azure's older URLs demand; tells Azure behind any host."
        ),
    ] = None
    reasoning: Annotated[
        Literal["effort", "budget"] | None,
        Meta(description="Of kinds anthropic and gemini: reasoning_effort is sent as such, or as a number of tokens."),
    ] = None
    structured: Annotated[
        Literal["format", "tool"],
        Meta(description="Of kind anthropic: a schema is sent as output format, or as a tool for older models."),
    ] = "format"
    sampling: Annotated[
        bool, Meta(description="Of kinds anthropic and gemini: false for models that refuse temperature, top_p, top_k.")
    ] = True
    cache_prompts: Annotated[
        bool, Meta(description="Of kind anthropic: keep prompts for later calls; writing costs more, reading less.")
    ] = False
    api_key_env: Annotated[
        Variable | None,
        Meta(description="Environment variable that holds the API key."),
    ] = None
    api_keys_env: Annotated[
        tuple[Variable, ...],
        Meta(max_length=64, description="Variables with more keys: each takes over where those before are not taken."),
    ] = ()
    api_key_file: Annotated[
        Annotated[str, Meta(min_length=1)] | None,
        Meta(description="File that holds the API key, mode 0600; relative to this file. api_key_env goes first."),
    ] = None
    key_rest_s: Annotated[
        Seconds | None,
        Meta(
            description="How long a key that was refused (401, 402, 403) is not used; unset: until the next start, and "
            "after a 401 for an hour."
        ),
    ] = None
    context_tokens: Annotated[
        Annotated[int, Meta(ge=1, le=1_000_000_000)] | None,
        Meta(description="Context of its models; unset: the provider judges."),
    ] = None
    quality: Annotated[
        Mapping[ModelName, Annotated[float, Meta(ge=0, le=1)]],
        Meta(description="Share of answers that are right, by model, as you measured it: for x-hybrid-min-quality."),
    ] = field(default_factory=dict)
    max_output_tokens: Annotated[
        int,
        Meta(ge=1, le=16_777_216, description="Bound sent where a client gives none, so that the spend has a bound."),
    ] = 4096
    max_tokens_field: Annotated[
        Literal["max_completion_tokens", "max_tokens"],
        Meta(description="What its API calls that bound; servers that know only the old name want max_tokens."),
    ] = "max_completion_tokens"
    tokenizer: Annotated[
        Annotated[str, Meta(min_length=1)] | None,
        Meta(description="What counts its prompts: an encoding of tiktoken, or bytes; unset: its own, if published."),
    ] = None
    capabilities: Annotated[
        tuple[Capability, ...] | None,
        Meta(description="What its models can do; unset: all its kind can."),
    ] = None
    connect_timeout_s: Annotated[Seconds, Meta(description="Longest wait for a connection.")] = 5.0
    first_token_timeout_s: Annotated[Seconds, Meta(description="Longest wait for the first byte of an answer.")] = 60.0
    between_tokens_timeout_s: Annotated[Seconds, Meta(description="Longest silence inside a stream.")] = 30.0
    total_timeout_s: Annotated[Seconds, Meta(description="Longest whole answer.")] = 600.0
    max_wait_s: Annotated[
        float,
        Meta(ge=0, le=3600, description="Longest wait a rate limit may ask for where no other cloud could answer."),
    ] = 10.0


class LoraConfig(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """[[lora]]: an adapter of local.model, loaded with it and chosen by the model name local/NAME+ADAPTER."""

    name: Annotated[Name, Meta(description="Its name after the + in model names.")]
    path: Annotated[str, Meta(min_length=1, description="Its GGUF file; relative to this file.")]
    scale: Annotated[float, Meta(ge=-100, le=100, description="How strongly it is applied; 1 as it was trained.")] = 1.0


class PolicyConfig(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """[policy]: when a local answer is good enough."""

    max_regret: Annotated[
        Share, Meta(description="Share of requests answered locally where local is wrong and the cloud right.")
    ] = 0.05
    delta: Annotated[
        Annotated[float, Meta(gt=0, lt=1)], Meta(description="Chance that the promise of max_regret fails.")
    ] = 0.10
    ttft_ms: Annotated[
        Milliseconds | None,
        Meta(description="The first token is wanted by then: where local is likely late, the cloud is asked."),
    ] = None
    total_ms: Annotated[
        Milliseconds | None,
        Meta(description="The whole answer is wanted by then; unset, as ttft_ms: no such rule."),
    ] = None
    hold_tokens: Annotated[
        int, Meta(ge=0, le=100_000, description="Tokens of a stream held back for review before the first is released.")
    ] = 16
    late_chance: Annotated[
        Share,
        Meta(description="The cloud is asked instead where that lowers the chance to be late by at least this much."),
    ] = 0.5
    hedge: Annotated[
        bool,
        Meta(description="Ask the cloud as well where local has become likely to be late; the first answer wins."),
    ] = False
    hedge_chance: Annotated[
        Share, Meta(description="By how much a second call must lower the chance to be late, to be worth its price.")
    ] = 0.1
    min_confidence: Annotated[
        Share,
        Meta(description="Of what was not calibrated, a local draft that scores lower is escalated."),
    ] = 0.35
    value_usd: Annotated[
        Decimal | None,
        Meta(
            description="What a right answer instead of a wrong one is worth; a cloud that costs more is not paid, "
            "unless a promise asks for it."
        ),
    ] = None
    p_cloud: Annotated[
        Share, Meta(description="Chance that a cloud's answer is right, for that rule, until a calibration says.")
    ] = 0.9
    cloud_order: Annotated[
        Literal["price", "listed"],
        Meta(
            description="Of the clouds that can answer, the cheapest for the request goes first, or the first listed."
        ),
    ] = "price"
    audit_share: Annotated[
        Share,
        Meta(description="Share of accepted local answers that the cloud is asked about afterwards."),
    ] = 0.0
    private_tags: Annotated[
        tuple[Annotated[str, Meta(min_length=1)], ...],
        Meta(description="Values of x-hybrid-tag whose requests never leave this machine."),
    ] = ()


class TagConfig(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """[tags."NAME"]: how much requests with that x-hybrid-tag may cost together, within [budget]."""

    usd_per_day: Annotated[Decimal | None, Meta(description="Most that is spent a day, in USD; unset: no cap.")] = None
    usd_per_month: Annotated[
        Decimal | None, Meta(description="Most that is spent a calendar month, in USD; unset: no cap.")
    ] = None
    usd_per_window: Annotated[
        Decimal | None, Meta(description="Most that is spent in any window_hours, in USD; unset: no cap.")
    ] = None
    window_hours: Annotated[
        float, Meta(gt=0, le=8784, description="Hours of the rolling window that usd_per_window counts.")
    ] = 24.0

    @property
    def caps_usd(self) -> tuple[Decimal, ...]:
        """The caps that are set."""
        return tuple(cap for cap in (self.usd_per_day, self.usd_per_month, self.usd_per_window) if cap is not None)

    def __str__(self) -> str:
        """The caps that are set, for people: `$5 a day, $2 in 5 hours`."""
        spans = ("a day", "a month", f"in {self.window_hours:g} hours")
        caps_usd = (self.usd_per_day, self.usd_per_month, self.usd_per_window)
        return ", ".join(f"${cap} {span}" for cap, span in zip(caps_usd, spans, strict=True) if cap is not None)


class BudgetConfig(TagConfig, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """[budget]: how much may be paid by everybody together. Without any cap here no cloud is ever called."""

    pace: Annotated[
        Literal["even", "off"],
        Meta(description="even: as money goes faster than it can last, only what is worth more is escalated."),
    ] = "even"
    power_cut: Annotated[
        Literal["escrow", "each_call"],
        Meta(description="How spend outlives a power cut: escrow: a small block is charged; each_call waits for disk."),
    ] = "escrow"
    timezone: Annotated[
        str, Meta(min_length=1, description='Where days and months begin: "local" or an IANA name: Europe/Berlin.')
    ] = "local"


class PriceConfig(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """[prices."provider/model"]: overrides or fills the price table; a model without a price is not called.

    With [[prices."provider/model"]] there may be several, of which the one that began last holds.
    """

    input_usd_per_mtok: Annotated[Decimal, Meta(description="USD for a million prompt tokens.")]
    output_usd_per_mtok: Annotated[Decimal, Meta(description="USD for a million answer tokens.")]
    cached_input_usd_per_mtok: Annotated[
        Decimal | None, Meta(description="USD for a million cached prompt tokens; unset: as input.")
    ] = None
    cache_write_usd_per_mtok: Annotated[
        Decimal | None, Meta(description="USD for a million prompt tokens written to a cache; unset: as input.")
    ] = None
    since: Annotated[dt.date | None, Meta(description="First day the price holds; unset: it always held.")] = None


Prices: TypeAlias = Mapping[str, PriceConfig | tuple[PriceConfig, ...]]
"""By "provider/model": one price, or several with the days from which they hold."""


class Config(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """hybrid.toml: one table a concern. Every key is optional; an unknown key is an error."""

    server: ServerConfig = field(default_factory=ServerConfig)
    local: LocalConfig = field(default_factory=LocalConfig)
    cloud: tuple[CloudConfig, ...] = ()
    lora: tuple[LoraConfig, ...] = ()
    policy: PolicyConfig = field(default_factory=PolicyConfig)
    budget: BudgetConfig = field(default_factory=BudgetConfig)
    tags: Mapping[str, TagConfig] = field(default_factory=dict)
    prices: Prices = field(default_factory=dict)
    aliases: Annotated[
        Mapping[str, str],
        Meta(description="Model names of existing apps: hybrid, local, local/NAME, cloud or cloud/NAME."),
    ] = field(default_factory=dict)


def own_prices(config: Config, name: str) -> tuple[PriceConfig, ...]:
    """The prices that are configured for a "provider/model"."""
    own = config.prices.get(name, ())
    return own if isinstance(own, tuple) else (own,)
