"""GitHub, or a GitHub Enterprise server, as the forge: the pull request, and everything else that a session says or asks there."""

from __future__ import annotations

import copy
import datetime as dt
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Final, Literal
from urllib.parse import quote

from github import Auth, GithubException, UnknownObjectException

from autoresearch_ci.errors import ForgeError, SettingsError
from autoresearch_ci.forges.connection import PATIENCE_S, Connection, Line
from autoresearch_ci.forges.counting import Requests
from autoresearch_ci.forges.origin import api_url_of, parse_origin
from autoresearch_ci.forges.publishing import BODY_LIMIT, TITLE_LIMIT, Publishing, Wanted
from autoresearch_ci.forges.pull_request import PullRequest, PullStanding, island, with_note
from autoresearch_ci.forges.pulls import standing
from autoresearch_ci.forges.refusals import Purpose, passes, reason, says
from autoresearch_ci.forges.tokens import FixedToken, Tokens, find_tokens

STATUS_CONTEXT: Final = "autoresearch"
STATUS_LIMIT: Final = 140  # characters of a commit status's description
INPUTS_LIMIT: Final = 25  # of a dispatch

_SKEW_S: Final = 300  # how far this machine's clock may be from GitHub's when a comment is looked for


class GitHubForge:
    """Publishes on GitHub or a GitHub Enterprise server.

    `repository`: `owner/name`. `token`: itself, or where it comes from. `timeout_s`: of one request. `pause_s`: between
    two writes, and before the first repetition of a request (doubled each time). `patience_s`: of one call of a method in
    all. `clock`: seconds since the epoch. Raises SettingsError for a malformed value.
    """

    def __init__(
        self,
        *,
        repository: str,
        token: str | Tokens,
        api_url: str = "https://api.github.com",
        server_url: str = "https://github.com",
        timeout_s: int = 15,
        pause_s: float = 1.0,
        patience_s: float = PATIENCE_S,
        clock: Callable[[], float] = time.time,
    ) -> None:
        if not re.fullmatch(r"[A-Za-z0-9._-]+/[A-Za-z0-9._-]+", repository):
            raise SettingsError(
                f"`{repository}` is not a repository on GitHub", hint="write GITHUB_REPOSITORY as `owner/name`"
            )
        for name, url in (("GITHUB_SERVER_URL", server_url), ("GITHUB_API_URL", api_url)):
            if not re.fullmatch(r"https?://[^\s/@]+(?:/\S*)?", url):
                raise SettingsError(f"{name} is not a URL", hint="write it as `https://host`, without user or token")
        self._tokens: Tokens = FixedToken(token) if isinstance(token, str) else token
        self._line = Line(
            repository=repository,
            api_url=api_url,
            server_url=server_url,
            timeout_s=timeout_s,
            pause_s=pause_s,
            patience_s=patience_s,
            clock=clock,
        )

    @classmethod
    def from_environment(cls, environ: Mapping[str, str], origin_url: str) -> GitHubForge:
        """The forge that the runner's variables describe, or, outside a runner, the repository's remote `origin_url`.

        An empty variable counts as not set; a GitHub App goes before a token. Raises SettingsError when there is no
        repository, or neither App nor token.
        """
        origin = parse_origin(origin_url)
        server = environ.get("GITHUB_SERVER_URL") or (origin[0] if origin else "https://github.com")
        repository = environ.get("GITHUB_REPOSITORY") or (origin[1] if origin else "")
        if not repository:
            raise SettingsError(
                "no repository on GitHub is known", hint="set GITHUB_REPOSITORY to `owner/name`, or use `--forge local`"
            )
        return cls(
            repository=repository,
            token=find_tokens(environ),
            server_url=server,
            api_url=environ.get("GITHUB_API_URL") or api_url_of(server),
        )

    def within(self, patience_s: float) -> GitHubForge:
        """The same forge, whose calls end after `patience_s`: for what is only told, and must not hold up a session."""
        other = copy.copy(self)
        other._line = replace(self._line, patience_s=patience_s)
        return other

    # Who and where.

    @property
    def token(self) -> str:
        """What git and the API are shown now; an App's is minted when the last one is nearly over. Raises ForgeError."""
        return self._tokens.current(self._line)

    @property
    def token_hours(self) -> float | None:
        """How long the source of tokens lives in all; None: as long as the session."""
        return self._tokens.hours

    def secrets(self) -> tuple[str, ...]:
        """Every secret it holds now, for what must not be said."""
        return self._tokens.secrets()

    @property
    def requests(self) -> Requests:
        """Counts everything that was sent to the API."""
        return self._line.requests

    @property
    def api_url(self) -> str:
        """Where the API is."""
        return self._line.api_url

    @property
    def repository_url(self) -> str:
        """`https://host/owner/name`."""
        return self._line.repository_url

    @property
    def remote_url(self) -> str:
        """What git pushes to; it holds no token."""
        return f"{self.repository_url}.git"

    def compare_url(self, base: str, branch: str) -> str:
        """The page on which a person opens the pull request by hand."""
        return f"{self.repository_url}/compare/{quote(base)}...{quote(branch)}?expand=1"

    # What it is asked.

    def default_branch(self) -> str:
        """The branch that a pull request goes to unless told otherwise. Raises ForgeError."""
        with self._connect("`contents: read`") as connection:
            return connection.repository().default_branch

    def is_public(self) -> bool:
        """Whether everybody can see the repository. Raises ForgeError."""
        with self._connect("`contents: read`") as connection:
            return not connection.repository().private

    def permission(self, user: str) -> str:
        """What `user` may do here: `admin`, `write`, `read` or `none`. Raises ForgeError."""
        with self._connect("`contents: write`", missing=f"`{user}` is nobody here") as connection:
            return connection.ask("GET", f"/collaborators/{quote(user)}/permission", take=_text("permission"))

    def is_from_fork(self, number: int) -> bool:
        """Whether the branch of pull request `number` is, or was, in another repository. Raises ForgeError."""
        with self._connect("`pull-requests: read`", missing=f"there is no pull request #{number}") as connection:
            return self._is_of_fork(connection.pull(number).head.repo)

    def pull_head(self, number: int) -> tuple[str, str]:
        """The branch of pull request `number` and the commit that it is at. Raises ForgeError, also for a fork's."""
        with self._connect("`pull-requests: read`", missing=f"there is no pull request #{number}") as connection:
            head = connection.pull(number).head
        if self._is_of_fork(head.repo):
            raise ForgeError(
                f"#{number} is a pull request of a fork", hint="only branches of this repository are worked on"
            )
        return head.ref, head.sha

    def standing(self, branch: str, base: str = "") -> PullStanding:
        """What became of the pull request that is about what `branch` holds on the remote. Raises ForgeError."""
        with self._connect("`pull-requests: read`") as connection:
            return standing(connection, branch, base)

    # The pull request.

    def publish(
        self,
        *,
        branch: str,
        base: str,
        title: str,
        body: str,
        draft: bool,
        labels: tuple[str, ...],
        attachments: Mapping[str, bytes | str],  # noqa: ARG002 - GitHub shows the files that are on the branch
        reviewers: tuple[str, ...] = (),
        assignees: tuple[str, ...] = (),
        note: str = "",
    ) -> PullRequest:
        """Creates the pull request of `branch`, or brings the open one up to date: title and our part of its text.

        `none`: the branch has no commits over `base`, or a person closed or merged its pull request (`number` and `url`
        are then that one's). An open draft becomes ready without `draft`; nothing becomes one again. `note` goes before
        our part of the text. Labels, reviewers and assignees are added, never taken away; what GitHub refuses of them is a
        warning. The branch must be on the remote. Safe to repeat. Raises ForgeError.
        """
        body = with_note(body, note)
        if len(island(body)) > BODY_LIMIT:
            raise ForgeError(f"the pull request text is longer than the {BODY_LIMIT:,} characters that GitHub takes")
        wanted = Wanted(
            branch=branch,
            base=base,
            title=title[:TITLE_LIMIT],
            body=body,
            draft=draft,
            labels=labels,
            reviewers=reviewers,
            assignees=assignees,
        )
        purpose = self._purpose(
            "`contents: write` and `pull-requests: write`",
            again="run `autoresearch-ci finalize`",
            by_hand=f"open it by hand: {self.compare_url(base, branch)}",
            branch=branch,
            base=base,
        )
        with self._connected(purpose) as connection:
            return Publishing(connection, wanted, self.secrets()).publish()

    def merge_pull(self, number: int, *, method: Literal["squash", "rebase", "merge"], head_sha: str = "") -> str:
        """Merges as the button does, and returns the merge commit's hash; of one that is merged already, its own.

        `head_sha`: only if the branch is still there. Raises ForgeError.
        """
        missing = f"there is no pull request #{number}"
        with self._connect("`contents: write` and `pull-requests: write`", missing=missing) as connection:

            def merge() -> str:
                pull = connection.pull(number)
                if pull.merged:
                    return pull.merge_commit_sha
                if pull.state != "open":
                    raise ForgeError(
                        f"pull request #{number} was closed", hint="open it again on its page, then merge it"
                    )
                body = {"merge_method": method, "sha": head_sha or pull.head.sha}
                return _text("sha")(connection.ask_once("PUT", f"/pulls/{number}/merge", body))

            try:
                return connection.repeat(merge, _passes_at_merging)
            except GithubException as error:
                words = reason(error, self.secrets())
                if error.status in (405, 422):
                    raise ForgeError(
                        f"pull request #{number} cannot be merged: {words}", hint="look at what its page asks for"
                    ) from error
                if error.status == 409:
                    raise ForgeError(
                        f"pull request #{number} was not merged, since its branch moved: {words}",
                        hint="look at what was pushed to it, then merge again",
                    ) from error
                raise

    # What is said.

    def set_status(
        self,
        commit: str,
        *,
        state: Literal["pending", "success", "failure", "error"],
        description: str,
        url: str = "",
    ) -> None:
        """Sets the commit's status `autoresearch`; a description that is too long is cut. Raises ForgeError."""
        words = description if len(description) <= STATUS_LIMIT else description[: STATUS_LIMIT - 1] + "…"
        body = {"state": state, "description": words, "context": STATUS_CONTEXT} | ({"target_url": url} if url else {})
        with self._connect("`statuses: write`", missing=f"there is no commit {commit[:7]}") as connection:
            connection.ask("POST", f"/statuses/{quote(commit)}", body, take=_text("state"))

    def comment(self, number: int, text: str) -> None:
        """Comments on an issue or pull request, once, also when the answer is lost. Raises ForgeError."""
        if len(text) > BODY_LIMIT:
            raise ForgeError(f"the comment is longer than the {BODY_LIMIT:,} characters that GitHub takes")
        path = f"/issues/{number}/comments"
        since = dt.datetime.fromtimestamp(self._line.clock() - _SKEW_S, dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        tried = False
        with self._connect("`issues: write`", missing=f"there is no issue #{number}") as connection:

            def comment() -> None:
                nonlocal tried
                if tried:  # the write may have taken place
                    said = connection.ask_once("GET", path, since=since, per_page="100")
                    if any(one["body"] == text for one in said):
                        return
                tried = True
                _identified(connection.ask_once("POST", path, {"body": text}))

            connection.repeat(comment)

    def react(self, comment_id: int, content: Literal["eyes", "+1", "confused", "rocket"]) -> None:
        """Reacts to a comment; the same reaction twice is one. Raises ForgeError."""
        path = f"/issues/comments/{comment_id}/reactions"
        with self._connect("`issues: write`", missing="the comment is gone") as connection:
            connection.ask("POST", path, {"content": content}, take=_text("content"))

    # Workflows.

    def dispatch(self, workflow: str, ref: str, inputs: Mapping[str, str]) -> None:
        """Starts the workflow (its file's name) on `ref`, once, also when the answer is lost. Raises ForgeError."""
        if len(inputs) > INPUTS_LIMIT:
            raise ForgeError(f"a workflow takes at most {INPUTS_LIMIT} inputs, not {len(inputs)}")
        path = f"/actions/workflows/{quote(workflow, safe='')}"
        missing = f"there is no workflow `{workflow}` that can be dispatched"
        with self._connect("`actions: write`", missing=missing) as connection:

            def runs() -> set[int]:
                made = connection.ask_once("GET", f"{path}/runs", event="workflow_dispatch", branch=ref, per_page="20")
                return {run["id"] for run in made["workflow_runs"]}

            before = connection.repeat(runs)
            tried = False

            def dispatch() -> None:
                nonlocal tried
                if tried and runs() - before:
                    return  # the write took place
                tried = True
                _nothing(connection.ask_once("POST", f"{path}/dispatches", {"ref": ref, "inputs": dict(inputs)}))

            try:
                connection.repeat(dispatch)
            except GithubException as error:
                if error.status != 422:
                    raise
                raise ForgeError(
                    f"`{workflow}` cannot be dispatched on `{ref}`: {reason(error, self.secrets())}",
                    hint="`autoresearch-ci init` writes a workflow that takes what we send",
                ) from error

    def run_status(self, run_id: int) -> str:
        """`queued`, `in_progress`, `completed`, …, of a workflow run. Raises ForgeError."""
        with self._connect("`actions: read`", missing=f"there is no run {run_id}") as connection:
            return connection.ask("GET", f"/actions/runs/{run_id}", take=_text("status"))

    def cancel_run(self, run_id: int) -> None:
        """Asks for the run's end; nothing for one that is over. Raises ForgeError."""
        with self._connect("`actions: write`", missing=f"there is no run {run_id}") as connection:
            try:
                connection.ask("POST", f"/actions/runs/{run_id}/cancel", take=_nothing)
            except GithubException as error:
                if error.status != 409:
                    raise

    def _is_of_fork(self, repo: Any) -> bool:
        # GitHub gives no repository for a fork that was deleted, which PyGithub makes None.
        return repo is None or repo.full_name.lower() != self._line.repository.lower()

    @contextmanager
    def _connect(self, permission: str, *, missing: str = "") -> Iterator[Connection]:
        with self._connected(self._purpose(permission, missing=missing)) as connection:
            yield connection

    @contextmanager
    def _connected(self, purpose: Purpose) -> Iterator[Connection]:
        with self._line.connect(Auth.Token(self.token), purpose, self.secrets) as connection:
            yield connection

    def _purpose(self, permission: str, *, missing: str = "", **more: str) -> Purpose:
        missing = missing or f"there is no repository {self.repository_url}"
        return Purpose(permission=permission, missing=missing, **more)


def _passes_at_merging(error: BaseException) -> bool:
    """As `passes`; and GitHub needs a moment after a push to know whether a branch can be merged."""
    if isinstance(error, UnknownObjectException):
        return False
    return passes(error) or (isinstance(error, GithubException) and says(error, "base branch was modified"))


def _text(name: str) -> Callable[[Any], str]:
    def take(answer: Any) -> str:
        if not isinstance(found := answer[name], str):
            raise TypeError(f"no {name}")
        return found

    return take


def _identified(answer: Any) -> None:
    if not isinstance(answer["id"], int):
        raise TypeError("nothing that has an ID")


def _nothing(answer: Any) -> None:
    """For what GitHub answers with nothing, or an empty object; a page of HTML is another thing."""
    if answer:
        raise TypeError("more than nothing")
