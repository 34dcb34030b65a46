"""Every fault of the forge has a defined end, and exactly one pull request exists afterwards."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest

from autoresearch_ci.errors import ForgeError
from autoresearch_ci.forges.github import GitHubForge
from autoresearch_ci.forges.pull_request import Operation, PullRequest, PullState, island
from tests.forge.client import BRANCH, at, publish
from tests.forge.fixtures import Checkout
from tests.forge.server import Forge

REPO, PULLS, PULL = r"/repos/octo/research$", r"/pulls$", r"/pulls/1$"
UNICORN = "<html><title>Unicorn!</title></html>"
SECONDARY = {"message": "You have exceeded a secondary rate limit. Please wait a few minutes before you try again."}
PRIMARY = {"message": "API rate limit exceeded for installation ID 7."}
RESET = {"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": "1800000010"}
LATER = {"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": "1800003600"}


def invalid(**error: str) -> dict[str, Any]:
    return {"message": "Validation Failed", "errors": [{"resource": "PullRequest", **error}]}


@dataclass(frozen=True)
class Case:
    """A fault at `times` requests, and its end: success, or an error whose message and hint hold these words."""

    name: str
    status: int | None
    body: str | Mapping[str, Any] = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    after: bool = False
    times: int = 1
    delay_s: float = 0.0
    end: tuple[str, str] | None = None
    method: str = "POST"
    path: str = PULLS


OUT_OF_ORDER = ("GitHub is out of order", "wait until it works again, then run `autoresearch-ci finalize`")
LIMITED = ("GitHub limits our requests for now", "wait an hour")
NO_GITHUB = ("does not answer as GitHub does", "GITHUB_API_URL")
NO_ANSWER = ("does not answer (", "look at the network")
CASES = [
    Case("500", 500, {"message": "Server Error"}),
    Case("500 after the write", 500, {"message": "Server Error"}, after=True),
    Case("502 of HTML", 502, UNICORN),
    Case("502 of HTML after the write", 502, UNICORN, after=True),
    Case("503 three times", 503, UNICORN, times=3),
    Case("500 for ever", 500, {"message": "Server Error"}, times=4, end=OUT_OF_ORDER),
    Case("502 for ever, each after the write", 502, UNICORN, after=True, times=4),
    Case("dropped", None),
    Case("dropped after the write", None, after=True),
    Case("dropped for ever", None, times=8, end=NO_ANSWER),
    Case("a timeout after the write", 201, after=True, delay_s=9.0),
    Case("429 with Retry-After", 429, {"message": "Too many requests"}, {"Retry-After": "0"}),
    Case("429 without Retry-After", 429, {"message": "Too many requests"}),
    Case("429 of an hour", 429, {"message": "Too many requests"}, {"Retry-After": "3600"}, end=LIMITED),
    Case("secondary limit with Retry-After", 403, SECONDARY, {"Retry-After": "1"}),
    Case("secondary limit without", 403, SECONDARY),
    Case("secondary limit for ever", 403, SECONDARY, times=4, end=LIMITED),
    Case("primary limit that is over soon", 403, PRIMARY, RESET),
    Case("primary limit of an hour", 403, PRIMARY, LATER, end=LIMITED),
    Case("401", 401, {"message": "Bad credentials"}, end=("does not accept the token", "GITHUB_TOKEN")),
    Case("403 of permission", 403, {"message": "Resource not accessible by integration"}, end=("the token may not do this: Resource not accessible by integration", "`pull-requests: write`")),
    Case("403 of the setting", 403, {"message": "GitHub Actions is not permitted to create or approve pull requests."}, end=("the workflow may not create pull requests; the branch is pushed", "/compare/main...autoresearch/nov22?expand=1")),
    Case("403 of HTML", 403, "<html>Blocked by the proxy</html>", end=("the token may not do this: status 403", "finalize")),
    Case("404", 404, {"message": "Not Found"}, end=("there is no repository", "GITHUB_REPOSITORY")),
    Case("409", 409, {"message": "Conflict"}, end=("GitHub answered 409: Conflict", "open it by hand")),
    Case("410", 410, {"message": "Gone"}, end=("there is no repository", "GITHUB_REPOSITORY")),
    Case("a branch that is not seen yet", 422, invalid(field="head", code="invalid"), times=3),
    Case("a node that is not seen yet", 422, {"message": "Could not resolve to a node with the global id of 'X'."}, times=2),
    Case("a branch that is never seen", 422, invalid(field="head", code="invalid"), times=4, end=("the branch `autoresearch/nov22` is not on the remote", "push it")),
    Case("422 of the base", 422, invalid(field="base", code="invalid"), end=("there is no branch `main` on the remote", "`base`")),
    Case("422 of a long text", 422, invalid(code="custom", message="body is too long (maximum is 65536 characters)"), end=("body is too long", "by hand")),
    Case("422 without a word", 422, "", end=("GitHub answered 422: status 422", "by hand")),
    Case("success of HTML", 200, "<html>Log in to the hotel's network</html>", end=NO_GITHUB),
    Case("success of HTML after the write", 201, "<html>Welcome</html>", after=True, end=NO_GITHUB),
    Case("broken JSON after the write", 201, '{"number": ', after=True, end=NO_GITHUB),
    Case("502 at the repository", 502, UNICORN, method="GET", path=REPO),
    Case("dropped at the list", None, method="GET", path=PULLS, times=2),
    Case("secondary limit at the list", 403, SECONDARY, {"Retry-After": "0"}, method="GET", path=PULLS),
    Case("401 at the repository", 401, {"message": "Bad credentials"}, method="GET", path=REPO, end=("does not accept the token", "GITHUB_TOKEN")),
    Case("a list of HTML", 200, "<html>hello</html>", method="GET", path=PULLS, end=NO_GITHUB),
]  # fmt: skip
UPDATES = [
    Case("500 at the update", 500, {"message": "Server Error"}, method="PATCH", path=PULL),
    Case("502 at the update after the write", 502, UNICORN, after=True, method="PATCH", path=PULL),
    Case("dropped at the update after the write", None, after=True, times=3, method="PATCH", path=PULL),
    Case("limited at the update", 429, {"message": "Too many requests"}, {"Retry-After": "1"}, method="PATCH", path=PULL),
    Case("403 at the update", 403, {"message": "Resource not accessible by integration"}, method="PATCH", path=PULL, end=("the token may not do this", "`pull-requests: write`")),
    Case("422 at the update", 422, invalid(code="custom", message="body is too long"), method="PATCH", path=PULL, end=("body is too long", "finalize")),
    Case("HTML at the update", 200, "<html>hello</html>", method="PATCH", path=PULL, end=NO_GITHUB),
]  # fmt: skip


def spoil(forge: Forge, case: Case) -> None:
    forge.fail_next(
        case.method, case.path, case.status, case.body,
        after=case.after, headers=case.headers, delay_s=case.delay_s, times=case.times,
    )  # fmt: skip


def attempt(github: GitHubForge, case: Case, **changes: Any) -> PullRequest | None:
    """The outcome of a publication under the fault, which is the one that the table says; None for an error."""
    if case.end is None:
        return publish(github, **changes)
    with pytest.raises(ForgeError) as caught:
        publish(github, **changes)
    assert case.end[0] in caught.value.message
    assert case.end[1] in caught.value.hint
    return None


def client(forge: Forge) -> GitHubForge:
    return at(forge, timeout_s=2, clock=lambda: 1_800_000_009.0)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_fault_at_the_first_publication(forge: Forge, checkout: Checkout, case: Case) -> None:
    """It ends as the table says; published again without it, there is exactly one pull request, with the newest text."""
    checkout.push_branch(BRANCH)
    spoil(forge, case)
    result = attempt(client(forge), case)
    assert len(forge.api.pulls) <= 1
    if result is not None:
        assert (result.number, result.warnings) == (1, ())
    forge.clear_faults()
    assert publish(client(forge), body="newer").number == 1
    assert len(forge.api.pulls) == 1
    assert forge.api.pulls[1]["body"] == island("newer")


@pytest.mark.parametrize("case", UPDATES, ids=lambda case: case.name)
def test_a_fault_at_a_later_publication(forge: Forge, checkout: Checkout, case: Case) -> None:
    """The same, of the pull request that exists."""
    checkout.push_branch(BRANCH)
    publish(client(forge))
    spoil(forge, case)
    result = attempt(client(forge), case, body="newer")
    if result is not None:
        assert (result.number, result.operation) == (1, Operation.UPDATED)
        assert forge.api.pulls[1]["body"] == island("newer")
    forge.clear_faults()
    publish(client(forge), body="newest")
    assert [pull["body"] for pull in forge.api.pulls.values()] == [island("newest")]


@pytest.mark.parametrize("seed", range(4))
def test_a_night_of_random_faults_ends_in_one_pull_request(forge: Forge, checkout: Checkout, seed: int) -> None:
    """Three of ten requests is spoilt; each call ends as it should, or as a ForgeError, and is then repeated."""
    checkout.push_branch(BRANCH)
    forge.api.permissions["ada"] = "write"
    github = client(forge)
    forge.spoil(0.3, seed)
    for night in range(5):
        for _ in range(10):
            try:
                result = publish(
                    github, body=f"report {night}", draft=night < 3, labels=("autoresearch",), reviewers=("ada",)
                )
                standing = github.standing(BRANCH)
            except ForgeError:
                continue
            break
        assert result.number == 1
        assert (standing.state, standing.number) == (PullState.OPEN, 1)
    assert len(forge.spoilt) >= 3
    forge.spoil(0.0, seed)
    publish(github, body="the last report", labels=("autoresearch",), reviewers=("ada",))
    (pull,) = forge.api.pulls.values()
    assert (pull["body"], pull["draft"]) == (island("the last report"), False)
    assert (pull["labels"], pull["reviewers"]) == (["autoresearch"], ["ada"])
