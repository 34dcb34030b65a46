"""A worker of a cluster, in this process: what Ray would ask it on its node."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from autoresearch_ci import __version__
from autoresearch_ci.executors.image import Image
from autoresearch_ci.executors.ray_exports import pack
from autoresearch_ci.executors.ray_messages import Outcome, Refused, Setup
from autoresearch_ci.executors.ray_worker import Worker
from autoresearch_ci.experiment import Ending
from autoresearch_ci.platforms import PROBE, parse_probe
from autoresearch_ci.runs import RunRequest
from tests.integration.conftest import BASE_IMAGE

if sys.platform == "win32":
    pytest.skip("the scripts use POSIX files", allow_module_level=True)


@pytest.fixture
def setup(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Setup:
    """A session whose workers keep their folders in a place of this test."""
    (tmp_path / "node").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "node"))
    return Setup(session="nov22-1234", cache=str(tmp_path / "cache"), platform="cpu")


@pytest.fixture
def worker(setup: Setup) -> Iterator[Worker]:
    worker = Worker(setup.session, 1, gpu=False)
    yield worker
    worker.close()


def request(folder: Path, script: str, **others: Any) -> tuple[RunRequest, bytes]:
    """A request as it arrives: its paths are the orchestrator's, and not to be used here."""
    tree = folder / "tree"
    tree.mkdir(exist_ok=True)
    (tree / "train.py").write_text(script)
    (tree / "data.txt").write_text("1 2 3\n")
    elsewhere = Path("/nowhere/at/all")
    made = RunRequest(
        name="nov22-0001", tree=elsewhere, script="train.py", command="python train.py", variables={"MINE": "1"},
        timeout_s=60.0, log=elsewhere,
    )  # fmt: skip
    return replace(made, **others), pack(tree)


def log_of(worker: Worker) -> str:
    return worker.tail(b"", 0).data.decode()


def test_a_native_worker(setup: Setup, worker: Worker, tmp_path: Path) -> None:
    """It says what it is, makes runs one after another, each in a fresh export, and leaves nothing."""
    assert worker.about().version == __version__
    wall = worker.open(setup, "native")
    assert isinstance(wall, str)
    probed = worker.probe(PROBE)
    assert isinstance(probed, str)
    assert parse_probe(probed).python
    asked, export = request(tmp_path, "import os; print(os.environ['MINE']); open('left.txt', 'x')")
    for _ in range(2):
        outcome = worker.run(asked, export, None, preparing=False)
        assert isinstance(outcome, Outcome)
        assert (outcome.run.ending, outcome.run.exit_code, outcome.changed) == (Ending.EXITED, 0, ())
        assert log_of(worker) == "1\n"
    node = tmp_path / "node" / f"autoresearch-ci-{os.getuid()}"
    assert not list((node / setup.session / "worker-1").glob("run-*"))
    worker.close()
    assert not (node / setup.session).exists()


def test_a_run_that_changes_its_export_is_told(setup: Setup, worker: Worker, tmp_path: Path) -> None:
    """Without a wall a script can change what is the commit's; the names come back."""
    worker.open(replace(setup, walled=False), "native")
    script = "import os; os.chmod('data.txt', 0o644); open('data.txt', 'w').write('4')"
    asked, export = request(tmp_path, script)
    outcome = worker.run(asked, export, None, preparing=False)
    assert isinstance(outcome, Outcome)
    assert outcome.changed == ("data.txt",)


def test_a_run_can_be_interrupted(setup: Setup, worker: Worker, tmp_path: Path) -> None:
    """From another thread, as Ray does."""
    worker.open(setup, "native")
    asked, export = request(tmp_path, "import time; print('on', flush=True); time.sleep(60)")
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(worker.run, asked, export, None, preparing=False)
        deadline = time.monotonic() + 30
        while log_of(worker) != "on\n":
            assert time.monotonic() < deadline
            threading.Event().wait(0.05)
        worker.interrupt()
        outcome = running.result(30)
    assert isinstance(outcome, Outcome)
    assert outcome.run.ending is Ending.INTERRUPTED


def test_a_log_whose_front_was_dropped_is_sent_again(setup: Setup, worker: Worker, tmp_path: Path) -> None:
    """A cut log has moved: what was sent of it is of no use, and its first line says so."""
    worker.open(setup, "native")
    asked, export = request(tmp_path, "for n in range(700_000): print('x' * 50)\nprint('loss: 1')")
    worker.run(asked, export, None, preparing=False)
    first = worker.tail(b"", 10_000)
    assert first.notice.endswith(b"bytes of this log were dropped here, its end is kept]\n")
    assert first.data.startswith(first.notice)
    data, offset = first.data, len(first.data)
    while more := worker.tail(first.notice, offset).data:
        data, offset = data + more, offset + len(more)
    assert data.endswith(b"x\nloss: 1\n")


def test_what_a_worker_cannot_do_is_a_value(setup: Setup, worker: Worker, tmp_path: Path) -> None:
    """No error of ours is raised through Ray, which would wrap it."""
    (tmp_path / "file").touch()
    refused = worker.open(replace(setup, cache=str(tmp_path / "file" / "cache")), "native")
    assert isinstance(refused, Refused)
    assert "cannot make" in refused.message
    worker.open(setup, "native")
    asked, export = request(tmp_path, "", command="no-such-program")
    outcome = worker.run(asked, export, None, preparing=False)
    assert isinstance(outcome, Refused)
    assert outcome.settings


def test_a_worker_with_containers(setup: Setup, worker: Worker, tmp_path: Path, cpu_image: Image) -> None:
    """The image of the settings, and its container's wall; outputs come back, what is given is there."""
    arguments = {"PIP_FIND_LINKS": "http://127.0.0.1:9/", "TORCH_VERSION": ""}
    opened = worker.open(replace(setup, base_image=BASE_IMAGE, build_args=arguments, registry="none"), "container")
    assert isinstance(opened, str), opened
    assert worker.about().engine == ""
    script = (
        "import os; open(os.environ['AUTORESEARCH_OUTPUT_DIR'] + '/out.txt', 'w').write('left'); print(os.getcwd())"
    )
    asked, export = request(tmp_path, script, outputs=Path("/nowhere/outputs"))
    outcome = worker.run(asked, export, None, preparing=False)
    assert isinstance(outcome, Outcome), outcome
    assert outcome.run.exit_code == 0
    assert outcome.outputs is not None
    assert b"left" in outcome.outputs
    assert log_of(worker) == "/workspace\n"


def test_a_node_without_the_image(setup: Setup, worker: Worker, cpu_image: Image) -> None:
    """An image that is not there and cannot be had is the machine's error, in one line with a remedy."""
    wanted = replace(setup, base_image="127.0.0.1:9/no/such:image", registry="none")
    refused = worker.open(wanted, "container")
    assert isinstance(refused, Refused)
    assert not refused.settings
    assert refused.message.startswith("the base image 127.0.0.1:9/no/such:image cannot be pulled")
    assert refused.hint
