"""What do gateway and worker say to each other? Length-prefixed msgpack frames over a socket pair."""

from __future__ import annotations

import struct
from typing import TypeAlias

import msgspec

LENGTH = struct.Struct("!I")
MAX_FRAME_BYTES = 64 << 20


class Frame(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """Base of all frames: arrays with a tag, so a token costs a few bytes."""


class Prepare(Frame, frozen=True):
    """Render and tokenize a conversation and keep its tokens under `id`. Each message: role, content and kin.

    tools: as in OpenAI's chat completions; templates that know tools render them.
    """

    id: str
    messages: list[dict[str, object]]
    tools: list[dict[str, object]] | None = None


class Grammar(msgspec.Struct, frozen=True, array_like=True):
    """What the output must be. kind: json_schema, regex or lark, as llguidance takes them; source: the text of it."""

    kind: str
    source: str


class Submit(Frame, frozen=True):
    """Generate from the tokens prepared under `id`. Sampling is complete here: no None is left.

    logit_bias: token id to what is added to its logit. top_logprobs: how many alternatives to tell at each token;
    None tells no log-probabilities of tokens. isolation: only requests of the same key may share cached prompts.
    deadline_s: seconds until the answer is wanted; the queue is served by it.
    """

    id: str
    max_output_tokens: int
    temperature: float
    top_k: int
    top_p: float
    min_p: float
    presence_penalty: float
    frequency_penalty: float
    repetition_penalty: float
    seed: int
    stop: list[str]
    logit_bias: dict[int, float] = {}
    top_logprobs: int | None = None
    grammar: Grammar | None = None
    isolation: str = ""
    deadline_s: float | None = None


class Cancel(Frame, frozen=True):
    """Forget `id`: prepared, waiting or running. Unknown ids are over already."""

    id: str


class Ready(Frame, frozen=True):
    """The model is loaded."""

    name: str
    architecture: str
    vocab_tokens: int
    context_tokens: int
    slots: int
    kv_cells: int
    threads: int
    device: str
    file_bytes: int
    fingerprint: str
    template_fingerprint: str


class LoadFailed(Frame, frozen=True):
    """The model cannot be loaded; trying again changes nothing unless the file or the options change."""

    message: str


class Prepared(Frame, frozen=True):
    """The prompt of `id` has so many tokens."""

    id: str
    prompt_tokens: int


class Refused(Frame, frozen=True):
    """`id` was not prepared. `is_caller` says whose fault it was."""

    id: str
    message: str
    is_caller: bool


class TokenDelta(msgspec.Struct, frozen=True, array_like=True):
    """One token of one sequence; the three numbers as in `types.TokenSignal`."""

    id: str
    text: str
    logprob: float
    entropy: float
    margin: float


class End(msgspec.Struct, frozen=True, array_like=True):
    """A sequence ended. `failure` is set instead of `finish` when it broke."""

    id: str
    finish: str | None
    failure: str | None
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int = 0


class Load(msgspec.Struct, frozen=True, array_like=True):
    """How busy the worker is after a step. Speeds are None until measured."""

    running: int
    waiting: int
    waiting_tokens: int
    free_slots: int
    free_cells: int
    prefill_tok_s: float | None
    decode_tok_s: float | None


class Step(Frame, frozen=True):
    """Everything one step did, in one frame."""

    started: list[str]
    tokens: list[TokenDelta]
    ends: list[End]
    load: Load


ToWorker: TypeAlias = Prepare | Submit | Cancel
FromWorker: TypeAlias = Ready | LoadFailed | Prepared | Refused | Step

to_worker = msgspec.msgpack.Decoder(ToWorker)
from_worker = msgspec.msgpack.Decoder(FromWorker)
_encoder = msgspec.msgpack.Encoder()


def pack(frame: Frame) -> bytes:
    """Encode a frame with its length in front."""
    body = _encoder.encode(frame)
    return LENGTH.pack(len(body)) + body
