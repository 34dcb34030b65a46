"""Phase 0: the parameters that must be asked for, the Research Config, and the two files."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from typing import Any

import pytest
import yaml

from tests.project import Project


@pytest.fixture
def bare(project: Project) -> Project:
    """A project without settings."""
    (project.path / "autoresearch.toml").unlink()
    del project.environment["AUTORESEARCH_CACHE"]  # what the environment sets would be written, too
    return project


ANSWERS = ("--time-budget", "5m", "--metric", "val_bpb", "--direction", "minimize")


def test_yes_asks_nothing(bare: Project) -> None:
    """With flags for what must be set, both files are written, and a run finds them."""
    done = bare.run("init", "--yes", *ANSWERS)
    assert done.returncode == 0, done.stderr
    assert "AutoResearch Config" in done.stderr
    text = (bare.path / "autoresearch.toml").read_text()
    assert text.startswith("#:schema https://")
    assert tomllib.loads(text) == {"time-budget": "5m", "metric": "val_bpb", "direction": "minimize"}
    assert "workflow_dispatch" in (bare.path / ".github/workflows/autoresearch.yml").read_text()


def test_yes_without_what_must_be_set_is_refused(bare: Project) -> None:
    """Nothing is assumed, and nothing is written."""
    done = bare.run("init", "--yes", "--metric", "val_bpb")
    assert done.returncode == 2
    assert "`time-budget`, `direction` must be set" in done.stderr
    assert not (bare.path / "autoresearch.toml").exists()
    assert not (bare.path / ".github").exists()


def test_every_setting_survives_the_file(bare: Project) -> None:
    """What was asked for on the command line stands in the file, and is read back as the same."""
    more = (
        "--memory",
        "8g",
        "--env",
        "A=1,B=x y",
        "--labels",
        "a,b",
        "--max-iterations",
        "20",
        "--draft",
        "--target",
        "0.9",
    )
    assert bare.run("init", "--yes", *ANSWERS, *more).returncode == 0
    values = tomllib.loads((bare.path / "autoresearch.toml").read_text())
    assert values["env"] == {"A": "1", "B": "x y"}
    assert values["labels"] == ["a", "b"]
    assert (values["memory"], values["max-iterations"], values["draft"], values["target"]) == ("8g", 20, True, 0.9)
    shown = bare.run("doctor")
    assert "minimize val_bpb" in shown.stderr


def test_existing_files_are_not_replaced(project: Project) -> None:
    """Unless asked to."""
    before = (project.path / "autoresearch.toml").read_text()
    done = project.run("init", "--yes", *ANSWERS)
    assert done.returncode == 2
    assert "is there already" in done.stderr
    assert (project.path / "autoresearch.toml").read_text() == before
    assert project.run("init", "--yes", "--force", *ANSWERS).returncode == 0


def test_the_starter(bare: Project) -> None:
    """`--starter` adds a project that trains, with settings that fit it."""
    for name in ("train.py", "prepare.py"):
        (bare.path / name).unlink()
    done = bare.run("init", "--yes", "--starter")
    assert done.returncode == 0, done.stderr
    assert "val_bpb" in (bare.path / "train.py").read_text()
    assert (bare.path / "prepare.py").is_file()


def ask(project: Project, answers: str, *flags: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "autoresearch_ci", "init", *flags],
        cwd=project.path, env=project.environment, input=answers, capture_output=True, text=True, timeout=60,
    )  # fmt: skip


def test_it_asks_what_must_be_asked(bare: Project) -> None:
    """Defaults for the rest are taken with Enter; a wrong answer is asked again; the table is confirmed."""
    done = ask(bare, "\n\nsoon\n5m\nval_bpb\nsideways\nminimize\n20\n\n\n" + "\n" * 6 + "y\n")
    assert done.returncode == 0, done.stderr
    assert "`time-budget` cannot be 'soon'" in done.stderr
    assert "`direction` cannot be 'sideways'" in done.stderr
    values = tomllib.loads((bare.path / "autoresearch.toml").read_text())
    assert values == {"time-budget": "5m", "metric": "val_bpb", "direction": "minimize", "max-iterations": 20}


def workflow(project: Project) -> Any:
    """What `init` wrote, every value a text."""
    text = (project.path / ".github/workflows/autoresearch.yml").read_text(encoding="utf-8")
    return yaml.load(text, yaml.BaseLoader)


def test_it_asks_about_the_workflow(bare: Project) -> None:
    """Where it trains, who confirms, whether comments are answered, and when the nights are; a wrong answer is asked again."""
    about = "self-hosted,gpu\nresearch\nperhaps\nno\nat night\n7 3 * * *\nBerlin\nEurope/Berlin\nsome\none\n"
    done = ask(bare, "\n\n5m\nval_bpb\nminimize\n\n\n\n" + about + "y\n")
    assert done.returncode == 0, done.stderr
    for name in ("comments", "cron", "timezone", "nights"):
        assert f"error: `{name}` cannot be" in done.stderr
    assert "7 3 * * * Europe/Berlin, all on one branch" in done.stderr
    assert "make the environment `research` on GitHub" in done.stderr
    written = workflow(bare)
    assert written["on"]["schedule"] == [{"cron": "7 3 * * *", "timezone": "Europe/Berlin"}]
    assert "issue_comment" not in written["on"]
    assert written["jobs"].keys() == {"config", "research"}
    assert written["jobs"]["config"]["runs-on"] == ["self-hosted", "gpu"]


def test_without_nights_nothing_is_asked_about_them(bare: Project) -> None:
    """`none` for the time leaves nothing to ask; and what a flag says is not asked."""
    done = ask(bare, "\n\n5m\nval_bpb\nminimize\n\n\n\n\n\nnone\ny\n", "--no-comments")
    assert done.returncode == 0, done.stderr
    assert "time zone" not in done.stdout + done.stderr
    assert set(workflow(bare)["on"]) == {"workflow_dispatch"}


def test_flags_for_the_workflow(bare: Project) -> None:
    """Every question about the workflow has a flag, and `--yes` asks none."""
    flags = (
        *("--cron", "7 3 * * 1-5", "--timezone", "Europe/Berlin", "--nights", "one", "--runs-on", "self-hosted, gpu"),
        *("--small-runs-on", "small", "--environment", "research", "--confirm-nights", "--comments", "--continue"),
    )
    done = bare.run("init", "--yes", *ANSWERS, *flags)
    assert done.returncode == 0, done.stderr
    written = workflow(bare)
    assert written["on"]["schedule"] == [{"cron": "7 3 * * 1-5", "timezone": "Europe/Berlin"}]
    assert written["jobs"]["config"]["runs-on"] == ["self-hosted", "gpu"]
    assert written["jobs"]["comments"]["runs-on"] == "small"
    assert written["jobs"]["research"]["permissions"]["actions"] == "write"
    assert bare.run("init", "--yes", "--force", *ANSWERS, "--no-nightly", "--no-comments").returncode == 0
    assert set(workflow(bare)["on"]) == {"workflow_dispatch"}


@pytest.mark.parametrize(
    "flags",
    [
        ("--cron", "every night"),
        ("--cron", "7 3 * * *", "--no-nightly"),
        ("--timezone", "Nowhere/Land"),
        ("--nights", "some"),
        ("--runs-on", ","),
        ("--environment", "it's"),
        ("--confirm-nights",),
    ],
)
def test_wrong_answers_about_the_workflow(bare: Project, flags: tuple[str, ...]) -> None:
    """One line says what is wrong and one what would be right; nothing is written."""
    done = bare.run("init", "--yes", *ANSWERS, *flags)
    assert done.returncode == 2
    assert [line.partition(": ")[0] for line in done.stderr.splitlines()] == ["error", "hint"]
    assert not (bare.path / ".github").exists()
    assert not (bare.path / "autoresearch.toml").exists()


def test_without_confirmation_nothing_is_written(bare: Project) -> None:
    """Saying no leaves the folder as it was."""
    done = ask(bare, "\n\n5m\nval_bpb\nminimize\n\n\n\n" + "\n" * 6 + "n\n")
    assert done.returncode == 130
    assert not (bare.path / "autoresearch.toml").exists()


def test_an_end_of_input_is_no_traceback(bare: Project) -> None:
    """Without a terminal there is nobody to ask."""
    done = ask(bare, "")
    assert done.returncode == 130
    assert "Traceback" not in done.stderr
