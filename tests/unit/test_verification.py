from __future__ import annotations

import dataclasses
import datetime as dt
import itertools
from collections.abc import Callable
from pathlib import Path

import pytest

from autoresearch_ci import journal, settings
from autoresearch_ci.cli.conclusion import check
from autoresearch_ci.experiment import Direction, Ending, History, Purpose, Recheck, Run
from autoresearch_ci.noise import Readings
from autoresearch_ci.proposers.search import SearchProposer
from autoresearch_ci.report.summary import summary
from autoresearch_ci.verification import ablate, complete, dropping, holdout, verify, without
from tests.forge.fixtures import TRAIN
from tests.unit.test_session import BASE, Bench, FakeProposer, Hand

START = dt.datetime(2026, 11, 22, tzinfo=dt.UTC)
Behave = Callable[[str], tuple[Run, str] | None]


def script(a: float, b: float = 1, c: float = 1) -> str:
    return f"A = {a}\nB = {b}\nC = {c}\n"


def ended(log: str, code: int = 0, ending: Ending = Ending.EXITED) -> tuple[Run, str]:
    return Run(ending=ending, exit_code=code, wall_s=60.0), log


def total(text: str) -> float:
    return sum(float(line.split(" = ")[1]) for line in text.splitlines())


def exact(text: str) -> tuple[Run, str]:
    """Deterministic: the sum of the constants."""
    return ended(f"m: {total(text)}\n")


def noisy() -> Behave:
    """The sum of the constants, and a little more or less in turn."""
    little = itertools.cycle((0.001, -0.001, 0.0))
    return lambda text: ended(f"m: {total(text) + next(little)}\n")


def line_by_line(base: str, ours: str, theirs: str) -> str | None:
    """What a merge does, of scripts whose lines stay where they are."""
    merged = []
    for b, o, t in zip(*(text.splitlines() for text in (base, ours, theirs)), strict=True):
        if b not in (o, t) and o != t:
            return None
        merged.append(o if t == b else t)
    return "\n".join(merged) + "\n"


def researched(
    folder: Path, *proposals: str, behave: Behave = exact, interrupt: Hand | None = None
) -> tuple[Bench, History]:
    """A session that ended, from A, B and C = 1."""
    bench = Bench(
        folder, FakeProposer(*proposals), base=script(1), behave=behave, baseline_runs=2, interrupt=interrupt or Hand()
    )
    history = bench.research()
    bench.executor.requests.clear()
    return bench, history


def ablated(bench: Bench, history: History, *, wanted: int = 3, seconds: float | None = None) -> History:
    return ablate(bench.loop.runs, history, wanted=wanted, seconds=seconds, table="table", merge=line_by_line)


def made(history: History, purpose: Purpose) -> list[Recheck]:
    return [r for r in history.rechecks if r.purpose is purpose]


THREE = (script(0.5), script(0.5, 0.8), script(0.5, 0.8, 0.9))


def test_the_best_without_each_kept_change_is_measured(tmp_path: Path) -> None:
    """One recheck for each keep: the best commit against itself without that change alone, journaled and saved."""
    bench, history = researched(tmp_path, *THREE)
    after = ablated(bench, history)
    best = history.kept[-1].commit
    assert [r.reverted for r in after.rechecks] == [e.commit for e in history.kept]
    assert {r.reference for r in after.rechecks} == {best}
    texts = [bench.workspace.scripts[r.subject] for r in after.rechecks]
    assert texts == [script(1, 0.8, 0.9), script(0.5, 1, 0.9), script(0.5, 0.8, 1)]
    assert [r.readings(r.subject) for r in after.rechecks] == [(total(text),) for text in texts]
    first = history.kept[0]
    assert bench.workspace.messages[-3].startswith(f"ablation: without {first.commit[:7]} {first.description}\n\nAuto")
    assert journal.parse(bench.journal.load()) == after
    assert bench.workspace.files["results.tsv"] == b"table"
    assert bench.workspace.files["logs/recheck/02-1.log"].startswith(b"m: ")
    assert after.experiments == history.experiments


