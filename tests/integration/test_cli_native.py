"""Native runs need leave: a setting's, or that of a person at a terminal."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import pytest

from tests.project import SETTINGS, Project

if sys.platform == "win32":
    pytest.skip("it has no pseudo-terminals", allow_module_level=True)

import pty

ONE = ("run", "--executor", "native", "--max-iterations", "0")


@pytest.fixture
def asking(project: Project) -> Project:
    """A project whose settings do not allow native runs."""
    project.commit({"autoresearch.toml": SETTINGS.replace("allow-native = true\n", "")})
    return project


def at_a_terminal(project: Project, answer: bytes, *arguments: str, **environment: str) -> tuple[int, str]:
    """The program's exit code and what the terminal showed, when the person types `answer`."""
    controller, terminal = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-m", "autoresearch_ci", *arguments],
        cwd=project.path, env={**project.environment, **environment}, stdin=terminal, stdout=terminal, stderr=terminal,
        start_new_session=True,
    ) as process:  # fmt: skip
        os.close(terminal)
        shown, typed, deadline = b"", False, time.monotonic() + 120
        try:
            while time.monotonic() < deadline:
                try:
                    portion = os.read(controller, 65536)
                except OSError:  # how Linux says that the other end is closed
                    break
                if not portion:
                    break
                shown += portion
                if not typed and b"[y/N]" in shown:
                    os.write(controller, answer)
                    typed = True
            return process.wait(60), shown.decode(errors="replace")
        finally:
            process.kill()
            os.close(controller)


def test_native_runs_need_leave(asking: Project) -> None:
    """Where nobody can be asked, `run` ends with exit code 2 and says how to allow it; the setting allows it."""
    done = asking.run(*ONE)
    assert done.returncode == 2
    assert "native runs need your leave" in done.stderr
    assert "--allow-native" in done.stderr
    assert asking.run(*ONE, "--allow-native").returncode == 0


def test_a_person_at_a_terminal_can_allow_it(asking: Project) -> None:
    """One question with the risk in it: `y` goes on."""
    code, shown = at_a_terminal(asking, b"y\n", *ONE)
    assert code == 0, shown
    assert shown.count("[y/N]") == 1
    assert "runs on this machine as you" in shown


@pytest.mark.parametrize("answer", [b"n\n", b"\n", b"\x04"], ids=["n", "enter", "end of input"])
def test_whatever_is_not_yes_is_no(asking: Project, answer: bytes) -> None:
    """The session does not begin: exit code 2, and nothing was run."""
    code, shown = at_a_terminal(asking, answer, *ONE)
    assert code == 2, shown
    assert not list((asking.home / "state").rglob("*.log"))


def test_a_job_is_never_asked(asking: Project) -> None:
    """In Actions a terminal is no person."""
    code, shown = at_a_terminal(asking, b"y\n", *ONE, "--forge", "local", GITHUB_ACTIONS="true")
    assert code == 2, shown
    assert "[y/N]" not in shown


def test_finalize_asks_when_it_measures(asking: Project) -> None:
    """What measures again makes runs too, and needs the same leave."""
    asking.commit({"plan.txt": "LEARNING_RATE=0.08\n"})
    plan = ("--executor", "native", "--tag", "night", "--proposer", "queue", "--plan", "plan.txt")
    done = asking.run("run", *plan, "--allow-native", "--verify-runs", "0")
    assert done.returncode == 0, done.stderr
    refused = asking.run("finalize", "--tag", "night", "--executor", "native", "--verify-runs", "2")
    assert refused.returncode == 2, refused.stderr
    assert "native runs need your leave" in refused.stderr
