"""Who may start a session in Actions."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path

import pytest

from autoresearch_ci.cli.trigger import check_trigger
from autoresearch_ci.console import Console
from autoresearch_ci.errors import SettingsError
from autoresearch_ci.forges.github import GitHubForge
from tests.forge.fixtures import TOKEN
from tests.forge.server import Forge

ALLOWED = ("workflow_dispatch", "schedule", "push", "repository_dispatch", "workflow_call", "")
REFUSED = (
    "pull_request", "pull_request_target", "pull_request_review", "pull_request_review_comment", "workflow_run", "fork", "watch",
    "discussion", "discussion_comment", "check_run", "gollum", "an_event_of_next_year",
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


@pytest.mark.parametrize(
    "config",
    [
        '[http "https://github.com/"]\n\textraheader = AUTHORIZATION: basic eDp5\n',
        '[includeIf "gitdir:/w/.git"]\n\tpath = /runner/_temp/git-credentials-1234.config\n',
    ],
)
def test_a_token_that_the_checkout_left_is_warned_of(forge: Forge, tmp_path: Path, config: str) -> None:
    """In either form that actions/checkout has had; the remedy is its own setting."""
    assert "`persist-credentials: false`" in started(forge, tmp_path, config, GITHUB_EVENT_NAME="schedule")


def test_outside_actions_nobody_is_asked(forge: Forge, tmp_path: Path) -> None:
    """A person at a shell is who they are."""
    assert started(forge, tmp_path, GITHUB_ACTIONS="", GITHUB_EVENT_NAME="pull_request") == ""
