"""One run of a commit, from its export to its reading; and the Protocols of what that needs from outside.

The loop and the verification at the end both measure by this, and by nothing else.
"""

from __future__ import annotations

import datetime as dt
import re
import shutil
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final, Protocol

from autoresearch_ci import digests, metrics, source
from autoresearch_ci.conditions import Conditions, differences, disturbance
from autoresearch_ci.console import Console
from autoresearch_ci.early_stop import Curve, Watch
from autoresearch_ci.errors import GitError
from autoresearch_ci.experiment import Ending, Experiment, History, Measurement, Reading, Recheck, Run, Session
from autoresearch_ci.journal import LOG_READ, Journal
from autoresearch_ci.judge import crash_reason
from autoresearch_ci.slots import ONLY, Slot

SEED: Final = 42  # of every run, where nothing is run twice: candidate and incumbent then differ by the change alone
SEEDS_PER_EXPERIMENT: Final = 1000
MAX_DISTURBED: Final = 2  # runs in a row that are made again; a machine that is always busy is as it is
USUAL_RUNS: Final = 50  # how many of the last runs say what is usual


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRequest:
    """One run to be made: everything an executor needs to know.

    `tree`: a fresh export of the commit, owned by this run. `directory`: where in it the command starts. `command`: a shell-free
    command line. `variables`: what the script sees besides what only the executor knows (PATH, HOME, AUTORESEARCH_OUTPUT_DIR,
    AUTORESEARCH_CACHE). `timeout_s`: when the whole tree gets SIGTERM, and SIGKILL 10 s later. `log`: where stdout and stderr,
    merged, are streamed to. `name`: unique, `[a-z0-9-]`, for the container and the scratch. `outputs`: an empty folder of ours for
    the regular files that the run leaves in AUTORESEARCH_OUTPUT_DIR; None: nobody wants them. `given`: a folder of ours whose
    files the run finds in its AUTORESEARCH_OUTPUT_DIR instead, and cannot change. `slot`: what of the machine the run may use.
    """

    name: str
    tree: Path
    script: str
    command: str
    variables: Mapping[str, str]
    timeout_s: float
    log: Path
    directory: str = "."
    outputs: Path | None = None
    given: Path | None = None
    slot: Slot = ONLY


class Interrupt(Protocol):
    """Whether a person (or the runner) asked to stop. Executors look at it at least every 0.1 s while a run is on."""

    def requested(self) -> bool: ...


class Executor(Protocol):
    """Where runs happen."""

    def run(self, request: RunRequest, interrupt: Interrupt) -> Run:
        """Makes the run and waits for its end. A crash is a value; MachineError only when no run can be made at all."""


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
    """What is the same for every run of a session.

    `evaluate`: the command that scores what a run left, empty where the script's own word counts; `evaluate_only`: paths and globs
    that no other run sees. `metric_min`, `metric_max`: what the metric can be. `files`: the digest of every file of the base commit
    but the script, by path.
    """

    command: str
    directory: str
    variables: Mapping[str, str]
    timeout_s: float
    last_reading_counts: bool
    metric_pattern: str | None
    early_stop: bool = False
    evaluate: str = ""
    evaluate_only: tuple[str, ...] = ()
    metric_min: float | None = None
    metric_max: float | None = None
    files: Mapping[str, str] = field(default_factory=dict)

    def crash_reason(self, measurement: Measurement, metric: str) -> str:
        """Why this run is a crash, in one line; empty when it is not."""
        return crash_reason(
            measurement,
            metric,
            last_reading_counts=self.last_reading_counts,
            low=self.metric_min,
            high=self.metric_max,
        )


