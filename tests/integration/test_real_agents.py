"""Three real coding agents, each through a whole session: the program starts them, and their model is a local server."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from autoresearch_ci import journal
from autoresearch_ci.experiment import Category, Status
from tests.models import agents
from tests.models.server import ModelServer
from tests.project import Project

KEY = "sk-local-0123456789abcdef"
FOLDER = os.environ.get("TEST_AGENTS", "")
if not FOLDER and os.environ.get("REQUIRE_AGENTS") != "1":
    pytest.skip("`.ci/agents FOLDER` installs them; TEST_AGENTS names the folder", allow_module_level=True)


@pytest.mark.parametrize(
    ("agent", "model", "answers", "calls"),
    [
        ("codex", "scripted", agents.codex, 1),  # a turn
        ("opencode", "endpoint/scripted", agents.opencode, 2),  # steps
        ("aider", "openai/scripted", agents.aider, 1),
    ],
    ids=["codex", "opencode", "aider"],
)
def test_a_whole_experiment(project: Project, agent: str, model: str, answers: object, calls: int) -> None:
    """Started without a person, the agent edits the script by its own tool; the commit, the notes and the tokens are its."""
    folder = Path(FOLDER).absolute()
    path = f"{folder}/node_modules/.bin:{folder}/python/bin:{project.environment['PATH']}"
    with ModelServer(answers) as server:  # type: ignore[arg-type]
        done = project.run(
            "run", "--proposer", "agent", "--agent", agent, "--model", model, "--base-url", server.url, "--max-iterations", "1",
            "--verify-runs", "0", "--agent-timeout", "150s", PATH=path, OPENAI_API_KEY=KEY, timeout_s=240,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        asked = len(server.requests)
        assert any("Tried so far" in request.prompt for request in server.requests)
    assert asked >= 1
    record = next((project.home / "state").rglob("journal.jsonl")).read_bytes()
    assert KEY.encode() not in record
    assert KEY not in done.stderr + done.stdout
    (made,) = journal.parse(record).experiments[1:]
    assert (made.proposer, made.status) == ("agent", Status.KEEP), (made.notes, done.stderr)
    assert (made.description, made.category) == ("A higher rate", Category.OPTIMIZER)
    assert made.parameters == {"from LEARNING_RATE": 0.04, "to LEARNING_RATE": 0.06}
    assert made.usage.calls == calls
    assert made.usage.input_tokens >= 1000
    assert made.usage.output_tokens >= 50
    assert made.notes == ()
