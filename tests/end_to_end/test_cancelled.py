"""A job may be cancelled at any moment: what was decided is on the remote before the runner kills, and nothing is decided twice."""

from __future__ import annotations

import random
import shutil
import time
from collections.abc import Callable
from pathlib import Path

from autoresearch_ci import journal
from autoresearch_ci.experiment import History, Status
from tests.forge.fixtures import Checkout
from tests.forge.git import git
from tests.forge.server import Forge
from tests.integration.conftest import base_image, engine  # noqa: F401 - fixtures
from tests.integration.test_cli_github import INPUTS, assert_no_secret, runner  # noqa: F401 - a fixture
from tests.runner import ActionResult, ActionRunner, Cancellation

MOMENTS = 30
LONGEST_S = 7.0  # from the start of the step; experiments begin after some three seconds
LAST_PUSH_S = 5.0
EXPERIMENTS = 60
TAG = "cut"
GIVEN = {**INPUTS, "tag": TAG, "max-iterations": str(EXPERIMENTS), "verify-runs": "0", "baseline-runs": "1"}


def after(seconds: float) -> Callable[[], bool]:
    """True from `seconds` after it was first asked, which is when the step has begun."""
    began: list[float] = []

    def due() -> bool:
        began.append(time.monotonic())
        return began[-1] - began[0] >= seconds

    return due


def recorded(forge: Forge) -> History | None:
    """What the remote alone knows of the session."""
    listed = git(forge.repository, "for-each-ref", "--format=%(refname)", f"refs/autoresearch/{TAG}/journal")
    if not listed:
        return None
    names = git(forge.repository, "ls-tree", "-r", "--name-only", listed, "--", "journal").splitlines()
    data = b"".join(git(forge.repository, "show", f"{listed}:{name}").encode() + b"\n" for name in sorted(names))
    return journal.parse(data)


def check(forge: Forge, history: History, before: tuple[str, ...]) -> tuple[str, ...]:
    """The invariants of the main job, on what the remote holds."""
    decided = tuple(e.commit for e in history.experiments)
    assert decided[: len(before)] == before, "something that was decided is gone"
    fingerprints = [e.fingerprint for e in history.experiments]
    assert len(set(fingerprints)) == len(fingerprints), "a change was tried twice"
    kept = [e.commit for e in history.experiments if e.status is Status.KEEP]
    subjects = git(forge.repository, "log", "--format=%H %s", "--first-parent", f"autoresearch/{TAG}").splitlines()
    on_branch = [line.split(" ")[0] for line in reversed(subjects) if "docs: report" not in line]
    assert on_branch[on_branch.index(kept[0]) :] == kept, "the branch is the base and one commit for each keep"
    listing = git(
        forge.repository,
        "for-each-ref",
        "--format=%(refname:lstrip=-1) %(objectname)",
        f"refs/autoresearch/{TAG}/experiments",
    )
    refs = dict(line.split(" ", 1) for line in listing.splitlines())
    assert refs == {f"{e.number:04}": e.commit for e in history.experiments if e.status is not Status.KEEP}
    table = git(forge.repository, "show", f"refs/autoresearch/{TAG}/journal:results.tsv").splitlines()[1:]
    assert [row.split("\t")[0] for row in table] == [e.label for e in history.experiments]
    assert len(forge.api.pulls) <= 1
    return decided


def test_cancelled_at_random_moments(
    runner: ActionRunner,  # noqa: F811
    forge: Forge,
    checkout: Checkout,
    tmp_path: Path,
) -> None:
    """The runner's ladder at 30 moments, each time resumed on an empty machine: all that was decided is pushed within 5 s, reported
    under always(), and the end is that of any session."""
    draw = random.Random(20261125)
    before: tuple[str, ...] = ()
    slowest, reports = 0.0, 0
    for _ in range(MOMENTS):
        shutil.rmtree(tmp_path / "state", ignore_errors=True)  # an empty machine
        result = runner.run(GIVEN, cancellation=Cancellation(step="run", when=after(draw.uniform(0.0, LONGEST_S))))
        step = result.steps["run"]
        assert step.exit_code in (130, 143), result.log
        assert "Traceback" not in result.log, result.log
        assert step.ended_after_s is not None
        slowest = max(slowest, step.ended_after_s)
        history = recorded(forge)
        if history is not None and history.experiments:
            before = check(forge, history, before)
            begun = (
                "tag" in step.outputs
            )  # before that the run has not touched the session, and there is nothing new to report
            assert result.steps["finalize"].outcome == ("success" if begun else "skipped"), result.log
            reports += begun
        assert_no_secret(result, tmp_path / "state")
    assert slowest < LAST_PUSH_S, f"the slowest took {slowest:.1f} s to save and push"
    assert len(before) > 5, "the moments must fall among the experiments"
    assert reports > 5, "and the reports, too"
    shutil.rmtree(tmp_path / "state")
    end = finish(runner, max_iterations=len(before) + 2)
    assert end.outputs["pull-request-number"] == "1"
    history = recorded(forge)
    assert history is not None
    assert history.ended
    check(forge, history, before)
    assert len(forge.api.pulls) == 1


def finish(runner: ActionRunner, *, max_iterations: int) -> ActionResult:  # noqa: F811
    """The session to its end, undisturbed."""
    result = runner.run({**GIVEN, "max-iterations": str(max_iterations)})
    assert result.conclusion == "success", result.log
    return result
