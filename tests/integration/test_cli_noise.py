"""Sessions of scripts whose readings vary, as a person at a shell sees them."""

from __future__ import annotations

import os
import re
import statistics
import subprocess
import sys
from pathlib import Path

from autoresearch_ci import journal
from autoresearch_ci.experiment import Direction, History, Purpose
from autoresearch_ci.noise import Readings, confirmed, verification
from tests.forge.fixtures import TRAIN
from tests.project import Project

NOISY = TRAIN.replace("import os\n", "import os\nimport random\n").replace(
    'print(f"val_bpb', 'loss += random.Random(int(os.environ["AUTORESEARCH_SEED"])).gauss(0, 0.01)\nprint(f"val_bpb'
)


def recorded(project: Project) -> History:
    return journal.parse(next((project.home / "state").rglob("journal.jsonl")).read_bytes())


def mean_of(project: Project, commit: str, seeds: range, folder: Path) -> float:
    """The mean metric of a commit's script, run by itself with other seeds than the session used."""
    path = folder / "alone.py"
    path.write_text(project.git("show", f"{commit}:train.py"))
    values = []
    for seed in seeds:
        environment = {**os.environ, "AUTORESEARCH_SEED": str(seed)}
        done = subprocess.run(
            [sys.executable, path], env=environment, check=True, capture_output=True, text=True, timeout=60
        )
        values.append(float(re.findall(r"val_bpb: (.+)", done.stdout)[-1]))
    return statistics.fmean(values)


def test_the_claim_holds_when_measured_again(project: Project, tmp_path: Path) -> None:
    """25 experiments on a noisy script: the interval in the pull request covers the gain of 20 more runs of each."""
    project.commit({"train.py": NOISY})
    done = project.run("run", "--tag", "night", "--max-iterations", "25", timeout_s=300)
    assert done.returncode == 0, done.stderr
    history = recorded(project)
    best, recheck = history.best, verification(history)
    assert best is not None
    assert recheck is not None
    assert [m.commit for m in recheck.measurements] == [history.session.base_commit, best.commit] * 3
    interval = confirmed(recheck, Readings.of(history).fresh_noise, Direction.MINIMIZE)
    assert interval is not None
    assert interval.low > 0, "a bowl must be descended"
    seeds = range(10**6, 10**6 + 20)
    again = mean_of(project, history.session.base_commit, seeds, tmp_path) - mean_of(
        project, best.commit, seeds, tmp_path
    )
    assert interval.low <= again <= interval.high
    page = next((project.home / "state").rglob("pull-request.md")).read_text()
    assert any(f"gain {interval.gain:.{digits}g} (" in page for digits in (2, 3, 4))
    assert any(len(e.measurements) > 1 for e in history.experiments[1:]), "nothing was run again"
    seeds_used = [m.seed for e in history.experiments for m in e.measurements]
    assert len(set(seeds_used)) > len(history.experiments) // 2


def test_an_exact_script_is_verified_by_one_run_of_each(project: Project) -> None:
    """Where nothing varies, two baselines and one run of base and best are all that is spent."""
    assert project.run("run", "--tag", "night", "--max-iterations", "4").returncode == 0
    history = recorded(project)
    assert [len(e.measurements) for e in history.experiments] == [2, 1, 1, 1, 1]
    (recheck,) = history.rechecks
    assert len(recheck.measurements) == 2


def test_nothing_is_run_twice_when_asked(project: Project) -> None:
    """`baseline-runs: 1` and `verify-runs: 0` are the skill's plain rule, also on a noisy script."""
    project.commit({"train.py": NOISY})
    done = project.run("run", "--tag", "night", "--max-iterations", "6", "--baseline-runs", "1", "--verify-runs", "0")
    assert done.returncode == 0, done.stderr
    history = recorded(project)
    assert all(len(e.measurements) == 1 for e in history.experiments)
    assert {m.seed for e in history.experiments for m in e.measurements} == {42}
    assert not history.rechecks


def test_finalize_verifies_what_was_not(project: Project) -> None:
    """A session that was run without its end is measured again by `finalize`, once."""
    project.commit({"train.py": NOISY})
    assert (
        project.run(
            "run", "--tag", "night", "--max-iterations", "4", "--verify-runs", "0", "--open-pr", "never"
        ).returncode
        == 0
    )
    assert not recorded(project).rechecks
    done = project.run("finalize", "--tag", "night")
    assert done.returncode == 0, done.stderr
    made = recorded(project).rechecks
    if recorded(project).kept:
        assert [r.purpose for r in made] == [Purpose.VERIFY]
    assert project.run("finalize", "--tag", "night").returncode == 0
    assert recorded(project).rechecks == made


def test_out_of_hours_there_is_no_verification(project: Project) -> None:
    """What does not fit the hours is not begun, and the report says so."""
    done = project.run("run", "--tag", "night", "--max-iterations", "4", "--max-hours", "0.0005")
    assert done.returncode == 0, done.stderr
    assert "would not end within" in done.stderr


def test_finalize_completes_what_did_not_fit_the_hours(project: Project) -> None:
    """A verification that was cut short is made whole by `finalize`; in a job `max-hours` is a promise, and it stays short."""
    arguments = ("--tag", "night", "--max-iterations", "1", "--hypothesis", "LEARNING_RATE=0.1")
    assert project.run("run", *arguments, "--verify-runs", "0", "--open-pr", "never").returncode == 0
    short = project.run("run", *arguments, "--max-hours", "0.0000001")
    assert short.returncode == 0, short.stderr
    (recheck,) = recorded(project).rechecks
    assert (len(recheck.measurements), "fitted the time" in recheck.note) == (0, True)
    assert project.run("finalize", "--tag", "night", "--forge", "local", GITHUB_ACTIONS="true").returncode == 0
    assert recorded(project).rechecks == (recheck,)
    done = project.run("finalize", "--tag", "night")
    assert done.returncode == 0, done.stderr
    whole = recorded(project).rechecks[-1]
    assert (len(whole.measurements), whole.note) == (2, "")
