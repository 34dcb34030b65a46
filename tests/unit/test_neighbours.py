"""What a run costs the one beside it."""

from __future__ import annotations

from autoresearch_ci.experiment import Ending, Measurement, Reading, Run
from autoresearch_ci.neighbours import cost


def made(metric: float | None, wall_s: float = 60.0, steps: float | None = None, *, disturbed: str = "") -> Measurement:
    run = Run(ending=Ending.EXITED, exit_code=0, wall_s=wall_s)
    reading = Reading(metric=metric, numbers={} if steps is None else {"num_steps": steps})
    return Measurement(commit="c", seed=1, run=run, reading=reading, log="l", disturbed=disturbed)


def test_the_wall_clock_and_the_metric_are_compared() -> None:
    """The means together, relative to the mean alone."""
    told = cost([made(2.0, 60.0)], [made(2.01, 60.3), made(2.03, 61.5)])
    assert told == "beside 1 other run: wall clock +1.5%, metric +1.0%; within 3%"


def test_steps_count_where_both_tell_them() -> None:
    """A script that stops by the clock takes as long beside any neighbour, and makes fewer steps."""
    told = cost([made(-2.0, 60.0, 1000.0)], [made(-1.99, 60.0, 900.0)] * 3)
    assert told == "beside 2 other runs: steps -10.0%, metric +0.5%; more than 3%, so parallel may be too high here"
    assert "wall clock" in cost([made(2.0, steps=1000.0)], [made(2.0), made(2.0)])


def test_nothing_is_said_where_nothing_is_known() -> None:
    """Without runs that count on both sides there is no line; a metric of zero is not divided by."""
    assert cost([], [made(1.0)]) == ""
    assert cost([made(None)], [made(1.0)]) == ""
    assert cost([made(1.0)], [made(1.0, disturbed="load")]) == ""
    assert "metric" not in cost([made(0.0)], [made(1.0), made(1.0)])


def test_of_short_runs_little_is_said() -> None:
    """Their wall clock is mostly how long it takes to start them; steps tell all the same."""
    assert cost([made(1.0, 0.3)], [made(1.0, 0.4)] * 2).endswith("mostly how long it takes to start them")
    assert "may be too high" in cost([made(1.0, 0.3, 100.0)], [made(1.0, 0.3, 90.0)] * 2)
