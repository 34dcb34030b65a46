"""`nox -s bench-throughput`: how much of a machine's time a session uses for runs, on one slot, on several, on a cluster.

`python -m tests.bench.throughput [ROW …]`, rows by their names in `CASES`; all of them take about nine minutes on two idle
cores. Prints a table, and ends with exit code 1 when a goal is missed. Every figure is a ratio of two that are measured here and now.
"""

from __future__ import annotations

import argparse
import itertools
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import psutil

from autoresearch_ci.executors.native import NativeExecutor
from autoresearch_ci.experiment import Category, Experiment, History, Proposal
from autoresearch_ci.proposals import Floor
from autoresearch_ci.runs import Executor, RunRequest
from autoresearch_ci.slots import Slot
from autoresearch_ci.stopping import Limits
from autoresearch_ci.workspace import Workspace
from tests.bench.overhead import Pretended, new_session, project
from tests.interrupts import Never

BUDGET_S: Final = 3.0  # 60 s, scaled down twentyfold
THINKING_S: Final = 1.5  # 30 s
SLEEPS: Final = f'STEP = 0\nimport time\ntime.sleep({BUDGET_S})\nprint("val_bpb: 1.0")\n'
# What it gets done is no metric of the session here: a better one would be kept, and move what the others are compared with.
COMPUTES: Final = f"""\
STEP = 0
import os, time
end, done = time.monotonic() + {BUDGET_S}, 0
while time.monotonic() < end:
    sum(range(20_000))
    done += 1
print(f"done: {{done}}")
print(f"core: {{min(os.sched_getaffinity(0))}}")
print("val_bpb: 1.0")
"""
QUICK: Final = 'STEP = 0\nprint("val_bpb: 1.0")\n'
REMEMBERED: Final = (100, 2_000)  # experiments after which the memory is read
MEMORY_S: Final = 900.0  # that all of them may take


@dataclass(frozen=True, slots=True)
class Row:
    """A line of the table. `reached`: whether what was measured is what was to be reached."""

    case: str
    goal: str
    measured: str
    reached: bool


@dataclass(slots=True)
class Thinking:
    """A proposer that thinks for so long, and then counts up the constant of the script."""

    seconds: float
    floor: Floor
    _numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    def propose(self, history: History, script: str) -> Proposal | None:
        with self.floor.left():
            time.sleep(self.seconds)
        number, first = next(self._numbers), script.splitlines()[0]
        changed = script.replace(first, f"STEP = {number}", 1)
        return Proposal(script=changed, description=f"STEP → {number}", category=Category.OTHER)


def session(
    script: str,
    executor: Callable[[Path], Executor],
    slots: Sequence[Slot],
    experiments: int,
    *,
    thinking_s: float = 0.0,
    prefetch: int = 0,
    authors: int = 1,
    tell: Callable[[History], str] | None = None,
) -> list[Experiment]:
    """A real session of so many experiments; they, without the baseline, in the order in which they began."""
    with project({"train.py": script}) as folder:
        loop, history = new_session(folder, executor(folder))
        loop.slots, loop.prefetch, loop.authors = slots, prefetch, authors
        loop.proposer = Thinking(thinking_s, loop.floor)
        loop.limits = Limits(max_iterations=experiments)
        if tell is not None:
            loop.tell = tell
        assert isinstance(loop.runs.workspace, Workspace)
        with closing(loop.runs.workspace):  # a push may be under way, into a folder that is removed
            made = loop.research(history).tried
    return sorted(made, key=lambda e: (e.started_at is None, e.started_at))


def per_second(made: Sequence[Experiment], slots: int) -> float:
    """Runs a second, from the start of the first one to the start of the last one in every slot: what a long night comes to."""
    starts = [e.started_at for e in made if e.started_at is not None]
    seconds = (starts[-slots] - starts[0]).total_seconds()
    return sum(len(e.measurements) for e in made[:-slots]) / seconds


@contextmanager
def native(folder: Path) -> Iterator[NativeExecutor]:
    with NativeExecutor(scratch=folder / "native", cache=None, memory=None, python=Path(sys.executable)) as executor:
        yield executor


