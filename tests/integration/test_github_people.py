"""Drafts, reviewers and assignees of the pull request: what GitHub refuses of them is a warning."""

from __future__ import annotations

import pytest

from autoresearch_ci.forges.github import GitHubForge
from autoresearch_ci.forges.pull_request import Operation, island
from tests.forge.client import BRANCH, publish
from tests.forge.fixtures import Checkout
from tests.forge.server import Forge


@pytest.fixture(autouse=True)
def people(forge: Forge, checkout: Checkout) -> None:
    """Ada and Bob belong to the repository, Eve does not; the branch is pushed."""
    forge.api.permissions |= {"ada": "write", "bob": "read", "eve": "none"}
    forge.api.teams.add("reviewers")
    checkout.push_branch(BRANCH)


def test_a_draft_becomes_ready_at_the_end(forge: Forge, github: GitHubForge) -> None:
    """Without being opened anew; and nothing that is ready becomes a draft again."""
    publish(github, draft=True)
    publish(github, draft=True, body="newer")
    assert forge.api.pulls[1]["draft"] is True
    assert publish(github).operation is Operation.UPDATED
    assert forge.api.pulls[1]["draft"] is False
    publish(github, draft=True, body="newest")
    assert forge.api.pulls[1]["draft"] is False
    assert len(forge.api.pulls) == 1


@pytest.mark.parametrize("after", [False, True])
def test_a_draft_whose_end_is_lost_on_the_way_ends_once(forge: Forge, github: GitHubForge, after: bool) -> None:
    """Ready it is, and no warning is needed."""
    publish(github, draft=True)
    forge.fail_next("POST", "/graphql", 502, "<html>Unicorn!</html>", after=after)
    assert publish(github).warnings == ()
    assert forge.api.pulls[1]["draft"] is False


def test_a_draft_that_may_not_end_costs_a_warning(forge: Forge, github: GitHubForge) -> None:
    """The text is new all the same, and a person can press the button."""
    publish(github, draft=True)
    refusal = '{"data": {"markPullRequestReadyForReview": null}, "errors": [{"type": "FORBIDDEN", "message": "Resource not accessible by integration"}]}'
    forge.fail_next("POST", "/graphql", 200, refusal)
    assert publish(github, body="newer").warnings == (
        "pull request #1 stays a draft: Resource not accessible by integration",
    )
    assert forge.api.pulls[1]["body"] == island("newer")


def test_reviewers_and_assignees_are_asked_once(forge: Forge, github: GitHubForge) -> None:
    """People and teams; a second publication finds them there and writes nothing."""
    wanted = {"reviewers": ("ada", "octo/reviewers"), "assignees": ("bob",)}
    assert publish(github, **wanted).warnings == ()
    pull = forge.api.pulls[1]
    assert (pull["reviewers"], pull["teams"], pull["assignees"]) == (["ada"], ["reviewers"], ["bob"])
    forge.requests.clear()
    assert publish(github, **wanted).warnings == ()
    assert forge.writes == []


def test_who_has_given_a_review_is_not_asked_again(forge: Forge, github: GitHubForge) -> None:
    """GitHub takes that person off the list; a later publication must not put them back."""
    publish(github, reviewers=("ada",))
    forge.api.review_pull(1, "ada")
    forge.requests.clear()
    publish(github, reviewers=("Ada",))
    assert forge.writes == []


def test_who_cannot_review_costs_a_warning_and_the_others_are_asked(forge: Forge, github: GitHubForge) -> None:
    """GitHub refuses a whole list for one that is no collaborator, or the author."""
    result = publish(github, reviewers=("ada", "eve", "octo-bot"))
    assert result.operation is Operation.CREATED
    assert forge.api.pulls[1]["reviewers"] == ["ada"]
    assert len(result.warnings) == 2
    assert result.warnings[0].startswith(
        "`eve` could not be asked for a review: Reviews may only be requested from collaborators."
    )
    assert "`octo-bot` could not be asked for a review: Review cannot be requested from pull" in result.warnings[1]


def test_who_cannot_be_assigned_costs_a_warning(forge: Forge, github: GitHubForge) -> None:
    """GitHub leaves them out without a word."""
    result = publish(github, assignees=("bob", "eve"))
    assert forge.api.pulls[1]["assignees"] == ["bob"]
    assert result.warnings == ("`eve` could not be assigned: GitHub lets only people of the repository be",)


@pytest.mark.parametrize("path", ["/requested_reviewers$", "/assignees$", "/reviews$"])
@pytest.mark.parametrize(
    ("status", "body"), [(403, '{"message": "Forbidden"}'), (None, ""), (200, "<html>hello</html>")]
)
def test_no_fault_at_people_undoes_the_pull_request(
    forge: Forge, github: GitHubForge, path: str, status: int | None, body: str
) -> None:
    """It is there, with a warning or, where only the look at old reviews failed, without."""
    method = "GET" if path == "/reviews$" else "POST"
    forge.fail_next(method, path, status, body, times=10)
    result = publish(github, reviewers=("ada",), assignees=("bob",))
    assert result.operation is Operation.CREATED
    assert len(forge.api.pulls) == 1
    assert len(result.warnings) == (0 if method == "GET" else 1)


def test_a_note_goes_before_the_report(forge: Forge, github: GitHubForge) -> None:
    """Inside our part of the text, so that the next publication takes it away again."""
    publish(github, note="The branch was moved by a person.")
    assert forge.api.pulls[1]["body"] == island("The branch was moved by a person.\n\nthe report")
    publish(github)
    assert forge.api.pulls[1]["body"] == island("the report")
