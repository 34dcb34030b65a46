"""How far a result can be believed."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoresearch_ci.experiment import Direction, Experiment, History, Purpose, Status, Verdict
from autoresearch_ci.noise import Interval, Noise
from autoresearch_ci.report import again
from autoresearch_ci.report.trust import (
    DOUBT,
    Trust,
    ablation_text,
    ablations,
    best_single,
    facts,
    gain_text,
    holdout_text,
    keep_rows,
    metric_doubt,
    near_misses,
    noise_text,
    trust,
)

from .histories import (
    BASE,
    BEST,
    CONFIRMED,
    FIRST,
    NOT_CONFIRMED,
    by_evidence,
    experiment,
    history,
    measured,
    measurement,
    noisy,
    recheck,
)

KEEP, DISCARD, CRASH = Status.KEEP, Status.DISCARD, Status.CRASH


def known(made: History) -> Trust:
    found = trust(made)
    assert found is not None
    return found


def said(made: History) -> dict[str, str]:
    return dict(facts(made, known(made)))


def only(*experiments: Experiment, direction: Direction = Direction.MINIMIZE) -> History:
    return replace(history(direction=direction), experiments=experiments)


def test_a_bare_table_claims_nothing() -> None:
    """Without measurements there is nothing to trust or to doubt."""
    assert trust(history()) is None
    assert trust(history((1.0, KEEP), (0.9, KEEP))) is None


def test_noise_is_said_as_it_is_known() -> None:
    """Measured, exact, or not measured: each in its own words."""
    once = only(measured(0, (1.0,), KEEP))
    assert said(once)["Noise of one reading"] == "not measured: the baseline was run once"
    twice = only(measured(0, (1.0, 1.0), KEEP))
    assert "always gave the same reading (1 repeated run)" in said(twice)["Noise of one reading"]
    differing = only(measured(0, (1.0, 1.1, 1.2), KEEP))
    assert said(differing)["Noise of one reading"].startswith("standard deviation 0.10, 2 degrees of freedom")
    lost = measured(0, (1.0,), KEEP)
    lost = replace(lost, measurements=(*lost.measurements, measurement(lost.commit, 1.4, "other load")))
    assert noise_text(only(lost), Noise()) == "not measured: no script has two readings that count"


def test_a_confirmed_gain_has_its_interval_and_runs() -> None:
    """The gain is that of the fresh runs alone, and the luck of the search stands beside it."""
    made = noisy(CONFIRMED)
    assert not known(made).unconfirmed
    assert said(made)["Confirmed gain"].startswith("0.100 (95 % CI 0.08")
    assert "3 runs of each)" in said(made)["Confirmed gain"]
    assert said(made)["While searching"] == (
        "the best single reading is 0.11 better than the baseline, the running best 0.11"
    )
    assert best_single(made) == 0.9


@pytest.mark.parametrize("direction", Direction)
def test_the_direction_is_respected(direction: Direction) -> None:
    """A verification that goes the wrong way is never a confirmed gain."""
    assert known(noisy(CONFIRMED, direction=direction)).unconfirmed is (direction is Direction.MAXIMIZE)


def test_an_interval_with_zero_is_said_plainly() -> None:
    """Nobody is left to read it out of the numbers."""
    made = noisy(NOT_CONFIRMED)
    assert known(made).unconfirmed
    assert DOUBT in said(made)["Not confirmed"]
    assert "Confirmed gain" not in said(made)


def test_no_verification_is_said() -> None:
    """Also one of a commit that is not the best any more, and that there was nothing to verify."""
    old = recheck(Purpose.VERIFY, (BASE, (1.0,)), (FIRST, (0.9,)))
    for made in (noisy(), noisy(old)):
        assert not known(made).unconfirmed
        assert said(made)["Confirmed gain"].startswith("none: ")
    assert "nothing to confirm" in said(only(measured(0, (1.0, 1.1), KEEP)))["Confirmed gain"]


def test_fewer_runs_than_asked_for_are_said() -> None:
    """By the note of the verification; or by counting, when some gave no reading."""
    noted = replace(CONFIRMED, wanted=5, note="only 3 of 5 runs of each fitted the time that was left")
    assert said(noisy(noted))["Confirmed gain"].endswith("; only 3 of 5 runs of each fitted the time that was left")
    failed = recheck(Purpose.VERIFY, (BASE, (1.0, 1.01, 1.02)), (BEST, (0.9, None, 0.91)))
    assert said(noisy(failed))["Confirmed gain"].endswith("; only 2 of the 3 runs of each that were asked for count")


def test_a_verification_without_readings_confirms_nothing() -> None:
    """The best commit that crashes when it is run again is no improvement that anybody has seen."""
    made = noisy(recheck(Purpose.VERIFY, (BASE, (1.0,)), (BEST, (None,)), note="it crashed"))
    assert known(made).unconfirmed
    assert said(made)["Not confirmed"].endswith("no reading of both the base and the best commit; it crashed")


def test_the_words_for_a_gain() -> None:
    """With its interval where readings differ, exact where they do not, and without where nobody knows."""
    gain = Interval(0.01234, 0.01012, 0.01456, 3)
    assert gain_text(gain, Noise(0.001, 8)) == "0.0123 (95 % CI 0.0101 to 0.0146, 3 runs of each)"
    assert (
        gain_text(Interval(0.2, 0.2, 0.2, 1), Noise(0.0, 2)) == "0.2 (exactly: readings do not differ, 1 run of each)"
    )
    unknown = Interval(0.2, 0.2, 0.2, 1)
    assert gain_text(unknown, Noise()) == "0.2 (1 run of each, how much readings differ is not known)"
    verified = recheck(Purpose.VERIFY, (BASE, (1.0,)), (BEST, (0.8,)))
    assert Trust(Noise(), verified, unknown, again.spent(history())).unconfirmed
    assert not Trust(Noise(0.0, 1), verified, unknown, again.spent(history())).unconfirmed


def test_keeps_have_the_numbers_that_decided() -> None:
    """Gain with standard error, what was enough, the runs of both; in words where there was no evidence."""
    made = noisy()
    simpler = measured(5, (0.9,), KEEP, verdict=by_evidence(KEEP, -0.001, 0.01))
    made = replace(made, experiments=(*made.experiments, simpler))
    assert [row[2:] for row in keep_rows(made, known(made))] == [
        ("+0.060 ± 0.010", "0.020", "2", "3", "better"),
        ("+0.050 ± 0.010", "0.020", "1", "3", "better"),
        ("-0.001 ± 0.010", "0.020", "2", "3", "simpler, and not worse"),
    ]
    exact = only(measured(0, (1.0, 1.0), KEEP), measured(1, (0.9,), KEEP))
    assert keep_rows(exact, known(exact))[0][2:] == ("+0.1", "—", "1", "—", "exact: readings do not differ")
    once = only(measured(0, (1.0,), KEEP), measured(1, (0.9,), KEEP), replace(experiment(2, None, KEEP)))
    assert [row[2:] for row in keep_rows(once, known(once))] == [
        ("+0.1", "—", "1", "—", "by one reading"),
        ("—", "—", "0", "—", "by one reading"),
    ]


def test_what_was_run_again() -> None:
    """Every repeat with its reason, and how many there were of how many; an out-of-memory attempt is none."""
    moved = recheck(Purpose.MACHINE, (BASE, (1.0,)), (FIRST, (0.9,)), note="the device changed")
    made = noisy(moved, CONFIRMED)
    assert again.rows(made) == [
        ("baseline", "2", "0", "to know the noise"),
        ("experiment 1", "2", "1", "one reading was not enough; keep: better by 0.06, after 2 runs against 3"),
        ("experiment 2", "1", "1", "one reading was not enough; discard: better by 0.012, after 1 runs against 3"),
        ("machine", "1", "1", "readings of two machines are not compared: the device changed"),
        ("verify", "3", "3", "base against best, before the pull request"),
    ]
    assert again.spent(made).text == (
        "12 of 17 were repeats: 2 of the candidate, 2 of the incumbent, 8 beside the experiments"
    )
    assert said(made)["Another machine"] == "the baseline and the incumbent were measured again: the device changed"
    assert "2 times, the last time" in said(noisy(moved, moved))["Another machine"]
    retried = measured(1, (0.9,), KEEP)
    retried = replace(retried, measurements=(measurement("f" * 40, None), *retried.measurements))
    alone = only(measured(0, (1.0,), KEEP), retried)
    assert again.rows(alone) == []
    assert again.spent(alone).text == "3, none of them a repeat"


def test_a_near_miss_tried_again_is_a_repeat() -> None:
    """Its script had a reading already: every run of it counts, with the experiment that it repeats."""
    missed = measured(2, (0.97,), DISCARD, verdict=by_evidence(DISCARD, 0.012, 0.01, runs=1))
    once_more = measured(
        3, (0.96,), KEEP, fingerprint="f2", parameters={"near-miss": 2}, verdict=by_evidence(KEEP, 0.03, 0.01)
    )
    made = only(measured(0, (1.0,), KEEP), missed, once_more)
    assert again.rows(made) == [
        ("experiment 3", "1", "0", "experiment 2 was a near miss; keep: better by 0.03, after 2 runs against 3")
    ]
    assert again.spent(made).text == "1 of 3 were repeats: 1 of the candidate"
    assert near_misses(made) == []


def test_an_ablation_that_cannot_be_made_is_no_run() -> None:
    """It has its reason, and is not among what was run again."""
    note = "it cannot be taken out alone: later keeps build on it"
    made = noisy(recheck(Purpose.ABLATE, (BEST, ()), (BEST, ()), reverted=FIRST, note=note))
    assert [each.answer for each in ablations(made, known(made))] == [note]
    assert not any("ablate" in row[0] for row in again.rows(made))


def test_disturbed_runs_are_named() -> None:
    """Why a reading did not count, and how many did not."""
    again_run = measured(1, (0.9, 0.91), DISCARD, verdict=Verdict(status=DISCARD, reason="no change"))
    disturbed = replace(again_run.measurements[0], disturbed="3 cores of other load")
    again_run = replace(again_run, measurements=(disturbed, again_run.measurements[1]))
    made = only(measured(0, (1.0,), KEEP), again_run)
    assert again.rows(made) == [("experiment 1", "2", "0", "disturbed: 3 cores of other load; discard: no change")]
    assert again.spent(made).text.endswith("; 1 disturbed, which do not count")


def test_near_misses_are_discards_beyond_their_standard_error() -> None:
    """The clearest first; one that was settled later under the same fingerprint is none."""
    assert [e.number for e in near_misses(noisy())] == [2]
    assert said(noisy())["Near misses"].endswith("KNOB 2 → 3 (+0.012 ± 0.010)")
    many = [measured(n, (0.9,), DISCARD, verdict=by_evidence(DISCARD, n / 100, 0.01)) for n in range(1, 9)]
    made = only(measured(0, (1.0, 1.1), KEEP), *many)
    assert [e.number for e in near_misses(made)] == [8, 7, 6, 5, 4, 3, 2]
    assert said(made)["Near misses"].endswith("; and 2 more")
    settled = measured(9, (0.9,), KEEP, fingerprint="f8", verdict=by_evidence(KEEP, 0.05, 0.01))
    assert near_misses(replace(made, experiments=(*made.experiments, settled)))[0].number == 7


def test_ablations_name_what_no_longer_matters() -> None:
    """By the interval of the loss; with what could not be measured, and not of an older best."""
    without = "a" * 40
    idle = recheck(Purpose.ABLATE, (BEST, (0.9, 0.91, 0.92)), (without, (0.91, 0.9, 0.92)), reverted=FIRST)
    needed = recheck(Purpose.ABLATE, (BEST, (0.9, 0.91, 0.92)), ("b" * 40, (1.0, 1.01, 1.02)), reverted=BEST)
    made = noisy(CONFIRMED, idle, needed)
    found = ablations(made, known(made))
    assert [each.matters for each in found] == [False, True]
    assert found[1].loss is not None
    assert found[1].loss.gain == pytest.approx(0.1)
    assert ablation_text(made, known(made)).startswith("1 of 2 no longer matters, as far as these runs can tell: ")
    assert "each of the 1 that could be measured still matters" in said(noisy(needed))["Without one kept commit"]
    failed = recheck(Purpose.ABLATE, (BEST, (0.9,)), (without, (None,)), reverted=FIRST, note="it crashed")
    assert said(noisy(failed))["Without one kept commit"] == "nothing could be measured"
    assert [(each.loss, each.answer) for each in ablations(noisy(failed), known(noisy(failed)))] == [
        (None, "it crashed")
    ]
    some = noisy(replace(idle, note="interrupted after 3 of 5 runs of each"), replace(failed, reverted=BEST, note=""))
    assert [each.answer for each in ablations(some, known(some))] == [
        "no longer; interrupted after 3 of 5 runs of each",
        "could not be measured",
    ]
    older = replace(idle, reference=FIRST)
    assert "Without one kept commit" not in said(noisy(older))
    seven = [measured(n, (0.9,), KEEP) for n in range(1, 8)]
    every = [
        recheck(Purpose.ABLATE, (seven[-1].commit, (0.9, 0.91)), (f"{n}" * 40, (0.9, 0.91)), reverted=e.commit)
        for n, e in enumerate(seven)
    ]
    many = replace(only(measured(0, (1.0, 1.1), KEEP), *seven), rechecks=tuple(every))
    assert ablation_text(many, known(many)).startswith("7 of 7 no longer matter,")
    assert ablation_text(many, known(many)).endswith("; and 2 more")


def test_a_holdout_is_judged_by_its_own_readings() -> None:
    """Its noise is another than the session's: the interval is that of its own two groups (here by hand)."""
    holdout = recheck(Purpose.HOLDOUT, (BASE, (20.0, 21.0, 22.0)), (BEST, (10.0, 11.0, 12.0)), note="as asked")
    # 10 ± t(0.975; 4) · 1 · sqrt(2 / 3), and t is 2.776
    assert said(noisy(holdout))["Holdout"] == "21 → 11, gain 10.0 (95 % CI 7.7 to 12.3, 3 runs of each); as asked"
    assert known(noisy(holdout)).noise == known(noisy()).noise
    close = recheck(Purpose.HOLDOUT, (BASE, (20.0, 21.0)), (BEST, (20.0, 20.5)))
    assert f"{DOUBT} on the holdout" in holdout_text(noisy(close))
    alone = recheck(Purpose.HOLDOUT, (BASE, (20.0,)), (BEST, (19.0,)))
    assert "how much readings differ is not known" in holdout_text(noisy(alone))
    same = recheck(Purpose.HOLDOUT, (BASE, (20.0, 20.0)), (BEST, (19.0, 19.0)))
    assert "gain 1 (exactly" in holdout_text(noisy(same))
    failed = recheck(Purpose.HOLDOUT, (BASE, (20.0,)), (BEST, (None,)))
    assert holdout_text(noisy(failed)) == "no reading of both the base and the best commit"
    assert holdout_text(noisy(replace(alone, subject=FIRST))) == ""


