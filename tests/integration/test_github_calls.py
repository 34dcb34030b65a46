"""What a session says and asks on GitHub besides its pull request's text."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from autoresearch_ci.errors import ForgeError
from autoresearch_ci.forges.github import GitHubForge
from autoresearch_ci.forges.pull_request import Operation, PullStanding, PullState
from tests.forge.actions import Dispatch
from tests.forge.client import BRANCH, at, publish, refusal_of
from tests.forge.fixtures import TOKEN, Checkout
from tests.forge.objects import EPOCH
from tests.forge.server import Forge

WORKFLOW = """\
on:
  workflow_dispatch:
    inputs:
      tag:
        required: true
      scope:
        type: choice
        options: [all, optimizer]
"""


@pytest.fixture
def pull(forge: Forge, checkout: Checkout, github: GitHubForge) -> str:
    """Pull request #1 of BRANCH; the hash that it is at."""
    sha = checkout.push_branch(BRANCH)
    publish(github)
    forge.requests.clear()
    return sha


@pytest.fixture
def workflow(checkout: Checkout) -> str:
    """A workflow on the default branch; its name."""
    checkout.commit(".github/workflows/autoresearch.yml", WORKFLOW, "a workflow")
    checkout.git("push", "--quiet", "origin", "main")
    return "autoresearch.yml"


# PullStanding.


def test_a_branch_without_a_pull_request_has_none(checkout: Checkout, github: GitHubForge) -> None:
    """Neither has one that does not exist."""
    checkout.push_branch(BRANCH)
    assert github.standing(BRANCH) == PullStanding(state=PullState.NONE)
    assert github.standing("autoresearch/never") == PullStanding(state=PullState.NONE)


def test_an_open_pull_request_is_shown_with_its_page(forge: Forge, checkout: Checkout, github: GitHubForge) -> None:
    """Number, page, and whether it is a draft."""
    checkout.push_branch(BRANCH)
    publish(github, draft=True)
    url = f"{forge.server_url}/octo/research/pull/1"
    assert github.standing(BRANCH) == PullStanding(state=PullState.OPEN, number=1, url=url, draft=True)


@pytest.mark.parametrize("gone", [False, True])
@pytest.mark.parametrize("how", ["close", "merge", "squash", "forward"])
def test_a_pull_request_that_a_person_ended_is_shown(
    forge: Forge, checkout: Checkout, github: GitHubForge, how: str, gone: bool
) -> None:
    """Closed or merged, also when GitHub deleted the branch at the merge, or the base was moved forward to it by hand."""
    head = checkout.push_branch(BRANCH)
    publish(github)
    if how == "close":
        forge.api.close_pull(1)
    elif how == "forward":
        checkout.git("push", "--quiet", "origin", f"{head}:main")
        forge.api.pulls[1].update(state="closed", closed_at=EPOCH, merged_at=EPOCH, merge_commit_sha=head)
    else:
        forge.api.merge_pull(1, squash=how == "squash")
    if gone:
        checkout.git("push", "--quiet", "origin", f":{BRANCH}")
    found = github.standing(BRANCH)
    assert (found.state, found.number) == (PullState.CLOSED if how == "close" else PullState.MERGED, 1)


def test_a_branch_that_goes_on_after_its_merge_has_none(forge: Forge, checkout: Checkout, github: GitHubForge) -> None:
    """The base was merged into it: what it holds now is in no pull request, and gets one of its own."""
    checkout.push_branch(BRANCH)
    publish(github)
    forge.api.merge_pull(1, squash=True)
    checkout.git("fetch", "--quiet", "origin")
    checkout.git("checkout", "--quiet", BRANCH)
    checkout.git("merge", "--quiet", "--no-edit", "origin/main")
    checkout.commit("train.py", "LEARNING_RATE = 0.3\n", "another night")
    checkout.git("push", "--quiet", "origin", BRANCH)
    assert github.standing(BRANCH) == PullStanding(state=PullState.NONE)
    assert (publish(github).number, publish(github).operation) == (2, Operation.UPDATED)


# Statuses.


