"""Where a session stands, in a few numbers: what every short text about it says."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Final

from autoresearch_ci.experiment import Experiment, History, Recheck
from autoresearch_ci.noise import verification
from autoresearch_ci.report.chart import percent
from autoresearch_ci.report.markdown import clean, number
from autoresearch_ci.report.trust import trust

MAX_STATUS: Final = 140  # characters: GitHub refuses a longer description of a commit status
MAX_METRIC: Final = 40
MINUS: Final = "−"  # beside a percentage it reads better than a hyphen


@dataclass(frozen=True, slots=True)
class Reached:
    """The metric of the baseline and of the best commit, None where there is none, and how many were kept of how many tried.

    `confirmed`: whether fresh runs of both showed an improvement, and then the two numbers are theirs; None: nothing was
    measured again yet.
    """

    before: float | None
    after: float | None
    kept: int
    tried: int
    confirmed: bool | None

    @property
    def share(self) -> str:
        """The change, such as `−3.1 %`; empty where there is none to tell."""
        if self.before is None or self.after is None or not self.kept:
            return ""
        return percent(self.before, self.after).replace("-", MINUS)


def reached(history: History) -> Reached:
    """The numbers now; what fresh runs say wins over what the search saw."""
    baseline, best, verified = history.baseline, history.best, verification(history)
    before = baseline.metric if baseline else None
    after = best.metric if best else None
    confirmed = None
    if verified is not None:
        found = trust(history)
        confirmed = found is not None and not found.unconfirmed
        fresh = verified.readings(verified.reference), verified.readings(verified.subject)
        if all(fresh):
            before, after = fmean(fresh[0]), fmean(fresh[1])
    return Reached(before, after, len(history.kept), len(history.tried), confirmed)


def status_line(history: History) -> str:
    """One plain line of at most 140 characters: `val_bpb 0.9612 (−3.1 %), 7 kept of 42`."""
    now, metric = reached(history), clean(history.session.metric, MAX_METRIC)
    if now.after is None:
        return clean(f"{metric}: no baseline yet", MAX_STATUS)
    kept = f"{now.kept} kept of {now.tried}" if now.kept else f"nothing kept of {now.tried}"
    share = f" ({now.share})" if now.share else ""
    sure = {None: "", True: ", confirmed", False: ", not confirmed"}[now.confirmed] if now.kept else ""
    return clean(f"{metric} {number(now.after)}{share}, {kept}{sure}", MAX_STATUS)


def elapsed_s(history: History, now: dt.datetime | None = None) -> float:
    """Seconds from the session's start, or the first experiment's, to `now`, or to the end of the last experiment when it is over
    or no time is given."""
    start, end = history.session.started_at, None
    if history.experiments:
        first, last = history.experiments[0], history.experiments[-1]
        start, end = start or first.started_at or first.finished_at, last.finished_at or last.started_at
    if now is not None and not (history.ended and end):
        end = now
    return max(0.0, (end - start).total_seconds()) if start and end else 0.0


def busy_s(made: Iterable[Experiment | Recheck]) -> float:
    """Seconds in which at least one of them went on, without what lay between them: a proposer's time, the day between two nights."""
    seconds, until = 0.0, None
    for start, end in sorted((e.started_at, e.finished_at) for e in made if e.started_at and e.finished_at):
        begin = start if until is None else max(start, until)
        seconds += max(0.0, (end - begin).total_seconds())
        until = end if until is None else max(end, until)
    return seconds


def per_hour(experiments: Sequence[Experiment]) -> str:
    """How many of them fit into an hour, such as `5.1`; empty where no time is known."""
    seconds = busy_s(experiments)
    return rate(len(experiments) * 3600 / seconds) if seconds else ""


def rate(per_hour: float) -> str:
    """Experiments an hour, as a person reads it."""
    return f"{per_hour:,.0f}" if per_hour >= 100 else f"{per_hour:.3g}"
