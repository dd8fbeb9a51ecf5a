"""`hybrid calibrate` and `hybrid eval` as their user runs them: real processes, an echo for a model, a fake cloud."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
from pathlib import Path

import pytest

from hybrid.artefact import read_artefact
from hybrid.providers.fake import Answer, FakeProvider
from tests.e2e.forks import run
from tests.e2e.serving import FAKE_MODEL, HYBRID, Serving, cloud_toml

COUNT = 40


def _questions() -> list[dict[str, object]]:
    """Half of them the echo gets right and is sure of; of the others, where it doubts, it has one in four right."""
    rows = []
    for number in range(COUNT):
        is_sure = number % 2 == 0
        text = f"say {number}" if is_sure else f"[doubt] say {number}"
        is_right = is_sure or number % 4 == 3
        recorded = {"big": {"correct": number % 5 != 0, "text": "something"}}
        answer = text if is_right else "else"
        rows.append({"id": str(number), "question": text, "scorer": "text", "answer": answer, "recorded": recorded})
    return rows


def _environ(folder: Path) -> dict[str, str]:
    return {**os.environ, "HYBRID_DATA_DIR": str(folder)}


def _run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [*HYBRID, *arguments, "--config", "hybrid.toml"]
    return run(command, _environ(folder), cwd=folder)


def _write(folder: Path, rows, config: str = FAKE_MODEL) -> None:
    (folder / "hybrid.toml").write_text(config)
    (folder / "set.jsonl").write_text("\n".join(json.dumps(row) for row in rows))


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A folder whose model was calibrated, and what that printed."""
    folder = tmp_path_factory.mktemp("calibrate")
    _write(folder, _questions())
    done = _run(folder, "calibrate", "--dataset", "set.jsonl", "--task", "echo", "--cloud", "recorded:big")
    assert 0 == done.returncode, done.stderr
    (folder / "printed").write_text(done.stdout)
    (folder / "said").write_text(done.stderr)
    return folder


def test_a_calibration_says_what_it_found_and_leaves_an_artefact(folder):
    """Data on stdout, progress on stderr, the artefact in the data folder, keyed by the model."""
    printed, said = (folder / "printed").read_text(), (folder / "said").read_text()

    for told in ("echo (text): 40 questions, labels: gold", "local is right in 75.0%", "platt on one feature", "AUROC"):
        assert told in printed
    assert "fake answers: 40 of 40" in said
    [path] = (folder / "calibration").glob("*.json")
    artefact = read_artefact(path)
    assert [("echo", "text", 40)] == [(task.task, task.kind.value, task.rows) for task in artefact.tasks]


def test_an_evaluation_uses_it_and_asks_nothing_again(folder):
    """The answers are kept: no model is loaded a second time, and the figures have the contract's names."""
    done = _run(
        folder, "eval", "--dataset", "set.jsonl", "--cloud", "recorded:big", "--json", "e.json", "--plot", "e.png"
    )

    assert 0 == done.returncode, done.stderr
    assert "fake answers" not in done.stderr
    figures = json.loads((folder / "e.json").read_text())
    assert (COUNT, 0.75, 0.8) == (figures["n"], figures["accuracy_local"], figures["accuracy_cloud"])
    for key in ("apgr", "apgr_ci95", "cpt50", "cpt80", "cpt95", "auroc", "ece", "violations"):
        assert key in figures
    assert (folder / "e.png").read_bytes().startswith(b"\x89PNG")
    assert "promise     regret <= 0.05 with confidence 0.9" in done.stdout


def test_the_server_judges_by_it(folder):
    """A sure echo of that kind carries a calibrated chance, and `explain` names the promise."""
    with Serving(folder, FAKE_MODEL) as server:
        answer = server.ask("tell me something sure")
        told = run([*HYBRID, "explain", "last"], _environ(folder)).stdout

    assert float(answer.headers["x-hybrid-confidence"]) > 0.5
    assert "calibrated" in told


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        pytest.param(["--dataset", "none.jsonl"], "No such file", id="no-file"),
        pytest.param(
            ["--dataset", "set.jsonl", "--cloud", "recorded:huge"], "recorded answers of: big", id="no-record"
        ),
        pytest.param(["--dataset", "set.jsonl", "--cloud", "huge"], "no such cloud; configured: none", id="no-cloud"),
        pytest.param(["--dataset", "set.jsonl", "--max-regret", "2"], "shares between 0 and 1", id="no-share"),
        pytest.param(["--dataset", "set.jsonl", "--limit", "5"], "10", id="too-few"),
        pytest.param(["--dataset", "one.jsonl"], "right", id="one-label"),
        pytest.param(["--dataset", "torn.jsonl"], "line 2", id="torn"),
    ],
)
def test_what_cannot_be_used_is_told_in_a_sentence(folder, arguments, told):
    """No traceback, exit code 1 or 2, and the artefact that was there stays."""
    rows = _questions()
    (folder / "one.jsonl").write_text("\n".join(json.dumps(row) for row in rows[::2]))
    (folder / "torn.jsonl").write_text(json.dumps(rows[0]) + '\n{"id": "x", ')
    before = [path.read_bytes() for path in (folder / "calibration").iterdir()]
    done = _run(folder, "calibrate", *arguments)

    assert done.returncode in (1, 2)
    assert told in done.stderr
    assert "Traceback" not in done.stderr
    assert before == [path.read_bytes() for path in (folder / "calibration").iterdir()]


