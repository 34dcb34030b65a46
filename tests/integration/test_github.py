from __future__ import annotations

from typing import Any

import pytest

from autoresearch_ci.errors import ForgeError, SettingsError
from autoresearch_ci.forges.github import GitHubForge
from autoresearch_ci.forges.publishing import BODY_LIMIT
from autoresearch_ci.forges.pull_request import Operation, PullRequest, island
from tests.forge.client import BRANCH, at, publish, refused
from tests.forge.fixtures import TOKEN, Checkout
from tests.forge.server import Forge

PULLS = r"/pulls$"


# One pull request per branch.


def test_the_first_publication_creates_a_pull_request(forge: Forge, checkout: Checkout, github: GitHubForge) -> None:
    """Title, text, base and label are on the forge; the outcome carries number and page."""
    checkout.push_branch(BRANCH)
    result = publish(github, labels=("autoresearch",))
    assert result == PullRequest(
        number=1, url=f"{forge.server_url}/octo/research/pull/1", operation=Operation.CREATED, warnings=()
    )
    pull = forge.api.pulls[1]
    assert (pull["title"], pull["body"]) == ("val_bpb 1.0 → 0.9", island("the report"))
    assert (pull["head"], pull["base"], pull["draft"], pull["labels"]) == (BRANCH, "main", False, ["autoresearch"])


def test_the_second_publication_updates_it_and_keeps_a_persons_words(
    forge: Forge, checkout: Checkout, github: GitHubForge
) -> None:
    """There is still one pull request; our part is new, the words around it are not touched."""
    checkout.push_branch(BRANCH)
    publish(github)
    forge.api.pulls[1]["body"] = f"Please look at #3.\n{island('the report')}\r\nThanks!"
    result = publish(github, title="val_bpb 1.0 → 0.8", body="a newer report")
    assert (result.number, result.operation) == (1, Operation.UPDATED)
    assert len(forge.api.pulls) == 1
    assert forge.api.pulls[1]["title"] == "val_bpb 1.0 → 0.8"
    assert forge.api.pulls[1]["body"] == f"Please look at #3.\n{island('a newer report')}\r\nThanks!"


def test_publishing_the_same_again_writes_nothing(forge: Forge, checkout: Checkout, github: GitHubForge) -> None:
    """A repeated `finalize` with nothing new costs no write."""
    checkout.push_branch(BRANCH)
    publish(github, labels=("autoresearch",))
    forge.requests.clear()
    assert publish(github, labels=("Autoresearch",)).operation is Operation.UPDATED
    assert forge.writes == []


def test_each_branch_has_its_own_pull_request(forge: Forge, checkout: Checkout, github: GitHubForge) -> None:
    """The pull request of another branch is neither found nor changed."""
    checkout.push_branch(BRANCH)
    checkout.push_branch("autoresearch/nov23")
    publish(github)
    assert publish(github, branch="autoresearch/nov23").number == 2
    assert [pull["head"] for pull in forge.api.pulls.values()] == [BRANCH, "autoresearch/nov23"]


def test_a_pull_request_that_a_person_sent_to_another_base_is_kept(
    forge: Forge, checkout: Checkout, github: GitHubForge
) -> None:
    """It is updated where it is, and no second one is opened."""
    checkout.push_branch("develop", text="WIDTH = 128\n")
    checkout.push_branch(BRANCH)
    publish(github)
    forge.api.pulls[1]["base"] = "develop"
    assert publish(github, body="newer").operation is Operation.UPDATED
    assert len(forge.api.pulls) == 1
    assert forge.api.pulls[1]["base"] == "develop"


def test_a_branch_without_commits_needs_no_pull_request(forge: Forge, checkout: Checkout, github: GitHubForge) -> None:
    """ "No commits between" is an outcome and not an error."""
    checkout.git("push", "--quiet", "origin", f"main:refs/heads/{BRANCH}")
    assert publish(github) == PullRequest(number=None, url="", operation=Operation.NONE)
    assert forge.api.pulls == {}


def end(forge: Forge, how: str) -> None:
    """A person closes or merges the only pull request."""
    if how == "close":
        forge.api.close_pull(1)
    else:
        forge.api.merge_pull(1, squash=how == "squash")


