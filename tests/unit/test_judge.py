from __future__ import annotations

import math
import random
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoresearch_ci.experiment import Direction, Ending, Measurement, Reading, Run, Status, Verdict
from autoresearch_ci.judge import Rule, RunAgain, crash_reason, judge, out_of_memory
from autoresearch_ci.noise import Noise

readings = st.lists(st.floats(-1e3, 1e3).map(lambda x: round(x, 6)), min_size=1, max_size=8)
noises = st.builds(Noise, st.floats(1e-3, 1e3), st.integers(1, 60))
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


def judged(
    candidate: Sequence[float],
    incumbent: Sequence[float],
    direction: Direction = Direction.MINIMIZE,
    *,
    noise: Noise = Noise(),
    lines: int = 10,
    runs: int = 2,
    typical_gain: float = 0.0,
    rule: Rule = Rule(),
) -> Verdict | RunAgain:
    return judge(
        candidate,
        incumbent,
        noise=noise,
        typical_gain=typical_gain,
        runs=runs,
        lines=lines,
        incumbent_lines=10,
        direction=direction,
        rule=rule,
    )


def status(metric: float, incumbent: float, direction: Direction = Direction.MINIMIZE, lines: int = 10) -> Status:
    verdict = judged([metric], [incumbent], direction, lines=lines)
    assert isinstance(verdict, Verdict)
    return verdict.status


def rank(answer: Verdict | RunAgain) -> int:
    """discard < run again < keep"""
    return 1 if isinstance(answer, RunAgain) else 2 * (answer.status is Status.KEEP)


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


def test_min_delta_raises_the_bar() -> None:
    """Gains up to `min-delta` are none, with or without noise; fewer lines at such a gain are kept."""
    rule = Rule(min_delta=0.1)
    assert rank(judged([0.95], [1.0], rule=rule)) == 0
    assert rank(judged([0.95], [1.0], rule=rule, lines=9)) == 2
    assert rank(judged([0.8], [1.0], rule=rule)) == 2
    assert rank(judged([0.95], [1.0], noise=Noise(1e-6, 9), rule=rule, runs=99)) == 0


def test_clearly_better_is_kept_at_once() -> None:
    """A gain far beyond the noise costs no second run, and the numbers that decided are in the verdict."""
    verdict = judged([0.5], [1.0, 1.02], noise=Noise(0.01, 5), runs=1)
    assert isinstance(verdict, Verdict)
    assert verdict.status is Status.KEEP
    assert verdict.evidence is not None
    assert verdict.evidence.gain == pytest.approx(0.51)
    assert verdict.evidence.standard_error == pytest.approx(0.01 * math.sqrt(1.5))
    assert verdict.evidence.needed == pytest.approx(2.015 * 0.01 * math.sqrt(1.5), rel=1e-3)  # t(0.95, 5)
    assert (verdict.evidence.runs, verdict.evidence.incumbent_runs) == (1, 2)


def test_a_worse_first_reading_is_a_discard() -> None:
    """No run is spent on what does not look better at all, however noisy the readings are."""
    assert rank(judged([1.001], [1.0, 1.0], noise=Noise(5.0, 1), runs=1)) == 0


def test_in_between_it_is_run_again_until_the_runs_are_used() -> None:
    """The incumbent has the next run as long as it has too few readings; at the end an unclear gain is a discard."""
    assert judged([0.99], [1.0], noise=Noise(0.01, 5), runs=1) == RunAgain(
        True, "better by 0.01, and 0.0285 would be sure"
    )
    again = judged([0.99], [1.0, 1.0], noise=Noise(0.01, 5), runs=2)
    assert isinstance(again, RunAgain)
    assert not again.incumbent
    verdict = judged([0.99], [1.0, 1.0], noise=Noise(0.01, 5), runs=12)
    assert isinstance(verdict, Verdict)
    assert verdict.status is Status.DISCARD
    assert "not enough to be sure" in verdict.reason


