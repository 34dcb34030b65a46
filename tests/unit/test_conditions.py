from __future__ import annotations

import datetime as dt
import subprocess
import sys
import time

import psutil
import pytest

from autoresearch_ci.conditions import Conditions, disturbance, moved
from autoresearch_ci.experiment import (
    Category,
    Direction,
    Ending,
    Experiment,
    History,
    Measurement,
    Reading,
    Run,
    Scalar,
    Session,
    Status,
    Verdict,
)

CORES = psutil.cpu_count() or 1


def measured(load: float | None = 0.0, steps: float | None = None, **conditions: Scalar) -> Measurement:
    numbers = {} if steps is None else {"num_steps": steps}
    found: dict[str, Scalar] = dict(conditions)
    if load is not None:
        found["other_load"] = load
    run = Run(ending=Ending.EXITED, exit_code=0, wall_s=5.0)
    return Measurement(
        commit="c", seed=1, run=run, reading=Reading(metric=1.0, numbers=numbers), log="l", conditions=found
    )


def history(*measurements: Measurement) -> History:
    session = Session(tag="t", metric="m", direction=Direction.MINIMIZE, training_script="train.py")
    experiment = Experiment(
        number=0, commit="c", parent="", description="", category=Category.OTHER,
        verdict=Verdict(status=Status.KEEP, reason=""), metric=1.0, memory_gb=None, measurements=measurements,
        finished_at=dt.datetime(2026, 11, 22, tzinfo=dt.UTC),
    )  # fmt: skip
    return History(session=session, experiments=(experiment,))


def test_what_others_burn_is_seen() -> None:
    """A neighbour that keeps a core busy is about one core of other load; the run's own CPU time is not."""
    conditions = Conditions({"device": "CPU"})
    burn = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        before = conditions.begin()
        time.sleep(1.2)
        used = psutil.Process(burn.pid).cpu_times()
        busy = used.user + used.system
        alone = conditions.end(before, Run(ending=Ending.EXITED, exit_code=0, wall_s=1.2, cpu_s=busy))
        beside = conditions.end(before, Run(ending=Ending.EXITED, exit_code=0, wall_s=1.2, cpu_s=0.0))
    finally:
        burn.kill()
        burn.wait()
    assert beside["device"] == "CPU"
    assert isinstance(beside["other_load"], float)
    assert isinstance(alone["other_load"], float)
    assert beside["other_load"] > 0.3
    assert beside["other_load"] - alone["other_load"] == pytest.approx(busy / 1.2, abs=0.3)


def test_no_load_is_claimed_where_it_cannot_be_told() -> None:
    """A run of a moment, or one whose CPU time nobody knows, has none."""
    conditions = Conditions()
    before = conditions.begin()
    assert conditions.end(before, Run(ending=Ending.EXITED, exit_code=0, wall_s=0.1, cpu_s=0.1)) == {}
    assert conditions.end(before, Run(ending=Ending.EXITED, exit_code=0, wall_s=9.0)) == {}


def test_more_load_than_usual_disturbs() -> None:
    """Compared with what is usual here: a machine that is always busy disturbs nobody."""
    much = max(1.0, 0.2 * CORES)
    usual = [measured(0.1), measured(0.2), measured(0.1)]
    assert "cores were busy" in disturbance({"other_load": 0.1 + much}, Reading(metric=1.0), usual, [])
    assert disturbance({"other_load": 0.4}, Reading(metric=1.0), usual, []) == ""
    assert disturbance({"other_load": much}, Reading(metric=1.0), [measured(much)], []) == ""
    assert disturbance({"other_load": 99.0}, Reading(metric=1.0), [], []) == ""
    assert disturbance({}, Reading(metric=1.0), usual, []) == ""


def test_fewer_steps_at_equal_code_disturb() -> None:
    """The same script that made a tenth fewer steps was slowed down; another script may be slower by itself."""
    before = [measured(steps=1000.0), measured(steps=1020.0), measured(steps=990.0)]
    slow = Reading(metric=1.0, numbers={"num_steps": 880.0})
    assert "880 steps" in disturbance({}, slow, [], before)
    assert disturbance({}, slow, before, []) == ""
    assert disturbance({}, Reading(metric=1.0, numbers={"num_steps": 950.0}), [], before) == ""


def test_another_device_or_torch_is_another_machine() -> None:
    """What is not known on either side changes nothing."""
    past = history(measured(device="H100", torch="2.13.0", python="3.11"))
    assert moved(past, {"device": "H100", "torch": "2.13.0", "python": "3.12"}) == ""
    assert moved(past, {"device": "H200", "torch": "2.13.0"}) == "device H100 is now H200"
    assert moved(past, {"device": "H200", "torch": "2.14"}) == "device H100 is now H200, torch 2.13.0 is now 2.14"
    assert moved(past, {"device": None}) == ""
    assert moved(history(), {"device": "H200"}) == ""
    assert moved(History(session=past.session), {"device": "H200"}) == ""
