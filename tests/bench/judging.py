"""`nox -s bench-judge`: how often a kept change is none, and what it costs to know. Prints a table; asserts nothing.

Simulated sessions of 120 runs through the real loop, judge, noise and journal; only the runs are drawn instead of made. The
published logs give the proportions: most changes do nothing, a third harm, an eighth help (karpathy/autoresearch's own log:
17 of 22 kept gains below 0.001). A gain of typical size is 1; the spread of one reading is given in these units.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime as dt
import io
import itertools
import math
import random
import statistics
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from autoresearch_ci.console import Console
from autoresearch_ci.experiment import (
    Category,
    Direction,
    Ending,
    History,
    Proposal,
    Run,
    Session,
    Status,
    Verdict,
)
from autoresearch_ci.journal import Journal
from autoresearch_ci.judge import Rule, RunAgain, judge
from autoresearch_ci.noise import Readings, confirmed, verification
from autoresearch_ci.proposals import Patience
from autoresearch_ci.runs import Interrupt, Rules, RunRequest, Runs
from autoresearch_ci.session import Loop
from autoresearch_ci.stopping import Limits
from autoresearch_ci.verification import verify
from autoresearch_ci.workspace import merged_script
from tests.bench.intervals import mean, wilson

RUNS = 120  # of one session, the baseline's and the repeated ones included; the verification comes after them
VERIFY_RUNS = 3
HELPS, HARMS = 1 / 8, 1 / 3  # the rest does nothing
HARM = 2.0  # mean of a harm, in typical gains
BASE = 100.0  # the metric of the untouched script; higher is better
NOW = dt.datetime(2026, 11, 22, tzinfo=dt.UTC)


@dataclass(frozen=True)
class World:
    """The spread of a reading, and in which form it comes."""

    noise: float
    kind: str = "normal"

    def __str__(self) -> str:
        return f"{self.noise:g}" + ("" if self.kind == "normal" else f", {self.kind}")


WORLDS = [
    World(0.0),
    World(0.25),
    World(1.0),
    World(4.0),
    World(1.0, "heavy tails"),
    World(1.0, "drift"),
    World(1.0, "disturbed"),
]


class Machine:
    """Draws readings instead of training: workspace, executor, proposer and interrupt of one simulated session."""

    def __init__(self, world: World, seed: int) -> None:
        self.world = world
        self.ideas, self.draws = random.Random(f"ideas {seed}"), random.Random(f"draws {seed}")
        self.truth = {"0" * 40: BASE}
        self.scripts = {"0" * 40: "X = 0\n"}
        self.effects = {"X = 0\n": 0.0}
        self.left, self.drift, self.exported, self.stopping = RUNS, 0.0, "", False

    # The workspace

    def script(self, commit: str) -> str:
        return self.scripts[commit]

    def commit(self, parent: str, script: str, message: str) -> str:
        name = f"{len(self.scripts):040x}"
        self.scripts[name], self.truth[name] = script, self.truth[parent] + self.effects[script]
        return name

    @contextlib.contextmanager
    def export(self, commit: str) -> Iterator[Path]:
        self.exported = commit
        yield Path()

    def record(self, history: History, files: Mapping[str, bytes]) -> None:
        """Nothing to move: there is no git."""

    def push_meanwhile(self) -> None:
        """Nowhere to push to."""

    # The proposer

    def propose(self, history: History, script: str) -> Proposal | None:
        """A change whose true effect nobody is told."""
        chance = self.ideas.random()
        effect = 0.0
        if chance < HELPS:
            effect = self.ideas.expovariate(1.0)
        elif chance < HELPS + HARMS:
            effect = -self.ideas.expovariate(1 / HARM)
        text = f"X = {len(self.effects)}\n"
        self.effects[text] = effect
        return Proposal(script=text, description=text.strip(), category=Category.OTHER)

    # The executor, and the interrupt at the end of the runs

    def run(self, request: RunRequest, interrupt: Interrupt) -> Run:
        if self.left == 0:
            self.stopping = True
            return Run(ending=Ending.INTERRUPTED, exit_code=None, wall_s=0.0)
        self.left -= 1
        request.log.write_text(f"score: {self.truth[self.exported] + self.error()!r}\n")
        return Run(ending=Ending.EXITED, exit_code=0, wall_s=1.0)

    def requested(self) -> bool:
        return self.stopping or self.left == 0

    def error(self) -> float:
        error = self.draws.gauss(0, 1)
        if self.world.kind == "heavy tails":  # Student's t with 3 degrees of freedom, with the same variance
            error /= math.sqrt(sum(self.draws.gauss(0, 1) ** 2 for _ in range(3)))
        elif self.world.kind == "drift":  # the machine wanders by a tenth of the noise a run, and does not come back
            self.drift += self.draws.gauss(0, 0.1)
            error += self.drift
        elif self.world.kind == "disturbed" and self.draws.random() < 0.2:  # something else ran on the machine
            error -= 3
        return self.world.noise * error


class Remembering:
    """A rule of another system: it compares with the readings that the incumbent had when it was kept."""

    def __init__(
        self, times: int, better: Callable[[Sequence[float], Sequence[float]], bool], *, fail_fast: bool
    ) -> None:
        self.times, self.better, self.fail_fast = times, better, fail_fast
        self.incumbent: tuple[float, ...] = ()

    def __call__(self, candidate: Sequence[float], incumbent: Sequence[float], **_: Any) -> Verdict | RunAgain:
        self.incumbent = self.incumbent or tuple(incumbent)
        lost = candidate[-1] <= statistics.fmean(self.incumbent)
        if len(candidate) < self.times and not (self.fail_fast and lost):
            return RunAgain(False, "")
        if len(candidate) == self.times and self.better(candidate, self.incumbent):
            self.incumbent = tuple(candidate)
            return Verdict(status=Status.KEEP, reason="")
        return Verdict(status=Status.DISCARD, reason="")


class MedianDeviation:
    """The gain over the median absolute deviation of all first readings, as pi-autoresearch shows it, used to keep."""

    def __init__(self) -> None:
        self.all: list[float] = []
        self.best = -math.inf

    def __call__(self, candidate: Sequence[float], incumbent: Sequence[float], **_: Any) -> Verdict | RunAgain:
        if not self.all:
            self.all, self.best = list(incumbent[:1]), incumbent[0]
        self.all.append(candidate[0])
        middle = statistics.median(self.all)
        spread = statistics.median(abs(value - middle) for value in self.all)
        gain = candidate[0] - self.best
        if gain > 0 and gain >= 2 * spread:
            self.best = candidate[0]
            return Verdict(status=Status.KEEP, reason="")
        return Verdict(status=Status.DISCARD, reason="")


def mean_is_better(candidate: Sequence[float], incumbent: Sequence[float]) -> bool:
    return statistics.fmean(candidate) > statistics.fmean(incumbent)


def two_sigma() -> Remembering:
    """Upstream's pull request 560: sigma is the distance of two baseline runs, and a keep needs two of them."""
    sigma: list[float] = []

    def better(candidate: Sequence[float], incumbent: Sequence[float]) -> bool:
        if not sigma:  # the first call has both runs of the baseline
            sigma.append(abs(incumbent[0] - incumbent[-1]))
        return candidate[0] > incumbent[-1] + 2 * sigma[0]

    return Remembering(1, better, fail_fast=False)


