"""The running best as a Mermaid chart, for where no image is shown."""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Final

from autoresearch_ci.experiment import History, Status
from autoresearch_ci.report.chart import thinned
from autoresearch_ci.report.markdown import clean

MAX_CHARACTERS: Final = 4_000
MAX_POINTS: Final = 40


def mermaid(history: History) -> list[str]:
    """The chart's lines; none when it would be long or flat."""
    best: float | None = None
    points: list[tuple[int, float]] = []
    for experiment in history.experiments:
        metric = experiment.metric
        if experiment.status is Status.KEEP and metric is not None:
            best = metric if best is None or history.session.direction.better(metric, best) else best
        if best is not None:
            points.append((experiment.number, best))
    if len({metric for _, metric in points}) < 2:
        return []
    shown = thinned(points, MAX_POINTS)
    low, high = min(m for _, m in shown), max(m for _, m in shown)
    margin = (high - low) * 0.1
    name = re.sub(r"[^\w ./-]", "", clean(history.session.metric, 40))
    lines = [
        "```mermaid",
        "xychart-beta",
        '  title "Best so far"',
        f'  x-axis "experiment" [{", ".join(str(n) for n, _ in shown)}]',
        f'  y-axis "{name}" {_decimal(low - margin)} --> {_decimal(high + margin)}',
        f"  line [{', '.join(_decimal(m) for _, m in shown)}]",
        "```",
    ]
    return lines if sum(map(len, lines)) <= MAX_CHARACTERS else []


def _decimal(value: float) -> str:
    """Mermaid's charts read no exponents."""
    return format(Decimal(f"{value:.6g}"), "f")
