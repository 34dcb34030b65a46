"""A second opinion on the client: the same calls against a stranger's emulator of GitHub (npm `emulate`, 0.12.2).

It knows less than GitHub and than our own test forge, and what it lacks is asserted as such: no git over HTTP, no GraphQL, no
statuses, no reactions, no dispatch; it makes pull requests of branches that do not exist.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import Request, urlopen

import pytest

from autoresearch_ci.forges.github import GitHubForge
from autoresearch_ci.forges.pull_request import Operation, PullStanding, PullState, island
from tests.forge.client import BRANCH, publish, refusal_of
from tests.forge.fixtures import TOKEN

FOLDER = os.environ.get("TEST_EMULATE", "")
if not FOLDER and os.environ.get("REQUIRE_EMULATE") != "1":
    pytest.skip("`.ci/emulate FOLDER` installs it; TEST_EMULATE names the folder", allow_module_level=True)

OWNER = "admin"  # whose token is any token


class Emulator:
    """The running emulator at `url`, spoken to without our client."""

    def __init__(self, url: str) -> None:
        self.url = url

    def ask(self, method: str, path: str, body: Any = None) -> Any:
        headers = {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json"}
        data = None if body is None else json.dumps(body).encode()
        with urlopen(Request(f"{self.url}{path}", data, headers, method=method), timeout=20) as answer:
            return json.loads(answer.read() or b"null")

    def repository(self, name: str) -> str:
        """A new private repository with one commit on `main` and one more on BRANCH; its full name."""
        full_name = str(
            self.ask("POST", "/user/repos", {"name": name, "auto_init": True, "private": True})["full_name"]
        )
        main = self.ask("GET", f"/repos/{full_name}/git/ref/heads/main")["object"]["sha"]
        self.ask("POST", f"/repos/{full_name}/git/refs", {"ref": f"refs/heads/{BRANCH}", "sha": main})
        change = {"message": "a change", "content": "TFIgPSAwLjEK", "branch": BRANCH}
        self.ask("PUT", f"/repos/{full_name}/contents/train.py", change)
        return full_name


@pytest.fixture(scope="module")
def emulator() -> Iterator[Emulator]:
    """One emulator for all tests here, on loopback."""
    folder = Path(FOLDER).absolute()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [f"{folder}/node", f"{folder}/node_modules/emulate/dist/index.js", "start", "--service", "github"]
    process = subprocess.Popen(
        [*command, "--port", str(port)],
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    emulator = Emulator(f"http://localhost:{port}")
    deadline = time.monotonic() + 60
    try:
        while True:
            try:
                emulator.ask("GET", "/user")
                break
            except URLError:
                assert process.poll() is None, process.stderr.read().decode() if process.stderr else ""
                assert time.monotonic() < deadline, "the emulator does not answer"
                time.sleep(0.1)
        yield emulator
    finally:
        process.terminate()
        process.communicate(timeout=20)


@pytest.fixture
def github(emulator: Emulator, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> GitHubForge:
    """The client at a repository of the test's own."""
    monkeypatch.setenv("NO_PROXY", "localhost")
    full_name = emulator.repository(request.node.name.replace("_", "-")[:90])
    return GitHubForge(repository=full_name, token=TOKEN, api_url=emulator.url, server_url=emulator.url, pause_s=0.0)


def pulls(emulator: Emulator, github: GitHubForge) -> list[dict[str, Any]]:
    found = emulator.ask("GET", f"/repos/{github.repository_url.removeprefix(emulator.url)[1:]}/pulls?state=all")
    assert isinstance(found, list)
    return found


def test_the_repository_is_seen(github: GitHubForge) -> None:
    """Its default branch, whether it is public, and who may write."""
    assert github.default_branch() == "main"
    assert github.is_public() is False
    assert github.permission(OWNER) == "admin"
    assert "`nobody` is nobody here" in refusal_of(lambda: github.permission("nobody")).message


