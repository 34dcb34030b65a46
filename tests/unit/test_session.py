from __future__ import annotations

import contextlib
import datetime as dt
import io
import itertools
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from autoresearch_ci import digests, journal, source
from autoresearch_ci.conditions import Conditions
from autoresearch_ci.console import Console
from autoresearch_ci.early_stop import Watch
from autoresearch_ci.errors import BaselineError, GitError, ProposerError
from autoresearch_ci.experiment import Category, Direction, Ending, History, Proposal, Run, Session, Status
from autoresearch_ci.journal import Journal
from autoresearch_ci.judge import Rule
from autoresearch_ci.proposals import MAX_REFUSALS, Patience
from autoresearch_ci.runs import Interrupt, Rules, RunRequest, Runs
from autoresearch_ci.session import NOTHING_LEFT, Loop
from autoresearch_ci.stopping import Limits
from autoresearch_ci.workspace import merged_script

BASE = "b" * 40


def script(value: float, *, batch: int = 64, extra: str = "") -> str:
    return f"VALUE = {value}\nBATCH = {batch}\n{extra}"


class FakeWorkspace:
    """Commits are a dictionary; what was recorded and pushed is remembered in order."""

    def __init__(self, base: str) -> None:
        self.scripts = {BASE: base}
        self.messages: list[str] = []
        self.recorded: list[int] = []
        self.files: dict[str, bytes] = {}
        self.pushes = 0

    def script(self, commit: str) -> str:
        return self.scripts[commit]

    def commit(self, parent: str, script: str, message: str) -> str:
        assert parent in self.scripts
        name = f"{len(self.scripts):040x}"
        self.scripts[name] = script
        self.messages.append(message)
        return name

    @contextlib.contextmanager
    def export(self, commit: str) -> Iterator[Path]:
        self.exported = commit
        yield Path("/export")

    def record(self, history: History, files: Mapping[str, bytes]) -> None:
        self.recorded.append(len(history.experiments))
        self.files.update(files)

    def push_meanwhile(self) -> None:
        self.pushes += 1


class FakeExecutor:
    """Runs a script by reading its VALUE; `behave` may give another end and another log."""

    def __init__(
        self, workspace: FakeWorkspace, behave: Callable[[str], tuple[Run, str] | None] = lambda _: None
    ) -> None:
        self.workspace = workspace
        self.behave = behave
        self.requests: list[RunRequest] = []

    def run(self, request: RunRequest, interrupt: Interrupt) -> Run:
        self.requests.append(request)
        self.interrupt = interrupt
        text = self.workspace.scripts[self.workspace.exported]
        special = self.behave(text)
        if special is not None:
            run, log = special
            request.log.write_text(log)
            return run
        request.log.write_text(f"m: {text.split()[2]}\npeak_vram_mb: 2048.0\n")
        return Run(ending=Ending.EXITED, exit_code=0, wall_s=1.0, peak_memory_mb=10.0)


class FakeProposer:
    def __init__(self, *scripts: str | None) -> None:
        self.scripts = list(scripts)
        self.saw: list[str] = []

    def propose(self, history: History, script: str) -> Proposal | None:
        self.saw.append(script)
        text = self.scripts.pop(0) if self.scripts else None
        if text is None:
            return None
        return Proposal(
            script=text, description=f"VALUE {len(self.saw)}", category=Category.OPTIMIZER, rationale="a guess"
        )


class Hand:
    """An interrupt that comes after some looks."""

    def __init__(self, after: int = 10**9) -> None:
        self.after = after

    def requested(self) -> bool:
        self.after -= 1
        return self.after < 0


def relieve(text: str) -> str | None:
    return text.replace("BATCH = 64", "BATCH = 32") if "BATCH = 64" in text else None


def crash(last: str, code: int = 1) -> tuple[Run, str]:
    return Run(ending=Ending.EXITED, exit_code=code, wall_s=1.0), last


