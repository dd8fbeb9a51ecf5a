"""What does every test get: its own data folder, and the starter model where it asks for one?"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from hybrid.catalog import STARTER, find_card, pull
from hybrid.config import data_dir
from hybrid.errors import HybridError
from hybrid.wiring import BARRIER_SPINS

# As a worker is started: read when llama.cpp is loaded, and on a busy machine its tests take a tenth of the time.
os.environ.setdefault("GOMP_SPINCOUNT", BARRIER_SPINS)


def _keep_to_own_cores() -> None:
    """Give each of several pytest processes its own cores: llama.cpp's threads spin for those of the others."""
    worker, workers = os.environ.get("PYTEST_XDIST_WORKER", ""), int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    if workers < 2 or not hasattr(os, "sched_setaffinity"):
        return
    own = sorted(os.sched_getaffinity(0))[int(worker.removeprefix("gw")) :: workers]
    if own:
        os.sched_setaffinity(0, own)


_keep_to_own_cores()

# A busy machine is no failure: how long an example takes decides nothing.
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")


@pytest.fixture(scope="session")
def starter_model() -> Path:
    """The starter model's file in the caller's own data folder, so that it is fetched once and not in each run."""
    try:
        return pull(find_card(STARTER), data_dir(os.environ) / "models")
    except HybridError as exc:
        pytest.fail(f"the starter model is not here and cannot be fetched ({exc}); run scripts/test", pytrace=False)


@pytest.fixture(autouse=True)
def own_data_dir(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give each test a fresh data folder and hide the caller's own configuration from it."""
    for name in [name for name in os.environ if name.startswith("HYBRID_")]:
        monkeypatch.delenv(name)
    path = tmp_path_factory.mktemp("data")
    monkeypatch.setenv("HYBRID_DATA_DIR", str(path))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(path / "no-config"))
    return path
