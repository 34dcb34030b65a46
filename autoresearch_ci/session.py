"""THE LOOP, readable on one screen."""

from __future__ import annotations

import datetime as dt
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Final

from autoresearch_ci import beginning, results
from autoresearch_ci.carrying import Merge
from autoresearch_ci.crew import Crew, Making
from autoresearch_ci.experiment import (
    Experiment,
    History,
    Proposal,
    Purpose,
    Recheck,
    Status,
    Verdict,
)
from autoresearch_ci.judge import Rule, RunAgain, judge
from autoresearch_ci.noise import Readings
from autoresearch_ci.proposals import Floor, Gate, Patience, Proposals, Proposer, Repair
from autoresearch_ci.report.progress import progress_report
from autoresearch_ci.runs import Runs
from autoresearch_ci.slots import ONLY, Slot
from autoresearch_ci.stopping import Limits, reason_to_stop
from autoresearch_ci.trials import SHOWN_LOG, Trial, Trials, first_seeds
from autoresearch_ci.verification import recheck
from autoresearch_ci.waiting import Waiting

NOTHING_LEFT: Final = "nothing is left to try"


def _tell_nobody(_: History) -> str:
    return ""


@dataclass(slots=True, kw_only=True)
class Loop:
    """The parts of a session, wired by cli. `relieve` halves a script's device batch, None when it has none.

    `slots`: where runs are made at the same time, one in each. `prefetch`: how many proposals are made in advance for each of them;
    none where making one takes no time, since one that is made later knows more; `authors`: how many are made at the same time.
    `merge`: a three-way merge of scripts. `patience`: the proposer's own interrupt.

    `baseline_runs`: how often the baseline is run; once means that nothing is ever run twice. `reserved_runs`: what the end of a
    session that kept something has to measure, and what time is kept free for. `hidden`: a number of the log that no proposer
    may see. `repair_attempts`: how often `repair` may mend one proposal that crashed. `max_jump`: a gain above it is flagged;
    None: what is usual in the session says which. `tell` shows people how the session stands, after every experiment, and returns
    why it should end, empty to go on.
    """

    runs: Runs
    proposer: Proposer
    rule: Rule
    limits: Limits
    baseline_runs: int
    report_every: int
    relieve: Callable[[str], str | None]
    merge: Merge
    patience: Patience
    slots: Sequence[Slot] = (ONLY,)
    prefetch: int = 0
    authors: int = 1
    gate: Gate = field(default_factory=Gate)
    floor: Floor = field(default_factory=Floor)
    repair: Repair | None = None
    repair_attempts: int = 0
    began: dt.datetime
    reserved_runs: int = 0
    hidden: str = ""
    max_jump: float | None = None
    tell: Callable[[History], str] = _tell_nobody
    judge: Callable[..., Verdict | RunAgain] = judge  # another one only to be compared with it, by `nox -s bench-judge`
    _trials: Trials = field(init=False)
    _waiting: Waiting = field(init=False)
    _over: str = ""  # why a person, somewhere else, wants the session to end
    _table: str = ""  # results.tsv so far: written whole, the 2,000th experiment would cost more than the 10th
    _nothing_at: int = -1  # how many experiments there were when the proposer was asked and had nothing
    _seeds: Iterator[int] = field(init=False)

    def research(self, history: History, *, moved: str = "") -> History:
        """THE LOOP: baseline, then propose → commit → run → judge → record → push, until there is a reason to stop.

        In every slot one experiment is in flight; what is decided first is recorded first. `moved`: why the readings so far
        cannot be compared with new ones (another machine); the baseline and the incumbent are then measured again first.

        Returns the history with the reason in `ended`; without one when the interrupt came (the experiments in flight are then
        dropped, and everything decided before it is saved and pushed). Raises BaselineError, ProposerError, and what the parts
        raise when the session cannot go on.
        """
        try:
            history = self._begin(history, moved)
            with Crew(self.slots, self._halt, self.authors) as crew:
                history = self._neighbours(history, crew)
                while True:
                    self._begin_trials(history, crew)
                    self._make_more(history, crew)
                    self.runs.journal.waiting([proposal.description for proposal in self._waiting.proposals])
                    if crew.is_idle:
                        break
                    if not crew.trials and self._is_over(history, crew):
                        self.patience.enough.set()
                    for trial, verdict in crew.decided():
                        if verdict is not None:
                            history = self._record(history, trial.experiment(verdict, len(history.experiments)))
                            self._begin_trials(history, crew)  # no slot waits for refs, or for people to be told
                            self._settle(history)
                    for making, proposal in crew.made():
                        self._take(making, proposal)
        finally:
            self.runs.journal.idle()
        if self._waiting:
            self.runs.console.info(f"{len(self._waiting)} proposals that were made in advance are not tried any more")
        if crew.error is not None:
            raise crew.error
        if self.runs.interrupt.requested():
            return history
        return self.runs.journal.end(history, self._reason_to_stop(history) or NOTHING_LEFT)

    def _halt(self) -> None:
        """Nothing that is under way is of use any more."""
        self.runs.halt()
        self.patience.enough.set()

    def _begin_trials(self, history: History, crew: Crew) -> None:
        """A trial for every free slot, as far as proposals wait and there is no reason to stop."""
        while crew.free and self._waiting and not self._is_over(history, crew, in_flight=len(crew.trials)):
            ready, incumbent = self._waiting.next(), self._trials.incumbent
            taken = {trial.number for trial in crew.trials}
            number = next(n for n in itertools.count(len(history.experiments)) if n not in taken)
            trial = Trial(
                self._trials,
                ready.proposal,
                number=number,
                seeds=next(self._seeds),
                slot=crew.free[0],
                incumbent=incumbent,
                based_on=ready.based_on,
            )
            crew.begin(trial)

    def _make_more(self, history: History, crew: Crew) -> None:
        """Has proposals made, as many as will be wanted: by free slots, or in advance."""
        wanted = len(crew.free) + self.prefetch * len(self.slots) - len(self._waiting)
        ahead = (*(trial.proposal for trial in crew.trials), *self._waiting.proposals)
        while crew.being_made < min(wanted, self.authors) and self._nothing_at != len(history.experiments):
            runs_before = 0 if crew.being_made + len(self._waiting) < len(crew.free) else 1
            if self._is_over(history, crew, in_flight=len(ahead) + crew.being_made, runs_before=runs_before):
                return
            seen = replace(history, pending=ahead, dropped=self._waiting.dropped, being_made=crew.being_made)
            self._waiting.dropped = ()
            ask = partial(self._trials.proposals.following, seen)
            crew.make(Making(ask, self._trials.incumbent.commit, len(history.experiments)))

    def _take(self, making: Making, proposal: Proposal | None) -> None:
        """Lets a proposal that is made wait for a slot; with none, nobody is asked again before something else is known."""
        if proposal is None:
            self._nothing_at = making.experiments
        else:
            self._waiting.add(proposal, making.commit, self._trials.incumbent)

    # --- the beginning ------------------------------------------------------------------------------------------------

    def _begin(self, history: History, moved: str) -> History:
        """The parts as they are for this history, and what has to be measured before anything is tried."""
        self.runs.journal.slots([slot.device for slot in self.slots])
        self._nothing_at = -1
        self._seeds = itertools.count(first_seeds(history))
        self.patience.enough.clear()
        proposals = Proposals(
            proposer=self.proposer,
            gate=self.gate,
            relieve=self.relieve,
            workspace=self.runs.workspace,
            console=self.runs.console,
            interrupt=self.patience,
            floor=self.floor,
            repair=self.repair,
        )
        self._waiting = Waiting(
            gate=self.gate, workspace=self.runs.workspace, merge=self.merge, console=self.runs.console
        )
        self._trials = Trials(
            runs=self.runs,
            proposals=proposals,
            readings=Readings.of(history),
            history=history,
            rule=self.rule,
            merge=self.merge,
            baseline_runs=self.baseline_runs,
            repair_attempts=self.repair_attempts,
            hidden=self.hidden,
            max_jump=self.max_jump,
            several=len(self.slots) > 1,
            judge=self.judge,
        )
        self._table = results.write(history)
        for experiment in history.experiments:
            self.gate.remember(experiment)
        if not history.experiments and (baseline := beginning.baseline(self._trials, self.slots[0])):
            history = self._record(history, baseline)
            self._settle(history)
            return history
        return self._measure_again(history, moved) if moved else history

    def _measure_again(self, history: History, why: str) -> History:
        """Baseline and incumbent on this machine: readings of two machines are never compared."""
        incumbent = history.incumbent
        assert incumbent is not None
        self.runs.console.warning(f"measuring the baseline and the incumbent again: {why}")
        made = recheck(
            self.runs,
            history,
            purpose=Purpose.MACHINE,
            reference=history.session.base_commit,
            subject=incumbent.commit,
            wanted=self.baseline_runs,
            note=why,
        )
        return history if made is None else self._add(history, made)

    def _neighbours(self, history: History, crew: Crew) -> History:
        """What neighbours cost, measured once on a machine and a base for every number of slots."""
        baseline = history.baseline
        if len(self.slots) == 1 or baseline is None or self.runs.interrupt.requested():
            return history
        if self._reason_to_stop(history, in_flight=1):  # there will be no neighbours
            return history
        here = itertools.takewhile(lambda recheck: recheck.purpose is not Purpose.MACHINE, reversed(history.rechecks))
        ours = (r for r in here if r.purpose is Purpose.NEIGHBOURS and r.subject == baseline.commit)
        if any(r.wanted == len(self.slots) for r in ours):
            return history
        made = beginning.beside_itself(self._trials, crew, self.slots)
        return history if made is None else self._add(history, made)

    # --- the record ---------------------------------------------------------------------------------------------------

    def _add(self, history: History, made: Recheck) -> History:
        self._trials.readings.add_recheck(made)
        history = self._trials.history = self.runs.journal.append_recheck(history, made)
        return self.runs.save(history, made, self._table)

    def _record(self, history: History, experiment: Experiment) -> History:
        """Makes the experiment durable on this machine, and what waits a change of what is best now."""
        history = self._trials.history = self.runs.journal.append(history, experiment)
        experiment = history.experiments[-1]  # as it was recorded: without secrets
        self.gate.remember(experiment)
        self._trials.readings.add(experiment)
        self._table += results.row(experiment)
        shown = "—" if experiment.metric is None else f"{experiment.metric:.6g}"
        line = f"{history.session.metric} {shown} · {experiment.status} · {experiment.verdict.reason}"
        if experiment.status is Status.CRASH:
            self.runs.console.untrusted(
                self.runs.journal.read_log(experiment.measurements[-1].log, SHOWN_LOG).splitlines()[-10:]
            )
        if experiment.status is Status.KEEP and experiment.number > 0:
            self.runs.console.notice(f"Kept: {experiment.description}", line)
            self._waiting.carry_over(experiment)
        elif len(self.slots) > 1:
            self.runs.console.info(f"experiment {experiment.number}, {experiment.description}: {line}")
        else:
            self.runs.console.info(line)
        if experiment.number > 0 and experiment.number % self.report_every == 0:
            self.runs.console.info(progress_report(history, now=self.runs.now()))
        return history

    def _settle(self, history: History) -> None:
        """Makes the last experiment durable elsewhere, and tells people. The journal has it already: no dying machine can break
        that order."""
        self.runs.save(history, history.experiments[-1], self._table)
        self._over = self.tell(history)

    def _is_over(self, history: History, crew: Crew, *, in_flight: int = 0, runs_before: int = 0) -> bool:
        """Whether nothing more is begun, though what is in flight is brought to its end."""
        stopped = crew.error is not None or self.runs.interrupt.requested()
        return stopped or bool(self._reason_to_stop(history, in_flight=in_flight, runs_before=runs_before))

    def _reason_to_stop(self, history: History, *, in_flight: int = 0, runs_before: int = 0) -> str:
        """Why no experiment is begun beside those `in_flight`, or would be after `runs_before` more; empty to go on."""
        if self._over:
            return self._over
        longest = max(
            (m.run.wall_s for e in history.experiments[-20:] for m in e.measurements), default=self.runs.rules.timeout_s
        )
        elapsed = (self.runs.now() - self.began).total_seconds()
        runs = runs_before + 1 + (self.reserved_runs if history.kept else 0)
        return reason_to_stop(history, self.limits, elapsed_s=elapsed, next_s=runs * longest, in_flight=in_flight)
