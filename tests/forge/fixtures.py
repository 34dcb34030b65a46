"""What tests ask for by name: a forge, a repository with a tiny training project on it, and a checkout of it."""

from __future__ import annotations

import base64
import os
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.forge.git import bare_environment
from tests.forge.server import Forge

TOKEN = "ghs_TestTokenOfTheForge0123456789"

# No torch: a bowl whose bottom is at LEARNING_RATE = 0.1, WIDTH = 256, so that a search finds improvements at once.
TRAIN = '''\
"""A training script that needs nothing and takes no time."""

import math
import os

LEARNING_RATE = 0.04
WIDTH = 64
DROPOUT = 0.1

budget = float(os.environ.get("AUTORESEARCH_TIME_BUDGET", "300"))
loss = 1.0 + (math.log10(LEARNING_RATE) + 1.0) ** 2 + 0.01 * (math.log2(WIDTH) - 8.0) ** 2 + DROPOUT**2
print("step 1 of 1")
print(f"val_bpb: {loss:.6f}")
print("peak_vram_mb: 12.5")
'''
FILES = {
    "train.py": TRAIN,
    "prepare.py": '"""Nothing to prepare."""\n',
    "README.md": "# A tiny training project\n",
    ".gitignore": "results.tsv\n",
}


def git_environment(url: str = "", token: str = "", *, home: Path) -> dict[str, str]:
    """Variables for a git process of a test: no configuration of this machine; the token for `url` in the header."""
    environment = bare_environment(home)
    if token:
        basic = base64.b64encode(f"x-access-token:{token}".encode()).decode()
        environment |= {
            "GIT_CONFIG_COUNT": "1",
            "GIT_CONFIG_KEY_0": f"http.{url}/.extraHeader",
            "GIT_CONFIG_VALUE_0": f"Authorization: Basic {basic}",
        }
    return environment


@dataclass(frozen=True)
class Checkout:
    """A clone of the forge's repository, as a person or actions/checkout makes it; `environment` carries the token."""

    path: Path
    environment: Mapping[str, str]

    def git(self, *arguments: str, environment: Mapping[str, str] | None = None) -> str:
        """What git prints. Raises CalledProcessError, with stderr."""
        done = subprocess.run(
            ["git", *arguments],
            cwd=self.path,
            env=dict(self.environment if environment is None else environment),
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        )
        return done.stdout.strip()

    def commit(self, name: str, text: str, message: str) -> str:
        """Writes the file and commits it on the current branch; the hash."""
        path = self.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        self.git("add", "--", name)
        self.git("commit", "--quiet", "-m", message)
        return self.git("rev-parse", "HEAD")

    def push_branch(self, branch: str, start: str = "origin/main", *, text: str = "LEARNING_RATE = 0.1\n") -> str:
        """A branch from `start` with one commit that changes train.py, pushed; the hash."""
        self.git("checkout", "--quiet", "-B", branch, start)
        sha = self.commit("train.py", text, f"one change on {branch}")
        self.git("push", "--quiet", "--force", "origin", branch)
        return sha


@pytest.fixture
def forge(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Forge]:
    """An empty forge that knows TOKEN. The test fails when anything on the wire broke GitHub's API description."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with Forge(tmp_path / "forge", tokens=frozenset({TOKEN})) as forge:
        yield forge
    assert not forge.violations, "\n".join(forge.violations)


@pytest.fixture
def checkout(forge: Forge, tmp_path: Path) -> Checkout:
    """A checkout of the forge's repository, whose `main` holds FILES, pushed over HTTP."""
    path = tmp_path / "checkout"
    path.mkdir()
    checkout = Checkout(path, git_environment(forge.server_url, TOKEN, home=tmp_path))
    checkout.git("init", "--quiet", "--initial-branch=main")
    checkout.git("remote", "add", "origin", forge.clone_url)
    for name, text in FILES.items():
        (path / name).write_text(text, encoding="utf-8")
    checkout.git("add", "--all")
    checkout.git("commit", "--quiet", "-m", "a tiny training project")
    checkout.git("push", "--quiet", "--set-upstream", "origin", "main")
    checkout.git("remote", "set-head", "origin", "main")
    return checkout


@pytest.fixture
def runner_environment(forge: Forge, checkout: Checkout) -> dict[str, str]:
    """What the runner of an Action sets so that the product finds this forge, besides the variables of this process."""
    return {
        **os.environ,
        "GITHUB_ACTIONS": "true",
        "GITHUB_API_URL": forge.api_url,
        "GITHUB_SERVER_URL": forge.server_url,
        "GITHUB_REPOSITORY": forge.full_name,
        "GITHUB_WORKSPACE": str(checkout.path),
        "GITHUB_TOKEN": TOKEN,
    }
