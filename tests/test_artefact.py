"""What a calibration leaves behind: written whole, read with suspicion, and used only for the model it was made of."""

from dataclasses import dataclass

import msgspec
import pytest

from hybrid.artefact import (
    Artefact,
    Counts,
    LookAt,
    Sigmoid,
    Task,
    Weights,
    add_tasks,
    path_of,
    read_artefact,
    weights_of,
    write_artefact,
)
from hybrid.errors import DatasetError
from hybrid.policy.calibrated import Isotonic, LinearModel
from hybrid.policy.tasks import TaskKind
from hybrid.promise_book import PromiseBook
from hybrid.wiring import shipped_calibrations

WEIGHTS = Weights(
    features=("option_margin",),
    means=(0.5,),
    scales=(0.25,),
    coefficients=(1.5,),
    intercept=0.1,
    calibration=Sigmoid(1.0, 0.0),
)
TASK = Task(
    task="mmlu",
    kind=TaskKind.CHOICE,
    dataset="d.jsonl",
    dataset_digest="d",
    recipe_digest="r",
    rows=400,
    labels="gold",
    local=WEIGHTS,
    counts=Counts(thresholds=(0.9, 0.6, 0.3), kept=(100, 200, 400), regretted=(2, 10, 60), n=400),
    base_rate=0.5,
    looks=(LookAt(tokens=16, threshold=0.2, local=WEIGHTS),),
)
ARTEFACT = Artefact(
    model="m", format="Q4_0", fingerprint="f" * 64, template_fingerprint="t", made_at="2026-01-01", version="0",
    tasks=(TASK,),
)  # fmt: skip


@dataclass(frozen=True)
class Loaded:
    """What a worker tells of its model."""

    fingerprint: str = "f" * 64
    template_fingerprint: str = "t"


def test_what_is_written_is_read_again(tmp_path):
    """Every number as it was, under the name of the model's fingerprint, and nothing else is left in the folder."""
    path = write_artefact(tmp_path, ARTEFACT)

    assert [path] == list(tmp_path.iterdir())
    assert ARTEFACT == read_artefact(path)


def test_a_model_of_either_map_goes_through_json():
    """Isotonic knots come back as they were."""
    model = LinearModel(
        features=("a",), means=(0.0,), scales=(1.0,), coefficients=(1.0,), intercept=0.0,
        calibration=Isotonic((0.0, 1.0), (0.1, 0.9)),
    )  # fmt: skip
    body = msgspec.json.encode(weights_of(model))

    assert model == msgspec.json.decode(body, type=Weights).model()


def test_the_promise_follows_from_the_counts(tmp_path):
    """10 of 400 regretted is certified at 5 %, 60 are not; a stricter promise takes a stricter threshold."""
    write_artefact(tmp_path, ARTEFACT)

    found = PromiseBook([tmp_path]).find(Loaded(), TaskKind.CHOICE, None).promise
    strict = PromiseBook([tmp_path], max_regret=0.02).find(Loaded(), TaskKind.CHOICE, None).promise

    assert found is not None
    assert strict is not None
    assert (0.6, 0.9) == (found.threshold, strict.threshold)
    assert 16 == found.looks[0].tokens


@pytest.mark.parametrize(
    ("loaded", "kind", "tag", "why"),
    [
        pytest.param(Loaded(), TaskKind.CHOICE, None, None, id="by-kind"),
        pytest.param(Loaded(), TaskKind.TEXT, "mmlu", None, id="by-tag"),
        pytest.param(Loaded(), TaskKind.TEXT, None, "kind text were not calibrated", id="another-kind"),
        pytest.param(Loaded(fingerprint="g" * 64), TaskKind.CHOICE, None, "this model was not", id="another-model"),
        pytest.param(Loaded(template_fingerprint="u"), TaskKind.CHOICE, None, "another chat template", id="template"),
        pytest.param(None, TaskKind.CHOICE, None, "no local model", id="nothing-loaded"),
    ],
)
def test_a_promise_holds_only_for_what_was_calibrated(tmp_path, loaded, kind, tag, why):
    """For all else there is none, and a reason."""
    write_artefact(tmp_path, ARTEFACT)
    found = PromiseBook([tmp_path]).find(loaded, kind, tag)

    assert (why is None) is (found.promise is not None)
    assert (why is None and found.why is None) or why in found.why


@pytest.mark.parametrize(
    "change",
    [
        pytest.param({"schema": 99}, id="schema"),
        pytest.param({"feature_version": 99}, id="features"),
        pytest.param({"fingerprint": "f" * 16 + "0" * 48}, id="same-beginning"),
    ],
)
def test_an_artefact_of_another_version_or_file_promises_nothing(tmp_path, change):
    """Also where it lies under the right name."""
    artefact = msgspec.structs.replace(ARTEFACT, **change)
    path_of(tmp_path, ARTEFACT.fingerprint).write_bytes(msgspec.json.encode(artefact))

    assert PromiseBook([tmp_path]).find(Loaded(), TaskKind.CHOICE, None).promise is None


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"{}", id="nothing"),
        pytest.param(msgspec.json.encode(ARTEFACT)[:-40], id="torn"),
        pytest.param(msgspec.json.encode(ARTEFACT).replace(b"0.25", b"0.0"), id="a-scale-of-zero"),
        pytest.param(msgspec.json.encode(ARTEFACT).replace(b"[100,200,400]", b"[100,900,400]"), id="counts"),
    ],
)
def test_a_broken_artefact_is_an_error_where_it_is_read_and_no_promise(tmp_path, body):
    """`serve` goes on without it; a command that needs it says what to do."""
    path = path_of(tmp_path, ARTEFACT.fingerprint)
    path.write_bytes(body)

    with pytest.raises(DatasetError, match="run `hybrid calibrate` again"):
        read_artefact(path)
    found = PromiseBook([tmp_path]).find(Loaded(), TaskKind.CHOICE, None)
    assert found.promise is None
    assert found.why is not None