def bootstrap(candidate: Sequence[float], incumbent: Sequence[float]) -> bool:
    """autoresearch-mlx's: the share of resampled means that are better, at least 0.95, here over all resamples."""
    means = [
        [statistics.fmean(c) for c in itertools.product(side, repeat=len(side))] for side in (candidate, incumbent)
    ]
    wins = sum(a > b for a in means[0] for b in means[1])
    return wins >= 0.95 * len(means[0]) * len(means[1])


@dataclass(frozen=True)
class Contender:
    """A rule with its name, how often it runs the baseline, and how a session of it is judged."""

    name: str
    baseline_runs: int
    make: Callable[[], Callable[..., Verdict | RunAgain]]
    rule: Rule = field(default_factory=Rule)


OURS = "ours"
CONTENDERS = [
    Contender("plain greedy (the skill, upstream)", 1, lambda: judge),
    Contender("everything three times", 3, lambda: Remembering(3, mean_is_better, fail_fast=False)),
    Contender("two sigma of two baselines", 2, two_sigma),
    Contender("gain of 2 MAD (pi-autoresearch)", 1, MedianDeviation),
    Contender("bootstrap of three (autoresearch-mlx)", 3, lambda: Remembering(3, bootstrap, fail_fast=True)),
    Contender("ours, confidence 0.8", 2, lambda: judge, Rule(confidence=0.8)),
    Contender("ours, confidence 0.9", 2, lambda: judge, Rule(confidence=0.9)),
    Contender(f"{OURS}, confidence 0.95 (the default)", 2, lambda: judge),
    Contender("ours, confidence 0.99", 2, lambda: judge, Rule(confidence=0.99)),
]


@dataclass(frozen=True)
class Outcome:
    """One session: what was kept, what it was truly worth, and what was claimed."""

    keeps: int
    false_keeps: int
    true_gain: float
    claimed_gain: float
    repeats: int
    covered: bool | None  # whether the 95 % interval of the verification holds the true gain; None: nothing to verify