@contextmanager
def local() -> Iterator[Callable[[Path], Executor]]:
    """What makes runs as processes of this machine."""
    with tempfile.TemporaryDirectory(prefix="autoresearch-bench-") as name, native(Path(name)) as executor:
        yield lambda _: executor


def numbered(count: int) -> list[Slot]:
    return [Slot(number=number) for number in range(1, count + 1)]


def bare_s(script: str, times: int = 3) -> float:
    """Seconds of the script started by a shell: the median."""
    with project({"train.py": script}) as folder:
        taken = []
        for _ in range(times):
            start = time.perf_counter()
            subprocess.run([sys.executable, "train.py"], cwd=folder, capture_output=True, check=True, timeout=60)
            taken.append(time.perf_counter() - start)
    return statistics.median(taken)


def next_proposal_ready() -> Iterator[Row]:
    with local() as executor:
        bare = bare_s(SLEEPS)
        ready = session(SLEEPS, executor, numbered(1), 16, thinking_s=THINKING_S, prefetch=1)
        serial = session(SLEEPS, executor, numbered(1), 8, thinking_s=THINKING_S)
    share, before = (bare * per_second(made, 1) for made in (ready, serial))
    yield Row(
        f"{THINKING_S:g} s proposer, {BUDGET_S:g} s budget, one slot",
        "98 % of an uninterrupted machine's runs; one after the other 67 %",
        f"{share:.1%}; one after the other {before:.1%}",
        share >= 0.98,
    )


def next_proposals_ready() -> Iterator[Row]:
    slots = 4
    with local() as executor:
        bare = bare_s(SLEEPS)
        ready = session(SLEEPS, executor, numbered(slots), 10 * slots, thinking_s=THINKING_S, prefetch=1, authors=slots)
        one = session(SLEEPS, executor, numbered(slots), 6 * slots, thinking_s=THINKING_S, prefetch=1)
    share, before = (bare * per_second(made, slots) / slots for made in (ready, one))
    yield Row(
        f"{THINKING_S:g} s proposer, {BUDGET_S:g} s budget, {slots} slots",
        "97 % of an uninterrupted machine's runs",
        f"{share:.1%}; with one proposal at a time {before:.1%}",
        share >= 0.97,
    )


def sleeping_slots() -> Iterator[Row]:
    with local() as executor:
        alone = per_second(session(SLEEPS, executor, numbered(1), 6), 1)
        for slots in (2, 4, 8):
            ratio = per_second(session(SLEEPS, executor, numbered(slots), 6 * slots), slots) / alone
            yield Row(
                f"{slots} slots of sleeping runs",
                f"0.97 × {slots} = {0.97 * slots:.2f}",
                f"{ratio:.2f} × one slot",
                ratio >= 0.97 * slots,
            )


def ray_workers() -> Iterator[Row]:
    from tests.bench.ray_slots import ray_executor  # the other rows need no Ray

    slots = 8
    with local() as here:
        alone = per_second(session(SLEEPS, here, numbered(1), 6), 1)
        with ray_executor(slots) as there:
            ratio = per_second(session(SLEEPS, lambda _: there, numbered(slots), 6 * slots), slots) / alone
            with project({"train.py": QUICK}) as folder:
                pairs = [
                    (run_s(there, folder, f"there-{n}"), run_s(here(folder), folder, f"here-{n}")) for n in range(20)
                ]
    yield Row(f"{slots} Ray workers, sleeping runs", f"0.95 × {slots} = 7.60", f"{ratio:.2f} × one slot", ratio >= 7.6)
    more_ms = 1000 * statistics.median(far - near for far, near in pairs)
    yield Row("a run by Ray against a local one", "150 ms more", f"{more_ms:.0f} ms more", more_ms <= 150)


def run_s(executor: Executor, folder: Path, name: str) -> float:
    """Seconds of one run of a project by the executor alone."""
    request = RunRequest(
        name=name,
        tree=folder,
        script="train.py",
        command="python train.py",
        variables={},
        timeout_s=60.0,
        log=folder.parent / f"{name}.log",
    )
    start = time.perf_counter()
    assert executor.run(request, Never()).exit_code == 0
    return time.perf_counter() - start


