"""Is every adapter of the configuration checked, and traceable to its line?"""

from pathlib import Path

import pytest

from hybrid.config import Loaded, load
from hybrid.errors import ConfigError


def _load(folder: Path, text: str) -> Loaded:
    path = folder / "hybrid.toml"
    path.write_text(text, encoding="utf-8")
    return load(path, {})


def test_adapters_are_read_with_their_paths(tmp_path):
    """Each [[lora]] is a table of its own; its path begins where the file lies, and every key knows its line."""
    text = '[[lora]]\nname = "a"\npath = "a.gguf"\n[[lora]]\nname = "b"\npath = "/x/b.gguf"\nscale = 0.5\n'
    result = _load(tmp_path, text)
    found = [(lora.name, lora.path, lora.scale) for lora in result.config.lora]
    assert [("a", f"{tmp_path}/a.gguf", 1.0), ("b", "/x/b.gguf", 0.5)] == found
    assert f"{tmp_path}/hybrid.toml:7" == result.origins["lora[1].scale"]
    assert "default" == result.origins["lora[0].scale"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param('[[lora]]\nname = "a"\n', "hybrid.toml:1: lora[0] lacks path", id="no-path"),
        pytest.param('[lora]\nname = "a"\n', "hybrid.toml:1: lora is a list of tables: write [[lora]]", id="one-table"),
        pytest.param('[[lora]]\nname = "A+"\npath = "a"\n', "hybrid.toml:2: lora.name: expected", id="no-name"),
        pytest.param(
            '[[lora]]\nname = "a"\npath = "a"\nscale = 1e9\n', "hybrid.toml:4: lora.scale: expected", id="scale"
        ),
        pytest.param(
            '[[lora]]\nname = "a"\npath = "a"\nrank = 1\n', "hybrid.toml:4: unknown key lora.rank", id="unknown"
        ),
        pytest.param(
            '[[lora]]\nname = "a"\npath = "a"\n[[lora]]\nname = "a"\npath = "b"\n',
            "hybrid.toml:5: lora[1].name: 'a' is the name of an earlier [[lora]]",
            id="twice",
        ),
        pytest.param(
            '[local]\nmodel = ""\n[[lora]]\nname = "a"\npath = "a"\n',
            "hybrid.toml:4: lora[0].name: an adapter is for local.model, which is empty",
            id="no-model",
        ),
    ],
)
def test_wrong_adapters_are_named(tmp_path, text, expected):
    """What is wrong with an adapter is told with its line."""
    with pytest.raises(ConfigError) as caught:
        _load(tmp_path, text)
    assert str(caught.value).replace(f"{tmp_path}/", "").startswith(expected)
