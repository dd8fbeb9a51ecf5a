"""Which models does the catalogue know, and where does each come from? Reads and checks the cards in models/*.toml."""

from __future__ import annotations

import difflib
import re
import tomllib
from pathlib import Path, PurePosixPath
from typing import TypeAlias

import msgspec

from hybrid.errors import CatalogError

_NAME = re.compile(r"[a-z0-9]+(?:[._-][a-z0-9]+)*")
_MAX_NAME_CHARACTERS = 64
_SHA256 = re.compile(r"[0-9a-f]{64}")
_COMMIT = re.compile(r"[0-9a-f]{40}")
# An exact version only: a name that began with "-" would be an option to pip, and a range would float.
_REQUIREMENT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*==[A-Za-z0-9][A-Za-z0-9.!+_-]*")
_REPO = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_REVISION = re.compile(r"[A-Za-z0-9][\w./-]*")


class WheelSource(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="wheel"):
    """A file inside a wheel on the user's package index: `requirement` is NAME==VERSION, `member` the path in it."""

    requirement: str
    member: str

    def __post_init__(self) -> None:
        _require(_REQUIREMENT, self.requirement, "source.requirement must be NAME==VERSION")
        _require_inside(self.member, "source.member")

    def __str__(self) -> str:
        return f"{self.requirement} on your package index"


class HuggingFaceSource(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="huggingface"):
    """A file in a Hugging Face repository; `revision` is a commit, or a branch that can change (then it floats)."""

    repo: str
    file: str
    revision: str

    def __post_init__(self) -> None:
        _require(_REPO, self.repo, "source.repo must be OWNER/NAME")
        _require(_REVISION, self.revision, "source.revision must be a commit or branch")
        _require_inside(self.file, "source.file")

    @property
    def is_pinned(self) -> bool:
        """Whether the revision is a commit, which can never mean another file."""
        return _COMMIT.fullmatch(self.revision) is not None

    def __str__(self) -> str:
        return f"{self.repo} on Hugging Face"


Source: TypeAlias = WheelSource | HuggingFaceSource


class Shape(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The sizes in a model's configuration that memory and speed are predicted from before it is pulled.

    is_tied: the output layer is the embedding, so the configuration says `tie_word_embeddings`.
    """

    block_count: int
    embedding_length: int
    head_count_kv: int
    key_length: int
    feed_forward_length: int
    vocab_tokens: int
    is_tied: bool

    def __post_init__(self) -> None:
        if min(self.block_count, self.embedding_length, self.key_length, self.vocab_tokens) <= 0:
            raise ValueError("the sizes of [shape] must be above 0")


class Card(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One model of the catalogue.

    parameters: as its maker states them. bytes: the file's size, exact unless `is_bytes_exact` says otherwise.
    licence: an SPDX identifier, or the licence's name and then `licence_url`. sha256: of the file; None is unknown, and
    then the first pull records what it got. shape: None where nobody wrote it down; it is then known once pulled.
    """

    name: str
    title: str
    family: str
    parameters: int
    quantisation: str
    licence: str
    bytes: int
    context_tokens: int
    description: str
    source: Source
    licence_url: str | None = None
    is_bytes_exact: bool = True
    sha256: str | None = None
    shape: Shape | None = None

    def __post_init__(self) -> None:
        if not is_valid_name(self.name):
            raise ValueError(f"{self.name!r} is no model name")
        if self.sha256 is not None:
            _require(_SHA256, self.sha256, "sha256 must be 64 lower-case hexadecimal digits")
        if min(self.bytes, self.parameters, self.context_tokens) <= 0:
            raise ValueError("bytes, parameters and context_tokens must be above 0")
        # Nothing but this hash says that a wheel holds what the card promises: an index names no hash of a member.
        if isinstance(self.source, WheelSource) and (self.sha256 is None or not self.is_bytes_exact):
            raise ValueError("a wheel's card needs sha256 and exact bytes")


def is_valid_name(name: str) -> bool:
    """Whether a model may be called this; what is true for it cannot lead out of the models folder as a file name."""
    return len(name) <= _MAX_NAME_CHARACTERS and _NAME.fullmatch(name) is not None


def cards_dir() -> Path:
    """Return the folder of the cards: beside this file where installed, else models/ of the source tree."""
    installed = Path(__file__).with_name("cards")
    return installed if installed.is_dir() else Path(__file__).parents[2] / "models"


def load_cards(folder: Path | None = None) -> dict[str, Card]:
    """Read all cards, the smallest file first.

    Raises: CatalogError naming the card that is wrong.
    """
    cards = [_load_card(path) for path in (folder or cards_dir()).glob("*.toml")]
    return {card.name: card for card in sorted(cards, key=lambda card: (card.bytes, card.name))}


def find_card(name: str) -> Card:
    """Return the card of that name.

    Raises: CatalogError that names the nearest one.
    """
    cards = load_cards()
    if name in cards:
        return cards[name]
    near = [known for known in cards if known.startswith(name.lower())] if name else []
    near = near or difflib.get_close_matches(name.lower(), cards, n=1, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}? " if near else ""
    raise CatalogError(f"no model {name!r} in the catalogue; {hint}`hybrid models list` shows what there is")


def _load_card(path: Path) -> Card:
    try:
        card = msgspec.convert(tomllib.loads(path.read_text(encoding="utf-8")), Card)
    except (tomllib.TOMLDecodeError, msgspec.ValidationError, UnicodeDecodeError, OSError) as exc:
        raise CatalogError(f"the model card {path} is wrong: {exc}") from exc
    if card.name != path.stem:
        raise CatalogError(f"the model card {path} says its name is {card.name!r}; it must be the file's")
    return card


def _require(pattern: re.Pattern[str], value: str, rule: str) -> None:
    if pattern.fullmatch(value) is None:
        raise ValueError(f"{rule}, not {value!r}")


def _require_inside(path: str, key: str) -> None:
    """Refuse a path that is absolute, climbs, or is written for Windows."""
    parts = PurePosixPath(path).parts
    if not parts or path.startswith("/") or ".." in parts or "\\" in path or ":" in path or not path.endswith(".gguf"):
        raise ValueError(f"{key} must be a relative path to a .gguf file, not {path!r}")