def computing_neighbours() -> Iterator[Row]:
    case, goal = "2 slots of computing runs on 2 cores", "within 3 % of the metric and the wall clock of each alone"
    cores = two_cores()
    if len(cores) < 2:
        yield Row(case, goal, "not measured: it needs Linux and two cores", False)
        return
    slots = [Slot(number=number, cpus=(core,), threads=1) for number, core in enumerate(cores, start=1)]
    alone: dict[float, list[Experiment]] = {core: [] for core in cores}
    beside: dict[float, list[Experiment]] = {core: [] for core in cores}
    with local() as executor:
        for _ in range(6):  # in turn, so that all of them meet the same machine
            for slot in slots:
                keep_by_core(session(COMPUTES, executor, [slot], 2), alone)
            keep_by_core(session(COMPUTES, executor, slots, 4), beside)
    done = [median_of(beside[core], _done) / median_of(alone[core], _done) - 1 for core in cores]
    wall = [median_of(beside[core], _wall_s) / median_of(alone[core], _wall_s) - 1 for core in cores]
    yield Row(
        case,
        goal,
        f"metric {', '.join(f'{change:+.1%}' for change in done)}; "
        f"wall clock {', '.join(f'{change:+.1%}' for change in wall)}",
        all(abs(change) <= 0.03 for change in (*done, *wall)),
    )


def two_cores() -> list[int]:
    if sys.platform == "linux":
        return sorted(os.sched_getaffinity(0))[:2]
    return []


def keep_by_core(made: Sequence[Experiment], found: dict[float, list[Experiment]]) -> None:
    for each in made:
        found[each.measurements[-1].reading.numbers["core"]].append(each)


def median_of(made: Sequence[Experiment], number: Callable[[Experiment], float]) -> float:
    return statistics.median(number(each) for each in made)


def _done(each: Experiment) -> float:
    return each.measurements[-1].reading.numbers["done"]


def _wall_s(each: Experiment) -> float:
    return each.measurements[-1].run.wall_s


def memory() -> Iterator[Row]:
    """In a process of its own: what the other rows left behind is not its matter."""
    command = [sys.executable, "-m", "tests.bench.throughput", "--memory"]
    told = subprocess.run(command, capture_output=True, text=True, check=True, timeout=MEMORY_S)
    first, last = (float(word) for word in told.stdout.split())
    yield Row(
        f"memory after {REMEMBERED[1]:,} experiments with 8 slots",
        f"20 MB more than after {REMEMBERED[0]}",
        f"{last - first:+.1f} MB ({first:.0f} → {last:.0f})",
        last - first <= 20,
    )


def print_memory() -> None:
    """The resident memory of this process, in MB, after so many experiments."""
    process = psutil.Process()

    def tell(history: History) -> str:
        if len(history.tried) in REMEMBERED:
            print(process.memory_info().rss / 2**20, flush=True)
        return ""

    session(QUICK, lambda _: Pretended(), numbered(8), REMEMBERED[1], tell=tell)


CASES: Final[dict[str, Callable[[], Iterator[Row]]]] = {
    "prefetch": next_proposal_ready,
    "authors": next_proposals_ready,
    "slots": sleeping_slots,
    "ray": ray_workers,
    "neighbours": computing_neighbours,
    "memory": memory,
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", nargs="*", metavar="ROW", help=f"of {', '.join(CASES)}; all without one")
    parser.add_argument("--memory", action="store_true", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.memory:
        print_memory()
        return 0
    if unknown := set(chosen.rows) - set(CASES):
        parser.error(f"no such row: {', '.join(sorted(unknown))}")
    print("| case | to reach | measured | ok |\n|---|---|---|---|")
    missed = 0
    for name in chosen.rows or CASES:
        for row in CASES[name]():
            missed += not row.reached
            print(f"| {row.case} | {row.goal} | {row.measured} | {'yes' if row.reached else 'no'} |", flush=True)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
