"""THE LOOP, readable on one screen, and the Protocols of what it needs from outside."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Protocol

from autoresearch_ci import metrics, results, source
from autoresearch_ci.console import Console
from autoresearch_ci.errors import BaselineError, ProposerError
from autoresearch_ci.experiment import (
    Category,
    Ending,
    Experiment,
    History,
    Measurement,
    Proposal,
    Run,
    Status,
    Verdict,
)
from autoresearch_ci.journal import Journal
from autoresearch_ci.judge import crash_reason, judge, out_of_memory
from autoresearch_ci.report.progress import progress_report
from autoresearch_ci.stopping import Limits, reason_to_stop

SEED: Final = 42  # the same for every run: candidate and incumbent then differ by the change alone
MAX_REFUSALS: Final = 20  # proposals refused in a row before the proposer counts as failed
SHOWN_LOG: Final = 4096  # bytes of a crash's log, from its end, that are shown
NOTHING_LEFT: Final = "nothing is left to try"


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRequest:
    """One run to be made: everything an executor needs to know.

    `tree`: a fresh export of the commit, owned by this run. `directory`: where in it the command starts. `command`: a shell-free
    command line. `variables`: what the script sees besides what only the executor knows (PATH, HOME, AUTORESEARCH_OUTPUT_DIR,
    AUTORESEARCH_CACHE). `timeout_s`: when the whole tree gets SIGTERM, and SIGKILL 10 s later. `log`: where stdout and stderr,
    merged, are streamed to. `name`: unique, `[a-z0-9-]`, for the container and the scratch.
    """

    name: str
    tree: Path
    script: str
    command: str
    variables: Mapping[str, str]
    timeout_s: float
    log: Path
    directory: str = "."


class Interrupt(Protocol):
    """Whether a person (or the runner) asked to stop. Executors look at it at least every 0.1 s while a run is on."""

    def requested(self) -> bool: ...


class Executor(Protocol):
    """Where runs happen."""

    def run(self, request: RunRequest, interrupt: Interrupt) -> Run:
        """Makes the run and waits for its end. A crash is a value; MachineError only when no run can be made at all."""


class Proposer(Protocol):
    """What makes proposals."""

    def propose(self, history: History, script: str) -> Proposal | None:
        """The next proposal, a change of `script` (the incumbent's text); None when nothing is left to try."""


class Workspace(Protocol):
    """git, on the program's own bare clone."""

    def script(self, commit: str) -> str:
        """The training script's text in `commit`."""

    def commit(self, parent: str, script: str, message: str) -> str:
        """Writes blob, tree and commit (no ref moves); the full hash of the commit."""

    def export(self, commit: str) -> AbstractContextManager[Path]:
        """A fresh folder with the commit's tree, removed at the end."""

    def record(self, history: History, files: Mapping[str, bytes]) -> None:
        """Moves the refs to what `history` says and writes `files` as the journal's newest commit. Idempotent."""

    def push_meanwhile(self) -> None:
        """Starts one atomic push of everything not pushed yet, beside what comes next; a dead network is no error."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """What is the same for every run and every verdict of a session."""

    command: str
    directory: str
    variables: Mapping[str, str]
    timeout_s: float
    last_reading_counts: bool
    metric_pattern: str | None
    limits: Limits
    report_every: int


@dataclass(slots=True, kw_only=True)
class Loop:
    """The parts of a session, wired by cli. `relieve` halves a script's device batch, None when it has none."""

    rules: Rules
    workspace: Workspace
    executor: Executor
    proposer: Proposer
    journal: Journal
    console: Console
    interrupt: Interrupt
    relieve: Callable[[str], str | None]
    now: Callable[[], dt.datetime]
    began: dt.datetime
    _tried: set[str] = field(default_factory=set)
    _table: str = ""  # results.tsv so far: written whole, the 2,000th experiment would cost more than the 10th

    def research(self, history: History) -> History:
        """THE LOOP: baseline, then propose → commit → run → judge → record → push, until there is a reason to stop.

        Returns the history with the reason in `ended`; without one when the interrupt came (the experiment in flight is then
        dropped, and everything decided before it is saved and pushed). Raises BaselineError, ProposerError, and what the parts
        raise when the session cannot go on.
        """
        self._table = results.write(history)
        for experiment in history.experiments:
            self._remember(experiment)
        if not history.experiments and (baseline := self._baseline(history)):
            history = self._settle(history, baseline)
        reason = ""
        while not self.interrupt.requested() and not (reason := self._reason_to_stop(history)):
            proposal = self._next_proposal(history)
            if proposal is None:
                reason = NOTHING_LEFT
                break
            experiment_or_none = self._experiment(history, proposal)
            if experiment_or_none is not None:
                history = self._settle(history, experiment_or_none)
        self.journal.idle()
        return self.journal.end(history, reason) if reason else history

    def _baseline(self, history: History) -> Experiment | None:
        """Experiment 0, the untouched script; None when interrupted. There is nothing to improve on a crash: BaselineError."""
        commit = history.session.base_commit
        script = self.workspace.script(commit)
        try:
            source.fingerprint(script)
        except ValueError as error:
            raise BaselineError(f"{history.session.training_script} does not parse", hint=str(error)) from error
        proposal = Proposal(
            script=script, description="Baseline — no modifications", category=Category.OTHER, proposer="baseline"
        )
        started = self.now()
        with self.console.group("Baseline"):
            measurement = self._measure(history, number=0, attempt=1, commit=commit, proposal=proposal)
        if measurement.run.ending is Ending.INTERRUPTED:
            return None
        metric = measurement.reading.metric
        reason = crash_reason(measurement, history.session.metric, last_reading_counts=self.rules.last_reading_counts)
        if reason or metric is None:
            raise BaselineError(
                f"the baseline failed: {reason}",
                hint=f"run the script by itself first; its log is {self.journal.log_path(measurement.log)}",
            )
        return self._as_experiment(
            0, proposal, [measurement], "", started, Verdict(status=Status.KEEP, reason="the baseline")
        )

    def _experiment(self, history: History, proposal: Proposal) -> Experiment | None:
        """The proposal, run and judged; None when interrupted."""
        incumbent = history.incumbent
        assert incumbent is not None  # the baseline is one
        assert incumbent.metric is not None
        number, started = len(history.experiments), self.now()
        with self.console.group(f"Experiment {number}: {proposal.description}"):
            commit = self._commit(history, proposal, number)
            measurements = [self._measure(history, number=number, attempt=1, commit=commit, proposal=proposal)]
            if out_of_memory(measurements[0]) and (smaller := self._relieved(proposal)):
                self.console.info("out of memory: once more with half the device batch")
                proposal = smaller
                commit = self._commit(history, proposal, number)
                measurements.append(self._measure(history, number=number, attempt=2, commit=commit, proposal=proposal))
        last = measurements[-1]
        if last.run.ending is Ending.INTERRUPTED:
            return None
        reason = crash_reason(last, history.session.metric, last_reading_counts=self.rules.last_reading_counts)
        if reason or last.reading.metric is None:
            verdict = Verdict(status=Status.CRASH, reason=reason)
        else:
            verdict = judge(
                metric=last.reading.metric,
                incumbent=incumbent.metric,
                lines=source.code_lines(proposal.script),
                incumbent_lines=incumbent.lines,
                direction=history.session.direction,
            )
        return self._as_experiment(number, proposal, measurements, incumbent.commit, started, verdict)

    def _settle(self, history: History, experiment: Experiment) -> History:
        """Makes the experiment durable, in the order that a dying machine cannot break: journal, refs, push. Then tells it."""
        history = self.journal.append(history, experiment)
        self._remember(experiment)
        self._table += results.row(experiment)
        files = self.journal.files(experiment) | {"results.tsv": self._table.encode()}
        self.workspace.record(history, files)
        self.workspace.push_meanwhile()
        shown = "—" if experiment.metric is None else f"{experiment.metric:.6g}"
        line = f"{history.session.metric} {shown} · {experiment.status} · {experiment.verdict.reason}"
        if experiment.status is Status.CRASH:
            self.console.untrusted(self.journal.read_log(experiment.measurements[-1].log, SHOWN_LOG).splitlines()[-10:])
        if experiment.status is Status.KEEP and experiment.number > 0:
            self.console.notice(f"Kept: {experiment.description}", line)
        else:
            self.console.info(line)
        if experiment.number > 0 and experiment.number % self.rules.report_every == 0:
            report = progress_report(history, now=self.now())
            self.console.info(report)
            self.console.step_summary(report)
        return history

    def _next_proposal(self, history: History) -> Proposal | None:
        """A proposal that parses and was never tried; None when the proposer has nothing left, or on an interrupt."""
        incumbent = history.incumbent
        assert incumbent is not None
        script = self.workspace.script(incumbent.commit)
        refusal = ""
        for _ in range(MAX_REFUSALS):
            proposal = self.proposer.propose(history, script)
            if proposal is None:
                return None
            refusal = self._refusal(proposal, script)
            if not refusal:
                return proposal
            self.console.info(f"refused `{proposal.description}`: {refusal}")
        raise ProposerError(
            f"{MAX_REFUSALS} proposals in a row were refused, the last because {refusal}",
            hint="widen `scope`, or try another `proposer`",
        )

    def _refusal(self, proposal: Proposal, script: str) -> str:
        try:
            fingerprint = source.fingerprint(proposal.script)
        except ValueError as error:
            return f"it does not parse ({error})"
        if fingerprint == source.fingerprint(script):
            return "it changes nothing"
        return "it was tried before" if fingerprint in self._tried else ""

    def _relieved(self, proposal: Proposal) -> Proposal | None:
        script = self.relieve(proposal.script)
        if script is None or source.fingerprint(script) in self._tried:
            return None
        return Proposal(
            script=script,
            description=f"{proposal.description} (half the device batch)",
            category=proposal.category,
            rationale=proposal.rationale,
            proposer=proposal.proposer,
            parameters=proposal.parameters,
        )

    def _commit(self, history: History, proposal: Proposal, number: int) -> str:
        incumbent = history.incumbent
        assert incumbent is not None
        body = f"\n\n{proposal.rationale}" if proposal.rationale else ""
        trailers = f"\n\nAutoresearch-Session: {history.session.tag}\nAutoresearch-Experiment: {number}"
        message = f"exp: {proposal.description}{body}{trailers}\nAutoresearch-Proposer: {proposal.proposer}\n"
        return self.workspace.commit(incumbent.commit, proposal.script, message)

    def _measure(self, history: History, *, number: int, attempt: int, commit: str, proposal: Proposal) -> Measurement:
        """One run of `commit` in a fresh export, and its reading."""
        name = self.journal.log_name(number, attempt)
        log = self.journal.log_path(name)
        log.unlink(missing_ok=True)  # a killed run's log must never be read as this one's
        self.journal.running(number, proposal.description, self.now())
        with self.workspace.export(commit) as tree:
            request = RunRequest(
                name=f"{history.session.tag.lower().replace('_', '-').replace('.', '-')}-{number:04}-{attempt}",
                tree=tree,
                directory=self.rules.directory,
                script=history.session.training_script,
                command=self.rules.command,
                variables={**self.rules.variables, "AUTORESEARCH_SEED": str(SEED)},
                timeout_s=self.rules.timeout_s,
                log=log,
            )
            run = self.executor.run(request, self.interrupt)
        reading = metrics.read(self.journal.read_log(name), history.session.metric, self.rules.metric_pattern)
        fingerprint = source.fingerprint(proposal.script)
        return Measurement(commit=commit, seed=SEED, run=run, reading=reading, log=name, fingerprint=fingerprint)

    def _as_experiment(
        self,
        number: int,
        proposal: Proposal,
        measurements: list[Measurement],
        parent: str,
        started: dt.datetime,
        verdict: Verdict,
    ) -> Experiment:
        last = measurements[-1]
        crashed = verdict.status is Status.CRASH
        return Experiment(
            number=number,
            commit=last.commit,
            parent=parent,
            description=proposal.description,
            category=proposal.category,
            verdict=verdict,
            metric=None if crashed else last.reading.metric,
            memory_gb=None if crashed else last.memory_gb,
            rationale=proposal.rationale,
            proposer=proposal.proposer,
            parameters=proposal.parameters,
            lines=source.code_lines(proposal.script),
            fingerprint=measurements[0].fingerprint,
            measurements=tuple(measurements),
            started_at=started,
            finished_at=self.now(),
        )

    def _remember(self, experiment: Experiment) -> None:
        self._tried.add(experiment.fingerprint)
        self._tried.update(m.fingerprint for m in experiment.measurements)

    def _reason_to_stop(self, history: History) -> str:
        longest = max(
            (m.run.wall_s for e in history.experiments[-20:] for m in e.measurements), default=self.rules.timeout_s
        )
        elapsed = (self.now() - self.began).total_seconds()
        return reason_to_stop(history, self.rules.limits, elapsed_s=elapsed, next_s=longest)