def test_an_ablation_is_safe_to_repeat(tmp_path: Path) -> None:
    """What was measured for this best commit is not measured again; for a new best commit it is."""
    bench, history = researched(tmp_path, *THREE[:2])
    after = ablated(bench, history)
    bench.executor.requests.clear()
    assert ablated(bench, after) == after
    assert bench.executor.requests == []
    bench.proposer.scripts = [THREE[2]]
    longer = ablated(bench, bench.loop.research(after))
    assert len(made(longer, Purpose.ABLATE)) == 2 + 3


@pytest.mark.parametrize(("proposals", "wanted"), [(THREE[:1], 3), ((script(5),), 3), (THREE, 0)])
def test_nothing_to_ablate(tmp_path: Path, proposals: tuple[str, ...], wanted: int) -> None:
    """The best without its only keep is the base, which the verification measures; without runs there is nothing either."""
    bench, history = researched(tmp_path, *proposals)
    assert ablated(bench, history, wanted=wanted) == history
    assert bench.executor.requests == []


def test_as_many_runs_as_readings_need(tmp_path: Path) -> None:
    """One run of each where readings never varied, else as many as were asked for, the two commits in turn."""
    bench, history = researched(tmp_path / "exact", *THREE[:2])
    assert [r.wanted for r in ablated(bench, history).rechecks] == [1, 1]
    bench, history = researched(tmp_path / "noisy", *THREE[:2], behave=noisy())
    recheck = ablated(bench, history).rechecks[0]
    assert [m.commit for m in recheck.measurements] == [recheck.reference, recheck.subject] * 3
    assert recheck.wanted == 3


def test_what_cannot_be_taken_out_alone_is_said_once(tmp_path: Path) -> None:
    """Recorded without a run and with the reason; the others are measured; the next time it is not tried again."""
    bench, history = researched(tmp_path, script(0.5), script(0.25), script(0.25, 0.8))
    after = ablated(bench, history)
    notes = {r.reverted: r.note for r in after.rechecks}
    first, second, third = (e.commit for e in history.kept)
    assert "cannot be taken out alone" in notes[first]
    assert notes[second] == notes[third] == ""
    assert "not measured without " + first[:7] in bench.err.getvalue()
    assert "not complete" not in bench.err.getvalue()
    unmeasured = after.rechecks[0]
    assert (unmeasured.wanted, unmeasured.measurements) == (0, ())
    assert journal.parse(bench.journal.load()) == after
    assert ablated(bench, after) == after


def test_a_change_that_is_gone_is_not_measured(tmp_path: Path) -> None:
    """A keep that a later one took back has nothing to take out."""
    bench, history = researched(tmp_path, script(1, 0.5, 1), script(0.2, 1, 1), script(0.2, 1, 0.9))
    after = ablated(bench, history)
    assert after.rechecks[0].note == "nothing of it is left in the best commit"
    assert after.rechecks[0].measurements == ()
    assert [r.note for r in after.rechecks[1:]] == ["", ""]


def test_an_interrupted_ablation_goes_on_later(tmp_path: Path) -> None:
    """It stops at once and says what is missing; the next call makes that, and nothing twice."""
    hand, count = Hand(), itertools.count(1)
    plain = noisy()

    def behave(text: str) -> tuple[Run, str] | None:
        if hand.after == 0:
            return ended("", ending=Ending.INTERRUPTED)
        return plain(text)

    bench, history = researched(tmp_path, *THREE, behave=behave, interrupt=hand)
    bench.executor.behave = lambda text: plain(text) if next(count) <= 9 else ended("", ending=Ending.INTERRUPTED)
    stopped = ablated(bench, history)
    assert not complete(stopped, Purpose.ABLATE)
    assert [(len(r.measurements), bool(r.note)) for r in stopped.rechecks] == [(6, False), (2, True)]
    assert "2 of 3 ablations are not complete" in bench.err.getvalue()
    bench.executor.behave = plain
    whole = ablated(bench, stopped)
    assert complete(whole, Purpose.ABLATE)
    assert [(r.reverted, len(r.measurements)) for r in whole.rechecks[2:]] == [
        (history.kept[1].commit, 6),
        (history.kept[2].commit, 6),
    ]


