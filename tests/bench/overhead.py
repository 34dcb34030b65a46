"""`nox -s bench`: what the product costs beside the training. Prints a table; asserts nothing.

Every figure is measured here and now, as medians, against the bare thing in the same run.
"""

from __future__ import annotations

import datetime as dt
import io
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

from autoresearch_ci.console import Console
from autoresearch_ci.errors import MachineError
from autoresearch_ci.executors.container import ContainerExecutor
from autoresearch_ci.executors.engine import connect
from autoresearch_ci.executors.image import Image, ensure_image
from autoresearch_ci.executors.native import NativeExecutor
from autoresearch_ci.experiment import Category, Direction, Ending, History, Proposal, Run, Session
from autoresearch_ci.journal import Journal
from autoresearch_ci.judge import Rule
from autoresearch_ci.proposals import Patience
from autoresearch_ci.runs import Executor, Interrupt, Rules, RunRequest, Runs
from autoresearch_ci.session import Loop
from autoresearch_ci.stopping import Limits
from autoresearch_ci.workspace import Author, Remote, Workspace, inspect_repository, merged_script, new_repository
from tests.interrupts import Never

if sys.platform != "win32":
    import resource

BASE_IMAGE = os.environ.get("BENCH_BASE_IMAGE", "autoresearch-ci/test-base:bookworm")
SCRIPT = 'STEP = 0\nprint("val_bpb: 1.0")\n'


class Counting:
    """A proposer that costs nothing: the constant of the script counts up."""

    def propose(self, history: History, script: str) -> Proposal | None:
        number = len(history.experiments)
        text = SCRIPT.replace("STEP = 0", f"STEP = {number}")
        return Proposal(script=text, description=f"STEP {number - 1} → {number}", category=Category.OTHER)


@dataclass
class Pretended:
    """An executor whose runs take exactly so long: what is left is ours."""

    seconds: float = 0.0

    def run(self, request: RunRequest, interrupt: Interrupt) -> Run:
        time.sleep(self.seconds)
        request.log.write_text("val_bpb: 1.0\n")
        return Run(ending=Ending.EXITED, exit_code=0, wall_s=self.seconds)


@contextmanager
def project(files: dict[str, str]) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="autoresearch-bench-") as name:
        folder = Path(name) / "project"
        folder.mkdir()
        for path, text in files.items():
            (folder / path).write_text(text)
        new_repository(folder, "start")
        yield folder


def new_session(folder: Path, executor: Executor) -> tuple[Loop, History]:
    """A real session with its own state folder, and its history so far: nothing."""
    state = folder.parent / f"state-{random.randrange(10**9)}"
    checkout = inspect_repository(folder, "train.py")
    workspace = Workspace.open(
        state, checkout, tag=state.name, remote=Remote(url=str(folder)), author=Author("bench", "bench@localhost")
    )
    workspace.compare()
    journal = Journal(state)
    session = Session(
        tag=state.name,
        metric="val_bpb",
        direction=Direction.MINIMIZE,
        training_script="train.py",
        base_commit=checkout.base_commit,
        started_at=dt.datetime.now(dt.UTC),
    )
    history = journal.begin(History(session=session))
    runs = Runs(
        rules=Rules(
            command="python train.py",
            directory=".",
            variables={},
            timeout_s=60.0,
            last_reading_counts=False,
            metric_pattern=None,
        ),
        workspace=workspace,
        executor=executor,
        journal=journal,
        console=Console(io.StringIO(), io.StringIO()),
        interrupt=Never(),
        now=lambda: dt.datetime.now(dt.UTC),
    )
    loop = Loop(
        runs=runs,
        proposer=Counting(),
        rule=Rule(),
        limits=Limits(),
        baseline_runs=1,
        report_every=10,
        relieve=lambda _: None,
        merge=merged_script,
        patience=Patience(runs.interrupt),
        began=dt.datetime.now(dt.UTC),
    )
    return loop, history


