"""How does one talk to hybrid in a terminal? The runtime in this process, streamed, with what each answer cost."""

from __future__ import annotations

import asyncio
import contextlib
import io
import logging
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Annotated

import typer

from hybrid.cli.local_model import local_model_file
from hybrid.cli.printable import without_controls
from hybrid.config import load
from hybrid.engine.supervisor import WorkerState
from hybrid.errors import HybridError, ModelFileError
from hybrid.runtime import Runtime
from hybrid.types import ChatRequest, Finished, FinishReason, Head, Message, Tail, TextDelta, TextPart
from hybrid.wiring import running, spawn_local

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)

HELP = "/reset forgets the conversation, /model NAME changes who is asked, /help this, /quit or Ctrl-D leaves"
DIM, PLAIN = "\x1b[2m", "\x1b[0m"


@app.command()
def chat(
    model: Annotated[str, typer.Argument(help="hybrid, local, cloud, cloud/NAME, or a local model.")] = "hybrid",
    config: Annotated[Path | None, typer.Option(metavar="FILE", help="Configuration file (hybrid.toml).")] = None,
    offline: Annotated[bool, typer.Option("--offline", help="Make no outbound connection at all.")] = False,  # noqa: FBT002
) -> None:
    """Talk in the terminal; shows route, confidence and cost of each answer.

    Reads one message a line; piped input is answered line by line.
    """
    logging.basicConfig(level=logging.ERROR, stream=sys.stderr)
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="replace")  # a byte that is no UTF-8 is a character we cannot send
    loaded, asked = load(config, os.environ), model
    if model.partition("/")[0] not in ("hybrid", "local", "cloud") and model not in loaded.config.aliases:
        loaded, asked = load(config, os.environ, {"local.model": model}), "hybrid"
    local = spawn_local(loaded.config, local_model_file(loaded.config, is_offline=offline), os.environ)

    async def talk() -> None:
        # Ended from outside, what was reserved is settled all the same.
        task = asyncio.current_task()
        assert task is not None
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
        async with running(loaded.config, os.environ, local=local, is_offline=offline) as runtime:
            if local is not None and await local.wait_settled() is not WorkerState.READY and not runtime.has_cloud:
                raise ModelFileError(f"the local model cannot be loaded: {local.problem}")
            await Conversation(runtime, asked).run()

    with contextlib.suppress(asyncio.CancelledError):
        asyncio.run(talk())


class Conversation:
    """What was said so far, and the loop that goes on with it."""

    def __init__(self, runtime: Runtime, model: str) -> None:
        self._runtime = runtime
        self._model = model
        self._messages: list[Message] = []
        self._is_terminal = sys.stdin.isatty() and sys.stdout.isatty()

    async def run(self) -> None:
        """Read lines until the end of input; a failed answer is told and the conversation goes on."""
        if self._is_terminal:
            print(f"{DIM}{HELP}{PLAIN}", file=sys.stderr)
        while (line := await self._line()) is not None:
            text = line.strip()
            if text in ("/quit", "/exit"):
                return
            if text.startswith("/"):
                self._command(text)
            elif text:
                await self._turn(text)

    async def _line(self) -> str | None:
        """Read a line; None at the end of input and at Ctrl-C.

        `input` cannot be interrupted from the event loop, so a thread that may be left behind waits for it.
        """
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[str | None] = loop.create_future()

        def tell(line: str | None) -> None:
            if not answer.done():
                answer.set_result(line)

        def read() -> None:
            try:
                line: str | None = input("> " if self._is_terminal else "")
            except (EOFError, ValueError):
                line = None
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
                loop.call_soon_threadsafe(tell, line)

        threading.Thread(target=read, name="prompt", daemon=True).start()
        loop.add_signal_handler(signal.SIGINT, tell, None)
        try:
            return await answer
        finally:
            loop.remove_signal_handler(signal.SIGINT)

    def _command(self, text: str) -> None:
        name, _, rest = text.partition(" ")
        if name == "/reset":
            self._messages.clear()
        elif name == "/model" and rest.strip():
            self._model = rest.strip()
        else:
            print(HELP, file=sys.stderr)

    async def _turn(self, text: str) -> None:
        """Ask once. Ctrl-C stops this answer and keeps the conversation; the question is forgotten if it failed."""
        question = Message("user", (TextPart(text),))
        answer = asyncio.ensure_future(self._answer(question))
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGINT, answer.cancel)
        try:
            said = await answer
            self._messages += [question, Message("assistant", (TextPart(said),))]
        except HybridError as failed:
            print(f"\n{failed}", file=sys.stderr)
        except asyncio.CancelledError:
            print(f"\n{DIM}stopped{PLAIN}" if self._is_terminal else "", file=sys.stderr)
        finally:
            loop.remove_signal_handler(signal.SIGINT)

    async def _answer(self, question: Message) -> str:
        request = ChatRequest(model=self._model, messages=(*self._messages, question), is_stream=True)
        said, tail, finish = "", None, None
        async with contextlib.aclosing(
            self._runtime.stream(request, dialect="terminal", arrived_s=time.monotonic())
        ) as items:
            async for item in items:
                if isinstance(item, TextDelta):
                    said += item.text
                    # A pipe or file gets the answer as it is.
                    text = without_controls(item.text) if sys.stdout.isatty() else item.text
                    print(text, end="", flush=True)
                elif isinstance(item, Finished):
                    finish = item.reason
                elif isinstance(item, Tail):
                    tail = item
        print(flush=True)
        if tail is not None:
            self._tell(tail.head, tail, finish)
        return said

    def _tell(self, head: Head, tail: Tail, finish: FinishReason | None) -> None:
        """Print the line under an answer: who gave it, how sure it was, what it cost."""
        parts = [f"{head.route.value}: {head.model}", head.reason]
        if head.confidence is not None:
            parts.append(f"score {head.confidence:.2f}" + ("" if head.is_calibrated else " (uncalibrated)"))
        if tail.usage is not None:
            parts.append(f"{tail.usage.prompt_tokens} + {tail.usage.completion_tokens} tokens")
        if head.cost_usd is not None:
            parts.append(f"${head.cost_usd:f}")
        if head.degraded is not None:
            parts.append(f"degraded: {head.degraded}")
        if finish is FinishReason.LENGTH:
            parts.append("cut off at its token limit")
        line = "  ".join(parts)
        print(f"{DIM}{line}{PLAIN}" if self._is_terminal else line, file=sys.stderr)
