"""Who measures and samples a row of logits: the C++ extension where it is built, its numpy twin elsewhere."""

from __future__ import annotations

from hybrid.native.reference import RowDraw, RowStatistics, Sampled, SampleParams

try:
    from hybrid.native._native import abort_callback_address, row_statistics, sample_row, sample_rows
except ImportError:
    from hybrid.native.reference import abort_callback_address, row_statistics, sample_row, sample_rows

    IS_NATIVE = False
else:
    IS_NATIVE = True

__all__ = [
    "IS_NATIVE",
    "RowDraw",
    "RowStatistics",
    "SampleParams",
    "Sampled",
    "abort_callback_address",
    "row_statistics",
    "sample_row",
    "sample_rows",
]
