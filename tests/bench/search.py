"""`nox -s bench-search`: the `search` proposer against random search, TPE and CMA-ES over all knobs at once. Prints tables.

Every method has the same number of runs, the same knobs and the same ranges, on the knobs' own scales. Random, TPE and CMA-ES
(Optuna's) propose a full setting; a crash is told as the worst value so far; TPE is told the baseline and CMA-ES starts there.
Search goes through its real interface, with a rule that keeps what reads better. The measure is the normalised area under the
best-so-far curve: 0 is the baseline, 1 the best that is known, or that any method found for the seed.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing import get_context

import optuna
from scipy.special import stdtrit

from autoresearch_ci.experiment import Category, Direction, Experiment, History, Session, Status, Verdict
from autoresearch_ci.knobs import Knob, Value, find_knobs, from_parameters
from autoresearch_ci.proposals import Gate
from autoresearch_ci.proposers.search import SearchProposer
from autoresearch_ci.scope import Range
from autoresearch_ci.source import fingerprint
from tests.bench.search_tasks import TASKS, Outcome, Task

Run = Callable[[Mapping[str, Value], int], Outcome]
Sampler = Callable[[int, Mapping[str, float]], optuna.samplers.BaseSampler]


@dataclass(frozen=True)
class Curve:
    """Of one method on one task and seed: after each run, the true loss of the setting that reads best."""

    method: str
    task: str
    seed: int
    losses: tuple[float, ...]
    crashes: int


# --- methods ----------------------------------------------------------------------------------------------------------


def _random(seed: int, _start: Mapping[str, float]) -> optuna.samplers.BaseSampler:
    return optuna.samplers.RandomSampler(seed=seed)


def _tpe(seed: int, _start: Mapping[str, float]) -> optuna.samplers.BaseSampler:
    return optuna.samplers.TPESampler(seed=seed, multivariate=True)


def _cma_es(seed: int, start: Mapping[str, float]) -> optuna.samplers.BaseSampler:
    return optuna.samplers.CmaEsSampler(seed=seed, x0=dict(start))


def by_sampler(task: Task, run: Run, first: Outcome, sampler: Sampler, seed: int, runs: int) -> list[Outcome]:
    """The outcomes of a method that proposes a full setting for each run."""
    knobs = find_knobs(task.script)
    space = {knob.name: _distribution(knob) for knob in knobs}
    start = {knob.name: knob.value if knob.options else knob.coordinate(knob.value) for knob in knobs}
    numbers = {name: float(place) for name, place in start.items() if not isinstance(place, str | bool)}
    study = optuna.create_study(sampler=sampler(seed, numbers))
    study.add_trial(optuna.trial.create_trial(params=start, distributions=space, value=first.reading))
    outcomes: list[Outcome] = []
    worst = first.reading or 0.0
    for number in range(1, runs + 1):
        trial = study.ask(space)
        values = {knob.name: _value(knob, trial.params[knob.name]) for knob in knobs}
        outcomes.append(run(values, number))
        reading = outcomes[-1].reading
        worst = max(worst, worst if reading is None else reading)
        study.tell(trial, worst if reading is None else reading)
    return outcomes


def _distribution(knob: Knob) -> optuna.distributions.BaseDistribution:
    if knob.options:
        return optuna.distributions.CategoricalDistribution(knob.options)
    low, high = sorted((knob.coordinate(knob.low), knob.coordinate(knob.high)))
    return optuna.distributions.FloatDistribution(low, high)


def _value(knob: Knob, place: float | str) -> Value:
    return place if knob.options else knob.at(float(place))


def by_search(task: Task, run: Run, first: Outcome, seed: int, runs: int) -> list[Outcome]:
    """The outcomes of the `search` proposer, each proposal made from the history and the incumbent's script."""
    # The ranges that find_knobs gives move with the incumbent; a plan holds them where the other methods have them.
    ranges = {knob.name: Range(knob.low, knob.high, knob.options) for knob in find_knobs(task.script)}
    proposer = SearchProposer(Direction.MINIMIZE, seed=seed, gate=Gate(vary=ranges))
    session = Session(tag="bench", metric="loss", direction=Direction.MINIMIZE, training_script="train.py")
    baseline = Experiment(
        number=0,
        commit="commit0",
        parent="",
        description="",
        category=Category.OTHER,
        verdict=Verdict(status=Status.KEEP, reason=""),
        metric=first.reading,
        memory_gb=None,
        fingerprint=fingerprint(task.script),
    )
    history, script, best = History(session=session, experiments=(baseline,)), task.script, baseline
    values = {knob.name: knob.value for knob in find_knobs(script)}
    outcomes: list[Outcome] = []
    for number in range(1, runs + 1):
        proposal = proposer.propose(history, script)
        if proposal is None:
            break
        tried = values | {name: new for name, (_, new) in from_parameters(proposal.parameters).items()}
        outcome = run(tried, number)
        outcomes.append(outcome)
        better = outcome.reading is not None and (best.metric is None or outcome.reading < best.metric)
        status = Status.CRASH if outcome.reading is None else Status.KEEP if better else Status.DISCARD
        experiment = replace(
            baseline,
            number=number,
            commit=f"commit{number}",
            parent=best.commit,
            verdict=Verdict(status=status, reason=""),
            metric=outcome.reading,
            parameters=proposal.parameters,
            fingerprint=fingerprint(proposal.script),
        )
        history = replace(history, experiments=(*history.experiments, experiment))
        if better:
            script, best, values = proposal.script, experiment, tried
    return outcomes


