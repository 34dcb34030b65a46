"""Exactly one pull request per branch, found again whatever happened to the last answer."""

from __future__ import annotations

from dataclasses import dataclass, replace

from github import GithubException
from github.PullRequest import PullRequest as Pull
from github.Repository import Repository

from autoresearch_ci.forges.connection import Connection
from autoresearch_ci.forges.labels_and_people import LabelsAndPeople
from autoresearch_ci.forges.pull_request import Operation, PullRequest, island, with_island
from autoresearch_ci.forges.pulls import ended_pull, list_pulls, open_pull
from autoresearch_ci.forges.refusals import passes_after_push, reason, says

BODY_LIMIT = 65_536  # characters; above it GitHub answers 422 "body is too long"
TITLE_LIMIT = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """The pull request as it should be; `body` is our part of its text."""

    branch: str
    base: str
    title: str
    body: str
    draft: bool
    labels: tuple[str, ...]
    reviewers: tuple[str, ...]
    assignees: tuple[str, ...]


class Publishing:
    """Brings the pull request of one branch to what is wanted. Raises GithubException, RequestException, ForgeError."""

    def __init__(self, connection: Connection, wanted: Wanted, secrets: tuple[str, ...]) -> None:
        self._connection = connection
        self._wanted = wanted
        self._secrets = secrets

    def publish(self) -> PullRequest:
        """Updates the open one, leaves alone what a person ended, else creates one."""
        wanted, connection = self._wanted, self._connection
        repo = connection.repository()
        pulls = connection.repeat(lambda: list_pulls(repo, wanted.branch))
        pull = open_pull(pulls, wanted.base)
        if pull is not None:
            return self._update(repo, pull)
        ended = ended_pull(connection, repo, pulls, wanted.branch)
        if ended is not None:
            how = "merged" if ended.merged_at else "closed"
            warning = f"pull request #{ended.number} was {how} by a person and stays so; no other one is opened"
            return PullRequest(number=ended.number, url=ended.html_url, operation=Operation.NONE, warnings=(warning,))
        return self._create(repo, wanted)

    def _create(self, repo: Repository, wanted: Wanted) -> PullRequest:
        tried = False

        def create() -> Pull:
            nonlocal tried
            found = (
                open_pull(list_pulls(repo, wanted.branch), wanted.base) if tried else None
            )  # the write may have taken place
            tried = True
            if found is not None:
                return found
            pull = repo.create_pull(
                wanted.base, wanted.branch, title=wanted.title, body=island(wanted.body), draft=wanted.draft
            )
            if not isinstance(pull.number, int):
                raise TypeError("a pull request without a number")
            return pull

        try:
            pull = self._connection.repeat(create, passes_after_push)
        except GithubException as error:
            if says(error, "no commits between"):
                return PullRequest(number=None, url="", operation=Operation.NONE)
            if wanted.draft and says(error, "draft pull requests are not supported"):
                return self._create(repo, replace(wanted, draft=False))
            if says(error, "a pull request already exists"):
                pulls = self._connection.repeat(lambda: list_pulls(repo, wanted.branch))
                found = open_pull(pulls, wanted.base)
                if found is not None:
                    return self._update(repo, found)
            raise
        return PullRequest(
            number=pull.number, url=pull.html_url, operation=Operation.CREATED, warnings=self._carry(repo, pull)
        )

    def _update(self, repo: Repository, pull: Pull) -> PullRequest:
        warnings: tuple[str, ...] = ()
        old = pull.body or ""
        title, text = self._wanted.title, with_island(old, self._wanted.body)
        if len(text) > BODY_LIMIT:
            text = old
            warnings = (f"the text of pull request #{pull.number} has no room for the report and was left as it is",)
        if (title, text) != (pull.title, old):
            self._connection.repeat(lambda: _edit(pull, title, text))
        if pull.draft and not self._wanted.draft:
            warnings += self._make_ready(pull)
        warnings += self._carry(repo, pull)
        return PullRequest(number=pull.number, url=pull.html_url, operation=Operation.UPDATED, warnings=warnings)

    def _make_ready(self, pull: Pull) -> tuple[str, ...]:
        """Ends the draft; REST cannot. A token that may not leaves it to a person."""
        tried = False

        def make_ready() -> None:
            nonlocal tried
            if tried and not self._connection.pull(pull.number).draft:
                return  # the write took place
            tried = True
            pull.mark_ready_for_review()

        try:
            self._connection.repeat(make_ready)
        except GithubException as error:
            if error.status >= 500 or error.status in (401, 429):
                raise
            return (f"pull request #{pull.number} stays a draft: {reason(error, self._secrets)}",)
        return ()

    def _carry(self, repo: Repository, pull: Pull) -> tuple[str, ...]:
        carried = LabelsAndPeople(self._connection, repo, pull, self._secrets)
        return (
            *carried.label(self._wanted.labels),
            *carried.ask_reviewers(self._wanted.reviewers),
            *carried.assign(self._wanted.assignees),
        )


def _edit(pull: Pull, title: str, text: str) -> None:
    # Not `pull.edit`: PyGithub 2.10 takes a page of HTML with status 200 for success.
    _, now = pull.requester.requestJsonAndCheck("PATCH", pull.url, input={"title": title, "body": text})
    if now["number"] != pull.number:
        raise TypeError("not the pull request")