def test_a_commit_gets_a_status(forge: Forge, checkout: Checkout, github: GitHubForge) -> None:
    """One context, so that the newest one counts; a page where there is one; a long description is cut to 140."""
    sha = checkout.git("rev-parse", "main")
    github.set_status(sha, state="pending", description="x" * 200, url="https://example.invalid/run")
    github.set_status(sha, state="success", description="3 kept")
    assert forge.api.statuses[sha] == [
        {
            "state": "pending",
            "description": "x" * 139 + "…",
            "context": "autoresearch",
            "target_url": "https://example.invalid/run",
        },
        {"state": "success", "description": "3 kept", "context": "autoresearch"},
    ]


@pytest.mark.usefixtures("checkout")
def test_a_status_that_is_not_possible_is_an_error(forge: Forge, github: GitHubForge) -> None:
    """A commit that is not pushed, and a token that may not; the hint names the permission."""
    error = refusal_of(lambda: github.set_status("0" * 40, state="pending", description=""))
    assert error.message == f"GitHub answered 422: No commit found for SHA: {'0' * 40}"
    forge.api.forbidden.add("statuses")
    error = refusal_of(lambda: github.set_status("0" * 40, state="pending", description=""))
    assert error.message == "the token may not do this: Resource not accessible by integration"
    assert "`statuses: write`" in error.hint


# Comments and reactions.


@pytest.mark.usefixtures("pull")
def test_a_comment_is_said_and_reacted_to(forge: Forge, github: GitHubForge) -> None:
    """On a pull request as on an issue; the same reaction twice is one."""
    github.comment(1, "Continued: 20 more.")
    number = forge.api.issues.open("a question")
    github.comment(number, "An answer.")
    assert (forge.api.issues.said(1), forge.api.issues.said(number)) == (["Continued: 20 more."], ["An answer."])
    asked = forge.api.issues.say(1, "mallory", "/autoresearch continue 20")
    github.react(asked, "eyes")
    github.react(asked, "eyes")
    assert forge.api.issues.comments[asked].reactions == [("octo-bot", "eyes")]


@pytest.mark.usefixtures("pull")
@pytest.mark.parametrize("after", [False, True])
def test_a_comment_whose_answer_is_lost_is_said_once(forge: Forge, github: GitHubForge, after: bool) -> None:
    """Whether or not it took effect; an older comment of the same words does not count as this one."""
    forge.api.clock = lambda: time.time() - 3600
    forge.api.issues.say(1, "octo-bot", "Done.")
    forge.api.clock = time.time
    forge.fail_next("POST", "/comments$", 502, "<html>Unicorn!</html>", after=after)
    github.comment(1, "Done.")
    assert forge.api.issues.said(1) == ["Done.", "Done."]


@pytest.mark.usefixtures("checkout")
def test_a_comment_that_is_not_possible_is_an_error(forge: Forge, github: GitHubForge) -> None:
    """No such issue, no such comment, too long, not permitted."""
    assert "there is no issue #7" in refusal_of(lambda: github.comment(7, "x")).message
    assert "the comment is gone" in refusal_of(lambda: github.react(7, "+1")).message
    with pytest.raises(ForgeError, match="65,536"):
        github.comment(7, "x" * 65_537)
    forge.api.forbidden.add("issues")
    assert "`issues: write`" in refusal_of(lambda: github.comment(7, "x")).hint


# Workflows.


def test_a_workflow_is_dispatched(forge: Forge, github: GitHubForge, workflow: str) -> None:
    """With its inputs, on the branch that is named."""
    github.dispatch(workflow, "main", {"tag": "nov22", "scope": "all"})
    assert forge.api.actions.dispatches == [Dispatch(workflow, "main", {"tag": "nov22", "scope": "all"})]


@pytest.mark.parametrize("status", [None, 500, 502])
@pytest.mark.parametrize("after", [False, True])
def test_a_dispatch_whose_answer_is_lost_starts_one_run(
    forge: Forge, github: GitHubForge, workflow: str, status: int | None, after: bool
) -> None:
    """Whether or not it took effect, and whatever was dispatched before it."""
    github.dispatch(workflow, "main", {"tag": "before"})
    forge.fail_next("POST", "/dispatches$", status, "<html>Unicorn!</html>", after=after)
    github.dispatch(workflow, "main", {"tag": "nov22"})
    assert [dispatch.inputs["tag"] for dispatch in forge.api.actions.dispatches] == ["before", "nov22"]


