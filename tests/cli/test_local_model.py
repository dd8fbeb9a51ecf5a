"""Is a configured model that cannot be had told by what is wrong with it, and pulled only where that helps?"""

from __future__ import annotations

from dataclasses import replace

import pytest

from hybrid.cli.local_model import local_model_file
from hybrid.config import Config, LocalConfig
from hybrid.errors import CatalogError
from tests.tiny_gguf import ENTRIES, UINT32, TinyGguf, entry


@pytest.fixture
def models(tmp_path, monkeypatch):
    """The models folder of an empty data folder."""
    monkeypatch.setenv("HYBRID_DATA_DIR", str(tmp_path))
    (tmp_path / "models").mkdir()
    return tmp_path / "models"


def complaint_of(model: str) -> str:
    """Ask for a model that cannot be had, and give the message."""
    with pytest.raises(CatalogError) as caught:
        local_model_file(Config(local=LocalConfig(model=model)), is_offline=False)
    return str(caught.value)


def test_a_folder_is_no_mistyped_name(models):
    """A folder is answered with the files in it, not with the catalogue."""
    (models / "mine.gguf").touch()
    assert "is a folder; name the .gguf file in it (mine.gguf)" in complaint_of(str(models))


def test_a_part_of_a_split_model_is_told_as_such(models):
    """A file of the models folder that cannot be loaded is not said to be missing from the catalogue."""
    entries = [entry(key, *value) for key, value in {**ENTRIES, "split.count": (UINT32, 3)}.items()]
    (models / "part.gguf").write_bytes(replace(TinyGguf(), entries=entries).build())
    assert "one of 3 parts" in complaint_of("part")


def test_a_changed_file_is_not_said_to_be_missing(models, capsys):
    """What lies under a catalogue name with other content is not announced as a pull."""
    (models / "smollm2-135m.gguf").write_bytes(TinyGguf().build())
    assert "is not the file that was pulled" in complaint_of("smollm2-135m")
    assert "pulling" not in capsys.readouterr().err


def test_an_unknown_name_is_answered_with_a_near_one(models):
    """Of what neither the folder nor the catalogue has, the nearest name is told."""
    assert "did you mean" in complaint_of("smollm2-135")