class Bench:
    """A loop on fakes, and what it left behind."""

    def __init__(
        self,
        folder: Path,
        proposer: FakeProposer,
        *,
        base: str = script(1.0),
        behave: Callable[[str], tuple[Run, str] | None] = lambda _: None,
        limits: Limits = Limits(),
        interrupt: Hand | None = None,
        last_reading_counts: bool = False,
        baseline_runs: int = 1,
        metric_min: float | None = None,
        metric_max: float | None = None,
    ) -> None:
        self.workspace = FakeWorkspace(base)
        self.executor = FakeExecutor(self.workspace, behave)
        self.proposer = proposer
        self.err = io.StringIO()
        self.journal = Journal(folder)
        runs = Runs(
            rules=Rules(
                command="python train.py",
                directory=".",
                variables={"AUTORESEARCH_TIME_BUDGET": "300"},
                timeout_s=600.0,
                last_reading_counts=last_reading_counts,
                metric_pattern=None,
                metric_min=metric_min,
                metric_max=metric_max,
            ),
            workspace=self.workspace,
            executor=self.executor,
            journal=self.journal,
            console=Console(io.StringIO(), self.err),
            interrupt=interrupt or Hand(),
            now=lambda: dt.datetime(2026, 11, 22, tzinfo=dt.UTC),
        )
        self.loop = Loop(
            runs=runs,
            proposer=proposer,
            rule=Rule(),
            limits=limits,
            baseline_runs=baseline_runs,
            report_every=2,
            relieve=relieve,
            merge=merged_script,
            patience=Patience(runs.interrupt),
            began=dt.datetime(2026, 11, 22, tzinfo=dt.UTC),
        )

    def research(self) -> History:
        session = Session(
            tag="Nov_22.a", metric="m", direction=Direction.MINIMIZE, training_script="train.py", base_commit=BASE,
            started_at=dt.datetime(2026, 11, 22, tzinfo=dt.UTC),
        )  # fmt: skip
        return self.loop.research(self.journal.begin(History(session=session)))


def statuses(history: History) -> list[str]:
    return [e.status.value for e in history.experiments]


def test_baseline_first_then_keep_or_discard(tmp_path: Path) -> None:
    """Better is kept and becomes what the next proposal starts from; worse is not."""
    bench = Bench(tmp_path, FakeProposer(script(0.9), script(1.5), script(0.8)))
    history = bench.research()
    assert statuses(history) == ["keep", "keep", "discard", "keep"]
    assert [e.metric for e in history.experiments] == [1.0, 0.9, 1.5, 0.8]
    assert bench.proposer.saw == [script(1.0), script(0.9), script(0.9), script(0.8)]
    assert history.experiments[2].parent == history.experiments[1].commit
    assert history.experiments[0].commit == BASE
    assert history.experiments[0].memory_gb == 2.0
    assert history.ended == NOTHING_LEFT


def test_everything_is_durable_after_every_experiment(tmp_path: Path) -> None:
    """Journal, refs and push follow each experiment, in that order, also when the remote is away."""
    bench = Bench(tmp_path, FakeProposer(script(0.9)))
    history = bench.research()
    assert bench.workspace.recorded == [1, 2]
    assert bench.workspace.pushes == 2
    assert journal.parse(bench.journal.load()) == history
    assert (
        bench.workspace.files["results.tsv"]
        .decode()
        .splitlines()[1]
        .startswith("baseline\t1.0\t2.0\tkeep\tBaseline — no mod")
    )
    assert set(bench.workspace.files) >= {"journal/0000.jsonl", "logs/00/0000-1.log", "logs/00/0001-1.log"}


def test_a_run_gets_what_the_contract_says(tmp_path: Path) -> None:
    """The request carries the seed, the budget, the timeout and a name that is safe for a container."""
    bench = Bench(tmp_path, FakeProposer())
    bench.research()
    request = bench.executor.requests[0]
    assert request.variables == {"AUTORESEARCH_TIME_BUDGET": "300", "AUTORESEARCH_SEED": "42"}
    assert request.timeout_s == 600.0
    assert request.name == "nov-22-a-00-0000-1"


def test_commits_say_what_and_who(tmp_path: Path) -> None:
    """A keep's commit message carries the description, the reason and the proposer."""
    bench = Bench(tmp_path, FakeProposer(script(0.9)))
    bench.research()
    message = bench.workspace.messages[0]
    assert message.startswith("exp: VALUE 1\n\na guess\n\n")
    assert "Autoresearch-Experiment: 1" in message
    assert "Autoresearch-Proposer: search" in message


