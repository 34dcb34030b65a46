"""`doctor --sandbox`, as a user starts it."""

from __future__ import annotations

import json
import shutil

import docker
import pytest

from tests.integration.test_attacks_container import ATTEMPTS, REFUSED_SINCE
from tests.project import Project

SETTINGS = """\
time-budget = "20s"
metric = "val_bpb"
direction = "minimize"
executor = "container"
platform = "cpu"
base-image = "{base_image}"
requirements = "requirements.txt"
[build-args]
TORCH_VERSION = ""
PIP_FIND_LINKS = "http://127.0.0.1:9/"
"""
SECRET = "hunter2-hunter2"


@pytest.fixture
def contained(project: Project, engine: docker.DockerClient, base_image: str) -> Project:
    """A project whose runs happen in containers without torch."""
    settings = SETTINGS.format(base_image=base_image)
    project.commit({"requirements.txt": "# nothing\n", "autoresearch.toml": settings})
    return project


def test_the_sandbox_of_a_container_is_shown(contained: Project, engine: docker.DockerClient) -> None:
    """Every attempt is told; the exit code is 0 when all were refused and 4 when one, which an old engine allows, was not."""
    done = contained.run("doctor", "--sandbox", "--json", GITHUB_TOKEN=SECRET, AUTORESEARCH_TOKEN=SECRET)
    rows = json.loads(done.stdout)
    assert [row["attempt"] for row in rows] == ATTEMPTS
    through = {row["attempt"] for row in rows if row["got_through"] is not False}
    version = int(engine.version()["Version"].split(".")[0])
    assert through <= {name for name, since in REFUSED_SINCE.items() if version < since}
    assert done.returncode == (4 if through else 0), done.stderr
    assert SECRET not in done.stdout + done.stderr
    assert "attempts were" in done.stderr


def test_a_variable_that_holds_a_secret_gets_through(contained: Project) -> None:
    """Who hands a key to the script by `env` is told so, by its name, in a table and by exit code 4."""
    done = contained.run("doctor", "--sandbox", "--env", f"WANDB_API_KEY={SECRET}")
    assert done.returncode == 4
    row = next(line for line in done.stderr.splitlines() if "read a secret in the environment" in line)
    assert "GOT THROUGH" in row
    assert "WANDB_API_KEY" in row
    assert SECRET not in done.stdout + done.stderr


@pytest.mark.skipif(shutil.which("bwrap") is None, reason="without a wall the canary would search this very machine")
def test_native_runs_are_looked_at_without_leave(project: Project) -> None:
    """The canary needs no `allow-native`: it is harmless. What gets through natively is shown as such."""
    done = project.run("doctor", "--sandbox", "--json", "--no-allow-native", GITHUB_TOKEN=SECRET)
    rows = json.loads(done.stdout)
    assert [row["attempt"] for row in rows] == ATTEMPTS
    assert done.returncode == (4 if any(row["got_through"] is not False for row in rows) else 0), done.stderr
    assert "executor: native (bubblewrap" in done.stderr
    assert SECRET not in done.stdout + done.stderr


def test_what_cannot_be_looked_at_is_told(contained: Project) -> None:
    """A file of requirements that is not there, and an engine that does not answer, end in one line with a hint."""
    missing = contained.run("doctor", "--sandbox", "--requirements", "missing.txt")
    assert missing.returncode == 2
    assert "`missing.txt` cannot be read" in missing.stderr
    silent = contained.run("doctor", "--sandbox", DOCKER_HOST="unix:///nowhere.sock")
    assert silent.returncode == 4
    assert "no container engine answers at DOCKER_HOST" in silent.stderr
