"""Does the models folder tell what is there, whether it is unchanged, and keep to itself?"""

from __future__ import annotations

import os
import threading
from dataclasses import replace

import pytest

from hybrid.catalog import installed, partial_bytes, remove, resolve, sha256_file
from hybrid.catalog.lock import hold
from hybrid.catalog.shelf import Pulled, places, read_record, record_path, write_record
from hybrid.errors import CatalogError, ModelFileError
from tests.refusals import as_nobody, full_disk, open_folder
from tests.tiny_gguf import ENTRIES, UINT32, TinyGguf, entry

TINY = TinyGguf().build()
CLIMBING = ["../up", "a/b", "..", ".hidden", "", "A", "x" * 65, "a..b", "nul\0", "-x"]


@pytest.mark.parametrize("name", CLIMBING)
def test_no_name_leads_out_of_the_folder(tmp_path, name):
    """A name that could be a path, hidden or an option is refused by every function that takes one."""
    for act in (places, remove):
        with pytest.raises(CatalogError, match="is no model name"):
            act(name, tmp_path)


def test_a_hash_is_taken_again_only_when_the_file_was_touched(tmp_path):
    """The recorded hash is believed while size, time and inode are those it was taken in, and not a moment longer."""
    path = tmp_path / "tiny.gguf"
    path.write_bytes(TINY)
    write_record(path, path.stat(), "recorded", None)
    assert "recorded" == sha256_file(path)
    os.utime(path, ns=(1, 1))
    assert "recorded" != sha256_file(path)
    assert sha256_file(path) == read_record(path).sha256


def test_a_full_disk_leaves_no_half_record(tmp_path):
    """The hash is told all the same, and taken anew the next time; no leftover lies beside the model."""
    path = tmp_path / "tiny.gguf"
    path.write_bytes(TINY)
    with full_disk():
        digest = sha256_file(path)
    assert [path] == list(tmp_path.iterdir())
    assert digest == sha256_file(path)
    assert read_record(path) is not None


def test_a_broken_record_proves_nothing(tmp_path):
    """A record that is no JSON, or of another shape, is as good as none."""
    path = tmp_path / "tiny.gguf"
    path.write_bytes(TINY)
    for content in (b"", b"{", b'{"sha256": 1}', b'{"a":' * 100_000):
        record_path(path).write_bytes(content)
        assert read_record(path) is None
        assert 64 == len(sha256_file(path))


def test_installed_lists_files_and_where_they_came_from(tmp_path):
    """Files in the folder are listed by name; those we pulled carry source and commit until they are touched."""
    for name in ("b", "a"):
        (tmp_path / f"{name}.gguf").write_bytes(TINY)
    (tmp_path / "Not A Name.gguf").write_bytes(TINY)
    path = tmp_path / "a.gguf"
    write_record(path, path.stat(), "0" * 64, Pulled("0" * 64, "somewhere", "c" * 40, 1))
    first, second = installed(tmp_path)
    assert ("a", "somewhere", "c" * 40, "0" * 64) == (first.name, first.source, first.revision, first.sha256)
    assert ("b", None, None, None) == (second.name, second.source, second.revision, second.sha256)
    os.utime(path, ns=(1, 1))
    assert installed(tmp_path)[0].source is None


def test_a_missing_folder_holds_nothing(tmp_path):
    """Before the first pull there is no folder, and that is no error."""
    assert [] == installed(tmp_path / "models")
    assert {} == partial_bytes(tmp_path / "models")


def test_resolve_takes_paths_and_names_in_the_folder(tmp_path):
    """A .gguf anywhere is used where it lies, and one put into the folder by hand answers to its name."""
    path = tmp_path / "mine.gguf"
    path.write_bytes(TINY)
    assert path == resolve(str(path), tmp_path / "models")
    assert path == resolve("mine", tmp_path)
    assert [path] == list(tmp_path.iterdir())


def test_resolve_says_how_to_get_a_model_that_is_not_here(tmp_path):
    """A name of the catalogue that is not pulled is answered with the command that pulls it."""
    with pytest.raises(CatalogError, match=r"`hybrid models pull qwen3-4b` fetches it \(2.50 GB\)"):
        resolve("qwen3-4b", tmp_path)


@pytest.mark.parametrize(
    ("model", "complaint"),
    [
        pytest.param("qwen3-5b", "did you mean", id="mistyped-name"),
        pytest.param("./gone.gguf", "there is no file", id="missing-file"),
        pytest.param("{here}", "is a folder; name the .gguf file in it", id="folder"),
        pytest.param("~no-such-user/x.gguf", "cannot be looked at", id="nobodys-home"),
        pytest.param(f"./{'x' * 300}.gguf", "cannot be looked at", id="refused-by-the-system"),
        pytest.param("../../etc/passwd.gguf", "there is no file", id="climbing-path-is-just-a-path"),
    ],
)
def test_resolve_says_what_is_wrong(tmp_path, model, complaint):
    """What cannot be found is explained."""
    with pytest.raises(CatalogError, match=complaint):
        resolve(model.format(here=tmp_path), tmp_path)


