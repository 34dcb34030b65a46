"""What a person can get wrong: one line that says what, a hint, the exit code; nothing half-written, never a traceback."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.forge.fixtures import TRAIN
from tests.project import Project


def no_repository(project: Project) -> None:
    shutil.rmtree(project.path / ".git")


def unborn_branch(project: Project) -> None:
    no_repository(project)
    project.git("init", "--quiet")


def shallow_clone(project: Project) -> None:
    project.commit({"more.txt": "x"})
    origin = project.path.rename(project.path.with_name("origin"))
    subprocess.run(["git", "clone", "--quiet", "--depth=1", f"file://{origin}", str(project.path)], check=True)


def missing_script(project: Project) -> None:
    project.git("rm", "--quiet", "train.py")
    project.git("commit", "--quiet", "-m", "gone")


def symlink(project: Project) -> None:
    (project.path / "train.py").unlink()
    (project.path / "train.py").symlink_to("prepare.py")
    project.commit({})


def script_is_a_folder(project: Project) -> None:
    (project.path / "train.py").unlink()
    project.commit({"train.py/x.py": ""})


def broken_script(project: Project) -> None:
    project.commit({"train.py": "def (\n"})


def no_metric(project: Project) -> None:
    project.commit({"train.py": "print('loss: 1')\n"})


def crashing(project: Project) -> None:
    project.commit({"train.py": TRAIN + "raise SystemExit(3)\n"})


def nothing(project: Project) -> None:
    pass


def unknown_setting(project: Project) -> None:
    project.commit({"autoresearch.toml": "time-budgt = 3\n"})


def no_toml(project: Project) -> None:
    project.commit({"autoresearch.toml": "time-budget = \n"})


def no_settings(project: Project) -> None:
    (project.path / "autoresearch.toml").unlink()


def not_ours(project: Project) -> None:
    project.git("branch", "autoresearch/t")


CASES: list[tuple[Callable[[Project], None], list[str], int, str]] = [
    (no_repository, [], 6, "not in a git repository"),
    (unborn_branch, [], 6, "no commit yet"),
    (shallow_clone, [], 6, "shallow"),
    (missing_script, [], 2, "no training script `train.py`"),
    (nothing, ["--training-script", "../train.py"], 2, "training-script"),
    (symlink, [], 2, "is a symlink"),
    (script_is_a_folder, [], 2, "is a folder"),
    (broken_script, [], 3, "does not parse"),
    (no_metric, [], 3, "no finite `val_bpb`"),
    (crashing, [], 3, "exit code 3"),
    (unknown_setting, [], 2, "did you mean `time-budget`?"),
    (no_toml, [], 2, "not valid TOML"),
    (no_settings, [], 2, "`time-budget`, `metric`, `direction` must be set"),
    (nothing, ["--time-budget", "soon"], 2, "`time-budget` cannot be 'soon'"),
    (nothing, ["--nonsense", "1"], 2, "nonsense"),
    (nothing, ["--config", "missing.toml"], 2, "no settings file"),
    (nothing, ["--tag", "a/b"], 2, "`tag` cannot be"),
    (nothing, ["--resume", "require"], 2, "no session `t` to resume"),
    (not_ours, [], 6, "no session made it"),
    (nothing, ["--executor", "container"], 4, "no container engine answers"),
    (nothing, ["--platform", "mps"], 4, "mps"),
    (nothing, ["--platform", "cpu", "--parallel", "1024"], 2, "`parallel` is 1024, and runs may use"),
    (nothing, ["--command", "no-such-program {training-script}"], 2, "no-such-program"),
    (nothing, ["--state-dir", "/proc/nowhere"], 4, "state-dir"),
    (nothing, ["--state-dir", "train.py"], 4, "state-dir"),
    (nothing, ["--cache", "/proc/nowhere"], 4, "cache"),
    (nothing, ["--forge", "github"], 2, "repository"),
    (nothing, ["--requirements", "missing.txt"], 2, "missing.txt"),
    (nothing, ["--plan", "missing.txt"], 2, "missing.txt"),
    (nothing, ["--hypothesis", "LERNING_RATE=1"], 2, "did you mean `LEARNING_RATE`?"),
    (nothing, ["--prepare", "python -c 'raise SystemExit(9)'"], 4, "exit code 9"),
]


@pytest.mark.parametrize(("prepare", "arguments", "code", "says"), CASES)
def test_one_line_a_hint_and_the_exit_code(
    project: Project, prepare: Callable[[Project], None], arguments: list[str], code: int, says: str
) -> None:
    """Every wrong input of the contract."""
    prepare(project)
    tag = [] if "--tag" in arguments else ["--tag", "t"]
    done = project.run("run", "--max-iterations", "1", *tag, *arguments, DOCKER_HOST="unix:///nowhere/docker.sock")
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    error = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    hint = [line for line in done.stderr.splitlines() if line.startswith("hint: ")]
    assert len(error) == 1
    assert len(hint) == 1
    assert says in f"{error[0]} {hint[0]}"
    assert done.stdout == ""


def test_a_taken_tag(project: Project) -> None:
    """`resume: never` wants a new tag; another metric cannot go on under the same tag."""
    assert project.run("run", "--tag", "t", "--max-iterations", "1").returncode == 0
    again = project.run("run", "--tag", "t", "--resume", "never")
    assert again.returncode == 2
    assert "the tag `t` is taken" in again.stderr
    other = project.run("run", "--tag", "t", "--direction", "maximize")
    assert other.returncode == 2
    assert "could not be compared" in other.stderr


def test_a_branch_that_somebody_else_pushed_to(project: Project) -> None:
    """Their commit is never overwritten, and the session says whose move it is."""
    assert project.run("run", "--tag", "t", "--max-iterations", "1").returncode == 0
    tree = project.git("rev-parse", "main^{tree}")
    theirs = project.git("commit-tree", tree, "-p", "autoresearch/t", "-m", "a person's")
    project.git("update-ref", "refs/heads/autoresearch/t", theirs)
    done = project.run("run", "--tag", "t", "--max-iterations", "3")
    assert done.returncode == 6, done.stderr
    assert "Traceback" not in done.stderr
    assert project.git("rev-parse", "autoresearch/t") == theirs


def test_a_full_disk(project: Project, tmp_path: Path) -> None:
    """A state folder on a file system without space: exit code 4, and no traceback."""
    small = tmp_path / "small"
    small.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", str(small)], capture_output=True)
    if mounted.returncode:
        pytest.skip("needs the right to mount a small file system")
    try:
        done = project.run("run", "--tag", "t", "--max-iterations", "40", "--state-dir", str(small))
    finally:
        subprocess.run(["umount", "--lazy", str(small)], check=True)
    assert done.returncode == 4, done.stderr
    assert "Traceback" not in done.stderr
    assert "No space left" in done.stderr or "full" in done.stderr


def test_commands_that_look_need_something_to_look_at(project: Project) -> None:
    """No session, no table: exit code 2 and what to do."""
    for command in (["status"], ["report"], ["export"], ["finalize"], ["merge"]):
        done = project.run(*command)
        assert done.returncode == 2, (command, done.stderr)
        assert "hint: " in done.stderr
        assert "Traceback" not in done.stderr
    for command in (
        ["export", "--format", "pdf"],
        ["report", "missing.tsv"],
        ["merge", "--method", "magic"],
        ["report", "train.py"],
    ):
        done = project.run(*command)
        assert done.returncode == 2, (command, done.stderr)
        assert "Traceback" not in done.stderr