@pytest.mark.parametrize("how", ["close", "merge", "squash"])
def test_a_pull_request_that_a_person_ended_stays_ended(
    forge: Forge, checkout: Checkout, github: GitHubForge, how: str
) -> None:
    """Closed or merged, it is not opened again and no other one is made; the outcome shows it."""
    checkout.push_branch(BRANCH)
    publish(github)
    end(forge, how)
    checkout.push_branch(BRANCH, BRANCH, text="LEARNING_RATE = 0.2\n")
    result = publish(github, body="newer")
    assert (result.number, result.operation) == (1, Operation.NONE)
    assert result.url.endswith("/pull/1")
    assert "by a person" in result.warnings[0]
    assert len(forge.api.pulls) == 1
    assert forge.api.pulls[1]["body"] == island("the report")


@pytest.mark.parametrize("how", ["close", "merge", "squash"])
def test_a_new_branch_of_an_old_name_gets_its_own_pull_request(
    forge: Forge, checkout: Checkout, github: GitHubForge, how: str
) -> None:
    """A tag is used again after its branch was deleted: what was closed or merged then does not silence it."""
    checkout.push_branch(BRANCH)
    publish(github)
    end(forge, how)
    checkout.git("push", "--quiet", "origin", f":{BRANCH}")
    checkout.git("fetch", "--quiet", "origin")
    checkout.push_branch(BRANCH, text="LEARNING_RATE = 0.3\n")
    assert publish(github).number == 2


def test_a_closed_pull_request_of_an_unrelated_history_is_not_ours(
    forge: Forge, checkout: Checkout, github: GitHubForge
) -> None:
    """Where the forge cannot compare the two (the commit is gone, no common ancestor), the branch is a new one."""
    checkout.push_branch(BRANCH)
    publish(github)
    forge.api.close_pull(1)
    forge.fail_next("GET", "/compare/", 404, {"message": "Not Found"})
    assert publish(github).number == 2


def test_a_branch_of_an_unrelated_history_is_an_error_in_githubs_words(checkout: Checkout, github: GitHubForge) -> None:
    """A 422 that nobody foresaw is passed on."""
    checkout.git("checkout", "--quiet", "--orphan", "other")
    checkout.commit("train.py", "WIDTH = 1\n", "another root")
    checkout.git("push", "--quiet", "origin", f"other:refs/heads/{BRANCH}")
    assert "no history in common" in refused(github).message


def test_a_draft_is_a_draft_where_drafts_exist(forge: Forge, checkout: Checkout, github: GitHubForge) -> None:
    """`draft` is honoured."""
    checkout.push_branch(BRANCH)
    publish(github, draft=True)
    assert forge.api.pulls[1]["draft"] is True


def test_without_drafts_the_pull_request_is_an_ordinary_one(
    forge: Forge, checkout: Checkout, github: GitHubForge
) -> None:
    """A repository whose plan has no drafts gets the pull request all the same."""
    forge.api.drafts_supported = False
    checkout.push_branch(BRANCH)
    assert publish(github, draft=True).operation is Operation.CREATED
    assert forge.api.pulls[1]["draft"] is False


# Labels.


def test_a_label_that_does_not_exist_is_made(forge: Forge, checkout: Checkout, github: GitHubForge) -> None:
    """Labels are created once, added where they are missing, and a person's own labels stay."""
    forge.api.labels["Known"] = ("ffffff", "")
    checkout.push_branch(BRANCH)
    publish(github)
    forge.api.pulls[1]["labels"].append("Known")
    assert publish(github, labels=("autoresearch", "known")).warnings == ()
    assert forge.api.pulls[1]["labels"] == ["Known", "autoresearch"]
    assert forge.writes[-2:] == ["POST /repos/octo/research/labels", "POST /repos/octo/research/issues/1/labels"]


def test_a_token_that_may_not_label_costs_a_warning(forge: Forge, checkout: Checkout, github: GitHubForge) -> None:
    """The pull request is there, and the outcome says that it has no label."""
    forge.api.may_label = False
    checkout.push_branch(BRANCH)
    result = publish(github, labels=("autoresearch",))
    assert result.operation is Operation.CREATED
    assert result.warnings == ("the labels could not be set: Resource not accessible by integration",)


@pytest.mark.parametrize(("status", "body"), [(None, ""), (200, "<html>hello</html>")])
def test_a_forge_that_fails_at_labelling_costs_a_warning(
    forge: Forge, checkout: Checkout, github: GitHubForge, status: int | None, body: str
) -> None:
    """Lost or senseless answers about labels do not undo the pull request."""
    checkout.push_branch(BRANCH)
    forge.fail_next("POST", "/labels$", status, body, times=10)
    result = publish(github, labels=("autoresearch",))
    assert result.operation is Operation.CREATED
    assert "gave no usable answer" in result.warnings[0]


