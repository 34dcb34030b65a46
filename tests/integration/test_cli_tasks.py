"""`task`, as a person at a shell sees it: more experiments, another verification, a report without a run, the Research Config."""

from __future__ import annotations

from pathlib import Path

import pytest

from autoresearch_ci import journal
from autoresearch_ci.experiment import History, Purpose
from autoresearch_ci.forges.local import TEXT_NAME
from tests.project import Project

NOWHERE = "unix:///nowhere.sock"


def recorded(project: Project) -> History:
    return journal.parse(next((project.home / "state").rglob("journal.jsonl")).read_bytes())


def pull_request(project: Project) -> str:
    return next((project.home / "state").rglob(TEXT_NAME)).read_text()


@pytest.fixture
def night(project: Project) -> Project:
    """A session of three experiments whose limits are in no file any more."""
    done = project.run("run", "--tag", "night", "--max-iterations", "3", "--patience", "2")
    assert done.returncode == 0, done.stderr
    assert recorded(project).kept
    return project


def test_continue_makes_more_experiments(night: Project) -> None:
    """So many after those that are done, though patience or the number had ended it; the pull request is updated."""
    before = len(recorded(night).experiments)
    done = night.run("task", "continue", "2", "--patience", "1")
    assert done.returncode == 0, done.stderr
    history = recorded(night)
    assert len(history.experiments) == before + 2
    assert history.ended == f"the maximum of {before + 1} experiments is reached"
    assert f"of {before + 1} kept" in pull_request(night)


def test_verify_measures_again(night: Project) -> None:
    """Although there is a verification; the variable says it as well as the arguments do."""
    first = [r for r in recorded(night).rechecks if r.purpose is Purpose.VERIFY]
    assert len(first) == 1
    done = night.run("task", AUTORESEARCH_TASK="verify 4")
    assert done.returncode == 0, done.stderr
    history = recorded(night)
    *_, again = (r for r in history.rechecks if r.purpose is Purpose.VERIFY)
    assert len(history.rechecks) == 2
    assert (len(again.readings(again.reference)), len(again.readings(again.subject))) == (4, 4)
    assert "4 runs of each" in pull_request(night)
    assert "4 runs of each" in done.stderr


def test_report_runs_nothing(night: Project) -> None:
    """Not even where nothing can be run, and from the settings that the session began with: the file may have lost them."""
    before = recorded(night)
    for text in (night.home / "state").rglob(TEXT_NAME):
        text.unlink()
    (night.path / "autoresearch.toml").write_text('executor = "container"\n')
    night.commit({"autoresearch.toml": 'time-budget = "7s"\nexecutor = "container"\n'})
    done = night.run("task", "report", DOCKER_HOST=NOWHERE)
    assert done.returncode == 0, done.stderr
    assert "platform:" not in done.stderr
    assert recorded(night).rechecks == before.rechecks
    assert "gain" in pull_request(night)
    asked = night.run("task", "verify", "2", DOCKER_HOST=NOWHERE)
    assert asked.returncode == 4, asked.stderr  # asked for, so it is no warning
    assert "hint:" in asked.stderr


def test_config_is_shown(project: Project, tmp_path: Path) -> None:
    """In the log and in the step's summary, with what the machine is; nothing is built, branched or recorded."""
    summary = tmp_path / "summary.md"
    done = project.run("task", "config", GITHUB_ACTIONS="true", GITHUB_STEP_SUMMARY=str(summary))
    assert done.returncode == 0, done.stderr
    assert "AutoResearch Config" in done.stderr
    text = summary.read_text()
    assert text.startswith("# AutoResearch Config\n")
    assert "| metric | val_bpb | autoresearch.toml |" in text
    assert "| this machine |" in text
    assert not list((project.home / "state").rglob("*"))


def test_a_task_that_cannot_be(project: Project) -> None:
    """Exit code 2 with one line and a hint: for what is not understood, and for a session that is not there."""
    for arguments, says in [
        ([], "not understood"),
        (["dance"], "not understood"),
        (["continue"], "needs one number"),
        (["continue", "5"], "no session was started"),
        (["continue", "5", "--tag", "nowhere"], "no experiment yet"),
        (["verify", "5", "--tag", "nowhere"], "no experiment yet"),
        (["report", "--tag", "nowhere"], "no experiment yet"),
        (["comment"], "GitHub"),
        (["stop"], "GitHub"),
    ]:
        done = project.run("task", *arguments)
        assert done.returncode == 2, (arguments, done.stderr)
        assert says in done.stderr, arguments
        assert "hint:" in done.stderr
        assert "Traceback" not in done.stderr