def test_the_first_folder_counts(tmp_path):
    """A user's own calibration goes before the one that ships."""
    own, shipped = tmp_path / "own", tmp_path / "shipped"
    write_artefact(shipped, ARTEFACT)
    mine = msgspec.structs.replace(TASK, counts=Counts(thresholds=(0.8,), kept=(300,), regretted=(1,), n=400))
    write_artefact(own, msgspec.structs.replace(ARTEFACT, tasks=(mine,)))
    found = PromiseBook([own, shipped]).find(Loaded(), TaskKind.CHOICE, None).promise

    assert found is not None
    assert 0.8 == found.threshold


@pytest.mark.parametrize(
    ("is_at_chance", "tag", "is_found"),
    [
        pytest.param(False, "mmlu", True, id="tagged"),
        pytest.param(False, None, False, id="of-its-kind"),
        pytest.param(False, "other", False, id="tagged-otherwise"),
        pytest.param(True, None, True, id="at-chance"),
    ],
)
def test_what_ships_speaks_only_of_what_it_was_made_with(tmp_path, is_at_chance, tag, is_found):
    """A promise fitted on exam questions is none about a user's own; that a model guesses is told of the kind."""
    task = msgspec.structs.replace(TASK, is_at_chance=is_at_chance)
    write_artefact(tmp_path, msgspec.structs.replace(ARTEFACT, tasks=(task,)))
    found = PromiseBook(shipped=tmp_path).find(Loaded(), TaskKind.CHOICE, tag)

    assert is_found is (found.promise is not None)
    assert is_found or "tagged mmlu" in found.why


@pytest.mark.parametrize("path", sorted(shipped_calibrations().glob("*.json")), ids=lambda path: path.stem)
def test_what_ships_is_sound(path):
    """Each lies under its model's name, and its tags find it."""
    artefact = read_artefact(path)
    assert path == path_of(path.parent, artefact.fingerprint)
    for task in artefact.tasks:
        assert PromiseBook(shipped=path.parent).find(artefact, TaskKind.TEXT, task.task).promise is not None


def test_tasks_are_added_to_those_that_still_hold(tmp_path):
    """One of the same name is replaced, others stay; what was made with another template goes, and that is told."""
    write_artefact(tmp_path, ARTEFACT)
    bare = msgspec.structs.replace(ARTEFACT, tasks=())
    other = msgspec.structs.replace(TASK, task="arc", base_rate=0.7)
    again = msgspec.structs.replace(TASK, base_rate=0.6)

    path, dropped = add_tasks(tmp_path, bare, [other, again])
    assert dropped is None
    assert {"mmlu": 0.6, "arc": 0.7} == {task.task: task.base_rate for task in read_artefact(path).tasks}

    path, dropped = add_tasks(tmp_path, msgspec.structs.replace(bare, template_fingerprint="new"), [other])
    assert "another chat template" in (dropped or "")
    assert ["arc"] == [task.task for task in read_artefact(path).tasks]


def test_a_name_of_several_kinds_means_that_of_the_request(tmp_path):
    """Each question gets the calibration of its kind; of a kind the name does not have, none of it."""
    number = msgspec.structs.replace(TASK, kind=TaskKind.NUMBER, base_rate=0.7)
    write_artefact(tmp_path, msgspec.structs.replace(ARTEFACT, tasks=(TASK, number)))
    book = PromiseBook([tmp_path])

    found = {kind: book.find(Loaded(), kind, "mmlu").promise for kind in TaskKind}
    assert (0.5, 0.7) == (found[TaskKind.CHOICE].base_rate, found[TaskKind.NUMBER].base_rate)
    assert found[TaskKind.TEXT] is None


def test_a_task_keeps_its_date_when_another_is_added(tmp_path):
    """What is told of it is when it was calibrated, and by which version."""
    write_artefact(tmp_path, ARTEFACT)
    later = msgspec.structs.replace(ARTEFACT, made_at="2026-02-02", version="1", tasks=())
    add_tasks(tmp_path, later, [msgspec.structs.replace(TASK, task="new")])
    book = PromiseBook([tmp_path])

    origins = {tag: book.find(Loaded(), TaskKind.TEXT, tag).promise.origin for tag in ("mmlu", "new")}
    assert ("2026-01-01", "0") == (origins["mmlu"].made_at, origins["mmlu"].program)
    assert ("2026-02-02", "1") == (origins["new"].made_at, origins["new"].program)


def test_a_kind_at_chance_is_promised_nothing():
    """Whatever threshold its rows would certify: those that pass do so by luck."""
    assert TASK.promise(0.05, 0.1).is_feasible
    assert not msgspec.structs.replace(TASK, is_at_chance=True).promise(0.05, 0.1).is_feasible