@pytest.mark.parametrize(
    ("behave", "says"),
    [
        (crash("Traceback\nValueError: no", 1), "exit code 1: ValueError: no"),
        (crash("all fine", 0), "no finite `m` in the log: all fine"),
        ((Run(ending=Ending.TIMEOUT, exit_code=None, wall_s=600.0), ""), "killed after 600 s"),
    ],
)
def test_a_baseline_that_fails_ends_the_session(tmp_path: Path, behave: tuple[Run, str], says: str) -> None:
    """There is nothing to improve on: exit code 3, the reason, and where the log is. Nothing is recorded as a value."""
    bench = Bench(tmp_path, FakeProposer(script(0.9)), behave=lambda _: behave)
    with pytest.raises(BaselineError) as caught:
        bench.research()
    assert says in caught.value.message
    assert "0000-1.log" in caught.value.hint
    assert journal.parse(bench.journal.load()).experiments == ()


def test_a_baseline_that_does_not_parse_is_said_before_it_runs(tmp_path: Path) -> None:
    """No time budget is spent on a script that is not Python."""
    bench = Bench(tmp_path, FakeProposer(), base="def broken(:\n")
    with pytest.raises(BaselineError, match="does not parse"):
        bench.research()
    assert bench.executor.requests == []


def test_a_crash_has_no_value_and_the_loop_goes_on(tmp_path: Path) -> None:
    """A crash is an outcome with a reason, never a number."""
    bench = Bench(
        tmp_path, FakeProposer(script(0.5), script(0.9)), behave=lambda t: crash("m: 0.1\nboom") if "0.5" in t else None
    )
    history = bench.research()
    assert statuses(history) == ["keep", "crash", "keep"]
    assert history.experiments[1].metric is None
    assert history.experiments[1].verdict.reason == "exit code 1: boom"


def oom_above(batch: int) -> Callable[[str], tuple[Run, str] | None]:
    return lambda text: (
        crash("torch.OutOfMemoryError: CUDA out of memory") if f"BATCH = {batch}" in text and "0.9" in text else None
    )


def test_out_of_memory_is_tried_once_with_half_the_batch(tmp_path: Path) -> None:
    """The retry is the same experiment with another commit: the kept one is the one that ran."""
    bench = Bench(tmp_path, FakeProposer(script(0.9)), behave=oom_above(64))
    history = bench.research()
    kept = history.experiments[1]
    assert kept.status is Status.KEEP
    assert len(kept.measurements) == 2
    assert kept.description == "VALUE 1 (half the device batch)"
    assert bench.workspace.scripts[kept.commit] == script(0.9, batch=32)
    assert [m.log for m in kept.measurements] == ["00/0001-1.log", "00/0001-2.log"]


def test_out_of_memory_twice_is_a_crash(tmp_path: Path) -> None:
    """One retry, not more."""
    bench = Bench(tmp_path, FakeProposer(script(0.9)), behave=lambda t: oom_above(64)(t) or oom_above(32)(t))
    history = bench.research()
    assert statuses(history) == ["keep", "crash"]
    assert len(history.experiments[1].measurements) == 2
    assert history.experiments[1].verdict.reason.startswith("out of memory")


def test_out_of_memory_without_a_batch_is_a_crash(tmp_path: Path) -> None:
    """Where there is nothing to halve, nothing is tried again."""
    bench = Bench(tmp_path, FakeProposer(script(0.9, batch=1)), behave=oom_above(1), base=script(1.0, batch=1))
    history = bench.research()
    assert statuses(history) == ["keep", "crash"]
    assert len(history.experiments[1].measurements) == 1


def test_the_same_change_is_never_run_twice(tmp_path: Path) -> None:
    """Neither what was tried, nor the same with other comments, nor a change that changes nothing."""
    again = "# another comment\n" + script(1.5)
    bench = Bench(tmp_path, FakeProposer(script(1.5), script(1.5), again, script(1.0), "def (", script(0.9)))
    history = bench.research()
    assert statuses(history) == ["keep", "discard", "keep"]
    assert len(bench.executor.requests) == 3
    said = bench.err.getvalue()
    assert said.count("it was tried before") == 2
    assert "it changes nothing" in said
    assert "it does not parse" in said


