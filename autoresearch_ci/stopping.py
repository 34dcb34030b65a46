"""Pure: is the session over, and why."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from autoresearch_ci.experiment import History, Status

OUT_OF_HOURS: Final = "the next experiment would not end within"


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """The reasons to stop that a person has set; None means not a reason. `hours_because`: where the hours come from."""

    max_iterations: int | None = None
    max_hours: float | None = None
    hours_because: str = ""
    target: float | None = None
    patience: int | None = None
    max_crashes: int | None = None


def reason_to_stop(history: History, limits: Limits, *, elapsed_s: float, next_s: float, in_flight: int = 0) -> str:
    """Why no further experiment is started, in one line; empty to go on.

    `elapsed_s`: seconds since this process began. `next_s`: seconds that the next experiment may need, so that none is started
    which cannot end in time. `in_flight`: experiments that are begun, or will be.
    """
    done = len(history.tried)
    if limits.max_iterations is not None and done + in_flight >= limits.max_iterations:
        return f"the maximum of {limits.max_iterations} experiments is reached"
    best = history.best if limits.target is not None else None
    if limits.target is not None and best is not None and best.metric is not None:
        direction = history.session.direction
        if best.metric == limits.target or direction.better(best.metric, limits.target):
            return f"the target of {limits.target:g} is reached"
    if limits.max_hours is not None and elapsed_s + next_s > limits.max_hours * 3600:
        return f"{OUT_OF_HOURS} {limits.max_hours:.3g} hours{limits.hours_because}"
    if limits.max_crashes is not None and (crashes := _trailing(history, {Status.CRASH})) >= limits.max_crashes:
        return f"{crashes} crashes in a row"
    failed = {Status.CRASH, Status.DISCARD}
    if limits.patience is not None and (without_keep := _trailing(history, failed)) >= limits.patience:
        return f"{without_keep} experiments in a row without a keep"
    return ""


def out_of_hours(reason: str) -> bool:
    """Whether a session that ended for this reason could have gone on, had there been time."""
    return reason.startswith(OUT_OF_HOURS)


def _trailing(history: History, statuses: set[Status]) -> int:
    """How many of the last experiments, without a gap, have one of these statuses."""
    count = 0
    for experiment in reversed(history.experiments):
        if experiment.status not in statuses:
            break
        count += 1
    return count