def test_a_metric_that_tells_nothing_is_noticed() -> None:
    """All the same, nothing better possible, or a few values only; one that tells scripts apart is not mentioned."""
    maximize = Direction.MAXIMIZE
    same = only(*(measured(n, (0.5,), DISCARD if n else KEEP) for n in range(4)))
    assert metric_doubt(same).startswith("saturated: all 4 different scripts read 0.5")
    full = only(*(measured(n, (value,), KEEP) for n, value in enumerate((0.8, 1.0, 1.0, 0.9))), direction=maximize)
    assert metric_doubt(full).startswith("saturated: 2 different scripts read 1,")
    binary = only(*(measured(n, (float(n % 2) / 2,), KEEP) for n in range(12)), direction=maximize)
    assert metric_doubt(binary).startswith("coarse: only 2 different values in 12 different scripts")
    assert metric_doubt(noisy()) == ""
    assert metric_doubt(replace(full, experiments=full.experiments[:2])) == ""
    assert metric_doubt(only(experiment(0, None, CRASH))) == ""


readings = st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=4).map(tuple)


@given(readings, readings, readings)
def test_every_verification_has_words(
    before: tuple[float, ...], after: tuple[float, ...], base: tuple[float, ...]
) -> None:
    """Whatever was read: the words never fail, and say `not confirmed` exactly when the interval does not exclude zero."""
    made = noisy(recheck(Purpose.VERIFY, (BASE, before), (BEST, after)))
    made = replace(made, experiments=(measured(0, base, KEEP), *made.experiments[1:]))
    found = known(made)
    assert found.gain is not None
    assert ("Not confirmed" in said(made)) is (found.gain.low <= 0)
