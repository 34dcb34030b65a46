"""Does the claim hold? A session on the torch starter, then 20 more runs of its base and of its best commit.

`python -m tests.bench.remeasuring [--budget 3s] [--experiments 25] [--runs 20]`. It takes as long as all these runs.
"""

from __future__ import annotations

import argparse
import math
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from autoresearch_ci import journal
from autoresearch_ci.noise import Readings, confirmed, verification
from autoresearch_ci.units import parse_duration
from autoresearch_ci.workspace import new_repository

STARTER = Path(__file__).parents[2] / "autoresearch_ci" / "starter"
SETTINGS = """\
time-budget = "{budget}"
timeout = "5m"
metric = "val_bpb"
direction = "minimize"
executor = "native"
allow-native = true
max-iterations = {experiments}
tag = "again"
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--budget", default="3s")
    parser.add_argument("--experiments", type=int, default=25)
    parser.add_argument("--runs", type=int, default=20)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="autoresearch-again-") as name:
        project, state, cache = (Path(name) / part for part in ("project", "state", "cache"))
        project.mkdir()
        for file in STARTER.glob("*.py"):
            (project / file.name).write_text(file.read_text(encoding="utf-8"), encoding="utf-8")
        settings = SETTINGS.format(budget=options.budget, experiments=options.experiments)
        (project / "autoresearch.toml").write_text(settings, encoding="utf-8")
        new_repository(project, "The starter")
        command = [sys.executable, "-m", "autoresearch_ci", "run", "--state-dir", str(state), "--cache", str(cache)]
        subprocess.run(command, cwd=project, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        history = journal.parse(next(state.rglob("journal.jsonl")).read_bytes())
        best, recheck = history.best, verification(history)
        assert best is not None, "nothing was measured"
        assert recheck is not None, "nothing was kept"
        readings = Readings.of(history)
        interval = confirmed(recheck, readings.fresh_noise, history.session.direction)
        assert interval is not None, "the verification has no readings"
        values: dict[str, list[float]] = {history.session.base_commit: [], best.commit: []}
        seconds = parse_duration(options.budget)
        for seed in range(10**6, 10**6 + options.runs):
            for commit, found in values.items():
                found.append(run_alone(project, commit, seed, seconds, cache))
    base, after = values.values()
    gain = statistics.fmean(base) - statistics.fmean(after)
    error = math.sqrt((statistics.variance(base) + statistics.variance(after)) / options.runs)
    runs = sum(len(e.measurements) for e in history.experiments)
    print(f"{options.experiments} experiments of {options.budget}, {runs} runs, {len(history.kept)} kept")
    print(f"noise of one reading: {readings.noise.sd:.4g} ({readings.noise.degrees} degrees of freedom)")
    print(f"claimed: {interval.gain:.4f} (95 % CI {interval.low:.4f} to {interval.high:.4f}, {interval.runs} of each)")
    print(f"again:   {gain:.4f} ± {1.96 * error:.4f} ({options.runs} runs of each)")
    print("covered" if interval.low <= gain <= interval.high else "NOT covered")


def run_alone(project: Path, commit: str, seed: int, seconds: float, cache: Path) -> float:
    """The metric of a commit's script, run by itself."""
    subprocess.run(["git", "checkout", "--quiet", "--detach", commit], cwd=project, check=True)
    environment = {
        **os.environ,
        "AUTORESEARCH_SEED": str(seed),
        "AUTORESEARCH_TIME_BUDGET": f"{seconds:g}",
        "AUTORESEARCH_CACHE": str(cache),
    }
    done = subprocess.run(
        [sys.executable, "train.py"], cwd=project, env=environment, check=True, capture_output=True, text=True
    )
    return next(float(line.split()[1]) for line in done.stdout.splitlines() if line.startswith("val_bpb:"))


if __name__ == "__main__":
    main()
