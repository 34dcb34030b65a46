"""The action's own steps, as a runner runs them, against a forge over HTTP, with runs in real containers."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from tests.forge.fixtures import TOKEN, Checkout
from tests.forge.server import Forge
from tests.integration.conftest import BASE_IMAGE
from tests.runner.action import ActionResult, ActionRunner, machine_environment
from tests.runner.cancellation import Cancellation

ACTION = Path(__file__).parents[2] / "action"
INPUTS = {
    "time-budget": "20s",
    "metric": "val_bpb",
    "direction": "minimize",
    "tag": "night",
    "executor": "container",
    "platform": "cpu",
    # No torch, and the host's network: what this test trains needs neither, and no test reaches beyond this machine.
    "build-args": "TORCH_VERSION=,TORCH_INDEX_URL=,PIP_FIND_LINKS=http://127.0.0.1:9/",
    "base-image": BASE_IMAGE,
    "memory": "512m",
}


@pytest.fixture
def runner(forge: Forge, checkout: Checkout, tmp_path: Path, base_image: str) -> ActionRunner:
    """A self-hosted runner on this machine; the installation is this environment."""
    temp = tmp_path / "runner-temp"
    temp.mkdir()
    return ActionRunner(
        action=ACTION,
        workspace=checkout.path,
        temp=temp,
        github={
            "repository": forge.full_name,
            "api_url": forge.api_url,
            "server_url": forge.server_url,
            "token": TOKEN,
        },
        environ={
            **machine_environment(dict(checkout.environment)),
            **{name: value for name, value in os.environ.items() if name.startswith("COVERAGE_")},
            "PATH": str(Path(sys.executable).parent) + ":/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin",
            "HOME": str(tmp_path),
            "XDG_STATE_HOME": str(tmp_path / "state"),
            "PYTHONPATH": str(ACTION.parent),
            "NO_PROXY": "127.0.0.1",
        },
        stand_ins={"find": {"python-path": sys.executable}, "install": {"python": sys.executable}},
    )


def assert_no_secret(result: ActionResult, *folders: Path) -> None:
    """The token is in no log, no summary, and no file that the session left, in no spelling."""
    import base64

    secrets = (TOKEN, base64.b64encode(f"x-access-token:{TOKEN}".encode()).decode())
    said = "\n".join(line for line in result.log.splitlines() if not line.startswith("::add-mask::"))
    texts = [said, *(step.summary for step in result.steps.values())]
    for folder in folders:
        texts += [path.read_bytes().decode(errors="replace") for path in folder.rglob("*") if path.is_file()]
    for text in texts:
        for secret in secrets:
            assert secret not in text


def test_a_night_ends_in_a_pull_request(runner: ActionRunner, forge: Forge, checkout: Checkout, tmp_path: Path) -> None:
    """Inputs, an image, experiments in containers, pushes, one pull request, outputs and a summary; run again, it is updated."""
    result = runner.run({**INPUTS, "max-iterations": "3"})
    assert result.conclusion == "success", result.log
    outputs = result.outputs
    assert outputs["branch"] == "autoresearch/night"
    assert outputs["pull-request-operation"] == "created"
    assert outputs["pull-request-number"] == "1"
    assert outputs["iterations"] == "3"
    assert outputs["status"] == "improved"
    assert float(outputs["best-metric"]) < float(outputs["baseline-metric"])
    assert outputs["results-file"] == "results.tsv"
    checkout.git("fetch", "--quiet", "origin", "autoresearch/night")
    assert checkout.git("rev-parse", "FETCH_HEAD") == outputs["head-sha"]
    table = checkout.git("show", "FETCH_HEAD:results.tsv").splitlines()
    assert len(table) == 5
    (pull,) = forge.api.pulls.values() if isinstance(forge.api.pulls, dict) else forge.api.pulls
    body = str(pull["body"])
    assert len(body) < 65_536
    assert f"{forge.server_url}/{forge.full_name}/raw/autoresearch/night/autoresearch-chart.svg" in body
    assert "# AutoResearch Summary" in result.steps["run"].summary
    assert result.steps["finalize"].outcome == "skipped"
    assert "::group::Experiment 1" in result.log
    assert_no_secret(result, tmp_path / "state")

    again = runner.run({**INPUTS, "max-iterations": "4"})
    assert again.conclusion == "success", again.log
    assert again.outputs["pull-request-operation"] == "updated"
    assert again.outputs["pull-request-number"] == "1"
    assert again.outputs["iterations"] == "4"
    assert "cached: autoresearch-ci/cpu:" in again.log


def test_a_cancelled_night_is_reported(runner: ActionRunner, forge: Forge, tmp_path: Path) -> None:
    """The runner's signals reach the program, which saves and pushes; the step under always() makes the pull request."""

    def two_kept() -> bool:
        tables = list((tmp_path / "state").rglob("journal.jsonl"))
        return bool(tables) and tables[0].read_text().count('"type": "experiment"') >= 3

    cancellation = Cancellation(step="run", when=two_kept)
    result = runner.run({**INPUTS, "max-iterations": "500"}, cancellation=cancellation)
    assert result.conclusion == "cancelled"
    assert result.steps["run"].exit_code == 130, result.log
    assert result.steps["run"].outputs["status"] == "interrupted"
    assert result.steps["finalize"].outcome == "success", result.log
    assert result.outputs["pull-request-operation"] == "created"
    assert int(result.outputs["iterations"]) >= 2
    assert_no_secret(result, tmp_path / "state")


