"""Finds the pull request of a branch, and says whether one that ended is about what the branch holds now."""

from __future__ import annotations

from itertools import islice

from github import UnknownObjectException
from github.PullRequest import PullRequest as Pull
from github.Repository import Repository

from autoresearch_ci.forges.connection import Connection
from autoresearch_ci.forges.pull_request import PullStanding, PullState

_MANY_PULLS = 100


def list_pulls(repo: Repository, branch: str) -> list[Pull]:
    """The pull requests of `branch`, open or not, newest first; from the branch of this repository, not of a fork."""
    head = f"{repo.owner.login}:{branch}"
    found = repo.get_pulls(state="all", sort="created", direction="desc", head=head)
    # Filtered here again: after a redirect of a renamed repository PyGithub 2.10 drops the query.
    return [pull for pull in islice(found, _MANY_PULLS) if pull.head.label == head]


def open_pull(pulls: list[Pull], base: str) -> Pull | None:
    """The open one; should a person have opened a second one to another base, ours."""
    opened = [pull for pull in pulls if pull.state == "open"]
    return next((pull for pull in opened if pull.base.ref == base), opened[0] if opened else None)


def ended_pull(connection: Connection, repo: Repository, pulls: list[Pull], branch: str) -> Pull | None:
    """The one that a person closed or merged and that is about what `branch` holds now, not an older branch of that name."""

    def compared(commit: str) -> str:
        try:
            return connection.repeat(lambda: repo.compare(commit, branch).status)
        except UnknownObjectException:
            return ""

    def about_it(pull: Pull) -> bool:
        since = compared(pull.head.sha)
        if since not in ("ahead", "identical") or pull.merged_at is None:
            return bool(since in ("ahead", "identical"))
        if pull.merge_commit_sha == pull.head.sha:  # the base was moved forward to the branch
            return since == "identical"
        return compared(pull.merge_commit_sha) not in ("ahead", "identical")

    return next((pull for pull in pulls if pull.state != "open" and about_it(pull)), None)


def standing(connection: Connection, branch: str, base: str) -> PullStanding:
    """What became of the pull request of `branch`.

    Of a branch that is gone (GitHub can delete it at the merge) the latest one says it. A branch that went on from where
    its pull request was merged, because the base was merged into it, has none.
    """
    repo = connection.repository()
    pulls = connection.repeat(lambda: list_pulls(repo, branch))
    found = open_pull(pulls, base) or ended_pull(connection, repo, pulls, branch)
    if found is None and pulls and not _exists(connection, repo, branch):
        found = pulls[0]
    if found is None:
        return PullStanding(state=PullState.NONE)
    if found.state == "open":
        return PullStanding(state=PullState.OPEN, number=found.number, url=found.html_url, draft=bool(found.draft))
    state = PullState.MERGED if found.merged_at else PullState.CLOSED
    return PullStanding(state=state, number=found.number, url=found.html_url)


def _exists(connection: Connection, repo: Repository, branch: str) -> bool:
    try:
        connection.repeat(lambda: repo.get_branch(branch))
    except UnknownObjectException:
        return False
    return True
