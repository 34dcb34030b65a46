"""A trial: one experiment in flight, from its commit to its verdict.

It asks for one run after another and is told what came of each, so that any number of trials share one loop: whoever drives
them decides when. What is kept meanwhile takes the place of the incumbent that a trial began with. A candidate that looks better
than the new one as well is put on it and run again, so that every keep was measured against the very commit it stands on.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from statistics import fmean
from typing import Any, TypeAlias

from autoresearch_ci import integrity, source
from autoresearch_ci.carrying import Merge, carried, moved_again
from autoresearch_ci.early_stop import Curve
from autoresearch_ci.experiment import (
    Ending,
    Experiment,
    History,
    Measurement,
    Proposal,
    Purpose,
    Status,
    Verdict,
    mean,
)
from autoresearch_ci.judge import Rule, RunAgain, judge, out_of_memory
from autoresearch_ci.noise import Readings
from autoresearch_ci.proposals import Proposals
from autoresearch_ci.runs import SEED, SEEDS_PER_EXPERIMENT, Runs
from autoresearch_ci.slots import Slot

SHOWN_LOG = 4096  # bytes of a crash's log, from its end, that are shown
Wanted: TypeAlias = Callable[[], list[Measurement]]  # makes a run, and those before it that were disturbed


@dataclass(frozen=True, slots=True)
class Mending:
    """Asks whoever made a proposal that crashed to mend it; the proposal as it is then."""

    ask: Callable[[], Proposal]

    def __call__(self) -> Proposal:
        return self.ask()


Asking: TypeAlias = Generator[Wanted | Mending, Any, None]
Steps: TypeAlias = Generator[Wanted | Mending, Any, Verdict | None]


@dataclass(slots=True, kw_only=True)
class Trials:
    """What all trials of a session share; the fields that `session.Loop` has as well are its.

    `history`: always as it stands now. `several`: whether more than one trial may be in flight: their logs then have no final
    name yet, and their lines on the console say whose they are.
    """

    runs: Runs
    proposals: Proposals
    readings: Readings
    history: History
    rule: Rule
    merge: Merge
    baseline_runs: int
    repair_attempts: int
    hidden: str
    max_jump: float | None
    several: bool
    judge: Callable[..., Verdict | RunAgain] = judge

    @property
    def incumbent(self) -> Experiment:
        """What is best now."""
        incumbent = self.history.incumbent
        assert incumbent is not None  # the baseline is one
        return incumbent

    def crash_reason(self, measurement: Measurement) -> str:
        """Why a run is a crash, in one line; empty when it is not."""
        return self.runs.rules.crash_reason(measurement, self.history.session.metric)

    def wanted(
        self,
        commit: str,
        *,
        number: int,
        seeds: int,
        turn: int,
        description: str,
        log: Callable[[int], str],
        slot: Slot,
        rival: Curve = (),
    ) -> Wanted:
        """A run within experiment `number`, to be made. The n-th runs of candidate and incumbent (`turn` n - 1) get the same seed,
        every other run its own: `seeds` is no other experiment's."""
        once = self.baseline_runs == 1 and turn == 0
        return partial(
            self.runs.measure,
            self.history.session,
            commit=commit,
            log=log,
            seed=SEED if once else SEED + SEEDS_PER_EXPERIMENT * seeds + turn,
            number=number,
            description=description,
            rival=rival,
            slot=slot,
        )

    def seen(self, made: list[Measurement]) -> list[Measurement]:
        """The measurements as they are judged and recorded: without the hidden number, and with what is odd about them."""
        made = [replace(m, reading=m.reading.without(self.hidden)) for m in made]
        return [replace(m, flags=integrity.flags(m, self.history, max_jump=self.max_jump)) for m in made]


