"""What the integration tests share: a repository on this machine, sessions on it, and the container engine."""

from __future__ import annotations

import datetime as dt
import os
import subprocess
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
from tests.forge.fixtures import TOKEN, Checkout
from tests.forge.git import bare_environment
from tests.forge.server import Forge

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


class Clock:
    """A clock that stands still until told."""

    now = 1e9

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def open_remote(
    forge: Forge, checkout: Checkout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Workspace]:
    """Opens a workspace on the forge over HTTP; every `state` is another machine."""
    for name in ("GIT_CONFIG_NOSYSTEM", "GIT_CONFIG_GLOBAL", "HOME"):
        monkeypatch.setenv(name, checkout.environment[name])

    def open_one(
        state: str = "state",
        *,
        token: str | Callable[[], str] = TOKEN,
        url: str = "",
        clock: Callable[[], float] | None = None,
        **options: float,
    ) -> Workspace:
        ask = (lambda: token) if isinstance(token, str) else token
        remote = Remote(url=url or forge.clone_url, token=ask, **options)
        found = inspect_repository(checkout.path, "train.py")
        return Workspace.open(tmp_path / state, found, tag="nov22", remote=remote, author=BOT, clock=clock or Clock())

    return open_one


def refs_on(repository: Path) -> dict[str, str]:
    """The research refs of a repository: name → commit."""
    command = ["git", "-C", str(repository), "for-each-ref", "--format=%(refname) %(objectname)"]
    done = subprocess.run(
        [*command, "refs/heads/autoresearch", "refs/autoresearch"],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    return dict(line.split(" ", 1) for line in done.stdout.splitlines())


def two_experiments(workspace: Workspace, script: str = "LR = 2\n") -> tuple[str, str]:
    """Records a baseline, a keep and a discard; their hashes without the baseline's."""
    base = workspace.base_commit
    kept = workspace.commit(base, script, "two")
    lost = workspace.commit(kept, "LR = 3\n", "three")
    history = history_of([(base, Status.KEEP), (kept, Status.KEEP), (lost, Status.DISCARD)], base=base)
    workspace.record(history, {"journal.jsonl": script.encode()})
    return kept, lost
