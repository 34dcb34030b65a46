"""What is told of several slots: the table, what waits, the pace and the forecast, and what the neighbours cost."""

from __future__ import annotations

import dataclasses
import datetime as dt

from hypothesis import given, settings
from hypothesis import strategies as st

from autoresearch_ci.conditions import moved
from autoresearch_ci.experiment import History, Purpose, Status
from autoresearch_ci.live import Live, LiveSlot
from autoresearch_ci.noise import Readings
from autoresearch_ci.report import again
from autoresearch_ci.report.forecast import (
    MAX_HOURS,
    MAX_ITERATIONS,
    Forecast,
    forecast,
    forecast_text,
    max_hours,
    pace,
)
from autoresearch_ci.report.provenance import how_it_was_run
from autoresearch_ci.report.running import running_summary
from autoresearch_ci.report.slots import slots_now
from autoresearch_ci.report.standing import busy_s, per_hour
from autoresearch_ci.report.summary import summary

from .histories import BASE, CONFIRMED, START, experiment, history, noisy, recheck

K, D = Status.KEEP, Status.DISCARD
NOW = START + dt.timedelta(hours=1)
LIMIT = 250_000  # bytes; GitHub's own is 1,048,576


def minutes(count: float) -> dt.datetime:
    return START + dt.timedelta(minutes=count)


def slot(place: int, **values: object) -> LiveSlot:
    return dataclasses.replace(LiveSlot(slot=place, since=START), **values)  # type: ignore[arg-type]


TWO = Live(
    pid=1,
    slots=(
        slot(1, device="GPU-1", number=7, description="LR 0.1 → 0.2", started_at=minutes(58), busy_s=1680.0),
        slot(2, device="GPU-2", busy_s=2700.0),
    ),
    waiting=("WD 0 → 0.1",),
)
ONE = Live(pid=1, slots=TWO.slots[:1])


