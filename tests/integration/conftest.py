"""What the integration tests share: a repository on this machine, sessions on it, and the container engine."""

from __future__ import annotations

import datetime as dt
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NoReturn

import docker
import pytest
from docker.errors import ImageNotFound

from autoresearch_ci.errors import MachineError
from autoresearch_ci.executors.engine import connect
from autoresearch_ci.executors.image import Image, ensure_image
from autoresearch_ci.experiment import Category, Direction, Experiment, History, Session, Status, Verdict
from autoresearch_ci.workspace import Author, Remote, Workspace, inspect_repository
from tests.forge.api import bare_environment
from tests.forge.fixtures import Checkout

SCRIPT = "LR = 0.1\nprint('loss: 1.0')\n"
BOT = Author("a bot", "bot@example.invalid")
BASE_IMAGE = "autoresearch-ci/test-base:bookworm"  # Debian with Python, pip and a compiler; no test pulls an image


def without_engine(reason: str) -> NoReturn:
    """Skips the test; fails it where `REQUIRE_DOCKER=1` says that an engine must be there."""
    if os.environ.get("REQUIRE_DOCKER") == "1":
        pytest.fail(f"REQUIRE_DOCKER=1, but {reason}")
    pytest.skip(reason)


@pytest.fixture(scope="session")
def engine() -> Iterator[docker.DockerClient]:
    """A client of this machine's container engine."""
    try:
        client = connect()
    except MachineError as error:
        without_engine(error.message)
    yield client
    client.close()


@pytest.fixture(scope="session")
def base_image(engine: docker.DockerClient) -> str:
    """The name of a base image that is here."""
    try:
        engine.images.get(BASE_IMAGE)
    except ImageNotFound:
        without_engine(f"the image {BASE_IMAGE} is not here")
    return BASE_IMAGE


@pytest.fixture(scope="session")
def cpu_image(engine: docker.DockerClient, base_image: str) -> Image:
    """The image of the CPU platform, without torch; kept, so that the next test session builds nothing."""
    return ensure_image(
        engine,
        platform="cpu",
        base_image=base_image,
        requirements=None,
        torch_version="",
        # A loopback address puts the build on the host's network: the engines of some sandboxes have no bridge.
        build_args={"PIP_FIND_LINKS": "http://127.0.0.1:9/"},
        on_line=print,
    )


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
