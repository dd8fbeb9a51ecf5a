"""Is what the engine knows of its neighbours seen from outside, and does the worker step back as it was told to?"""

import os
from pathlib import Path

import pytest

from tests.e2e.serving import FAKE_MODEL, Serving


def test_the_worker_is_as_nice_as_configured(tmp_path):
    """local.nice holds for the worker and not for the gateway, which must stay quick."""
    with Serving(tmp_path, FAKE_MODEL + "nice = 3\n") as server:
        server.wait_until(lambda state: state["state"] == "ready")
        ours = server.worker().parent()
        assert ours is not None
        assert max(3, ours.nice()) == server.worker().nice()


@pytest.mark.skipif(not Path("/proc/stat").exists(), reason="needs Linux: elsewhere nobody tells what others use")
def test_what_others_use_is_told_while_nothing_runs(tmp_path):
    """/readyz shows threads, slowdown and what others use before the first request, and a decision carries them."""
    with Serving(tmp_path) as server:
        state = server.wait_until(lambda state: state["others_cores"] is not None)
        answer = server.ask("hello")
        facts = server.explain(answer.headers["x-hybrid-request-id"])["decision"]["facts"]

    assert 1 <= state["threads"] <= (os.cpu_count() or 1)
    assert 1.0 <= state["slowdown"]
    assert 1 <= facts["local_threads"] <= (os.cpu_count() or 1)
    assert 1.0 <= facts["local_slowdown"]
