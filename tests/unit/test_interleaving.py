"""Several experiments in flight, with the order in which their runs end chosen by the test."""

from __future__ import annotations

import datetime as dt
import io
import itertools
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from autoresearch_ci import journal, results, session
from autoresearch_ci.console import Console
from autoresearch_ci.crew import Crew
from autoresearch_ci.errors import GitError, MachineError, ProposerError
from autoresearch_ci.experiment import (
    Category,
    Direction,
    Ending,
    Experiment,
    History,
    Proposal,
    Purpose,
    Run,
    Session,
    Status,
    Usage,
    Verdict,
)
from autoresearch_ci.journal import Journal
from autoresearch_ci.judge import Rule, judge
from autoresearch_ci.knobs import set_knobs
from autoresearch_ci.noise import Readings
from autoresearch_ci.proposals import Patience
from autoresearch_ci.runs import Interrupt, Rules, RunRequest, Runs
from autoresearch_ci.session import Loop
from autoresearch_ci.slots import Slot
from autoresearch_ci.stopping import Limits
from tests.unit.test_session import BASE, FakeWorkspace, Hand

KNOBS = ("WIDTH", "DEPTH", "HEADS", "RATE")
SCRIPT = "".join(f"{name} = 100\n" for name in KNOBS) + f"train({', '.join(KNOBS)})\n"
NOW = dt.datetime(2026, 11, 22, tzinfo=dt.UTC)


class Lazy(Executor):
    """Does a piece of work when it is told to."""

    def __init__(self) -> None:
        self.work: dict[Future[Any], Callable[[], Any]] = {}

    def submit(self, fn: Callable[..., Any], /, *args: Any, **named: Any) -> Future[Any]:
        future: Future[Any] = Future()
        self.work[future] = lambda: fn(*args, **named)
        return future

    def finish(self, future: Future[Any]) -> None:
        try:
            future.set_result(self.work.pop(future)())
        except Exception as error:  # noqa: BLE001 - as a pool does it
            future.set_exception(error)


class OneByOne(Crew):
    """Ends one thing in flight at a time: the one that the test says."""

    order: Iterator[int]
    most_made: int  # at the same time

    def __init__(self, slots: Sequence[Slot], halt: Callable[[], None], authors: int = 1) -> None:
        super().__init__(slots, halt, authors)
        self._pool.shutdown()
        self._authors.shutdown()
        self.lazy = self._pool = self._authors = Lazy()  # type: ignore[assignment]

    def _done(self) -> list[Future[Any]]:
        OneByOne.most_made = max(self.most_made, self.being_made)
        in_flight: list[Future[Any]] = [*self._trials, *self._makings]
        chosen = in_flight[next(self.order, 0) % len(in_flight)]
        self.lazy.finish(chosen)
        return [chosen] if chosen in self._trials else []

    def together(self, wanted: Sequence[Any]) -> list[Any]:
        return [each() for each in wanted]


class Knobs:
    """An executor whose metric is the distance of the knobs from what would be best, and a proposer that moves one."""

    def __init__(self, workspace: FakeWorkspace, moves: Sequence[tuple[str, int]], noise: float = 0.0) -> None:
        self.workspace, self.moves, self.noise = workspace, list(moves), noise
        self.slots: list[int] = []
        self.fail: Callable[[str], Exception | None] = lambda _: None
        self.pending: list[int] = []
        self.ahead: list[int] = []

    def run(self, request: RunRequest, interrupt: Interrupt) -> Run:
        text = self.workspace.scripts[self.workspace.exported]
        if (error := self.fail(text)) is not None:
            raise error
        self.slots.append(request.slot.number)
        ending = Ending.INTERRUPTED if interrupt.requested() else Ending.EXITED
        wobble = self.noise * ((int(request.variables["AUTORESEARCH_SEED"]) * 7919 % 13) - 6)
        if "CRASH" in text:
            request.log.write_text("boom\n")
            return Run(ending=ending, exit_code=1, wall_s=1.0)
        request.log.write_text(f"m: {sum(abs(value_of(text, name) - 42) for name in KNOBS) + wobble}\n")
        return Run(ending=ending, exit_code=0, wall_s=1.0)

    def propose(self, history: History, script: str) -> Proposal | None:
        self.pending.append(len(history.pending))
        self.ahead.append(len(history.experiments) + len(history.pending) + history.being_made)
        if not self.moves:
            return None
        name, value = self.moves.pop(0)
        text = script + f"CRASH = {value}\n" if name == "CRASH" else set_knobs(script, {name: value})
        return Proposal(
            script=text,
            description=f"{name} {value}",
            category=Category.OPTIMIZER,
            parameters={"note": "kept", f"from {name}": 100, f"to {name}": value},
            usage=Usage(calls=1, cost=1.0),
        )


