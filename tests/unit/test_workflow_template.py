from __future__ import annotations

import itertools
import shutil
import subprocess
import sysconfig
from pathlib import Path
from typing import Any

import pytest
import yaml

from autoresearch_ci import settings
from autoresearch_ci.workflow_template import NIGHTLY, SCHEMA_URL, render

ROOT = Path(__file__).parents[2]
BASICS = {"time-budget": "5m", "metric": "val_bpb", "direction": "minimize"}


def make(flags: dict[str, str] | None = None, **options: Any) -> str:
    return render(settings.load(flags=BASICS | (flags or {})).settings, **options)


def parse(text: str) -> Any:
    return yaml.load(text, yaml.BaseLoader)  # every value a text, and `on` a key rather than a boolean


ANSWERS: list[dict[str, str]] = [
    {},
    {"max-hours": "0.5"},
    {"max-hours": "40", "scope": "optimizer", "platform": "cuda"},
    {"metric": "a'b\"c${{x}}"},
]
WHEN_AND_WHERE: list[tuple[str | None, tuple[str, ...]]] = [
    (NIGHTLY, ("self-hosted",)),
    (None, ("self-hosted",)),
    ("7 3 * * 1-5", ("self-hosted", "gpu")),
    (None, ("ubuntu-latest",)),
    (NIGHTLY, ("my: odd 'label'",)),
]
COMBINATIONS = list(itertools.product(ANSWERS, WHEN_AND_WHERE))


def test_every_workflow_is_valid_and_safe(tmp_path: Path) -> None:
    """Whatever was answered, the workflow passes GitHub's schema and zizmor's strictest persona."""
    assert len(COMBINATIONS) == 20
    folder = tmp_path / ".github/workflows"
    folder.mkdir(parents=True)
    for number, (flags, (cron, runs_on)) in enumerate(COMBINATIONS):
        (folder / f"{number}.yml").write_text(make(flags, cron=cron, runs_on=runs_on), encoding="utf-8")
    files = [str(file) for file in sorted(folder.iterdir())]
    for command in (
        ["check-jsonschema", "--builtin-schema", "vendor.github-workflows", *files],
        ["zizmor", "--offline", "--persona=pedantic", str(tmp_path)],
    ):
        program = shutil.which(command[0], path=sysconfig.get_path("scripts"))
        assert program is not None
        result = subprocess.run([program, *command[1:]], capture_output=True, text=True, timeout=120, check=False)
        assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize(("hours", "minutes"), [(None, "720"), ("2", "180"), ("0.5", "90")])
def test_the_job_outlives_the_session(hours: str | None, minutes: str) -> None:
    """The job's limit leaves time for the report after the last hour of the session."""
    workflow = parse(make({"max-hours": hours} if hours else {}))
    job = workflow["jobs"]["research"]
    assert job["timeout-minutes"] == minutes
    assert job["steps"][-1]["with"]["max-hours"] == f"${{{{ inputs.max-hours || '{hours or 11}' }}}}"


def test_no_schedule_when_none_is_wanted() -> None:
    """Without a cron line the workflow is only started by hand."""
    assert set(parse(make(cron=None))["on"]) == {"workflow_dispatch"}
    assert parse(make())["on"]["schedule"] == [{"cron": NIGHTLY}]


def test_labels_of_the_runner() -> None:
    """One label is a text, several are a list."""
    assert parse(make())["jobs"]["research"]["runs-on"] == "self-hosted"
    assert parse(make(runs_on=("self-hosted", "gpu")))["jobs"]["research"]["runs-on"] == ["self-hosted", "gpu"]


def test_the_permissions_are_the_least() -> None:
    """Nothing at the top; the job has what pushing, the pull request and its label need."""
    workflow = parse(make())
    assert workflow["permissions"] == {}
    assert set(workflow["jobs"]["research"]["permissions"]) == {"contents", "pull-requests", "issues"}


def test_every_input_is_one_of_the_action() -> None:
    """The workflow hands over its inputs under names that the action knows, and no more than GitHub allows."""
    action = yaml.safe_load((ROOT / "action/action.yml").read_text(encoding="utf-8"))
    workflow = parse(make())
    inputs = workflow["on"]["workflow_dispatch"]["inputs"]
    assert set(workflow["jobs"]["research"]["steps"][-1]["with"]) == set(inputs) <= set(action["inputs"])
    assert len(inputs) <= 25


def test_the_reusable_workflow_hands_over_its_inputs() -> None:
    """research.yml uses only inputs that the action has, and both of its ways in have them."""
    action = yaml.safe_load((ROOT / "action/action.yml").read_text(encoding="utf-8"))
    workflow = parse((ROOT / ".github/workflows/research.yml").read_text(encoding="utf-8"))
    dispatch = set(workflow["on"]["workflow_dispatch"]["inputs"])
    call = set(workflow["on"]["workflow_call"]["inputs"])
    handed = set(workflow["jobs"]["research"]["steps"][-1]["with"])
    assert handed <= set(action["inputs"])
    assert handed | {"runs-on", "timeout-minutes"} == call
    assert dispatch | {"config", "working-directory"} == call
    assert len(dispatch) <= 25


def test_the_schema_is_where_its_address_says() -> None:
    """The address that `init` writes ends in the path of the schema in this repository."""
    assert (ROOT / SCHEMA_URL.split("/v1/")[1]).is_file()