def test_after_an_interrupt_nothing_is_begun(tmp_path: Path) -> None:
    """No run, no commit, and it says what is missing."""
    hand = Hand()
    bench, history = researched(tmp_path, *THREE, interrupt=hand)
    hand.after = 0
    assert ablated(bench, history) == history
    assert bench.executor.requests == []
    assert "3 of 3 ablations are not complete" in bench.err.getvalue()


def test_an_ablation_ends_in_time(tmp_path: Path) -> None:
    """No pair of runs is begun that cannot end within the seconds that are left, all ablations together."""
    bench, history = researched(tmp_path, *THREE)
    bench.loop.runs.now = lambda: START + dt.timedelta(seconds=60 * len(bench.executor.requests))
    after = ablated(bench, history, seconds=250.0)
    assert len(bench.executor.requests) == 4  # a run takes 60 s: two pairs
    assert len(after.rechecks) == 2
    assert "1 of 3 ablations are not complete" in bench.err.getvalue()
    assert "fitted the time that was left" in bench.err.getvalue()


def test_a_verification_that_did_not_fit_is_told(tmp_path: Path) -> None:
    """Nothing is run, the reason is recorded for the report, and a later call with time makes it."""
    bench, history = researched(tmp_path, *THREE)
    late = verify(bench.loop.runs, history, wanted=3, seconds=0.5, table="")
    (recheck,) = late.rechecks
    assert recheck.measurements == ()
    assert "fitted the time that was left" in recheck.note
    assert recheck.note in summary(late)
    assert not complete(late, Purpose.VERIFY)
    done = verify(bench.loop.runs, late, wanted=3, seconds=None, table="")
    assert done.rechecks[-1].measurements
    assert complete(done, Purpose.VERIFY)


def test_base_and_best_on_the_holdout(tmp_path: Path) -> None:
    """The holdout's command runs on both, as often as was asked for, once; the verification is another matter."""
    bench, history = researched(tmp_path, *THREE)
    runs = bench.loop.runs

    def held(history: History) -> History:
        return holdout(runs, history, command="python held.py", wanted=2, seconds=None, table="table")

    after = held(history)
    assert [r.command for r in bench.executor.requests] == ["python held.py"] * 4
    (recheck,) = after.rechecks
    assert (recheck.purpose, recheck.reference, recheck.subject) == (Purpose.HOLDOUT, BASE, history.kept[-1].commit)
    assert recheck.readings(BASE) == (3.0, 3.0)
    assert journal.parse(bench.journal.load()) == after
    assert held(after) == after
    verified = verify(runs, after, wanted=3, seconds=None, table="table")
    assert [r.purpose for r in verified.rechecks] == [Purpose.HOLDOUT, Purpose.VERIFY]
    assert bench.executor.requests[-1].command == "python train.py"
    assert held(verified) == verified


def test_nothing_kept_needs_no_holdout(tmp_path: Path) -> None:
    """Base against base says nothing."""
    bench, history = researched(tmp_path, script(5))
    assert holdout(bench.loop.runs, history, command="x", wanted=2, seconds=None, table="") == history


def test_no_decision_sees_the_holdout(tmp_path: Path) -> None:
    """The search's next proposal, the experiments and the noise are the same with and without holdout readings."""
    bench, history = researched(tmp_path, *THREE, behave=noisy())
    bench.executor.behave = lambda text: ended(f"m: {-1000 * len(text)}\n")
    after = holdout(bench.loop.runs, history, command="held", wanted=3, seconds=None, table="")
    assert after.rechecks != history.rechecks
    assert after.experiments == history.experiments
    proposals = [SearchProposer(Direction.MINIMIZE).propose(h, TRAIN) for h in (history, after)]
    assert proposals[0] is not None
    assert proposals[0] == proposals[1]
    assert Readings.of(after).noise == Readings.of(history).noise


