"""What can go wrong, sorted by whose fault it is?

HybridError
+-- CallerError 4xx            the request or command was wrong; sending it again changes nothing
|   +-- InvalidRequest 400     +-- ContextLengthExceeded 400   +-- UnsupportedCapability 400
|   +-- Unauthorized 401       +-- BudgetExhausted 402         +-- Forbidden 403
|   +-- ModelNotFound 404      +-- RequestTooLarge 413         +-- QueueFull 429
|   +-- ModelNotAllowed 403    +-- RateLimited 429
+-- LocalError 5xx             our own engine or machine failed; another route may answer
|   +-- LocalFailure 500       +-- WorkerDied 503              +-- ModelNotReady 503
|   +-- ModelFileError 500     (a GGUF that is truncated, hostile or not one)
+-- ProviderError 502/503      a cloud failed
|   +-- ProviderUnavailable 502  +-- ProviderThrottled 503   +-- ProviderRejected 502
|   |   +-- CloudResting 503     +-- ProviderProtocolError 502
|   +-- ProviderTimeout 504
+-- DeadlineExceeded 504       the request's own time ran out
+-- StoreError 500             the ledger could not be written or read
+-- CommandError               a command line, config or file the user must change (exit 2 or 1)
    +-- ConfigError  +-- CatalogError  +-- DatasetError

Each carries what a renderer needs (`status`, `code`, `type`, `param`, `src`) and nothing of any dialect.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from decimal import Decimal
from typing import ClassVar, Literal, TypeAlias

from hybrid.types import RateLimit

Source: TypeAlias = Literal["hybrid", "local", "cloud"]


class HybridError(Exception):
    """Base of everything we raise on purpose."""

    status: int = 500
    code: str = "internal_error"
    type: ClassVar[str] = "server_error"
    is_retryable: bool = False
    src: Source = "hybrid"
    param: str | None = None
    retry_after_s: float | None = None
    request_id: str | None = None
    """The request's ledger row, set by whoever wrote it, so that the response can name it."""
    rate_limits: tuple[RateLimit, ...] = ()
    """How the request's client key stands against its limits, set likewise."""


class CallerError(HybridError):
    """The caller must change something."""

    status, code, type = 400, "invalid_request", "invalid_request_error"


class InvalidRequest(CallerError):
    """A body, header or parameter is malformed or out of range; `param` names it."""

    def __init__(self, message: str, *, param: str | None = None, code: str = "invalid_request") -> None:
        super().__init__(message)
        self.param, self.code = param, code


class ContextLengthExceeded(CallerError):
    """The prompt and the wanted answer do not fit; nothing was truncated."""

    code, param = "context_length_exceeded", "messages"

    def __init__(self, prompt_tokens: int, context_tokens: int, max_output_tokens: int | None = None) -> None:
        wanted = "" if max_output_tokens is None else f" and {max_output_tokens} tokens were asked for the answer"
        super().__init__(
            f"the prompt has {prompt_tokens} tokens{wanted}; the context holds {context_tokens}. "
            "Shorten the messages, lower max_tokens, raise local.context_tokens or add a cloud with a longer context"
        )
        self.prompt_tokens, self.context_tokens = prompt_tokens, context_tokens


class UnsupportedCapability(CallerError):
    """Nobody who may answer can do what the request needs; dropping it silently would be a lie."""

    code = "unsupported_capability"

    def __init__(self, missing: Iterable[str], *, where: str) -> None:
        names = ", ".join(sorted(missing))
        super().__init__(f"{where} cannot do: {names}. Remove it from the request or configure a cloud that can")
        self.param = names


class Unauthorized(CallerError):
    """No client key, or one that is unknown or revoked."""

    status, code, type = 401, "invalid_api_key", "authentication_error"


class Forbidden(CallerError):
    """The request came for a host or path this server does not answer."""

    status, code = 403, "forbidden"


class ModelNotAllowed(CallerError):
    """The client key may not use this model; the message names those it may. Status and code are OpenAI's for it."""

    status, code = 403, "model_not_found"

    def __init__(self, key: str, model: str, allowed: Iterable[str]) -> None:
        super().__init__(f"the key {key!r} may not use the model {model!r}; it may use: {', '.join(allowed)}")


class RateLimited(CallerError):
    """The client key is over one of its limits; later the same request may be taken."""

    status, code, type, is_retryable = 429, "rate_limit_exceeded", "rate_limit_error", True

    def __init__(self, key: str, limit: str, allowed: int, retry_after_s: float) -> None:
        what = f"{allowed} requests at once" if limit == "concurrency" else f"{allowed} {limit} a minute"
        super().__init__(f"the key {key!r} is over its limit of {what}; retry in {math.ceil(retry_after_s)} s")
        self.retry_after_s = retry_after_s