@pytest.mark.parametrize(
    ("name", "ref", "inputs", "expected"),
    [
        ("none.yml", "main", {"tag": "x"}, "there is no workflow `none.yml` that can be dispatched"),
        ("autoresearch.yml", "gone", {"tag": "x"}, "cannot be dispatched on `gone`: No ref found for: gone"),
        ("autoresearch.yml", "main", {"tag": "x", "tga": "y"}, 'Unexpected inputs provided: ["tga"]'),
        ("autoresearch.yml", "main", {}, "Required input 'tag' not provided"),
        ("autoresearch.yml", "main", {"tag": "x", "scope": "no"}, "not in the list of allowed values"),
        ("autoresearch.yml", "main", {str(n): "x" for n in range(26)}, "at most 25 inputs"),
    ],
)
@pytest.mark.usefixtures("workflow")
def test_a_dispatch_that_is_refused_is_an_error(
    github: GitHubForge, name: str, ref: str, inputs: dict[str, str], expected: str
) -> None:
    """In GitHub's words."""
    with pytest.raises(ForgeError) as caught:
        github.dispatch(name, ref, inputs)
    assert expected in caught.value.message


def test_a_dispatch_that_is_not_permitted_names_the_permission(
    forge: Forge, github: GitHubForge, workflow: str
) -> None:
    """`actions: write` is not among what a workflow gets by itself."""
    forge.api.forbidden.add("actions")
    assert "`actions: write`" in refusal_of(lambda: github.dispatch(workflow, "main", {"tag": "x"})).hint


@pytest.mark.usefixtures("workflow")
def test_a_run_is_looked_at_and_cancelled(forge: Forge, github: GitHubForge) -> None:
    """A run that is over already is no error; one that does not exist is."""
    run = forge.api.actions.start_run()
    assert github.run_status(run) == "queued"
    github.cancel_run(run)
    assert github.run_status(run) == "completed"
    assert forge.api.actions.runs[run]["conclusion"] == "cancelled"
    github.cancel_run(run)
    assert "there is no run 7" in refusal_of(lambda: github.run_status(7)).message
    assert "there is no run 7" in refusal_of(lambda: github.cancel_run(7)).message


# Merging.


def test_a_pull_requests_head_is_branch_and_commit(forge: Forge, github: GitHubForge, pull: str) -> None:
    """Of this repository; a fork's is refused, and so is one that does not exist."""
    assert github.pull_head(1) == (BRANCH, pull)
    forge.api.forks[1] = "mallory/research"
    assert "a pull request of a fork" in refusal_of(lambda: github.pull_head(1)).message
    assert "there is no pull request #7" in refusal_of(lambda: github.pull_head(7)).message


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("status", [None, 502])
def test_a_merge_whose_answer_is_lost_is_made_once(
    forge: Forge, checkout: Checkout, github: GitHubForge, pull: str, status: int | None, after: bool
) -> None:
    """The hash is the merge commit's; merged again, it is the same one."""
    forge.fail_next("PUT", "/merge$", status, "<html>Unicorn!</html>", after=after)
    commit = github.merge_pull(1, method="squash", head_sha=pull)
    assert forge.api.pulls[1]["merge_commit_sha"] == commit
    assert checkout.git("ls-remote", "origin", "refs/heads/main").startswith(commit)
    assert github.merge_pull(1, method="squash") == commit


@pytest.mark.usefixtures("pull")
def test_a_base_that_moved_just_now_is_tried_again(forge: Forge, github: GitHubForge) -> None:
    """GitHub asks for it in these words."""
    words = {"message": "Base branch was modified. Review and try the merge again."}
    forge.fail_next("PUT", "/merge$", 405, words)
    assert github.merge_pull(1, method="merge") == forge.api.pulls[1]["merge_commit_sha"]


def _draft(forge: Forge, checkout: Checkout) -> None:
    forge.api.pulls[1]["draft"] = True


def _closed(forge: Forge, checkout: Checkout) -> None:
    forge.api.close_pull(1)


def _conflict(forge: Forge, checkout: Checkout) -> None:
    checkout.git("checkout", "--quiet", "main")
    checkout.commit("train.py", "WIDTH = 1\n", "another way")
    checkout.git("push", "--quiet", "origin", "main")


