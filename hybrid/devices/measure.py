"""How does one get a model measured? Give a plan; a fresh process loads the file, and its progress comes back.

speed = measure_model(SpeedPlan(model_path="x.gguf", prefill_tokens=(128,), decode_sequences=(1, 8)))
speed.prefill_tok_s[128].median, speed.decode_tok_s[8].median
"""

from __future__ import annotations

import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Mapping
from typing import IO

import msgspec

from hybrid.devices.speed import Failed, Line, Measured, ModelSpeed, Progressed, SpeedPlan
from hybrid.errors import LocalFailure

LAST_LINES = 400
"""A process that aborts may write a page of stack after the line that says why."""
_ERROR_WORDS = ("ERROR", "Error", "error", "ASSERT", "abort")
OnProgress = Callable[[Progressed], None]
_decoder: msgspec.json.Decoder[Line] = msgspec.json.Decoder(Line)


def measure_model(
    plan: SpeedPlan,
    *,
    on_progress: OnProgress = lambda _: None,
    environment: Mapping[str, str] | None = None,
) -> ModelSpeed:
    """Measure one model in a process of its own, which is gone when this returns, however it returns.

    Args:
        environment: the process's; None inherits ours. Give what the worker gets, or speeds will differ.
    Raises: LocalFailure if the model cannot be loaded or run, or its process died; the message says how.
    """
    command = [sys.executable, "-m", "hybrid.devices.measure_process", msgspec.json.encode(plan).decode()]
    try:
        process = subprocess.Popen(
            command, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
    except OSError as exc:
        raise LocalFailure(f"cannot start a process to measure in: {exc}") from exc
    assert process.stdout is not None
    assert process.stderr is not None
    last_words: deque[str] = deque(maxlen=LAST_LINES)
    listener = threading.Thread(target=_listen, args=(process.stderr, last_words), daemon=True)
    listener.start()
    try:
        end = _follow(process.stdout, on_progress)
        process.wait()
        listener.join()
    finally:
        process.kill()
        process.wait()
        listener.join()
        process.stdout.close()
        process.stderr.close()
    if isinstance(end, Measured):
        return end.speed
    if isinstance(end, Failed):
        raise LocalFailure(end.message)
    raise LocalFailure(_died(process.returncode, last_words))


def _follow(lines: IO[bytes], on_progress: OnProgress) -> Line | None:
    for line in lines:
        try:
            said = _decoder.decode(line)
        except msgspec.DecodeError:
            continue  # native code printed something
        if not isinstance(said, Progressed):
            return said
        on_progress(said)
    return None


def _listen(stderr: IO[bytes], last_words: deque[str]) -> None:
    last_words.extend(line.decode("utf-8", "replace").rstrip() for line in stderr)


def _died(code: int, last_words: deque[str]) -> str:
    cause = f"was ended by signal {-code}" if code < 0 else f"ended with status {code}"
    hint = ", perhaps by the kernel for lack of memory" if code == -9 else ""
    errors = [line for line in last_words if any(word in line for word in _ERROR_WORDS)] or list(last_words)
    return f"the measuring process {cause}{hint}" + (f"; it said: {errors[0]}" if errors else "")
