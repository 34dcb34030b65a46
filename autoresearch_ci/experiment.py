"""The values that pass between the parts: frozen, complete when built, and free of behaviour that needs the world.

Times are timezone-aware UTC datetimes; memory is in MB (2**20 bytes) where a run is described and in GB (2**30 bytes)
where a person reads it, as in upstream's `peak_vram_mb` and results.tsv's `mem_gb`.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from functools import cached_property
from statistics import fmean
from typing import Final, TypeAlias

NEAR_MISS: Final = "near-miss"  # the parameter of a second try: the number of the experiment that is tried again


class Direction(StrEnum):
    """Which way the metric is better."""

    MINIMIZE = "minimize"
    MAXIMIZE = "maximize"

    def better(self, candidate: float, reference: float) -> bool:
        """Whether `candidate` is strictly better than `reference`. NaN is never better."""
        return candidate < reference if self is Direction.MINIMIZE else candidate > reference

    def gain(self, reference: float, candidate: float) -> float:
        """By how much `candidate` is better than `reference`: positive is better, in the metric's own unit."""
        return reference - candidate if self is Direction.MINIMIZE else candidate - reference


class Status(StrEnum):
    """The three verdicts, as results.tsv spells them."""

    KEEP = "keep"
    DISCARD = "discard"
    CRASH = "crash"


class Category(StrEnum):
    """What part of the training a proposal touches: the headings of the skill's list of directions."""

    ARCHITECTURE = "architecture"
    OPTIMIZER = "optimizer"
    TRAINING = "training"
    SIMPLIFICATION = "simplification"
    OTHER = "other"


class Ending(StrEnum):
    """How a run came to its end."""

    EXITED = "exited"
    TIMEOUT = "timeout"
    OUT_OF_MEMORY = "out-of-memory"  # killed by the memory limit; the script's own OOM errors are in its log
    INTERRUPTED = "interrupted"
    STOPPED = "stopped"  # by us, because nothing good could come any more; `stopped_because` says why
    HOPELESS = "hopeless"  # by us, because it stayed far behind the incumbent; `stopped_because` says how far


