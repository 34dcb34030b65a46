"""A long night against a forge with bad moments: nothing grows but the record."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

import psutil
import pytest

from tests.forge.git import git
from tests.forge.server import Forge
from tests.project import Project

assert sys.platform != "win32", "these tests send POSIX signals"

EXPERIMENTS = 500
FAULTS = 0.05
# Between the 100th experiment and the last: the history itself is kept in memory, some 10 kB an experiment.
MEMORY_MB = 16.0
DESCRIPTORS = 4
# Six knobs of many values: a search that has tried everything would end the night early.
TRAIN = '''\
"""A training script that needs nothing and takes no time."""

import math

LEARNING_RATE = 0.04
WEIGHT_DECAY = 0.3
DROPOUT = 0.1
MOMENTUM = 0.5
WARMUP = 0.2
CLIP = 3.0

KNOBS = (LEARNING_RATE, WEIGHT_DECAY, DROPOUT, MOMENTUM, WARMUP, CLIP)
loss = 1.0 + sum((math.log10(abs(knob) + 1e-9) + 1.0) ** 2 for knob in KNOBS)
print(f"val_bpb: {loss:.9f}")
'''


@pytest.fixture
def night(hosted: Project) -> subprocess.Popen[str]:
    """The program natively: a container would only add time."""
    hosted.commit({"train.py": TRAIN})
    hosted.push()
    flags = ["--tag", "soak", "--progress", "pull-request", "--max-iterations", str(EXPERIMENTS)]
    return hosted.start("run", *flags, "--verify-runs", "1", "--baseline-runs", "1", log="log")


def test_a_night_of_500_experiments(forge: Forge, night: subprocess.Popen[str], tmp_path: Path) -> None:
    """One pull request, one branch, a row for the baseline and each experiment; memory and open files stay flat; at most 200 requests."""
    forge.spoil(FAULTS, seed=7)
    process, samples = psutil.Process(night.pid), []
    deadline = time.monotonic() + 1200
    try:
        while night.poll() is None:
            assert time.monotonic() < deadline, "the night does not end"
            try:
                samples.append((_done(tmp_path), process.memory_info().rss / 2**20, process.num_fds()))
            except psutil.NoSuchProcess:
                break
            time.sleep(0.5)
    finally:
        if night.poll() is None:
            os.killpg(night.pid, signal.SIGKILL)
        night.wait()
    log = (tmp_path / "log").read_text(encoding="utf-8", errors="replace")
    assert night.returncode == 0, log[-4000:]
    assert "Traceback" not in log
    branches = git(forge.repository, "for-each-ref", "--format=%(refname:short)", "refs/heads").splitlines()
    assert sorted(branches) == ["autoresearch/soak", "main"]
    (pull,) = forge.api.pulls.values()
    assert pull["state"] == "open"
    assert not pull["draft"]
    table = git(forge.repository, "show", "autoresearch/soak:results.tsv").splitlines()
    assert len(table) == EXPERIMENTS + 2  # the header, the baseline
    asked = int(re.findall(r"(\d+) requests to GitHub", log)[-1])
    assert asked <= 200
    early = [sample for sample in samples if 100 <= sample[0] < 200]
    late = [
        sample for sample in samples if EXPERIMENTS - 50 <= sample[0] < EXPERIMENTS
    ]  # then comes the report, which draws
    assert early, "the first hundred were too quick to be looked at"
    assert late, "the last fifty were too quick to be looked at"
    growth = max(s[1] for s in late) - max(s[1] for s in early)
    assert growth < MEMORY_MB, f"memory grew by {growth:.0f} MB"
    # Of the median: a push or a telling that is under way has a few of its own.
    assert median(s[2] for s in late) - median(s[2] for s in early) < DESCRIPTORS


def _done(folder: Path) -> int:
    """How many experiments are in the journal."""
    files = list((folder / "state").glob("*/*/soak/journal.jsonl"))
    return files[0].read_bytes().count(b'{"type": "experiment"') - 1 if files else 0
