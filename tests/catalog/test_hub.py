"""Does a model come from a Hugging Face hub, resumed to the byte, pinned and recorded? In processes of their own.

huggingface-hub reads its environment when it is imported, so each pull here runs in a fresh interpreter.
"""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from hybrid.catalog import Card, HuggingFaceSource, installed, resolve
from hybrid.errors import CatalogError
from tests.catalog.loopback import COMMIT, FILE, REPO, Loopback, card_of

PULL = """
import msgspec, sys
from pathlib import Path
from hybrid.catalog import Card, pull
from hybrid.errors import CatalogError
card = msgspec.json.decode(sys.argv[1], type=Card)
try:
    print(pull(card, Path(sys.argv[2]), on_note=print))
except CatalogError as exc:
    sys.exit(str(exc))
"""
ROOT = Path(__file__).parents[2]
FLOATING = HuggingFaceSource(REPO, FILE, "main")


def start(card: Card, folder: Path, loopback: Loopback, **environment: str) -> subprocess.Popen[str]:
    """Start a pull in a process that knows this hub and no token or setting of the user's."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING"))}
    own = {"HF_ENDPOINT": loopback.url, "HF_HOME": str(folder / "hf-home"), "PYTHONPATH": str(ROOT), **environment}
    arguments = [sys.executable, "-c", PULL, msgspec.json.encode(card).decode(), str(folder / "models")]
    return subprocess.Popen(
        arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=clean | own, cwd=ROOT
    )


def run(card: Card, folder: Path, loopback: Loopback, **environment: str) -> tuple[int, str]:
    """Run a pull to its end; returns its exit code and all it said."""
    process = start(card, folder, loopback, **environment)
    out, err = process.communicate(timeout=60)
    return process.returncode, out + err


def test_a_pinned_card_is_pulled(loopback, model, tmp_path):
    """The file comes from the card's commit and has the card's hash; the commit is recorded beside it."""
    loopback.serve_model(model)
    code, said = run(card_of(model), tmp_path, loopback)
    assert (0, f"{tmp_path}/models/tiny.gguf\n") == (code, said)
    (here,) = installed(tmp_path / "models")
    assert (COMMIT, f"{REPO} on Hugging Face") == (here.revision, here.source)
    # Nothing else is asked, such as what huggingface-hub would like to report.
    assert [("HEAD", FILE), ("GET", FILE)] == [(method, Path(path).name) for method, path, _ in loopback.seen]
    assert model == here.path.read_bytes()


def test_a_killed_pull_goes_on_to_the_byte(loopback, model, tmp_path):
    """kill -9 in the middle keeps what came; the next pull asks for the rest by range and the whole is right."""
    loopback.serve_model(model)
    loopback.faults.stall_after = len(model) // 2
    process = start(card_of(model), tmp_path, loopback)
    assert loopback.faults.has_stalled.wait(60)
    partial = tmp_path / "models" / ".partial" / "tiny" / "file"
    while not (partial.exists() and partial.stat().st_size == len(model) // 2):
        assert process.poll() is None
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)
    assert not (tmp_path / "models" / "tiny.gguf").exists()
    loopback.faults.stall_after = None
    assert 0 == run(card_of(model), tmp_path, loopback)[0]
    assert [None, f"bytes={len(model) // 2}-"] == loopback.ranges
    assert model == (tmp_path / "models" / "tiny.gguf").read_bytes()


def test_a_card_without_a_hash_takes_the_hubs_and_holds_the_file_to_it(loopback, model, tmp_path):
    """A floating card records hash and commit at its first pull; a file that changes later is refused."""
    loopback.serve_model(model)
    code, said = run(card_of(model, FLOATING, sha256=None), tmp_path, loopback)
    assert 0 == code
    assert f"follows 'main', which is commit {COMMIT} today" in said
    (here,) = installed(tmp_path / "models")
    assert (hashlib.sha256(model).hexdigest(), COMMIT) == (here.sha256, here.revision)
    assert here.path == resolve("tiny", tmp_path / "models")
    here.path.write_bytes(model[:-1] + b"x")
    with pytest.raises(CatalogError, match="is not the file that was pulled"):
        resolve("tiny", tmp_path / "models")


def test_the_token_goes_to_the_hub_and_no_further(loopback, model, tmp_path):
    """A redirect to where the bytes lie does not carry the user's token along."""
    loopback.serve_model(model)
    loopback.faults.redirect_to = f"http://localhost:{loopback.port}/bytes"
    for path, content in list(loopback.files.items()):
        loopback.files[f"/bytes{path}"] = content
    code, said = run(card_of(model), tmp_path, loopback, HF_TOKEN="hf_secret")
    assert (0, False) == (code, "hf_secret" in said)
    first, second = [headers for method, _, headers in loopback.seen if method == "GET"]
    assert "Bearer hf_secret" == first["authorization"]
    assert "authorization" not in second


@pytest.mark.parametrize(
    ("source", "complaint"),
    [
        pytest.param(HuggingFaceSource(REPO, "other.gguf", COMMIT), "has no file other.gguf", id="no-such-file"),
        pytest.param(HuggingFaceSource("nobody/nothing", FILE, COMMIT), "no nobody/nothing", id="no-such-repo"),
    ],
)
def test_what_the_hub_does_not_have_is_explained(loopback, model, tmp_path, source, complaint):
    """A wrong repository or file is told in our words."""
    loopback.serve_model(model)
    code, said = run(card_of(model, source), tmp_path, loopback)
    assert (1, True) == (code, complaint in said), said


def test_a_replaced_file_is_noticed_before_it_is_fetched(loopback, model, tmp_path):
    """The hub's size against the card's tells it; nothing is downloaded."""
    loopback.serve_model(model)
    code, said = run(card_of(model, bytes=5), tmp_path, loopback)
    assert (1, True) == (code, "the file was replaced" in said), said
    assert [] == loopback.ranges


def test_hugging_faces_own_offline_switch_is_honoured(loopback, model, tmp_path):
    """With HF_HUB_OFFLINE nothing is asked of the hub."""
    code, said = run(card_of(model), tmp_path, loopback, HF_HUB_OFFLINE="1")
    assert (1, "HF_HUB_OFFLINE is set, so Hugging Face is not asked; unset it to pull\n") == (code, said)
    assert [] == loopback.seen


def test_a_hub_that_cannot_be_reached_is_explained(loopback, model, tmp_path):
    """No route to the hub is one sentence."""
    code, said = run(card_of(model), tmp_path, loopback, HF_ENDPOINT="http://127.0.0.1:9")
    assert (1, True) == (code, said.startswith("cannot reach Hugging Face (")), said
