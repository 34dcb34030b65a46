"""What a cluster costs: 8 Ray workers on this machine with sleeping runs, and one run beside the local executor's.

`measure()` is called by `nox -s bench-throughput`; `python -m tests.bench.ray_overhead` prints the same.
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from autoresearch_ci.executors.native import NativeExecutor
from autoresearch_ci.executors.ray_cluster import RayExecutor
from autoresearch_ci.executors.ray_messages import LOCAL, Setup, Wanted
from autoresearch_ci.runs import Executor, RunRequest
from tests.interrupts import Never

SLOTS = 8
SLEEP_S = 8.0
ROUNDS = 3  # of runs in every slot
SINGLE = 15  # runs of a moment, here and on the cluster in turn


@dataclass(frozen=True, slots=True)
class Cost:
    """`speedup`: how many times the sleep was slept in the time that it took. `beside_s`: of one run, over the local executor."""

    speedup: float
    beside_s: float


@contextmanager
def local_cluster(folder: Path, slots: int = SLOTS) -> Iterator[RayExecutor]:
    """An executor on a cluster on this machine, with so many slots: sleeping runs need no cores."""
    wanted = Wanted(
        address=LOCAL, local_cpus=slots, parallel=slots, kind="native", allow_native=True,
        setup=Setup(session=f"bench-{os.getpid()}", cache=str(folder / "cache")),
    )  # fmt: skip
    with RayExecutor(wanted, environ=os.environ) as executor:
        yield executor


def run_once(executor: Executor, folder: Path, name: str, sleep_s: float) -> float:
    """Seconds that one run takes from asking to having it."""
    tree = folder / name
    tree.mkdir()
    (tree / "train.py").write_text(f"import time; time.sleep({sleep_s}); print('loss: 1')\n")
    started = time.monotonic()
    run = executor.run(
        RunRequest(
            name=name, tree=tree, script="train.py", command="python train.py", variables={}, timeout_s=120.0,
            log=folder / f"{name}.log",
        ),
        Never(),
    )  # fmt: skip
    took_s = time.monotonic() - started
    assert run.exit_code == 0, (folder / f"{name}.log").read_text()
    return took_s


def measure(slots: int = SLOTS, sleep_s: float = SLEEP_S, rounds: int = ROUNDS) -> Cost:
    """Both, in one run, on one cluster."""
    with tempfile.TemporaryDirectory(prefix="ray-overhead-") as temporary:
        folder = Path(temporary)
        cache = folder / "cache"
        cache.mkdir()
        here = NativeExecutor(scratch=folder / "scratch", cache=cache, memory=None, python=Path(sys.executable))
        with local_cluster(folder, slots) as cluster, here:
            differences = [
                run_once(cluster, folder, f"there-{n}", 0.0) - run_once(here, folder, f"here-{n}", 0.0)
                for n in range(SINGLE)
            ]
            with ThreadPoolExecutor(slots) as pool:
                started = time.monotonic()
                made = [pool.submit(run_once, cluster, folder, f"many-{n}", sleep_s) for n in range(slots * rounds)]
                for future in made:
                    future.result(300)
                took_s = time.monotonic() - started
    return Cost(speedup=slots * rounds * sleep_s / took_s, beside_s=statistics.median(differences))


if __name__ == "__main__":
    cost = measure()
    print(f"{SLOTS} workers, sleeping runs: {cost.speedup:.2f} × one, {cost.speedup / SLOTS:.3f} × the workers")
    print(f"one run over the local executor: {1000 * cost.beside_s:.0f} ms")