def test_what_a_retry_ran_counts_as_tried(tmp_path: Path) -> None:
    """The halved script of an out-of-memory retry is not run again as a proposal."""
    bench = Bench(
        tmp_path,
        FakeProposer(script(0.9), script(0.9, batch=32)),
        behave=lambda t: oom_above(64)(t) or oom_above(32)(t),
    )
    assert statuses(bench.research()) == ["keep", "crash"]


def test_a_proposer_that_keeps_failing_ends_the_session(tmp_path: Path) -> None:
    """Exit code 5, with what was refused last; everything so far is saved."""
    bench = Bench(tmp_path, FakeProposer(*[script(1.0)] * MAX_REFUSALS))
    with pytest.raises(ProposerError, match="it changes nothing"):
        bench.research()
    assert len(journal.parse(bench.journal.load()).experiments) == 1


def test_equal_with_fewer_lines_is_kept(tmp_path: Path) -> None:
    """The simplicity rule reaches from the script's text to the verdict."""
    bench = Bench(tmp_path, FakeProposer(script(1.0)), base=script(1.0, extra="UNUSED = 1\n"))
    assert statuses(bench.research()) == ["keep", "keep"]


def test_an_interrupt_drops_only_what_is_in_flight(tmp_path: Path) -> None:
    """The run in progress is not recorded; what was decided before is; the session is not over."""
    interrupted = Run(ending=Ending.INTERRUPTED, exit_code=None, wall_s=1.0)
    hand = Hand()

    def behave(text: str) -> tuple[Run, str] | None:
        if "0.8" not in text:
            return None
        hand.after = 0
        return interrupted, ""

    bench = Bench(tmp_path, FakeProposer(script(0.9), script(0.8)), behave=behave, interrupt=hand)
    history = bench.research()
    assert statuses(history) == ["keep", "keep"]
    assert history.ended == ""
    assert bench.journal.now_running() is None


def test_an_interrupted_baseline_is_nothing(tmp_path: Path) -> None:
    """The session stays empty and can be started again."""
    hand = Hand(after=0)
    interrupted = Run(ending=Ending.INTERRUPTED, exit_code=None, wall_s=1.0)
    bench = Bench(tmp_path, FakeProposer(script(0.9)), behave=lambda _: (interrupted, ""), interrupt=hand)
    assert bench.research().experiments == ()


def test_a_stop_reason_ends_the_loop_and_is_recorded(tmp_path: Path) -> None:
    """The limits are asked before every proposal."""
    bench = Bench(tmp_path, FakeProposer(script(0.9), script(0.8)), limits=Limits(max_iterations=1))
    history = bench.research()
    assert len(history.experiments) == 2
    assert history.ended == "the maximum of 1 experiments is reached"
    assert journal.parse(bench.journal.load()).ended == history.ended


def test_a_resumed_loop_goes_on(tmp_path: Path) -> None:
    """No second baseline, and what the first lifetime tried is not tried again."""
    first = Bench(tmp_path, FakeProposer(script(1.5)))
    before = first.research()
    second = Bench(tmp_path, FakeProposer(script(1.5), script(0.9)))
    second.workspace.scripts.update(first.workspace.scripts)
    history = second.loop.research(second.journal.begin(before))
    assert statuses(history) == ["keep", "discard", "keep"]
    assert len(second.executor.requests) == 1


def test_a_stale_log_is_never_read(tmp_path: Path) -> None:
    """The log of a run that was killed before does not become this run's reading."""
    bench = Bench(tmp_path, FakeProposer(), behave=lambda _: (Run(ending=Ending.EXITED, exit_code=0, wall_s=1.0), ""))
    bench.journal.log_path("00/0000-1.log").write_text("m: 0.1\n")
    with pytest.raises(BaselineError, match="no finite"):
        bench.research()


def test_progress_is_reported(tmp_path: Path) -> None:
    """Every `report-every` experiments, in the skill's form."""
    bench = Bench(tmp_path, FakeProposer(script(0.9), script(0.8), script(0.7)))
    bench.research()
    assert bench.err.getvalue().count("## AutoResearch Progress — Iteration 2") == 1
    assert "Iteration 3" not in bench.err.getvalue()


