"""Hand-made histories for the unit tests."""

from __future__ import annotations

import datetime as dt
from dataclasses import replace

from autoresearch_ci.experiment import (
    Category,
    Direction,
    Ending,
    Evidence,
    Experiment,
    History,
    Measurement,
    Purpose,
    Reading,
    Recheck,
    Run,
    Session,
    Status,
    Verdict,
)

START = dt.datetime(2026, 11, 22, 22, 0, tzinfo=dt.UTC)


def experiment(number: int, metric: float | None, status: Status, **values: object) -> Experiment:
    defaults: dict[str, object] = {
        "commit": f"{number + 1:040x}",
        "parent": f"{number:040x}" if number else "",
        "description": f"KNOB {number} → {number + 1}" if number else "Baseline — no modifications",
        "category": Category.OPTIMIZER,
        "verdict": Verdict(status=status, reason="because"),
        "memory_gb": None if metric is None else 1.5,
        "fingerprint": f"f{number}",
        "lines": 100,
        "started_at": START + dt.timedelta(minutes=5 * number),
        "finished_at": START + dt.timedelta(minutes=5 * number + 4),
    }
    return Experiment(number=number, metric=metric, **{**defaults, **values})  # type: ignore[arg-type]


def history(*rows: tuple[float | None, Status], direction: Direction = Direction.MINIMIZE, ended: str = "") -> History:
    session = Session(
        tag="nov22", metric="val_bpb", direction=direction, training_script="train.py", base_commit="0" * 40,
        base_branch="main", time_budget_s=300.0, platform="cpu", started_at=START,
    )  # fmt: skip
    return History(
        session=session, experiments=tuple(experiment(n, m, s) for n, (m, s) in enumerate(rows)), ended=ended
    )


def measurement(commit: str, metric: float | None, disturbed: str = "") -> Measurement:
    """One run of `commit`; None: it gave no reading."""
    run = Run(ending=Ending.EXITED, exit_code=0 if metric is not None else 1, wall_s=300.0)
    return Measurement(
        commit=commit, seed=42, run=run, reading=Reading(metric=metric), log="0000.log", disturbed=disturbed
    )


def measured(
    number: int, own: tuple[float, ...], status: Status, *, incumbent: tuple[float, ...] = (), **values: object
) -> Experiment:
    """An experiment with runs of its own, and those of the incumbent that it was compared with; its metric is their mean."""
    made = experiment(number, sum(own) / len(own), status, **values)
    runs = [measurement(made.commit, value) for value in own] + [measurement(made.parent, v) for v in incumbent]
    return replace(made, measurements=tuple(runs))


def by_evidence(status: Status, gain: float, error: float, *, needed: float = 0.02, runs: int = 2) -> Verdict:
    """A verdict with the numbers that decided; against three runs of the incumbent."""
    evidence = Evidence(
        gain=gain, standard_error=error, needed=needed, runs=runs, incumbent_runs=3, noise=error, degrees=4
    )
    return Verdict(status=status, reason=f"better by {gain:.3g}, after {runs} runs against 3", evidence=evidence)


def recheck(
    purpose: Purpose,
    reference: tuple[str, tuple[float | None, ...]],
    subject: tuple[str, tuple[float | None, ...]],
    **values: object,
) -> Recheck:
    """Fresh runs of two commits: each with its readings."""
    runs = tuple(measurement(commit, value) for commit, readings in (reference, subject) for value in readings)
    made = Recheck(
        purpose=purpose, reference=reference[0], subject=subject[0], wanted=len(reference[1]), measurements=runs
    )
    return replace(made, **values)  # type: ignore[arg-type]


def noisy(*rechecks: Recheck, direction: Direction = Direction.MINIMIZE) -> History:
    """A session whose readings differ: two keeps, the first by evidence and the second at once, a near miss and a discard."""
    keep, discard = Status.KEEP, Status.DISCARD
    made = history(direction=direction, ended="max-iterations reached")
    return replace(
        made,
        experiments=(
            measured(0, (1.0, 1.02), keep),
            measured(1, (0.94, 0.96), keep, incumbent=(1.01,), verdict=by_evidence(keep, 0.06, 0.01)),
            measured(2, (0.945,), discard, incumbent=(0.95,), verdict=by_evidence(discard, 0.012, 0.01, runs=1)),
            measured(3, (1.2,), discard, verdict=by_evidence(discard, -0.25, 0.01, runs=1)),
            measured(4, (0.9,), keep, verdict=by_evidence(keep, 0.05, 0.01, runs=1)),
        ),
        rechecks=rechecks,
    )


def flagged(made: History, number: int, *flags: str, every: bool = True) -> History:
    """The session with flags on the runs of one experiment: on every one of them, or on the first only."""
    changed = made.experiments[number]
    own = [m for m in changed.measurements if m.commit == changed.commit]
    runs = tuple(replace(m, flags=flags) if m in (own if every else own[:1]) else m for m in changed.measurements)
    experiments = list(made.experiments)
    experiments[number] = replace(changed, measurements=runs)
    return replace(made, experiments=tuple(experiments))


BASE, FIRST, BEST = (f"{number + 1:040x}" for number in (0, 1, 4))  # of `noisy`: the baseline and its two keeps
CONFIRMED = recheck(Purpose.VERIFY, (BASE, (1.0, 1.01, 1.02)), (BEST, (0.9, 0.92, 0.91)))
NOT_CONFIRMED = recheck(Purpose.VERIFY, (BASE, (1.0, 1.01, 1.02)), (BEST, (1.0, 1.01, 1.015)))
