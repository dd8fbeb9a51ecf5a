"""Can this grammar be followed, and does this text keep to it? Answered in a process that may be killed for it.

Compiling a small schema can take minutes and gigabytes in native code that nothing interrupts (`multipleOf: 12345678`),
and so can validating a short document (`allOf` of references to `allOf`, thirty deep). This process has limits that the
kernel enforces, and the gateway starts another when one is killed. It ends when its standard input does.
"""

from __future__ import annotations

import contextlib
import json
import re
import resource
import signal
import sys
from collections.abc import Iterable
from decimal import Decimal, localcontext
from typing import TYPE_CHECKING, BinaryIO

import msgspec
from jsonschema import Draft202012Validator
from jsonschema.exceptions import SchemaError, UnknownType, ValidationError
from jsonschema.validators import extend, validator_for
from jsonschema_specifications import REGISTRY
from llguidance import LLTokenizer, TokenizerWrapper
from referencing.exceptions import Unresolvable

from hybrid.engine.frames import JSON_DOCUMENT, LENGTH, Check, Checked, Grammar
from hybrid.engine.matcher import compile_matcher
from hybrid.errors import InvalidRequest
from hybrid.types import Json

if TYPE_CHECKING:
    from llguidance import LLMatcher

CPU_LIMIT_S = 3.0
"""A schema of 100 kB takes 0.5 to 1.1 s of a busy machine."""
MEMORY_LIMIT_BYTES = 1 << 30
MAX_TOKEN_ID = 1 << 20
PRECISION_DIGITS = 400
"""Of decimals: enough to divide the largest float there is by a small step."""
TRIED_BYTES = 48
"""Bytes of an answer that are tried after compiling: what breaks a limit on the way mostly does so in its first key."""
_LIKELY = b'{["0a'
_SPECIAL = re.compile(r"<[^<>\[\]\s\"'/\\]{1,128}>")
_TOKEN_IDS = re.compile(r"<\[([0-9, -]+)\]>")
_UNREADABLE = (SchemaError, UnknownType, Unresolvable, RecursionError, re.error)
"""What the validator raises at a schema it cannot read, or does not know the words of."""
_MALFORMED = (AttributeError, TypeError, LookupError, ArithmeticError)
"""And at keywords whose values are of another kind than it expects, such as a list of `items` (before 2020-12)."""


class _Vocabulary:
    """A byte a token, and whatever control tokens a grammar names: they are the model's to know."""

    eos_token_id = 256
    bos_token_id = None

    def __init__(self, names: Iterable[str], size: int) -> None:
        controls = [b"\xff<end>", *(b"\xff" + name.encode() for name in names)]
        tokens = [bytes([byte]) for byte in range(256)] + controls
        self.special_token_ids = list(range(256, len(tokens)))
        self.tokens = tokens + [b""] * (size - len(tokens))

    def __call__(self, text: bytes) -> list[int]:
        return list(text)


def check(request: Check) -> str | None:
    """Compile the grammar, and if there is a text, see that it keeps to it; return what is wrong."""
    try:
        if request.grammar.kind == JSON_DOCUMENT:
            return _fault_of_document(request.text or "", request.grammar.source)
        matcher = compile_matcher(_tokenizer(request.grammar), request.grammar)
        if request.text is None:
            _try_out(matcher, request.grammar.kind)
            return None
        return _fault_of(request.text, matcher, request.grammar)
    except InvalidRequest as refused:
        return str(refused)
    except MemoryError:
        return "it takes too much memory"


def _tokenizer(grammar: Grammar) -> LLTokenizer:
    names: list[str] = []
    size = 0
    if grammar.kind == "lark":
        names = sorted(set(_SPECIAL.findall(grammar.source)))
        ids = [int(number) for group in _TOKEN_IDS.findall(grammar.source) for number in re.findall(r"\d{1,9}", group)]
        size = min(max(ids, default=-1) + 1, MAX_TOKEN_ID)
    return LLTokenizer(TokenizerWrapper(_Vocabulary(names, size)), slices=[])


def _try_out(matcher: LLMatcher, kind: str) -> None:
    """Follow the grammar for some bytes, so that one that allows nothing or breaks a limit is refused and not run.

    Raises: InvalidRequest.
    """
    for tried in range(TRIED_BYTES):
        mask = matcher.compute_bitmask()
        if matcher.is_error():
            why = matcher.get_error().partition("\n")[0]
            raise InvalidRequest(f"the {kind} cannot be followed: after {tried} bytes nothing may come ({why})")
        allowed = [byte for byte in range(256) if mask[byte >> 3] >> (byte & 7) & 1]
        likely = [byte for byte in _LIKELY if byte in allowed]
        if not allowed or matcher.is_stopped():
            return
        matcher.consume_token((likely or [byte for byte in allowed if byte > 0x20] or allowed)[0])


def _fault_of(text: str, matcher: LLMatcher, grammar: Grammar) -> str | None:
    raw = text.encode("utf-8", "surrogatepass")
    taken = matcher.try_consume_tokens(list(raw))
    if taken < len(raw) or not matcher.is_accepting():
        return f"after {taken} of {len(raw)} bytes it is not what the {grammar.kind} asks for"
    return _fault_of_document(text, grammar.source) if grammar.kind == "json_schema" else None


def _fault_of_document(text: str, source: str) -> str | None:
    """Judge a JSON document by a second implementation of JSON Schema, which shares nothing with the first.

    But for `pattern`: it reads regular expressions as Python's, which differ, and the matcher has followed them.
    """
    # Decimals: a document's 0.29 is a multiple of 0.01, and as floats it is not.
    try:
        document, schema = (json.loads(one, parse_float=Decimal, parse_constant=_refuse) for one in (text, source))
        kind = extend(validator_for(schema, default=Draft202012Validator), {"pattern": _passed_over})
        with localcontext(prec=PRECISION_DIGITS):
            kind(schema, registry=REGISTRY).validate(document)
    except ValidationError as fault:
        return f"{fault.json_path}: {fault.message[:200]}"
    except ValueError as broken:
        return f"it is not JSON: {broken}"
    except (*_UNREADABLE, *_MALFORMED):
        # The validator cannot read the schema; the matcher, which can, has judged.
        return None
    return None


def _refuse(constant: str) -> Json:
    raise ValueError(f"{constant} is no JSON value")


def _passed_over(*_: object) -> None:
    """Stand for a keyword that is not judged."""


def serve(requests: BinaryIO, answers: BinaryIO) -> None:
    """Answer checks one after the other until the requests end."""
    decoder, encoder = msgspec.msgpack.Decoder(Check), msgspec.msgpack.Encoder()
    while len(header := requests.read(LENGTH.size)) == LENGTH.size:
        request = decoder.decode(requests.read(LENGTH.unpack(header)[0]))
        # This signal's default action ends the process, in native code too. It counts our own time, not the machine's.
        signal.setitimer(signal.ITIMER_PROF, CPU_LIMIT_S)
        fault = check(request)
        signal.setitimer(signal.ITIMER_PROF, 0)
        body = encoder.encode(Checked(fault))
        answers.write(LENGTH.pack(len(body)) + body)
        answers.flush()


def main() -> None:
    """Set the limits, then serve on the standard streams."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the gateway, which then closes our input
    sys.set_int_max_str_digits(0)
    with contextlib.suppress(ValueError, OSError):  # macOS has no such limit
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_LIMIT_BYTES, MEMORY_LIMIT_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    serve(sys.stdin.buffer, sys.stdout.buffer)


if __name__ == "__main__":
    main()