def test_last_reading_counts_at_the_timeout(tmp_path: Path) -> None:
    """`at-timeout: last-reading` keeps a script that never stops by itself."""
    late = Run(ending=Ending.TIMEOUT, exit_code=None, wall_s=600.0)
    bench = Bench(tmp_path, FakeProposer(), behave=lambda _: (late, "m: 1.0\n"), last_reading_counts=True)
    assert bench.research().experiments[0].metric == 1.0


def test_fingerprints_are_those_of_the_scripts(tmp_path: Path) -> None:
    """The journal's fingerprint is that of the proposed script, each measurement's that of the script that ran."""
    bench = Bench(tmp_path, FakeProposer(script(0.9)), behave=oom_above(64))
    kept = bench.research().experiments[1]
    assert kept.fingerprint == source.fingerprint(script(0.9))
    assert kept.measurements[1].fingerprint == source.fingerprint(script(0.9, batch=32))


class Noisy:
    """`behave` of a fake executor: a script's VALUE plus the next error; what a script is asked for is remembered."""

    def __init__(self, *errors: float) -> None:
        self.errors = list(errors)

    def __call__(self, text: str) -> tuple[Run, str]:
        value = float(text.split()[2]) + (self.errors.pop(0) if self.errors else 0.0)
        return Run(ending=Ending.EXITED, exit_code=0, wall_s=1.0), f"m: {value}\n"


def test_an_exact_script_costs_one_more_baseline_and_nothing_else(tmp_path: Path) -> None:
    """Two equal baselines: from there on it is the skill's rule, run for run."""
    bench = Bench(tmp_path, FakeProposer(script(0.9999), script(0.9998), script(1.5)), baseline_runs=2)
    history = bench.research()
    assert [len(e.measurements) for e in history.experiments] == [2, 1, 1, 1]
    assert statuses(history) == ["keep", "keep", "keep", "discard"]
    assert all(e.verdict.evidence is None for e in history.experiments)


def test_a_gain_within_the_noise_is_run_again(tmp_path: Path) -> None:
    """The candidate and the incumbent take turns, each pair with one seed, until it is clear; the numbers are journaled."""
    errors = Noisy(0.1, -0.1, -0.05, -0.02, 0.0, 0.09, -0.1)
    bench = Bench(tmp_path, FakeProposer(script(0.99)), baseline_runs=2, behave=errors)
    history = bench.research()
    tried = history.experiments[1]
    assert tried.status is Status.DISCARD
    assert len(tried.measurements) > 1
    assert {m.commit for m in tried.measurements} == {tried.commit, BASE}
    evidence = tried.verdict.evidence
    assert evidence is not None
    own = [m.reading.metric for m in tried.measurements if m.commit == tried.commit]
    assert evidence.runs == len(own)
    assert tried.metric == pytest.approx(sum(v for v in own if v is not None) / len(own))
    assert journal.parse(bench.journal.load()) == history
    seeds = [m.seed for m in tried.measurements if m.commit == tried.commit]
    assert len(set(seeds)) == len(seeds)
    again = [m.seed for m in tried.measurements if m.commit == BASE]
    assert again == seeds[: len(again)]  # in turn, and paired
    assert len({m.log for m in tried.measurements}) == len(tried.measurements)


def test_a_clear_gain_is_kept_at_once_and_the_incumbent_read_afresh(tmp_path: Path) -> None:
    """One run is enough for a clear gain; the reading that won is not what the next candidate is compared with."""
    errors = Noisy(0.01, -0.01, 0.0, 0.0)
    bench = Bench(tmp_path, FakeProposer(script(0.5), script(0.499)), baseline_runs=2, behave=errors)
    history = bench.research()
    first, second = history.experiments[1:]
    assert first.status is Status.KEEP
    assert len(first.measurements) == 1
    assert second.measurements[1].commit == first.commit


