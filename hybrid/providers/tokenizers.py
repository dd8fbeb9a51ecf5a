"""How many tokens will a provider count in a prompt? Counted by its own tokenizer, where that is published and here."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol, TypeAlias
from urllib.parse import urlsplit

from hybrid.providers.bounds import text_bytes, upper_bound_prompt_tokens
from hybrid.types import ChatRequest, TextPart

log = logging.getLogger(__name__)

COUNTED_FROM_BYTES = 2048
"""Of text in a request. A shorter one is bounded by its bytes: what that sets aside too much is no more than the bound
holds for the marks around the texts."""

COUNTED_TO_BYTES = 2_000_000
"""A longer one is bounded by its bytes, too: the slowest texts take a second for each of these megabytes."""

PIECE_CHARS = 65_536
"""What is counted at once. A million spaces in one piece overflow the stack of the tokenizer's regular expressions."""

COUNT_LIMIT_S = 0.5
"""How long a request waits for its count; 400 kB of English take a fifth of it. Then its bytes bound it."""

THREADS = 2
"""That count, and are never those that others wait for."""

SEAM_TOKENS = 16
"""For each place where a text was cut: a word that was cut is counted as two, with tokens of its own."""

_NEEDS_TIKTOKEN = "needs the package tiktoken: pip install 'hybrid-runtime[tokenizers]'"
_OPENAI_HOSTS = ("api.openai.com", ".api.openai.com", ".openai.azure.com", ".services.ai.azure.com")
_OPENROUTER_HOST, _OPENROUTER_PREFIX = "openrouter.ai", "openai/"


class Encoding(Protocol):
    """What is used of a `tiktoken.Encoding`."""

    name: str

    def encode_ordinary(self, text: str) -> list[int]:
        """The tokens of a text, in which no special token is looked for."""
        ...


Loader: TypeAlias = Callable[[str], Encoding | None]


def published(base_url: str, model: str) -> str | None:
    """Name what counts the prompts of a model as its provider does; None where nobody published it.

    Only OpenAI did, for its own models, wherever they are served under their own names.
    """
    host = (urlsplit(base_url).hostname or "").lower()
    if any(host == known or (known[0] == "." and host.endswith(known)) for known in _OPENAI_HOSTS):
        return model
    if host == _OPENROUTER_HOST and model.startswith(_OPENROUTER_PREFIX):
        return model.removeprefix(_OPENROUTER_PREFIX).partition(":")[0]
    return None


def check(name: str) -> None:
    """See whether there is a tokenizer of this name. Loads none. Raises: ValueError that says what to do."""
    try:
        import tiktoken
    except ImportError:
        raise ValueError(f"tokenizer {name!r} {_NEEDS_TIKTOKEN}") from None
    if _encoding_name(name) is None:
        known = ", ".join(tiktoken.list_encoding_names())
        raise ValueError(f"there is no tokenizer {name!r}; it is an OpenAI model's name, or one of {known}")


def load(name: str) -> Encoding | None:
    """The tokenizer of an OpenAI model, or of an encoding's own name. Blocks; it may fetch a file of some MB.

    Returns: None where tiktoken knows no such model.
    Raises: ImportError where it is not installed; whatever it raises where the file can neither be read nor fetched.
    """
    try:
        import tiktoken
    except ImportError:
        raise ImportError(_NEEDS_TIKTOKEN) from None
    encoding_name = _encoding_name(name)
    return None if encoding_name is None else tiktoken.get_encoding(encoding_name)


def _encoding_name(name: str) -> str | None:
    import tiktoken

    if name in tiktoken.list_encoding_names():
        return name
    try:
        return tiktoken.encoding_name_for_model(name)
    except KeyError:
        return None


class Tokenizers:
    """Counts prompts by tokenizers that are loaded behind the first request that could use them.

    Until one is there, and where none is, bytes bound the tokens. Called from the event loop; a thread loads, others
    count.
    """

    def __init__(self, loader: Loader = load) -> None:
        self._loader = loader
        self._asked: set[str] = set()
        self._ready: dict[str, Encoding] = {}
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="hybrid-tokens")

    async def bounds(self, request: ChatRequest, names: Iterable[str | None]) -> Mapping[str, int]:
        """Bound the prompt tokens of a request from above by each of these tokenizers that is there and can.

        The form that a provider gives to tools, schemas and calls is not known, so these are bounded by their bytes
        as everywhere, and so are the marks around messages; only texts are counted.
        """
        wanted = {name for name in names if name is not None}
        if not wanted:
            return {}
        text = sum(text_bytes(part.text) for m in request.messages for part in m.parts if isinstance(part, TextPart))
        if not COUNTED_FROM_BYTES <= text <= COUNTED_TO_BYTES:
            return {}
        self._want(wanted)
        encodings = {name: self._ready[name] for name in wanted & self._ready.keys()}
        if not encodings:
            return {}
        try:
            async with asyncio.timeout(COUNT_LIMIT_S):
                return await asyncio.get_running_loop().run_in_executor(self._threads, _bounds, request, encodings)
        except TimeoutError:
            log.info("a prompt of %d bytes is bounded by them: it was not counted within %g s", text, COUNT_LIMIT_S)
            return {}

    def _want(self, names: set[str]) -> None:
        new = names - self._asked
        if new:
            self._asked |= new
            threading.Thread(target=self._load, args=(sorted(new),), name="hybrid-tokenizers", daemon=True).start()

    def _load(self, names: list[str]) -> None:
        for name in names:
            try:
                encoding = self._loader(name)
            except ImportError as missing:
                log.info("prompts for %s are bounded by their bytes; to count them %s", name, missing)
                continue
            except Exception as error:  # noqa: BLE001 - a library's boundary: network, disk, hash
                log.warning("prompts for %s are bounded by their bytes; to count them failed: %s", name, error)
                continue
            if encoding is not None:
                self._ready[name] = encoding
                log.info("prompts for %s are counted by %s", name, encoding.name)


def _bounds(request: ChatRequest, encodings: Mapping[str, Encoding]) -> dict[str, int]:
    found: dict[str, int] = {}
    by_encoding: dict[int, int | None] = {}  # several models share one
    for name, encoding in encodings.items():
        if id(encoding) not in by_encoding:
            by_encoding[id(encoding)] = _bound(request, encoding)
        bound = by_encoding[id(encoding)]
        if bound is not None:
            found[name] = bound
    return found


def _bound(request: ChatRequest, encoding: Encoding) -> int | None:
    try:
        return upper_bound_prompt_tokens(request, lambda text: count(text, encoding))
    except Exception as error:  # noqa: BLE001 - the thread's boundary
        log.warning("a prompt is bounded by its bytes: %s failed at it (%s)", encoding.name, type(error).__name__)
    except BaseException as error:
        # A panic in tiktoken's Rust is no Exception. Here, in a worker's thread, nothing else of that kind is raised.
        if isinstance(error, KeyboardInterrupt | SystemExit):
            raise
        log.warning("a prompt is bounded by its bytes: %s broke at it", encoding.name)
    return None


def count(text: str, encoding: Encoding) -> int:
    """Bound the tokens of a text from above: those of its pieces, and some for each seam; never above its bytes."""
    pieces = [text[start : start + PIECE_CHARS] for start in range(0, len(text), PIECE_CHARS)]
    tokens = sum(len(encoding.encode_ordinary(piece)) for piece in pieces)
    return min(tokens + SEAM_TOKENS * max(0, len(pieces) - 1), text_bytes(text))
