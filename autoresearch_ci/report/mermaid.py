"""The running best as a Mermaid chart, for where no image is shown."""

from __future__ import annotations

import re
from bisect import bisect_right
from decimal import Decimal
from typing import Final

from autoresearch_ci.experiment import Direction, History, Status
from autoresearch_ci.report.chart import thinned
from autoresearch_ci.report.markdown import clean

MAX_CHARACTERS: Final = 4_000
MAX_POINTS: Final = 60
# The first colour of Mermaid's own palette can hardly be seen on white.
COLOUR: Final = '%%{init: {"themeVariables": {"xyChart": {"plotColorPalette": "#2da44e"}}}}%%'
MARGIN: Final = 0.1  # of the range, above and below


def mermaid(history: History) -> list[str]:
    """The chart's lines; none when it would be long or flat. A merge of the base starts the best anew."""
    points = _points(history)
    if len({metric for _, metric in points}) < 2:
        return []
    low, high = min(m for _, m in points), max(m for _, m in points)
    margin = (high - low) * MARGIN
    name = re.sub(r"[^\w ./-]", "", clean(history.session.metric, 40))
    better = "lower" if history.session.direction is Direction.MINIMIZE else "higher"
    lines = [
        "```mermaid",
        COLOUR,
        "xychart-beta",
        f'  title "Best so far ({better} is better)"',
        # A range, not a list: the points are evenly spread along it, and the labels do not overlap.
        f'  x-axis "experiment" {points[0][0]} --> {points[-1][0]}',
        f'  y-axis "{name}" {_decimal(low - margin)} --> {_decimal(high + margin)}',
        f"  line [{', '.join(_decimal(m) for _, m in points)}]",
        "```",
    ]
    return lines if sum(map(len, lines)) <= MAX_CHARACTERS else []


def _points(history: History) -> list[tuple[int, float]]:
    """The best metric so far at evenly spread experiments, from the first keep to the last experiment."""
    numbers: list[int] = []
    best: list[float] = []
    for kept in history.of(Status.KEEP):
        if kept.metric is not None:
            anew = not best or kept.base or history.session.direction.better(kept.metric, best[-1])
            numbers.append(kept.number)
            best.append(kept.metric if anew else best[-1])
    if not best:
        return []
    first, last = numbers[0], history.experiments[-1].number
    return [(at, best[bisect_right(numbers, at) - 1]) for at in thinned(range(first, last + 1), MAX_POINTS)]


def _decimal(value: float) -> str:
    """Mermaid's charts read no exponents."""
    return format(Decimal(f"{value:.6g}"), "f")