def test_a_live_cloud_is_asked_within_its_budget_and_only_once(tmp_path):
    """Without gold labels the cloud's answers are: each is reserved, settled, kept, and not asked for again."""
    rows = [{"id": str(n), "question": f"say {n}", "scorer": "text", "answer": None} for n in range(12)]
    for row in rows:
        row["recorded"] = {"other": {"text": "x"}}

    async def scenario() -> tuple[subprocess.CompletedProcess[str], subprocess.CompletedProcess[str], int]:
        async with FakeProvider(lambda request: Answer(chunks=(_echo_or_else(request),))) as cloud:
            _write(tmp_path, rows, FAKE_MODEL + cloud_toml(cloud.base_url))
            arguments = ("calibrate", "--dataset", "set.jsonl", "--cloud", "big", "--json")
            first = await asyncio.to_thread(_run, tmp_path, *arguments)
            second = await asyncio.to_thread(_run, tmp_path, *arguments)
            return first, second, len(cloud.requests)

    first, second, asked = asyncio.run(scenario())
    report = run([*HYBRID, "report", "--json"], _environ(tmp_path)).stdout

    assert 0 == first.returncode, first.stderr
    [figures] = json.loads(first.stdout)
    assert ("big", 12, 8 / 12) == (figures["labels"], figures["rows"], figures["accuracy_local"])
    assert first.stdout == second.stdout
    assert 12 == asked
    assert json.loads(report)["spent_usd"] > 0


def _echo_or_else(request) -> str:
    """What the echo would say, but for every third question."""
    text = request.body["messages"][-1]["content"]
    return "quite another thing" if int(text.split()[-1]) % 3 == 0 else text


def test_what_was_served_calibrates_too(tmp_path):
    """Escalated drafts and audited answers in the ledger make an artefact, and it says what sample they are."""

    def answer(request) -> Answer:
        text = request.body["messages"][-1]["content"]
        is_same = "[doubt]" not in text or int(text.split()[-1]) % 4 == 3
        return Answer(chunks=(text,) if is_same else ("no", "."))

    async def scenario() -> None:
        async with FakeProvider(answer) as cloud:
            config = FAKE_MODEL + "[policy]\naudit_share = 1.0\n" + cloud_toml(cloud.base_url)
            _write(tmp_path, _questions(), config)
            with Serving(tmp_path, config) as server:
                for row in _questions()[1:]:
                    await asyncio.to_thread(server.ask, str(row["question"]))
                while server.client.get(server.url.replace("/v1", "/readyz")).json()["audit"]["running"]:  # noqa: ASYNC110 - the server has no event here
                    await asyncio.sleep(0)

    asyncio.run(scenario())
    done = _run(tmp_path, "calibrate", "--from-ledger", "--json")

    assert 0 == done.returncode, done.stderr
    assert "20 labels of escalated drafts, which are a selected sample, and 19 of audited answers" in done.stderr
    (task,) = json.loads(done.stdout)
    assert ("text", "big/m", 39, "platt on one feature") == (
        task["task"],
        task["labels"],
        task["rows"],
        task["report"]["method"],
    )
    [path] = (tmp_path / "calibration").glob("*.json")
    assert ["ledger"] == [one.dataset for one in read_artefact(path).tasks]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((), "name one source of labels"),
        (("--dataset", "set.jsonl", "--from-ledger"), "name one source of labels"),
        (("--from-ledger", "--limit", "5"), "--limit and --samples are about a dataset"),
        (("--from-ledger",), "the ledger has none for this model"),
    ],
)
def test_sources_that_make_no_sense_are_told(tmp_path, arguments, says):
    """One source, with its own options, and labels in it."""
    _write(tmp_path, _questions())
    done = _run(tmp_path, "calibrate", *arguments)

    assert 1 == done.returncode
    assert says in done.stderr
