"""What a pull request carries besides its text: labels, reviewers, assignees.

None of it is worth a failure: what GitHub refuses becomes a warning.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from github import GithubException, UnknownObjectException
from github.PullRequest import PullRequest as Pull
from github.Repository import Repository
from requests import RequestException

from autoresearch_ci.errors import ForgeError
from autoresearch_ci.forges.connection import Connection
from autoresearch_ci.forges.refusals import reason

_LABEL_COLOR = "1d76db"


class LabelsAndPeople:
    """Adds to one pull request what is missing; every method returns its warnings. `secrets` are kept out of them."""

    def __init__(self, connection: Connection, repo: Repository, pull: Pull, secrets: tuple[str, ...]) -> None:
        self._connection = connection
        self._repo = repo
        self._pull = pull
        self._secrets = secrets

    def label(self, labels: Sequence[str]) -> tuple[str, ...]:
        """Adds the labels that it lacks; one that does not exist is made."""
        present = {label.name.lower() for label in self._pull.labels}
        missing = [name for name in labels if name.lower() not in present]

        def add() -> None:
            for name in missing:
                self._connection.repeat(partial(self._ensure_label, name))
            # Not `add_to_labels`: PyGithub 2.10 sends a bare list there, which GitHub's API description no longer allows.
            self._connection.repeat(
                lambda: _post(self._pull, f"{self._pull.issue_url}/labels", {"labels": missing}, list)
            )

        return self._try("the labels could not be set", add) if missing else ()

    def ask_reviewers(self, reviewers: Sequence[str]) -> tuple[str, ...]:
        """Asks those for a review who were not asked and have given none. `owner/team` is a team.

        GitHub refuses all of them for one that it does not know, so each is then asked alone.
        """
        if not reviewers:
            return ()
        missing = _without(reviewers, [user.login for user in self._pull.requested_reviewers or ()])
        missing = _without(missing, [f"{self._owner}/{team.slug}" for team in self._pull.requested_teams or ()])
        if missing:
            missing = self._without_reviewers(missing)
        warnings = self._ask_all(missing) if missing else ()
        if not warnings or len(missing) == 1:
            return warnings
        return tuple(warning for name in missing for warning in self._ask_all([name]))

    def assign(self, assignees: Sequence[str]) -> tuple[str, ...]:
        """Assigns those who are not. GitHub leaves out without a word who may not be assigned."""
        missing = _without(assignees, [user.login for user in self._pull.assignees or ()]) if assignees else []
        assigned: list[str] = []

        def add() -> None:
            url = f"{self._pull.issue_url}/assignees"
            issue = self._connection.repeat(lambda: _post(self._pull, url, {"assignees": missing}, dict))
            assigned.extend(user["login"] for user in issue["assignees"])

        if not missing:
            return ()
        if warnings := self._try(f"{_names(missing)} could not be assigned", add):
            return warnings
        left_out = _without(missing, assigned)
        return (
            (f"{_names(left_out)} could not be assigned: GitHub lets only people of the repository be",)
            if left_out
            else ()
        )

    @property
    def _owner(self) -> str:
        return self._repo.owner.login

    def _ensure_label(self, name: str) -> None:
        try:
            self._repo.get_label(name)
        except UnknownObjectException:
            self._repo.create_label(name, _LABEL_COLOR)

    def _without_reviewers(self, names: list[str]) -> list[str]:
        """Who has given a review is no longer among those who are asked for one."""
        done: list[str] = []

        def look() -> None:
            reviews = self._connection.repeat(lambda: list(self._pull.get_reviews()))
            done.extend(review.user.login for review in reviews if review.user)

        # A pull request that is a moment old has none; and who is asked twice is not harmed.
        self._try("", look)
        return _without(names, done)

    def _ask_all(self, names: list[str]) -> tuple[str, ...]:
        body = {
            "reviewers": [name for name in names if "/" not in name],
            "team_reviewers": [name.split("/")[1] for name in names if "/" in name],
        }
        wanted = {kind: found for kind, found in body.items() if found}
        url = f"{self._pull.url}/requested_reviewers"
        ask = partial(self._connection.repeat, lambda: _post(self._pull, url, wanted, dict))
        return self._try(f"{_names(names)} could not be asked for a review", ask)

    def _try(self, what: str, action: Callable[[], object]) -> tuple[str, ...]:
        try:
            action()
        except GithubException as error:
            return (f"{what}: {reason(error, self._secrets)}",)
        except (RequestException, ForgeError):
            return (f"{what}: `{self._connection.line.api_url}` gave no usable answer",)
        return ()


def _post(pull: Pull, url: str, body: dict[str, list[str]], kind: type) -> Any:
    _, answer = pull.requester.requestJsonAndCheck("POST", url, input=body)
    if not isinstance(answer, kind) or (isinstance(answer, dict) and "number" not in answer):
        raise TypeError("not what GitHub answers")
    return answer


def _without(names: Sequence[str], others: Sequence[str]) -> list[str]:
    known = {other.lower() for other in others}
    return [name for name in names if name.lower() not in known]


def _names(names: Sequence[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)
