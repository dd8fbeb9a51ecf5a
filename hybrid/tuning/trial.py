"""What does one candidate do? Runs as `python -m hybrid.tuning.trial`: a job on stdin, its outcome on stdout."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec
import numpy as np

from hybrid.backends.base import Backend, BackendOptions, BatchEntry
from hybrid.backends.llama_cpp import LlamaCppBackend
from hybrid.backends.quantize import requantise
from hybrid.catalog.tuned import Divergence, Settings
from hybrid.devices.snapshot import usable_threads
from hybrid.errors import HybridError, LocalFailure
from hybrid.gguf import read_header
from hybrid.tuning.chats import CHATS, measure_speed
from hybrid.tuning.divergence import Rows, row_divergences, summarise
from hybrid.tuning.jobs import Job, Measure, Outcome, Quantise, Reference
from hybrid.tuning.text import read_text

CONTEXT_TOKENS = 2048
"""Room for eight chats of 175 and 64 tokens at once."""
CHUNK_TOKENS = 512
"""What the model sees of the text at once: about as much as a chat."""
FIRST_SCORED = 16
"""Before so many tokens of a chunk nothing is compared: without context every model guesses."""
STRIDE_TOKENS = 2
"""Every second token is compared: its neighbour tells nearly the same, and rows of 600 kB are a lot of bytes."""
ROWS_AT_ONCE = 16


def main() -> None:
    """Read the job, do it, tell the outcome, and end without unwinding native threads."""
    # Ctrl-C in a terminal reaches the whole process group; who started us decides when we end.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    job: Job = msgspec.json.decode(sys.stdin.buffer.readline(), type=Quantise | Reference | Measure)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        outcome = run(job)
    except (HybridError, OSError, MemoryError) as failed:
        outcome = Outcome(problem=str(failed) or type(failed).__name__)
    sys.stdout.buffer.write(msgspec.json.encode(outcome))
    sys.stdout.flush()
    os._exit(0)


def _end_with_parent() -> None:
    """Wait for the end of stdin. A tuning that was killed leaves no trial behind that goes on writing."""
    while os.read(0, 4096):
        pass
    os._exit(1)


def run(job: Job) -> Outcome:
    """Do one job in this process. Raises: HybridError, OSError if it fails."""
    if isinstance(job, Quantise):
        requantise(Path(job.source), Path(job.target), job.format)
        return Outcome()
    backend = load(Path(job.model), job.settings if isinstance(job, Measure) else Settings())
    chunks = text_chunks(backend, job.chunks, Path(job.model))
    if isinstance(job, Reference):
        keep_reference(backend, chunks, Path(job.target))
        return Outcome()
    divergence = None if job.reference is None else compare(backend, chunks, Path(job.reference))
    speed = None
    if job.prompt_tokens and job.answer_tokens:
        tokens = [token for chunk in chunks for token in chunk]
        speed = measure_speed(
            backend, tokens, prompt_tokens=job.prompt_tokens, answer_tokens=job.answer_tokens, runs=job.runs
        )
    return Outcome(speed=speed, divergence=divergence)


def load(model: Path, settings: Settings) -> LlamaCppBackend:
    """Load a model as the worker would, with a context that is just large enough."""
    return LlamaCppBackend(
        BackendOptions(
            model_path=model,
            context_tokens=CONTEXT_TOKENS,
            slots=CHATS,
            idle_sequences=CHATS,
            threads=settings.threads or usable_threads(),
            batch_tokens=settings.batch_tokens,
            flash_attention=settings.flash_attention,
            key_cache=settings.kv_type,
            value_cache=settings.kv_type,
        )
    )


def text_chunks(backend: Backend, limit: int, model: Path) -> list[list[int]]:
    """Give the beginning of the text as chunks of token ids, each begun as the model's texts begin."""
    begin = backend.tokenize(backend.facts.bos_text) if _adds_bos(model) else []
    tokens = backend.tokenize(read_text())
    room = min(CHUNK_TOKENS, backend.facts.context_tokens) - len(begin)
    chunks = [begin + tokens[start : start + room] for start in range(0, len(tokens), room)]
    return [chunk for chunk in chunks if len(chunk) > FIRST_SCORED + STRIDE_TOKENS][:limit]


def _adds_bos(model: Path) -> bool:
    """Whether texts begin with a token of their own: as the file says, and where it does not, as llama.cpp assumes."""
    metadata = read_header(model).metadata
    said = metadata.get("tokenizer.ggml.add_bos_token")
    return bool(said) if said is not None else metadata.get("tokenizer.ggml.model") == "llama"


def scored_rows(backend: Backend, chunks: Sequence[Sequence[int]]) -> Iterator[Rows]:
    """Run the chunks and give the compared rows, some at a time, to be used before the next are asked for."""
    for chunk in chunks:
        entries = [
            BatchEntry(0, chunk[start : start + STRIDE_TOKENS], start, logits=int(start >= FIRST_SCORED))
            for start in range(0, len(chunk), STRIDE_TOKENS)
        ]
        at_once = max(1, backend.facts.batch_tokens // STRIDE_TOKENS)
        for first in range(0, len(entries), at_once):
            rows = backend.decode(entries[first : first + at_once])
            yield from (rows[n : n + ROWS_AT_ONCE] for n in range(0, len(rows), ROWS_AT_ONCE))
        backend.forget(0)


def keep_reference(backend: Backend, chunks: Sequence[Sequence[int]], target: Path) -> None:
    """Write the rows of the source, one after the other."""
    with target.open("wb") as file:
        for rows in scored_rows(backend, chunks):
            file.write(rows.tobytes())


def compare(backend: Backend, chunks: Sequence[Sequence[int]], reference: Path) -> Divergence:
    """Compare a model's rows with those that the source gave.

    Raises: LocalFailure if they cannot be compared.
    """
    vocab_tokens = backend.facts.vocab_tokens
    kept_bytes = reference.stat().st_size
    if kept_bytes == 0 or kept_bytes % (4 * vocab_tokens):
        raise LocalFailure("the source's logits are not there, or of another vocabulary")
    expected = np.memmap(reference, dtype=np.float32, mode="r").reshape(-1, vocab_tokens)
    nats, agrees, done = [], [], 0
    for rows in scored_rows(backend, chunks):
        if done + len(rows) > len(expected):
            raise LocalFailure("it makes more tokens of the text than the source")
        some_nats, some_agrees = row_divergences(expected[done : done + len(rows)], rows)
        nats.append(some_nats)
        agrees.append(some_agrees)
        done += len(rows)
    if done != len(expected):
        raise LocalFailure("it makes fewer tokens of the text than the source")
    return summarise(np.concatenate(nats), np.concatenate(agrees))


if __name__ == "__main__":
    main()
