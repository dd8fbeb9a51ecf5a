"""What is saved of a prompt is found again, read only when it is sound and ours, and bounded in bytes."""

import os
import stat
import struct

import numpy as np
import pytest

from hybrid.engine.prompt_file import Identity, SavedPrompt, name_weights, read_prompt, write_prompt
from hybrid.engine.prompt_store import BLOCK_TOKENS, Found, PromptStore
from hybrid.errors import LocalFailure

IDENTITY = Identity("model", "template", 4096, "cells 1")
TOKENS = np.arange(300, dtype=np.int32)


def _saved(tokens=TOKENS, isolation="ann", size=1000):
    return SavedPrompt(isolation, tokens, bytes(range(250)) * (size // 250))


def _store(folder, *, identity=IDENTITY, max_bytes=1 << 20):
    return PromptStore(folder, identity, max_bytes=max_bytes)


def _keep(store, prompt):
    store.save(prompt)
    return store.add(prompt.tokens, prompt.isolation)


def test_a_restart_finds_the_longest_saved_beginning(tmp_path):
    """Another store on the same folder finds a longer prompt's beginning by whole blocks and reads what was saved."""
    name = _keep(_store(tmp_path), _saved())
    again = _store(tmp_path)
    prompt = np.concatenate([TOKENS, TOKENS])

    assert again.find(prompt, "ann") == Found(name, 300 // BLOCK_TOKENS * BLOCK_TOKENS)
    assert again.find(prompt[:100], "ann") == Found(name, 96)
    found = again.load(name, "ann")
    assert (found.tokens.tolist(), found.payload) == (TOKENS.tolist(), _saved().payload)


def test_of_two_files_with_a_common_beginning_the_shorter_is_found_for_it(tmp_path):
    """There is less to read; the longer one is found where it alone goes on, and alone when the other is gone."""
    store = _store(tmp_path)
    long = _keep(store, _saved(np.arange(640, dtype=np.int32)))
    short = _keep(store, _saved(np.arange(320, dtype=np.int32)))
    prompt = np.arange(1000, dtype=np.int32)

    assert store.find(prompt[:320], "ann") == Found(short, 320)
    assert store.find(prompt, "ann") == Found(long, 640)
    store.drop(short)
    assert store.find(prompt[:320], "ann") == Found(long, 320)


@pytest.mark.parametrize(
    ("identity", "isolation"),
    [
        pytest.param(IDENTITY, "bob", id="another-key"),
        pytest.param(Identity("other", "template", 4096, "cells 1"), "ann", id="another-model"),
        pytest.param(Identity("model", "other", 4096, "cells 1"), "ann", id="another-template"),
        pytest.param(Identity("model", "template", 2048, "cells 1"), "ann", id="another-context"),
        pytest.param(Identity("model", "template", 4096, "cells 2"), "ann", id="another-version"),
    ],
)
def test_what_another_saved_is_neither_found_nor_read(tmp_path, identity, isolation):
    """Under another key or identity nothing is found, a file asked for by name is refused, and nothing is removed."""
    name = _keep(_store(tmp_path), _saved())
    other = _store(tmp_path, identity=identity)

    assert other.find(TOKENS, isolation) is None
    assert (tmp_path / name).exists()
    with pytest.raises(LocalFailure, match="another"):
        read_prompt(tmp_path / name, identity, isolation)


def _flip(path, offset):
    data = bytearray(path.read_bytes())
    data[offset] ^= 1
    path.write_bytes(data)


def _claim_long_header(path):
    data = bytearray(path.read_bytes())
    data[12:16] = struct.pack("<I", 0xFFFFFFFF)
    path.write_bytes(data)


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda path: path.write_bytes(b""), id="empty"),
        pytest.param(lambda path: path.write_text("not ours" * 100), id="foreign"),
        pytest.param(lambda path: os.truncate(path, path.stat().st_size - 1), id="truncated"),
        pytest.param(lambda path: path.write_bytes(path.read_bytes() + b"x"), id="too-long"),
        pytest.param(lambda path: _flip(path, 0), id="magic"),
        pytest.param(lambda path: _flip(path, 8), id="format"),
        pytest.param(lambda path: _flip(path, 100), id="header"),
        pytest.param(_claim_long_header, id="huge-header"),
    ],
)
def test_an_unsound_file_is_removed_and_told_of(tmp_path, caplog, damage):
    """Whatever is wrong with it is seen when the folder is opened: a log line, and the file is gone."""
    name = _keep(_store(tmp_path), _saved())
    damage(tmp_path / name)
    store = _store(tmp_path)

    assert store.find(TOKENS, "ann") is None
    assert not (tmp_path / name).exists()
    assert f"{name} is removed" in caplog.text


