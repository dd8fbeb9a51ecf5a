"""Text is shown as soon as it can not have to be taken back, and not before."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybrid.engine.detokenize import Aside, Detokenizer


def _run(pieces: list[bytes], stop: tuple[str, ...] = ()) -> tuple[str, bool]:
    detokenizer = Detokenizer(stop)
    shown = "".join(detokenizer.push(piece) for piece in pieces)
    return shown + detokenizer.flush(), detokenizer.is_stopped


def test_half_a_character_waits_for_the_rest():
    """The bytes of one character split over two tokens appear together."""
    detokenizer = Detokenizer()

    assert detokenizer.push("ä".encode()[:1]) == ""
    assert detokenizer.push("ä".encode()[1:]) == "ä"


def test_broken_bytes_become_the_replacement_character_at_the_end():
    """A generation that ends inside a character shows U+FFFD, not an exception."""
    assert _run([b"a", b"\xe2\x82"]) == ("a\ufffd", False)


@pytest.mark.parametrize(
    ("pieces", "stop", "expected"),
    [
        pytest.param([b"one ", b"STOP two"], ("STOP",), "one ", id="inside-one-piece"),
        pytest.param([b"one S", b"TO", b"P two"], ("STOP",), "one ", id="over-three-pieces"),
        pytest.param([b"a", b"b", b"c"], ("c", "bc"), "a", id="earliest-of-two"),
        pytest.param([b"SSTOP"], ("STOP",), "S", id="overlapping-start"),
    ],
)
def test_stop_strings_end_the_text_and_are_not_shown(pieces, stop, expected):
    """Whatever the token borders are, text before the earliest stop string is shown and nothing from it on."""
    assert _run(pieces, stop) == (expected, True)


def test_what_only_looked_like_a_stop_string_is_shown_after_all():
    """A prefix of a stop string is held back and released when the next piece does not complete it."""
    detokenizer = Detokenizer(("STOP",))

    assert detokenizer.push(b"one ST") == "one "
    assert detokenizer.push(b"AR") == "STAR"


@given(st.text(max_size=60), st.lists(st.text(min_size=1, max_size=4), max_size=3), st.data())
def test_any_split_of_the_bytes_gives_the_same_text(text, stop, data):
    """However the bytes are cut into tokens, the shown text is that of the whole, cut at the earliest stop."""
    raw = text.encode("utf-8", "replace")
    cuts = sorted(data.draw(st.lists(st.integers(0, len(raw)), max_size=8)))
    pieces = [raw[a:b] for a, b in zip([0, *cuts], [*cuts, len(raw)], strict=True)]
    whole = raw.decode()
    ends = [whole.find(word) for word in stop if word in whole]
    # With several stop strings a token border can show one before an earlier, longer one is complete: the first
    # complete match counts. So the reference is the whole text fed at once only where a single stop is in play.
    if len(stop) <= 1:
        assert _run(pieces, tuple(stop)) == (whole[: min(ends, default=len(whole))], bool(ends))
    else:
        shown, is_stopped = _run(pieces, tuple(stop))

        assert whole.startswith(shown)
        assert is_stopped == bool(ends)


THOUGHT = "<think>one. two</think>"


@pytest.mark.parametrize(
    ("text", "is_open", "expected"),
    [
        pytest.param(f"{THOUGHT}three. four", False, f"{THOUGHT}three", id="it-opens-it"),
        pytest.param(f" \n{THOUGHT}three. four", False, f" \n{THOUGHT}three", id="after-white-space"),
        pytest.param("one. two</think>three. four", True, "one. two</think>three", id="the-prompt-opened-it"),
        pytest.param("one. two", True, None, id="it-never-ends"),
        pytest.param("one. <think>two", False, "one", id="an-answer-that-speaks-of-it"),
        pytest.param("<thin ice. two", False, "<thin ice", id="what-only-looked-like-it"),
        pytest.param("<thi", False, None, id="cut-off-in-the-marker"),
        pytest.param(f"{THOUGHT}three</think>. four", False, f"{THOUGHT}three</think>", id="a-second-end"),
    ],
)
@pytest.mark.parametrize("size", [1, 2, 3, 5, 8, 99])
def test_a_stop_string_ends_the_answer_and_not_the_thinking(text, is_open, expected, size):
    """In pieces of any size. Without one in the answer nothing stops, and everything is shown."""
    detokenizer = Detokenizer((".",), aside=Aside("<think>", "</think>", is_open=is_open))
    pieces = [text[at : at + size].encode() for at in range(0, len(text), size)]
    shown = "".join(detokenizer.push(piece) for piece in pieces) + detokenizer.flush()

    assert (text if expected is None else expected) == shown
    assert detokenizer.is_stopped == (expected is not None)
    assert len(shown) == detokenizer.shown_chars
