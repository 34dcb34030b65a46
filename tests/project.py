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

from tests.forge.fixtures import TOKEN, TRAIN, Checkout, git_environment
from tests.forge.server import Forge

SETTINGS = """\
time-budget = "20s"
metric = "val_bpb"
direction = "minimize"
executor = "native"
allow-native = true
"""


@dataclass
class Project:
    """A repository with a training script that takes no time, and the environment in which commands run in it.

    `server_url`: of the forge that its `origin` is on, empty for a repository on this machine alone.
    """

    path: Path
    home: Path
    environment: dict[str, str] = field(default_factory=dict)
    server_url: str = ""

    def git(self, *arguments: str) -> str:
        done = subprocess.run(
            ["git", *arguments], cwd=self.path, check=True, capture_output=True, text=True, timeout=60,
            env={**os.environ, **git_environment(self.server_url, TOKEN if self.server_url else "", home=self.home)},
        )  # fmt: skip
        return done.stdout.strip()

    def commit(self, files: Mapping[str, str], message: str = "change") -> str:
        for name, text in files.items():
            (self.path / name).parent.mkdir(parents=True, exist_ok=True)
            (self.path / name).write_text(text, encoding="utf-8")
        self.git("add", "--all")
        self.git("commit", "--quiet", "--allow-empty", "-m", message)
        return self.git("rev-parse", "HEAD")

    def push(self) -> None:
        """The current branch to the forge."""
        self.git("push", "--quiet", "origin", "HEAD")

    def start(self, *arguments: str, log: str = "", **environment: str) -> subprocess.Popen[str]:
        """The program as its own process (and process group, so that a signal reaches nothing of the test's).

        `log`: the file beside the project that gets all that it says; without one it is in pipes, which a long session fills.
        """
        with (self.home / log if log else Path(os.devnull)).open("wb") as file:
            return subprocess.Popen(
                [sys.executable, "-m", "autoresearch_ci", *arguments],
                cwd=self.path,
                env={**self.environment, **environment},
                stdin=subprocess.DEVNULL,
                stdout=file if log else subprocess.PIPE,
                stderr=subprocess.STDOUT if log else subprocess.PIPE,
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


def _environment(home: Path) -> dict[str, str]:
    """A shell of a person without any token, whose folders are below `home`."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("AUTORESEARCH_", "GITHUB_", "GH_", "GIT_", "RUNNER_"))
    }
    return kept | {
        "HOME": str(home),
        "XDG_STATE_HOME": str(home / "state"),
        "AUTORESEARCH_CACHE": str(home / "cache"),
        "PYTHONPATH": str(Path(__file__).parents[1]),
        "NO_COLOR": "1",
    }


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """A local repository on `main` with settings, outside Actions and without any token."""
    path = tmp_path / "project"
    path.mkdir()
    project = Project(path, tmp_path, _environment(tmp_path))
    project.git("init", "--quiet", "--initial-branch=main")
    project.commit({"train.py": TRAIN, "prepare.py": "", "autoresearch.toml": SETTINGS}, "a tiny training project")
    return project


@pytest.fixture
def hosted(forge: Forge, checkout: Checkout, tmp_path: Path) -> Project:
    """The same project with the test forge as its GitHub, and a token, as a person at a shell has them."""
    checkout.commit("autoresearch.toml", SETTINGS + 'forge = "github"\n', "settings")
    checkout.git("push", "--quiet", "origin", "main")
    environment = _environment(tmp_path) | {
        "NO_PROXY": "127.0.0.1",
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GITHUB_API_URL": forge.api_url,
        "GITHUB_SERVER_URL": forge.server_url,
        "GITHUB_REPOSITORY": forge.full_name,
        "GITHUB_TOKEN": TOKEN,
    }
    return Project(checkout.path, tmp_path, environment, forge.server_url)