def value_of(text: str, name: str) -> int:
    return next(int(line.split(" = ")[1]) for line in text.splitlines() if line.startswith(f"{name} = "))


def merge(base: str, ours: str, theirs: str) -> str | None:
    """Line by line, for scripts that only gain lines at the end."""
    sides = [text.splitlines() for text in (base, ours, theirs)]
    longest = max(map(len, sides))
    merged = []
    for before, our, their in zip(*(side + [""] * (longest - len(side)) for side in sides), strict=True):
        if our != before and their not in (before, our):
            return None
        merged.append(their if our == before else our)
    return "".join(f"{line}\n" for line in merged if line)


class Bench:
    def __init__(
        self,
        folder: Path,
        monkeypatch: pytest.MonkeyPatch,
        moves: Sequence[tuple[str, int]],
        *,
        order: Sequence[int] = (),
        slots: int = 3,
        prefetch: int = 0,
        authors: int = 1,
        noise: float = 0.0,
        limits: Limits = Limits(),
        interrupt: Hand | None = None,
    ) -> None:
        OneByOne.order, OneByOne.most_made = iter(order), 0
        monkeypatch.setattr(session, "Crew", OneByOne)
        self.workspace = FakeWorkspace(SCRIPT)
        self.knobs = Knobs(self.workspace, moves, noise)
        self.journal, self.err = Journal(folder), io.StringIO()
        rules = Rules(
            command="python train.py", directory=".", variables={}, timeout_s=600.0, last_reading_counts=False, metric_pattern=None
        )  # fmt: skip
        runs = Runs(
            rules=rules,
            workspace=self.workspace,
            executor=self.knobs,
            journal=self.journal,
            console=Console(io.StringIO(), self.err),
            interrupt=interrupt or Hand(),
            now=lambda: NOW,
        )
        self.loop = Loop(
            runs=runs,
            proposer=self.knobs,
            rule=Rule(),
            limits=limits,
            baseline_runs=3 if noise else 1,
            report_every=100,
            relieve=lambda _: None,
            merge=merge,
            patience=Patience(runs.interrupt),
            slots=tuple(Slot(number=number) for number in range(1, slots + 1)),
            prefetch=prefetch,
            authors=authors,
            began=NOW,
            max_jump=1e9,
        )

    def research(self) -> History:
        fresh = Session(
            tag="nov22", metric="m", direction=Direction.MINIMIZE, training_script="train.py", base_commit=BASE, started_at=NOW
        )  # fmt: skip
        return self.loop.research(self.journal.begin(History(session=fresh)))