def test_a_candidate_that_crashes_when_run_again_is_a_crash(tmp_path: Path) -> None:
    """A change that ends well only sometimes is none to keep."""
    noisy, calls = Noisy(0.1, -0.1), itertools.count()

    def behave(text: str) -> tuple[Run, str]:
        if "0.99" in text and next(calls):
            return crash("ValueError: sometimes")
        return noisy(text)

    bench = Bench(tmp_path, FakeProposer(script(0.99)), baseline_runs=2, behave=behave)
    tried = bench.research().experiments[1]
    assert tried.status is Status.CRASH
    assert tried.metric is None
    assert tried.verdict.reason == "exit code 1: ValueError: sometimes"


def test_an_interrupt_between_two_runs_drops_the_experiment(tmp_path: Path) -> None:
    """What is not decided is not recorded: the resumed session makes the experiment anew."""
    noisy, count = Noisy(0.1, -0.1), itertools.count()

    def behave(text: str) -> tuple[Run, str]:
        if next(count) == 3:
            return Run(ending=Ending.INTERRUPTED, exit_code=None, wall_s=0.1), ""
        return noisy(text)

    bench = Bench(tmp_path, FakeProposer(script(0.99)), baseline_runs=2, behave=behave, interrupt=Hand(2))
    history = bench.research()
    assert len(history.experiments) == 1


def test_on_another_machine_baseline_and_incumbent_are_measured_again(tmp_path: Path) -> None:
    """Readings of two machines are never compared: the next candidate meets what was measured here."""
    first = Bench(tmp_path, FakeProposer(script(0.5)), baseline_runs=2, behave=Noisy(0.01, -0.01))
    history = first.research()
    second = Bench(tmp_path, FakeProposer(script(0.6)), baseline_runs=2, behave=Noisy(1.01, 0.99, 1.0, 1.0, 1.0))
    second.workspace.scripts |= first.workspace.scripts
    done = second.loop.research(second.journal.begin(history), moved="another device")
    (recheck,) = done.rechecks
    assert recheck.note == "another device"
    assert [m.commit for m in recheck.measurements] == [BASE, history.experiments[1].commit] * 2
    assert "another device" in second.err.getvalue()
    evidence = done.experiments[2].verdict.evidence
    assert evidence is not None
    assert evidence.gain == pytest.approx(-0.105)  # 1.6 here against the incumbent's 1.49 and 1.5 here
    assert journal.parse(second.journal.load()) == done


def test_on_another_machine_the_curve_to_beat_is_made_there(tmp_path: Path) -> None:
    """A faster machine's curve would stop every candidate here: the one of the runs made here is the rival."""

    def timed(value: float) -> Callable[[str], tuple[Run, str]]:
        return lambda _: (Run(ending=Ending.EXITED, exit_code=0, wall_s=1.0), f"step: 1 m: {value}\nm: {value}\n")

    first = Bench(tmp_path / "a", FakeProposer(script(0.5)), behave=timed(1.0))
    second = Bench(tmp_path / "b", FakeProposer(script(0.6)), behave=timed(9.0))
    for bench in (first, second):
        bench.loop.runs.rules = replace(bench.loop.runs.rules, early_stop=True)
    history = first.research()
    second.loop.research(second.journal.begin(history), moved="another device")
    here, there = first.executor.interrupt, second.executor.interrupt
    assert isinstance(here, Watch)
    assert isinstance(there, Watch)
    assert [[value for _, value in watch.rival or ()] for watch in (here, there)] == [[1.0], [9.0]]


def test_a_resumed_loop_knows_what_is_usual(tmp_path: Path) -> None:
    """The first run of a new process is held against the steps of the last one's."""
    steps = iter([1000, 500, 1000])

    def behave(text: str) -> tuple[Run, str]:
        return Run(ending=Ending.EXITED, exit_code=0, wall_s=1.0), f"m: 1.0\nnum_steps: {next(steps)}\n"

    first = Bench(tmp_path, FakeProposer(), behave=behave)
    history = first.research()
    runs = Bench(tmp_path, FakeProposer(), behave=behave).loop.runs
    runs.recall(history)
    made = runs.measure(
        history.session, commit=BASE, log=lambda again: f"{again}.log", seed=42, number=1, description="again"
    )
    assert [bool(m.disturbed) for m in made] == [True, False]


