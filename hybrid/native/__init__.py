"""Who measures and samples a row of logits: the C++ extension where it is built, its numpy twin elsewhere."""

from __future__ import annotations

from hybrid.native.reference import RowStatistics, Sampled, SampleParams

try:
    from hybrid.native._native import row_statistics, sample_row
except ImportError:
    from hybrid.native.reference import row_statistics, sample_row

    IS_NATIVE = False
else:
    IS_NATIVE = True

__all__ = ["IS_NATIVE", "RowStatistics", "SampleParams", "Sampled", "row_statistics", "sample_row"]
