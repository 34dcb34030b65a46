"""What a session needs of the place that it is pushed to, and which one that is.

PyGithub is imported only when GitHub is the forge: a local session does not wait for it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal, Protocol

from autoresearch_ci.forges.counting import Requests
from autoresearch_ci.forges.local import LocalForge
from autoresearch_ci.forges.pull_request import PullRequest, PullStanding
from autoresearch_ci.settings import Settings
from autoresearch_ci.workspace import Checkout


class Forge(Protocol):
    """Where the branch is pushed to, and the pull request made. Every method raises ForgeError and is safe to repeat."""

    @property
    def remote_url(self) -> str: ...

    @property
    def repository_url(self) -> str: ...

    @property
    def token(self) -> str: ...

    @property
    def token_hours(self) -> float | None: ...

    @property
    def requests(self) -> Requests: ...

    def secrets(self) -> tuple[str, ...]: ...

    def within(self, patience_s: float) -> Forge: ...

    def default_branch(self) -> str: ...

    def permission(self, user: str) -> str: ...

    def is_public(self) -> bool: ...

    def is_from_fork(self, number: int) -> bool: ...

    def pull_head(self, number: int) -> tuple[str, str]: ...

    def standing(self, branch: str, base: str = "") -> PullStanding: ...

    def publish(
        self,
        *,
        branch: str,
        base: str,
        title: str,
        body: str,
        draft: bool,
        labels: tuple[str, ...],
        attachments: Mapping[str, bytes | str],
        reviewers: tuple[str, ...] = (),
        assignees: tuple[str, ...] = (),
        note: str = "",
    ) -> PullRequest: ...

    def merge_pull(self, number: int, *, method: Literal["squash", "rebase", "merge"], head_sha: str = "") -> str: ...

    def set_status(
        self, commit: str, *, state: Literal["pending", "success", "failure", "error"], description: str, url: str = ""
    ) -> None: ...

    def comment(self, number: int, text: str) -> None: ...

    def react(self, comment_id: int, content: Literal["eyes", "+1", "confused", "rocket"]) -> None: ...

    def dispatch(self, workflow: str, ref: str, inputs: Mapping[str, str]) -> None: ...

    def run_status(self, run_id: int) -> str: ...

    def cancel_run(self, run_id: int) -> None: ...


def choose_forge(environ: Mapping[str, str], settings: Settings, checkout: Checkout, state: Path) -> Forge:
    """GitHub inside Actions or when asked for; else a folder on this machine."""
    in_actions = environ.get("GITHUB_ACTIONS") == "true"
    if settings.forge == "github" or (settings.forge == "auto" and in_actions):
        return github(environ, checkout)
    return LocalForge(checkout.root, state / "pull-requests", base_branch=checkout.base_branch or "HEAD")


def github(environ: Mapping[str, str], checkout: Checkout) -> Forge:
    from autoresearch_ci.forges.github import GitHubForge

    return GitHubForge.from_environment(environ, checkout.origin)
