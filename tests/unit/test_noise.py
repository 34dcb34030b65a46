from __future__ import annotations

import datetime as dt
import random
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoresearch_ci.experiment import (
    Category,
    Direction,
    Ending,
    Evidence,
    Experiment,
    History,
    Measurement,
    Purpose,
    Reading,
    Recheck,
    Run,
    Session,
    Status,
    Verdict,
)
from autoresearch_ci.noise import Noise, Readings, confirmed, quantile, verification

NOON = dt.datetime(2026, 11, 22, 12, tzinfo=dt.UTC)
BASE = "b" * 40


def measured(commit: str, *values: float | None, disturbed: str = "") -> tuple[Measurement, ...]:
    run = Run(ending=Ending.EXITED, exit_code=0, wall_s=1.0)
    return tuple(
        Measurement(commit=commit, seed=1, run=run, reading=Reading(metric=v), log="l", disturbed=disturbed)
        for v in values
    )


def experiment(
    number: int, commit: str, *measurements: Measurement, kept: bool = True, gain: float = 0.0
) -> Experiment:
    evidence = Evidence(gain=gain, standard_error=1, needed=1, runs=1, incumbent_runs=1, noise=1, degrees=1)
    return Experiment(
        number=number,
        commit=commit,
        parent=BASE if number else "",
        description="d",
        category=Category.OTHER,
        verdict=Verdict(status=Status.KEEP if kept else Status.DISCARD, reason="", evidence=evidence if gain else None),
        metric=1.0,
        memory_gb=None,
        measurements=measurements,
        finished_at=NOON + dt.timedelta(minutes=number),
    )


def history(*experiments: Experiment, rechecks: tuple[Recheck, ...] = ()) -> History:
    session = Session(tag="t", metric="m", direction=Direction.MINIMIZE, training_script="train.py", base_commit=BASE)
    return History(session=session, experiments=experiments, rechecks=rechecks)


def verified(
    *measurements: Measurement, subject: str = "c", purpose: Purpose = Purpose.VERIFY, at: int = 99
) -> Recheck:
    return Recheck(
        purpose=purpose, reference=BASE, subject=subject, wanted=3, measurements=measurements,
        finished_at=NOON + dt.timedelta(minutes=at),
    )  # fmt: skip


def test_noise_is_pooled_over_every_script_that_was_run_again() -> None:
    """Distances from each script's own mean count, never the difference between scripts."""
    readings = Readings.of(
        history(
            experiment(0, BASE, *measured(BASE, 1.0, 3.0)),
            experiment(1, "c", *measured("c", 10.0, 11.0), *measured(BASE, 2.0), kept=False),
            experiment(2, "d", *measured("d", 50.0), kept=False),
        )
    )
    assert readings.noise.sd == pytest.approx(((2.0 + 0.5) / 3) ** 0.5)
    assert readings.noise.degrees == 3


@given(st.lists(st.lists(st.floats(-100, 100), min_size=1, max_size=4), min_size=1, max_size=8))
def test_pooling_is_the_textbook_formula(groups: list[list[float]]) -> None:
    """The same as the weighted mean of the groups' variances, whatever order the readings came in."""
    made = [experiment(n, f"{n}", *measured(f"{n}", *values), kept=False) for n, values in enumerate(groups, start=1)]
    noise = Readings.of(history(experiment(0, BASE, *measured(BASE, 0.0)), *made)).noise
    degrees = sum(len(g) - 1 for g in groups)
    squares = sum(statistics.variance(g) * (len(g) - 1) for g in groups if len(g) > 1)
    assert noise.degrees == degrees
    assert noise.sd == pytest.approx((squares / degrees) ** 0.5 if degrees else 0.0, abs=1e-9)


def test_equal_readings_are_exact() -> None:
    """A script that always says the same has no noise, to the last digit, also where a mean would round."""
    readings = Readings.of(history(experiment(0, BASE, *measured(BASE, 0.1, 0.1, 0.1))))
    assert readings.noise == Noise(0.0, 2)
    assert readings.noise.exact