Scalar: TypeAlias = str | int | float | bool | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """What was asked of models. `calls`: requests that were answered, or may have been. `cost`: US dollars, None without a price.

    `input_tokens` include those that a provider's cache held.
    """

    calls: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cost: float | None = None

    @property
    def tokens(self) -> int:
        return self.input_tokens + self.output_tokens

    def __add__(self, other: Usage) -> Usage:
        """Both together; the cost is that of the one whose cost is known."""
        costs = [cost for cost in (self.cost, other.cost) if cost is not None]
        return Usage(
            calls=self.calls + other.calls,
            input_tokens=self.input_tokens + other.input_tokens,
            output_tokens=self.output_tokens + other.output_tokens,
            cost=sum(costs) if costs else None,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Proposal:
    """A new text of the training script, and why.

    `parameters` is the proposer's own note (the knobs that it moved, the wish that it fulfils); it is journaled and handed back on
    resume. `usage`: what models cost for it, refused attempts included. `notes`: what else happened on the way, a line each: what
    was refused, what an agent changed besides the script.
    """

    script: str
    description: str
    category: Category
    rationale: str = ""
    proposer: str = "search"
    parameters: Mapping[str, Scalar] = field(default_factory=dict)
    usage: Usage = Usage()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One execution of the training script, measured from outside.

    `wall_s`: seconds from start to end. `peak_memory_mb`: highest memory of the container or process tree, None where the
    platform cannot tell. `exit_code`: None when the process was killed by us. `cpu_s`: CPU seconds of the whole tree, None where
    the platform cannot tell. `stopped_because`: one line when the ending is `stopped` or `hopeless`.
    """

    ending: Ending
    exit_code: int | None
    wall_s: float
    peak_memory_mb: float | None = None
    cpu_s: float | None = None
    stopped_because: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """What the log of a run says. `metric` is finite or None, `metric_lines` how many lines gave it a finite value;
    `memory_mb` is the script's own `peak_vram_mb`."""

    metric: float | None = None
    metric_lines: int = 0
    memory_mb: float | None = None
    numbers: Mapping[str, float] = field(default_factory=dict)
    out_of_memory: bool = False
    last_line: str = ""

    def without(self, name: str) -> Reading:
        """The same reading without one of its numbers."""
        return replace(self, numbers={n: value for n, value in self.numbers.items() if n != name})


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """A run and its reading, with what the run was given.

    `log` is the log's name inside the journal; `fingerprint` is that of the script that ran (a retry with half the batch runs
    another script than the one proposed). `conditions`: what the machine was like, by name (`device`, `driver`, `torch`,
    `other_load` in cores, clocks in MHz). `disturbed`: why the reading does not count, in one line; empty when it does.
    `curve`: the metric while it trained, as (seconds since the start, value). `read_at`: when the last metric was seen in
    the script's own log, in seconds since its start. `flags`: why the reading is not to be believed by itself, a line each.
    """

    commit: str
    seed: int
    run: Run
    reading: Reading
    log: str
    fingerprint: str = ""
    conditions: Mapping[str, Scalar] = field(default_factory=dict)
    disturbed: str = ""
    curve: tuple[tuple[float, float], ...] = ()
    read_at: float | None = None
    flags: tuple[str, ...] = ()

    @property
    def counts(self) -> bool:
        """Whether the reading is evidence: a finite metric of a run that came to its end and was not disturbed."""
        return self.reading.metric is not None and not self.disturbed and self.run.ending is not Ending.HOPELESS

    @property
    def memory_gb(self) -> float | None:
        """Peak memory in GB: the script's own figure wins over the one measured from outside."""
        mb = self.reading.memory_mb or self.run.peak_memory_mb
        return None if mb is None else mb / 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """The numbers that decided, in the metric's unit; gains are positive when the candidate is better.

    `gain`: difference of the means. `standard_error`: of that difference. `needed`: the gain that would have been enough.
    `runs`, `incumbent_runs`: how many readings each mean is of. `noise`: standard deviation of one reading, with `degrees` of
    freedom.
    """

    gain: float
    standard_error: float
    needed: float
    runs: int
    incumbent_runs: int
    noise: float
    degrees: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """The decision about an experiment, and the reason in one line. `evidence`: None where readings do not vary."""

    status: Status
    reason: str
    evidence: Evidence | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Experiment:
    """One proposal, run and judged: one row of results.tsv. Number 0 is the baseline.

    `commit` and `parent` are full hashes (a 7-character one when read from a bare results.tsv; `parent` is then empty).
    `lines`: lines of code of the script. `fingerprint`: of the proposed script's normalised syntax tree. `metric`: the mean of the
    candidate's readings, None for a crash. `measurements` are in the order of the runs: the candidate's, and those of the
    incumbent that were made for the comparison.

    `based_on`: the commit that the proposal was made for, where what it was judged on is another one: its parent. Empty otherwise.

    `base`: of a merge of the base branch, which nobody proposed, the commit that it brought in; its `measurements` are those of
    the merge and of that commit by itself. Empty for everything that was tried.
    """

    number: int
    commit: str
    parent: str
    description: str
    category: Category
    verdict: Verdict
    metric: float | None
    memory_gb: float | None
    rationale: str = ""
    proposer: str = ""
    parameters: Mapping[str, Scalar] = field(default_factory=dict)
    usage: Usage = Usage()
    notes: tuple[str, ...] = ()
    lines: int = 0
    fingerprint: str = ""
    based_on: str = ""
    base: str = ""
    measurements: tuple[Measurement, ...] = ()
    started_at: dt.datetime | None = None
    finished_at: dt.datetime | None = None

    @property
    def status(self) -> Status:
        return self.verdict.status

    @property
    def flags(self) -> tuple[str, ...]:
        """Why its readings are not to be believed by themselves, each reason once."""
        return tuple(dict.fromkeys(flag for m in self.measurements if m.commit == self.commit for flag in m.flags))

    @property
    def label(self) -> str:
        """What the commit column of results.tsv and every report shows: `baseline`, or 7 characters of the hash."""
        return "baseline" if self.number == 0 else self.commit[:7]

    @property
    def is_base(self) -> bool:
        """Whether it is nothing but the base: the baseline, or a merge that left nothing of the session's own.

        Such a merge is the base commit itself, or has its files, so that the base was not run beside it.
        """
        return self.number == 0 or (bool(self.base) and all(m.commit == self.commit for m in self.measurements))

    @property
    def as_baseline(self) -> Experiment:
        """What is now the untouched script: the experiment itself, or of a merge the base that it brought in, by its own runs."""
        if not self.base:
            return self
        runs = self.measurements if self.is_base else tuple(m for m in self.measurements if m.commit == self.base)
        values = [m.reading.metric for m in runs if m.counts and m.reading.metric is not None]
        return replace(
            self,
            number=0,
            commit=self.base,
            parent="",
            metric=mean(values) if values else None,
            memory_gb=max((m.memory_gb for m in runs if m.memory_gb is not None), default=None),
            measurements=runs,
        )


def mean(values: Sequence[float]) -> float:
    """Equal readings are that reading: a mean of them may differ in the last digit."""
    return fmean(values) if len(set(values)) > 1 else values[0]


class Purpose(StrEnum):
    """Why something was measured that is no experiment."""

    VERIFY = "verify"  # base against best, at the end
    ABLATE = "ablate"  # the best with one kept commit reverted, against the best
    HOLDOUT = "holdout"  # base against best on the second metric that no proposer sees
    DROP = "drop"  # base against the branch without some keeps, which a person asked for
    NEIGHBOURS = "neighbours"  # the baseline in all slots at the same time
    MACHINE = "machine"  # baseline and incumbent again, because the session goes on on another machine


@dataclass(frozen=True, slots=True, kw_only=True)
class Recheck:
    """Runs beside the experiments: `subject` against `reference`, both full hashes, interleaved.

    `reverted`: of an ablation, the kept commit that `subject` is without; of a drop all of them, with spaces between.
    `wanted`: how many runs of each were asked for; `note` says why there are fewer, empty when there are not.
    """

    purpose: Purpose
    reference: str
    subject: str
    wanted: int
    measurements: tuple[Measurement, ...] = ()
    reverted: str = ""
    note: str = ""
    started_at: dt.datetime | None = None
    finished_at: dt.datetime | None = None

    @property
    def comparable(self) -> bool:
        """Whether its readings are of the session's metric, made as those of the experiments are."""
        return self.purpose not in (Purpose.HOLDOUT, Purpose.NEIGHBOURS)

    def readings(self, commit: str) -> tuple[float, ...]:
        """The metric of every run of `commit` that counts, in order."""
        return tuple(
            m.reading.metric
            for m in self.measurements
            if m.commit == commit and m.counts and m.reading.metric is not None
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """What is fixed for everything done under one tag: the first line of the journal.

    `settings` are the public settings as text, by their kebab-case name; no secret is ever a setting. `adjustments` are the
    platform's, by variable name. `platform` is `cuda`, `mps` or `cpu` (empty when only a results.tsv is known).
    `repository` is `https://host/owner/name`, empty for a local session. `files_digest`: SHA-256 of the journal's
    `files.sha256`, which lists every file of the base commit but the training script. `wall`: what holds natively, in one line.
    `run_url`: the page of the job that this process runs in, empty outside one.
    """

    tag: str
    metric: str
    direction: Direction
    training_script: str
    base_commit: str = ""
    base_branch: str = ""
    time_budget_s: float | None = None
    max_iterations: int | None = None
    platform: str = ""
    device: str = ""
    executor: str = ""
    wall: str = ""
    adjustments: Mapping[str, str] = field(default_factory=dict)
    settings: Mapping[str, str] = field(default_factory=dict)
    repository: str = ""
    files_digest: str = ""
    run_url: str = ""
    started_at: dt.datetime | None = None

    @property
    def branch(self) -> str:
        return f"autoresearch/{self.tag}"


@dataclass(frozen=True, kw_only=True)  # no slots: what is asked for again and again is found once
class History:
    """Everything a session has done so far: what proposers, judges of the end and reports look at.

    `experiments` are in order, number 0 first; `rechecks` in the order they were made. `ended` says why the session is over,
    empty while it is not. `pending`: for whoever makes the next proposal, what waits or is being run, of which nothing is known yet;
    `dropped`: what has waited since the last one was made, and did not fit any more; `being_made`: how many others are made meanwhile.
    """

    session: Session
    experiments: tuple[Experiment, ...] = ()
    rechecks: tuple[Recheck, ...] = ()
    ended: str = ""
    pending: tuple[Proposal, ...] = ()
    dropped: tuple[Proposal, ...] = ()
    being_made: int = 0

    @property
    def parameters(self) -> Iterator[Mapping[str, Scalar]]:
        """What the proposers noted about everything that was tried, or is about to be."""
        yield from (experiment.parameters for experiment in self.experiments)
        yield from (proposal.parameters for proposal in self.pending)

    @cached_property
    def baseline(self) -> Experiment | None:
        """The untouched script of the base as it is now: experiment 0, or what the last merge of the base brought in."""
        return self.chain[0].as_baseline if self.chain else None

    def baseline_of(self, experiment: Experiment) -> Experiment | None:
        """The untouched script of the base that `experiment` was made on."""
        started = (e for e in (*reversed(self.merges), *self.experiments[:1]) if e.number <= experiment.number)
        return next((e.as_baseline for e in started), None)

    @cached_property
    def merges(self) -> tuple[Experiment, ...]:
        """The merges of the base branch, oldest first. What was read before one is not compared with what was read after it."""
        return tuple(e for e in self.of(Status.KEEP) if e.base)

    @cached_property
    def tried(self) -> tuple[Experiment, ...]:
        """The experiments that somebody proposed, oldest first: neither the baseline nor a merge of the base."""
        return tuple(e for e in self.experiments if e.number > 0 and not e.base)

    @cached_property
    def chain(self) -> tuple[Experiment, ...]:
        """What was kept on the base as it is now, so that its metrics can be compared: the baseline or the last merge first."""
        start = self.merges[-1:] or self.experiments[:1]
        return (*start, *(e for e in self.of(Status.KEEP) if e.number > start[0].number)) if start else ()

    def of(self, status: Status) -> tuple[Experiment, ...]:
        """The experiments with this verdict, the baseline among them, oldest first."""
        return self._by_status[status]

    @cached_property
    def on_branch(self) -> tuple[Experiment, ...]:
        """What the branch is made of, oldest first: the base that it starts from, and every keep and merge of the base since."""
        start = tuple(e for e in self.of(Status.KEEP) if e.is_base)[-1:] or self.experiments[:1]
        return (*start, *(e for e in self.of(Status.KEEP) if e.number > start[0].number)) if start else ()

    @cached_property
    def kept(self) -> tuple[Experiment, ...]:
        """The kept experiments whose changes the branch has and the base has not, oldest first; a merge is none."""
        return tuple(e for e in self.on_branch[1:] if not e.base)

    @cached_property
    def incumbent(self) -> Experiment | None:
        """The last kept experiment (the baseline and merges count): what the next proposal starts from."""
        return next((e for e in reversed(self.experiments) if e.verdict.status is Status.KEEP), None)

    @property
    def best(self) -> Experiment | None:
        """The kept experiment that the session ended up with; of a bare results.tsv the one with the best metric.

        Every keep was better than the one before it when both were measured together, so the last one is the best, whatever
        a luckier reading of an earlier one says. A crash, whatever stands in its row, never counts.
        """
        incumbent = self.incumbent
        if incumbent is not None and incumbent.measurements:
            return incumbent
        best: Experiment | None = None
        for experiment in self.of(Status.KEEP):
            if experiment.metric is None:
                continue
            if best is None or best.metric is None or self.session.direction.better(experiment.metric, best.metric):
                best = experiment
        return best

    @cached_property
    def _by_status(self) -> Mapping[Status, tuple[Experiment, ...]]:
        found: dict[Status, list[Experiment]] = {status: [] for status in Status}
        for experiment in self.experiments:
            found[experiment.verdict.status].append(experiment)
        return {status: tuple(experiments) for status, experiments in found.items()}