moves_drawn = st.lists(st.tuples(st.sampled_from([*KNOBS, "CRASH"]), st.integers(30, 110)), min_size=1, max_size=12)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    moves=moves_drawn,
    order=st.lists(st.integers(0, 9), max_size=80),
    slots=st.integers(1, 4),
    prefetch=st.integers(0, 2),
    authors=st.integers(1, 3),
    noise=st.sampled_from([0.0, 0.3]),
)
def test_any_interleaving_is_a_serial_history(
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
    moves: list[tuple[str, int]],
    order: list[int],
    slots: int,
    prefetch: int,
    authors: int,
    noise: float,
) -> None:
    """Whichever run ends first: the keeps are a chain, each better than the one before it by the judge's rule, by readings of
    itself and of its own parent; every row is at its place; and the record says all of it."""
    bench = Bench(
        tmp_path_factory.mktemp("journal"), monkeypatch, moves, order=order, slots=slots, prefetch=prefetch, authors=authors,
        noise=noise,
    )  # fmt: skip
    try:
        history = bench.research()
    except ProposerError:  # too many of the moves change nothing, or were tried
        history = journal.parse(bench.journal.load())
    assert [e.number for e in history.experiments] == list(range(len(history.experiments)))
    keeps = history.of(Status.KEEP)
    for before, keep in itertools.pairwise(keeps):
        assert keep.parent == before.commit
        verdict = judged_again(history, keep)
        assert isinstance(verdict, Verdict)
        assert verdict.status is Status.KEEP
    for experiment in history.experiments[1:]:
        assert experiment.parent in {keep.commit for keep in keeps if keep.number < experiment.number}
        assert {m.log for m in experiment.measurements} == {
            bench.journal.log_name(experiment.number, n + 1) for n in range(len(experiment.measurements))
        }
        assert all(bench.journal.read_log(m.log) for m in experiment.measurements)
    seeds = [(e.number, m.commit, m.seed) for e in history.experiments for m in e.measurements]
    assert len({(commit, seed) for _, commit, seed in seeds}) == len(seeds), "a run was made again with its own seed"
    assert journal.parse(bench.journal.load()).experiments == history.experiments
    assert bench.workspace.files["results.tsv"].decode() == results.write(history)
    assert not list((bench.journal.folder / "logs" / "in-flight").glob("*"))


def judged_again(history: History, keep: Experiment) -> object:
    """The verdict by what the journal knew when the experiment was decided."""
    before = Readings(history.session.direction)
    for experiment in history.experiments[: keep.number]:
        before.add(experiment)
    for recheck in history.rechecks:
        before.add_recheck(recheck)
    own = [m.reading.metric for m in keep.measurements if m.commit == keep.commit and m.reading.metric is not None]
    again = [m.reading.metric for m in keep.measurements if m.commit == keep.parent and m.reading.metric is not None]
    return judge(
        own,
        (*before.compared(keep.parent), *again),
        noise=before.noise_with(own, incumbent=(keep.parent, again)),
        typical_gain=before.typical_gain,
        runs=99,
        lines=keep.lines,
        incumbent_lines=next(e.lines for e in history.experiments if e.commit == keep.parent),
        direction=history.session.direction,
        rule=Rule(),
    )


def test_better_than_both_is_put_on_the_new_one_and_run_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was decided first is kept; the other change, which looks better still, is measured on top of it, and its row says so."""
    bench = Bench(tmp_path, monkeypatch, [("WIDTH", 90), ("DEPTH", 50)], order=[0, 1], slots=2)
    history = bench.research()
    _, first, second = history.experiments
    assert [e.metric for e in history.experiments] == [232, 222, 172]
    assert second.parent == first.commit
    assert second.based_on == BASE
    assert second.description == f"DEPTH 50 (put on {first.label})"
    assert "WIDTH = 90\nDEPTH = 50\n" in bench.workspace.scripts[second.commit]
    assert [m.reading.metric for m in second.measurements] == [182, 172]
    assert second.notes == (
        f"better by 50 against baseline, but {first.label} was kept meanwhile: put on {first.label}, and run again",
    )
    assert bench.workspace.messages[-1].count("Autoresearch-Experiment: 2") == 1


def test_worse_than_the_new_one_is_a_discard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What ends first is the first row, and its commit says so. The other one is not run again: its row tells what it was measured
    against, and what was kept meanwhile."""
    bench = Bench(tmp_path, monkeypatch, [("WIDTH", 90), ("DEPTH", 50)], order=[0, 1, 1], slots=2)
    history = bench.research()
    _, winner, loser = history.experiments
    assert winner.description == "DEPTH 50"
    message = bench.workspace.messages[list(bench.workspace.scripts).index(winner.commit) - 1]
    assert "Autoresearch-Experiment: 1\n" in message
    assert loser.status is Status.DISCARD
    assert loser.description == "WIDTH 90 (against baseline)"
    assert loser.parent == BASE
    assert len(loser.measurements) == 1
    assert (
        loser.verdict.reason
        == f"better by 10 against baseline, but {winner.label} was kept meanwhile, which is not worse"
    )