@pytest.mark.parametrize("failed", [ended("m: 0.1\nboom\n", code=1), ended("m: 0.1\n", ending=Ending.TIMEOUT)])
def test_a_crash_is_no_reading(tmp_path: Path, failed: tuple[Run, str]) -> None:
    """Whatever a run printed before it failed does not count, and the failure is told."""
    bench, history = researched(tmp_path, *THREE)
    bench.executor.behave = lambda text: failed if text == THREE[-1] else exact(text)
    (recheck,) = verify(bench.loop.runs, history, wanted=3, seconds=None, table="").rechecks
    assert recheck.readings(BASE) == (3.0,)
    assert recheck.readings(recheck.subject) == ()
    assert f"a run of {recheck.subject[:7]} failed" in bench.err.getvalue()


def test_a_last_reading_counts_where_it_was_asked_for(tmp_path: Path) -> None:
    """`at-timeout: last-reading` holds for rechecks as it does for experiments."""
    bench, history = researched(tmp_path, *THREE)
    runs = bench.loop.runs
    runs.rules = dataclasses.replace(runs.rules, last_reading_counts=True)
    bench.executor.behave = lambda text: ended("m: 0.1\n", ending=Ending.TIMEOUT)
    (recheck,) = verify(runs, history, wanted=1, seconds=None, table="").rechecks
    assert recheck.readings(BASE) == (0.1,)


def checked(bench: Bench, history: History, **flags: object) -> History:
    needed = {"metric": "m", "direction": "minimize", "time-budget": "300"}
    loaded = settings.load(flags={**needed, **{name.replace("_", "-"): value for name, value in flags.items()}})
    return check(bench.loop.runs, loaded.settings, history, START, loaded.settings.max_hours)


def test_the_end_measures_what_was_asked_for(tmp_path: Path) -> None:
    """Verification, then the holdout, then the ablations; the last two only where a setting asks for them."""
    bench, history = researched(tmp_path / "all", *THREE[:2])
    after = checked(bench, history, holdout="python {training-script} --held", ablate=True, verify_runs=2)
    purposes = [r.purpose for r in after.rechecks]
    assert purposes == [Purpose.VERIFY, Purpose.HOLDOUT, Purpose.ABLATE, Purpose.ABLATE]
    assert bench.executor.requests[2].command == "python train.py --held"
    assert checked(bench, after, holdout="python {training-script} --held", ablate=True) == after
    bench, history = researched(tmp_path / "default", *THREE[:2])
    assert [r.purpose for r in checked(bench, history).rechecks] == [Purpose.VERIFY]


def test_the_end_without_a_verification(tmp_path: Path) -> None:
    """`verify-runs: 0` turns the verification off, and not what other settings ask for."""
    bench, history = researched(tmp_path, *THREE[:2])
    after = checked(bench, history, holdout="python held.py", ablate=True, verify_runs=0)
    assert [(r.purpose, r.wanted) for r in after.rechecks] == [
        (Purpose.HOLDOUT, 1),
        (Purpose.ABLATE, 1),
        (Purpose.ABLATE, 1),
    ]


def test_the_end_keeps_to_the_hours(tmp_path: Path) -> None:
    """What is measured last gets the time that the first left over, and says where that is none."""
    bench, history = researched(tmp_path, *THREE[:2])
    bench.loop.runs.now = lambda: START + dt.timedelta(seconds=60 * len(bench.executor.requests))
    after = checked(
        bench, history, holdout="python held.py", ablate=True, max_hours=0.1, verify_runs=2
    )  # 360 s: six runs
    assert [(r.purpose, len(r.measurements)) for r in after.rechecks] == [(Purpose.VERIFY, 2), (Purpose.HOLDOUT, 4)]
    assert "2 of 2 ablations are not complete" in bench.err.getvalue()


def test_the_end_is_over_at_an_interrupt(tmp_path: Path) -> None:
    """After an interrupt in the verification neither the holdout nor an ablation is begun."""
    hand = Hand()
    bench, history = researched(tmp_path, *THREE[:2], interrupt=hand)

    def behave(text: str) -> tuple[Run, str]:
        hand.after = 0
        return ended("", ending=Ending.INTERRUPTED)

    bench.executor.behave = behave
    assert checked(bench, history, holdout="python held.py", ablate=True) == history
    assert len(bench.executor.requests) == 1


