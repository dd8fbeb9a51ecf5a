"""Does a cloud's failure become the right error of ours, with its words and without our key?"""

from __future__ import annotations

from email.utils import formatdate

import pytest

from hybrid.errors import ProviderRejected, ProviderThrottled, ProviderTimeout, ProviderUnavailable
from hybrid.providers.failures import MESSAGE_CHARS, Failures, Fault
from hybrid.providers.hints import retry_after_s
from hybrid.providers.keys import Credential

from .calls import KEY

NOW_UNIX_S = 1_780_000_000.0

WAITS = [
    pytest.param({}, None, id="not-said"),
    pytest.param({"retry-after": "7"}, 7.0, id="seconds"),
    pytest.param({"retry-after": "0.5"}, 0.5, id="fraction"),
    pytest.param({"retry-after": "0"}, 0.0, id="at-once"),
    pytest.param({"retry-after-ms": "250"}, 0.25, id="milliseconds"),
    pytest.param({"retry-after-ms": "250", "retry-after": "7"}, 0.25, id="the-finer-one-counts"),
    pytest.param({"retry-after-ms": "soon", "retry-after": "7"}, 7.0, id="unreadable-milliseconds"),
    pytest.param({"retry-after": formatdate(NOW_UNIX_S + 90, usegmt=True)}, 90.0, id="date"),
    pytest.param({"retry-after": formatdate(NOW_UNIX_S - 90, usegmt=True)}, 0.0, id="date-that-passed"),
    pytest.param({"retry-after": formatdate(NOW_UNIX_S + 90)}, 90.0, id="date-with-unknown-zone"),
    pytest.param({"retry-after": "soon"}, None, id="unreadable"),
    pytest.param({"retry-after": f"Mon, 1 Jan {'9' * 20} 00:00:00 GMT"}, None, id="year-beyond-all-numbers"),
    pytest.param({"retry-after": f"Mon, 1 Jan 2024 00:00:00 +{'9' * 20}"}, None, id="zone-beyond-all-numbers"),
    pytest.param({"retry-after": "-1"}, None, id="negative"),
    pytest.param({"retry-after": "inf"}, None, id="infinite"),
    pytest.param({"retry-after": "nan"}, None, id="not-a-number"),
]


@pytest.mark.parametrize(("headers", "expected"), WAITS)
def test_retry_after_is_read_in_all_its_forms(headers, expected):
    """Seconds, milliseconds and dates become seconds; what cannot be read is not said."""
    assert expected == retry_after_s(headers, now_unix_s=NOW_UNIX_S)


FAULTS = [
    pytest.param(
        b'{"error":{"message":"no such model","code":"model_not_found"}}',
        "no such model (model_not_found)",
        id="openai",
    ),
    pytest.param(b'{"error":{"message":"no","type":"t","code":null}}', "no (t)", id="openai-without-code"),
    pytest.param(b'{"error":"plain"}', "plain", id="text-in-error"),
    pytest.param(b'{"message":"m","code":400}', "m", id="vllm"),
    pytest.param(b'{"detail":"Not Found"}', "Not Found", id="fastapi"),
    pytest.param(b'{"detail":[{"loc":["body"],"msg":"bad"}]}', '[{"loc":["body"],"msg":"bad"}]', id="fastapi-list"),
    pytest.param(b'{"odd":1}', '{"odd":1}', id="another-shape"),
    pytest.param(b"<html>\n <b>502</b></html>", "<html> <b>502</b></html>", id="html"),
    pytest.param(b"", "no explanation", id="nothing"),
    pytest.param(b"null", "no explanation", id="null"),
    pytest.param(b"caf\xc3", "caf\ufffd", id="not-utf8"),
]


@pytest.mark.parametrize(("body", "expected"), FAULTS)
def test_the_upstream_s_words_are_found(body, expected):
    """Whatever shape an error body has, a person reads what it says."""
    assert expected == Fault.from_body(body).message


STATUSES = [
    pytest.param(400, ProviderRejected, id="400"),
    pytest.param(401, ProviderRejected, id="401"),
    pytest.param(402, ProviderRejected, id="402"),
    pytest.param(403, ProviderRejected, id="403"),
    pytest.param(404, ProviderRejected, id="404"),
    pytest.param(408, ProviderTimeout, id="408"),
    pytest.param(413, ProviderRejected, id="413"),
    pytest.param(422, ProviderRejected, id="422"),
    pytest.param(429, ProviderThrottled, id="429"),
    pytest.param(500, ProviderUnavailable, id="500"),
    pytest.param(502, ProviderUnavailable, id="502"),
    pytest.param(503, ProviderUnavailable, id="503"),
    pytest.param(504, ProviderTimeout, id="504"),
    pytest.param(529, ProviderUnavailable, id="529"),
]


@pytest.mark.parametrize(("status", "expected"), STATUSES)
def test_every_status_has_its_error_and_keeps_the_hint(status, expected):
    """The caller's and the key's fault, the limit, the time and the server's own fault; all with Retry-After."""
    error = Failures("cloud").from_status(status, Fault("why"), 7.0)
    assert (expected, 7.0) == (type(error), error.retry_after_s)


def test_a_code_of_endless_digits_is_no_status():
    """Python refuses to read so long a number; the error is one of the provider's all the same."""
    assert Fault.from_json({"error": {"message": "no", "code": "9" * 5000}}).status is None
    assert Fault.from_json({"error": {"message": "no", "code": "429"}}).status == 429


def test_an_empty_account_is_no_rate_limit():
    """OpenAI says 429 for both; waiting does not fill an account, so this one is not retried."""
    fault = Fault.from_body(b'{"error":{"message":"pay","type":"insufficient_quota","code":"insufficient_quota"}}')
    error = Failures("cloud").from_status(429, fault, None)
    assert (ProviderRejected, False, 429) == (type(error), error.is_retryable, error.upstream_status)


def test_only_a_refusal_before_any_answer_cost_nothing():
    """A refused or throttled call is free; the same words inside a 200 came after tokens that may be billed."""
    failures, fault = Failures("cloud"), Fault("slow down", 429)
    assert not failures.from_status(429, fault, None).may_have_billed
    assert failures.from_fault(fault).may_have_billed


def test_the_key_is_cut_out_before_the_text_is_cut_short():
    """A key that lies across the cut would leave half of itself behind."""
    text = "x" * (MESSAGE_CHARS - 10) + KEY + "tail"
    error = Failures("cloud", Credential(KEY)).unavailable(text)
    assert "sk-canary" not in str(error)
    assert len(str(error)) < MESSAGE_CHARS + 20


def test_a_credential_shows_nothing():
    """Neither repr nor str gives the key away; only the header does."""
    credential = Credential(KEY)
    assert KEY not in f"{credential!r} {credential} {Failures('cloud', credential)!r}"
    assert {"authorization": f"Bearer {KEY}"} == credential.headers()
    assert {} == Credential(None).headers()


@pytest.mark.parametrize("key", ["", "sk-a\n", "sk a", "sk-\u00e9", "sk-\x00"], ids=repr)
def test_a_key_no_header_can_carry_is_refused_without_being_quoted(key):
    """An HTTP library would quote the header, key included, in its own error."""
    with pytest.raises(ValueError, match="the API key") as caught:
        Credential(key)
    assert not key or key not in str(caught.value)