# The text.


def test_a_text_that_is_too_long_is_refused_before_it_is_sent(forge: Forge, github: GitHubForge) -> None:
    """GitHub takes 65,536 characters; the report cuts, the forge insists."""
    with pytest.raises(ForgeError, match="65,536"):
        publish(github, body="x" * BODY_LIMIT)
    assert forge.requests == []


def test_a_text_of_the_full_length_is_taken(forge: Forge, checkout: Checkout, github: GitHubForge) -> None:
    """The limit counts characters, not bytes."""
    checkout.push_branch(BRANCH)
    body = "ü" * (BODY_LIMIT - len(island("")))
    publish(github, body=body)
    assert forge.api.pulls[1]["body"] == island(body)


def test_no_room_left_by_a_person_costs_a_warning(forge: Forge, checkout: Checkout, github: GitHubForge) -> None:
    """Rather an old report than a person's words cut off."""
    checkout.push_branch(BRANCH)
    publish(github)
    words = "x" * (BODY_LIMIT - 200)
    forge.api.pulls[1]["body"] = words
    result = publish(github, title="new title", body="y" * 500)
    assert "no room" in result.warnings[0]
    assert (forge.api.pulls[1]["title"], forge.api.pulls[1]["body"]) == ("new title", words)


def test_a_long_title_is_cut(forge: Forge, checkout: Checkout, github: GitHubForge) -> None:
    """GitHub takes 256 characters of title."""
    checkout.push_branch(BRANCH)
    publish(github, title="t" * 300)
    assert forge.api.pulls[1]["title"] == "t" * 256


# Faults.


@pytest.mark.parametrize("status", [None, 500, 502, 503])
@pytest.mark.parametrize("after", [False, True])
def test_a_lost_answer_to_the_creation_makes_no_second_pull_request(
    forge: Forge, checkout: Checkout, github: GitHubForge, status: int | None, after: bool
) -> None:
    """Whether or not the write took place, one pull request exists afterwards and is the outcome."""
    checkout.push_branch(BRANCH)
    forge.fail_next("POST", PULLS, status, "<html>Unicorn!</html>", after=after)
    assert publish(github).number == 1
    assert len(forge.api.pulls) == 1
    assert forge.writes.count("POST /repos/octo/research/pulls") == 1


def test_a_timeout_after_the_write_makes_no_second_pull_request(forge: Forge, checkout: Checkout) -> None:
    """The client gave up waiting, the forge had done it: it is found again."""
    checkout.push_branch(BRANCH)
    forge.fail_next("POST", PULLS, 201, after=True, delay_s=30)
    assert publish(at(forge, timeout_s=1)).number == 1
    assert len(forge.api.pulls) == 1


def test_a_list_that_lags_behind_makes_no_second_pull_request(
    forge: Forge, checkout: Checkout, github: GitHubForge
) -> None:
    """The answer is lost and the list does not show the pull request yet: "already exists" leads to it."""
    checkout.push_branch(BRANCH)
    forge.fail_next("POST", PULLS, 502, after=True)
    forge.fail_next("GET", PULLS, 200, "[]", times=2)
    assert publish(github, body="the report").number == 1
    assert len(forge.api.pulls) == 1


def test_a_pull_request_that_exists_but_is_never_listed_is_an_error(
    forge: Forge, checkout: Checkout, github: GitHubForge
) -> None:
    """GitHub says that it exists and does not show it: its words are passed on."""
    checkout.push_branch(BRANCH)
    publish(github)
    forge.fail_next("GET", PULLS, 200, "[]", times=20)
    assert "already exists" in refused(github).message


def test_a_fresh_branch_that_the_forge_does_not_see_yet_is_waited_for(
    forge: Forge, checkout: Checkout, github: GitHubForge
) -> None:
    """Head invalid and "could not resolve to a node" right after a push pass by themselves."""
    checkout.push_branch(BRANCH)
    unseen = {
        "message": "Validation Failed",
        "errors": [{"resource": "PullRequest", "field": "head", "code": "invalid"}],
    }
    forge.fail_next("POST", PULLS, 422, unseen)
    forge.fail_next("POST", PULLS, 422, {"message": "Could not resolve to a node with the global id of 'X'"})
    assert publish(github).operation is Operation.CREATED


