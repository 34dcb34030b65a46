"""SECURITY.md names a test for each attack, and the test is there."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
ROWS = [
    [cell.strip() for cell in line.strip("|").split("|")]
    for line in (ROOT / "SECURITY.md").read_text(encoding="utf-8").splitlines()
    if line.startswith("| ") and "`tests/" in line
]
# The attacks of the list that the product was built against; each must be somebody's row.
ATTACKS = (
    "token", "argv", "/proc", "runner's folders", "Docker socket", "metadata", "TCP", "DNS", "remount", "hard link", "/proc/self/fd",
    "cache", "another run's scratch", "hooks", "fsmonitor", "filters", "submodules", "sitecustomize", "PYTHONSTARTUP", ".pth",
    "bytecode", "pickle", "daemon", "SIGTERM", "fork bomb", "memory", "disk", "sparse", "10 GB", "1 GB", "workflow command",
    "terminal escapes", "mentions", "fixes #1", "forge the metric", "`nan`", "`1e999`", "`0x1p3`", "full-width", "`-0.0`", "at once",
    "past the timeout", "symlink", "fifo", "device", "newlines", "patch the clock", "answers", "read-only file", "pull request of a fork",
)  # fmt: skip


def test_every_row_has_its_three_cells() -> None:
    """Attack, what stops it, test."""
    assert len(ROWS) > 30
    assert all(len(row) == 3 and all(row) for row in ROWS)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0][:60])
def test_every_test_exists(row: list[str]) -> None:
    """Under the name and in the file that the table says."""
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", row[2])
    assert named
    for file, name in named:
        functions = {
            n.name
            for n in ast.walk(ast.parse((ROOT / file).read_text(encoding="utf-8")))
            if isinstance(n, ast.FunctionDef)
        }
        assert name in functions, f"{file} has no {name}"


@pytest.mark.parametrize("attack", ATTACKS)
def test_every_attack_has_a_row(attack: str) -> None:
    """Nothing of the list is forgotten."""
    assert any(attack.lower() in row[0].lower() for row in ROWS)


@pytest.mark.parametrize("file", sorted((ROOT / ".github/workflows").glob("*.yml")), ids=lambda file: file.name)
def test_no_shipped_workflow_leaves_a_token_or_lets_anybody_in(file: Path) -> None:
    """Every checkout has `persist-credentials: false`, and no event runs the code of strangers with our rights."""
    workflow = yaml.safe_load(file.read_text(encoding="utf-8"))
    events = workflow[True]  # YAML 1.1 reads `on` so
    assert not {"pull_request_target", "issue_comment", "workflow_run"} & set(
        [events] if isinstance(events, str) else events
    )
    steps = [step for job in workflow["jobs"].values() for step in job.get("steps", ())]
    checkouts = [step for step in steps if str(step.get("uses", "")).startswith("actions/checkout")]
    assert all(step["with"]["persist-credentials"] is False for step in checkouts)
