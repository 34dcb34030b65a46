from __future__ import annotations

import pytest

from autoresearch_ci.experiment import Direction, History, Status
from autoresearch_ci.stopping import Limits, out_of_hours, reason_to_stop
from tests.unit.histories import history

KEEP, DISCARD, CRASH = Status.KEEP, Status.DISCARD, Status.CRASH
SOME = history((1.0, KEEP), (0.9, KEEP), (1.1, DISCARD), (None, CRASH), (None, CRASH))


def reason(limits: Limits, of: History = SOME, elapsed_s: float = 0.0, next_s: float = 60.0) -> str:
    return reason_to_stop(of, limits, elapsed_s=elapsed_s, next_s=next_s)


def test_without_limits_it_goes_on() -> None:
    """The skill's default: indefinitely, until stopped by hand."""
    assert reason(Limits()) == ""


@pytest.mark.parametrize(("limit", "stops"), [(3, True), (4, True), (5, False)])
def test_max_iterations_counts_experiments_after_the_baseline(limit: int, stops: bool) -> None:
    """The baseline is not one of them."""
    assert bool(reason(Limits(max_iterations=limit))) is stops


def test_no_iterations_is_a_limit_too() -> None:
    """Zero means the baseline alone."""
    assert reason(Limits(max_iterations=0), history((1.0, KEEP)))


def test_target_counts_only_what_was_kept() -> None:
    """A target is reached by a kept value that is equal or better, in the metric's direction."""
    assert reason(Limits(target=0.9)) == "the target of 0.9 is reached"
    assert reason(Limits(target=0.89)) == ""
    up = history((0.5, KEEP), (0.8, KEEP), direction=Direction.MAXIMIZE)
    assert reason(Limits(target=0.7), up)
    assert not reason(Limits(target=0.9), up)


def test_no_experiment_is_started_that_cannot_end_in_time() -> None:
    """`max-hours` is kept, not overrun by the last experiment."""
    assert not reason(Limits(max_hours=1), elapsed_s=3500, next_s=100)
    assert reason(Limits(max_hours=1), elapsed_s=3501, next_s=100)


def test_only_the_hours_leave_something_to_go_on_with() -> None:
    """A session that ran out of time says whose time it was, and can be continued; one that reached its end cannot."""
    over = reason(Limits(max_hours=1, hours_because=", since the job ends after 2"), elapsed_s=3600)
    assert over == "the next experiment would not end within 1 hours, since the job ends after 2"
    assert out_of_hours(over)
    assert not out_of_hours(reason(Limits(max_iterations=4)))
    assert not out_of_hours("")


def test_crashes_count_only_in_a_row() -> None:
    """A crash that is followed by something else is forgiven."""
    assert reason(Limits(max_crashes=2)) == "2 crashes in a row"
    assert not reason(Limits(max_crashes=3))
    assert not reason(Limits(max_crashes=2), history((1.0, KEEP), (None, CRASH), (None, CRASH), (1.2, DISCARD)))


def test_patience_counts_from_the_last_keep() -> None:
    """Discards and crashes since the last keep, the baseline included as one."""
    assert reason(Limits(patience=3)) == "3 experiments in a row without a keep"
    assert not reason(Limits(patience=4))