def go_on(loop: Loop, history: History, count: int) -> tuple[History, list[float]]:
    """`count` experiments more, and the seconds from the start of each of them to the start of the next."""
    done = len(history.experiments)
    loop.limits = Limits(max_iterations=max(0, done - 1) + count)
    history = loop.research(replace(history, ended=""))
    starts = [e.started_at for e in history.experiments[max(1, done) :] if e.started_at]
    return history, [(b - a).total_seconds() for a, b in pairwise(starts)]


def timed(work: Callable[[], object], count: int) -> float:
    """The median of `count` calls, in seconds."""
    times = []
    for _ in range(count):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def native_overhead() -> tuple[str, str]:
    with project({"train.py": SCRIPT}) as folder:
        executor = NativeExecutor(
            scratch=folder.parent / "native", cache=None, memory=None, python=Path(sys.executable)
        )
        with executor:
            ours = statistics.median(go_on(*new_session(folder, executor), 60)[1])
        bare = timed(
            lambda: subprocess.run([sys.executable, "train.py"], cwd=folder, capture_output=True, check=True), 60
        )
    return f"{(ours - bare) * 1000:.0f} ms", "60 ms"


def growth() -> tuple[str, str]:
    """New sessions in turn with one that has 2,000 experiments, so that both meet the same machine.

    Once beside short runs, which the push is hidden behind as it is in every real session, and once with none at all.
    """
    early: dict[float, list[float]] = {0.2: [], 0.0: []}
    late: dict[float, list[float]] = {0.2: [], 0.0: []}
    executor = Pretended()
    with project({"train.py": SCRIPT}) as folder:
        long, history = new_session(folder, executor)
        history, _ = go_on(long, history, 1_900)
        for executor.seconds in (*early, *reversed(early)) * 8:
            with project({"train.py": SCRIPT}) as other:
                _, times = go_on(*new_session(other, executor), 15)
            early[executor.seconds] += [taken - executor.seconds for taken in times[4:]]  # the 5th to the 15th
            history, times = go_on(long, history, 8)
            late[executor.seconds] += [taken - executor.seconds for taken in times[1:]]
    shown = []
    for seconds in early:
        first, last = statistics.median(early[seconds]), statistics.median(late[seconds])
        shown.append(f"{last / first:.2f} × ({first * 1000:.0f} → {last * 1000:.0f} ms) beside runs of {seconds:g} s")
    return "; ".join(shown), "1.2 ×"


def container_overhead() -> tuple[str, str]:
    try:
        client = connect()
        image: Image = ensure_image(
            client,
            platform="cpu",
            base_image=BASE_IMAGE,
            requirements=None,
            torch_version="",
            build_args={},
            on_line=lambda _: None,
        )
    except MachineError as error:
        return f"not measured: {error.message}", "1.3 ×"
    with (
        project({"train.py": SCRIPT}) as folder,
        ContainerExecutor(client, image, session="bench", cache=None, platform="cpu") as executor,
    ):

        def ours() -> None:
            request = RunRequest(
                name=f"bench-{random.randrange(10**9)}",
                tree=folder,
                script="train.py",
                command="python train.py",
                variables={},
                timeout_s=60.0,
                log=folder.parent / "log",
            )
            assert executor.run(request, Never()).exit_code == 0

        bare = [
            "docker", "run", "--rm", "--network", "none", "--read-only", "--cap-drop", "ALL",
            "--security-opt", "no-new-privileges", "--user", "65532:65532", "--pids-limit", "2048", "--memory", "8g", "--memory-swap", "8g",
            "--shm-size", "1g", "--tmpfs", "/tmp", "--tmpfs", "/outputs", "--tmpfs", "/workspace", "--init",
            "-v", f"{folder / 'train.py'}:/workspace/train.py:ro", "-w", "/workspace", image.tag, "python", "train.py",
        ]  # fmt: skip
        ratios = []
        for _ in range(15):  # in turn, so that both meet the same machine
            start = time.perf_counter()
            subprocess.run(bare, capture_output=True, check=True)
            middle = time.perf_counter()
            ours()
            ratios.append((time.perf_counter() - middle) / (middle - start))
    return f"{statistics.median(ratios):.2f} ×", "1.3 ×"


