"""What a machine was like while a run was on, and whether that spoilt the run's reading.

karpathy/autoresearch's own configuration reads 1.008 on an H200 and 0.998 on an H100, and a neighbour that took a tenth of the
steps away moved a metric more than most kept changes did: readings are compared only where conditions were the same.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import psutil

from autoresearch_ci.experiment import Experiment, History, Measurement, Reading, Recheck, Run, Scalar

OTHER_LOAD: Final = "other_load"
IDENTITY: Final = ("device", "executor", "torch")  # what must be the same for readings to be compared
SHORTEST_S: Final = 1.0  # of a shorter run the load is mostly that of starting it
MORE_LOAD: Final = 0.5  # cores more than usual: less comes and goes on any machine
SHARE_OF_CORES: Final = 0.1  # on a machine with many cores half a core is nothing
FEWER_STEPS: Final = 0.9  # of the usual steps at equal code


@dataclass(frozen=True, slots=True)
class Sample:
    """The machine's clocks at the start of a run, in seconds."""

    at: float
    busy_s: float
    own_s: float


@dataclass(frozen=True, slots=True)
class Conditions:
    """Describes runs. `fixed`: what stays the same while a process lives (`device`, `executor`, `torch`), by name."""

    fixed: Mapping[str, Scalar] = field(default_factory=dict)

    def begin(self) -> Sample:
        """To be called before a run."""
        return Sample(time.monotonic(), _busy_s(), time.process_time())

    def end(self, before: Sample, run: Run) -> dict[str, Scalar]:
        """The fixed values, and for a run of a second or more `other_load`: the mean number of cores that were busy with neither
        the run nor this program. What a virtual machine's host took away counts as busy."""
        found = dict(self.fixed)
        seconds = time.monotonic() - before.at
        if run.cpu_s is not None and run.wall_s >= SHORTEST_S:
            others_s = _busy_s() - before.busy_s - run.cpu_s - (time.process_time() - before.own_s)
            found[OTHER_LOAD] = round(max(0.0, others_s / seconds), 2)
        return found


def disturbance(
    conditions: Mapping[str, Scalar], reading: Reading, usual: Sequence[Measurement], same_code: Sequence[Measurement]
) -> str:
    """Why a run was visibly disturbed, in one line; empty when it was not, or when there is nothing to compare it with.

    `usual`: earlier undisturbed runs of any code, for the load. `same_code`: those of the same script, for the steps.
    """
    load, others = conditions.get(OTHER_LOAD), _numbers(usual, OTHER_LOAD)
    if isinstance(load, float) and others:
        median = statistics.median(others)
        if load > median + max(MORE_LOAD, SHARE_OF_CORES * (psutil.cpu_count() or 1)):
            return f"{load:.1f} cores were busy with something else, {median:.1f} are usual"
    steps = reading.numbers.get("num_steps")
    before = [m.reading.numbers["num_steps"] for m in same_code if "num_steps" in m.reading.numbers]
    if steps is not None and before and steps < FEWER_STEPS * statistics.median(before):
        return f"{steps:.0f} steps, {statistics.median(before):.0f} are usual with this script"
    return ""


def moved(history: History, fixed: Mapping[str, Scalar]) -> str:
    """Why the readings so far cannot be compared with new ones, in one line: made elsewhere. Empty when they can."""
    made: list[Experiment | Recheck] = [*history.experiments, *history.rechecks]
    last = max(made, key=lambda m: m.finished_at.timestamp() if m.finished_at else 0.0, default=None)
    if last is None or not last.measurements:
        return ""
    before = last.measurements[-1].conditions
    changes = [
        f"{name} {before[name]} is now {fixed[name]}"
        for name in IDENTITY
        if before.get(name) is not None and fixed.get(name) is not None and before[name] != fixed[name]
    ]
    return ", ".join(changes)


def _numbers(measurements: Sequence[Measurement], name: str) -> list[float]:
    return [v for m in measurements if isinstance(v := m.conditions.get(name), float) and not m.disturbed]


def _busy_s() -> float:
    """CPU seconds since the machine started in which its cores were not idle, of all processes."""
    times = psutil.cpu_times()._asdict()
    # A guest's time is in `user` already.
    return float(sum(s for name, s in times.items() if name not in {"idle", "iowait", "guest", "guest_nice"}))