def session(contender: Contender, world: World, seed: int, folder: Path) -> Outcome:
    """One simulated session and its verification."""
    machine = Machine(world, seed)
    runs = Runs(
        rules=Rules(
            command="", directory=".", variables={}, timeout_s=60.0, last_reading_counts=False, metric_pattern=None
        ),
        workspace=machine,
        executor=machine,
        journal=Journal(folder),
        console=Console(io.StringIO(), io.StringIO()),
        interrupt=machine,
        now=lambda: NOW,
    )
    loop = Loop(
        runs=runs,
        proposer=machine,
        rule=contender.rule,
        limits=Limits(),
        baseline_runs=contender.baseline_runs,
        report_every=10**9,
        relieve=lambda _: None,
        merge=merged_script,
        patience=Patience(runs.interrupt),
        max_jump=math.inf,  # this measures the judge, not what is flagged
        began=NOW,
        judge=contender.make(),
    )
    start = Session(
        tag="s", metric="score", direction=Direction.MAXIMIZE, training_script="train.py", base_commit="0" * 40
    )
    history = loop.research(runs.journal.begin(History(session=start)))
    best = history.best
    assert best is not None
    assert best.metric is not None
    true_gain = machine.truth[best.commit] - BASE
    effects = [machine.effects[machine.scripts[e.commit]] for e in history.kept]
    first = history.experiments[0].measurements[0].reading.metric
    assert first is not None
    claimed, covered = best.metric - first, None
    if contender.name.startswith(OURS) and history.kept:
        machine.left, machine.stopping = 10**9, False
        history = verify(runs, history, wanted=VERIFY_RUNS, seconds=None, table="")
        recheck = verification(history)
        assert recheck is not None
        interval = confirmed(recheck, Readings.of(history).fresh_noise, Direction.MAXIMIZE)
        assert interval is not None
        claimed, covered = interval.gain, interval.low - 1e-9 <= true_gain <= interval.high + 1e-9
    return Outcome(
        keeps=len(effects),
        false_keeps=sum(effect <= 0 for effect in effects),
        true_gain=true_gain,
        claimed_gain=claimed if history.kept else 0.0,
        repeats=sum(len(e.measurements) - 1 for e in history.experiments),
        covered=covered,
    )


def cell(job: tuple[int, World, int]) -> list[Outcome]:
    """All sessions of one rule in one world."""
    which, world, sessions = job
    outcomes = []
    for seed in range(sessions):
        with tempfile.TemporaryDirectory(dir=memory()) as folder:
            outcomes.append(session(CONTENDERS[which], world, seed, Path(folder)))
    return outcomes


def memory() -> str | None:
    """A folder in memory where there is one: the journal's fsync is not what is measured here."""
    return "/dev/shm" if Path("/dev/shm").is_dir() else None


def row(name: str, outcomes: Sequence[Outcome], greedy: Sequence[Outcome], best: float) -> str:
    keeps, false_keeps = sum(o.keeps for o in outcomes), sum(o.false_keeps for o in outcomes)
    gain, half = mean([o.true_gain for o in outcomes])
    bias, bias_half = mean([o.claimed_gain - o.true_gain for o in outcomes])
    of_greedy = sum(o.false_keeps for o in greedy)
    covered = [o.covered for o in outcomes if o.covered is not None]
    cells = (
        name,
        f"{gain:.2f} ± {half:.2f}",
        f"{gain / best:.0%}",
        f"{false_keeps / len(outcomes):.2f}",
        f"{false_keeps / of_greedy:.2f} ×" if of_greedy else "—",
        wilson(false_keeps, keeps),
        f"{statistics.fmean(o.repeats for o in outcomes):.0f}",
        f"{bias / gain:+.0%} ± {bias_half / gain:.0%}"
        if gain > half
        else "—",  # of a gain that may be none there is no share
        wilson(sum(covered), len(covered)),
    )
    return f"| {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sessions", type=int, default=200, help="simulated sessions of each rule in each world")
    sessions: int = parser.parse_args().sessions
    jobs = [(which, world, sessions) for world in WORLDS for which in range(len(CONTENDERS))]
    with ProcessPoolExecutor() as pool:
        found = dict(zip(jobs, pool.map(cell, jobs), strict=True))
    print(f"{sessions} sessions of {RUNS} runs each; ± and ranges are 95 % intervals.")
    for world in WORLDS:
        outcomes = [found[which, world, sessions] for which in range(len(CONTENDERS))]
        others = [mean([o.true_gain for o in each])[0] for each in outcomes]
        print(f"\n**Noise {world}**\n")
        print(
            "| rule | true gain | of the best | false keeps a session | of greedy's | share of keeps that are false "
            "| repeats | bias of the claim | the 95 % interval holds |\n|---|---|---|---|---|---|---|---|---|"
        )
        for contender, each in zip(CONTENDERS, outcomes, strict=True):
            print(row(contender.name, each, outcomes[0], max(others)), flush=True)


if __name__ == "__main__":
    main()
