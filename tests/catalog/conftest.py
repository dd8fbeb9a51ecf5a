"""What do the catalogue's tests share: a loopback index and hub, and a model that is a valid GGUF of some size."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.catalog.loopback import Loopback, running
from tests.tiny_gguf import Tensor, TinyGguf

MODEL_TENSOR_BYTES = 2 * 1024**2


@pytest.fixture
def loopback() -> Iterator[Loopback]:
    """A package index and hub of this test's own."""
    with running() as state:
        yield state


@pytest.fixture(scope="session")
def model() -> bytes:
    """A valid model of 2 MB, so that a download has a middle."""
    big = Tensor("token_embd.weight", (1024, MODEL_TENSOR_BYTES // 4096), size_bytes=MODEL_TENSOR_BYTES)
    return TinyGguf(tensors=[big]).build()
