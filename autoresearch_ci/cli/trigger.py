"""Who may start a session in Actions: a job on somebody's machine must not be started by anybody.

Starting a session runs the repository's code with a token that can push. GitHub asks for write access before a person can dispatch
a workflow; the other events are decided here, and the person behind the event is looked up.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final, Protocol

from autoresearch_ci.console import Console
from autoresearch_ci.errors import ForgeError, SettingsError
from autoresearch_ci.scrubber import in_git_config

TRUSTED: Final = frozenset({"workflow_dispatch", "schedule", "push", "repository_dispatch", "workflow_call"})
COMMENTS: Final = frozenset({"issue_comment", "issues"})  # anybody can make one: only from people who may write
MAY_WRITE: Final = frozenset({"admin", "maintain", "write"})
NO_ONE: Final = frozenset({"schedule"})  # its actor is who last changed the cron line, at any time
OURSELVES: Final = "github-actions[bot]"  # who a job's own token is
# What such a token can only do where a workflow of this repository gave its job `actions: write`: no other event comes of it.
DISPATCHED: Final = frozenset({"workflow_dispatch", "repository_dispatch"})
BOT: Final = "[bot]"  # ends the name of an App, which GitHub has no permissions of
# What actions/checkout leaves behind since v6: an include of the file that holds the header.
INCLUDED: Final = re.compile(r"^\s*path\s*=.*git-credentials-", re.IGNORECASE | re.MULTILINE)


class Permissions(Protocol):
    """What a forge is asked; all of it raises ForgeError when it cannot say."""

    def permission(self, user: str) -> str: ...

    def is_public(self) -> bool: ...

    def is_from_fork(self, number: int) -> bool: ...


def check_event(environ: Mapping[str, str]) -> None:
    """Refuses, by SettingsError, an event that anybody can cause: before anything of the checkout is even read."""
    event = environ.get("GITHUB_EVENT_NAME", "")
    if environ.get("GITHUB_ACTIONS") == "true" and event and event not in TRUSTED | COMMENTS:
        raise SettingsError(
            f"a session is never started by `{event}`: it would run code that nobody with write access has seen",
            hint="start it by `workflow_dispatch` or `schedule`",
        )


def check_trigger(console: Console, environ: Mapping[str, str], forge: Permissions, git_config: Path) -> None:
    """Refuses, by SettingsError, a session that nobody with write access started; warns of what makes a runner unsafe.

    Nothing outside Actions. `git_config`: the checkout's, which may hold a token that every process of the job can read. Raises
    ForgeError when GitHub cannot say where a comment was made.
    """
    if environ.get("GITHUB_ACTIONS") != "true":
        return
    event = environ.get("GITHUB_EVENT_NAME", "")
    if _persisted(git_config):
        console.warning(
            "the checkout holds a token that every process of this job can read: set `persist-credentials: false` for actions/checkout"
        )
    actor = _actor(environ)
    if event and event not in NO_ONE and not (actor == OURSELVES and event in DISPATCHED):
        _check_actor(console, forge, event, actor)
    if event in COMMENTS:
        _check_place(environ, forge, event)
    if environ.get("RUNNER_ENVIRONMENT") == "self-hosted":
        _warn_if_public(console, forge)


def _check_actor(console: Console, forge: Permissions, event: str, actor: str) -> None:
    try:
        if actor.endswith(BOT):
            raise ForgeError("it is an App")
        found = forge.permission(actor) if actor else ""
    except ForgeError as error:
        if event in COMMENTS:
            raise SettingsError(
                f"it cannot be seen whether `{actor}` may write here, so `{event}` starts nothing: {error.message}",
                hint="start it by `workflow_dispatch`, or give the job `contents: write`",
            ) from error
        console.warning(f"it could not be seen whether `{actor}` may write here: {error.message}")
        return
    if found not in MAY_WRITE:
        raise SettingsError(
            f"`{actor or 'nobody'}` has no write access here and cannot start a session",
            hint="ask somebody who has: a session runs code on the runner and pushes a branch",
        )


def _check_place(environ: Mapping[str, str], forge: Permissions, event: str) -> None:
    """Refuses a comment on a pull request of a fork: such a job tends to check out what the fork brings."""
    try:
        issue = json.loads(Path(environ.get("GITHUB_EVENT_PATH", "")).read_text(encoding="utf-8"))["issue"]
        number = int(issue["number"])
        on_pull_request = "pull_request" in issue
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SettingsError(
            f"it cannot be read what the `{event}` is about, so it starts nothing",
            hint="start it by `workflow_dispatch`",
        ) from error
    if on_pull_request and forge.is_from_fork(number):
        raise SettingsError(
            f"#{number} is a pull request of a fork, and nothing is started from there",
            hint="start it by `workflow_dispatch`, once its branch is in this repository",
        )


def _warn_if_public(console: Console, forge: Permissions) -> None:
    try:
        if forge.is_public():
            console.warning(
                "this repository is public and its runner your own machine: a pull request of anybody can bring a workflow for it. "
                "Require approval for all outside collaborators (Settings, Actions), or make the repository private"
            )
    except ForgeError as error:
        console.warning(f"it could not be seen whether this repository is public: {error.message}")


def _actor(environ: Mapping[str, str]) -> str:
    return environ.get("GITHUB_TRIGGERING_ACTOR") or environ.get("GITHUB_ACTOR", "")


def _persisted(git_config: Path) -> bool:
    try:
        text = git_config.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    return bool(in_git_config(text)) or INCLUDED.search(text) is not None
