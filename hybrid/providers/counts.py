"""How do servers write a whole number? Some as 3.0, which strict JSON does not take for an integer."""

from __future__ import annotations

from typing import Annotated

import msgspec

Whole = Annotated[float, msgspec.Meta(ge=0, le=1e12, multiple_of=1)]
"""A whole number with a point; `int` makes one of it, exactly."""

Count = Annotated[int, msgspec.Meta(ge=0, le=10**12)] | Whole
"""So many tokens."""
