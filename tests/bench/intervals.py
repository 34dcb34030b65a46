"""How sure a measured figure is, for the tables of the benchmarks."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

Z = 1.96  # standard errors on each side of a 95 % interval


def mean(values: Sequence[float]) -> tuple[float, float]:
    """The mean, and the half width of its 95 % interval."""
    return statistics.fmean(values), Z * statistics.stdev(values) / math.sqrt(len(values))


def wilson(hits: int, of: int, digits: int = 0) -> str:
    """A share in percent with its 95 % interval, by Wilson (1927)."""
    if not of:
        return "—"
    share = hits / of
    middle = (share + Z * Z / (2 * of)) / (1 + Z * Z / of)
    half = Z * math.sqrt(share * (1 - share) / of + Z * Z / (4 * of * of)) / (1 + Z * Z / of)
    return f"{share:.{digits}%} ({max(0.0, middle - half):.{digits}%}–{min(1.0, middle + half):.{digits}%})"