def test_what_is_usual_elsewhere_is_not_usual_here(tmp_path: Path) -> None:
    """Half the steps of another machine are what this one makes: nothing is disturbed."""
    steps = iter([1000, 500])

    def behave(text: str) -> tuple[Run, str]:
        return Run(ending=Ending.EXITED, exit_code=0, wall_s=1.0), f"m: 1.0\nnum_steps: {next(steps)}\n"

    first = Bench(tmp_path, FakeProposer(), behave=behave)
    first.loop.runs.conditions = Conditions({"device": "a fast one"})
    history = first.research()
    runs = Bench(tmp_path, FakeProposer(), behave=behave).loop.runs
    runs.conditions = Conditions({"device": "a slow one"})
    runs.recall(history)
    (made,) = runs.measure(
        history.session, commit=BASE, log=lambda again: f"{again}.log", seed=42, number=1, description="again"
    )
    assert not made.disturbed


def test_near_misses_are_run_again_when_nothing_else_is_left(tmp_path: Path) -> None:
    """What looked better and was not sure gets one more chance, by fresh runs alone; then the session is over."""
    errors = Noisy(0.1, -0.1, 0.0, 0.1)
    bench = Bench(tmp_path, FakeProposer(script(0.7)), baseline_runs=2, behave=errors)
    bench.loop.rule = Rule(max_runs=2)
    history = bench.research()
    assert history.experiments[1].status is Status.DISCARD
    again = history.experiments[2]
    assert again.description == "Again: VALUE 1"
    assert again.fingerprint == history.experiments[1].fingerprint
    assert again.commit != history.experiments[1].commit
    assert len(history.experiments) == 3
    assert history.ended == NOTHING_LEFT


def test_a_disturbed_run_is_made_again_and_does_not_count(tmp_path: Path) -> None:
    """Fewer steps than usual at equal code: the run is journaled with its reason, and another one is judged."""
    steps = iter([1000, 500, 1000, 1000])

    def behave(text: str) -> tuple[Run, str]:
        log = f"m: {text.split()[2]}\nnum_steps: {next(steps)}\n"
        return Run(ending=Ending.EXITED, exit_code=0, wall_s=1.0), log

    bench = Bench(tmp_path, FakeProposer(script(0.9)), baseline_runs=2, behave=behave)
    history = bench.research()
    first, spoilt, again = history.experiments[0].measurements
    assert (first.disturbed, again.disturbed) == ("", "")
    assert spoilt.disturbed == "500 steps, 1000 are usual with this script"
    assert [m.log for m in (first, spoilt, again)] == ["00/0000-1.log", "00/0000-2.log", "00/0000-3.log"]
    assert "disturbed, so it is run again" in bench.err.getvalue()
    assert statuses(history) == ["keep", "keep"]


def test_a_machine_that_is_always_disturbed_is_taken_as_it_is(tmp_path: Path) -> None:
    """After two disturbed runs in a row the third one counts: nothing is run for ever."""
    steps = itertools.chain([1000], itertools.repeat(500))

    def behave(text: str) -> tuple[Run, str]:
        return Run(ending=Ending.EXITED, exit_code=0, wall_s=1.0), f"m: 1.0\nnum_steps: {next(steps)}\n"

    bench = Bench(tmp_path, FakeProposer(), baseline_runs=2, behave=behave)
    runs = bench.research().experiments[0].measurements
    assert [bool(m.disturbed) for m in runs] == [False, True, True, False]


def watched(bench: Bench, text: str) -> Callable[[str], tuple[Run, str] | None]:
    """A run that prints `text` and then waits to be interrupted."""

    def behave(script: str) -> tuple[Run, str] | None:
        if "0.5" not in script:
            return None
        request = bench.executor.requests[-1]
        request.log.write_text(text)
        assert bench.executor.interrupt.requested()
        return Run(ending=Ending.INTERRUPTED, exit_code=None, wall_s=1.0), text

    return behave


def test_a_loss_that_is_no_number_is_stopped_and_a_crash(tmp_path: Path) -> None:
    """The run is stopped at once, the reason is recorded, and the session goes on."""
    bench = Bench(tmp_path, FakeProposer(script(0.5), script(0.9)))
    bench.executor.behave = watched(bench, "step 1 | loss: nan | dt: 3\n")
    history = bench.research()
    stopped = history.experiments[1]
    assert stopped.status is Status.CRASH
    assert stopped.verdict.reason.startswith("the loss is not finite")
    assert stopped.measurements[0].run.ending is Ending.STOPPED
    assert statuses(history) == ["keep", "crash", "keep"]


