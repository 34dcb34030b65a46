"""A session that is stopped, or that somebody looks at while it runs."""

from __future__ import annotations

import os
import signal
import sys

import pytest

from tests.forge.fixtures import TRAIN
from tests.project import Project, wait_for

assert sys.platform != "win32", "these tests send POSIX signals"

SLOW = TRAIN.replace("import math\n", "import math\nimport time\n") + "time.sleep(0.6)\n"


def rows(project: Project, ref: str) -> list[list[str]]:
    return [line.split("\t") for line in project.git("show", ref).splitlines()]


@pytest.mark.parametrize(("signal_number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 143)])
def test_a_signal_loses_nothing(project: Project, signal_number: int, code: int) -> None:
    """The run in flight is dropped, everything else is on the remote, and the session goes on afterwards."""
    project.commit({"train.py": SLOW})
    process = project.start("run", "--tag", "night", "--max-iterations", "50")
    wait_for(lambda: "refs/heads/autoresearch/night" in project.git("for-each-ref"))  # the baseline is decided
    os.kill(process.pid, signal_number)
    _, err = process.communicate(timeout=30)
    assert process.returncode == code, err
    if signal_number == signal.SIGINT:
        assert "Pull request created" in err or "no pull request" in err
    again = project.run("run", "--tag", "night", "--max-iterations", "2")
    assert again.returncode == 0, again.stderr
    table = rows(project, "autoresearch/night:results.tsv")
    assert len(table) >= 4
    assert len({row[0] for row in table}) == len(table)


def test_status_sees_a_running_session_and_a_second_one_is_refused(project: Project) -> None:
    """From another terminal: what runs now; and the tag is taken while it runs."""
    project.commit({"train.py": SLOW})
    process = project.start("run", "--tag", "night", "--max-iterations", "50")
    wait_for(lambda: "**Running:** experiment" in project.run("status").stdout)
    second = project.run("run", "--tag", "night")
    assert second.returncode == 6
    assert "running already" in second.stderr
    process.terminate()
    process.communicate(timeout=30)
