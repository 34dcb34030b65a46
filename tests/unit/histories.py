"""Hand-made histories for the unit tests."""

from __future__ import annotations

import datetime as dt

from autoresearch_ci.experiment import Category, Direction, Experiment, History, Session, Status, Verdict

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