def test_resolve_checks_the_header(tmp_path):
    """A damaged file is refused before anything native sees it."""
    (tmp_path / "cut.gguf").write_bytes(TINY[:-100])
    with pytest.raises(ModelFileError, match="is truncated"):
        resolve(str(tmp_path / "cut.gguf"), tmp_path)


def test_resolve_refuses_a_part_of_a_split_model(tmp_path):
    """Parts that would be loaded beside the checked one have not been checked."""
    entries = [entry(key, *value) for key, value in {**ENTRIES, "split.count": (UINT32, 3)}.items()]
    (tmp_path / "part.gguf").write_bytes(replace(TinyGguf(), entries=entries).build())
    with pytest.raises(CatalogError, match="one of 3 parts"):
        resolve(str(tmp_path / "part.gguf"), tmp_path)


def test_resolve_refuses_a_pulled_file_that_was_changed(tmp_path):
    """A file is held against the hash recorded when it was pulled, even where no card knows it."""
    path = tmp_path / "tiny.gguf"
    path.write_bytes(TINY)
    digest = sha256_file(path)
    write_record(path, path.stat(), digest, Pulled(digest, "somewhere", None, 1))
    assert path == resolve("tiny", tmp_path)
    path.write_bytes(TINY[:-1] + b"x")
    with pytest.raises(CatalogError, match="is not the file that was pulled"):
        resolve("tiny", tmp_path)


def test_a_file_under_a_cards_name_must_be_the_cards_file(tmp_path):
    """Another file put in the starter's place is not taken for the starter."""
    (tmp_path / "smollm2-135m.gguf").write_bytes(TINY)
    with pytest.raises(CatalogError, match="expected b179c952"):
        resolve("smollm2-135m", tmp_path)


def test_listing_beside_pulls_and_removals_never_fails(tmp_path):
    """Files may go between two looks at them: what is gone is not listed, and no listing ends over it."""
    model, part = tmp_path / "tiny.gguf", tmp_path / ".partial" / "tiny" / "file"
    part.parent.mkdir(parents=True)

    def come_and_go() -> None:
        for _ in range(3000):
            for path in (model, part):
                path.write_bytes(b"x")
                path.unlink()

    other = threading.Thread(target=come_and_go)
    other.start()
    names, sizes = set(), set()
    try:
        while other.is_alive():
            names |= {found.name for found in installed(tmp_path)}
            sizes |= set(partial_bytes(tmp_path).values())
    finally:
        other.join()
    assert names <= {"tiny"}
    assert sizes <= {0, 1}


def test_remove_deletes_the_file_its_record_and_leftovers(tmp_path):
    """After rm nothing of the model is left, and the bytes that came free are told."""
    place = places("tiny", tmp_path)
    place.file.write_bytes(TINY)
    sha256_file(place.file)
    place.partial.mkdir(parents=True)
    (place.partial / "wheel").write_bytes(bytes(1000))
    assert {"tiny": 1000} == partial_bytes(tmp_path)
    assert len(TINY) + 1000 == remove("tiny", tmp_path)
    assert [] == [path for path in tmp_path.rglob("*") if path.is_file()]
    assert {} == partial_bytes(tmp_path)


@pytest.mark.parametrize("name", ["tiny.gguf", "tiny.tuned.json", ".tiny.gguf.json", ".tiny.tuned.json.json"])
def test_remove_deletes_no_folder_and_then_nothing(tmp_path, name):
    """A folder where one of a model's files goes is not ours: it is named, and all the rest stays as it was."""
    for file in ("tiny.gguf", "tiny.tuned.json", "tiny.tuned-Q8_0.gguf"):
        (tmp_path / file).write_bytes(TINY)
    (tmp_path / name).unlink(missing_ok=True)
    (tmp_path / name / "mine").mkdir(parents=True)
    before = sorted(path for path in tmp_path.iterdir() if path.name != ".partial")
    with pytest.raises(CatalogError, match=f"cannot remove tiny: .*{name} is a folder, .*nothing was removed"):
        remove("tiny", tmp_path)
    assert before == sorted(path for path in tmp_path.iterdir() if path.name != ".partial")


def test_remove_in_a_folder_that_is_not_ours_says_so():
    """Whoever may not write there is told in a sentence, and the model stays."""
    with open_folder() as folder:
        (folder / "tiny.gguf").write_bytes(TINY)
        with as_nobody(), pytest.raises(CatalogError, match=r"cannot write in .*: Permission denied"):
            remove("tiny", folder)
        assert (folder / "tiny.gguf").exists()


def test_remove_of_nothing_says_what_there_is(tmp_path):
    """A name that is not here is answered with those that are."""
    (tmp_path / "other.gguf").write_bytes(TINY)
    with pytest.raises(CatalogError, match="there is: other"):
        remove("tiny", tmp_path)


def test_remove_does_not_pull_the_rug_from_under_a_pull(tmp_path):
    """While a model is being pulled, rm refuses."""
    place = places("tiny", tmp_path)
    place.partial.mkdir(parents=True)
    with hold(place.lock), pytest.raises(CatalogError, match="another process is pulling tiny right now"):
        remove("tiny", tmp_path)