def side_by_side(pairs: int, *, limit: int | None = None, hours: str | None = None) -> History:
    """A baseline of four minutes, then pairs of experiments of four minutes each that go on together, a minute apart."""
    made = history((1.0, K), *([(2.0, D)] * (2 * pairs)))
    experiments = [
        dataclasses.replace(e, started_at=minutes(start := 5 * ((e.number + 1) // 2)), finished_at=minutes(start + 4))
        for e in made.experiments
    ]
    session = dataclasses.replace(
        made.session, max_iterations=limit, settings={} if hours is None else {"max-hours": hours}
    )
    return dataclasses.replace(made, session=session, experiments=tuple(experiments))


def test_the_table_of_the_slots() -> None:
    """A row for each: its device, what runs there since when, and how much of its time it was busy; then what waits."""
    assert slots_now(TWO, NOW) == [
        "| Slot | Device | Running | Since | Busy |",
        "|---|---|---|---|---|",
        "| 1 | GPU-1 | 7: LR 0.1 → 0.2 | 22:58 UTC (120 s) | 50 % |",
        "| 2 | GPU-2 | — | — | 75 % |",
        "",
        "**Waiting for a slot:** WD 0 → 0.1",
        "",
    ]
    many = dataclasses.replace(ONE, waiting=tuple(f"proposal {n}" for n in range(12)))
    assert slots_now(many, NOW)[-2].endswith("proposal 7; and 4 more")


def test_time_side_by_side_counts_once() -> None:
    """Two experiments in the same minutes are twice as many in an hour, not as many in twice the time."""
    made = side_by_side(3)
    assert busy_s(made.experiments) == 4 * 240
    assert per_hour(made.experiments) == f"{7 * 3600 / 960:.3g}"
    inside = [experiment(0, 1.0, K, started_at=minutes(0), finished_at=minutes(9)), made.experiments[1]]
    assert busy_s(inside) == 540


def test_the_pace_of_this_process_counts_what_lies_between() -> None:
    """Since the process began: with the time between experiments. Without one since then: what earlier ones took, without it."""
    made = side_by_side(3)
    assert pace(made) == 6 * 3600 / (3 * 240)
    assert pace(made, START) == 6 * 3600 / (14 * 60)
    assert pace(made, minutes(12)) == 2 * 3600 / 240  # the last two only
    assert pace(made, NOW) == pace(made)
    assert pace(history((1.0, K))) is None


def test_whichever_ends_it_first_is_forecast() -> None:
    """The iterations or the hours, at the present pace; nothing where neither is set, and nothing without a pace."""
    made = side_by_side(3, limit=36)  # 25.7 an hour
    assert forecast(made, now=NOW) == Forecast(experiments=30, at=NOW + dt.timedelta(hours=1), because=MAX_ITERATIONS)
    far = forecast(made, now=NOW, since=START, hours=8.0)
    assert far is not None
    assert (far.experiments, far.because) == (30, MAX_ITERATIONS)
    near = forecast(made, now=NOW, since=START, hours=2.0)
    assert near == Forecast(experiments=25, at=NOW + dt.timedelta(hours=1), because=MAX_HOURS)
    assert forecast(side_by_side(3), now=NOW, since=START) == Forecast()
    assert forecast(history((1.0, K)), now=NOW) is None
    assert forecast(dataclasses.replace(made, ended="done"), now=NOW) is None
    over = forecast(side_by_side(3, limit=4), now=NOW)
    assert over == Forecast(experiments=0, at=NOW, because=MAX_ITERATIONS)


def test_the_forecast_in_words() -> None:
    """The pace, what is left and until when; that nothing ends it, and that nothing is known yet."""

    def words(made: History, hours: float | None = None) -> str:
        return forecast_text(made, forecast(made, now=NOW, since=START, hours=hours), since=START)

    made = side_by_side(3, limit=36)
    assert words(made) == (
        "25.7 experiments an hour; 30 more until `max-iterations` is reached, about 2026-11-23 00:10 UTC"
    )
    assert words(made, 2.0) == (
        "25.7 experiments an hour; about 25 more before the hours of this process are over, about 2026-11-23 00:00 UTC"
    )
    assert words(side_by_side(3)) == "25.7 experiments an hour; unlimited: it goes on until it is stopped"
    assert words(history((1.0, K))) == "not known before an experiment is done"
    assert words(dataclasses.replace(made, ended="done")) == ""
    century = side_by_side(3, limit=10**9)
    assert words(century).endswith("999999994 more until `max-iterations` is reached")


def test_the_hours_of_the_settings() -> None:
    """As the session's settings say them; none where they do not, or say something else."""
    assert max_hours(side_by_side(1, hours="2.5")) == 2.5
    assert max_hours(side_by_side(1, hours="")) is None
    assert max_hours(side_by_side(1)) is None


def test_the_step_summary_shows_slots_only_where_there_are_several() -> None:
    """With one slot and nothing that waits it says nothing but the forecast; once it is over not even that."""
    made = side_by_side(3, limit=36)
    before = running_summary(made, config=(), now=NOW)
    one = running_summary(made, config=(), now=NOW, live=ONE)
    two = running_summary(made, config=(), now=NOW, live=TWO, hours=2.0)
    assert "Forecast" not in before
    assert "| Slot |" not in one
    assert "**Forecast:** 25.7 experiments an hour; 30 more until <code>max-iterations</code> is reached" in one
    assert "\n| 1 | GPU-1 | 7: LR 0.1 → 0.2 | 22:58 UTC (120 s) | 50 % |\n" in two
    assert "before the hours of this process are over" in two
    ended = dataclasses.replace(made, ended="done")
    assert running_summary(ended, config=(), now=NOW, live=TWO) == running_summary(ended, config=(), now=NOW)


@settings(max_examples=20)
@given(st.text(max_size=100))
def test_no_words_of_others_do_anything(words: str) -> None:
    """In a description, in the name of a device, in what waits: nobody is mentioned, no row and no tag added."""
    nasty = f"{words} @octocat fixes #1 <img src=x> | x\n# heading\n```"
    live = Live(
        pid=1,
        slots=(slot(1, device=nasty, number=7, description=nasty, started_at=minutes(58)), slot(2)),
        waiting=(nasty, nasty),
    )
    lines = slots_now(live, NOW)
    text = "\n".join(lines)
    for active in ("@octocat", "fixes #1", "<img", "\n# heading", "```"):
        assert active not in text
    assert len(text.splitlines()) == len("\n".join(slots_now(TWO, NOW)).splitlines())


def test_a_thousand_slots_stay_small() -> None:
    """The summary stays far below what GitHub shows, however many slots there are and whatever runs in them."""
    nasty = "😀|" * 5000
    busy = tuple(slot(n, device=nasty, number=n, description=nasty, started_at=minutes(1)) for n in range(1, 1000))
    live = Live(pid=1, slots=busy, waiting=(nasty,) * 1000)
    experiments = tuple(experiment(n, 1.0 - n / 1e6, K, description=nasty) for n in range(200))
    made = dataclasses.replace(history(), experiments=experiments)
    text = running_summary(made, config=[(nasty, nasty, nasty)] * 500, now=NOW, requests=nasty, live=live)
    assert "more in `autoresearch-ci status --json`" in text
    assert len(text.encode()) < LIMIT


COSTS = "beside 1 other run: wall clock +0.4%, metric +0.1%; within 3%"
NEIGHBOURS = recheck(Purpose.NEIGHBOURS, (BASE, (3.0, 5.0)), (BASE, ()), note=COSTS)


def test_reports_say_how_many_slots_there_were() -> None:
    """The pull request under how it was run, the summary at its top, and what it took among what was run again; else nothing."""
    made, alone = noisy(CONFIRMED, NEIGHBOURS), noisy(CONFIRMED)
    assert ("Slots", f"2 runs at the same time; {COSTS}") in how_it_was_run(made)
    assert f"**Slots:** 2 runs at the same time; {COSTS}\n" in summary(made)
    silent = noisy(CONFIRMED, dataclasses.replace(NEIGHBOURS, note=""))
    assert ("Slots", "2 runs at the same time") in how_it_was_run(silent)
    assert ("neighbours", "2", "0", f"what a second slot costs the first: {COSTS}") in again.rows(made)
    assert "Slots" not in dict(how_it_was_run(alone))
    assert "Slots" not in summary(alone)


def test_what_neighbours_cost_is_no_reading_of_the_session() -> None:
    """It says nothing about the noise, nothing is compared with it, and it does not hide that the machine is another."""
    made, alone = noisy(NEIGHBOURS), noisy()
    assert Readings.of(made).noise == Readings.of(alone).noise
    assert Readings.of(made).compared(BASE) == Readings.of(alone).compared(BASE)
    here = {"device": "another"}
    last = alone.experiments[-1]
    elsewhere = dataclasses.replace(
        last, measurements=tuple(dataclasses.replace(m, conditions={"device": "one"}) for m in last.measurements)
    )
    began = dataclasses.replace(
        NEIGHBOURS,
        measurements=tuple(dataclasses.replace(m, conditions=here) for m in NEIGHBOURS.measurements),
        finished_at=NOW,
    )
    night = dataclasses.replace(alone, experiments=(*alone.experiments[:-1], elsewhere), rechecks=(began,))
    assert moved(night, here) == "device one is now another"
