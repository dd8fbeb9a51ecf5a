"""How does a test stand in for a package index and a model hub, on loopback, with the faults it wants?"""

from __future__ import annotations

import hashlib
import io
import re
import threading
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from hybrid.catalog.cards import Card, HuggingFaceSource, Source

COMMIT = "c" * 40
REPO, FILE = "someone/tiny-GGUF", "tiny.gguf"
WHEEL = "tiny_model-1.0-py3-none-any.whl"


@dataclass
class Faults:
    """What goes wrong. break_after: bytes after which a download's connection drops, `break_times` times.

    stall_after: bytes after which a download stands still until `go_on` is set; `has_stalled` says it does.
    """

    break_after: int | None = None
    break_times: int = 0
    stall_after: int | None = None
    has_stalled: threading.Event = field(default_factory=threading.Event)
    go_on: threading.Event = field(default_factory=threading.Event)
    ignores_range: bool = False
    only_pip: bool = False
    redirect_to: str | None = None


@dataclass
class Loopback:
    """A running stand-in: what it serves by path, how it misbehaves, and the requests it saw."""

    port: int = 0
    files: dict[str, bytes] = field(default_factory=dict)
    faults: Faults = field(default_factory=Faults)
    seen: list[tuple[str, str, dict[str, str]]] = field(default_factory=list)

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def ranges(self) -> list[str | None]:
        """The Range header of each download, in order."""
        return [headers.get("range") for method, path, headers in self.seen if method == "GET" and path in self.files]

    def serve_model(self, content: bytes) -> None:
        """Put a file on the hub, at a commit and on its branch `main`."""
        for revision in (COMMIT, "main"):
            self.files[f"/{REPO}/resolve/{revision}/{FILE}"] = content

    def serve_wheel(self, wheel: bytes) -> None:
        """Put a wheel on the index."""
        self.files[f"/files/{WHEEL}"] = wheel


@contextmanager
def running() -> Iterator[Loopback]:
    """Run a stand-in on a free port of 127.0.0.1."""
    state = Loopback()

    class Handler(_Handler):
        loopback = state

    server = _Server(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    state.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield state
    finally:
        state.faults.go_on.set()
        server.shutdown()
        thread.join()
        server.server_close()


class _Server(ThreadingHTTPServer):
    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing of clients that were killed on purpose."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    loopback: Loopback

    def do_HEAD(self) -> None:
        """Answer metadata as a hub does: commit, ETag and size in headers."""
        self._note()
        if (content := self._find()) is not None:
            self.send_response(200)
            self._describe(content)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()

    def do_GET(self) -> None:
        """Answer the simple index page, or a download with the faults of the moment."""
        self._note()
        if self.path == "/simple/tiny-model/":
            self._send(f'<a href="/files/{WHEEL}">{WHEEL}</a>'.encode(), "text/html")
            return
        faults = self.loopback.faults
        if faults.redirect_to and self.path.startswith(f"/{REPO}"):
            self.send_response(302)
            self.send_header("Location", f"{faults.redirect_to}{self.path}")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        content = self._find()
        if content is None:
            return
        if faults.only_pip and not self.headers["User-Agent"].startswith("pip/"):
            self._refuse(403)
            return
        self._download(content, faults)

    def _download(self, content: bytes, faults: Faults) -> None:
        matched = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range") or "")
        start = int(matched[1]) if matched and not faults.ignores_range else 0
        if start >= len(content):
            self._refuse(416, {"Content-Range": f"bytes */{len(content)}"})
            return
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        body = content[start:]
        if faults.break_after is not None and faults.break_times > 0:
            faults.break_times -= 1
            self.wfile.write(body[: faults.break_after])
            self.close_connection = True
        elif faults.stall_after is not None:
            self._stall(body, faults.stall_after, faults)
        else:
            self.wfile.write(body)

    def _stall(self, body: bytes, after: int, faults: Faults) -> None:
        self.wfile.write(body[:after])
        self.wfile.flush()
        faults.has_stalled.set()
        faults.go_on.wait()
        try:
            self.wfile.write(body[after:])
        except OSError:
            self.close_connection = True

    def _find(self) -> bytes | None:
        content = self.loopback.files.get(self.path)
        if content is None:
            self._refuse(
                404, {"X-Error-Code": "EntryNotFound"} if REPO in self.path else {"X-Error-Code": "RepoNotFound"}
            )
        return content

    def _describe(self, content: bytes) -> None:
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')

    def _refuse(self, status: int, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _send(self, body: bytes, content_type: str) -> None:
        self.send_response(200)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _note(self) -> None:
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.loopback.seen.append((self.command, self.path, headers))

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class names it
        """Say nothing."""


def wheel_of(members: dict[str, bytes]) -> bytes:
    """Make a wheel that pip takes, holding these files."""
    out = io.BytesIO()
    info = "tiny_model-1.0.dist-info"
    with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
        archive.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: tiny-model\nVersion: 1.0\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    return out.getvalue()


HUB_SOURCE = HuggingFaceSource(REPO, FILE, COMMIT)


def card_of(content: bytes, source: Source = HUB_SOURCE, **changes: object) -> Card:
    """Make a card that promises exactly this content."""
    facts: dict[str, object] = {
        "name": "tiny",
        "title": "Tiny",
        "family": "Tiny",
        "parameters": 192,
        "quantisation": "Q4_0",
        "licence": "Apache-2.0",
        "bytes": len(content),
        "context_tokens": 2048,
        "sha256": hashlib.sha256(content).hexdigest(),
        "description": "For tests.",
        "source": source,
    }
    return Card(**(facts | changes))  # type: ignore[arg-type]