def test_two_values_of_one_knob_are_never_put_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The better value takes the place of the other one, measured against it."""
    bench = Bench(tmp_path, monkeypatch, [("WIDTH", 90), ("WIDTH", 50)], order=[0, 1], slots=2)
    _, first, second = bench.research().experiments
    assert second.parent == first.commit
    assert second.status is Status.KEEP
    assert second.description == f"WIDTH 50 (in place of {first.label})"
    assert second.parameters == {"note": "kept", "from WIDTH": 90, "to WIDTH": 50}
    assert "`WIDTH` was changed meanwhile, too" in second.notes[0]


def test_the_next_proposal_is_ready(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While a run is on the next proposal is made; once the incumbent has moved it is put on that one, and says so."""
    bench = Bench(tmp_path, monkeypatch, [("WIDTH", 90), ("DEPTH", 50)], order=[0, 1, 0, 0], slots=1, prefetch=1)
    _, first, second = bench.research().experiments
    assert bench.knobs.pending[:2] == [0, 1]
    assert second.parent == first.commit
    assert second.based_on == BASE
    assert second.metric == 172
    assert second.notes == (f"proposed for {BASE[:7]}, put on {first.label}",)


def test_what_does_not_fit_the_new_one_is_dropped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same knob, and what was tried: dropped aloud, and no run is spent on it."""
    bench = Bench(
        tmp_path, monkeypatch, [("WIDTH", 90), ("WIDTH", 50), ("RATE", 60)], order=[0, 1, 0, 0, 0], slots=1, prefetch=1
    )
    history = bench.research()
    assert [e.description for e in history.experiments[1:]] == ["WIDTH 90", "RATE 60"]
    assert "dropped what waited, `WIDTH 50`" in bench.err.getvalue()
    assert [e.usage.calls for e in history.experiments] == [0, 1, 2], "what was dropped was paid for as well"


def test_nothing_is_proposed_that_cannot_run_any_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With ten slots and a lot of prefetch there are as many proposals as experiments were asked for."""
    moves = [(name, value) for value in range(60, 100) for name in KNOBS]
    bench = Bench(
        tmp_path,
        monkeypatch,
        moves,
        order=[3, 1, 4, 1, 5, 9] * 20,
        slots=10,
        prefetch=3,
        limits=Limits(max_iterations=7),
    )
    history = bench.research()
    assert len(history.tried) == 7
    assert len(bench.knobs.pending) == 7
    assert history.ended == "the maximum of 7 experiments is reached"
    assert set(bench.knobs.slots) <= set(range(1, 11))


def test_an_executor_that_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What else is in flight is brought to its end and recorded, and then the session ends with the error."""
    bench = Bench(tmp_path, monkeypatch, [("WIDTH", 90), ("DEPTH", 50), ("RATE", 50)], order=[0, 1, 2], slots=3)
    bench.knobs.fail = lambda text: MachineError("the engine is gone", hint="") if "WIDTH = 90" in text else None
    with pytest.raises(MachineError, match="the engine is gone"):
        bench.research()
    recorded = journal.parse(bench.journal.load())
    assert {e.description.partition(" (")[0] for e in recorded.experiments[1:]} == {"DEPTH 50", "RATE 50"}
    assert not recorded.ended


def test_a_commit_that_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error between two runs of one experiment is no reason to lose those of its neighbours."""
    bench = Bench(tmp_path, monkeypatch, [("WIDTH", 90), ("DEPTH", 50), ("RATE", 70)], order=[0, 1, 2], slots=3)
    write = bench.workspace.commit

    def commit(parent: str, script: str, message: str) -> str:
        if "WIDTH = 90\nDEPTH = 50" in script:  # put on what was kept meanwhile
            raise GitError("the clone is gone", hint="")
        return write(parent, script, message)

    bench.workspace.commit = commit  # type: ignore[method-assign]
    with pytest.raises(GitError, match="the clone is gone"):
        bench.research()
    recorded = journal.parse(bench.journal.load())
    assert [e.description.partition(" (")[0] for e in recorded.experiments[1:]] == ["WIDTH 90", "RATE 70"]