def test_one_pull_request_is_created_updated_and_found(emulator: Emulator, github: GitHubForge) -> None:
    """With a label that did not exist; an update keeps a person's words and writes nothing when nothing is new."""
    assert github.standing(BRANCH) == PullStanding(state=PullState.NONE)
    created = publish(github, labels=("autoresearch",))
    assert (created.number, created.operation, created.warnings) == (1, Operation.CREATED, ())
    (pull,) = pulls(emulator, github)
    assert (pull["title"], pull["body"]) == ("val_bpb 1.0 → 0.9", island("the report"))
    assert [label["name"] for label in pull["labels"]] == ["autoresearch"]
    emulator.ask("PATCH", pull["url"].removeprefix(emulator.url), {"body": f"Look!\n{pull['body']}"})
    assert publish(github, body="newer", labels=("autoresearch",)).operation is Operation.UPDATED
    (pull,) = pulls(emulator, github)
    assert pull["body"] == f"Look!\n{island('newer')}"
    before = github.requests.writes
    assert publish(github, body="newer", labels=("autoresearch",)).number == 1
    assert github.requests.writes == before
    assert github.standing(BRANCH) == PullStanding(state=PullState.OPEN, number=1, url=created.url)
    assert github.pull_head(1) == (BRANCH, pull["head"]["sha"])
    assert github.is_from_fork(1) is False


def test_a_comment_is_said(emulator: Emulator, github: GitHubForge) -> None:
    """On the pull request."""
    publish(github)
    github.comment(1, "Continued: 20 more.")
    (pull,) = pulls(emulator, github)
    said = emulator.ask("GET", pull["comments_url"].removeprefix(emulator.url))
    assert [comment["body"] for comment in said] == ["Continued: 20 more."]


def test_a_pull_request_is_merged_once(emulator: Emulator, github: GitHubForge) -> None:
    """Merged again, the hash is the same one; what is merged stays so at the next publication."""
    publish(github)
    commit = github.merge_pull(1, method="squash", head_sha=github.pull_head(1)[1])
    assert github.merge_pull(1, method="squash") == commit
    (pull,) = pulls(emulator, github)
    assert (pull["state"], bool(pull["merged_at"]), pull["merge_commit_sha"]) == ("closed", True, commit)
    assert (github.standing(BRANCH).state, github.standing(BRANCH).number) == (PullState.MERGED, 1)
    assert publish(github, body="newer").operation is Operation.NONE


def test_a_closed_pull_request_stays_closed(emulator: Emulator, github: GitHubForge) -> None:
    """A person's decision, here as on GitHub."""
    publish(github)
    (pull,) = pulls(emulator, github)
    emulator.ask("PATCH", pull["url"].removeprefix(emulator.url), {"state": "closed"})
    assert github.standing(BRANCH).state is PullState.CLOSED
    assert publish(github).operation is Operation.NONE
    assert len(pulls(emulator, github)) == 1


def test_a_merge_of_a_branch_that_moved_is_refused(github: GitHubForge) -> None:
    """The hash that was looked at is not what is there. A gap of the emulator: GitHub answers 409, in other words."""
    publish(github)
    error = refusal_of(lambda: github.merge_pull(1, method="merge", head_sha="0" * 40))
    assert error.message == "pull request #1 cannot be merged: Head sha is out of date"


def test_a_draft_is_not_merged_and_cannot_become_ready_here(emulator: Emulator, github: GitHubForge) -> None:
    """A gap of the emulator: it has no GraphQL. The client says that the draft stays one, and goes on."""
    publish(github, draft=True)
    assert "#1 cannot be merged: Draft" in refusal_of(lambda: github.merge_pull(1, method="squash")).message
    assert publish(github, body="newer").warnings == ("pull request #1 stays a draft: Not Found",)
    (pull,) = pulls(emulator, github)
    assert (pull["draft"], pull["body"]) == (True, island("newer"))


def test_what_the_emulator_lacks_ends_in_one_line(emulator: Emulator, github: GitHubForge) -> None:
    """Gaps of the emulator: statuses, reactions, workflows from files; the client takes them for what is not there."""
    publish(github)
    sha = github.pull_head(1)[1]
    assert "there is no commit" in refusal_of(lambda: github.set_status(sha, state="success", description="")).message
    github.comment(1, "x")
    (pull,) = pulls(emulator, github)
    (comment,) = emulator.ask("GET", pull["comments_url"].removeprefix(emulator.url))
    assert "the comment is gone" in refusal_of(lambda: github.react(comment["id"], "eyes")).message
    assert "there is no workflow" in refusal_of(lambda: github.dispatch("autoresearch.yml", "main", {})).message


def test_the_emulator_makes_pull_requests_of_branches_that_do_not_exist(github: GitHubForge) -> None:
    """A gap of the emulator: GitHub refuses them, and so does our own test forge, on which the client's error is tested."""
    assert publish(github, branch="autoresearch/never-pushed").operation is Operation.CREATED
