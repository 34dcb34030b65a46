"""How fast a session goes, and what is left of it at that pace."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from typing import Final

from autoresearch_ci.experiment import History
from autoresearch_ci.report.standing import busy_s, rate

RECENT: Final = 100  # experiments that say how fast it goes
LONGEST_H: Final = 24.0 * 366  # of a forecast: what is later is not told as a date
MAX_ITERATIONS: Final = "max-iterations"
MAX_HOURS: Final = "max-hours"


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """What is left: about `experiments` more, until `at`, and which setting ends it then; nothing of all that where none does."""

    experiments: int | None = None
    at: dt.datetime | None = None
    because: str = ""


def pace(history: History, since: dt.datetime | None = None) -> float | None:
    """Experiments an hour, of the last ones; None before there is one.

    `since`: when this process began. What lies between two experiments counts as long as one has ended since then: it is what the
    next hours will be like. Else the time between them does not, for the day between two nights may be among it.
    """
    recent = history.tried[-RECENT:]
    spans = [
        (e.started_at, e.finished_at)
        for e in recent
        if since is not None and e.started_at and e.finished_at and e.started_at >= since
    ]
    count, seconds = len(recent), busy_s(recent)
    if spans:
        count = len(spans)
        seconds = (max(end for _, end in spans) - min(start for start, _ in spans)).total_seconds()
    return count * 3600 / seconds if seconds > 0 else None


def max_hours(history: History) -> float | None:
    """The hours that a process of the session may take, as its settings say; None for as long as it likes."""
    try:
        return float(history.session.settings.get("max-hours", ""))
    except ValueError:
        return None


def forecast(
    history: History, *, now: dt.datetime, since: dt.datetime | None = None, hours: float | None = None
) -> Forecast | None:
    """What is left at the present pace; None where no pace is known, or the session is over.

    Of `max-iterations` and the `hours` since `since` (when this process began), whichever ends it first. What else may end it,
    such as a target, nobody knows.
    """
    per_hour = pace(history, since)
    if history.ended or per_hour is None:
        return None
    limit, found = history.session.max_iterations, Forecast()
    if limit is not None:
        left = max(0, limit - len(history.tried))
        found = Forecast(experiments=left, at=_after(now, left / per_hour), because=MAX_ITERATIONS)
    if hours is not None and since is not None:
        left_h = max(0.0, hours - (now - since).total_seconds() / 3600)
        fitting = int(left_h * per_hour)  # none is started that would not end in time
        if found.experiments is None or fitting < found.experiments:
            found = Forecast(experiments=fitting, at=_after(now, left_h), because=MAX_HOURS)
    return found


def forecast_text(history: History, found: Forecast | None, *, since: dt.datetime | None = None) -> str:
    """In one line, with the pace; empty for a session that is over."""
    if history.ended:
        return ""
    per_hour = pace(history, since)
    if found is None or per_hour is None:
        return "not known before an experiment is done"
    speed = f"{rate(per_hour)} experiments an hour"
    if found.experiments is None:
        return f"{speed}; unlimited: it goes on until it is stopped"
    until = f", about {found.at:%Y-%m-%d %H:%M} UTC" if found.at else ""
    if found.because == MAX_ITERATIONS:
        return f"{speed}; {found.experiments} more until `{MAX_ITERATIONS}` is reached{until}"
    return f"{speed}; about {found.experiments} more before the hours of this process are over{until}"


def _after(now: dt.datetime, hours: float) -> dt.datetime | None:
    return now.astimezone(dt.UTC) + dt.timedelta(hours=hours) if hours < LONGEST_H else None