def test_the_selecting_reading_is_not_compared() -> None:
    """The mean of an incumbent never holds the lucky reading that selected it; with exact readings there is nothing else."""
    noisy = Readings.of(
        history(
            experiment(0, BASE, *measured(BASE, 1.0, 1.2)),
            experiment(1, "c", *measured("c", 0.5, 0.8), *measured(BASE, 1.1), *measured("c", 0.9), gain=0.3),
        )
    )
    assert noisy.compared("c") == (0.8, 0.9)
    assert noisy.compared(BASE) == (1.0, 1.2, 1.1)
    exact = Readings.of(
        history(experiment(0, BASE, *measured(BASE, 1.0, 1.0)), experiment(1, "c", *measured("c", 0.5)))
    )
    assert exact.compared("c") == (0.5,)
    alone = Readings.of(
        history(experiment(0, BASE, *measured(BASE, 1.0, 1.2)), experiment(1, "c", *measured("c", 0.5)))
    )
    assert alone.compared("c") == ()


def test_intervals_are_made_of_readings_that_nobody_chose() -> None:
    """The reading that made somebody look lies further out than others: it is not part of the interval's noise."""
    readings = Readings.of(
        history(
            experiment(0, BASE, *measured(BASE, 1.0, 1.2)),
            experiment(1, "c", *measured("c", 0.2, 0.8, 0.9), kept=False),
            rechecks=(verified(*measured(BASE, 1.1), *measured("d", 0.5, 0.6), subject="d"),),
        )
    )
    assert readings.fresh_noise.degrees == 4
    assert readings.fresh_noise.sd == pytest.approx(((0.02 + 0.005 + 0.005) / 4) ** 0.5)
    assert readings.noise.sd > readings.fresh_noise.sd


def test_a_disturbed_or_failed_run_is_no_reading() -> None:
    """What does not count is neither compared nor part of the noise."""
    readings = Readings.of(
        history(experiment(0, BASE, *measured(BASE, 1.0, None), *measured(BASE, 9.0, disturbed="other load")))
    )
    assert readings.compared(BASE) == (1.0,)
    assert readings.noise == Noise(0.0, 0)


def test_another_machine_starts_anew() -> None:
    """After the move only what was measured since is compared; the noise knows both, without mixing them."""
    moved = verified(*measured(BASE, 5.0, 5.2), *measured("c", 4.0, 4.2), purpose=Purpose.MACHINE, at=2)
    readings = Readings.of(
        history(
            experiment(0, BASE, *measured(BASE, 1.0, 1.2)),
            experiment(1, "c", *measured("c", 0.5, 0.7), gain=0.3),
            rechecks=(moved,),
        )
    )
    assert readings.compared("c") == (4.0, 4.2)
    assert readings.noise.sd == pytest.approx(0.02**0.5)
    assert readings.noise.degrees == 4


def test_a_holdout_is_another_metric() -> None:
    """Its readings are no readings of the session's metric."""
    made = verified(*measured(BASE, 50.0, 70.0), purpose=Purpose.HOLDOUT)
    readings = Readings.of(history(experiment(0, BASE, *measured(BASE, 1.0, 1.2)), rechecks=(made,)))
    assert readings.compared(BASE) == (1.0, 1.2)
    assert readings.noise.degrees == 1


def test_the_noise_of_an_experiment_that_is_not_decided_yet() -> None:
    """Its readings count at once, pooled with what the incumbent had before, and the book stays as it was."""
    readings = Readings.of(history(experiment(0, BASE, *measured(BASE, 1.0, 3.0))))
    now = readings.noise_with([5.0, 7.0], incumbent=(BASE, [2.0]))
    assert now.sd == pytest.approx(((2.0 + 2.0) / 3) ** 0.5)
    assert now.degrees == 3
    assert readings.noise.degrees == 1


