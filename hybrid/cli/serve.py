"""How does `hybrid serve` start? Check, bind, load the model while the rest is imported, serve, clean up."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import sys
import time
from pathlib import Path
from typing import Annotated

import typer

from hybrid import __version__
from hybrid.cli.local_model import check_embedding_model, local_model_file
from hybrid.cli.printable import without_controls
from hybrid.config import Config, Loaded, load
from hybrid.engine.supervisor import Supervisor, WorkerState
from hybrid.errors import ConfigError, HybridError, ModelFileError
from hybrid.runtime import Runtime
from hybrid.wiring import embedder_name, running, spawn_local

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


class LogLines(logging.Formatter):
    """Writes control codes out: a message may quote a model's file, a tuning's record or a cloud's answer."""

    def format(self, record: logging.LogRecord) -> str:
        """Give the line as a terminal may get it."""
        return without_controls(super().format(record))


@app.command()
def serve(
    config: Annotated[Path | None, typer.Option(metavar="FILE", help="Configuration file (hybrid.toml).")] = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on [default: 127.0.0.1].")] = None,
    port: Annotated[int | None, typer.Option(help="TCP port, 0 for a free one [default: 8484].")] = None,
    model: Annotated[
        str | None, typer.Option(metavar="NAME|PATH", help="Local model: a catalog name or a .gguf file.")
    ] = None,
    offline: Annotated[bool, typer.Option("--offline", help="Make no outbound connection at all.")] = False,  # noqa: FBT002
    verbose: Annotated[bool, typer.Option("--verbose", help="Log what happens, to stderr.")] = False,  # noqa: FBT002
) -> None:
    """Answer OpenAI-style requests here, and pay a cloud for the hard ones."""
    started_s = time.monotonic()
    lines = logging.StreamHandler(sys.stderr)
    lines.setFormatter(LogLines("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(level=logging.INFO if verbose else logging.WARNING, handlers=[lines])
    loaded = load(config, os.environ, {"server.host": host, "server.port": port, "local.model": model})
    for warning in loaded.warnings:
        _say(f"warning: {warning}")
    # Bound before the model loads: a port in use is told at once, and costs nothing.
    from hybrid.server.run import bind, run_loop

    sockets = bind(loaded.config.server.host, loaded.config.server.port)
    try:
        local = _load_local(loaded, is_offline=offline)
        run_loop(_serve(loaded, local, sockets, is_offline=offline, started_s=started_s))
    finally:
        for bound in sockets:
            bound.close()


def _load_local(loaded: Loaded, *, is_offline: bool) -> Supervisor | None:
    """Start the worker. A model that cannot be used ends the command, unless a cloud can answer in its place."""
    check_embedding_model(loaded.config, is_offline=is_offline)
    try:
        return spawn_local(loaded.config, local_model_file(loaded.config, is_offline=is_offline), os.environ)
    except ConfigError:
        raise
    except HybridError as unusable:
        if is_offline or not loaded.config.cloud or not loaded.config.budget.caps_usd:
            raise
        _say(f"warning: no local model: {unusable}")
        return None


async def _serve(
    loaded: Loaded,
    local: Supervisor | None,
    sockets: list[socket.socket],
    *,
    is_offline: bool,
    started_s: float,
) -> None:
    from hybrid.server.app import make_app
    from hybrid.server.gateway import ServerOptions
    from hybrid.server.run import serve as serve_app

    server = loaded.config.server
    options = ServerOptions(
        bound_host=server.host, allowed_hosts=server.allowed_hosts, max_body_bytes=server.max_body_bytes
    )
    async with running(loaded.config, os.environ, local=local, is_offline=is_offline) as runtime:
        # Served from the first moment on: /healthz and a cloud need not wait for the model, and requests for it do.
        bound: asyncio.Future[str] = asyncio.get_running_loop().create_future()

        def on_ready(host: str, port: int) -> None:
            shown = f"[{host}]" if ":" in host else host
            bound.set_result(f"http://{shown}:{port}/v1")

        serving = asyncio.ensure_future(
            serve_app(
                make_app(runtime, options), host=server.host, port=server.port, on_ready=on_ready, sockets=sockets
            )
        )
        try:
            ready = _announce(loaded, local, runtime, bound, is_offline=is_offline, started_s=started_s)
            announcing = asyncio.ensure_future(ready)
            await asyncio.wait((announcing, serving), return_when=asyncio.FIRST_COMPLETED)
            if announcing.done():
                announcing.result()
            await asyncio.shield(serving)
        finally:
            announcing.cancel()
            serving.cancel()
            await asyncio.gather(announcing, serving, return_exceptions=True)


async def _announce(
    loaded: Loaded,
    local: Supervisor | None,
    runtime: Runtime,
    bound: asyncio.Future[str],
    *,
    is_offline: bool,
    started_s: float,
) -> None:
    """Say what was found and where we listen, once the local model is there."""
    from hybrid.server.run import settle_collector, share_interpreter

    url = await bound
    await _settled(local, has_cloud=runtime.has_cloud)
    for line in _banner(loaded, local, is_offline=is_offline):
        _say(line)
    settle_collector()
    share_interpreter()
    _say(f"ready in {time.monotonic() - started_s:.1f} s: {url}  (Ctrl-C stops)")


async def _settled(local: Supervisor | None, *, has_cloud: bool) -> None:
    """Wait for the local model. Raises: ModelFileError if it cannot be loaded and nobody else could answer."""
    if local is None or await local.wait_settled() is WorkerState.READY:
        return
    if not has_cloud:
        raise ModelFileError(f"the local model cannot be loaded: {local.problem}")
    _say(f"warning: the local model cannot be loaded: {local.problem}")


def _banner(loaded: Loaded, local: Supervisor | None, *, is_offline: bool) -> list[str]:
    config = loaded.config
    lines = [f"hybrid {__version__}" + (f", configured by {loaded.path}" if loaded.path else ", default configuration")]
    facts = local.facts if local is not None else None
    if facts is not None:
        lines.append(
            f"  local   {config.local.model or facts.name}: {facts.architecture}, {facts.file_bytes / 1e6:.0f} MB, "
            f"{facts.slots} slots, context {facts.context_tokens}, {facts.device} with {facts.threads} threads"
            + (", our own matrix multiplication" if facts.multiplier == "hybrid" else "")
            + (f", tuned: {local.options.tuned}" if local is not None and local.options.tuned else "")
        )
        if local is not None and local.options.untuned:
            lines.append(f"          untuned: {local.options.untuned}")
    else:
        lines.append("  local   none")
    if facts is not None and config.lora:
        lines.append("  lora    " + ", ".join(f"{adapter.name} (scale {adapter.scale:g})" for adapter in config.lora))
    if (embedder := embedder_name(config)) is not None:
        lines.append(f"  embed   {embedder}: loaded when asked for")
    clouds = ", ".join(f"{cloud.name} ({', '.join(cloud.models)})" for cloud in config.cloud)
    if is_offline or not clouds:
        lines.append("  cloud   none" + (" (offline)" if is_offline else ""))
    elif not config.budget.caps_usd:
        lines.append(f"  cloud   {clouds}: never called, because [budget] has no cap, such as usd_per_day")
    else:
        lines.append(f"  cloud   {clouds}; at most {config.budget}")
        lines.append(
            f"  policy  what was calibrated keeps regret <= {config.policy.max_regret:g}, at any price within the cap; "
            f"of all else, drafts scoring under {config.policy.min_confidence:g} are escalated{_thinned(config)} and "
            "nothing is promised"
        )
    return lines


def _thinned(config: Config) -> str:
    """What keeps doubted drafts here though the cap has room: a price, which a promise goes before."""
    if config.policy.value_usd is not None:
        return f" where that is worth its price (value_usd {config.policy.value_usd})"
    return " while the money lasts evenly" if config.budget.pace == "even" else ""


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
