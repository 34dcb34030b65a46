"""Who may start a session in Actions."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from autoresearch_ci.cli.trigger import check_event, check_trigger
from autoresearch_ci.console import Console
from autoresearch_ci.errors import ForgeError, SettingsError
from autoresearch_ci.forges.github import GitHubForge
from autoresearch_ci.forges.local import LocalForge
from tests.forge.fixtures import TOKEN, Checkout
from tests.forge.server import Forge

ROOT = str(Path(__file__).parents[2])
ALLOWED = ("workflow_dispatch", "schedule", "push", "repository_dispatch", "workflow_call", "")
REFUSED = (
    "pull_request", "pull_request_target", "pull_request_review", "pull_request_review_comment", "workflow_run", "fork", "watch",
    "discussion", "discussion_comment", "check_run", "gollum", "merge_group", "an_event_of_next_year",
)  # fmt: skip


def started(forge: Forge, folder: Path, config: str = "", **environ: str) -> str:
    """What is said about a start by `mallory` with these variables."""
    said = io.StringIO()
    file = folder / "config"
    file.write_text(config)
    github = GitHubForge(
        repository=forge.full_name, token=TOKEN, api_url=forge.api_url, server_url=forge.server_url, pause_s=0.0
    )
    variables: Mapping[str, str] = {"GITHUB_ACTIONS": "true", "GITHUB_ACTOR": "mallory", **environ}
    check_event(variables)
    check_trigger(Console(io.StringIO(), said), variables, github, file)
    return said.getvalue()


@pytest.mark.parametrize("event", REFUSED)
def test_an_event_that_anybody_can_cause_starts_nothing(forge: Forge, tmp_path: Path, event: str) -> None:
    """Whoever is behind it, for what would run is not what that person may write."""
    forge.api.permissions["mallory"] = "admin"
    with pytest.raises(SettingsError, match=f"never started by `{event}`"):
        started(forge, tmp_path, GITHUB_EVENT_NAME=event)


@pytest.mark.parametrize("event", ALLOWED)
def test_who_may_write_may_start(forge: Forge, tmp_path: Path, event: str) -> None:
    """By the events that are meant for it, without a word."""
    forge.api.permissions["mallory"] = "write"
    assert started(forge, tmp_path, GITHUB_EVENT_NAME=event) == ""


@pytest.mark.parametrize("event", ["workflow_dispatch", "push", "issue_comment", "issues"])
@pytest.mark.parametrize("permission", ["read", "none"])
def test_who_may_not_write_may_not_start(forge: Forge, tmp_path: Path, event: str, permission: str) -> None:
    """A comment of a passer-by, and a re-run by somebody who has lost the right: the one who triggers counts."""
    forge.api.permissions |= {"mallory": "admin", "passer-by": permission}
    with pytest.raises(SettingsError, match="`passer-by` has no write access here"):
        started(forge, tmp_path, GITHUB_EVENT_NAME=event, GITHUB_TRIGGERING_ACTOR="passer-by")


def test_a_comment_of_nobody_that_can_be_asked_about_starts_nothing(forge: Forge, tmp_path: Path) -> None:
    """Where GitHub cannot say, a comment is refused; a dispatch, which needs write access by itself, is warned of."""
    with pytest.raises(SettingsError, match="cannot be seen whether `mallory` may write here"):
        started(forge, tmp_path, GITHUB_EVENT_NAME="issue_comment")
    assert "could not be seen whether `mallory` may write" in started(
        forge, tmp_path, GITHUB_EVENT_NAME="workflow_dispatch"
    )
    assert started(forge, tmp_path, GITHUB_EVENT_NAME="schedule") == ""


def test_a_public_repository_on_a_machine_of_ones_own_is_warned_of(forge: Forge, tmp_path: Path) -> None:
    """With the remedy; not on a hosted runner, and not where the repository is private."""
    hosted = {"GITHUB_EVENT_NAME": "schedule", "RUNNER_ENVIRONMENT": "github-hosted"}
    own = hosted | {"RUNNER_ENVIRONMENT": "self-hosted"}
    assert started(forge, tmp_path, **own) == ""
    forge.api.private = False
    assert "Require approval" in started(forge, tmp_path, **own)
    assert started(forge, tmp_path, **hosted) == ""


def test_a_bots_dispatch_is_warned_of_and_its_comment_starts_nothing(forge: Forge, tmp_path: Path) -> None:
    """GitHub has no permissions of an App: it is not even asked."""
    bot = {"GITHUB_TRIGGERING_ACTOR": "renovate[bot]"}
    assert "it is an App" in started(forge, tmp_path, GITHUB_EVENT_NAME="workflow_dispatch", **bot)
    with pytest.raises(SettingsError, match="cannot be seen"):
        started(forge, tmp_path, GITHUB_EVENT_NAME="issue_comment", **bot)
    assert forge.requests == []


@pytest.mark.parametrize("event", ["issue_comment", "issues"])
def test_a_comment_on_a_pull_request_of_a_fork_starts_nothing(
    forge: Forge, checkout: Checkout, tmp_path: Path, event: str
) -> None:
    """Not even one by a person who may write; on an issue, or on a branch of this repository, that person may."""
    forge.api.permissions["mallory"] = "write"
    checkout.push_branch("change")
    GitHubForge(
        repository=forge.full_name, token=TOKEN, api_url=forge.api_url, server_url=forge.server_url, pause_s=0.0
    ).publish(branch="change", base="main", title="a change", body="", draft=False, labels=(), attachments={})
    payload = tmp_path / "event.json"
    variables = {"GITHUB_EVENT_NAME": event, "GITHUB_EVENT_PATH": str(payload)}
    payload.write_text(json.dumps({"issue": {"number": 1}}))
    assert started(forge, tmp_path, **variables) == ""
    payload.write_text(json.dumps({"issue": {"number": 1, "pull_request": {}}}))
    assert started(forge, tmp_path, **variables) == ""
    forge.api.forks[1] = "mallory/research"
    with pytest.raises(SettingsError, match="#1 is a pull request of a fork"):
        started(forge, tmp_path, **variables)


@pytest.mark.parametrize("payload", ["", "{}", "[]", '{"issue": {"number": "x"}}', None])
def test_a_comment_on_nobody_knows_what_starts_nothing(forge: Forge, tmp_path: Path, payload: str | None) -> None:
    """An event that cannot be read is refused, whoever is behind it."""
    forge.api.permissions["mallory"] = "admin"
    if payload is not None:
        (tmp_path / "event.json").write_text(payload)
    variables = {"GITHUB_EVENT_NAME": "issue_comment", "GITHUB_EVENT_PATH": str(tmp_path / "event.json")}
    with pytest.raises(SettingsError, match="cannot be read what the `issue_comment` is about"):
        started(forge, tmp_path, **variables)


def test_the_local_forge_lets_nobody_comment(tmp_path: Path) -> None:
    """`forge: local` in the settings of a checkout is no way round the question who somebody is."""
    said = io.StringIO()
    console, local = Console(io.StringIO(), said), LocalForge(tmp_path, tmp_path)
    variables = {"GITHUB_ACTIONS": "true", "GITHUB_ACTOR": "mallory", "RUNNER_ENVIRONMENT": "self-hosted"}
    with pytest.raises(SettingsError, match="cannot be seen whether `mallory` may write"):
        check_trigger(console, variables | {"GITHUB_EVENT_NAME": "issue_comment"}, local, tmp_path / "none")
    check_trigger(console, variables | {"GITHUB_EVENT_NAME": "push"}, local, tmp_path / "none")
    assert "could not be seen whether `mallory` may write" in said.getvalue()
    assert "could not be seen whether this repository is public" in said.getvalue()
    with pytest.raises(ForgeError):
        local.is_from_fork(1)


@pytest.mark.parametrize("command", ["run", "finalize"])
def test_a_refused_event_reads_nothing_of_the_checkout(
    checkout: Checkout, runner_environment: dict[str, str], tmp_path: Path, command: str
) -> None:
    """Exit code 2 before the settings of a fork, here broken ones, are read, also in the step after a refused one."""
    (checkout.path / "autoresearch.toml").write_text("broken")
    environment = runner_environment | {
        "GITHUB_EVENT_NAME": "pull_request_target",
        "XDG_STATE_HOME": str(tmp_path / "s"),
        "PYTHONPATH": ROOT,
    }
    done = subprocess.run(
        [sys.executable, "-m", "autoresearch_ci", command],
        cwd=checkout.path, env=environment, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 2, done.stderr
    assert "never started by `pull_request_target`" in done.stderr
    assert not (tmp_path / "s").exists()


def test_who_may_not_write_may_not_finalize_either(
    forge: Forge, checkout: Checkout, runner_environment: dict[str, str], tmp_path: Path
) -> None:
    """The report's step runs also after a refused start: it measures, pushes and publishes, and is refused alike."""
    forge.api.permissions["passer-by"] = "read"
    environment = runner_environment | {"GITHUB_EVENT_NAME": "push", "GITHUB_ACTOR": "passer-by"}
    environment |= {
        "XDG_STATE_HOME": str(tmp_path / "s"),
        "HOME": str(tmp_path),
        "PYTHONPATH": ROOT,
        "AUTORESEARCH_TAG": "night",
    }
    environment |= {"AUTORESEARCH_TIME_BUDGET": "5s", "AUTORESEARCH_METRIC": "val_bpb"}
    for command in ("run", "finalize"):
        done = subprocess.run(
            [sys.executable, "-m", "autoresearch_ci", command, "--direction", "minimize"],
            cwd=checkout.path, env=environment, capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
        assert done.returncode == 2, done.stderr
        assert "`passer-by` has no write access here" in done.stderr
    assert forge.writes == []


@pytest.mark.parametrize(
    "config",
    [
        '[http "https://github.com/"]\n\textraheader = AUTHORIZATION: basic eDp5\n',
        '[remote "origin"]\n\turl = https://x-access-token:ghs_0123456789@github.com/o/r\n',
        '[includeIf "gitdir:/w/.git"]\n\tpath = /runner/_temp/git-credentials-1234.config\n',
    ],
)
def test_a_token_that_the_checkout_left_is_warned_of(forge: Forge, tmp_path: Path, config: str) -> None:
    """In either form that actions/checkout has had; the remedy is its own setting."""
    assert "`persist-credentials: false`" in started(forge, tmp_path, config, GITHUB_EVENT_NAME="schedule")


@pytest.mark.parametrize("event", ["workflow_dispatch", "repository_dispatch"])
def test_a_dispatch_of_our_own_is_no_surprise(forge: Forge, tmp_path: Path, event: str) -> None:
    """A job's own token can dispatch only where a workflow of this repository lets it: nobody is asked, nothing is warned of."""
    assert started(forge, tmp_path, GITHUB_EVENT_NAME=event, GITHUB_ACTOR="github-actions[bot]") == ""
    assert forge.requests == []


def test_another_apps_dispatch_is_warned_of(forge: Forge, tmp_path: Path) -> None:
    """GitHub has no permissions of an App to look up."""
    said = started(forge, tmp_path, GITHUB_EVENT_NAME="workflow_dispatch", GITHUB_ACTOR="some-app[bot]")
    assert "could not be seen whether `some-app[bot]` may write" in said


@pytest.mark.parametrize("event", ["push", "issue_comment"])
def test_our_own_name_counts_for_a_dispatch_alone(forge: Forge, tmp_path: Path, event: str) -> None:
    """A comment by a bot starts no session, and a push by one is warned of as before."""
    variables = {"GITHUB_EVENT_NAME": event, "GITHUB_ACTOR": "github-actions[bot]"}
    if event == "issue_comment":
        with pytest.raises(SettingsError, match="starts nothing"):
            started(forge, tmp_path, **variables)
    else:
        assert "could not be seen" in started(forge, tmp_path, **variables)


def test_outside_actions_nobody_is_asked(forge: Forge, tmp_path: Path) -> None:
    """A person at a shell is who they are."""
    assert started(forge, tmp_path, GITHUB_ACTIONS="", GITHUB_EVENT_NAME="pull_request") == ""
