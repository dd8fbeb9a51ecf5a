"""How is a request read so that a refused one is in the ledger as well?"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TypeVar

from starlette.types import Receive, Scope

from hybrid.errors import HybridError
from hybrid.server.errors import internal_error
from hybrid.server.exchange import ClientGone, Exchange, read_json_body
from hybrid.server.gateway import Gateway, ServerOptions
from hybrid.server.openai_chat import peek_model

_LOG = logging.getLogger(__name__)
T = TypeVar("T")


async def read_recorded(
    gateway: Gateway,
    options: ServerOptions,
    scope: Scope,
    receive: Receive,
    parse: Callable[[bytes], T],
    *,
    dialect: str,
) -> T:
    """Read and parse a request; one that cannot be is recorded before it is refused."""
    arrived_s, body = Exchange.of(scope).arrived_s, b""

    def record(error: HybridError) -> None:
        try:
            error.request_id = gateway.refuse(error, dialect=dialect, model=peek_model(body), arrived_s=arrived_s)
        except HybridError:
            # The client still gets the error it caused; that the ledger failed is ours to read about.
            _LOG.exception("a refused request could not be recorded")

    try:
        body = await read_json_body(scope, receive, options)
        return parse(body)
    except HybridError as error:
        record(error)
        raise
    except ClientGone:
        raise
    except Exception as exc:
        _LOG.exception("unexpected error in reading a request")
        told = internal_error(None)
        record(told)
        raise told from exc
