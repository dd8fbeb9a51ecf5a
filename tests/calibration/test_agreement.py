"""Do samples agree where they say the same, and only there?"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybrid.calibration.agreement import SAME_TEXT, Agreement, agreement, normalised, similarity


def test_numbers_agree_by_value():
    """18, $18.00 and #### 18 are one answer; the first is in the largest group."""
    answers = ["so 18.", "#### 17", "It is $18.00", "#### 18", "no idea"]
    assert Agreement(0.6, True, "so 18.", (0, 1, 0, 0, 4)) == agreement(answers, "number")


def test_the_first_may_be_outvoted():
    """Then the majority is another answer, its earliest."""
    found = agreement(["1", "2", "the result is 2"], "number")
    assert (2 / 3, False, "2") == (found.share, found.first_agrees, found.majority)


def test_letters_agree_however_they_are_said():
    """Options are read as the scorer reads them."""
    found = agreement(["B", "The answer is (B)", "Paris", "C"], "choice", ["London", "Paris", "Rome"])
    assert (0.75, True, (0, 0, 0, 3)) == (found.share, found.first_agrees, found.groups)


def test_silence_agrees_with_nothing():
    """Three answers without a number are three answers."""
    assert Agreement(1 / 3, True, "hm", (0, 1, 2)) == agreement(["hm", "hm", "hm"], "number")


def test_texts_agree_but_for_a_few_letters():
    """Case, space and end punctuation do not count, a word more or less does little, another answer does."""
    answers = [
        "The capital of France is Paris.",
        "the capital  of France is Paris",
        "It rains.",
        "The capital of France: Paris",
    ]
    assert (0, 0, 2, 0) == agreement(answers, "text").groups
    assert 0.75 == agreement(answers, "text").share


def test_a_tie_goes_to_the_earliest():
    """Of groups of one size the one with the first answer is the majority."""
    assert Agreement(0.5, True, "1", (0, 1, 0, 1)) == agreement(["1", "2", "1", "2"], "number")


def test_empty_texts_do_not_agree():
    """Nothing said twice is not the same thing said twice."""
    assert (0, 1) == agreement(["", " . "], "text").groups


def test_no_answers_are_refused():
    """There is nothing to agree."""
    with pytest.raises(ValueError, match="needs an answer"):
        agreement([], "text")


@given(st.lists(st.sampled_from(["1", "2", "3", "x"]), min_size=1, max_size=8))
def test_agreement_of_any_sample(answers):
    """The share is a count over K, the majority is in the largest group, and each group is named by its first."""
    found = agreement(answers, "number")
    assert 1 / len(answers) <= found.share <= 1
    assert all(group <= at and found.groups[group] == group for at, group in enumerate(found.groups))
    assert found.majority in answers


def plain_distance(one: str, other: str) -> int:
    """Levenshtein's distance by its definition."""
    row = list(range(len(other) + 1))
    for at, a in enumerate(one, start=1):
        before, row = row, [at]
        for index, b in enumerate(other, start=1):
            row.append(min(before[index] + 1, row[-1] + 1, before[index - 1] + (a != b)))
    return row[-1]


@given(st.text("abc", max_size=30), st.text("abc", max_size=30))
def test_similarity_is_exact_where_it_counts(one, other):
    """At and above the line it is the edit distance's; below it is somewhere below."""
    longest = max(len(one), len(other), 1)
    expected = 1 - plain_distance(one, other) / longest
    found = similarity(one, other)
    if expected >= SAME_TEXT:
        assert pytest.approx(expected) == found
    else:
        assert found < SAME_TEXT
    assert similarity(other, one) == found


def test_long_texts_are_compared_word_by_word():
    """A tenth of the words changed is the same text, half of them is another; a runaway answer costs no more."""
    words = [f"word{at}" for at in range(5_000)]
    tenth = " ".join("x" if at % 10 == 0 else word for at, word in enumerate(words))
    half = " ".join("x" if at % 2 == 0 else word for at, word in enumerate(words))
    assert (0, 0, 2) == agreement([" ".join(words), tenth, half], "text").groups
    assert 500 == len(normalised(" ".join(words)).split())


def test_nothing_is_like_nothing():
    """Two empty texts differ in nothing."""
    assert 1.0 == similarity("", "")
