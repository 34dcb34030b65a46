"""The client under test, at the test forge, and what tests do with it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from autoresearch_ci.errors import ForgeError
from autoresearch_ci.forges.github import GitHubForge
from autoresearch_ci.forges.pull_request import PullRequest
from tests.forge.fixtures import TOKEN
from tests.forge.server import Forge

BRANCH = "autoresearch/nov22"


def at(forge: Forge, **changes: Any) -> GitHubForge:
    """A client that does not wait between two tries."""
    values: dict[str, Any] = {
        "repository": forge.full_name,
        "token": TOKEN,
        "api_url": forge.api_url,
        "server_url": forge.server_url,
        "timeout_s": 10,
        "pause_s": 0.0,
    }
    return GitHubForge(**(values | changes))


@pytest.fixture
def github(forge: Forge) -> GitHubForge:
    """The client at the forge of the test."""
    return at(forge)


def publish(github: GitHubForge, **changes: Any) -> PullRequest:
    values: dict[str, Any] = {
        "branch": BRANCH,
        "base": "main",
        "title": "val_bpb 1.0 → 0.9",
        "body": "the report",
        "draft": False,
        "labels": (),
        "attachments": {},
    }
    return github.publish(**(values | changes))


def refused(github: GitHubForge, **changes: Any) -> ForgeError:
    """The error of a publication that is refused."""
    return refusal_of(lambda: publish(github, **changes))


def refusal_of(call: Callable[[], object]) -> ForgeError:
    """The error of a call that is refused: one line, a hint, exit code 7, and never the token."""
    with pytest.raises(ForgeError) as caught:
        call()
    error = caught.value
    assert error.exit_code == 7
    assert error.hint
    assert "\n" not in error.message + error.hint
    assert TOKEN not in error.message + error.hint
    return error