WORKFLOW = """\
on:
  workflow_dispatch:
    inputs:
      tag: {type: string}
      resume: {type: string}
      max-iterations: {type: number}
"""


def test_a_night_without_hours_goes_on_in_another(
    runner: ActionRunner, forge: Forge, checkout: Checkout, tmp_path: Path
) -> None:
    """Out of hours it reports and starts its own workflow again with what it was given, for the same tag; the page of the job is in
    the pull request."""
    checkout.commit(".github/workflows/night.yml", WORKFLOW, "workflow")
    checkout.git("push", "--quiet", "origin", "main")
    event = tmp_path / "event.json"
    event.write_text('{"inputs": {"max-iterations": 400, "tag": ""}}', encoding="utf-8")
    job = {
        "run_id": "41",
        "workflow_ref": f"{forge.full_name}/.github/workflows/night.yml@refs/heads/main",
        "event_path": str(event),
        "event_name": "workflow_dispatch",
        "actor": "octo",
    }
    forge.api.permissions["octo"] = "write"
    hours = {"max-hours": "0.004", "verify-runs": "0", "baseline-runs": "1", "continue": "true", "tag": "long-{date}"}
    result = replace(runner, github={**runner.github, **job}).run({**INPUTS, **hours})
    assert result.conclusion == "success", result.log
    assert int(result.outputs["iterations"]) >= 1
    (dispatch,) = forge.api.actions.dispatches
    assert (dispatch.workflow, dispatch.ref) == ("night.yml", "main")
    tag = result.outputs["branch"].removeprefix("autoresearch/")
    assert tag.startswith("long-2")
    assert dict(dispatch.inputs) == {"tag": tag, "resume": "require", "max-iterations": "400"}
    (pull,) = forge.api.pulls.values()
    assert f"{forge.server_url}/{forge.full_name}/actions/runs/41" in pull["body"]
    assert "AutoResearch" in result.steps["run"].summary
    assert "time-budget" in result.steps["run"].summary
    assert "requests to GitHub" in result.steps["run"].summary


def test_pull_requests_not_permitted(runner: ActionRunner, forge: Forge, checkout: Checkout) -> None:
    """The work is pushed, exit code 7, and the error names the setting and the link to open it by hand."""
    forge.api.may_create_pulls = False
    result = runner.run({**INPUTS, "max-iterations": "2"})
    assert result.conclusion == "failure"
    assert result.steps["run"].exit_code == 7, result.log
    assert "Allow GitHub Actions to create and approve pull requests" in result.log
    assert "/compare/main...autoresearch" in result.log
    checkout.git("fetch", "--quiet", "origin", "autoresearch/night")
    assert checkout.git("show", "FETCH_HEAD:results.tsv")


def test_a_wrong_token_ends_before_anything_is_trained(runner: ActionRunner, forge: Forge) -> None:
    """Exit code 6 at the first contact with the remote; the token is not repeated."""
    wrong = "ghs_WrongTokenWrongTokenWrongToken00"
    result = runner.run({**INPUTS, "token": wrong, "max-iterations": "1"})
    assert result.steps["run"].exit_code == 6, result.log
    assert wrong not in result.log.replace(f"::add-mask::{wrong}", "")
    forge.violations.clear()
