"""Are the `x-hybrid-*` headers read strictly and written safely?"""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal

import pytest

from hybrid.errors import InvalidRequest
from hybrid.server.hybrid_headers import Wishes, duration, head_headers, head_object, read_wishes, safe_value
from hybrid.types import PolicyChoice, Priority

from .scripted import HEAD, TAIL


def test_no_wishes():
    """Other headers are none of ours."""
    assert Wishes() == read_wishes([(b"content-type", b"application/json")])


def test_all_wishes():
    """Policy, deadline, cost bound and tag are read, and that one was sent is remembered."""
    expected = Wishes(
        policy=PolicyChoice.LOCAL_ONLY,
        deadline_s=1.5,
        priority=Priority.HIGH,
        max_cost_usd=Decimal("0.02"),
        min_quality=0.85,
        tag="größe",
        is_any=True,
    )
    assert expected == read_wishes(
        [
            (b"x-hybrid-policy", b"Local-Only"),
            (b"x-hybrid-deadline-ms", b"1500"),
            (b"x-hybrid-priority", b"High"),
            (b"x-hybrid-max-cost-usd", b"0.02"),
            (b"x-hybrid-min-quality", b"0.85"),
            (b"x-hybrid-tag", "größe".encode()),
        ]
    )


@pytest.mark.parametrize(
    ("name", "value"),
    [
        pytest.param(b"x-hybrid-policy", b"local", id="policy"),
        pytest.param(b"x-hybrid-polcy", b"local-only", id="misspelt"),
        pytest.param(b"x-hybrid-request-id", b"1", id="response-header"),
        pytest.param(b"x-hybrid-priority", b"urgent", id="no-such-priority"),
        pytest.param(b"x-hybrid-deadline-ms", b"0", id="no-time"),
        pytest.param(b"x-hybrid-deadline-ms", b"-5", id="past"),
        pytest.param(b"x-hybrid-deadline-ms", b"1e3", id="exponent"),
        pytest.param(b"x-hybrid-deadline-ms", b"9" * 5000, id="endless"),
        pytest.param(b"x-hybrid-deadline-ms", "\u0661".encode(), id="arabic-digit"),
        pytest.param(b"x-hybrid-max-cost-usd", b"-1", id="negative"),
        pytest.param(b"x-hybrid-max-cost-usd", b"NaN", id="nan"),
        pytest.param(b"x-hybrid-max-cost-usd", b"Infinity", id="infinite"),
        pytest.param(b"x-hybrid-max-cost-usd", b"1e9", id="cost-exponent"),
        pytest.param(b"x-hybrid-max-cost-usd", b"", id="empty"),
        pytest.param(b"x-hybrid-min-quality", b"1.1", id="better-than-right"),
        pytest.param(b"x-hybrid-min-quality", b"85%", id="per-cent"),
        pytest.param(b"x-hybrid-tag", b"", id="empty-tag"),
        pytest.param(b"x-hybrid-tag", b"t" * 129, id="long-tag"),
        pytest.param(b"x-hybrid-tag", b"a\tb", id="control"),
        pytest.param(b"x-hybrid-tag", b"\xff", id="not-utf-8"),
    ],
)
def test_bad_wishes(name: bytes, value: bytes):
    """A wish we cannot grant exactly is a 400 that names the header."""
    with pytest.raises(InvalidRequest) as caught:
        read_wishes([(name, value)])
    assert name.decode() == caught.value.param


def test_twice():
    """Two policies are a contradiction, not a choice."""
    with pytest.raises(InvalidRequest, match="twice"):
        read_wishes([(b"x-hybrid-policy", b"auto"), (b"x-hybrid-policy", b"local-only")])


def test_head_as_headers():
    """What is known is written, with four decimals of confidence and whether it means anything; the rest is absent."""
    expected = {
        b"x-hybrid-request-id": b"r-1",
        b"x-hybrid-route": b"local",
        b"x-hybrid-model": b"local/smollm2",
        b"x-hybrid-reason": b"default",
        b"x-hybrid-confidence": b"0.7322",
        b"x-hybrid-calibration": b"uncalibrated",
        b"x-hybrid-cost-usd": b"0",
        b"x-hybrid-saved-usd": b"0.00012",
        b"x-hybrid-overhead-ms": b"1.20",
    }
    assert expected == dict(head_headers(TAIL.head))


def test_a_tiny_cost_is_written_plainly():
    """A tenth of a microdollar has no exponent, and is not zero."""
    head = replace(HEAD, cost_usd=Decimal("1E-7"), is_calibrated=True, degraded="cloud_failure")
    headers = dict(head_headers(head))
    assert headers[b"x-hybrid-cost-usd"] == b"0.0000001"
    assert (headers[b"x-hybrid-calibration"], headers[b"x-hybrid-degraded"]) == (b"calibrated", b"cloud_failure")


def test_unknown_confidence_has_no_calibration():
    """Where there is no score there is nothing to calibrate."""
    head = replace(HEAD, confidence=None)
    assert not {b"x-hybrid-confidence", b"x-hybrid-calibration"} & set(dict(head_headers(head)))
    assert head_object(head)["calibration"] is None


def test_hostile_text_adds_no_header():
    """Line breaks, controls and other scripts become question marks, and length is bounded."""
    assert safe_value("a\r\nx-evil: 1\x00é") == b"a??x-evil: 1??"
    assert len(safe_value("x" * 10_000)) == 256


@pytest.mark.parametrize(
    ("span_s", "expected"),
    [
        pytest.param(0.0, "0s", id="nothing"),
        pytest.param(0.0000001, "0s", id="less-than-a-clock-tells"),
        pytest.param(0.0121, "13ms", id="rounded-up"),
        pytest.param(0.9999, "1s", id="up-to-a-second"),
        pytest.param(1.5, "1.5s", id="with-a-fraction"),
        pytest.param(60, "1m0s", id="a-minute"),
        pytest.param(360, "6m0s", id="as-in-their-manual"),
        pytest.param(61.25, "1m1.25s", id="more"),
    ],
)
def test_spans_are_written_as_theirs(span_s, expected):
    """The reset headers hold a span in the form of OpenAI's."""
    assert expected == duration(span_s)
