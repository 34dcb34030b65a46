"""GitHub, by PyGithub: exactly one pull request per branch, found again whatever happened to the last answer.

PyGithub's own retries are off: they repeat POST as well, which makes a second pull request when the first answer was
lost, and they may sleep until a rate limit resets.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from typing import TypeVar
from urllib.parse import quote

from github import Auth, Github, GithubException, RateLimitExceededException, UnknownObjectException
from github.PullRequest import PullRequest as Pull
from github.Repository import Repository
from requests import RequestException
from tenacity import RetryCallState, Retrying, retry_if_exception, stop_after_attempt

from autoresearch_ci.errors import ForgeError, SettingsError
from autoresearch_ci.forges.origin import api_url_of, parse_origin
from autoresearch_ci.forges.pull_request import Operation, PullRequest, island, with_island

BODY_LIMIT = 65_536  # characters; above it GitHub answers 422 "body is too long"
TITLE_LIMIT = 256
TOKEN_VARIABLES = ("AUTORESEARCH_TOKEN", "GITHUB_TOKEN", "GH_TOKEN")

_ATTEMPTS = 4
_LONGEST_WAIT_S = 120.0  # `finalize` has 5 minutes in all after a cancellation
_LIMITED_PAUSES = 60  # GitHub: without Retry-After, wait at least a minute after a secondary limit
_MANY_PULLS = 100
_LABEL_COLOR = "1d76db"
# What PyGithub 2.10 trips over when the answer is JSON or HTML that no GitHub sends; it has no error of its own for it.
_NOT_THE_API = (AssertionError, AttributeError, KeyError, TypeError, ValueError, RuntimeError)

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class GitHubForge:
    """Publishes on GitHub or a GitHub Enterprise server.

    `repository`: `owner/name`. `timeout_s`: of one request. `pause_s`: between two writes, and before the first
    repetition of a request (doubled each time). `clock`: seconds since the epoch. Raises SettingsError for a malformed
    value.
    """

    repository: str
    token: str = field(repr=False)
    api_url: str = "https://api.github.com"
    server_url: str = "https://github.com"
    timeout_s: int = 15
    pause_s: float = 1.0
    clock: Callable[[], float] = time.time

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[A-Za-z0-9._-]+/[A-Za-z0-9._-]+", self.repository):
            raise SettingsError(
                f"`{self.repository}` is not a repository on GitHub", hint="write GITHUB_REPOSITORY as `owner/name`"
            )
        # Otherwise requests would refuse it later, and quote the whole header, token and all, in its error.
        if not re.fullmatch(r"[!-~]+", self.token):
            raise SettingsError(
                "the token holds characters that no token has", hint="look for a line break or a space in the secret"
            )
        for name, url in (("GITHUB_SERVER_URL", self.server_url), ("GITHUB_API_URL", self.api_url)):
            if not re.fullmatch(r"https?://[^\s/@]+(?:/\S*)?", url):
                raise SettingsError(f"{name} is not a URL", hint="write it as `https://host`, without user or token")

    @classmethod
    def from_environment(cls, environ: Mapping[str, str], origin_url: str) -> GitHubForge:
        """The forge that the runner's variables describe, or, outside a runner, the repository's remote `origin_url`.

        An empty variable counts as not set. Raises SettingsError when there is no repository or no token.
        """
        origin = parse_origin(origin_url)
        server = environ.get("GITHUB_SERVER_URL") or (origin[0] if origin else "https://github.com")
        repository = environ.get("GITHUB_REPOSITORY") or (origin[1] if origin else "")
        if not repository:
            raise SettingsError(
                "no repository on GitHub is known", hint="set GITHUB_REPOSITORY to `owner/name`, or use `--forge local`"
            )
        token = next((environ[name] for name in TOKEN_VARIABLES if environ.get(name)), "")
        if not token:
            raise SettingsError("there is no token for GitHub", hint="set GITHUB_TOKEN, or use `--forge local`")
        return cls(
            repository=repository,
            token=token.strip(),
            server_url=server,
            api_url=environ.get("GITHUB_API_URL") or api_url_of(server),
        )

    @property
    def repository_url(self) -> str:
        """`https://host/owner/name`."""
        return f"{self.server_url.rstrip('/')}/{self.repository}"

    @property
    def remote_url(self) -> str:
        """What git pushes to; it holds no token."""
        return f"{self.repository_url}.git"

    def default_branch(self) -> str:
        """The branch that a pull request goes to unless told otherwise. Raises ForgeError."""
        with self._client("", "") as client:
            return self._repeat(lambda: _repository(client, self.repository)).default_branch

    def permission(self, user: str) -> str:
        """What `user` may do here: `admin`, `write`, `read` or `none`. Raises ForgeError."""
        with self._client("", "") as client:
            return self._repeat(lambda: _repository(client, self.repository).get_collaborator_permission(user))

    def is_public(self) -> bool:
        """Whether everybody can see the repository. Raises ForgeError."""
        with self._client("", "") as client:
            return not self._repeat(lambda: _repository(client, self.repository)).private

    def is_from_fork(self, number: int) -> bool:
        """Whether the branch of pull request `number` is, or was, in another repository. Raises ForgeError."""
        with self._client("", "") as client:
            head = self._repeat(lambda: _repository(client, self.repository).get_pull(number).head.repo)
        # GitHub gives no repository for a fork that was deleted, which PyGithub makes None.
        return head is None or head.full_name.lower() != self.repository.lower()

    def compare_url(self, base: str, branch: str) -> str:
        """The page on which a person opens the pull request by hand."""
        return f"{self.repository_url}/compare/{quote(base)}...{quote(branch)}?expand=1"

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
    ) -> PullRequest:
        """Creates the pull request of `branch`, or brings the open one up to date: title and our part of its text.

        `none`: the branch has no commits over `base`, or a person closed or merged its pull request (`number` and `url`
        are then that one's). `draft` counts at creation only. The branch must be on the remote. Safe to repeat. Raises
        ForgeError.
        """
        if len(island(body)) > BODY_LIMIT:
            raise ForgeError(f"the pull request text is longer than the {BODY_LIMIT:,} characters that GitHub takes")
        title = title[:TITLE_LIMIT]
        with self._client(base, branch) as client:
            repo = self._repeat(lambda: _repository(client, self.repository))
            pulls = self._repeat(lambda: _pulls(repo, branch))
            pull = _open(pulls, base)
            if pull is not None:
                return self._update(repo, pull, title, body, labels)
            ended = next((pull for pull in pulls if self._ended_here(repo, pull, branch)), None)
            if ended is not None:
                how = "merged" if ended.merged_at else "closed"
                warning = f"pull request #{ended.number} was {how} by a person and stays so; no other one is opened"
                return PullRequest(
                    number=ended.number, url=ended.html_url, operation=Operation.NONE, warnings=(warning,)
                )
            return self._create(repo, branch, base, title, body, draft, labels)

    def _create(
        self, repo: Repository, branch: str, base: str, title: str, body: str, draft: bool, labels: tuple[str, ...]
    ) -> PullRequest:
        tried = False

        def create() -> Pull:
            nonlocal tried
            found = _open(_pulls(repo, branch), base) if tried else None  # the write may have taken place
            tried = True
            if found is not None:
                return found
            pull = repo.create_pull(base, branch, title=title, body=island(body), draft=draft)
            if not isinstance(pull.number, int):
                raise TypeError("a pull request without a number")
            return pull

        try:
            pull = self._repeat(create, _passes_after_push)
        except GithubException as error:
            if _says(error, "no commits between"):
                return PullRequest(number=None, url="", operation=Operation.NONE)
            if draft and _says(error, "draft pull requests are not supported"):
                return self._create(repo, branch, base, title, body, False, labels)
            if _says(error, "a pull request already exists"):
                found = _open(self._repeat(lambda: _pulls(repo, branch)), base)
                if found is not None:
                    return self._update(repo, found, title, body, labels)
            raise
        warnings = self._label(repo, pull, labels)
        return PullRequest(number=pull.number, url=pull.html_url, operation=Operation.CREATED, warnings=warnings)

    def _update(self, repo: Repository, pull: Pull, title: str, body: str, labels: tuple[str, ...]) -> PullRequest:
        warnings: tuple[str, ...] = ()
        old = pull.body or ""
        text = with_island(old, body)
        if len(text) > BODY_LIMIT:
            text = old
            warnings = (f"the text of pull request #{pull.number} has no room for the report and was left as it is",)
        if (title, text) != (pull.title, old):
            self._repeat(lambda: pull.edit(title=title, body=text))
        warnings += self._label(repo, pull, labels)
        return PullRequest(number=pull.number, url=pull.html_url, operation=Operation.UPDATED, warnings=warnings)

    def _label(self, repo: Repository, pull: Pull, labels: tuple[str, ...]) -> tuple[str, ...]:
        """Adds the labels that are missing, and returns a warning where that is not possible."""
        present = {label.name.lower() for label in pull.labels}
        missing = [name for name in labels if name.lower() not in present]
        try:
            for name in missing:
                self._repeat(partial(_ensure_label, repo, name))
            if missing:
                self._repeat(partial(_add_labels, pull, missing))
        except GithubException as error:
            return (f"the labels could not be set: {self._reason(error)}",)
        except (RequestException, ForgeError):
            return (f"the labels could not be set: `{self.api_url}` gave no usable answer",)
        return ()

    def _ended_here(self, repo: Repository, pull: Pull, branch: str) -> bool:
        """Whether a closed pull request is about what `branch` holds now, not about an older branch of that name."""
        if not self._contains(repo, branch, pull.head.sha):
            return False
        return pull.merged_at is None or not self._contains(repo, branch, pull.merge_commit_sha)

    def _contains(self, repo: Repository, branch: str, commit: str) -> bool:
        try:
            return self._repeat(lambda: repo.compare(commit, branch).status) in ("ahead", "identical")
        except UnknownObjectException:
            return False

    @contextmanager
    def _client(self, base: str, branch: str) -> Iterator[Github]:
        """A connection; what goes wrong on it leaves as ForgeError."""
        client = Github(
            auth=Auth.Token(self.token),
            base_url=self.api_url.rstrip("/"),
            timeout=self.timeout_s,
            retry=None,
            seconds_between_requests=self.pause_s / 4,
            seconds_between_writes=self.pause_s,
        )
        try:
            yield client
        except GithubException as error:
            raise self._refused(error, base, branch) from error
        except RequestException as error:
            raise ForgeError(
                f"`{self.api_url}` does not answer ({type(error).__name__})",
                hint="look at the network and GITHUB_API_URL, then run `autoresearch-ci finalize`",
            ) from error
        finally:
            client.close()

    def _repeat(self, action: Callable[[], T], passes: Callable[[BaseException], bool] | None = None) -> T:
        """`action`'s result; it is repeated after an error that passes by itself, so it must be safe to repeat."""
        passing = passes or _passes

        def worth_waiting(error: BaseException) -> bool:
            return passing(error) and self._wait_s(error, 1) <= _LONGEST_WAIT_S

        def wait(state: RetryCallState) -> float:
            error = state.outcome.exception() if state.outcome else None
            return self._wait_s(error, state.attempt_number)

        retrying = Retrying(
            retry=retry_if_exception(worth_waiting), wait=wait, stop=stop_after_attempt(_ATTEMPTS), reraise=True
        )
        try:
            return retrying(action)
        except _NOT_THE_API as error:
            raise ForgeError(
                f"`{self.api_url}` does not answer as GitHub does",
                hint="look at GITHUB_API_URL (an Enterprise server: `https://host/api/v3`) and at proxies in between",
            ) from error

    def _wait_s(self, error: BaseException | None, attempt: int) -> float:
        if isinstance(error, GithubException):
            headers = error.headers or {}
            if (after := str(headers.get("retry-after", ""))).isdigit():
                return float(after)
            if _limited(error):
                reset = str(headers.get("x-ratelimit-reset", ""))
                if headers.get("x-ratelimit-remaining") == "0" and reset.isdigit():
                    return max(0.0, float(reset) - self.clock())
                return _LIMITED_PAUSES * self.pause_s
        return float(self.pause_s * 2 ** (attempt - 1))

    def _refused(self, error: GithubException, base: str, branch: str) -> ForgeError:
        """What a person can do about an answer that is not a success."""
        again = "then run `autoresearch-ci finalize`"
        by_hand = f"or open it by hand: {self.compare_url(base, branch)}"
        if _limited(error):
            return ForgeError("GitHub limits our requests for now", hint="wait an hour, " + again)
        if _says(error, "not permitted to create or approve pull requests"):
            return ForgeError(
                "the workflow may not create pull requests; the branch is pushed",
                hint="tick `Allow GitHub Actions to create and approve pull requests` in the repository's settings "
                f"(Actions, General), {again}, {by_hand}",
            )
        match error.status:
            case 401:
                return ForgeError(
                    "GitHub does not accept the token",
                    hint=f"it may have expired: give a new one as GITHUB_TOKEN, {again}",
                )
            case 403:
                return ForgeError(
                    f"the token may not do this: {self._reason(error)}",
                    hint=f"give the job `contents: write` and `pull-requests: write`, {again}, {by_hand}",
                )
            case 404 | 410:
                return ForgeError(
                    f"there is no repository {self.repository_url}, or the token may not see it",
                    hint=f"look at GITHUB_REPOSITORY and at what the token may read, {again}",
                )
            case 422 if _invalid(error, "head"):
                return ForgeError(f"the branch `{branch}` is not on the remote", hint="push it, " + again)
            case 422 if _invalid(error, "base"):
                return ForgeError(f"there is no branch `{base}` on the remote", hint="set `base` to one that exists")
            case status if status >= 500:
                return ForgeError(f"GitHub is out of order ({status})", hint="wait until it works again, " + again)
            case status:
                return ForgeError(f"GitHub answered {status}: {self._reason(error)}", hint=f"{again[5:]}, {by_hand}")

    def _reason(self, error: GithubException) -> str:
        """GitHub's own words on one line, at most 200 characters; never the token, whatever a proxy echoes."""
        data = error.data if isinstance(error.data, dict) else {}
        details = [e.get("message") or e.get("code") for e in data.get("errors", ()) if isinstance(e, dict)]
        words = " ".join(str(part) for part in (error.message or f"status {error.status}", *details) if part)
        return " ".join(words.replace(self.token, "***").split())[:200]


def _repository(client: Github, name: str) -> Repository:
    repo = client.get_repo(name)
    if not (isinstance(repo.full_name, str) and isinstance(repo.default_branch, str)):
        raise TypeError("a repository without a name")  # a page of HTML with status 200
    return repo


def _pulls(repo: Repository, branch: str) -> list[Pull]:
    """The pull requests of `branch`, open or not, newest first; from the branch of this repository, not of a fork."""
    head = f"{repo.owner.login}:{branch}"
    found = repo.get_pulls(state="all", sort="created", direction="desc", head=head)
    # Filtered here again: after a redirect of a renamed repository PyGithub 2.10 drops the query.
    return [pull for pull in islice(found, _MANY_PULLS) if pull.head.label == head]


def _open(pulls: list[Pull], base: str) -> Pull | None:
    """The open one; should a person have opened a second one to another base, ours."""
    opened = [pull for pull in pulls if pull.state == "open"]
    return next((pull for pull in opened if pull.base.ref == base), opened[0] if opened else None)


def _ensure_label(repo: Repository, name: str) -> None:
    try:
        repo.get_label(name)
    except UnknownObjectException:
        repo.create_label(name, _LABEL_COLOR)


def _add_labels(pull: Pull, names: list[str]) -> None:
    # Not `add_to_labels`: PyGithub 2.10 sends a bare list there, which GitHub's API description no longer allows.
    _, now = pull.requester.requestJsonAndCheck("POST", f"{pull.issue_url}/labels", input={"labels": names})
    if not isinstance(now, list):
        raise TypeError("no list of labels")


def _passes(error: BaseException) -> bool:
    """Whether the same request may succeed in a moment."""
    if isinstance(error, GithubException):
        return error.status >= 500 or _limited(error)
    return isinstance(error, RequestException)


def _passes_after_push(error: BaseException) -> bool:
    """As `_passes`; and GitHub needs a moment to see a branch that was just pushed (create-pull-request #4321)."""
    if _passes(error):
        return True
    return isinstance(error, GithubException) and (
        _invalid(error, "head") or _says(error, "could not resolve to a node")
    )


def _limited(error: GithubException) -> bool:
    return error.status == 429 or isinstance(error, RateLimitExceededException)


def _says(error: GithubException, phrase: str) -> bool:
    return phrase in json.dumps(error.data).lower()


def _invalid(error: GithubException, name: str) -> bool:
    errors = error.data.get("errors", ()) if isinstance(error.data, dict) else ()
    return any(isinstance(e, dict) and e.get("field") == name and e.get("code") == "invalid" for e in errors)
