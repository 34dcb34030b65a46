from __future__ import annotations

import json
from pathlib import Path

import pytest

from autoresearch_ci.cli.succession import dispatched_inputs


@pytest.mark.parametrize(
    ("event", "expected"),
    [
        ({"inputs": {"tag": "a", "max-hours": 11, "draft": True, "hypothesis": ""}}, {"tag": "a", "max-hours": "11", "draft": "true"}),
        ({"inputs": {"task": "continue 20", "metric": "loss"}}, {"metric": "loss"}),
        ({"inputs": None}, {}),
        ({"schedule": "37 1 * * *"}, {}),
        ([], {}),
    ],
)  # fmt: skip
def test_the_successor_gets_what_this_run_got(event: object, expected: dict[str, str], tmp_path: Path) -> None:
    """The inputs of a dispatch as text, without the empty ones and without a task that is done; a nightly has none."""
    path = tmp_path / "event.json"
    path.write_text(json.dumps(event), encoding="utf-8")
    assert dispatched_inputs({"GITHUB_EVENT_PATH": str(path)}) == expected


def test_no_event_is_no_input(tmp_path: Path) -> None:
    """Nothing is guessed where the event cannot be read."""
    assert dispatched_inputs({}) == {}
    (tmp_path / "event.json").write_text("{", encoding="utf-8")
    assert dispatched_inputs({"GITHUB_EVENT_PATH": str(tmp_path / "event.json")}) == {}
