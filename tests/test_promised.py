"""Of which requests does a calibration speak? Of those whose answers are drawn as its own were."""

import math
from dataclasses import replace

import msgspec
import pytest

from hybrid.artefact import words_of, write_artefact
from hybrid.policy.model import Basis, Draft, Limits, Signals
from hybrid.policy.promise import judge
from hybrid.policy.replay import taken_by
from hybrid.policy.review import evidence_of, review_by
from hybrid.policy.wording import CLOUD_WORDS, Wording, logit_of
from hybrid.promise_book import PromiseBook
from hybrid.promised import promised
from hybrid.types import Capability, ChatRequest, Message, Sampling, TextPart
from tests.test_artefact import ARTEFACT, TASK, Loaded

REQUEST = ChatRequest(model="hybrid", messages=(Message("user", (TextPart("Which?\nA. 1\nB. 2"),)),), tag="mmlu")


class Serving:
    """A model as a worker loaded it."""

    facts = Loaded()


class Auditor:
    """One that has nothing to say against a promise, or that has withdrawn it."""

    def __init__(self, *, is_withdrawn: bool = False) -> None:
        self._is_withdrawn = is_withdrawn

    def in_force(self, limits: Limits) -> Limits:
        """Give what is in force."""
        if not self._is_withdrawn:
            return limits
        return replace(limits, promise=replace(limits.promise, threshold=math.inf, is_withdrawn=True))


def found(tmp_path, request: ChatRequest, *, is_withdrawn: bool = False, has_adapter: bool = False) -> Limits:
    """Give the limits of a request to a calibrated model."""
    write_artefact(tmp_path, ARTEFACT)
    book, auditor = PromiseBook([tmp_path]), Auditor(is_withdrawn=is_withdrawn)
    return promised(Limits(), request, Serving(), book, auditor, has_adapter=has_adapter)


@pytest.mark.parametrize(
    "sampling",
    [
        pytest.param(Sampling(), id="as-the-server-likes"),
        pytest.param(Sampling(temperature=0.0), id="greedy"),
        pytest.param(Sampling(temperature=1.0, top_k=1), id="of-one-candidate"),
        pytest.param(Sampling(top_p=0.9, seed=7, repetition_penalty=1.0), id="what-changes-nothing-then"),
    ],
)
def test_an_answer_of_the_likeliest_tokens_is_promised(tmp_path, sampling):
    """They were calibrated so, and where the client leaves it open they are drawn so."""
    assert found(tmp_path, replace(REQUEST, sampling=sampling)).promise is not None


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        pytest.param({"sampling": Sampling(temperature=0.7)}, "drawn at temperature 0.7", id="temperature"),
        pytest.param({"sampling": Sampling(presence_penalty=1.0)}, "without penalties", id="presence"),
        pytest.param({"sampling": Sampling(frequency_penalty=-1.0)}, "without penalties", id="frequency"),
        pytest.param({"sampling": Sampling(repetition_penalty=1.1)}, "without penalties", id="repetition"),
        pytest.param({"extra": {"logit_bias": {"5": 10.0}}}, "without logit_bias", id="bias"),
        pytest.param({"extra": {"n": 2}}, "several are wanted", id="several"),
        pytest.param({"needs": frozenset({Capability.TOOLS})}, "kept to a form", id="tools"),
        pytest.param({"needs": frozenset({Capability.STRUCTURED_OUTPUT})}, "kept to a form", id="json"),
    ],
)
def test_an_answer_that_is_drawn_otherwise_is_not(tmp_path, changes, why):
    """The promise is withdrawn, visibly."""
    limits = found(tmp_path, replace(REQUEST, **changes))

    assert limits.promise is None
    assert why in limits.no_promise


@pytest.mark.parametrize("is_withdrawn", [False, True])
def test_an_answer_with_an_adapter_is_not(tmp_path, is_withdrawn):
    """It is another model's, and tells nothing of a promise that was withdrawn either."""
    limits = found(tmp_path, REQUEST, is_withdrawn=is_withdrawn, has_adapter=True)

    assert limits.promise is None
    assert "without an adapter" in limits.no_promise


def test_what_keeps_nothing_local_says_so_of_each_answer(tmp_path):
    """A client's temperature is no way round it."""
    limits = found(tmp_path, replace(REQUEST, sampling=Sampling(temperature=0.7)), is_withdrawn=True)

    assert not limits.promise.is_feasible


def test_what_the_requests_words_say_of_the_cloud_is_of_this_request(tmp_path):
    """By the last turn of the user; one number, so the decision's record holds no text. Without such words: none."""
    cloud = msgspec.structs.replace(TASK.local, features=(CLOUD_WORDS,))
    wording = Wording(tuple(bucket / 64 for bucket in range(64)), -0.5)
    task = msgspec.structs.replace(TASK, cloud=cloud, words=words_of(wording))
    write_artefact(tmp_path / "worded", msgspec.structs.replace(ARTEFACT, tasks=(task,)))
    book = PromiseBook([tmp_path / "worded"])
    other = replace(REQUEST, messages=(*REQUEST.messages, Message("user", (TextPart("Why?"),))))

    first, second = (promised(Limits(), one, Serving(), book, Auditor()).promise for one in (REQUEST, other))

    assert [logit_of(wording, "Which?\nA. 1\nB. 2"), logit_of(wording, "Why?")] == [
        first.cloud_words,
        second.cloud_words,
    ]
    assert found(tmp_path, REQUEST).promise.cloud_words is None


def test_a_recorded_decision_keeps_what_words_said(tmp_path):
    """Trimmed to what one draft needs, the promise judges it the very same."""
    cloud = msgspec.structs.replace(TASK.local, features=("option_entropy", CLOUD_WORDS), means=(0.0, 0.0),
                                    scales=(1.0, 1.0), coefficients=(0.2, 1.0))  # fmt: skip
    whole = replace(msgspec.structs.replace(TASK, cloud=cloud).promise(0.05, 0.1), cloud_words=-1.5)
    draft = Draft(logprobs=(-0.1,), entropies=(0.2,), margins=(0.9,), options=(-0.1, -2.5))
    evidence = evidence_of(draft, whole)
    basis = Basis(evidence=evidence, limits=Limits(promise=whole))
    lean = taken_by(Signals(), basis.limits, review_by(basis)).limits.promise
    judged = judge(whole, draft)

    assert CLOUD_WORDS in lean.cloud.features
    assert judged == judge(lean, draft)
    assert judged.p_cloud < judge(replace(whole, cloud_words=1.5), draft).p_cloud
