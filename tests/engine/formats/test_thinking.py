"""Thinking is told from the answer, whatever the chunks."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybrid.engine.formats.thinking import Thinking


def split(text: str, cuts: list[int], *, is_open: bool = False) -> tuple[str, str]:
    """Give thinking and answer of a text that comes in chunks."""
    thinking = Thinking("<think>", "</think>", is_open=is_open)
    borders = [0, *sorted({cut % (len(text) + 1) for cut in cuts}), len(text)]
    parts = [thinking.push(text[start:end]) for start, end in itertools.pairwise(borders)]
    parts.append(thinking.push("", is_last=True))
    return "".join(part for part, _ in parts), "".join(part for _, part in parts)


CASES = [
    pytest.param("<think>\nhm, 1 < 2\n</think>\n\nYes.", False, ("hm, 1 < 2", "Yes."), id="both"),
    pytest.param("hm\n</think>Yes.", True, ("hm", "Yes."), id="opened-by-the-prompt"),
    pytest.param("<think>hm</think>Yes", True, ("<think>hm", "Yes"), id="opened-twice"),
    pytest.param(" Yes </think>", False, ("", " Yes </think>"), id="no-thinking"),
    pytest.param("<think>hm", False, ("hm", ""), id="never-closed"),
    pytest.param("<thi", False, ("", "<thi"), id="half-a-marker"),
    pytest.param("<think>hm</thin", False, ("hm</thin", ""), id="half-an-end"),
    pytest.param("<think>\n\n</think>\n\nYes", False, ("", "Yes"), id="empty"),
    pytest.param("A<think>b</think>", False, ("", "A<think>b</think>"), id="not-at-the-start"),
]


@pytest.mark.parametrize(("text", "is_open", "expected"), CASES)
def test_thinking_is_cut_off_the_answer(text, is_open, expected):
    """What stands before the closing marker is thinking, the rest is answer, and the white space between is neither."""
    assert expected == split(text, [], is_open=is_open)


@given(
    text=st.lists(st.sampled_from(["<think>", "</think>", "<", "think>", "a", " ", "\n", "</"]), max_size=10).map(
        "".join
    ),
    cuts=st.lists(st.integers(0, 99), max_size=10),
    is_open=st.booleans(),
)
def test_chunks_change_nothing(text, cuts, is_open):
    """The split does not depend on where the text is cut."""
    assert split(text, [], is_open=is_open) == split(text, cuts, is_open=is_open)
