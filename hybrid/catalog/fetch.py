"""How do the bytes of a URL get into a file, going on where an interrupted fetch stopped?"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path

import httpx2
import msgspec

from hybrid.catalog.progress import OnProgress, Progress, human_bytes
from hybrid.errors import CatalogError

TIMEOUT = httpx2.Timeout(60.0, connect=15.0)

_CONTENT_RANGE = re.compile(r"bytes (\d+)-\d+/(\d+|\*)")
_WHOLE_SIZE = re.compile(r"bytes \*/(\d+)")
_UNSATISFIABLE = 416


class FetchFailed(CatalogError):
    """The bytes did not all come. `http_status` is None where there was no answer or it broke off."""

    def __init__(self, message: str, *, http_status: int | None = None) -> None:
        super().__init__(message)
        self.http_status = http_status


@dataclass(frozen=True, slots=True)
class Remote:
    """Something to fetch. `identity` names its content: bytes kept from another identity are not gone on with."""

    url: str
    identity: str
    total_bytes: int | None = None
    headers: Mapping[str, str] = field(default_factory=dict)


class _Kept(msgspec.Struct, frozen=True):
    """Written beside a partial file: whose bytes these are."""

    identity: str


def fetch(
    client: httpx2.Client,
    remote: Remote,
    partial: Path,
    on_progress: OnProgress,
    *,
    pauses_s: Sequence[float] = (0.5, 2.0, 5.0),
) -> None:
    """Fetch into `partial`, going on behind what it already holds; broken connections are taken up again.

    Args:
        pauses_s: how long to wait before each new try; the count starts over whenever bytes have come.
    Raises: FetchFailed; what came is kept. OSError if it cannot be written.
    """
    if identity_of(partial) != remote.identity:
        partial.unlink(missing_ok=True)
        _identity_path(partial).write_bytes(msgspec.json.encode(_Kept(remote.identity)))
    failures = 0
    while remote.total_bytes is None or size_of(partial) != remote.total_bytes:
        before_bytes = size_of(partial)
        try:
            with _open(client, remote, before_bytes) as response:
                _receive(response, remote, partial, on_progress)
            return
        except httpx2.TransportError as exc:
            failures = 1 if size_of(partial) > before_bytes else failures + 1
            if failures > len(pauses_s):
                raise _broken(remote, partial, exc) from exc
            time.sleep(pauses_s[failures - 1])
        except httpx2.HTTPError as exc:
            raise _broken(remote, partial, exc) from exc


def size_of(path: Path) -> int:
    """Return a file's size; 0 where there is none."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def identity_of(partial: Path) -> str | None:
    """Return whose bytes a partial file holds; None where that is not known."""
    try:
        return msgspec.json.decode(_identity_path(partial).read_bytes(), type=_Kept).identity
    except (OSError, msgspec.DecodeError):
        return None


def _identity_path(partial: Path) -> Path:
    return partial.with_name(f"{partial.name}.json")


def _open(client: httpx2.Client, remote: Remote, start: int) -> AbstractContextManager[httpx2.Response]:
    # No compression: ranges count the bytes of the file, and a .gguf does not shrink.
    headers = {**remote.headers, "Accept-Encoding": "identity"}
    if start:
        headers["Range"] = f"bytes={start}-"
    return client.stream("GET", remote.url, headers=headers, follow_redirects=True, timeout=TIMEOUT)


def _receive(response: httpx2.Response, remote: Remote, partial: Path, on_progress: OnProgress) -> None:
    start, total = _span(response)
    if response.status_code == _UNSATISFIABLE and size_of(partial):
        whole = _WHOLE_SIZE.fullmatch(response.headers.get("content-range", ""))
        if whole and int(whole[1]) == size_of(partial):
            return  # nobody told its size before: all of it had come already
        partial.unlink()
        raise httpx2.RemoteProtocolError("the server has fewer bytes than were kept; starting over")
    if response.is_error:
        host = response.url.host
        raise FetchFailed(
            f"{host} answered {response.status_code} {response.reason_phrase}", http_status=response.status_code
        )
    if remote.total_bytes is not None and total not in (None, remote.total_bytes):
        raise FetchFailed(
            f"{response.url.host} has a file of {total} bytes now, where {remote.total_bytes} were expected"
        )
    # A server that ignores Range starts at 0, whatever was kept.
    is_going_on = start > 0 and start == size_of(partial)
    if start > 0 and not is_going_on:
        raise FetchFailed(f"{response.url.host} sent bytes from {start} on, which were not asked for")
    done = start
    with partial.open("ab" if is_going_on else "wb", buffering=0) as out:
        on_progress(Progress(done, total))
        for chunk in response.iter_raw():
            _write_all(out.write, chunk)
            done += len(chunk)
            on_progress(Progress(done, total))
    # An answer without a length may end early and look whole: what is missing is asked for, as after a break.
    wanted = remote.total_bytes if total is None else total
    if wanted is not None and done != wanted:
        raise httpx2.RemoteProtocolError(f"{done} of {wanted} bytes came")


def _write_all(write: Callable[[memoryview], int | None], chunk: bytes) -> None:
    """Write a chunk unbuffered, so that what came is in the file however we end."""
    view = memoryview(chunk)
    while view:
        view = view[write(view) or 0 :]


def _span(response: httpx2.Response) -> tuple[int, int | None]:
    """Return where in the file this answer's bytes begin, and the whole file's size. Raises: FetchFailed."""
    if response.status_code == httpx2.codes.PARTIAL_CONTENT:
        matched = _CONTENT_RANGE.fullmatch(response.headers.get("content-range", ""))
        if matched is None:
            raise FetchFailed(f"{response.url.host} sent a part of the file without saying which")
        return int(matched[1]), None if matched[2] == "*" else int(matched[2])
    length = response.headers.get("content-length", "")
    return 0, int(length) if length.isdigit() else None


def _broken(remote: Remote, partial: Path, exc: httpx2.HTTPError) -> FetchFailed:
    host, kept_bytes = httpx2.URL(remote.url).host, size_of(partial)
    reason = str(exc) or type(exc).__name__
    if not kept_bytes:
        return FetchFailed(f"cannot reach {host}: {reason}")
    of_total = f" of {human_bytes(remote.total_bytes)}" if remote.total_bytes else ""
    return FetchFailed(
        f"the connection to {host} broke ({reason}); {human_bytes(kept_bytes)}{of_total} are kept, pull again"
    )