class Trial:
    """One experiment in flight.

    `number`: what it will be if no other one is decided before it; `seeds`: what its seeds are counted from. `incumbent`: what its
    `proposal` is a change of, and `commit` the two together. `based_on`: what the proposal was made for, where that is another
    commit. `measurements`: all runs so far.
    """

    def __init__(
        self,
        shared: Trials,
        proposal: Proposal,
        *,
        number: int,
        seeds: int,
        slot: Slot,
        incumbent: Experiment,
        based_on: str = "",
    ) -> None:
        self.shared = shared
        self.proposal = proposal
        self.number = number
        self.seeds = seeds
        self.slot = slot
        self.incumbent = incumbent
        self.based_on = based_on if based_on != incumbent.commit else ""
        self.commit = ""
        self.measurements: list[Measurement] = []
        self._where = ""  # what the row says of the incumbent, where that has moved
        self._earlier = 0  # runs against an incumbent that is none any more
        self.started_at = shared.runs.now()

    def steps(self) -> Steps:
        """Yields the runs that it wants, is sent what each gave, and returns the verdict; None when it was interrupted."""
        with self._heading():
            yield from self._first_runs()
            while self.measurements[-1].run.ending is not Ending.INTERRUPTED:
                verdict = self._verdict()
                if self.incumbent.commit != self.shared.incumbent.commit and not _is_final(verdict):
                    known = verdict.reason if isinstance(verdict, Verdict) else "not clear yet"
                    outdone = self._put_on_the_new_one(known)
                    if outdone:
                        self._where = f"against {self.incumbent.label}"
                        return Verdict(status=Status.DISCARD, reason=outdone)
                    yield from self._first_runs()
                elif isinstance(verdict, Verdict):
                    if self.incumbent.commit != self.shared.incumbent.commit:
                        self._where = f"against {self.incumbent.label}"
                    return verdict
                else:
                    whose = self.incumbent.commit if verdict.incumbent else self.commit
                    self._say(f"again, the {'incumbent' if verdict.incumbent else 'candidate'}: {verdict.reason}")
                    turn = sum(m.commit == whose and not m.disturbed for m in self.measurements)
                    yield from self._run(whose, turn)
        return None

    def experiment(self, verdict: Verdict, number: int) -> Experiment:
        """What is to be recorded, as experiment `number`: its commit says so, and its logs are where they belong."""
        if number != self.number:
            old, self.number = self.commit, number
            self._write_commit()
            self.measurements = [replace(m, commit=self.commit) if m.commit == old else m for m in self.measurements]
        if self.shared.several:
            self.measurements = self.shared.runs.journal.settle_logs(self.measurements, number)
        where = f" ({self._where})" if self._where else ""
        return as_experiment(
            self.number,
            replace(self.proposal, description=f"{self.proposal.description}{where}"),
            self.measurements,
            commit=self.commit,
            parent=self.incumbent.commit,
            based_on=self.based_on,
            verdict=verdict,
            started_at=self.started_at,
            finished_at=self.shared.runs.now(),
        )

    # --- runs ---------------------------------------------------------------------------------------------------------

    def _first_runs(self) -> Asking:
        """The candidate's first run, and what a crash of it leads to: half the batch, or a mended script."""
        proposals, attempts = self.shared.proposals, self.shared.repair_attempts
        self._write_commit()
        yield from self._run(self.commit, 0, _curve(self.shared.history, self.incumbent))
        if out_of_memory(self.measurements[-1]) and (smaller := proposals.relieved(self.proposal)):
            self._say("out of memory: once more with half the device batch")
            yield from self._run_instead(smaller)
        for _ in range(attempts):
            mended = yield from self._mended()
            again = mended.script != self.proposal.script
            self.proposal = mended
            if not again:
                break
            yield from self._run_instead(mended)

    def _run_instead(self, proposal: Proposal) -> Asking:
        self.proposal = proposal
        self.shared.proposals.gate.reserve(proposal.script)
        self._write_commit()
        yield from self._run(self.commit, 0)

    def _run(self, commit: str, turn: int, rival: Curve = ()) -> Asking:
        """One run, and those before it that were disturbed."""
        before = len(self.measurements)
        made = yield self.shared.wanted(
            commit,
            number=self.number,
            seeds=self.seeds,
            turn=turn,
            description=self.proposal.description,
            log=lambda again: self._log_name(before + 1 + again),
            slot=self.slot,
            rival=rival,
        )
        self.measurements += self.shared.seen(made)

    def _log_name(self, attempt: int) -> str:
        journal = self.shared.runs.journal
        if self.shared.several:
            return journal.log_name_in_flight(self.slot.number, attempt)
        return journal.log_name(self.number, attempt)

    def _write_commit(self) -> None:
        """The proposal on the incumbent; no ref moves."""
        proposal, session = self.proposal, self.shared.history.session
        body = f"\n\n{proposal.rationale}" if proposal.rationale else ""
        trailers = f"\n\nAutoresearch-Session: {session.tag}\nAutoresearch-Experiment: {self.number}"
        message = f"exp: {proposal.description}{body}{trailers}\nAutoresearch-Proposer: {proposal.proposer}\n"
        self.commit = self.shared.runs.workspace.commit(self.incumbent.commit, proposal.script, message)

    def _mended(self) -> Generator[Mending, Any, Proposal]:
        """The proposal after a crash by a plain mistake: one that ended by itself, and not for want of memory."""
        shared, measurement = self.shared, self.measurements[-1]
        reason = shared.crash_reason(measurement)
        if not reason or measurement.run.ending is not Ending.EXITED or out_of_memory(measurement):
            return self.proposal
        self._say(f"crashed ({reason}): its author may mend it")
        log = shared.runs.journal.read_log(measurement.log, SHOWN_LOG)
        script = shared.runs.workspace.script(self.incumbent.commit)
        mended: Proposal = yield Mending(partial(shared.proposals.mended, script, self.proposal, reason, log))
        return mended

    # --- judging ------------------------------------------------------------------------------------------------------

    def _verdict(self) -> Verdict | RunAgain:
        """What the runs so far say. A candidate that crashes in any of its runs is a crash; so is an incumbent never."""
        shared, measurements = self.shared, self.measurements
        crashes = (shared.crash_reason(m) for m in measurements if m.commit == self.commit)
        if crashed := next((reason for reason in crashes if reason), ""):
            return Verdict(status=Status.CRASH, reason=crashed)
        if measurements[-1].run.ending is Ending.HOPELESS:
            return Verdict(status=Status.DISCARD, reason=measurements[-1].run.stopped_because)
        candidate, again = _values(measurements, self.commit), _values(measurements, self.incumbent.commit)
        verdict = shared.judge(
            candidate,
            (*shared.readings.compared(self.incumbent.commit), *again),
            noise=shared.readings.noise_with(candidate, incumbent=(self.incumbent.commit, again)),
            typical_gain=shared.readings.typical_gain,
            runs=len(measurements) - self._earlier,
            lines=source.code_lines(self.proposal.script),
            incumbent_lines=self.incumbent.lines,
            direction=shared.history.session.direction,
            rule=shared.rule,
        )
        if isinstance(verdict, Verdict) and verdict.status is Status.KEEP and len(candidate) == 1:
            flagged = next((m.flags[0] for m in measurements if m.commit == self.commit and m.flags), "")
            if flagged:  # never kept by one reading alone
                return RunAgain(False, f"flagged: {flagged}")
        return verdict

    def _put_on_the_new_one(self, reason: str) -> str:
        """Puts what looks better than the new incumbent, too, on that one, to be run again; else why it is a discard, against the
        incumbent that it was measured with. `reason`: what is known against that one."""
        shared, old, new = self.shared, self.incumbent, self.shared.incumbent
        since = f"{reason} against {old.label}, but {new.label} was kept meanwhile"
        now, script, parameters = (
            shared.runs.workspace.script(new.commit),
            self.proposal.script,
            self.proposal.parameters,
        )
        if not self._is_better_than(new):
            return f"{since}, which is not worse"
        merged, why = carried(shared.runs.workspace.script(old.commit), now, script, shared.merge)
        how = f"put on {new.label}"
        if why:  # then it takes the place of what it cannot be put together with
            how, since = f"in place of {new.label}", f"{since}, and {why}"
            parameters = moved_again(parameters, now, script)
        elif source.fingerprint(merged) == source.fingerprint(now):
            return f"{since}, which has this change"
        elif source.fingerprint(merged) != source.fingerprint(script) and shared.proposals.gate.tried(merged):
            return f"{since}, and both together were tried before"
        else:
            script = merged
        if broken := shared.proposals.gate.broken_rule(script, now):
            return f"{since}, and on that one {broken}"
        note = f"{since}: {how}, and run again"
        self._say(note)
        shared.proposals.gate.reserve(script)
        notes = (*self.proposal.notes, note)
        self.proposal = replace(self.proposal, script=script, parameters=parameters, notes=notes)
        self._where = how
        self.based_on = self.based_on or old.commit
        self.incumbent, self._earlier = new, len(self.measurements)
        return ""

    def _is_better_than(self, new: Experiment) -> bool:
        """Whether the readings of the candidate are on average better than those of an incumbent that it was not compared with."""
        known = self.shared.readings.compared(new.commit)
        best = fmean(known) if known else new.metric
        own = fmean(_values(self.measurements, self.commit))
        return best is None or self.shared.history.session.direction.better(own, best)

    # --- telling ------------------------------------------------------------------------------------------------------

    @contextmanager
    def _heading(self) -> Iterator[None]:
        title = f"Experiment {self.number}: {self.proposal.description}"
        if not self.shared.several:
            with self.shared.runs.console.group(title):
                yield
            return
        self.shared.runs.console.info(f"slot {self.slot.number}: {self.proposal.description}")
        yield

    def _say(self, text: str) -> None:
        self.shared.runs.console.info(f"slot {self.slot.number}: {text}" if self.shared.several else text)


