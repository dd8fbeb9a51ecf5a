"""Which file is the configured local model? Found on disk, or fetched with a progress bar where that is allowed."""

from __future__ import annotations

import sys
from pathlib import Path

from hybrid.catalog import load_cards, pull, resolve
from hybrid.catalog.shelf import places
from hybrid.config import Config, data_dir
from hybrid.errors import CatalogError, ConfigError, ModelFileError
from hybrid.gguf import read_header


def local_model_file(config: Config, *, is_offline: bool) -> Path | None:
    """Give the checked file of `local.model`; None where none is configured or the backend needs none.

    A catalog model that is not on disk yet is pulled, with the same progress bar as `hybrid models pull`.

    Raises: CatalogError if it cannot be found or fetched, ModelFileError if it is no sound GGUF.
    """
    if not config.local.model:
        return None
    if config.local.backend == "fake":
        template = Path(config.local.model)  # what stands in for a model may speak by a chat template of the tester's
        return template if template.is_file() else None
    return _model_file(config.local.model, is_offline=is_offline)


def check_embedding_model(config: Config, *, is_offline: bool) -> None:
    """See that `local.embedding_model` is on disk and sound, pulling it if need be: it is loaded when asked for.

    Raises: CatalogError or ModelFileError, as `local_model_file` does.
    """
    if config.local.embedding_model and config.local.backend != "fake":
        _model_file(config.local.embedding_model, is_offline=is_offline)


def check_models_are_known(config: Config) -> None:
    """See that each model of `[local]` is in the catalogue, or its file here and sound; nothing is pulled.

    Raises: ConfigError that names the key.
    """
    if config.local.backend == "fake":
        return
    for key in ("model", "draft_model", "embedding_model"):
        name: str = getattr(config.local, key)
        try:
            if name and name not in load_cards():
                resolve(name, data_dir() / "models")
        except (CatalogError, ModelFileError) as unknown:
            raise ConfigError(f"local.{key}: {unknown}") from unknown


def _model_file(model: str, *, is_offline: bool) -> Path:
    folder = data_dir() / "models"
    try:
        path = resolve(model, folder)
    except CatalogError:
        # Only what the catalogue has and this machine lacks can be pulled; of all else the error says what is wrong.
        card = load_cards().get(model)
        if is_offline or card is None or places(model, folder).file.exists():
            raise
        print(f"{card.name} is not on this machine yet; pulling it once", file=sys.stderr)
        from hybrid.cli.models import shown

        with shown(card.name) as (on_progress, on_note):
            path = pull(card, folder, is_offline=False, on_progress=on_progress, on_note=on_note)
    read_header(path)
    return path
