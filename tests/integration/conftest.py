"""What the integration tests share: a repository on this machine with a training script, and sessions on it."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from autoresearch_ci.experiment import Category, Direction, Experiment, History, Session, Status, Verdict
from autoresearch_ci.workspace import Author, Remote, Workspace, inspect_repository
from tests.forge.api import bare_environment
from tests.forge.fixtures import Checkout

SCRIPT = "LR = 0.1\nprint('loss: 1.0')\n"
BOT = Author("a bot", "bot@example.invalid")


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Checkout:
    """A user's repository: `train.py` and `data/prepare.py` on `main`; no configuration of this machine reaches it."""
    path = tmp_path / "user"
    path.mkdir()
    environment = bare_environment(tmp_path)
    for name in ("GIT_CONFIG_NOSYSTEM", "GIT_CONFIG_GLOBAL", "HOME"):
        monkeypatch.setenv(name, environment[name])
    repository = Checkout(path, environment)
    repository.git("init", "--quiet", "--initial-branch=main")
    repository.commit("data/prepare.py", "READY = True\n", "prepare")
    repository.commit("train.py", SCRIPT, "train")
    return repository


@pytest.fixture
def open_workspace(repository: Checkout, tmp_path: Path) -> Callable[..., Workspace]:
    """Opens a workspace on `repository`: by default in the folder `state`, with the repository itself as remote."""

    def open_one(
        state: str = "state",
        *,
        remote: Remote | None = None,
        tag: str = "nov22",
        clock: Callable[[], float] = lambda: 1e9,
    ) -> Workspace:
        checkout = inspect_repository(repository.path, "train.py")
        remote = remote or Remote(url=str(repository.path))
        return Workspace.open(tmp_path / state, checkout, tag=tag, remote=remote, author=BOT, clock=clock)

    return open_one


def history_of(commits: Sequence[tuple[str, Status]], *, base: str, tag: str = "nov22") -> History:
    """A history whose experiments have these commits and verdicts."""
    session = Session(
        tag=tag, metric="loss", direction=Direction.MINIMIZE, training_script="train.py", base_commit=base
    )
    experiments = tuple(
        Experiment(
            number=number,
            commit=commit,
            parent="",
            description=f"change {number}",
            category=Category.OTHER,
            verdict=Verdict(status=status, reason="because"),
            metric=1.0,
            memory_gb=None,
            started_at=dt.datetime(2026, 11, 22, tzinfo=dt.UTC),
        )
        for number, (commit, status) in enumerate(commits)
    )
    return History(session=session, experiments=experiments)
