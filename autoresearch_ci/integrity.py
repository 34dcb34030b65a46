"""Pure: is a reading to be believed by itself.

The training script prints its own score. What can be seen from outside when that score was not earned is flagged; a flagged
improvement is run again before it is kept, and stays flagged in the pull request. What the flags cannot see, `evaluate` can:
it scores what the script left, where the script never ran.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Final

from autoresearch_ci.experiment import History, Measurement

SHARE: Final = 0.5  # of the usual time: a run that takes less of it, or says its metric before, is flagged
LEAST_S: Final = 2.0  # a usual time below it is mostly starting up, and says nothing
JUMP_GAINS: Final = 10.0  # times the best gain so far is a jump
JUMP_SHARE: Final = 0.5  # of the baseline is one, as long as nothing has gained


def flags(measurement: Measurement, history: History, *, max_jump: float | None = None) -> tuple[str, ...]:
    """Why the reading of a candidate is not to be believed by itself, a line each; none for a run without a metric.

    Compared with the untouched script's runs in `history`: more lines with the metric, less than half of the time (or of the
    budget, where that is shorter), a metric that was said before half of it, and a gain on the incumbent beyond `max_jump`.
    """
    baseline, metric = history.baseline, measurement.reading.metric
    if baseline is None or metric is None:
        return ()
    usual = [m for m in baseline.measurements if m.counts]
    found = [_lines(measurement, usual), _time(measurement, usual, history.session.time_budget_s)]
    limit = max_jump if max_jump is not None else _usual_jump(history)
    before = history.incumbent.metric if history.incumbent else None
    if limit is not None and before is not None:
        gain = history.session.direction.gain(before, metric)
        if gain > limit:
            found.append(f"a jump: better by {gain:.3g} at once, where at most {limit:.3g} was to be expected")
    return tuple(flag for flag in found if flag)


def _lines(measurement: Measurement, usual: Sequence[Measurement]) -> str:
    """A script that shows its metric while it trains has many lines of it; one that says it once, and then twice, is odd."""
    lines = measurement.reading.metric_lines
    if lines > 1 and all(m.reading.metric_lines == 1 for m in usual):
        return f"{lines} lines give the metric, and the last one counted; the untouched script prints one"
    return ""


def _time(measurement: Measurement, usual: Sequence[Measurement], budget_s: float | None) -> str:
    times = [m.run.wall_s for m in usual]
    usual_s = min([*times, *([budget_s] if budget_s is not None and times else [])], default=0.0)
    if usual_s < LEAST_S:
        return ""
    if measurement.run.wall_s < SHARE * usual_s:
        return f"it ended after {measurement.run.wall_s:.1f} s, where training takes {usual_s:.1f} s"
    if measurement.read_at is not None and measurement.read_at < SHARE * usual_s:
        return f"its metric was printed after {measurement.read_at:.1f} s, where training takes {usual_s:.1f} s"
    return ""


def _usual_jump(history: History) -> float | None:
    """Ten times the best gain so far; half the baseline as long as there is none, and nothing where that is zero."""
    metrics = [e.metric for e in history.chain if e.metric is not None]
    gains = [history.session.direction.gain(a, b) for a, b in pairwise(metrics)]
    best = max(gains, default=0.0)
    return JUMP_GAINS * best if best > 0 else JUMP_SHARE * abs(metrics[0]) or None