def first_training() -> tuple[str, str]:
    """From the start of the process to the first line of the training script, with the image cached."""
    settings = 'time-budget = "10s"\nmetric = "val_bpb"\ndirection = "minimize"\nmax-iterations = 0\n'
    with project(
        {"train.py": "import time\nprint(f'started: {time.time()}')\n" + SCRIPT, "autoresearch.toml": settings}
    ) as folder:
        extra: list[str] = []
        try:
            connect()
            extra = ["--base-image", BASE_IMAGE, "--build-args", "TORCH_VERSION=,TORCH_INDEX_URL=", "--platform", "cpu"]
        except MachineError:
            extra = ["--executor", "native"]
        times = []
        for number in range(4):
            state = folder.parent / f"first-{number}"
            start = time.time()
            subprocess.run(
                [sys.executable, "-m", "autoresearch_ci", "run", "--tag", f"first-{number}", "--state-dir", str(state), *extra],
                cwd=folder, capture_output=True, check=True,
            )  # fmt: skip
            log = next(state.rglob("0000-1.log")).read_text()
            times.append(float(log.split("started: ")[1].split()[0]) - start)
    where = "native" if "native" in extra else "container"
    return f"{statistics.median(times[1:]):.1f} s ({where})", "3 s"


def help_time() -> tuple[str, str]:
    command = [sys.executable, "-m", "autoresearch_ci", "--help"]
    return f"{timed(lambda: subprocess.run(command, capture_output=True, check=True), 9):.2f} s", "0.4 s"


def large_report() -> tuple[str, str]:
    with tempfile.TemporaryDirectory(prefix="autoresearch-bench-") as name:
        table = Path(name) / "results.tsv"
        draw = random.Random(0)
        rows = ["commit\tval_bpb\tmem_gb\tstatus\tdescription", "baseline\t1.0\t1.0\tkeep\tBaseline — no modifications"]
        best = 1.0
        for number in range(100_000):
            value = best + draw.uniform(-0.00001, 0.01)
            status = "crash" if number % 50 == 0 else "keep" if value < best else "discard"
            best = min(best, value) if status == "keep" else best
            cells = ("—", "—") if status == "crash" else (f"{value:.6f}", "1.0")
            rows.append(f"{draw.randrange(16**7):07x}\t{cells[0]}\t{cells[1]}\t{status}\tKNOB {number} → {number + 1}")
        table.write_text("\n".join(rows) + "\n")
        command = [sys.executable, "-m", "autoresearch_ci", "report", str(table)]
        seconds = timed(lambda: subprocess.run(command, cwd=name, capture_output=True, check=True), 5)
    return f"{seconds:.1f} s, {largest_child_mb():.0f} MB", "3 s, 300 MB"


def largest_child_mb() -> float:
    """The peak memory of the largest child so far."""
    if sys.platform != "win32":
        peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
        return peak / (1024 if sys.platform == "linux" else 2**20)  # in kilobytes on Linux, in bytes on macOS
    raise NotImplementedError("it reads the memory of children as POSIX systems count it")


CASES: dict[str, Callable[[], tuple[str, str]]] = {
    "`report` over 100,000 rows": large_report,  # first: it reads the largest child's memory
    "`autoresearch-ci --help`": help_time,
    "overhead of an experiment over the bare process, native": native_overhead,
    "the 2,000th experiment against the 10th": growth,
    "a container run against a bare `docker run`": container_overhead,
    "from `run` to the first started training": first_training,
}


def main() -> None:
    print("| | measured | goal |\n|---|---|---|")
    for name, case in CASES.items():
        measured, goal = case()
        print(f"| {name} | {measured} | {goal} |", flush=True)


if __name__ == "__main__":
    main()
