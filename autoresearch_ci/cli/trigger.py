"""Who may start a session in Actions: a job on somebody's machine must not be started by anybody.

Starting a session runs the repository's code with a token that can push. GitHub asks for write access before a person can dispatch
a workflow; the other events are decided here, and the person behind the event is looked up.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final, Protocol

from autoresearch_ci.console import Console
from autoresearch_ci.errors import ForgeError, SettingsError

TRUSTED: Final = frozenset(
    {"workflow_dispatch", "schedule", "push", "repository_dispatch", "workflow_call", "merge_group"}
)
COMMENTS: Final = frozenset({"issue_comment", "issues"})  # anybody can make one: only from people who may write
MAY_WRITE: Final = frozenset({"admin", "maintain", "write"})
NO_ONE: Final = frozenset({"schedule"})  # its actor is who last changed the cron line, at any time
# What actions/checkout leaves behind: the header itself (up to v5), or an include of a file that holds it (v6).
PERSISTED: Final = re.compile(
    r"extraheader\s*=\s*AUTHORIZATION|^\s*path\s*=.*git-credentials-", re.IGNORECASE | re.MULTILINE
)


class Permissions(Protocol):
    """What a forge is asked; both raise ForgeError when it cannot say."""

    def permission(self, user: str) -> str: ...

    def is_public(self) -> bool: ...


def check_trigger(console: Console, environ: Mapping[str, str], forge: Permissions, git_config: Path) -> None:
    """Refuses, by SettingsError, a session that nobody with write access started; warns of what makes a runner unsafe.

    Nothing outside Actions. `git_config`: the checkout's, which may hold a token that every process of the job can read.
    """
    if environ.get("GITHUB_ACTIONS") != "true":
        return
    event, actor = environ.get("GITHUB_EVENT_NAME", ""), _actor(environ)
    if event and event not in TRUSTED | COMMENTS:
        raise SettingsError(
            f"a session is never started by `{event}`: it would run code that nobody with write access has seen",
            hint="start it by `workflow_dispatch` or `schedule`",
        )
    if _persisted(git_config):
        console.warning(
            "the checkout holds a token that every process of this job can read: set `persist-credentials: false` for actions/checkout"
        )
    if event and event not in NO_ONE:
        _check_actor(console, forge, event, actor)
    if environ.get("RUNNER_ENVIRONMENT") == "self-hosted":
        _warn_if_public(console, forge)


def _check_actor(console: Console, forge: Permissions, event: str, actor: str) -> None:
    try:
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
        return PERSISTED.search(git_config.read_text(encoding="utf-8", errors="replace")) is not None
    except OSError:
        return False
