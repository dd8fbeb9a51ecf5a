"""Do all bytes of a URL get into the file, whatever the connection does, and are kept ones gone on with?"""

from __future__ import annotations

import httpx2
import pytest

from hybrid.catalog.fetch import FetchFailed, Remote, fetch
from hybrid.catalog.progress import Progress, ignore

CONTENT = bytes(range(256)) * 1000
PATH = "/files/thing"


@pytest.fixture
def client():
    """An HTTP client that is closed again."""
    with httpx2.Client() as made:
        yield made


@pytest.fixture
def remote(loopback):
    """The thing to fetch, served whole."""
    loopback.files[PATH] = CONTENT
    return Remote(f"{loopback.url}{PATH}", "thing-1", len(CONTENT))


def test_a_whole_file_comes_with_progress(client, remote, tmp_path):
    """Progress begins at nothing and ends at everything."""
    told: list[Progress] = []
    fetch(client, remote, tmp_path / "part", told.append)
    assert CONTENT == (tmp_path / "part").read_bytes()
    assert (Progress(0, len(CONTENT)), Progress(len(CONTENT), len(CONTENT))) == (told[0], told[-1])


def test_a_broken_connection_is_taken_up_where_it_broke(client, remote, loopback, tmp_path):
    """Twice dropped, the rest is asked for by range each time, and nothing is fetched twice."""
    loopback.faults.break_after, loopback.faults.break_times = 100_000, 2
    fetch(client, remote, tmp_path / "part", ignore, pauses_s=(0,))
    assert CONTENT == (tmp_path / "part").read_bytes()
    assert [None, "bytes=100000-", "bytes=200000-"] == loopback.ranges


def test_it_gives_up_and_keeps_what_came(client, remote, loopback, tmp_path):
    """When no new bytes come any more, the message says how much is kept; the next fetch goes on there."""
    loopback.faults.break_after, loopback.faults.break_times = 100_000, 1
    with pytest.raises(FetchFailed, match="cannot reach"):
        fetch(client, Remote("http://127.0.0.1:9/x", "thing-1", len(CONTENT)), tmp_path / "part", ignore, pauses_s=())
    with pytest.raises(FetchFailed, match="100 kB of 256 kB are kept"):
        fetch(client, remote, tmp_path / "part", ignore, pauses_s=())
    fetch(client, remote, tmp_path / "part", ignore, pauses_s=())
    assert CONTENT == (tmp_path / "part").read_bytes()
    assert "bytes=100000-" == loopback.ranges[-1]


def test_other_content_is_not_gone_on_with(client, remote, loopback, tmp_path):
    """Bytes kept of another version are dropped: two halves of two files make no file."""
    loopback.faults.break_after, loopback.faults.break_times = 100_000, 1
    with pytest.raises(FetchFailed):
        fetch(client, remote, tmp_path / "part", ignore, pauses_s=())
    newer = Remote(remote.url, "thing-2", len(CONTENT))
    fetch(client, newer, tmp_path / "part", ignore, pauses_s=())
    assert [None, None] == loopback.ranges
    assert CONTENT == (tmp_path / "part").read_bytes()


def test_bytes_of_unknown_origin_are_not_gone_on_with(client, remote, loopback, tmp_path):
    """A partial file that nobody vouches for is dropped."""
    (tmp_path / "part").write_bytes(b"not ours")
    fetch(client, remote, tmp_path / "part", ignore)
    assert [None] == loopback.ranges
    assert CONTENT == (tmp_path / "part").read_bytes()


def test_a_server_without_ranges_sends_it_all_again(client, remote, loopback, tmp_path):
    """An answer of 200 to a range request replaces what was kept instead of being added to it."""
    loopback.faults.break_after, loopback.faults.break_times, loopback.faults.ignores_range = 100_000, 1, True
    fetch(client, remote, tmp_path / "part", ignore, pauses_s=(0,))
    assert CONTENT == (tmp_path / "part").read_bytes()


def test_more_than_there_is_was_kept(client, loopback, tmp_path):
    """A server that has fewer bytes than were kept makes the fetch start over."""
    loopback.files[PATH] = CONTENT
    remote = Remote(f"{loopback.url}{PATH}", "thing-1")
    fetch(client, remote, tmp_path / "part", ignore)
    with (tmp_path / "part").open("ab") as file:
        file.write(b"too much")
    fetch(client, remote, tmp_path / "part", ignore, pauses_s=(0,))
    assert CONTENT == (tmp_path / "part").read_bytes()


def test_what_is_whole_is_not_fetched_again(client, remote, loopback, tmp_path):
    """A complete partial file costs no request."""
    fetch(client, remote, tmp_path / "part", ignore)
    fetch(client, remote, tmp_path / "part", ignore)
    assert 1 == len(loopback.ranges)


def test_what_is_whole_is_kept_where_its_size_was_never_told(client, loopback, tmp_path):
    """A wheel that came and was not unpacked any more costs one refused request, and is not fetched again."""
    loopback.files[PATH] = CONTENT
    remote = Remote(f"{loopback.url}{PATH}", "thing-1")
    fetch(client, remote, tmp_path / "part", ignore)
    fetch(client, remote, tmp_path / "part", ignore, pauses_s=())
    assert CONTENT == (tmp_path / "part").read_bytes()
    assert [None, f"bytes={len(CONTENT)}-"] == loopback.ranges


def test_an_answer_that_ends_early_is_gone_on_with(tmp_path):
    """Without a length an answer that is cut looks whole; the promised size says that the rest must be asked for."""

    def answer(request: httpx2.Request) -> httpx2.Response:
        start = int(request.headers.get("range", "bytes=0-")[len("bytes=") : -1])
        if start == 0:
            return httpx2.Response(200, content=iter([CONTENT[:1000]]))
        headers = {"content-range": f"bytes {start}-{len(CONTENT) - 1}/*"}
        return httpx2.Response(206, headers=headers, content=iter([CONTENT[start:]]))

    with httpx2.Client(transport=httpx2.MockTransport(answer)) as client:
        fetch(client, Remote("https://x.test/a", "thing-1", len(CONTENT)), tmp_path / "part", ignore, pauses_s=(0,))
    assert CONTENT == (tmp_path / "part").read_bytes()


def test_a_part_that_does_not_say_which_is_refused(tmp_path):
    """A 206 without its range is not written over what was kept."""

    def answer(request: httpx2.Request) -> httpx2.Response:
        return httpx2.Response(206 if "range" in request.headers else 200, content=iter([CONTENT[:1000]]))

    with (
        httpx2.Client(transport=httpx2.MockTransport(answer)) as client,
        pytest.raises(FetchFailed, match="without saying which"),
    ):
        fetch(client, Remote("https://x.test/a", "thing-1", len(CONTENT)), tmp_path / "part", ignore, pauses_s=(0,))
    assert CONTENT[:1000] == (tmp_path / "part").read_bytes()


def test_a_refusal_carries_its_status(client, loopback, tmp_path):
    """A 404 is told as such and not tried again."""
    with pytest.raises(FetchFailed, match=r"127\.0\.0\.1 answered 404") as caught:
        fetch(client, Remote(f"{loopback.url}/gone", "gone"), tmp_path / "part", ignore)
    assert 404 == caught.value.http_status


def test_another_size_than_promised_is_refused(client, loopback, tmp_path):
    """A file that was replaced at its source is noticed before it is downloaded."""
    loopback.files[PATH] = CONTENT
    with pytest.raises(FetchFailed, match="256000 bytes now, where 5 were expected"):
        fetch(client, Remote(f"{loopback.url}{PATH}", "thing-1", 5), tmp_path / "part", ignore)