def test_a_flagged_gain_is_run_again_and_stays_flagged(tmp_path: Path) -> None:
    """A jump, twice the same: kept, after a second run with a seed of its own, and journaled as flagged."""
    bench = Bench(tmp_path, FakeProposer(script(0.2), script(0.19)))
    history = bench.research()
    jump, step = history.experiments[1:]
    assert [len(e.measurements) for e in (jump, step)] == [2, 1]
    assert jump.status is step.status is Status.KEEP
    assert jump.flags == ("a jump: better by 0.8 at once, where at most 0.5 was to be expected",)
    assert step.flags == ()
    assert "flagged: a jump" in bench.err.getvalue()
    assert jump.measurements[0].seed != jump.measurements[1].seed
    assert journal.parse(bench.journal.load()) == history


def test_a_flagged_gain_that_does_not_come_again_is_discarded(tmp_path: Path) -> None:
    """Luck, and a forgery that knows its seed, do not last."""
    answers = [0.2, *[1.5] * 20]

    def behave(text: str) -> tuple[Run, str] | None:
        if "0.2" not in text:
            return None
        return Run(ending=Ending.EXITED, exit_code=0, wall_s=1.0), f"m: {answers.pop(0)}\n"

    history = Bench(tmp_path, FakeProposer(script(0.2)), behave=behave).research()
    assert statuses(history) == ["keep", "discard"]
    assert history.experiments[1].flags


def test_a_value_that_the_metric_cannot_take_is_a_crash(tmp_path: Path) -> None:
    """Of a candidate; and a baseline with one ends the session."""
    bench = Bench(tmp_path, FakeProposer(script(-0.5), script(7.0)), metric_min=0.0, metric_max=5.0)
    history = bench.research()
    assert statuses(history) == ["keep", "crash", "crash"]
    assert history.experiments[1].verdict.reason == "`m` is -0.5, which it cannot be: `metric-min` is 0"
    assert history.experiments[2].verdict.reason == "`m` is 7, which it cannot be: `metric-max` is 5"
    with pytest.raises(BaselineError, match="which it cannot be"):
        Bench(tmp_path / "other", FakeProposer(), metric_min=2.0).research()


class RealExport(FakeWorkspace):
    """Exports a real folder, with one file beside the script."""

    @contextlib.contextmanager
    def export(self, commit: str) -> Iterator[Path]:
        self.exported = commit
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "prepare.py").write_text("READY = True")
            yield Path(folder)


def test_a_run_that_changed_a_read_only_file_is_a_crash(tmp_path: Path) -> None:
    """Whatever it printed: without a wall a script can take its rights back, and its export's digests say so."""
    bench = Bench(tmp_path, FakeProposer(script(0.9)))
    workspace = RealExport(script(1.0))
    bench.workspace = bench.executor.workspace = bench.loop.runs.workspace = workspace
    with workspace.export(BASE) as tree:
        files = digests.take(tree, "train.py")
    bench.loop.runs.rules = replace(bench.loop.runs.rules, files=files)

    def spoil(text: str) -> tuple[Run, str] | None:
        if "0.9" in text:
            (bench.executor.requests[-1].tree / "prepare.py").write_text("READY = None")
        return None

    bench.executor.behave = spoil
    history = bench.research()
    assert statuses(history) == ["keep", "crash"]
    assert history.experiments[1].verdict.reason == "it changed `prepare.py`, which is read-only"
    assert history.experiments[1].metric is None


def test_an_export_that_is_not_the_base_commits_ends_the_session(tmp_path: Path) -> None:
    """No run is made of damage."""
    bench = Bench(tmp_path, FakeProposer())
    bench.loop.runs.workspace = RealExport(script(1.0))
    bench.loop.runs.rules = replace(bench.loop.runs.rules, files={"prepare.py": "0" * 64})
    with pytest.raises(GitError, match="differs from the base commit in `prepare.py`"):
        bench.research()
    assert bench.executor.requests == []
