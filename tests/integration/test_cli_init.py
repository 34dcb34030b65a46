"""Phase 0: the parameters that must be asked for, the Research Config, and the two files."""

from __future__ import annotations

import subprocess
import sys
import tomllib

import pytest

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


def ask(project: Project, answers: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "autoresearch_ci", "init"],
        cwd=project.path, env=project.environment, input=answers, capture_output=True, text=True, timeout=60,
    )  # fmt: skip


def test_it_asks_what_must_be_asked(bare: Project) -> None:
    """Defaults for the rest are taken with Enter; a wrong answer is asked again; the table is confirmed."""
    done = ask(bare, "\n\nsoon\n5m\nval_bpb\nsideways\nminimize\n20\n\n\ny\n")
    assert done.returncode == 0, done.stderr
    assert "`time-budget` cannot be 'soon'" in done.stderr
    assert "`direction` cannot be 'sideways'" in done.stderr
    values = tomllib.loads((bare.path / "autoresearch.toml").read_text())
    assert values == {"time-budget": "5m", "metric": "val_bpb", "direction": "minimize", "max-iterations": 20}


def test_without_confirmation_nothing_is_written(bare: Project) -> None:
    """Saying no leaves the folder as it was."""
    done = ask(bare, "\n\n5m\nval_bpb\nminimize\n\n\n\nn\n")
    assert done.returncode == 130
    assert not (bare.path / "autoresearch.toml").exists()


def test_an_end_of_input_is_no_traceback(bare: Project) -> None:
    """Without a terminal there is nobody to ask."""
    done = ask(bare, "")
    assert done.returncode == 130
    assert "Traceback" not in done.stderr
