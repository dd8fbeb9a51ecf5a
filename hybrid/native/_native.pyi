"""What does the C++ extension offer? The same functions as hybrid/native/reference.py, which documents them."""

from collections.abc import Sequence

from hybrid.native.reference import (
    Bitmask,
    Float32Row,
    Float32Rows,
    RowDraw,
    RowStatistics,
    Sampled,
    SampleParams,
    TokenArray,
)

def row_statistics(logits: Float32Row, token: int) -> RowStatistics: ...
def sample_row(
    logits: Float32Row,
    params: SampleParams,
    *,
    seed: int,
    position: int,
    prompt_tokens: TokenArray | None = None,
    output_tokens: TokenArray | None = None,
    allowed: Bitmask | None = None,
    bias_tokens: TokenArray | None = None,
    bias_values: Float32Row | None = None,
    top_logprobs: int = 0,
) -> Sampled: ...
def sample_rows(logits: Float32Rows, draws: Sequence[RowDraw], *, threads: int = 1) -> list[Sampled | ValueError]: ...
def abort_callback_address() -> int: ...
def share_with(gomp_parallel: int) -> None:
    """Let the threads of OpenMP draw from the rows of a step, by the address of their `GOMP_parallel`; 0: our own."""

def batch_bytes() -> int: ...

class StepRun:
    """Steps that follow each other at once; llama.cpp's functions, its batch and a flag that ends it by address.

    `compute` runs them, in one thread; `take` waits in another for so many, and says whether those were the last.
    """

    def __init__(
        self,
        *,
        decode: int,
        logits_at: int,
        is_end: int,
        context: int,
        vocabulary: int,
        batch: int,
        flag: int,
        draws: Sequence[RowDraw],
        n_vocab: int,
        steps: int,
        threads: int = 1,
    ) -> None: ...
    def compute(self) -> int: ...
    def take(self, at_least: int) -> tuple[list[list[Sampled | ValueError]], bool]: ...
    def stop(self) -> None: ...
    @property
    def done(self) -> int: ...

def exp32(values: Float32Row) -> Float32Row: ...