def test_an_update_whose_answer_is_lost_is_repeated(forge: Forge, checkout: Checkout, github: GitHubForge) -> None:
    """The same text twice is the same text: an update may be repeated."""
    checkout.push_branch(BRANCH)
    publish(github)
    forge.fail_next("PATCH", "/pulls/1", None, after=True)
    assert publish(github, body="newer").operation is Operation.UPDATED
    assert forge.api.pulls[1]["body"] == island("newer")


@pytest.mark.parametrize(
    ("status", "message", "headers"),
    [
        (403, "You have exceeded a secondary rate limit. Please wait a few minutes.", {"Retry-After": "0"}),
        (403, "You have exceeded a secondary rate limit. Please wait a few minutes.", {}),
        (403, "API rate limit exceeded for installation", {"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": "1000"}),
        (429, "Too many requests", {}),
    ],
)
def test_a_short_rate_limit_is_waited_out(
    forge: Forge, checkout: Checkout, github: GitHubForge, status: int, message: str, headers: dict[str, str]
) -> None:
    """Limits with and without Retry-After, and those that name the time of their end."""
    checkout.push_branch(BRANCH)
    forge.fail_next("POST", PULLS, status, {"message": message}, headers=headers)
    assert publish(github).operation is Operation.CREATED


def test_a_rate_limit_of_an_hour_is_not_waited_out(forge: Forge, checkout: Checkout, github: GitHubForge) -> None:
    """`finalize` has minutes: it says when to come back."""
    checkout.push_branch(BRANCH)
    forge.fail_next("POST", PULLS, 429, {"message": "Too many requests"}, headers={"Retry-After": "3600"})
    error = refused(github)
    assert "limits our requests" in error.message
    assert "autoresearch-ci finalize" in error.hint


def test_a_forge_that_is_out_of_order_is_an_error_with_a_hint(forge: Forge, github: GitHubForge) -> None:
    """It is asked four times, then the person is told."""
    forge.fail_next("GET", "/repos/", 502, "<html>Bad gateway</html>", times=4)
    assert refused(github).message == "GitHub is out of order (502)"


def test_an_actions_token_that_may_not_create_ends_in_a_compare_link(
    forge: Forge, checkout: Checkout, github: GitHubForge
) -> None:
    """The hint names the setting to tick and the page that opens the pull request by hand."""
    forge.api.may_create_pulls = False
    checkout.push_branch(BRANCH)
    error = refused(github)
    assert "may not create pull requests" in error.message
    assert "Allow GitHub Actions to create and approve pull requests" in error.hint
    assert f"{forge.server_url}/octo/research/compare/main...autoresearch/nov22?expand=1" in error.hint


def test_a_wrong_token_is_an_error_that_does_not_show_it(forge: Forge) -> None:
    """401 says which variable to set."""
    error = refused(at(forge, token="ghs_WrongTokenOfSomebody"))
    assert error.message == "GitHub does not accept the token"
    assert "ghs_WrongTokenOfSomebody" not in error.message + error.hint


def test_an_unknown_repository_is_an_error(forge: Forge) -> None:
    """404 names the repository that was looked for."""
    assert "octo/elsewhere" in refused(at(forge, repository="octo/elsewhere")).message


@pytest.mark.usefixtures("checkout")
def test_a_branch_that_was_not_pushed_is_an_error(github: GitHubForge) -> None:
    """422 about the head says that the branch is not on the remote."""
    assert refused(github).message == f"the branch `{BRANCH}` is not on the remote"


def test_a_base_that_does_not_exist_is_an_error(checkout: Checkout, github: GitHubForge) -> None:
    """422 about the base names it."""
    checkout.push_branch(BRANCH)
    assert "`nowhere`" in refused(github, base="nowhere").message


@pytest.mark.parametrize(
    ("status", "body", "expected"),
    [
        (403, {"message": "Resource not accessible by integration"}, "not accessible by integration"),
        (409, {"message": "Conflict"}, "GitHub answered 409: Conflict"),
        (410, {"message": "Gone"}, "there is no repository"),
        (422, {"message": "Validation Failed", "errors": ["odd", {"code": "missing"}]}, "Validation Failed missing"),
        (418, "<html>teapot</html>", "GitHub answered 418: status 418"),
        (400, {"message": f"bad\nheader `{TOKEN}`"}, "bad header `***`"),
        (200, "<html>Log in to the hotel's network</html>", "does not answer as GitHub does"),
        (201, "{broken", "does not answer as GitHub does"),
    ],
)
def test_every_other_answer_is_one_line_with_a_hint(
    forge: Forge, checkout: Checkout, github: GitHubForge, status: int, body: Any, expected: str
) -> None:
    """Refusals, pages of HTML and broken JSON are told apart, on one line, without the token."""
    checkout.push_branch(BRANCH)
    forge.fail_next("POST", PULLS, status, body)
    assert expected in refused(github).message


