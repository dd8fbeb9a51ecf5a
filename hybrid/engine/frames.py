"""What do gateway and worker say to each other? Length-prefixed msgpack frames over a socket pair."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping, Sequence
from typing import TypeAlias

import msgspec

from hybrid.engine.formats.speech import Speech
from hybrid.errors import InvalidRequest
from hybrid.types import TokenLogprob

LENGTH = struct.Struct("!I")
MAX_FRAME_BYTES = 64 << 20


class Frame(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """Base of all frames: arrays with a tag, so a token costs a few bytes."""


class Prepare(Frame, frozen=True):
    """Render and tokenize a conversation and keep its tokens under `id`. Each message: role, content and kin.

    messages, tools: lists as JSON, which holds what msgpack does not: integers of any size, half a surrogate pair.
    tools: as in OpenAI's chat completions; templates that know tools render them. variables: of the template.
    """

    id: str
    messages: str
    tools: str | None = None
    variables: dict[str, bool | str] = {}


class Grammar(msgspec.Struct, frozen=True, array_like=True):
    """What the output must be. kind: json_schema, regex or lark, as llguidance takes them; source: the text of it."""

    kind: str
    source: str


JSON_DOCUMENT = "json_document"
"""Kind of a JSON Schema that a text is only judged by: the order of keys and the white space are free."""
JSON_SPELLING: dict[str, bool | str] = {
    "lenient": False,
    "coerce_one_of": True,
    "whitespace_pattern": r"( |\n{1,2}[ \t]{0,20})",
}
"""How llguidance is to follow a JSON Schema, as its `x-guidance`: nothing that restricts is passed over; `oneOf` is
followed as `anyOf`, which the check of the finished document makes up for; white space between tokens comes once at
most, for a small model that may write any amount of it often never stops.

Source: the bound on white space is that of llama.cpp's json-schema-to-grammar.
"""


class Check(msgspec.Struct, frozen=True, array_like=True):
    """For the check process: can the grammar be followed, or, with a text, does the text keep to it?"""

    grammar: Grammar
    text: str | None = None


class Checked(msgspec.Struct, frozen=True, array_like=True):
    """Its answer: what is wrong, None if nothing is."""

    fault: str | None


class Submit(Frame, frozen=True):
    """Generate from the tokens prepared under `id`. Sampling is complete here: no None is left.

    logit_bias: token id to what is added to its logit. top_logprobs: how many alternatives to tell at each token;
    None tells no log-probabilities of tokens. isolation: only requests of the same key may share cached prompts.
    deadline_s: seconds until the answer is wanted. patience_s: seconds it would wait without one, less for urgent ones;
    the queue is served by the sooner. shown: control tokens that are text.
    choices: how many answers are wanted; they share one prefill, and the n-th draws with `seed` + n.
    adapter: which of the worker's LoRA adapters to apply; None applies none.
    options: texts that an answer may begin with, such as A, B, C, D; its first token tells how likely each was.
    is_thinking: the prompt ends inside the model's thinking. stop: ends the answer, not the thinking before it.
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
    patience_s: float = 60.0
    shown: list[str] = []
    choices: int = 1
    adapter: int | None = None
    options: list[str] = []
    is_thinking: bool = False


class Embed(Frame, frozen=True):
    """Turn each input, a text or token ids, into a vector. Answered by `Prepared`, then `Embedded` frames."""

    id: str
    inputs: list[str | list[int]]


class Cancel(Frame, frozen=True):
    """Forget `id`: prepared, waiting or running. Unknown ids are over already."""

    id: str


class Ready(Frame, frozen=True):
    """The model is loaded. markers: those texts of its speech that are one control token, with the token.

    multiplier: as in `backends.base.ModelFacts`.
    """

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
    speech: Speech
    markers: dict[str, int]
    dimensions: int = 0
    multiplier: str = "ggml"


class LoadFailed(Frame, frozen=True):
    """The model cannot be loaded; trying again changes nothing unless the file or the options change."""

    message: str


class Prepared(Frame, frozen=True):
    """The prompt of `id` has so many tokens. is_thinking: it ends with an opened thinking part."""

    id: str
    prompt_tokens: int
    is_thinking: bool = False


class Refused(Frame, frozen=True):
    """`id` is not prepared, or not run. `is_caller` says whose fault it was, `param` which parameter's."""

    id: str
    message: str
    is_caller: bool
    param: str | None = "messages"
    code: str | None = None


class Vector(msgspec.Struct, frozen=True, array_like=True):
    """The embedding of one input of `id`: little-endian 32-bit floats, of length 1 together."""

    id: str
    index: int
    values: bytes


class Embedded(Frame, frozen=True):
    """What one step of embedding gave; nothing where no input ended in it, but it was a step."""

    vectors: list[Vector]


class TokenDelta(msgspec.Struct, frozen=True, array_like=True):
    """One token of one sequence; its numbers and `options` as in `types.TokenSignal`, the rest as in `TextDelta`."""

    id: str
    text: str
    logprob: float
    entropy: float
    margin: float
    logprobs: tuple[TokenLogprob, ...] = ()
    choice: int = 0
    options: tuple[float, ...] = ()


class End(msgspec.Struct, frozen=True, array_like=True):
    """A sequence ended. `failure` is set instead of `finish` when it broke, `stopped_by` to a stop string."""

    id: str
    finish: str | None
    failure: str | None
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int = 0
    stopped_by: str | None = None
    choice: int = 0


class Load(msgspec.Struct, frozen=True, array_like=True):
    """How busy the worker is after a step. Speeds are None until measured.

    threads: that compute now. slowdown: how many times longer steps take than undisturbed ones; None while unknown.
    others_cores: cores that other processes keep busy; None where the system does not tell.
    prompts: of each that is not computed yet, how many of its tokens are left, and of how many a newcomer's prompt must
    be to come after it.
    """

    running: int
    waiting: int
    free_slots: int
    free_cells: int
    prefill_tok_s: float | None
    decode_tok_s: float | None
    threads: int | None = None
    slowdown: float | None = None
    others_cores: float | None = None
    prompts: list[tuple[int, int]] = []


class Step(Frame, frozen=True):
    """Everything one step did, in one frame."""

    started: list[str]
    tokens: list[TokenDelta]
    ends: list[End]
    load: Load


ToWorker: TypeAlias = Prepare | Submit | Embed | Cancel
FromWorker: TypeAlias = Ready | LoadFailed | Prepared | Refused | Step | Embedded

to_worker = msgspec.msgpack.Decoder(ToWorker)
from_worker = msgspec.msgpack.Decoder(FromWorker)
_encoder = msgspec.msgpack.Encoder()


def pack(frame: Frame) -> bytes:
    """Encode a frame with its length in front."""
    body = _encoder.encode(frame)
    return LENGTH.pack(len(body)) + body


def prepare_frame(
    request_id: str,
    messages: Sequence[Mapping[str, object]],
    tools: Sequence[Mapping[str, object]] | None,
    variables: Mapping[str, bool | str] | None,
) -> Prepare:
    """Ask the worker to take a conversation in.

    Raises: InvalidRequest for one that JSON does not hold.
    """
    try:
        shown = json.dumps([dict(message) for message in messages])
        shown_tools = None if tools is None else json.dumps([dict(tool) for tool in tools])
    except (RecursionError, ValueError) as odd:
        what = "it is nested too deeply" if isinstance(odd, RecursionError) else str(odd)
        raise InvalidRequest(f"the conversation cannot be rendered: {what}", param="messages") from odd
    return Prepare(request_id, shown, shown_tools, dict(variables or {}))
