"""After a signal the runner leaves 7.5 s: a push has four of them, and nothing keeps the process from ending."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from autoresearch_ci.errors import ForgeError
from autoresearch_ci.executors.process_tree import adopting_orphans
from autoresearch_ci.workspace import Workspace
from tests.forge.fixtures import TOKEN, Checkout
from tests.forge.server import Forge
from tests.integration.conftest import refs_on, two_experiments

HEAD, STATE = "refs/heads/autoresearch/nov22", "refs/autoresearch/nov22"
Open = Callable[..., Workspace]


@pytest.fixture
def silent() -> Iterator[str]:
    """The address of a server that accepts and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}/octo/research.git"


@pytest.fixture
def git_children() -> Iterator[Callable[[], set[psutil.Process]]]:
    """The git processes that the test has started and that are still there, those included that lost their parent."""

    def all_of_them() -> set[psutil.Process]:
        return {child for child in psutil.Process().children(recursive=True) if child.name().startswith("git")}

    before = all_of_them()
    with adopting_orphans():  # as beside a native run
        yield lambda: all_of_them() - before


def test_a_push_to_a_remote_that_hangs(
    open_remote: Open, forge: Forge, silent: str, git_children: Callable[[], set[psutil.Process]]
) -> None:
    """It ends unsuccessful in under five seconds, without a git left over; a later process pushes everything."""
    workspace = open_remote(url=silent)
    kept, _ = two_experiments(workspace)
    workspace.hurry()
    began = time.monotonic()
    assert not workspace.push(now=True)
    assert 3.0 < time.monotonic() - began < 5.0
    assert "in a hurry" in workspace.trouble
    assert git_children() == set()
    later = open_remote()
    assert later.push()
    assert refs_on(forge.repository) == refs_on(workspace.clone)
    assert refs_on(forge.repository)[HEAD] == kept


def test_a_push_in_flight_that_hangs(
    open_remote: Open, silent: str, git_children: Callable[[], set[psutil.Process]]
) -> None:
    """The push beside a run is waited for as long, and the one that asks for it is not tried on top; both in under five seconds."""
    workspace = open_remote(url=silent)
    two_experiments(workspace)
    workspace.push_meanwhile()
    time.sleep(1.0)
    assert git_children() != set()
    workspace.hurry()
    began = time.monotonic()
    assert not workspace.push(now=True)
    assert time.monotonic() - began < 5.0
    assert git_children() == set()
    began = time.monotonic()
    workspace.close()
    assert time.monotonic() - began < 0.5


def test_a_hurry_in_the_middle_of_waiting(open_remote: Open, silent: str) -> None:
    """A signal that comes while the session waits for a push shortens this wait, too."""
    workspace = open_remote(url=silent)
    two_experiments(workspace)
    threading.Timer(1.0, workspace.hurry).start()
    began = time.monotonic()
    assert not workspace.push(now=True)
    assert 4.0 < time.monotonic() - began < 6.5


def test_what_can_be_pushed_in_a_hurry_is(open_remote: Open, forge: Forge) -> None:
    """A remote that answers gets everything, also a push that was in flight, in a moment."""
    workspace = open_remote()
    workspace.push_meanwhile()
    kept, _ = two_experiments(workspace)
    forge.fail_next("POST", "git-receive-pack", 502, delay_s=0.5)
    workspace.push_meanwhile()
    workspace.hurry()
    assert workspace.push(now=True)
    assert refs_on(forge.repository)[HEAD] == kept == workspace.on_remote
    for _ in range(2):  # each push has its own four seconds
        workspace.adopt_report({"summary.md": os.urandom(8)}, "Report")
        assert workspace.push(now=True)


def test_a_token_that_does_not_come(open_remote: Open, forge: Forge) -> None:
    """The time to fetch a token counts as well; a token source that fails is a remote that cannot be reached just now."""
    slow = threading.Event()

    def token() -> str:
        slow.wait(60.0)
        return TOKEN

    workspace = open_remote(token=token)
    two_experiments(workspace)
    workspace.hurry()
    began = time.monotonic()
    assert not workspace.push(now=True)
    assert time.monotonic() - began < 5.0
    slow.set()

    def broken() -> str:
        raise ForgeError("no token from GitHub", hint="wait")

    workspace = open_remote(token=broken)
    assert not workspace.push(now=True)
    assert workspace.trouble == "no token from GitHub"
    assert refs_on(forge.repository) == {}


PROGRAM = """
import signal
import sys
from pathlib import Path
from autoresearch_ci.workspace import Remote, Workspace, inspect_repository
from tests.integration.conftest import BOT, two_experiments

folder, state, url = sys.argv[1:]
workspace = Workspace.open(
    Path(state), inspect_repository(Path(folder), "train.py"), tag="nov22", remote=Remote(url=url), author=BOT
)
two_experiments(workspace)
signal.signal(signal.SIGINT, lambda *_: workspace.hurry())
print("pushing", flush=True)
workspace.push_meanwhile()
pushed = workspace.push(now=True)
print("pushed" if pushed else "not pushed", flush=True)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="sends POSIX signals")
def test_the_process_ends(checkout: Checkout, tmp_path: Path, silent: str, open_remote: Open, forge: Forge) -> None:
    """From the signal to the end of the process it takes under six seconds, its start-up and all threads included; nothing is
    lost."""
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    root = Path(__file__).parents[2]
    with subprocess.Popen(
        [sys.executable, str(program), str(checkout.path), str(tmp_path / "state"), silent],
        env={**os.environ, "PYTHONPATH": str(root)},
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "pushing\n"
        time.sleep(1.0)
        process.send_signal(signal.SIGINT)
        began = time.monotonic()
        assert process.wait(timeout=30) == 0
        assert time.monotonic() - began < 6.0
        assert process.stdout.read() == "not pushed\n"
    later = open_remote()
    assert later.push()
    assert refs_on(forge.repository).keys() == {HEAD, f"{STATE}/journal", f"{STATE}/experiments/0002"}
