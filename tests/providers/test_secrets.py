"""Does the key go into its header and nowhere else?"""

from __future__ import annotations

import logging

import pytest

from hybrid import errors
from hybrid.providers.base import Timeouts
from hybrid.providers.fake import Answer, FakeProvider, Fault
from hybrid.providers.keys import Credential
from hybrid.providers.openai import OpenAIProvider
from hybrid.providers.transport import Transport

from .calls import KEY, call, failure, outcome, provider_at, run


@pytest.mark.parametrize(
    "base_url",
    ["", "api.example/v1", "ftp://api.example", "http://", f"https://user:{KEY}@api.example/v1", f"https://{KEY}@x/v1"],
)
def test_a_base_url_that_cannot_work_is_refused_without_quoting_it(base_url):
    """No scheme, no host, or a password in it: said when it is configured, and not with the password."""
    with pytest.raises(ValueError, match="cloud: base_url") as caught:
        OpenAIProvider("cloud", base_url=base_url, api_key=None)
    assert KEY not in str(caught.value)


def test_the_key_appears_in_nothing_but_the_header(caplog):
    """A server that quotes the key in every kind of failure gets it into no text, repr, cause or log record of ours."""
    quoted = {"error": {"message": f"key {KEY} is wrong", "code": f"code-{KEY}"}}
    script = [
        Answer(status=401, error=quoted),
        Answer(status=500, error=quoted),
        Answer(fault=Fault.ERROR_OBJECT, error=quoted),
        Answer(raw=f'data: {{"choices": "{KEY}"}}\n\n'.encode()),
        Answer(raw=f'data: {{"choices": [{{"finish_reason": "{KEY}"}}]}}\n\n'.encode(), fault=Fault.CUT),
        Answer(fault=Fault.RESET),
    ]

    async def scenario():
        async with FakeProvider(script) as fake, provider_at(fake.base_url) as provider:
            found = [(await outcome(provider, call()))[1] for _ in script]
            return found, repr(provider), fake.requests[0].headers["authorization"]

    # At the root: the HTTP library's own records are read as well.
    with caplog.at_level(logging.DEBUG):
        found, shown, header = run(scenario())
    assert f"Bearer {KEY}" == header
    texts = [shown, caplog.text]
    for error in found:
        assert isinstance(error, errors.ProviderError)
        texts += [str(error), repr(error), repr(error.args), repr(vars(error))]
    assert [] == [text for text in texts if KEY in text]


HEADERS = [
    pytest.param(
        Answer(status=307, headers={"location": f"https://{KEY}.example/"}),
        "refused with HTTP 307: it redirects to [redacted].example; set base_url to where the API is",
        id="location",
    ),
    pytest.param(
        Answer(raw=b"", content_type=f"text/{KEY}"),
        "answered 'text/[redacted]' where JSON or an event stream was expected",
        id="content-type",
    ),
]


@pytest.mark.parametrize(("answer", "expected"), HEADERS)
def test_a_header_that_quotes_the_key_is_told_without_it(answer, expected):
    """Not even a header that the provider made up for it gets the key into our error."""
    assert f"cloud: {expected}" == str(failure(answer))


def test_a_transport_shows_its_host_and_not_its_key():
    """The repr that a debugger or a log prints."""
    transport = Transport("cloud", base_url="https://api.example/v1", credential=Credential(KEY), timeouts=Timeouts())
    assert "Transport('cloud', host='api.example')" == repr(transport)