def test_hopeless_is_given_up() -> None:
    """A gain that is small beside what keeps gain here is not run again, when the readings are exact enough to tell."""
    assert rank(judged([0.99], [1.0, 1.0], noise=Noise(0.01, 5), typical_gain=0.001)) == 1
    assert rank(judged([0.99], [1.0, 1.0], noise=Noise(0.01, 5), typical_gain=0.05)) == 0


def test_the_reading_that_selected_the_incumbent_decides_nothing() -> None:
    """Without a reading of its own the incumbent is run first; one that never gives any keeps nobody out for ever."""
    assert judged([0.5], [], noise=Noise(0.1, 3), runs=1) == RunAgain(
        True, "it has no reading yet but the one that selected it"
    )
    assert rank(judged([0.5], [], noise=Noise(0.1, 3), runs=12)) == 0


def test_simpler_within_the_noise_is_kept_by_evidence() -> None:
    """Fewer lines are kept once it is clear that they cost less than the noise of one run, and not before."""
    noise = Noise(0.01, 30)
    assert rank(judged([1.0], [1.0], noise=noise, lines=9)) == 1
    assert rank(judged([1.0] * 6, [1.0] * 9, noise=noise, lines=9)) == 2
    assert rank(judged([1.0] * 6, [1.0] * 9, noise=noise, lines=10)) == 0
    assert rank(judged([1.05] * 6, [1.0] * 9, noise=noise, lines=9)) == 0


@given(readings, readings, noises, st.integers(0, 20), st.randoms(use_true_random=False))
def test_the_order_of_readings_does_not_matter(
    candidate: list[float], incumbent: list[float], noise: Noise, lines: int, order: random.Random
) -> None:
    """What was read counts, not when: so that a resumed session decides as an uninterrupted one."""
    mixed = order.sample(candidate, len(candidate)), order.sample(incumbent, len(incumbent))
    assert rank(judged(candidate, incumbent, noise=noise, lines=lines)) == rank(
        judged(*mixed, noise=noise, lines=lines)
    )


@given(readings, readings, noises, directions, st.floats(0, 1e3), st.integers(0, 20), st.integers(1, 20))
def test_better_is_never_worse(
    candidate: list[float],
    incumbent: list[float],
    noise: Noise,
    direction: Direction,
    step: float,
    lines: int,
    runs: int,
) -> None:
    """Readings that are all better by some amount never lead to a worse answer."""
    sign = -1 if direction is Direction.MINIMIZE else 1
    improved = [value + sign * step for value in candidate]
    before = judged(candidate, incumbent, direction, noise=noise, lines=lines, runs=runs, typical_gain=noise.sd)
    after = judged(improved, incumbent, direction, noise=noise, lines=lines, runs=runs, typical_gain=noise.sd)
    assert rank(after) >= rank(before)


@given(readings, readings, noises, st.integers(0, 20), st.integers(1, 20))
def test_direction_is_symmetric_with_noise(
    candidate: list[float], incumbent: list[float], noise: Noise, lines: int, runs: int
) -> None:
    """Maximising a metric decides as minimising its negative does, run for run."""
    up = judged(candidate, incumbent, Direction.MAXIMIZE, noise=noise, lines=lines, runs=runs)
    down = judged(
        [-v for v in candidate], [-v for v in incumbent], Direction.MINIMIZE, noise=noise, lines=lines, runs=runs
    )
    assert up == down


@given(readings, readings, noises, directions, st.integers(0, 20))
def test_nan_never_keeps(
    candidate: list[float], incumbent: list[float], noise: Noise, direction: Direction, lines: int
) -> None:
    """One reading that is no number keeps everything else from being a keep."""
    assert rank(judged([*candidate, math.nan], incumbent, direction, noise=noise, lines=lines)) < 2
    assert rank(judged(candidate, [*incumbent, math.nan], direction, noise=noise, lines=lines)) < 2


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
