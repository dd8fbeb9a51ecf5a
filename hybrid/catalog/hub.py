"""How does a model file come from Hugging Face? huggingface-hub finds it, `fetch` resumes it.

huggingface-hub's own download (2.x) throws a partial file away when it is interrupted, and gigabytes with it. So it is
asked only where the file is, what it hashes to and for its client: HF_ENDPOINT, HF_HUB_OFFLINE, proxies and the user's
token keep their meaning. The price is its parallel Xet transfer; the plain one can be gone on with to the byte.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import httpx2

from hybrid.catalog.cards import HuggingFaceSource
from hybrid.catalog.fetch import Remote, fetch
from hybrid.catalog.progress import OnProgress
from hybrid.errors import CatalogError

_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class HubFile:
    """What the hub says of a file: the commit its revision means now, its size and (large files) its SHA-256."""

    url: str
    commit: str | None
    bytes: int | None
    sha256: str | None


def find_on_hub(source: HuggingFaceSource) -> HubFile:
    """Ask the hub which file is meant.

    Raises: CatalogError that says whether it is the network, the name, the revision or access.
    """
    # Imported here: it takes as long as all the rest of `hybrid models`, and most commands need none of it.
    from huggingface_hub import get_hf_file_metadata, hf_hub_url
    from huggingface_hub.errors import HFValidationError, OfflineModeIsEnabled

    _switch_telemetry_off()
    try:
        url = hf_hub_url(source.repo, source.file, revision=source.revision)
        found = get_hf_file_metadata(url)
        pinned_url = hf_hub_url(source.repo, source.file, revision=found.commit_hash or source.revision)
    except OfflineModeIsEnabled as exc:
        raise CatalogError("HF_HUB_OFFLINE is set, so Hugging Face is not asked; unset it to pull") from exc
    except httpx2.HTTPError as exc:
        raise _explained(source, exc) from exc
    except (HFValidationError, ValueError) as exc:
        raise CatalogError(f"{source} cannot be asked for: {exc}") from exc
    etag = found.etag or ""
    return HubFile(pinned_url, found.commit_hash, found.size, etag if _SHA256.fullmatch(etag) else None)


def fetch_from_hub(found: HubFile, partial: Path, on_progress: OnProgress) -> None:
    """Fetch a file that the hub has named, going on with what `partial` holds of the same content.

    Raises: CatalogError; what came is kept.
    """
    from huggingface_hub import get_session
    from huggingface_hub.errors import OfflineModeIsEnabled
    from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]  # documented, not in __all__

    _switch_telemetry_off()
    remote = Remote(found.url, found.sha256 or found.url, found.bytes, build_hf_headers())
    try:
        fetch(get_session(), remote, partial, on_progress)
    except OfflineModeIsEnabled as exc:
        raise CatalogError("HF_HUB_OFFLINE is set, so Hugging Face is not asked; unset it to pull") from exc


def _switch_telemetry_off() -> None:
    """Keep huggingface-hub from asking its server, once a day, which coding agents to look for and report."""
    from huggingface_hub import constants

    constants.HF_HUB_DISABLE_TELEMETRY = True


def _explained(source: HuggingFaceSource, exc: httpx2.HTTPError) -> CatalogError:
    """Say in our words what the hub refused; the order matters, a gated repository is a kind of missing one."""
    from huggingface_hub.errors import (
        EntryNotFoundError,
        GatedRepoError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    if isinstance(exc, GatedRepoError):
        return CatalogError(f"{source} wants its licence accepted on its page first, and then a token: `hf auth login`")
    if isinstance(exc, RepositoryNotFoundError):
        return CatalogError(
            f"there is no {source} for you: it was removed, or is private and your token does not open it"
        )
    if isinstance(exc, RevisionNotFoundError):
        return CatalogError(f"{source} has no revision {source.revision}")
    if isinstance(exc, EntryNotFoundError):
        return CatalogError(f"{source} has no file {source.file} at revision {source.revision}")
    if isinstance(exc, httpx2.HTTPStatusError):
        return CatalogError(f"Hugging Face answered {exc.response.status_code} for {source}; try again later")
    return CatalogError(f"cannot reach Hugging Face ({str(exc) or type(exc).__name__}); pull again later")
