"""Beginnings that different requests share survive a restart; nothing else does, and the cells always add up."""

import queue
from pathlib import Path

import numpy as np
import pytest

from hybrid.backends.base import BackendOptions
from hybrid.backends.fake import FakeBackend
from hybrid.engine.detokenize import Detokenizer
from hybrid.engine.engine import Engine
from hybrid.engine.prompt_file import Identity
from hybrid.engine.prompt_keeper import PromptKeeper, Restored
from hybrid.engine.prompt_store import PromptStore
from hybrid.engine.sequence import Sequence
from hybrid.errors import LocalFailure
from hybrid.native import SampleParams

SYSTEM = "<|im_start|>system\n" + "follow the rules. " * 20 + "<|im_end|>\n"


class Choosy(FakeBackend):
    """A fake that takes no saved cells: as llama.cpp would those of another build."""

    def restore(self, slot, state, count):
        """Refuse."""
        raise LocalFailure("not mine")


class Served:
    """An engine with a keeper, as the worker's model thread runs them; one on the same folder is a restart."""

    def __init__(self, folder: Path, kind: type[FakeBackend] = FakeBackend, context_tokens: int = 4096) -> None:
        self.backend = kind(BackendOptions(model_path=Path("unused"), context_tokens=context_tokens, slots=2))
        self.engine = Engine(self.backend)
        self.inbox: queue.SimpleQueue[Restored] = queue.SimpleQueue()
        store = PromptStore(folder, Identity("fake", "", 4096, "fake"), max_bytes=1 << 20)
        self.keeper = PromptKeeper(self.engine.cache, store, wake=self.inbox.put)

    def ask(self, text: str, isolation: str = "", system: str = SYSTEM) -> tuple[str, int]:
        """Run one request to its end, then what idleness brings; give its answer and its cached tokens."""
        prompt = f"{system}<|im_start|>user\n{text}<|im_end|>\n<|im_start|>assistant\n".encode()
        return self.run(np.frombuffer(prompt, dtype=np.uint8).astype(np.int32), isolation)

    def run(self, tokens, isolation: str = "") -> tuple[str, int]:
        """Run one prompt."""
        sequence = Sequence(
            id="s",
            prompt=tokens,
            params=SampleParams(temperature=0.0),
            seed=1,
            max_output_tokens=100,
            detokenizer=Detokenizer(),
            isolation=isolation,
        )
        if self.keeper.enter(sequence):
            for ready in self.keeper.arrive(self.inbox.get(timeout=30)):
                self.engine.submit(ready)
        else:
            self.engine.submit(sequence)
        text = ""
        while self.engine.has_work:
            text += "".join(delta.text for delta in self.engine.step().deltas)
        while self.keeper.save_next():
            pass
        pool = self.engine.cache.pool
        assert pool.total - pool.free == self.backend.cells_held()
        assert pool.running_cells == 0
        return text, sequence.cached_tokens


def _files(folder: Path) -> int:
    return len(list(folder.glob("*.prompt")))


def test_a_shared_system_prompt_survives_a_restart(tmp_path):
    """Two questions on one system prompt save it; after a restart the first one starts from it."""
    first = Served(tmp_path)
    first.ask("what is rain?")
    first.ask("name a colour")
    first.keeper.close()
    again = Served(tmp_path)

    assert _files(tmp_path) == 1
    assert again.ask("one more question") == ("one more question", len(SYSTEM + "<|im_start|>user\n"))


@pytest.mark.parametrize(
    ("texts", "system", "isolations"),
    [
        pytest.param(["hello there", "another"], SYSTEM[:200], ["", ""], id="too-short"),
        pytest.param(["hello there", "another"], SYSTEM, ["ann", "bob"], id="two-keys"),
        pytest.param(["the same", "the same"], SYSTEM, ["", ""], id="the-same-again"),
    ],
)
def test_what_is_not_worth_saving(tmp_path, texts, system, isolations):
    """Short beginnings, those of different users, and a repeated request leave nothing on disk."""
    served = Served(tmp_path)
    for text, isolation in zip(texts, isolations, strict=True):
        served.ask(text, isolation, system)
    served.keeper.close()

    assert _files(tmp_path) == 0


