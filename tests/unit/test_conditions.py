"""What conditions mean for a reading."""

from __future__ import annotations

import datetime as dt
import os
import statistics
import subprocess
import sys
import time
from dataclasses import replace

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

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
from autoresearch_ci.slots import Slot

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


@pytest.mark.skipif(sys.platform != "linux", reason="keeps a process to one core")
def test_only_a_slots_own_cores_count() -> None:
    """A neighbour on another core is no load of this slot's, and one on its own core is."""
    if sys.platform != "linux" or CORES < 2:
        return
    first, second = sorted(os.sched_getaffinity(0))[:2]
    burn = subprocess.Popen([sys.executable, "-c", f"import os; os.sched_setaffinity(0, [{first}])\nwhile True: pass"])
    mine, other = (Slot(number=n, cpus=(cpu,), threads=1) for n, cpu in ((1, first), (2, second)))
    conditions, run = Conditions(), Run(ending=Ending.EXITED, exit_code=0, wall_s=1.5, cpu_s=0.0)
    try:
        time.sleep(0.2)
        before = conditions.begin(mine), conditions.begin(other)
        time.sleep(1.5)
        spoilt, quiet = conditions.end(before[0], run, mine), conditions.end(before[1], run, other)
        used = psutil.Process(burn.pid).cpu_times().user / 1.7
    finally:
        burn.kill()
        burn.wait()
    assert isinstance(spoilt["other_load"], float)
    assert isinstance(quiet["other_load"], float)
    assert 0.7 * used < spoilt["other_load"] <= 1.05
    assert 0.0 <= quiet["other_load"] <= 1.05  # other processes of this machine may be there


def test_neighbours_on_the_same_cores_are_no_load() -> None:
    """Where slots have no cores of their own, or those of another machine, nobody can tell: nothing is claimed."""
    run = Run(ending=Ending.EXITED, exit_code=0, wall_s=9.0, cpu_s=0.0)
    for slot in (Slot(number=2, threads=4), Slot(number=2, cpus=(100_000,), threads=1)):
        conditions = Conditions()
        assert conditions.end(conditions.begin(slot), run, slot) == {}


def test_what_disturbs_goes_by_the_slots_cores() -> None:
    """A tenth of the slot's own cores, and half a core at least."""
    usual = [measured(0.1)]
    few, many = Slot(cpus=tuple(range(2)), threads=2), Slot(cpus=tuple(range(64)), threads=64)
    assert disturbance({"other_load": 0.7}, Reading(metric=1.0), usual, [], slot=few) != ""
    assert disturbance({"other_load": 6.0}, Reading(metric=1.0), usual, [], slot=many) == ""
    assert disturbance({"other_load": 7.0}, Reading(metric=1.0), usual, [], slot=many) != ""


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


def test_heat_that_is_not_usual_disturbs() -> None:
    """A throttled GPU disturbs where it mostly is not throttled; one that always is, or that nobody knew, does not."""
    hot: dict[str, Scalar] = {"throttled": True}
    cool, warm = measured(throttled=False), measured(throttled=True)
    assert "heat" in disturbance(hot, Reading(metric=1.0), [cool, cool, warm], [])
    assert disturbance(hot, Reading(metric=1.0), [cool, warm, warm], []) == ""
    assert disturbance(hot, Reading(metric=1.0), [measured()], []) == ""
    assert disturbance({"throttled": False}, Reading(metric=1.0), [cool], []) == ""


def test_a_slower_clock_at_equal_code_disturbs() -> None:
    """Another script may draw more power and so run at a lower clock; the same one may not."""
    before = [measured(clock_mhz=1740.0), measured(clock_mhz=1755.0)]
    slow: dict[str, Scalar] = {"clock_mhz": 1300.0}
    assert "1300 MHz" in disturbance(slow, Reading(metric=1.0), [], before)
    assert disturbance(slow, Reading(metric=1.0), before, []) == ""
    assert disturbance({"clock_mhz": 1700.0}, Reading(metric=1.0), [], before) == ""


def test_who_comes_to_stay_becomes_usual() -> None:
    """After three runs that were taken as they are, a load that does not end disturbs no more."""
    much, quiet = 5.0 + CORES, [measured(0.1)] * 40
    assert disturbance({"other_load": much}, Reading(metric=1.0), [*quiet, *[measured(much)] * 2], []) != ""
    assert disturbance({"other_load": much}, Reading(metric=1.0), [*quiet, *[measured(much)] * 3], []) == ""


def test_disturbed_runs_do_not_say_what_is_usual() -> None:
    """Neither their load nor their heat nor their steps."""
    spoilt = [replace(measured(9.0 + CORES, steps=100.0, throttled=True), disturbed="load")] * 9
    usual = [measured(0.1, steps=1000.0, throttled=False), *spoilt]
    few = Reading(metric=1.0, numbers={"num_steps": 500.0})
    assert "cores" in disturbance({"other_load": 9.0 + CORES}, few, usual, usual)
    assert "heat" in disturbance({"throttled": True}, few, usual, usual)
    assert "steps" in disturbance({}, few, usual, usual)


@given(st.lists(st.floats(0, 64), min_size=1, max_size=8), st.floats(0, 128), st.floats(0, 128))
def test_more_load_never_disturbs_less(usual: list[float], load: float, more: float) -> None:
    """A run beside at least as much is disturbed too, and one beside no more than was ever usual is not."""
    before = [measured(value) for value in usual]

    def spoilt(value: float) -> bool:
        return bool(disturbance({"other_load": value}, Reading(metric=1.0), before, []))

    assert not spoilt(min(usual))
    assert spoilt(load) <= spoilt(load + more)


@given(st.lists(st.floats(1, 1e6), min_size=1, max_size=5), st.floats(1e-3, 1e3))
def test_steps_are_compared_without_a_unit(steps: list[float], scale: float) -> None:
    """As many steps as usual never disturb, half of them always do, at any number of steps."""
    before = [measured(steps=value * scale) for value in steps]
    usual = statistics.median(value * scale for value in steps)
    assert disturbance({}, Reading(metric=1.0, numbers={"num_steps": usual}), [], before) == ""
    assert disturbance({}, Reading(metric=1.0, numbers={"num_steps": usual / 2}), [], before) != ""


def test_another_device_or_torch_is_another_machine() -> None:
    """What is not known on either side changes nothing."""
    past = history(measured(device="H100", torch="2.13.0", python="3.11"))
    assert moved(past, {"device": "H100", "torch": "2.13.0", "python": "3.12"}) == ""
    assert moved(past, {"device": "H200", "torch": "2.13.0"}) == "device H100 is now H200"
    assert moved(past, {"device": "H200", "torch": "2.14"}) == "device H100 is now H200, torch 2.13.0 is now 2.14"
    assert moved(past, {"device": None}) == ""
    driven = history(measured(device="H100", driver="570.86.15"))
    assert moved(driven, {"device": "H100", "driver": "580.65.06"}) == "driver 570.86.15 is now 580.65.06"
    assert moved(history(), {"device": "H200"}) == ""
    assert moved(History(session=past.session), {"device": "H200"}) == ""
