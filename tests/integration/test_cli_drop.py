"""`ablate`, `holdout` and `finalize --drop`, as a person at a shell sees them."""

from __future__ import annotations

from pathlib import Path

import pytest

from autoresearch_ci import journal
from autoresearch_ci.experiment import Experiment, History, Purpose
from autoresearch_ci.forges.local import PAGE_NAME, TEXT_NAME
from tests.forge.fixtures import TOKEN, TRAIN, Checkout
from tests.forge.server import Forge
from tests.project import Project

PLAN = "LEARNING_RATE=0.08\nWIDTH=128\nDROPOUT=0.05\nDROPOUT=0.3\nWIDTH=256\n"
HELD = """\
import re
text = open("train.py").read()
print("val_bpb:", 5 - 10 * float(re.search(r"LEARNING_RATE = (.+)", text)[1]))
"""

NOWHERE = "unix:///nowhere.sock"


def recorded(project: Project) -> History:
    return journal.parse(next((project.home / "state").rglob("journal.jsonl")).read_bytes())


def refs(project: Project) -> str:
    return project.git("for-each-ref", "refs/heads", "refs/autoresearch")


@pytest.fixture
def night(project: Project) -> tuple[Project, list[Experiment]]:
    """A session that kept four changes: of the learning rate, the width, the dropout, and the width again."""
    project.commit({"plan.txt": PLAN, "held.py": HELD})
    done = project.run(
        "run", "--tag", "night", "--plan", "plan.txt", "--proposer", "queue", "--max-iterations", "5",
        "--ablate", "--holdout", "python held.py",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    kept = recorded(project).kept
    assert [e.number for e in kept] == [1, 2, 3, 5], done.stderr
    return project, list(kept)


def test_what_the_settings_ask_for_is_in_the_pull_request(night: tuple[Project, list[Experiment]]) -> None:
    """The best without each keep, and base against best on the holdout; `finalize` again measures nothing twice."""
    project, kept = night
    history = recorded(project)
    made = {r.reverted: r for r in history.rechecks if r.purpose is Purpose.ABLATE}
    assert list(made) == [e.commit for e in kept]
    assert "cannot be taken out alone" in made[kept[1].commit].note
    for commit in (kept[0].commit, kept[2].commit, kept[3].commit):
        (without,), (best,) = made[commit].readings(made[commit].subject), made[commit].readings(made[commit].reference)
        assert without > best
    (held,) = (r for r in history.rechecks if r.purpose is Purpose.HOLDOUT)
    assert held.readings(held.reference) == pytest.approx((4.6,) * 3)
    assert held.readings(held.subject) == pytest.approx((4.2,) * 3)
    text = next((project.home / "state").rglob(TEXT_NAME)).read_text()
    assert "4.6" in text
    assert "4.2" in text
    again = project.run("finalize", "--ablate", "--holdout", "python held.py")
    assert again.returncode == 0, again.stderr
    assert recorded(project).rechecks == history.rechecks


def test_a_branch_without_a_kept_commit(night: tuple[Project, list[Experiment]]) -> None:
    """A new branch, measured against the base, and its pull request with the interval; what was there stays; safe to repeat."""
    project, kept = night
    before, recorded_before = refs(project), recorded(project)
    branches = project.git("for-each-ref", "refs/heads")
    done = project.run("finalize", "--drop", kept[2].commit[:7])
    assert done.returncode == 0, done.stderr
    branch = done.stdout.strip()
    assert branch == f"autoresearch/night-without-{kept[2].commit[:7]}"
    expected = TRAIN.replace("RATE = 0.04", "RATE = 0.08").replace("WIDTH = 64", "WIDTH = 256")
    assert project.git("show", f"{branch}:train.py") + "\n" == expected
    subjects = project.git("log", "--reverse", "--format=%s", f"main..{branch}").splitlines()
    assert subjects == [f"exp: {kept[n].description}" for n in (0, 1, 3)]
    assert f"`{branch}`: 3 of 4 kept commits, gain over the base 0.1" in done.stderr
    assert f"git log -p main..{branch}" in done.stderr
    assert set(branches.splitlines()) < set(project.git("for-each-ref", "refs/heads").splitlines())
    history = recorded(project)
    assert history.experiments == recorded_before.experiments
    *others, made = history.rechecks
    assert tuple(others) == recorded_before.rechecks
    assert (made.purpose, made.reference, made.reverted) == (
        Purpose.DROP,
        history.session.base_commit,
        kept[2].commit,
    )
    assert made.subject == project.git("rev-parse", branch)
    (base,), (reduced,) = made.readings(made.reference), made.readings(made.subject)
    assert base - reduced == pytest.approx(0.1, abs=0.1)
    assert before != refs(project)  # the journal went on, and is where the branch is
    text = next(p for p in (project.home / "state").rglob(TEXT_NAME) if "without" in p.parent.name).read_text()
    assert "draft" not in text
    assert text.startswith("# val_bpb gain 0.1")
    assert "gain over the base 0.1" in text
    assert f"- {kept[2].commit[:7]} DROPOUT" in text.partition("## Dropped")[2]

    after = refs(project)
    again = project.run("finalize", "--drop", kept[2].commit)
    assert again.returncode == 0, again.stderr
    assert again.stdout.strip() == branch
    assert refs(project) == after


def test_two_commits_at_once(night: tuple[Project, list[Experiment]]) -> None:
    """In any order, by `--drop` or as a task; what was never run and cannot be here is a draft, and `open-pr = never` makes none."""
    project, kept = night
    first, second = kept[0].commit[:7], kept[2].commit[:7]
    quiet = project.run("finalize", "--no-measure", "--drop", second, "--drop", first, "--open-pr", "never")
    assert quiet.returncode == 0, quiet.stderr
    assert quiet.stdout.strip() == f"autoresearch/night-without-{first}-{second}"
    assert "Pull request" not in quiet.stderr
    assert "2 of 4 kept commits, not measured in the session" in quiet.stderr
    loud = project.run("task", "drop", first, second, "--executor", "container", DOCKER_HOST=NOWHERE)
    assert loud.returncode == 0, loud.stderr
    assert "not measured, because nothing can be run here" in loud.stderr
    assert "Pull request created" in loud.stderr
    texts: list[Path] = [p for p in (project.home / "state").rglob(TEXT_NAME) if "without" in p.parent.name]
    assert len(texts) == 1
    assert " · draft" in texts[0].read_text()
    assert not (texts[0].parent / PAGE_NAME).exists()


def test_what_cannot_be_dropped(night: tuple[Project, list[Experiment]]) -> None:
    """One line and a hint: exit code 2 for what is no keep, 6 for what cannot be done to the branch; nothing is pushed."""
    project, kept = night
    history, before = recorded(project), refs(project)
    every = [word for e in kept for word in ("--drop", e.commit[:7])]
    for arguments, code, says in [
        (["--drop", "abc"], 2, "7 characters or more"),
        (["--drop", "0123456"], 2, "has no commit `0123456`"),
        (["--drop", history.experiments[4].commit[:7]], 2, "is a discard"),
        (["--drop", history.session.base_commit], 2, "is the baseline"),
        (every, 2, "nothing would be left"),
        (["--drop", kept[1].commit[:7]], 6, f"{kept[3].commit[:7]} builds on {kept[1].commit[:7]}"),
    ]:
        done = project.run("finalize", *arguments)
        assert done.returncode == code, done.stderr
        assert says in done.stderr
        assert "hint:" in done.stderr
        assert "Traceback" not in done.stderr
        assert done.stdout == ""
    assert refs(project) == before


def test_a_session_without_a_keep(project: Project) -> None:
    """Nothing to drop from: exit code 2."""
    project.commit({"train.py": "LEARNING_RATE = 0.1\nprint(f'val_bpb: {1.0 if LEARNING_RATE == 0.1 else 2.0}')\n"})
    assert project.run("run", "--tag", "flat", "--max-iterations", "1").returncode == 0
    done = project.run("finalize", "--drop", "0123456")
    assert done.returncode == 2, done.stderr
    assert "has kept nothing that could be dropped" in done.stderr
    assert "hint:" in done.stderr


def test_a_pull_request_of_its_own_on_the_forge(
    forge: Forge, checkout: Checkout, runner_environment: dict[str, str], tmp_path: Path
) -> None:
    """On GitHub the branch gets its own pull request beside the session's; the token is nowhere to be read."""
    environment = runner_environment | dict(checkout.environment)
    environment |= {"XDG_STATE_HOME": str(tmp_path / "state"), "PYTHONPATH": str(Path(__file__).parents[2])}
    project = Project(checkout.path, tmp_path, environment)
    checkout.commit("plan.txt", PLAN, "a plan")
    checkout.git("push", "--quiet", "origin", "main")
    flags = (
        "--tag", "night", "--executor", "native", "--allow-native", "--proposer", "queue", "--plan", "plan.txt", "--metric", "val_bpb",
        "--direction", "minimize", "--time-budget", "20s", "--max-iterations", "2",
    )  # fmt: skip
    done = project.run("run", *flags)
    assert done.returncode == 0, done.stderr + done.stdout
    short = recorded(project).kept[0].commit[:7]
    dropped = project.run("finalize", *flags, "--drop", short)
    assert dropped.returncode == 0, dropped.stderr + dropped.stdout
    branch = f"autoresearch/night-without-{short}"
    assert checkout.git("ls-remote", "origin", f"refs/heads/{branch}")
    said = dropped.stderr + dropped.stdout
    assert f"git log -p main..origin/{branch}" in said
    assert "Pull request created" in said
    assert "/pull/2" in said
    assert TOKEN not in said.replace(f"::add-mask::{TOKEN}", "")