class BudgetExhausted(CallerError):
    """A cloud answer was required and the money for it is not there."""

    status, code, type = 402, "budget_exhausted", "insufficient_quota"

    def __init__(self, message: str, *, needed_usd: Decimal | None = None, left_usd: Decimal | None = None) -> None:
        super().__init__(message)
        self.needed_usd, self.left_usd = needed_usd, left_usd


class ModelNotFound(CallerError):
    """The client named a model we do not serve; the message lists those we do."""

    status, code, param = 404, "model_not_found", "model"

    def __init__(self, model: str, valid: Iterable[str]) -> None:
        super().__init__(f"no model {model!r}; this server answers to: {', '.join(valid)}")


class RequestTooLarge(CallerError):
    """The body is larger than the server reads."""

    status, code = 413, "request_too_large"


class QueueFull(CallerError):
    """The local queue is at its bound; later the same request may be taken."""

    status, code, type, is_retryable = 429, "queue_full", "rate_limit_error", True

    def __init__(self, waiting: int, retry_after_s: float) -> None:
        super().__init__(f"{waiting} requests are waiting already; retry in {retry_after_s:.0f} s")
        self.retry_after_s = retry_after_s


class LocalError(HybridError):
    """Our own engine failed; another route may answer the same request."""

    src: Source = "local"
    code, is_retryable = "local_failure", True


class LocalFailure(LocalError):
    """The engine reported a failure for this request."""


class WorkerDied(LocalError):
    """The worker process ended while it held the request."""

    status, code = 503, "worker_died"


class ModelNotReady(LocalError):
    """The local model is loading, restarting or failed to load; the message says which."""

    status, code = 503, "model_not_ready"


class ModelFileError(LocalError):
    """A model file is missing, truncated, hostile or not a GGUF."""

    code, is_retryable = "model_file_error", False


class ProviderError(HybridError):
    """A cloud failed. `provider` is its configured name.

    may_have_billed: False only where the call certainly cost nothing: it never left, or was refused outright.
    """

    may_have_billed: bool = True

    status, code, type, is_retryable = 502, "provider_error", "upstream_error", True
    src: Source = "cloud"

    def __init__(self, provider: str, message: str) -> None:
        super().__init__(f"{provider}: {message}")
        self.provider = provider


class ProviderUnavailable(ProviderError):
    """It could not be reached, broke off, or answered 5xx."""

    code = "provider_unavailable"


class CloudResting(ProviderUnavailable):
    """It failed lately and is not called for a while; `retry_after_s` says when it, or the first of several, may be."""

    status, code = 503, "cloud_resting"
    may_have_billed = False

    def __init__(self, provider: str, message: str, retry_after_s: float | None) -> None:
        when = "" if retry_after_s is None else f"; it may be tried in {max(retry_after_s, 1.0):.0f} s"
        super().__init__(provider, message + when)
        self.retry_after_s = retry_after_s


class ProviderThrottled(ProviderError):
    """It sheds load; later, or another provider, may accept the same request."""

    status, code = 503, "provider_throttled"
    may_have_billed = False

    def __init__(self, provider: str, retry_after_s: float | None) -> None:
        hint = "no hint" if retry_after_s is None else f"retry after {retry_after_s:g} s"
        super().__init__(provider, f"is rate limiting us ({hint})")
        self.retry_after_s = retry_after_s


class ProviderRejected(ProviderError):
    """It refused the request or our credentials; the same request would be refused again.

    is_key_fault: the key is refused, or its account is empty, so that no request with it would be taken.
    """

    code, is_retryable = "provider_rejected", False
    may_have_billed = False

    def __init__(self, provider: str, upstream_status: int, message: str, *, is_key_fault: bool = False) -> None:
        super().__init__(provider, f"refused with HTTP {upstream_status}: {message}")
        self.upstream_status, self.is_key_fault = upstream_status, is_key_fault


class ProviderProtocolError(ProviderError):
    """It answered something its API does not allow: broken JSON, an unterminated stream, half a character."""

    code = "provider_protocol_error"


class ProviderTimeout(ProviderError):
    """It did not connect, start or go on in time; the message says which limit."""

    status, code, type = 504, "provider_timeout", "timeout_error"


class DeadlineExceeded(HybridError):
    """The request's own deadline passed before an answer was there."""

    status, code, type = 504, "deadline_exceeded", "timeout_error"


class StoreError(HybridError):
    """The ledger could not be opened, read or written; the cloud is refused until it can."""

    code = "store_error"


class CommandError(HybridError):
    """A command cannot do what was asked; the message says what to change. `exit_code` is the process's."""

    code = "command_error"
    exit_code: int = 1


class ConfigError(CommandError):
    """The configuration is wrong: the message names the key, where it came from and what is valid."""

    code, exit_code = "config_error", 2


class CatalogError(CommandError):
    """A model could not be found, fetched, verified or removed."""

    code = "catalog_error"


class DatasetError(CommandError):
    """A dataset or a calibration cannot be used as it is."""

    code = "dataset_error"
