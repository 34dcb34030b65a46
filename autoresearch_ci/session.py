"""THE LOOP, readable on one screen."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Final

from autoresearch_ci import integrity, results, source
from autoresearch_ci.early_stop import Curve
from autoresearch_ci.errors import BaselineError
from autoresearch_ci.experiment import (
    Category,
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
from autoresearch_ci.proposals import Gate, Proposals, Proposer, Repair
from autoresearch_ci.report.progress import progress_report
from autoresearch_ci.runs import SEED, SEEDS_PER_EXPERIMENT, Runs
from autoresearch_ci.stopping import Limits, reason_to_stop
from autoresearch_ci.verification import recheck

SHOWN_LOG: Final = 4096  # bytes of a crash's log, from its end, that are shown
NOTHING_LEFT: Final = "nothing is left to try"


def _tell_nobody(_: History) -> str:
    return ""


@dataclass(slots=True, kw_only=True)
class Loop:
    """The parts of a session, wired by cli. `relieve` halves a script's device batch, None when it has none.

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
    gate: Gate = field(default_factory=Gate)
    repair: Repair | None = None
    repair_attempts: int = 0
    began: dt.datetime
    reserved_runs: int = 0
    hidden: str = ""
    max_jump: float | None = None
    tell: Callable[[History], str] = _tell_nobody
    judge: Callable[..., Verdict | RunAgain] = judge  # another one only to be compared with it, by `nox -s bench-judge`
    _readings: Readings = field(init=False)
    _proposals: Proposals = field(init=False)
    _over: str = ""  # why a person, somewhere else, wants the session to end
    _table: str = ""  # results.tsv so far: written whole, the 2,000th experiment would cost more than the 10th

    def research(self, history: History, *, moved: str = "") -> History:
        """THE LOOP: baseline, then propose → commit → run → judge → record → push, until there is a reason to stop.

        `moved`: why the readings so far cannot be compared with new ones (another machine); the baseline and the incumbent are
        then measured again first. Returns the history with the reason in `ended`; without one when the interrupt came (the
        experiment in flight is then dropped, and everything decided before it is saved and pushed). Raises BaselineError,
        ProposerError, and what the parts raise when the session cannot go on.
        """
        self._readings = Readings.of(history)
        self._proposals = Proposals(
            proposer=self.proposer,
            gate=self.gate,
            relieve=self.relieve,
            workspace=self.runs.workspace,
            console=self.runs.console,
            interrupt=self.runs.interrupt,
            repair=self.repair,
        )
        self._table = results.write(history)
        for experiment in history.experiments:
            self.gate.remember(experiment)
        if not history.experiments and (baseline := self._baseline(history)):
            history = self._settle(history, baseline)
        elif moved:
            history = self._measure_again(history, moved)
        reason = ""
        while not self.runs.interrupt.requested() and not (reason := self._reason_to_stop(history)):
            proposal = self._proposals.following(history)
            if proposal is None:
                reason = "" if self.runs.interrupt.requested() else NOTHING_LEFT
                break
            experiment_or_none = self._experiment(history, proposal)
            if experiment_or_none is not None:
                history = self._settle(history, experiment_or_none)
        self.runs.journal.idle()
        return self.runs.journal.end(history, reason) if reason else history

    def _baseline(self, history: History) -> Experiment | None:
        """Experiment 0, the untouched script; None when interrupted. There is nothing to improve on a crash: BaselineError."""
        commit = history.session.base_commit
        script = self.runs.workspace.script(commit)
        try:
            source.fingerprint(script)
        except ValueError as error:
            raise BaselineError(f"{history.session.training_script} does not parse", hint=str(error)) from error
        proposal = Proposal(
            script=script, description="Baseline — no modifications", category=Category.OTHER, proposer="baseline"
        )
        started = self.runs.now()
        measurements: list[Measurement] = []
        with self.runs.console.group("Baseline"):
            for turn in range(self.baseline_runs):
                measurements += self._run(history, 0, commit, proposal, measurements, turn)
                if measurements[-1].run.ending is Ending.INTERRUPTED:
                    return None
                reason = self._crash_reason(history, measurements[-1])
                if reason:
                    raise BaselineError(
                        f"the baseline failed: {reason}",
                        hint="run the script by itself first; its log is "
                        f"{self.runs.journal.log_path(measurements[-1].log)}",
                    )
        return self._as_experiment(
            0, proposal, measurements, "", started, Verdict(status=Status.KEEP, reason="the baseline")
        )

    def _experiment(self, history: History, proposal: Proposal) -> Experiment | None:
        """The proposal, run as often as it takes to judge it; None when interrupted."""
        incumbent = history.incumbent
        assert incumbent is not None  # the baseline is one
        number, started = len(history.experiments), self.runs.now()
        with self.runs.console.group(f"Experiment {number}: {proposal.description}"):
            commit = self._commit(history, proposal, number)
            measurements = self._run(history, number, commit, proposal, [], 0, _curve(history, incumbent))
            if out_of_memory(measurements[-1]) and (smaller := self._proposals.relieved(proposal)):
                self.runs.console.info("out of memory: once more with half the device batch")
                proposal = smaller
                commit = self._commit(history, proposal, number)
                measurements += self._run(history, number, commit, proposal, measurements, 0)
            for _ in range(self.repair_attempts):
                mended = self._mended(history, incumbent, proposal, measurements[-1])
                again, proposal = mended.script != proposal.script, mended
                if not again:
                    break
                commit = self._commit(history, proposal, number)
                measurements += self._run(history, number, commit, proposal, measurements, 0)
            while True:
                if measurements[-1].run.ending is Ending.INTERRUPTED:
                    return None
                verdict = self._verdict(history, incumbent, proposal, measurements, commit)
                if isinstance(verdict, Verdict):
                    break
                self.runs.console.info(
                    f"again, the {'incumbent' if verdict.incumbent else 'candidate'}: {verdict.reason}"
                )
                whose = incumbent.commit if verdict.incumbent else commit
                turn = sum(m.commit == whose and not m.disturbed for m in measurements)
                measurements += self._run(history, number, whose, proposal, measurements, turn)
        return self._as_experiment(number, proposal, measurements, incumbent.commit, started, verdict)

    def _mended(
        self, history: History, incumbent: Experiment, proposal: Proposal, measurement: Measurement
    ) -> Proposal:
        """The proposal after a crash by a plain mistake: one that ended by itself, and not for want of memory."""
        reason = self._crash_reason(history, measurement)
        if not reason or measurement.run.ending is not Ending.EXITED or out_of_memory(measurement):
            return proposal
        self.runs.console.info(f"crashed ({reason}): its author may mend it")
        log = self.runs.journal.read_log(measurement.log, SHOWN_LOG)
        return self._proposals.mended(self.runs.workspace.script(incumbent.commit), proposal, reason, log)

    def _verdict(
        self, history: History, incumbent: Experiment, proposal: Proposal, measurements: list[Measurement], commit: str
    ) -> Verdict | RunAgain:
        """What the runs so far say. A candidate that crashes in any of its runs is a crash; so is an incumbent never."""
        crashed = next((r for m in measurements if m.commit == commit and (r := self._crash_reason(history, m))), "")
        if crashed:
            return Verdict(status=Status.CRASH, reason=crashed)
        if measurements[-1].run.ending is Ending.HOPELESS:
            return Verdict(status=Status.DISCARD, reason=measurements[-1].run.stopped_because)
        candidate = _values(measurements, commit)
        again = _values(measurements, incumbent.commit)
        before = self._readings.compared(incumbent.commit)
        verdict = self.judge(
            candidate,
            (*before, *again),
            noise=self._readings.noise_with(candidate, incumbent=(incumbent.commit, again)),
            typical_gain=self._readings.typical_gain,
            runs=len(measurements),
            lines=source.code_lines(proposal.script),
            incumbent_lines=incumbent.lines,
            direction=history.session.direction,
            rule=self.rule,
        )
        if isinstance(verdict, Verdict) and verdict.status is Status.KEEP and len(candidate) == 1:
            flagged = next((m.flags[0] for m in measurements if m.commit == commit and m.flags), "")
            if flagged:  # never kept by one reading alone
                return RunAgain(False, f"flagged: {flagged}")
        return verdict

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
        if made is None:
            return history
        self._readings.add_recheck(made)
        return self.runs.save(self.runs.journal.append_recheck(history, made), made, self._table)

    def _settle(self, history: History, experiment: Experiment) -> History:
        """Makes the experiment durable, in the order that a dying machine cannot break: journal, refs, push. Then tells it."""
        history = self.runs.journal.append(history, experiment)
        experiment = history.experiments[-1]  # as it was recorded: without secrets
        self.gate.remember(experiment)
        self._readings.add(experiment)
        self._table += results.row(experiment)
        self.runs.save(history, experiment, self._table)
        shown = "—" if experiment.metric is None else f"{experiment.metric:.6g}"
        line = f"{history.session.metric} {shown} · {experiment.status} · {experiment.verdict.reason}"
        if experiment.status is Status.CRASH:
            self.runs.console.untrusted(
                self.runs.journal.read_log(experiment.measurements[-1].log, SHOWN_LOG).splitlines()[-10:]
            )
        if experiment.status is Status.KEEP and experiment.number > 0:
            self.runs.console.notice(f"Kept: {experiment.description}", line)
        else:
            self.runs.console.info(line)
        if experiment.number > 0 and experiment.number % self.report_every == 0:
            self.runs.console.info(progress_report(history, now=self.runs.now()))
        self._over = self.tell(history)
        return history

    def _commit(self, history: History, proposal: Proposal, number: int) -> str:
        incumbent = history.incumbent
        assert incumbent is not None
        body = f"\n\n{proposal.rationale}" if proposal.rationale else ""
        trailers = f"\n\nAutoresearch-Session: {history.session.tag}\nAutoresearch-Experiment: {number}"
        message = f"exp: {proposal.description}{body}{trailers}\nAutoresearch-Proposer: {proposal.proposer}\n"
        return self.runs.workspace.commit(incumbent.commit, proposal.script, message)

    def _run(
        self,
        history: History,
        number: int,
        commit: str,
        proposal: Proposal,
        before: list[Measurement],
        turn: int,
        rival: Curve = (),
    ) -> list[Measurement]:
        """One run within an experiment, and those before it that were disturbed.

        The n-th runs of candidate and incumbent get the same seed, every other run its own.
        """
        once = self.baseline_runs == 1 and turn == 0
        seed = SEED if once else SEED + SEEDS_PER_EXPERIMENT * number + turn
        made = self.runs.measure(
            history.session,
            commit=commit,
            log=lambda again: self.runs.journal.log_name(number, len(before) + 1 + again),
            seed=seed,
            number=number,
            description=proposal.description,
            rival=rival,
        )
        made = [replace(m, reading=m.reading.without(self.hidden)) for m in made]
        return [replace(m, flags=integrity.flags(m, history, max_jump=self.max_jump)) for m in made]

    def _crash_reason(self, history: History, measurement: Measurement) -> str:
        return self.runs.rules.crash_reason(measurement, history.session.metric)

    def _as_experiment(
        self,
        number: int,
        proposal: Proposal,
        measurements: list[Measurement],
        parent: str,
        started: dt.datetime,
        verdict: Verdict,
    ) -> Experiment:
        own = [m for m in measurements if m.commit != parent]
        commit, crashed = own[-1].commit, verdict.status is Status.CRASH
        values = _values(own, commit)
        memory = [m.memory_gb for m in own if m.commit == commit and m.memory_gb is not None]
        return Experiment(
            number=number,
            commit=commit,
            parent=parent,
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
            started_at=started,
            finished_at=self.runs.now(),
        )

    def _reason_to_stop(self, history: History) -> str:
        if self._over:
            return self._over
        longest = max(
            (m.run.wall_s for e in history.experiments[-20:] for m in e.measurements), default=self.runs.rules.timeout_s
        )
        elapsed = (self.runs.now() - self.began).total_seconds()
        runs = 1 + (self.reserved_runs if history.kept else 0)
        return reason_to_stop(history, self.limits, elapsed_s=elapsed, next_s=runs * longest)


def _curve(history: History, incumbent: Experiment) -> Curve:
    """The incumbent's curve, as this machine last made it."""
    here = [m for r in history.rechecks if r.purpose is Purpose.MACHINE for m in r.measurements]
    return next((m.curve for m in reversed([*incumbent.measurements, *here]) if m.commit == incumbent.commit), ())


def _values(measurements: list[Measurement], commit: str) -> tuple[float, ...]:
    """The readings of `commit` that count."""
    return tuple(
        m.reading.metric for m in measurements if m.commit == commit and m.counts and m.reading.metric is not None
    )
