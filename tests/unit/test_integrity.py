"""Which readings are not believed by themselves."""

from __future__ import annotations

from dataclasses import replace

import pytest

from autoresearch_ci.experiment import Direction, Ending, History, Measurement, Reading, Run, Status
from autoresearch_ci.integrity import flags
from tests.unit.histories import history

KEEP, DISCARD = Status.KEEP, Status.DISCARD


def run(value: float | None, *, wall_s: float = 300.0, lines: int = 1, read_at: float | None = None) -> Measurement:
    return Measurement(
        commit="c" * 40,
        seed=42,
        run=Run(ending=Ending.EXITED, exit_code=0, wall_s=wall_s),
        reading=Reading(metric=value, metric_lines=lines),
        log="0001.log",
        read_at=read_at,
    )


def session(
    *metrics: float, wall_s: float = 300.0, lines: int = 1, direction: Direction = Direction.MINIMIZE
) -> History:
    """A baseline with one run, and keeps after it."""
    made = history(*((value, KEEP) for value in metrics), direction=direction)
    baseline = replace(made.experiments[0], measurements=(run(metrics[0], wall_s=wall_s, lines=lines),))
    return replace(made, experiments=(baseline, *made.experiments[1:]))


def test_an_ordinary_run_has_no_flag() -> None:
    """One line with the metric, at the end, a little better."""
    assert flags(run(0.99, read_at=299.0), session(1.0)) == ()
    assert flags(run(1.5, read_at=299.0), session(1.0)) == ()


def test_a_second_metric_line_is_flagged() -> None:
    """Where the untouched script says its metric once, saying it twice is odd; where that shows a curve, it is not."""
    assert "2 lines give the metric" in flags(run(0.99, lines=2), session(1.0))[0]
    assert flags(run(0.99, lines=9), session(1.0, lines=5)) == ()


def test_a_run_that_took_a_fraction_of_the_time_is_flagged() -> None:
    """Less than half of what the untouched script takes, or of the budget where that is shorter."""
    assert flags(run(0.99, wall_s=149.0), session(1.0)) == ("it ended after 149.0 s, where training takes 300.0 s",)
    assert flags(run(0.99, wall_s=151.0), session(1.0)) == ()
    assert flags(run(0.99, wall_s=151.0), session(1.0, wall_s=500.0)) == ()  # the budget is 300 s
    assert flags(run(0.99, wall_s=0.1), session(1.0, wall_s=1.5)) == ()  # starting up


def test_a_metric_before_training_could_have_finished_is_flagged() -> None:
    """The script printed it early and went on as if it trained."""
    assert flags(run(0.99, read_at=3.0), session(1.0)) == (
        "its metric was printed after 3.0 s, where training takes 300.0 s",
    )
    assert flags(run(0.99, read_at=None), session(1.0)) == ()


@pytest.mark.parametrize(
    ("kept", "value", "flagged"),
    [
        ((1.0,), 0.51, False),  # half the baseline is the limit while nothing has gained
        ((1.0,), 0.49, True),
        ((1.0, 0.99), 0.9, False),  # then ten times the best gain
        ((1.0, 0.99), 0.88, True),
        ((1.0, 0.9, 0.899), 0.01, False),
        ((1.0, 1.0), 0.51, False),  # a keep that gained nothing says nothing
        ((0.0,), -5.0, False),  # half of nothing says nothing
    ],
)
def test_a_jump_is_flagged(kept: tuple[float, ...], value: float, *, flagged: bool) -> None:
    """Ten times the best gain so far; half the baseline as long as there is none."""
    found = flags(run(value), session(*kept))
    assert bool(found) is flagged
    assert not found or found[0].startswith("a jump: better by ")


def test_the_limit_of_a_jump_can_be_set() -> None:
    """`max-jump` replaces what the session would say, in either direction."""
    up = session(1.0, direction=Direction.MAXIMIZE)
    assert flags(run(1.2), up, max_jump=0.1)
    assert flags(run(9.0), up, max_jump=10.0) == ()
    assert flags(run(0.2), up, max_jump=0.1) == ()  # worse is no gain


def test_what_gave_no_metric_has_no_flag() -> None:
    """A crash is a crash; and there is nothing to compare a baseline with."""
    assert flags(run(None, wall_s=1.0), session(1.0)) == ()
    assert flags(run(0.1), History(session=session(1.0).session)) == ()