def test_damaged_cells_are_seen_on_reading(tmp_path, caplog):
    """One bit of the cells is wrong: None, a log line, and the file is gone."""
    store = _store(tmp_path)
    name = _keep(store, _saved())
    _flip(tmp_path / name, -1)

    assert store.load(name, "ann") is None
    assert not (tmp_path / name).exists()
    assert "not what was saved" in caplog.text


def test_a_file_under_another_files_name_is_removed(tmp_path):
    """The name is the hash of what is in it; a copy under another name is not found."""
    store = _store(tmp_path)
    name = _keep(store, _saved())
    (tmp_path / name).rename(tmp_path / f"{'0' * 64}.prompt")

    assert _store(tmp_path).find(TOKENS, "ann") is None
    assert list(tmp_path.iterdir()) == []


def test_a_link_is_not_followed(tmp_path):
    """A symbolic link in the folder is not read, wherever it leads."""
    store = _store(tmp_path / "prompts")
    name = _keep(store, _saved())
    (tmp_path / "prompts" / name).rename(tmp_path / "elsewhere")
    (tmp_path / "prompts" / name).symlink_to(tmp_path / "elsewhere")

    assert store.load(name, "ann") is None
    assert _store(tmp_path / "prompts").find(TOKENS, "ann") is None


def test_only_the_user_can_read_what_is_saved(tmp_path):
    """The folder is 0700 even where it was not, each file 0600."""
    folder = tmp_path / "prompts"
    folder.mkdir(mode=0o755)
    name = _keep(_store(folder), _saved())

    assert [stat.S_IMODE(path.stat().st_mode) for path in (folder, folder / name)] == [0o700, 0o600]


def test_the_longest_unused_goes_when_the_room_is_short(tmp_path):
    """Three of 1,000 bytes and room for two and their headers: the one that was neither read nor new is removed."""
    store = _store(tmp_path, max_bytes=5000)
    prompts = [_saved(TOKENS + n) for n in range(3)]
    names = []
    for age, prompt in zip((30, 20), prompts[:2], strict=True):
        names.append(_keep(store, prompt))
        os.utime(tmp_path / names[-1], (1_000_000 - age, 1_000_000 - age))
    store.load(names[0], "ann")
    names.append(_keep(store, prompts[2]))

    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([names[0], names[2]])
    assert store.load(names[1], "ann") is None


def test_a_lowered_bound_holds_from_the_start(tmp_path):
    """What no longer fits is removed when the folder is opened."""
    _keep(_store(tmp_path), _saved())
    _store(tmp_path, max_bytes=10)

    assert list(tmp_path.iterdir()) == []


def test_what_is_larger_than_the_bound_is_not_written(tmp_path):
    """It would push out everything, itself included."""
    _store(tmp_path, max_bytes=10).save(_saved())

    assert list(tmp_path.iterdir()) == []


def test_a_write_that_fails_leaves_nothing(tmp_path, caplog):
    """A target that cannot be replaced: the partial file is gone, and save only tells of it."""
    store = _store(tmp_path)
    name = store.add(TOKENS, "ann")
    (tmp_path / name).mkdir()
    store.save(_saved())

    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert "could not be saved" in caplog.text


def test_a_dead_writers_file_is_removed_when_it_is_old(tmp_path):
    """A partial file may be another worker's that is writing now, so only old ones go."""
    (tmp_path / ".new.1.partial").write_bytes(b"x")
    (tmp_path / ".old.2.partial").write_bytes(b"x")
    os.utime(tmp_path / ".old.2.partial", (0, 0))
    _store(tmp_path)

    assert [path.name for path in tmp_path.iterdir()] == [".new.1.partial"]


def test_a_model_with_other_weights_has_another_name(tmp_path):
    """Same size, same fingerprint, one block changed: not the same model."""
    path = tmp_path / "model.gguf"
    path.write_bytes(bytes(1 << 20))
    before = name_weights(path, "header")
    with path.open("r+b") as file:
        file.seek(1 << 19)
        file.write(b"other")
    os.utime(path, ns=(path.stat().st_atime_ns, 1))
    changed = name_weights(path, "header")

    assert before != changed
    assert name_weights(tmp_path / "none", "header") == "header"


def test_a_written_file_reads_back(tmp_path):
    """write_prompt and read_prompt are inverse, also for a bytearray."""
    prompt = SavedPrompt("", TOKENS, bytearray(b"cells"))
    write_prompt(tmp_path / "x.prompt", IDENTITY, prompt)

    assert read_prompt(tmp_path / "x.prompt", IDENTITY, "").payload == b"cells"