def _protected(forge: Forge, checkout: Checkout) -> None:
    forge.api.merge_refusal = "At least 1 approving review is required by reviewers with write access."


def _unwanted(forge: Forge, checkout: Checkout) -> None:
    forge.api.merge_methods.discard("squash")


def _moved(forge: Forge, checkout: Checkout) -> None:
    checkout.push_branch(BRANCH, BRANCH, text="WIDTH = 2\n")


def _forbidden(forge: Forge, checkout: Checkout) -> None:
    forge.api.forbidden.add("contents")


@pytest.mark.parametrize(
    ("prepare", "expected"),
    [
        (_draft, "#1 cannot be merged: Pull Request is still a draft"),
        (_closed, "#1 was closed"),
        (_conflict, "#1 cannot be merged: Pull Request is not mergeable"),
        (_protected, "#1 cannot be merged: At least 1 approving review is required"),
        (_unwanted, "#1 cannot be merged: Squash merges are not allowed"),
        (_moved, "#1 was not merged, since its branch moved: Head branch was modified"),
        (_forbidden, "the token may not do this: Resource not accessible by integration"),
    ],
)
def test_a_merge_that_is_refused_changes_nothing(
    forge: Forge,
    checkout: Checkout,
    github: GitHubForge,
    pull: str,
    prepare: Callable[[Forge, Checkout], None],
    expected: str,
) -> None:
    """It is an error in GitHub's words, and the base stays where it was."""
    prepare(forge, checkout)
    before = checkout.git("ls-remote", "origin", "refs/heads/main")
    assert expected in refusal_of(lambda: github.merge_pull(1, method="squash", head_sha=pull)).message
    assert checkout.git("ls-remote", "origin", "refs/heads/main") == before


# Budgets.


def test_every_request_is_counted(forge: Forge, checkout: Checkout, github: GitHubForge) -> None:
    """Reads and writes as the forge saw them, GraphQL among the writes; a copy with less patience counts on."""
    checkout.push_branch(BRANCH)
    publish(github, draft=True, labels=("autoresearch",))
    publish(github.within(5.0), labels=("autoresearch",))
    github.set_status(checkout.git("rev-parse", BRANCH), state="success", description="")
    writes = [seen for seen in forge.requests if seen.method != "GET"]
    assert "/graphql" in [seen.path for seen in writes]
    assert (github.requests.writes, github.requests.total) == (len(writes), len(forge.requests))
    assert github.requests.reads == github.requests.total - github.requests.writes


def test_a_publication_costs_few_requests(forge: Forge, checkout: Checkout, github: GitHubForge) -> None:
    """Five for the first one with a label that exists; two, and no write, when nothing is new."""
    forge.api.labels["autoresearch"] = ("ffffff", "")
    checkout.push_branch(BRANCH)
    publish(github, labels=("autoresearch",))
    assert github.requests.total == 5
    publish(github, labels=("autoresearch",))
    assert (github.requests.total, len(forge.writes)) == (7, 2)


def test_a_call_ends_when_its_patience_does(forge: Forge, checkout: Checkout) -> None:
    """A wait that would outlast it is not begun, and a silent server is left after it."""
    checkout.push_branch(BRANCH)
    forge.fail_next("GET", "/repos/", 429, {"message": "Too many requests"}, headers={"Retry-After": "60"})
    began = time.monotonic()
    assert "limits our requests" in refusal_of(lambda: publish(at(forge).within(1.0))).message
    forge.fail_next("GET", "/repos/", 200, delay_s=20, times=9)
    assert "does not answer" in refusal_of(lambda: publish(at(forge, timeout_s=15).within(1.0))).message
    assert time.monotonic() - began < 10


def test_a_call_without_patience_sends_nothing(forge: Forge, github: GitHubForge) -> None:
    """It says so instead."""
    assert "has not answered within 0 s" in refusal_of(lambda: publish(github.within(0.0))).message
    assert forge.requests == []


@pytest.mark.usefixtures("checkout")
def test_a_secret_is_in_no_error(forge: Forge, github: GitHubForge) -> None:
    """Whatever a proxy echoes."""
    forge.fail_next("POST", "/statuses/", 400, {"message": f"bad header {TOKEN}"})
    assert "***" in refusal_of(lambda: github.set_status("0" * 40, state="error", description="")).message
