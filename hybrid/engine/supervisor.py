"""Who keeps the worker alive, and who speaks for it in the gateway? One supervisor a loaded model."""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from collections.abc import Coroutine, Mapping, Sequence
from enum import StrEnum

import msgspec

from hybrid.engine.frames import (
    LENGTH,
    MAX_FRAME_BYTES,
    Cancel,
    Embedded,
    Frame,
    FromWorker,
    Load,
    LoadFailed,
    Prepared,
    Ready,
    Refused,
    Step,
    Submit,
    from_worker,
    pack,
    prepare_frame,
)
from hybrid.engine.generation import Generation, Item, Started, ended, refusal, text_deltas
from hybrid.engine.process import FallBack, SupervisorOptions, WorkerProcess
from hybrid.engine.restarts import MAX_FAILED_STARTS, STALL_CHECKS, STALL_LIMIT_S, PromptLine, Restarts
from hybrid.engine.service import ServiceTime
from hybrid.engine.vectors import Vectors, collect, embed_frame
from hybrid.errors import HybridError, InvalidRequest, LocalError, ModelNotReady, QueueFull, WorkerDied

log = logging.getLogger(__name__)

NO_LOAD = Load(0, 0, 0, 0, None, None)


class WorkerState(StrEnum):
    """Where the worker is in its life."""

    LOADING = "loading"
    READY = "ready"
    RESTARTING = "restarting"
    FAILED = "failed"
    STOPPED = "stopped"


