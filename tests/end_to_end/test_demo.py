"""The first thing that a newcomer runs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch")


def test_the_demo_ends_with_a_page(tmp_path: Path) -> None:
    """A real session on the starter: torch trains, changes are tried, and the page of the pull request is there. It says which
    executor was taken and why, and nothing of the caller's environment reaches it."""
    environ = {**os.environ, "AUTORESEARCH_METRIC": "nonsense", "HOME": str(tmp_path), "NO_COLOR": "1"}
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "autoresearch_ci",
            "demo",
            "--experiments",
            "2",
            "--time-budget",
            "2s",
            "--folder",
            "demo/project",
        ],
        cwd=tmp_path,
        env={**environ, "PYTHONPATH": str(Path(__file__).parents[2]), "DOCKER_HOST": "unix:///nowhere/docker.sock"},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    assert "executor: native (no container: " in done.stderr
    page = next((tmp_path / "demo").rglob("pull-request.html"))
    assert done.stderr.rstrip().endswith(page.as_uri())
    log = subprocess.run(
        ["git", "log", "--format=%s", "--all"],
        cwd=tmp_path / "demo" / "project",
        capture_output=True,
        text=True,
        check=True,
    )
    assert "docs: report of autoresearch/demo-" in log.stdout
    assert log.stdout.count("exp: ") == 2


def test_a_folder_in_use_is_refused(tmp_path: Path) -> None:
    """Nothing of a person's is overwritten."""
    (tmp_path / "mine").write_text("x")
    done = subprocess.run(
        [sys.executable, "-m", "autoresearch_ci", "demo", "--folder", str(tmp_path)],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 2
    assert "not empty" in done.stderr
