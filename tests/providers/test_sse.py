"""Does the event-stream parser find the same events however the network cuts the stream?"""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hybrid.providers.sse import SseEvent, SseParser

from .calls import cut, halves


def events_of(chunks, **options):
    """All events of a stream given in chunks, and what was wrong with it."""
    parser = SseParser(**options)
    events = [event for chunk in chunks for event in parser.feed(chunk)]
    parser.close()
    return events, parser.failure


STREAMS = [
    pytest.param(b"data: one\n\ndata: two\n\n", ["one", "two"], id="lf"),
    pytest.param(b"data: one\r\n\r\ndata: two\r\n\r\n", ["one", "two"], id="crlf"),
    pytest.param(b"data: one\r\rdata: two\r\r", ["one", "two"], id="cr"),
    pytest.param(b"data: one\r\n\ndata: two\n\r\r\n", ["one", "two"], id="all-line-ends-mixed"),
    pytest.param(b"\xef\xbb\xbfdata: one\n\n", ["one"], id="byte-order-mark"),
    pytest.param(b"\xef\xbb\xbf\xef\xbb\xbfdata: one\n\n", [], id="second-mark-is-content"),
    pytest.param(b": ping\n\n:\n\ndata: one\n: between\n\n", ["one"], id="comments"),
    pytest.param(b"data: one\ndata: two\ndata:\n\n", ["one\ntwo\n"], id="data-lines-joined"),
    pytest.param(b"data:one\n\ndata:  two\n\n", ["one", " two"], id="one-leading-blank-removed"),
    pytest.param(b"data\n\n", [""], id="field-without-colon"),
    pytest.param(b"id: 7\nretry: 10\nwhat: ever\ndata: one\n\n", ["one"], id="other-fields-ignored"),
    pytest.param(b"event: ping\n\ndata: one\n\n", ["one"], id="event-without-data-not-dispatched"),
    pytest.param(b"data: one\n\ndata: two\n", ["one"], id="unended-event-discarded"),
    pytest.param(
        "data: \u00e9\u20ac\U0001f600\n\n".encode(), ["\u00e9\u20ac\U0001f600"], id="two-three-and-four-byte-characters"
    ),
    pytest.param(b"\n\n\n", [], id="blank-lines"),
    pytest.param(b"", [], id="nothing"),
]


@pytest.mark.parametrize(("stream", "expected"), STREAMS)
def test_a_stream_is_read_as_the_standard_says_wherever_it_is_cut(stream, expected):
    """Every cut into two, and every single byte alone, gives the events of the uncut stream."""
    wanted = ([SseEvent("", data) for data in expected], None)
    assert wanted == events_of([stream])
    assert wanted == events_of(stream[at : at + 1] for at in range(len(stream)))
    assert all(wanted == events_of(pieces) for pieces in halves(stream))


@settings(deadline=None)
@given(
    lines=st.lists(
        st.sampled_from([b"data: a", b"data: \xc3\xa9", b": c", b"event: x", b"", b"", b"\xef\xbb\xbf", b"id"])
    ),
    ends=st.lists(st.sampled_from([b"\n", b"\r", b"\r\n"]), min_size=1),
    ats=st.lists(st.integers(min_value=0)),
)
def test_any_cuts_give_the_same_events(lines, ends, ats):
    """Any lines with any line ends, cut anywhere any number of times, give what the uncut stream gives."""
    stream = b"".join(line + ends[number % len(ends)] for number, line in enumerate(lines))
    assert events_of([stream]) == events_of(cut(stream, ats))


def test_an_event_carries_its_name():
    """The `event` field names the event it stands in, and not the next one."""
    assert ([SseEvent("error", "one"), SseEvent("", "two")], None) == events_of(
        [b"event: error\ndata: one\n\ndata: two\n\n"]
    )


@pytest.mark.parametrize("pieces", [b"data: caf\xc3", b"data: one\n\ndata: \xf0\x9f\x98"])
def test_half_a_character_at_the_end_is_a_failure(pieces):
    """A stream that ends inside a UTF-8 character was cut off, and says so."""
    assert "the stream ends in the middle of a UTF-8 character" == events_of([pieces])[1]


def test_bytes_that_are_no_utf8_are_a_failure_and_not_replaced():
    """What came before the bad bytes is kept; nothing after them is read."""
    assert ([SseEvent("", "one")], "the stream holds bytes that are not UTF-8") == events_of(
        [b"data: one\n\ndata: \xff\n\ndata: two\n\n"]
    )


@pytest.mark.parametrize(
    "stream",
    [
        pytest.param(b"data: " + b"x" * 40, id="line-without-end"),
        pytest.param(b"data: xxxx\n" * 4 + b"\n", id="many-data-lines"),
        pytest.param(b": " + b"x" * 40 + b"\n", id="comment"),
        pytest.param(b"event: " + b"x" * 40 + b"\n\n", id="name"),
    ],
)
def test_an_event_larger_than_the_bound_is_a_failure_however_it_is_cut(stream):
    """Nothing larger than the bound is kept in memory, and the cuts do not decide which stream fails."""
    wanted = ([], "one event is larger than 32 bytes")
    assert all(wanted == events_of(pieces, max_event_bytes=32) for pieces in halves(stream))


def test_many_small_events_are_not_one_large_one():
    """The bound is on one event: it starts anew with each."""
    assert 100 == len(events_of([b"data: xxxx\n\n" * 100], max_event_bytes=32)[0])
