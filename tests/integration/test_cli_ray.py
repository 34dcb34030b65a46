"""A session on a cluster, as a user starts it."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.project import Project

pytest.importorskip("ray")
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="Ray's local clusters are tested on Linux")

SECRET = "never-to-be-seen-" + "51c2"
SCRIPT = """\
import os, pathlib
LR = 0.1
for folder in pathlib.Path('/proc').glob('[0-9]*'):
    try:
        print((folder / 'environ').read_bytes())
    except OSError:
        pass
print('val_bpb:', 1 + LR)
"""


def test_a_session_on_a_cluster_of_this_machine(project: Project) -> None:
    """The cluster is started, says what it is, makes the runs, sees no token, and is gone at the end."""
    project.commit({"train.py": SCRIPT})
    done = project.run(
        "run", "--executor", "ray", "--ray-address", "local", "--parallel", "1", "--max-iterations", "1",
        "--baseline-runs", "1", "--verify-runs", "0", "--tag", "nov22",
        DOCKER_HOST="unix:///nowhere/docker.sock", MY_TOKEN=SECRET, timeout_s=200,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "1 slot of class `cpu` on 1 node" in done.stderr
    rows = project.git("show", "autoresearch/nov22:results.tsv").splitlines()
    assert len(rows) >= 2
    assert float(rows[1].split("\t")[1]) == pytest.approx(1.1)
    logs = project.git("grep", "-l", "AUTORESEARCH_OUTPUT_DIR", "refs/autoresearch/nov22/journal").splitlines()
    assert logs
    with pytest.raises(subprocess.CalledProcessError):  # git's word for nothing found
        project.git("grep", "-l", SECRET, "refs/autoresearch/nov22/journal")


def test_a_cluster_that_does_not_answer(project: Project) -> None:
    """One line, a hint, the exit code, and nothing was trained."""
    done = project.run("run", "--executor", "ray", "--ray-address", "127.0.0.1:1", "--max-iterations", "1")
    assert done.returncode == 4
    assert "no Ray answers at 127.0.0.1:1" in done.stderr
    assert "Traceback" not in done.stderr
    done = project.run("doctor", "--executor", "ray", "--ray-address", "ray://127.0.0.1:1")
    assert "client protocol" in done.stderr
