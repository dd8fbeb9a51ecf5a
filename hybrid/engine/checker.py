"""Who asks whether a grammar can be followed and a text keeps to it? The gateway, of a process it may lose."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import sys
from collections import OrderedDict
from collections.abc import Mapping

import msgspec

from hybrid.engine.frames import LENGTH, Check, Checked, Grammar
from hybrid.errors import InvalidRequest, LocalFailure

log = logging.getLogger(__name__)

MAX_GRAMMAR_BYTES = 256 << 10
MAX_REMEMBERED = 256
"""Grammars whose verdict is kept, so that a client that always sends the same one is not held up."""
ANSWER_LIMIT_S = 20.0
"""The process bounds its own computing; this bounds the waiting for it on a machine that is busy with other things."""

_decoder = msgspec.msgpack.Decoder(Checked)
_encoder = msgspec.msgpack.Encoder()


class Checker:
    """Speaks to one check process, which is started at the first question and again whenever it was lost."""

    def __init__(self, environment: Mapping[str, str] | None = None) -> None:
        self._environment = None if environment is None else dict(environment)
        self._process: asyncio.subprocess.Process | None = None
        self._turn = asyncio.Lock()
        self._verdicts: OrderedDict[bytes, str | None] = OrderedDict()

    async def check(self, grammar: Grammar, *, param: str | None = None) -> None:
        """See that a grammar can be followed, before it is given to a worker.

        Raises: InvalidRequest, naming `param`, if it is malformed, contradicts itself, uses what is not supported, or
            is too large or too costly to compile. LocalFailure if it could not be found out.
        """
        size = len(grammar.source)
        if size > MAX_GRAMMAR_BYTES:
            raise InvalidRequest(
                f"the {grammar.kind} has {size} characters; at most {MAX_GRAMMAR_BYTES} are taken", param=param
            )
        name = hashlib.sha256(f"{grammar.kind}\0{grammar.source}".encode("utf-8", "surrogatepass")).digest()
        if name not in self._verdicts:
            too_much = f"the {grammar.kind} takes too long or too much memory to compile; make it smaller or simpler"
            self._verdicts[name] = await self._ask(Check(grammar), else_fault=too_much)
            while len(self._verdicts) > MAX_REMEMBERED:
                self._verdicts.popitem(last=False)
        self._verdicts.move_to_end(name)
        fault = self._verdicts[name]
        if fault is not None:
            raise InvalidRequest(fault, param=param)

    async def fault_of(self, text: str, grammar: Grammar) -> str | None:
        """Say what is wrong with a finished answer, None if it keeps to its grammar.

        Raises: LocalFailure if it could not be found out.
        """
        return await self._ask(
            Check(grammar, text), else_fault="it takes too long to see whether it keeps to its grammar"
        )

    async def aclose(self) -> None:
        """End the process."""
        process, self._process = self._process, None
        if process is not None:
            _kill(process)
            await process.wait()

    async def _ask(self, question: Check, *, else_fault: str) -> str | None:
        async with self._turn:
            try:
                async with asyncio.timeout(ANSWER_LIMIT_S):
                    process = await self._running()
                    answer = await _exchange(process, _encoder.encode(question))
            except TimeoutError as late:
                await self.aclose()
                raise LocalFailure("the machine is too busy to check the answer's format in time") from late
            except BaseException:
                # Half an exchange is left in the pipe, whose answer must not be taken for the next one's.
                await self.aclose()
                raise
            if answer is not None:
                return answer.fault
            return await self._ended(process, question.grammar, else_fault)

    async def _ended(self, process: asyncio.subprocess.Process, grammar: Grammar, fault: str) -> str:
        """Tell a process that its limits ended from one that failed."""
        self._process = None
        code = await process.wait()
        if code >= 0:
            raise LocalFailure(f"the process that checks formats ended with status {code}")
        log.warning("a check was over its limits: %s of %d characters", grammar.kind, len(grammar.source))
        return fault

    async def _running(self) -> asyncio.subprocess.Process:
        if self._process is None or self._process.returncode is not None:
            try:
                self._process = await asyncio.create_subprocess_exec(
                    sys.executable,
                    *("-m", "hybrid.engine.check_process"),
                    stdin=asyncio.subprocess.PIPE,
                    stdout=asyncio.subprocess.PIPE,
                    env=self._environment,
                )
            except OSError as failed:
                raise LocalFailure(f"the process that checks formats could not be started: {failed}") from failed
        return self._process


async def _exchange(process: asyncio.subprocess.Process, question: bytes) -> Checked | None:
    """Ask; None if the process ended over it."""
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        process.stdin.write(LENGTH.pack(len(question)) + question)
        await process.stdin.drain()
        header = await process.stdout.readexactly(LENGTH.size)
        return _decoder.decode(await process.stdout.readexactly(LENGTH.unpack(header)[0]))
    except (asyncio.IncompleteReadError, ConnectionError):
        return None


def _kill(process: asyncio.subprocess.Process) -> None:
    try:
        process.kill()
    except ProcessLookupError:
        log.debug("the check process had ended already")