@dataclass(slots=True, kw_only=True)
class Runs:
    """Makes runs of one session; `slot`: where those are made that are not said to belong elsewhere."""

    rules: Rules
    workspace: Workspace
    executor: Executor
    journal: Journal
    console: Console
    interrupt: Interrupt
    now: Callable[[], dt.datetime]
    conditions: Conditions = field(default_factory=Conditions)
    slot: Slot = ONLY
    _halted: threading.Event = field(default_factory=threading.Event)
    _usual: deque[Measurement] = field(default_factory=lambda: deque(maxlen=USUAL_RUNS))
    _noting: threading.Lock = field(default_factory=threading.Lock)  # what is usual, by several threads

    def halt(self) -> None:
        """Ends every run that is on as if it was interrupted: the session cannot go on."""
        self._halted.set()

    def requested(self) -> bool:
        """Whether runs are to be stopped, by a person or because the session cannot go on."""
        return self._halted.is_set() or self.interrupt.requested()

    def save(self, history: History, made: Experiment | Recheck, table: str) -> History:
        """Makes what is journaled already durable elsewhere: refs, then a push beside what comes next. The history."""
        self.workspace.record(history, self.journal.files(made) | {"results.tsv": table.encode()})
        self.workspace.push_meanwhile()
        return history

    def recall(self, history: History) -> None:
        """What is usual on this machine, from the runs of an earlier process here; not from those made elsewhere."""
        for experiment in history.experiments[-USUAL_RUNS:]:
            for m in experiment.measurements:
                if not m.disturbed and not differences(m.conditions, self.conditions.fixed):
                    self._usual.append(m)

    def measure(
        self,
        session: Session,
        *,
        commit: str,
        log: Callable[[int], str],
        seed: int,
        number: int,
        description: str,
        command: str = "",
        rival: Curve = (),
        slot: Slot | None = None,
    ) -> list[Measurement]:
        """A run of `commit`, as often as it takes to be undisturbed: the last one counts, those before it do not.

        `log`: the name in the journal of the n-th of these runs, n from 0. `number` and `description` tell other terminals what
        is running. `command` replaces the session's. `rival`: the curve that this run has to beat, if any. `slot`: where
        it is made; several threads may measure at the same time, each in a slot of its own. After MAX_DISTURBED disturbed runs
        the machine is taken as it is.
        """
        slot = slot or self.slot
        made: list[Measurement] = []
        while True:
            measurement = self._measure(
                session,
                commit=commit,
                log=log(len(made)),
                seed=seed,
                number=number,
                description=description,
                command=command,
                rival=rival,
                slot=slot,
            )
            made.append(measurement)
            with self._noting:
                usual = tuple(self._usual)
            same_code = [m for m in usual if m.fingerprint == measurement.fingerprint]
            spoilt = ""
            if measurement.reading.metric is not None and not command:
                spoilt = disturbance(measurement.conditions, measurement.reading, usual, same_code, slot=slot)
            if not spoilt or len(made) > MAX_DISTURBED:
                if not command:  # another command has another load, and other steps
                    with self._noting:
                        self._usual.append(measurement)
                self.journal.idle(slot=slot.number)
                return made
            self.console.warning(f"disturbed, so it is run again: {spoilt}")
            made[-1] = replace(measurement, disturbed=spoilt)

    def _measure(
        self,
        session: Session,
        *,
        commit: str,
        log: str,
        seed: int,
        number: int,
        description: str,
        command: str,
        rival: Curve,
        slot: Slot,
    ) -> Measurement:
        """One run in a fresh export, and its reading."""
        path = self.journal.log_path(log)
        path.unlink(missing_ok=True)  # a killed run's log must never be read as this one's
        self.journal.running(number, description, self.now(), slot=slot.number)
        evaluate = self.rules.evaluate if not command else ""
        watch = Watch(
            self,
            path,
            session.metric,
            direction=session.direction,
            pattern=self.rules.metric_pattern,
            rival=rival or None,
        )
        with self._outputs(slot, wanted=bool(evaluate)) as outputs:
            with self.workspace.export(commit) as tree:
                request = RunRequest(
                    name=_name(session.tag, log),
                    tree=tree,
                    directory=self.rules.directory,
                    script=session.training_script,
                    command=command or self.rules.command,
                    variables={**self.rules.variables, "AUTORESEARCH_SEED": str(seed)},
                    timeout_s=self.rules.timeout_s,
                    log=path,
                    outputs=outputs,
                    slot=slot,
                )
                hidden = digests.hide(tree, self.rules.evaluate_only, self.rules.files)
                self._check_export(tree, hidden)
                before = self.conditions.begin(slot)
                run = self.executor.run(request, watch)
                conditions = self.conditions.end(before, run, slot)
                spoilt = digests.changed(tree, self.rules.files, hidden)
            run = self._ended(run, watch, spoilt)
            self.journal.scrub_log(log)
            reading = metrics.read(self.journal.read_log(log), session.metric, self.rules.metric_pattern)
            if outputs is not None:
                run, reading = self._evaluated(session, request, run, reading, outputs)
        fingerprint = source.fingerprint(self.workspace.script(commit))
        return Measurement(
            commit=commit,
            seed=seed,
            run=run,
            reading=reading,
            log=log,
            fingerprint=fingerprint,
            conditions=conditions,
            curve=watch.curve if self.rules.early_stop else (),
            read_at=watch.curve[-1][0] if watch.curve and not evaluate else None,
        )

    @contextmanager
    def _outputs(self, slot: Slot, *, wanted: bool) -> Iterator[Path | None]:
        """An empty folder for what a run leaves, gone afterwards; None where nobody wants it."""
        if not wanted:
            yield None
            return
        folder = self.journal.folder / "outputs" / str(slot.number)
        shutil.rmtree(folder, ignore_errors=True)  # a killed process may have left its own
        folder.mkdir(parents=True)
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _check_export(self, tree: Path, hidden: list[str]) -> None:
        """An export is the base commit's but for the script, by construction; what is not is damage, and no run is made of it."""
        if spoilt := digests.changed(tree, self.rules.files, hidden):
            raise GitError(
                f"the export of a commit differs from the base commit in `{spoilt[0]}`",
                hint="the session's clone may be damaged: look at it with `git fsck`, or start with another tag",
            )

    def _ended(self, run: Run, watch: Watch, spoilt: list[str]) -> Run:
        """The run with what we know of its end: whether we stopped it, and whether it changed what it must not."""
        if watch.stopped_because and run.ending is Ending.INTERRUPTED and not self.requested():
            ending = Ending.HOPELESS if watch.hopeless else Ending.STOPPED
            run = replace(run, ending=ending, stopped_because=watch.stopped_because)
        watch.finish()
        if spoilt and run.ending is not Ending.INTERRUPTED:
            run = replace(run, ending=Ending.STOPPED, stopped_because=f"it changed `{spoilt[0]}`, which is read-only")
        return run

    def _evaluated(
        self, session: Session, request: RunRequest, run: Run, said: Reading, outputs: Path
    ) -> tuple[Run, Reading]:
        """The run, and its reading by `evaluate`: the base commit's code on what the run left, where the run never was.

        Whatever the script itself `said` is no value; what it used of the memory is.
        """
        done = replace(said, metric=None, metric_lines=0, numbers={})
        at_timeout = run.ending is Ending.TIMEOUT and self.rules.last_reading_counts
        if not at_timeout and (run.ending is not Ending.EXITED or run.exit_code != 0):
            return run, done
        log = request.log.with_suffix(".evaluate.log")
        with self.workspace.export(session.base_commit) as tree:
            self._check_export(tree, [])
            second = replace(
                request,
                name=f"{request.name}-evaluate",
                tree=tree,
                command=self.rules.evaluate,
                log=log,
                outputs=None,
                given=outputs,
            )
            evaluation = self.executor.run(second, self)
        text = self.journal.scrubber.scrub_bytes(log.read_bytes())[-LOG_READ:].decode(errors="replace")
        with request.log.open("ab") as file:
            file.write(f"\n[evaluate]\n{text}".encode(errors="replace"))
        log.unlink()
        if evaluation.ending is Ending.INTERRUPTED:
            return replace(run, ending=Ending.INTERRUPTED, exit_code=None), done
        reading = metrics.read(text, session.metric, self.rules.metric_pattern)
        if evaluation.ending is not Ending.EXITED or evaluation.exit_code != 0:
            how = f"exit code {evaluation.exit_code}" if evaluation.ending is Ending.EXITED else evaluation.ending.value
            reason = f"`evaluate` failed ({how}){f': {reading.last_line}' if reading.last_line else ''}"
            return replace(run, ending=Ending.STOPPED, stopped_because=reason), done
        return run, replace(reading, memory_mb=said.memory_mb, out_of_memory=said.out_of_memory)


def _name(tag: str, log: str) -> str:
    """Unique in the session, `[a-z0-9-]`: for the container and the scratch."""
    return re.sub(r"[^a-z0-9]+", "-", f"{tag}-{log.removesuffix('.log')}".lower()).strip("-")