@pytest.mark.parametrize("path", ["/repos/octo/research$", PULLS])
@pytest.mark.parametrize("body", ["<html>Log in to the hotel's network</html>", "[1, 2]", '{"a": 1}'])
def test_something_that_is_no_github_is_recognised(forge: Forge, github: GitHubForge, path: str, body: str) -> None:
    """Success with a senseless body, wherever it comes, is an error with a hint."""
    forge.fail_next("GET", path, 200, body)
    assert "does not answer as GitHub does" in refused(github).message


def test_a_server_that_is_not_there_is_an_error(forge: Forge) -> None:
    """A refused connection says where was looked."""
    assert "`http://127.0.0.1:9` does not answer" in refused(at(forge, api_url="http://127.0.0.1:9")).message


# Who and where.


@pytest.mark.usefixtures("checkout")
def test_the_default_branch_is_the_repositorys(github: GitHubForge) -> None:
    """It is asked for, not assumed."""
    assert github.default_branch() == "main"


def test_the_environment_of_a_runner_is_enough(forge: Forge, checkout: Checkout) -> None:
    """GITHUB_* name repository, server, API and token; an empty variable is not set."""
    checkout.push_branch(BRANCH)
    environ = {
        "GITHUB_REPOSITORY": "octo/research",
        "GITHUB_API_URL": forge.api_url,
        "GITHUB_SERVER_URL": forge.server_url,
        "AUTORESEARCH_TOKEN": "",
        "GITHUB_TOKEN": f"{TOKEN}\n",
        "GH_TOKEN": "another",
    }
    github = GitHubForge.from_environment(environ, "")
    assert github.repository_url == f"{forge.server_url}/octo/research"
    assert github.remote_url == forge.clone_url
    assert publish(github).operation is Operation.CREATED


@pytest.mark.usefixtures("checkout")
def test_the_remote_is_enough_outside_a_runner(forge: Forge) -> None:
    """Repository, server and API come from `origin`, and AUTORESEARCH_TOKEN goes before the others."""
    environ = {"AUTORESEARCH_TOKEN": TOKEN, "GITHUB_TOKEN": "another"}
    assert GitHubForge.from_environment(environ, forge.clone_url).default_branch() == "main"
    github = GitHubForge.from_environment({"GH_TOKEN": TOKEN}, "git@github.com:octo/research.git")
    assert (github.api_url, github.remote_url) == ("https://api.github.com", "https://github.com/octo/research.git")


@pytest.mark.parametrize(
    ("environ", "origin", "expected"),
    [
        ({"GITHUB_TOKEN": TOKEN}, "/srv/git/research", "no repository"),
        ({}, "git@github.com:octo/research.git", "no token"),
        ({"GITHUB_TOKEN": "two words"}, "git@github.com:octo/research.git", "the token holds characters"),
        ({"GITHUB_TOKEN": TOKEN, "GITHUB_REPOSITORY": "research"}, "", "`research` is not a repository"),
        ({"GITHUB_TOKEN": TOKEN, "GITHUB_REPOSITORY": "a/b", "GITHUB_API_URL": "api"}, "", "GITHUB_API_URL"),
        (
            {"GITHUB_TOKEN": TOKEN, "GITHUB_REPOSITORY": "a/b", "GITHUB_SERVER_URL": "https://user:secret@host"},
            "",
            "GITHUB_SERVER_URL",
        ),
    ],
)
def test_what_is_missing_or_malformed_is_a_settings_error(environ: dict[str, str], origin: str, expected: str) -> None:
    """Before anything is sent: one line, a hint, and no secret."""
    with pytest.raises(SettingsError, match=expected) as caught:
        GitHubForge.from_environment(environ, origin)
    assert caught.value.hint
    assert not any(secret in str(caught.value) for secret in (TOKEN, "two words", "secret"))


def test_the_token_is_not_in_the_repr(github: GitHubForge) -> None:
    """Printing the forge in a log or an assertion does not give the token away."""
    assert TOKEN not in repr(github)