@given(st.lists(st.lists(st.floats(-100, 100), min_size=1, max_size=4), min_size=1, max_size=6))
def test_growing_is_the_same_as_beginning_anew(groups: list[list[float]]) -> None:
    """A session that goes on knows what a resumed one knows."""
    made = [
        experiment(0, BASE, *measured(BASE, 1.0, 2.0)),
        *(experiment(n, f"{n}", *measured(f"{n}", *g), *measured(BASE, g[0]), gain=1.0) for n, g in enumerate(groups, 1)),
    ]  # fmt: skip
    growing = Readings(Direction.MINIMIZE)
    for each in made:
        growing.add(each)
    resumed = Readings.of(history(*made))
    assert growing.noise == resumed.noise
    assert growing.typical_gain == resumed.typical_gain
    assert all(growing.compared(e.commit) == resumed.compared(e.commit) for e in made)


def test_confirmed_gain() -> None:
    """The difference of the fresh means with Student's interval of the pooled noise; positive is better in either direction."""
    recheck = verified(*measured(BASE, 1.0, 1.1), *measured("c", 0.8, 0.9))
    interval = confirmed(recheck, Noise(0.1, 10), Direction.MINIMIZE)
    assert interval is not None
    assert interval.gain == pytest.approx(0.2)
    assert interval.high - interval.gain == pytest.approx(2.228 * 0.1, rel=1e-3)
    assert interval.low == pytest.approx(0.2 - 0.2228, rel=1e-2)
    assert interval.includes_zero
    assert interval.runs == 2
    other = confirmed(recheck, Noise(0.1, 10), Direction.MAXIMIZE)
    assert other is not None
    assert other.gain == pytest.approx(-0.2)
    assert confirmed(verified(*measured(BASE, 1.0)), Noise(0.1, 10), Direction.MINIMIZE) is None


def test_exact_readings_have_an_interval_without_width() -> None:
    """Where nothing varies one run of each says it all; no gain at all still includes zero."""
    gained = confirmed(verified(*measured(BASE, 1.0), *measured("c", 0.9)), Noise(0.0, 1), Direction.MINIMIZE)
    assert gained is not None
    assert gained.low == gained.high == gained.gain > 0
    assert not gained.includes_zero
    none = confirmed(verified(*measured(BASE, 1.0), *measured("c", 1.0)), Noise(0.0, 1), Direction.MINIMIZE)
    assert none is not None
    assert none.includes_zero


def test_the_interval_holds_the_truth_as_often_as_it_says() -> None:
    """3,000 drawn verifications with three runs of each and 20 known degrees: 95 % of the intervals hold the true gain."""
    draw = random.Random(7)
    held = 0
    for _ in range(3000):
        spread = (sum(draw.gauss(0, 1) ** 2 for _ in range(20)) / 20) ** 0.5
        made = verified(
            *measured(BASE, *(draw.gauss(10, 1) for _ in range(3))),
            *measured("c", *(draw.gauss(9, 1) for _ in range(3))),
        )
        interval = confirmed(made, Noise(spread, 20), Direction.MINIMIZE)
        assert interval is not None
        held += interval.low <= 1.0 <= interval.high
    assert 0.93 < held / 3000 < 0.97


def test_the_verification_is_that_of_the_best() -> None:
    """An earlier best's verification is not passed off as this one's."""
    old, new = verified(*measured("c", 1.0)), verified(*measured("d", 1.0), subject="d")
    base, kept = experiment(0, BASE, *measured(BASE, 1.0)), experiment(1, "c", *measured("c", 0.9))
    assert verification(history(base, kept, rechecks=(old, new))) is old
    assert verification(history(base, experiment(1, "e", *measured("e", 0.9)), rechecks=(old, new))) is None
    assert verification(history()) is None


@pytest.mark.parametrize(("degrees", "value"), [(1, 6.3138), (5, 2.0150), (30, 1.6973)])
def test_quantile(degrees: int, value: float) -> None:
    """Student's t at 95 %, as printed tables have it."""
    assert quantile(0.95, degrees) == pytest.approx(value, abs=1e-4)