def test_a_second_metric_is_a_holdout_without_further_runs(tmp_path: Path) -> None:
    """What the verification's runs printed under another name is compared too; the experiments' record does not hold it."""

    def behave(text: str) -> tuple[Run, str]:
        value = float(text.split()[2])
        return Run(ending=Ending.EXITED, exit_code=0, wall_s=1.0), f"m: {value}\nheld: {2 * value}\nnum_steps: 7\n"

    bench = Bench(tmp_path, FakeProposer(*THREE[:2]), baseline_runs=2, behave=behave)
    bench.loop.hidden = "held"
    history = bench.research()
    assert all(dict(m.reading.numbers) == {"num_steps": 7.0} for e in history.experiments for m in e.measurements)
    before = len(bench.executor.requests)
    after = checked(bench, history, holdout="held")
    assert [r.purpose for r in after.rechecks] == [Purpose.VERIFY, Purpose.HOLDOUT]
    assert len(bench.executor.requests) == before + 2
    verified, held = after.rechecks
    assert history.best is not None
    assert held.readings(history.best.commit) == tuple(2 * v for v in verified.readings(history.best.commit))
    assert checked(bench, after, holdout="held") == after
    assert journal.parse(bench.journal.load()) == after


def test_a_holdout_that_nobody_prints_is_told(tmp_path: Path) -> None:
    """A misspelt second metric is a warning, and no reading."""
    bench, history = researched(tmp_path, *THREE[:2])
    after = checked(bench, history, holdout="hold_out")
    assert after.rechecks[-1].readings(history.session.base_commit) == ()
    assert "no run printed `hold_out`" in bench.err.getvalue()


def test_a_verification_that_a_person_asks_for_is_made_again(tmp_path: Path) -> None:
    """With all the runs that were asked for, also where readings never varied, and with seeds that were not used before."""
    bench, history = researched(tmp_path, *THREE)
    once = verify(bench.loop.runs, history, wanted=3, seconds=None, table="")
    same = verify(bench.loop.runs, once, wanted=3, seconds=None, table="")
    assert same == once
    again = verify(bench.loop.runs, once, wanted=5, seconds=None, table="", again=True)
    first, second = made(again, Purpose.VERIFY)
    assert len(first.measurements) == 2
    assert len(second.measurements) == 10
    assert second.wanted == 5
    assert not {m.seed for m in first.measurements} & {m.seed for m in second.measurements}
    assert journal.parse(bench.journal.load()).rechecks == again.rechecks


def test_a_branch_without_some_keeps_is_measured_against_the_base(tmp_path: Path) -> None:
    """As often as readings need, once; journaled with what was dropped; an interrupt leaves nothing half-told."""
    cut, little = list[bool](), noisy()
    bench, history = researched(
        tmp_path, *THREE, behave=lambda text: ended("", ending=Ending.INTERRUPTED) if cut else little(text)
    )
    runs, dropped = bench.loop.runs, [history.kept[1].commit, history.kept[2].commit]
    commit = runs.workspace.commit(history.session.base_commit, script(0.5), "without")
    cut.append(True)
    assert without(runs, history, commit=commit, dropped=dropped, wanted=3, seconds=None, table="") == history
    cut.clear()
    after = without(runs, history, commit=commit, dropped=dropped, wanted=3, seconds=None, table="table")
    found = dropping(after, commit)
    assert found is not None
    assert found.reverted.split() == dropped
    assert found.readings(commit) == pytest.approx((2.5,) * 3, abs=0.01)
    assert found.readings(found.reference) == pytest.approx((3.0,) * 3, abs=0.01)
    assert journal.parse(bench.journal.load()).rechecks == after.rechecks
    assert without(runs, after, commit=commit, dropped=dropped, wanted=3, seconds=None, table="") == after
    assert dropping(after, dropped[0]) is None


def test_nothing_of_a_branch_without_some_keeps_is_measured_unasked(tmp_path: Path) -> None:
    """`verify-runs` of 0 means none."""
    bench, history = researched(tmp_path, *THREE)
    assert without(bench.loop.runs, history, commit="c", dropped=["d"], wanted=0, seconds=None, table="") == history
    assert bench.executor.requests == []
