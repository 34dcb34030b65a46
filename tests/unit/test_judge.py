from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoresearch_ci.experiment import Direction, Ending, Measurement, Reading, Run, Status
from autoresearch_ci.judge import crash_reason, judge, out_of_memory

finite = st.floats(allow_nan=False, allow_infinity=False)
directions = st.sampled_from(Direction)


def measurement(
    *,
    ending: Ending = Ending.EXITED,
    exit_code: int | None = 0,
    metric: float | None = 1.0,
    oom: bool = False,
    last: str = "",
) -> Measurement:
    run = Run(ending=ending, exit_code=exit_code, wall_s=12.0)
    reading = Reading(metric=metric, out_of_memory=oom, last_line=last)
    return Measurement(commit="c", seed=1, run=run, reading=reading, log="l")


def status(metric: float, incumbent: float, direction: Direction = Direction.MINIMIZE, lines: int = 10) -> Status:
    return judge(metric=metric, incumbent=incumbent, lines=lines, incumbent_lines=10, direction=direction).status


def test_better_by_any_amount_is_kept() -> None:
    """The skill's rule: the smallest gain counts."""
    assert status(0.9999999, 1.0) is Status.KEEP
    assert status(1.0000001, 1.0, Direction.MAXIMIZE) is Status.KEEP


def test_equal_with_fewer_lines_is_kept() -> None:
    """A deletion that maintains performance is better than an addition."""
    assert status(1.0, 1.0, lines=9) is Status.KEEP
    assert status(1.0, 1.0, lines=10) is Status.DISCARD
    assert status(1.0, 1.0, lines=11) is Status.DISCARD


@given(finite, finite, directions, st.integers(0, 20))
def test_worse_is_never_kept(metric: float, incumbent: float, direction: Direction, lines: int) -> None:
    """No number of saved lines buys a regression, in either direction."""
    if direction.better(incumbent, metric):
        assert status(metric, incumbent, direction, lines) is Status.DISCARD


@given(finite, finite, st.integers(0, 20))
def test_direction_is_symmetric(metric: float, incumbent: float, lines: int) -> None:
    """Maximising a metric decides as minimising its negative does."""
    assert status(metric, incumbent, Direction.MAXIMIZE, lines) is status(
        -metric, -incumbent, Direction.MINIMIZE, lines
    )


def test_nan_is_never_better() -> None:
    """A value that is no number cannot win."""
    nan = float("nan")
    assert status(nan, 1.0) is Status.DISCARD
    assert status(nan, 1.0, Direction.MAXIMIZE) is Status.DISCARD


@pytest.mark.parametrize(
    ("case", "reason"),
    [
        (measurement(), ""),
        (measurement(exit_code=1, last="ValueError: x"), "exit code 1: ValueError: x"),
        (measurement(metric=None), "no finite `m` in the log"),
        (measurement(metric=None, last="done"), "no finite `m` in the log: done"),
        (measurement(ending=Ending.TIMEOUT, exit_code=None), "killed after 12 s: it did not stop by itself"),
        (measurement(ending=Ending.OUT_OF_MEMORY, exit_code=None), "out of memory: killed by the memory limit"),
        (measurement(exit_code=1, oom=True, last="CUDA out of memory"), "out of memory: CUDA out of memory"),
    ],
)
def test_crashes_say_why(case: Measurement, reason: str) -> None:
    """No metric, a non-zero exit, the timeout and memory are crashes, each with its reason."""
    assert crash_reason(case, "m") == reason


def test_last_reading_counts_when_asked() -> None:
    """`at-timeout: last-reading` judges a script that never stops by what it last said, and only if it said something."""
    assert crash_reason(measurement(ending=Ending.TIMEOUT, exit_code=None), "m", last_reading_counts=True) == ""
    silent = measurement(ending=Ending.TIMEOUT, exit_code=None, metric=None)
    assert "no finite" in crash_reason(silent, "m", last_reading_counts=True)


def test_a_handled_memory_error_is_no_crash() -> None:
    """A script that meets an out-of-memory error, recovers and ends well has not run out of memory."""
    assert not out_of_memory(measurement(oom=True))
    assert out_of_memory(measurement(oom=True, exit_code=1))