def as_experiment(
    number: int,
    proposal: Proposal,
    measurements: list[Measurement],
    *,
    commit: str,
    parent: str,
    verdict: Verdict,
    started_at: dt.datetime,
    finished_at: dt.datetime,
    based_on: str = "",
) -> Experiment:
    """What is to be recorded of a proposal that was judged by the readings of `commit`."""
    own = [m for m in measurements if m.commit == commit]
    values, crashed = _values(own, commit), verdict.status is Status.CRASH
    memory = [m.memory_gb for m in own if m.memory_gb is not None]
    return Experiment(
        number=number,
        commit=commit,
        parent=parent,
        based_on=based_on,
        description=proposal.description,
        category=proposal.category,
        verdict=verdict,
        metric=None if crashed else mean(values) if values else own[-1].reading.metric,
        memory_gb=None if crashed else max(memory, default=None),
        rationale=proposal.rationale,
        proposer=proposal.proposer,
        parameters=proposal.parameters,
        usage=proposal.usage,
        notes=proposal.notes,
        lines=source.code_lines(proposal.script),
        fingerprint=measurements[0].fingerprint,
        measurements=tuple(measurements),
        started_at=started_at,
        finished_at=finished_at,
    )


def first_seeds(history: History) -> int:
    """What the seeds of the next experiment are counted from, so that no run of a commit repeats one; the number of experiments,
    where they were made one after another."""
    used = ((m.seed - SEED) // SEEDS_PER_EXPERIMENT for e in history.experiments for m in e.measurements)
    return max(len(history.experiments), 1 + max(used, default=-1))


def _is_final(verdict: Verdict | RunAgain) -> bool:
    """Whether the verdict stands, whatever was kept meanwhile."""
    return isinstance(verdict, Verdict) and verdict.status is not Status.KEEP


def _curve(history: History, incumbent: Experiment) -> Curve:
    """The incumbent's curve, as this machine last made it."""
    here = [m for r in history.rechecks if r.purpose is Purpose.MACHINE for m in r.measurements]
    return next((m.curve for m in reversed([*incumbent.measurements, *here]) if m.commit == incumbent.commit), ())


def _values(measurements: list[Measurement], commit: str) -> tuple[float, ...]:
    """The readings of `commit` that count."""
    return tuple(
        m.reading.metric for m in measurements if m.commit == commit and m.counts and m.reading.metric is not None
    )
