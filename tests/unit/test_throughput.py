"""The arithmetic of the benchmark of the throughput."""

from __future__ import annotations

import dataclasses
import datetime as dt

from autoresearch_ci.experiment import Status
from tests.bench.throughput import per_second

from .histories import START, experiment, measurement


def test_runs_a_second_leave_out_the_last_round() -> None:
    """From the first start to the start of the last run in every slot, and a run that was made again counts as one more."""
    run = measurement("c", 1.0)
    starts = [0, 0, 4, 4, 8, 8]  # of two slots
    made = [
        dataclasses.replace(
            experiment(n + 1, 1.0, Status.DISCARD), started_at=START + dt.timedelta(seconds=at), measurements=(run,)
        )
        for n, at in enumerate(starts)
    ]
    assert per_second(made, 2) == 4 / 8
    assert per_second(made, 1) == 5 / 8
    made[0] = dataclasses.replace(made[0], measurements=(run, run))
    assert per_second(made, 2) == 5 / 8