SAMPLERS: Mapping[str, Sampler] = {"random": _random, "TPE": _tpe, "CMA-ES": _cma_es}
METHODS = (*SAMPLERS, "search")


# --- measuring --------------------------------------------------------------------------------------------------------


def curve(method: str, task_name: str, seed: int, runs: int) -> Curve:
    """One method on one task and seed."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.simplefilter(
        "ignore"
    )  # that `x0` will be named otherwise in Optuna 6, and that ten epochs do not converge
    task = next(task for task in TASKS if task.name == task_name)
    run = task.prepared(seed)
    first = run({knob.name: knob.value for knob in find_knobs(task.script)}, 0)
    assert first.reading is not None
    if method == "search":
        outcomes = by_search(task, run, first, seed, runs)
    else:
        outcomes = by_sampler(task, run, first, SAMPLERS[method], seed, runs)
    held, losses = first, list[float]()
    for outcome in outcomes:
        if outcome.reading is not None and held.reading is not None and outcome.reading < held.reading:
            held = outcome
        losses.append(held.truth or 0.0)
    losses += losses[-1:] * (runs - len(losses))  # nothing was left to try
    return Curve(method, task.name, seed, (first.truth or 0.0, *losses), sum(o.reading is None for o in outcomes))


def areas(curves: Sequence[Curve]) -> dict[tuple[str, str, int], float]:
    """(method, task, seed) → the normalised area under the best-so-far curve."""
    optimum = {task.name: task.optimum for task in TASKS}
    best: dict[tuple[str, int], float] = {}
    for c in curves:
        known = optimum[c.task]
        seen = min(c.losses) if known is None else known
        best[c.task, c.seed] = min(best.get((c.task, c.seed), seen), seen)
    area: dict[tuple[str, str, int], float] = {}
    for c in curves:
        reach = c.losses[0] - best[c.task, c.seed]
        gains = [c.losses[0] - loss for loss in c.losses[1:]]
        area[c.method, c.task, c.seed] = statistics.fmean(gains) / reach if reach > 0 else 0.0
    return area


def interval(values: Sequence[float]) -> tuple[float, float]:
    """The mean and the half width of its 95 % interval, by Student's t."""
    half = stdtrit(len(values) - 1, 0.975) * statistics.stdev(values) / len(values) ** 0.5
    return statistics.fmean(values), float(half)


def table(curves: Sequence[Curve], tasks: Sequence[Task], seeds: int, runs: int) -> str:
    """The table as markdown: one row a method; the means over the tasks, and over the held-out ones, with their intervals."""
    area = areas(curves)
    shown = [task for task in tasks if not task.held_out]
    hidden = [task for task in tasks if task.held_out]
    methods = list(dict.fromkeys(c.method for c in curves))
    groups = [("the tasks", shown)] * (len(shown) > 1) + [("the held-out", hidden)] * (len(hidden) > 1)
    heads = [f"`{task.name}`" + " (held out)" * task.held_out for task in (*shown, *hidden)]
    lines = [
        f"Normalised area under the best-so-far curve of {runs} runs: mean of {seeds} seeds and its 95 % interval.\n",
        "| | " + " | ".join((*(f"**{name}**" for name, _ in groups), *heads)) + " |",
        "|---" * (len(groups) + len(heads) + 1) + "|",
    ]
    for method in methods:
        cells: list[str] = []
        for _, of in groups:
            each = [statistics.fmean(area[method, task.name, seed] for task in of) for seed in range(seeds)]
            middle, half = interval(each)
            cells.append(f"**{middle:.3f}** ± {half:.3f}")
        for task in (*shown, *hidden):
            middle, half = interval([area[method, task.name, seed] for seed in range(seeds)])
            cells.append(f"{middle:.2f} ± {half:.2f}")
        lines.append(f"| {method} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=40)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--tasks", nargs="*", default=[task.name for task in TASKS])
    parser.add_argument("--methods", nargs="*", default=METHODS)
    options = parser.parse_args()
    for library in ("OMP", "MKL", "OPENBLAS"):
        os.environ[f"{library}_NUM_THREADS"] = "1"  # for the processes below, which import the libraries anew
    tasks = [task for task in TASKS if task.name in options.tasks]
    began = time.monotonic()
    with ProcessPoolExecutor(options.jobs, mp_context=get_context("spawn")) as pool:
        waiting = [
            pool.submit(curve, method, task.name, seed, options.runs)
            for task in tasks
            for seed in range(options.seeds)
            for method in options.methods
        ]
        curves = [future.result() for future in waiting]
    print(table(curves, tasks, options.seeds, options.runs))
    print(
        f"\n{sum(c.crashes for c in curves)} of {len(curves) * options.runs} runs crashed; {time.monotonic() - began:.0f} s."
    )


if __name__ == "__main__":
    main()
