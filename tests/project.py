"""The product as a user starts it: a real process, a real repository, a real forge."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.forge.fixtures import TRAIN, git_environment

SETTINGS = """\
time-budget = "20s"
metric = "val_bpb"
direction = "minimize"
executor = "native"
allow-native = true
"""


@dataclass
class Project:
    """A repository with a training script that takes no time, and the environment in which commands run in it."""

    path: Path
    home: Path
    environment: dict[str, str] = field(default_factory=dict)

    def git(self, *arguments: str) -> str:
        done = subprocess.run(
            ["git", *arguments], cwd=self.path, env={**os.environ, **git_environment(home=self.home)}, check=True,
            capture_output=True, text=True, timeout=60,
        )  # fmt: skip
        return done.stdout.strip()

    def commit(self, files: Mapping[str, str], message: str = "change") -> str:
        for name, text in files.items():
            (self.path / name).parent.mkdir(parents=True, exist_ok=True)
            (self.path / name).write_text(text, encoding="utf-8")
        self.git("add", "--all")
        self.git("commit", "--quiet", "--allow-empty", "-m", message)
        return self.git("rev-parse", "HEAD")

    def start(self, *arguments: str, **environment: str) -> subprocess.Popen[str]:
        """The program as its own process (and process group, so that a signal reaches nothing of the test's)."""
        return subprocess.Popen(
            [sys.executable, "-m", "autoresearch_ci", *arguments],
            cwd=self.path,
            env={**self.environment, **environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def run(self, *arguments: str, timeout_s: float = 120, **environment: str) -> subprocess.CompletedProcess[str]:
        """The program's exit code and output; killed when it takes too long."""
        process = self.start(*arguments, **environment)
        try:
            out, err = process.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
        return subprocess.CompletedProcess(arguments, process.returncode, out, err)


def wait_for(condition: Callable[[], bool], timeout_s: float = 60.0) -> None:
    """Until `condition()` is true; fails the test when it never is."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """A local repository on `main` with settings, outside Actions and without any token."""
    path = tmp_path / "project"
    path.mkdir()
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("AUTORESEARCH_", "GITHUB_", "GH_", "GIT_", "RUNNER_"))
    }
    environment |= {
        "HOME": str(tmp_path),
        "XDG_STATE_HOME": str(tmp_path / "state"),
        "AUTORESEARCH_CACHE": str(tmp_path / "cache"),
        "PYTHONPATH": str(Path(__file__).parents[1]),
        "NO_COLOR": "1",
    }
    project = Project(path, tmp_path, environment)
    project.git("init", "--quiet", "--initial-branch=main")
    project.commit({"train.py": TRAIN, "prepare.py": "", "autoresearch.toml": SETTINGS}, "a tiny training project")
    return project
