"""A machine may die at any instant; at most the experiment in flight is repeated."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from autoresearch_ci import journal
from autoresearch_ci.experiment import History, Status
from tests.project import Project, wait_for

assert sys.platform != "win32", "these tests send POSIX signals"

EXPERIMENTS = 60
KILLS = 20


def check_invariants(project: Project, history: History, *, complete: bool, slots: int) -> None:
    """Rows, refs and commits agree; no experiment is in twice, none that was decided is missing."""
    assert [e.number for e in history.experiments] == list(range(len(history.experiments)))
    fingerprints = [e.fingerprint for e in history.experiments]
    assert len(set(fingerprints)) == len(fingerprints), "a change was tried twice"
    incumbents = [history.experiments[0].commit]
    for experiment in history.experiments[1:]:
        if experiment.status is Status.KEEP:
            assert experiment.parent == incumbents[-1], "a keep stands on the one before it"
            incumbents.append(experiment.commit)
        else:  # beside others it may have been measured with an incumbent of before
            assert experiment.parent in (incumbents[-1:] if slots == 1 else incumbents)
    if not complete:
        return
    kept = [e.commit for e in history.experiments if e.status is Status.KEEP]
    on_branch = project.git("rev-list", "--reverse", f"{kept[0]}..autoresearch/killed").split()
    assert on_branch[:-1] == kept[1:], "the branch is the base, one commit for each keep, and the report"
    listing = project.git(
        "for-each-ref", "--format=%(refname:lstrip=-1) %(objectname)", "refs/autoresearch/killed/experiments"
    )
    refs = dict(line.split(" ", 1) for line in listing.splitlines())
    assert refs == {f"{e.number:04}": e.commit for e in history.experiments if e.status is not Status.KEEP}
    table = project.git("show", "refs/autoresearch/killed/journal:results.tsv").splitlines()[1:]
    assert [row.split("\t")[0] for row in table] == [e.label for e in history.experiments]
    assert project.git("show", "autoresearch/killed:results.tsv").splitlines()[1:] == table


def recorded(project: Project) -> History | None:
    """What the state folder holds right after a kill."""
    files = list(Path(project.home, "state").glob("*/*/killed/journal.jsonl"))
    data = journal.Journal(files[0].parent).load() if files else b""
    return journal.parse(data) if data else None


def running_since(project: Project) -> list[int]:
    """When an experiment last began, as the file that `status` reads says; changes with every experiment."""
    times = []
    for path in Path(project.home, "state").glob("*/*/killed/running.json"):
        with contextlib.suppress(FileNotFoundError):
            times.append(path.stat().st_mtime_ns)
    return times


def rows(project: Project) -> int:
    """How many experiments the journal has, which may be written at this moment."""
    files = Path(project.home, "state").glob("*/*/killed/journal.jsonl")
    return sum(path.read_bytes().count(b'{"type": "experiment"') for path in files)


def moved(look: Callable[[Project], object], project: Project, process: subprocess.Popen[str], seen: object) -> bool:
    """Whether something else is to be seen than before, or the process is over."""
    return look(project) != seen or process.poll() is not None


@pytest.mark.parametrize("slots", [1, 4])
def test_killed_at_random_moments_it_ends_as_if_it_never_was(project: Project, slots: int) -> None:
    """SIGKILL at 20 random moments, resumed each time: what was decided stays decided, and the end is that of any session; also
    with four experiments in flight."""
    draw = random.Random(2026)
    before: tuple[str, ...] = ()
    kills = 0
    command = ("run", "--tag", "killed", "--max-iterations", str(EXPERIMENTS * min(slots, 2)),
               "--parallel", str(slots), "--device-sharing", "warn")  # fmt: skip
    while kills < KILLS:
        # Soon after an experiment was decided, after one began, or anywhere, the start included: however slow the machine is.
        look = (None, running_since, rows, rows)[kills % 4]
        seen = look(project) if look else None
        process = project.start(*command)
        if look:
            wait_for(partial(moved, look, project, process, seen))
        time.sleep(draw.uniform(0.0, 0.5) if look else draw.uniform(0.1, 3.0))
        if process.poll() is not None:
            process.communicate()
            break  # it was done before the moment came
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        kills += 1
        history = recorded(project)
        if history is not None and history.experiments:
            check_invariants(project, history, complete=False, slots=slots)
            decided = tuple(e.commit for e in history.experiments)
            assert decided[: len(before)] == before, "something that was decided is gone"
            before = decided
    done = project.run(*command)
    assert done.returncode == 0, done.stderr
    history = recorded(project)
    assert history is not None
    assert len(history.experiments) == EXPERIMENTS * min(slots, 2) + 1
    assert tuple(e.commit for e in history.experiments)[: len(before)] == before
    check_invariants(project, history, complete=True, slots=slots)
    assert kills == KILLS, "the session was over too soon to be killed often enough"
    assert len(before) >= KILLS // 2, "the kills must fall among the experiments"