def test_a_conversation_that_goes_on_is_not_saved(tmp_path):
    """Its next turn repeats the last one whole, but for an opened thinking part: no system prompt, so no file."""
    served = Served(tmp_path)
    turn = SYSTEM + "<|im_start|>user\nwhat?<|im_end|>\n<|im_start|>assistant\n"
    for text in (
        turn + "<t>\n",
        turn + "an answer<|im_end|>\n<|im_start|>user\nmore<|im_end|>\n<|im_start|>assistant\n",
    ):
        served.run(np.frombuffer(text.encode(), dtype=np.uint8).astype(np.int32))
    served.keeper.close()

    assert _files(tmp_path) == 0


def test_saved_cells_are_not_anothers(tmp_path):
    """After a restart the same prompt under another client's key is computed from its first token."""
    first = Served(tmp_path)
    first.ask("what is rain?", "ann")
    first.ask("name a colour", "ann")
    first.keeper.close()
    again = Served(tmp_path)

    assert again.ask("question", "bob")[1] == 0
    assert again.ask("question", "ann")[1] > len(SYSTEM)


def test_a_beginning_is_saved_once(tmp_path):
    """More questions on the same system prompt, and a restart between them, write nothing new."""
    for _ in range(2):
        served = Served(tmp_path)
        for text in ("what is rain?", "name a colour", "who was it?"):
            served.ask(text)
        served.keeper.close()

    assert _files(tmp_path) == 1


def test_what_is_in_memory_is_not_read(tmp_path):
    """While the cache holds the beginning the file is left alone."""
    served = Served(tmp_path)
    for text in ("what is rain?", "name a colour"):
        served.ask(text)
    served.keeper.close()
    for path in tmp_path.glob("*.prompt"):
        path.write_bytes(b"never read")

    assert served.ask("a third")[1] > len(SYSTEM)


@pytest.mark.parametrize("kind", [FakeBackend, Choosy], ids=["damaged", "refused-by-the-backend"])
def test_a_file_that_cannot_be_used_costs_nothing_but_time(tmp_path, kind):
    """It is removed, the request that waited for it is answered, and no cell is lost."""
    first = Served(tmp_path)
    first.ask("what is rain?")
    first.ask("name a colour")
    first.keeper.close()
    again = Served(tmp_path, kind)
    if kind is FakeBackend:
        (path,) = tmp_path.glob("*.prompt")
        path.write_bytes(path.read_bytes()[:-1] + b"\xff")

    assert again.ask("question") == ("question", 0)
    assert _files(tmp_path) == 0


def test_without_room_a_beginning_is_not_restored(tmp_path):
    """A cache smaller than what was saved goes on without it, and the file stays for others."""
    first = Served(tmp_path)
    long = SYSTEM + "more of it. " * 60
    first.ask("what is rain?", system=long)
    first.ask("name a colour", system=long)
    first.keeper.close()
    small = Served(tmp_path, context_tokens=900)

    assert small.ask("question", system=SYSTEM + "more of it. ") == ("question", 0)
    assert _files(tmp_path) == 1


def test_a_request_cancelled_while_its_file_is_read_does_not_run(tmp_path):
    """The file's cells are kept for the next one; the cancelled sequence is gone."""
    first = Served(tmp_path)
    first.ask("what is rain?")
    first.ask("name a colour")
    first.keeper.close()
    again = Served(tmp_path)
    prompt = f"{SYSTEM}<|im_start|>user\nx<|im_end|>\n<|im_start|>assistant\n".encode()
    sequence = Sequence(
        id="gone",
        prompt=np.frombuffer(prompt, dtype=np.uint8).astype(np.int32),
        params=SampleParams(temperature=0.0),
        seed=1,
        max_output_tokens=5,
        detokenizer=Detokenizer(),
    )
    assert again.keeper.enter(sequence)
    again.keeper.cancel("gone")

    assert again.keeper.arrive(again.inbox.get(timeout=30)) == []
    assert again.ask("question")[1] > len(SYSTEM)