def test_nothing_ends_before_the_last_result_was_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A proposer that had nothing as long as a run was on is asked again once that is decided."""
    bench = Bench(tmp_path, monkeypatch, [], order=[0, 0, 0], slots=2)
    known: list[int] = []
    moves = {1: ("WIDTH", 90), 2: ("DEPTH", 50)}

    def propose(history: History, script: str) -> Proposal | None:
        known.append(len(history.experiments))
        if history.pending or len(history.experiments) not in moves:
            return None
        name, value = moves[len(history.experiments)]
        return Proposal(script=set_knobs(script, {name: value}), description=name, category=Category.OTHER)

    monkeypatch.setattr(bench.knobs, "propose", propose)
    assert [e.description for e in bench.research().experiments[1:]] == ["WIDTH", "DEPTH"]
    assert known == [1, 1, 2, 2, 3]


def test_an_interrupt_with_several_in_flight(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those in flight are dropped, what was decided stays, and nothing new is begun."""
    hand = Hand()
    bench = Bench(tmp_path, monkeypatch, [("WIDTH", 90), ("DEPTH", 50), ("RATE", 50)], slots=3, interrupt=hand)

    def stop(text: str) -> None:
        if "DEPTH = 50" in text:
            hand.after = 0

    bench.knobs.fail = stop
    history = bench.research()
    assert [e.description for e in history.experiments[1:]] in ([], ["WIDTH 90"])
    assert not history.ended
    assert journal.parse(bench.journal.load()) == history


def test_what_neighbours_cost_is_measured_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The baseline runs in every slot at once before anything is tried; a later process of the session does not repeat it."""
    bench = Bench(tmp_path, monkeypatch, [], slots=3)
    history = bench.research()
    assert bench.knobs.slots == [1, 1, 2, 3]
    (made,) = history.rechecks
    assert made.purpose is Purpose.NEIGHBOURS
    assert made.wanted == len(made.measurements) == 3
    again = Bench(tmp_path, monkeypatch, [("WIDTH", 90)], slots=3)
    assert again.loop.research(again.journal.begin(history)).rechecks == history.rechecks
    assert again.knobs.slots == [1]


def test_one_slot_is_the_serial_loop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is asked for before the run before it was judged, nothing is measured beside, and logs have their final names."""
    bench = Bench(tmp_path, monkeypatch, [("WIDTH", 90), ("DEPTH", 50), ("WIDTH", 60)], order=[5] * 30, slots=1)
    history = bench.research()
    assert bench.knobs.pending == [0, 0, 0, 0]
    assert history.rechecks == ()
    assert all(not e.based_on for e in history.experiments)
    assert [e.number for e in history.of(Status.KEEP)] == [0, 1, 2, 3]
    assert not (bench.journal.folder / "logs" / "in-flight").exists()


def test_several_authors_make_no_more_than_can_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is asked as the next in line, and with two experiments left two are asked, however many slots are free."""
    moves = [("WIDTH", 90), ("DEPTH", 50), ("RATE", 60), ("HEADS", 70)]
    bench = Bench(
        tmp_path, monkeypatch, moves, slots=3, prefetch=1, authors=3, limits=Limits(max_iterations=2), order=[1, 0, 1]
    )
    history = bench.research()
    assert len(history.tried) == 2
    assert sorted(bench.knobs.ahead) == [1, 2]
    assert "not tried any more" not in bench.err.getvalue()


@pytest.mark.parametrize(("slots", "prefetch", "most"), [(1, 0, 1), (1, 1, 2), (2, 1, 3), (4, 1, 3)])
def test_several_authors_make_what_is_wanted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, slots: int, prefetch: int, most: int
) -> None:
    """One for each free slot and those in advance, by three authors at most."""
    moves = [(name, value) for value in (90, 80, 70) for name in KNOBS]
    bench = Bench(tmp_path, monkeypatch, moves, slots=slots, prefetch=prefetch, authors=3)
    assert len(bench.research().tried) > 3
    assert OneByOne.most_made == most