class Supervisor:
    """Starts, watches and restarts one worker process, and turns its frames into events.

    `spawn` may be called before an event loop runs, so that the model loads while the rest is imported.
    fall_back: gives what is loaded instead, once, where a worker ended before it was ready.
    """

    def __init__(self, options: SupervisorOptions, fall_back: FallBack | None = None) -> None:
        self._options, self._fall_back = options, fall_back
        self._process: WorkerProcess | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._requests: dict[str, asyncio.Queue[Item]] = {}
        self._run_ids: dict[str, str] = {}
        self._run_numbers = itertools.count()
        self._submitted: dict[str, int] = {}  # answers that are still to end, by run
        self._thinking, self._embedding = set[str](), set[str]()
        self._tasks: set[asyncio.Task[None]] = set()
        self._changed = asyncio.Event()
        self.state = WorkerState.LOADING
        self.problem: str | None = None
        self.facts: Ready | None = None
        self.load = NO_LOAD
        self.restarts = 0
        self._service, self._line = ServiceTime(), PromptLine()
        self._heard_s = 0.0

    # ---- life of the process

    def spawn(self) -> None:
        """Start the process and return at once; `start` attaches to it."""
        self._process = WorkerProcess(self._options)

    def start(self) -> None:
        """Watch the worker from the running event loop, spawning it if `spawn` was not called."""
        self._spawn_task(self._watch(), "worker-watch")

    async def wait_settled(self) -> WorkerState:
        """Wait until the worker is ready or has failed for good."""
        while self.state in (WorkerState.LOADING, WorkerState.RESTARTING):
            self._changed.clear()
            await self._changed.wait()
        return self.state

    async def stop(self) -> None:
        """End the worker: close the socket, which it obeys, then kill what does not."""
        self._enter(WorkerState.STOPPED)
        process = self._process
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._hang_up()
        if process is not None:
            process.close()
            await asyncio.to_thread(process.end)
        self._fail_all("the server is stopping")

    @property
    def options(self) -> SupervisorOptions:
        """How its worker is started."""
        return self._options

    @property
    def is_busy(self) -> bool:
        """Whether any request is prepared, queued or running."""
        return bool(self._requests)

    @property
    def pid(self) -> int | None:
        """Process id of the worker, None while there is none."""
        return None if self._process is None else self._process.pid

    # ---- one request

    async def prepare(
        self,
        request_id: str,
        messages: Sequence[Mapping[str, object]],
        *,
        tools: Sequence[Mapping[str, object]] | None = None,
        variables: Mapping[str, bool | str] | None = None,
    ) -> int:
        """Tokenize a conversation in the worker, which keeps the tokens; return how many they are.

        tools, variables: what the chat template renders beside the messages.

        Raises: InvalidRequest if the chat template refuses it, LocalError if the worker cannot.
        """
        frame = prepare_frame(request_id, messages, tools, variables)
        run_id, inbox = self._open(request_id)
        await self._write(msgspec.structs.replace(frame, id=run_id))
        try:
            item = await self._line.wait(inbox)
        except TimeoutError as late:
            self._kill(f"it took no prompt for {self._line.limit_s:g} s")
            raise WorkerDied(f"the local worker took no prompt for {self._line.limit_s:g} s") from late
        if isinstance(item, int):
            return item
        self.release(request_id)
        assert isinstance(item, LocalError | InvalidRequest)
        raise item

    def is_thinking(self, request_id: str) -> bool:
        """Say whether the prompt that was prepared ends inside the model's thinking."""
        return self._run_ids.get(request_id) in self._thinking

    async def submit(self, submit: Submit) -> Generation:
        """Queue a prepared prompt for generation. Use the result as a context manager: leaving it frees the slot.

        Raises: QueueFull at the queue's bound, WorkerDied if the worker that prepared it is gone.
        """
        run_id = self._run_ids.get(submit.id)
        inbox = None if run_id is None else self._requests.get(run_id)
        if run_id is None or inbox is None:
            raise WorkerDied(f"the local worker ended before the request began: {self.problem}")
        try:
            self._check_queue()
            self._submitted[run_id] = submit.choices
            await self._write(msgspec.structs.replace(submit, id=run_id))
        except BaseException:
            self.release(submit.id)
            raise
        return Generation(submit.id, inbox, self)

    async def embed(self, request_id: str, inputs: Sequence[str | Sequence[int]]) -> Vectors:
        """Turn inputs into vectors. Cancelling the call frees what it holds in the worker.

        Raises: InvalidRequest for an input the model cannot take, QueueFull, or LocalError if the worker cannot.
        """
        if len(self._embedding) >= max(1, self._options.max_queue):
            raise QueueFull(len(self._embedding), retry_after_s=1.0)
        run_id, inbox = self._open(request_id)
        self._embedding.add(run_id)
        try:
            await self._write(embed_frame(run_id, inputs))
            return await collect(inbox, len(inputs))
        finally:
            self.release(request_id)

    def release(self, request_id: str) -> None:
        """Forget a request: prepared, queued or running. Does nothing if it is over already."""
        run_id = self._run_ids.pop(request_id, None)
        if run_id is None:
            return
        self._submitted.pop(run_id, None)
        self._thinking.discard(run_id)
        self._embedding.discard(run_id)
        if self._requests.pop(run_id, None) is not None and self._writer is not None:
            self._writer.write(pack(Cancel(run_id)))

    def queue_wait_s(self, prompt_tokens: int | None = None) -> float | None:
        """Predict how long a request submitted now waits for its prefill; None while nothing was measured."""
        slots, answers = self.facts.slots if self.facts else self._options.slots, sum(self._submitted.values())
        return self._service.wait_s(self.load, answers=answers, slots=slots, prompt_tokens=prompt_tokens)

    def served(self, seconds: float) -> None:
        """Learn how long one generation took from leaving the queue to its end."""
        self._service.learn(seconds, self.load)

    def _check_queue(self) -> None:
        """Refuse what finds the queue full. Several answers to one request enter together: half of them is none."""
        slots = self.facts.slots if self.facts else self._options.slots
        waiting = sum(self._submitted.values()) - slots
        if waiting >= self._options.max_queue:
            raise QueueFull(waiting, retry_after_s=max(1.0, self.queue_wait_s() or 1.0))

    def _open(self, request_id: str) -> tuple[str, asyncio.Queue[Item]]:
        """Begin a run of a request under an id of its own, so that frames of an earlier run cannot reach it."""
        if self.state is not WorkerState.READY:
            why = f": {self.problem}" if self.problem else ""
            raise ModelNotReady(f"the local model is {self.state.value}{why}")
        self.release(request_id)
        run_id = self._run_ids[request_id] = f"{request_id}.{next(self._run_numbers)}"
        inbox = self._requests[run_id] = asyncio.Queue()
        return run_id, inbox

    async def _write(self, frame: Frame) -> None:
        if self._writer is None:
            raise WorkerDied(f"the local worker is {self.state.value}")
        self._writer.write(pack(frame))
        try:
            await self._writer.drain()
        except ConnectionError as gone:
            self._hang_up()
            raise WorkerDied("the local worker ended") from gone

    # ---- watching

    def _spawn_task(self, work: Coroutine[None, None, None], name: str) -> None:
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _enter(self, state: WorkerState) -> None:
        self.state = state
        self._changed.set()

    async def _watch(self) -> None:
        """Start the worker again whenever it ends, with growing pauses. Ends only when it is stopped or has failed."""
        try:
            await self._keep_alive()
        except Exception:
            # The task's boundary: nobody awaits it, and requests must not wait for a worker that nobody restarts.
            log.exception("the worker's supervision failed")
            self.problem = "its supervision failed; the log has the details"
            self._enter(WorkerState.FAILED)
            self._fail_all(self.problem)

    async def _keep_alive(self) -> None:
        lives = Restarts()
        while self.state is not WorkerState.STOPPED:
            started_s, was_ready = time.monotonic(), False
            try:
                if self._process is None:
                    self.spawn()
                was_ready = await self._serve_one_life()
            except OSError as failed:
                self.problem = f"it cannot be started: {failed}"
            else:
                if not was_ready and await self._falls_back():
                    continue
            if self.state in (WorkerState.FAILED, WorkerState.STOPPED):
                return
            pause_s = lives.pause_s(time.monotonic() - started_s, was_ready=was_ready)
            if pause_s is None:
                self.problem = f"{self.problem} (given up after {MAX_FAILED_STARTS} starts)"
                self._enter(WorkerState.FAILED)
                return
            self.restarts += 1
            log.error("local worker: %s; restarting in %.1f s", self.problem, pause_s)
            self._enter(WorkerState.RESTARTING)
            await asyncio.sleep(pause_s)

    async def _falls_back(self) -> bool:
        """Take what is to be loaded in place of a model that never was ready; False where there is nothing."""
        fall_back, self._fall_back = self._fall_back, None
        if fall_back is None or self.state is WorkerState.STOPPED:
            return False
        try:
            self._options = await asyncio.to_thread(fall_back, self.problem or "it ended")
        except HybridError as unusable:
            self.problem = str(unusable)
            self._enter(WorkerState.FAILED)
        return self.state is not WorkerState.FAILED

    async def _serve_one_life(self) -> bool:
        """Read one process's frames to its end; say whether it was ever ready."""
        process = self._process
        assert process is not None
        reader, self._writer = await process.attach()
        self._spawn_task(process.listen(), "worker-stderr")
        self._heard_s = time.monotonic()
        watch = asyncio.create_task(self._watch_silence(), name="worker-silence")
        was_ready, frame = False, None
        try:
            while True:
                size = LENGTH.unpack(await reader.readexactly(LENGTH.size))[0]
                self._heard_s = time.monotonic()
                if size > MAX_FRAME_BYTES:
                    raise ConnectionError(f"a frame of {size} bytes")
                frame = from_worker.decode(await reader.readexactly(size))
                was_ready = was_ready or isinstance(frame, Ready)
                self._take(frame)
        except (asyncio.IncompleteReadError, ConnectionError, msgspec.MsgspecError) as gone:
            log.debug("worker connection ended: %r", gone)
        finally:
            watch.cancel()
            self._hang_up()
            self._process = None
        code = await asyncio.to_thread(process.end)
        if not isinstance(frame, LoadFailed):
            self.problem = process.describe_end(code)
        self.facts, self.load = (self.facts if self.state is WorkerState.FAILED else None), NO_LOAD
        self._fail_all(self.problem or "it ended")
        return was_ready

    async def _watch_silence(self) -> None:
        """Kill a worker that holds requests and says nothing for too long. A timer beside, not one a frame."""
        while True:
            await asyncio.sleep(STALL_LIMIT_S / STALL_CHECKS)
            if not self._submitted and not self._embedding:
                self._heard_s = time.monotonic()
            elif time.monotonic() - self._heard_s > STALL_LIMIT_S:
                self._kill(f"it held requests and was silent for {STALL_LIMIT_S:g} s")

    def _kill(self, why: str) -> None:
        log.error("local worker: %s; killing it", why)
        if self._process is not None:
            self._process.kill()

    def _take(self, frame: FromWorker) -> None:
        if isinstance(frame, Prepared | Refused):
            self._line.took()
        if isinstance(frame, Step):
            self._take_step(frame)
        elif isinstance(frame, Embedded):
            for vector in frame.vectors:
                self._tell(vector.id, vector)
        elif isinstance(frame, Prepared):
            if frame.is_thinking and frame.id in self._requests:
                self._thinking.add(frame.id)
            self._tell(frame.id, frame.prompt_tokens)
        elif isinstance(frame, Refused):
            self._tell(frame.id, refusal(frame))
        elif isinstance(frame, Ready):
            self.facts, self.problem = frame, None
            self.load = msgspec.structs.replace(NO_LOAD, free_slots=frame.slots, free_cells=frame.kv_cells)
            self._enter(WorkerState.READY)
        elif isinstance(frame, LoadFailed):
            self.problem = frame.message
            if self._fall_back is None:
                self._enter(WorkerState.FAILED)

    def _take_step(self, step: Step) -> None:
        self.load = step.load
        for request_id in step.started:
            self._tell(request_id, Started())
        for request_id, delta in text_deltas(step.tokens, None if self.facts is None else self.facts.speech):
            self._tell(request_id, delta)
        for end in step.ends:
            self._tell(end.id, ended(end))
            left = self._submitted.get(end.id, 0) - 1
            if left > 0:
                self._submitted[end.id] = left
            else:
                # Over for the worker as well: nothing is left to cancel.
                self._requests.pop(end.id, None)
                self._submitted.pop(end.id, None)

    def _tell(self, request_id: str, item: Item) -> None:
        if (inbox := self._requests.get(request_id)) is not None:
            inbox.put_nowait(item)

    def _fail_all(self, why: str) -> None:
        requests, self._requests = self._requests, {}
        self._submitted.clear()
        self._thinking.clear()
        self._embedding.clear()
        for inbox in requests.values():
            inbox.put_nowait(WorkerDied(f"the local worker ended while it held the request: {why}"))

    def _hang_up(self) -> None:
        """Close our end of the socket, which ends the worker."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None
        if self.state is WorkerState.READY:
            self._enter(WorkerState.RESTARTING)  # at once: what is asked until its end is known would only fail
