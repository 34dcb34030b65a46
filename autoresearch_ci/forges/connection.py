"""Talking to GitHub by PyGithub: every request counted, repeated where that is safe, and bounded in time.

PyGithub's own retries are off: they repeat POST as well, which makes a second pull request when the first answer was
lost, and they may sleep until a rate limit resets.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

from github import Auth, GithubException
from github.PullRequest import PullRequest as Pull
from github.Repository import Repository
from github.Requester import Requester
from requests import RequestException
from tenacity import RetryCallState, Retrying, stop_after_attempt

from autoresearch_ci.errors import ForgeError
from autoresearch_ci.forges.counting import Requests
from autoresearch_ci.forges.refusals import Purpose, limited, passes, refused

PATIENCE_S: Final = 180.0  # of one call; `finalize` has 5 minutes in all after a cancellation

_ATTEMPTS: Final = 4
_LONGEST_WAIT_S: Final = 120.0
_LIMITED_PAUSES: Final = 60  # GitHub: without Retry-After, wait at least a minute after a secondary limit
# What PyGithub 2.10 trips over when the answer is JSON or HTML that no GitHub sends; it has no error of its own for it.
_NOT_THE_API = (AssertionError, AttributeError, KeyError, TypeError, ValueError, RuntimeError)

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """Where GitHub is, and how we talk to it.

    `repository`: `owner/name`. `timeout_s`: of one request. `pause_s`: between two writes, and before the first
    repetition of a request (doubled each time). `patience_s`: of a whole call with its waits and repetitions; only a
    request that is on its way then may take its timeout. `clock`: seconds since the epoch.
    """

    repository: str
    api_url: str
    server_url: str
    timeout_s: int
    pause_s: float
    patience_s: float
    clock: Callable[[], float]
    requests: Requests = field(default_factory=Requests)

    @property
    def repository_url(self) -> str:
        """`https://host/owner/name`."""
        return f"{self.server_url.rstrip('/')}/{self.repository}"

    @contextmanager
    def connect(
        self, auth: Auth.Auth, purpose: Purpose, secrets: Callable[[], tuple[str, ...]]
    ) -> Iterator[Connection]:
        """A connection for one call; what goes wrong on it leaves as ForgeError, without any of the `secrets`."""
        connection = Connection(self, auth)
        try:
            yield connection
        except GithubException as error:
            raise refused(error, purpose, secrets()) from error
        except RequestException as error:
            raise ForgeError(
                f"`{self.api_url}` does not answer ({type(error).__name__})",
                hint=f"look at the network and GITHUB_API_URL, then {purpose.again}",
            ) from error
        finally:
            connection.requester.close()


class Connection:
    """One call's conversation with GitHub."""

    def __init__(self, line: Line, auth: Auth.Auth) -> None:
        self.line = line
        self._deadline = time.monotonic() + line.patience_s
        self.requester = _CountingRequester(
            before=self._before,
            auth=auth,
            base_url=line.api_url.rstrip("/"),
            timeout=max(1, min(line.timeout_s, round(line.patience_s))),
            user_agent="autoresearch-ci",
            per_page=100,
            verify=True,
            retry=None,
            pool_size=None,
            seconds_between_requests=line.pause_s / 4,
            seconds_between_writes=line.pause_s,
        )

    def repository(self) -> Repository:
        """The repository as GitHub describes it: one read."""

        def get() -> Repository:
            repo = Repository(self.requester, url=f"/repos/{self.line.repository}")
            if not (isinstance(repo.full_name, str) and isinstance(repo.default_branch, str)):
                raise TypeError("a repository without a name")  # a page of HTML with status 200
            return repo

        return self.repeat(get)

    def pull(self, number: int) -> Pull:
        """The pull request as it is now: one read."""

        def get() -> Pull:
            pull = Pull(self.requester, url=f"/repos/{self.line.repository}/pulls/{number}")
            if not (isinstance(pull.number, int) and isinstance(pull.state, str)):
                raise TypeError("a pull request without a number")
            return pull

        return self.repeat(get)

    def ask(
        self, verb: str, path: str, body: dict[str, Any] | None = None, *, take: Callable[[Any], T], **query: str
    ) -> T:
        """What `take` finds in the answer to one request about the repository, repeated when that may help."""
        return self.repeat(lambda: take(self.ask_once(verb, path, body, **query)))

    def ask_once(self, verb: str, path: str, body: dict[str, Any] | None = None, **query: str) -> Any:
        """The answer to one request about the repository (or, from `/app`, elsewhere), not repeated."""
        url = path if path.startswith("/app/") else f"/repos/{self.line.repository}{path}"
        _, data = self.requester.requestJsonAndCheck(verb, url, parameters=dict(query), input=body)
        return data

    def repeat(self, action: Callable[[], T], passing: Callable[[BaseException], bool] = passes) -> T:
        """`action`'s result; it is repeated after an error that passes by itself, so it must be safe to repeat."""

        def worth_waiting(state: RetryCallState) -> bool:
            error = state.outcome.exception() if state.outcome else None
            if error is None or not passing(error):
                return False
            return self._wait_s(error, state.attempt_number) <= min(_LONGEST_WAIT_S, self._left_s())

        def wait(state: RetryCallState) -> float:
            return self._wait_s(state.outcome.exception() if state.outcome else None, state.attempt_number)

        retrying = Retrying(retry=worth_waiting, wait=wait, stop=stop_after_attempt(_ATTEMPTS), reraise=True)
        try:
            return retrying(action)
        except _NOT_THE_API as error:
            raise ForgeError(
                f"`{self.line.api_url}` does not answer as GitHub does",
                hint="look at GITHUB_API_URL (an Enterprise server: `https://host/api/v3`) and at proxies in between",
            ) from error

    def _wait_s(self, error: BaseException | None, attempt: int) -> float:
        if isinstance(error, GithubException):
            headers = error.headers or {}
            if (after := str(headers.get("retry-after", ""))).isdigit():
                return float(after)
            if limited(error):
                reset = str(headers.get("x-ratelimit-reset", ""))
                if headers.get("x-ratelimit-remaining") == "0" and reset.isdigit():
                    return max(0.0, float(reset) - self.line.clock())
                return _LIMITED_PAUSES * self.line.pause_s
        return float(self.line.pause_s * 2 ** (attempt - 1))

    def _left_s(self) -> float:
        return self._deadline - time.monotonic()

    def _before(self, verb: str) -> None:
        if self._left_s() <= 0:
            raise ForgeError(
                f"GitHub has not answered within {self.line.patience_s:g} s", hint="it is busy: try again later"
            )
        self.line.requests.count(verb)


class _CountingRequester(Requester):
    """PyGithub's, which tells `before` of every request that it sends, whatever object sends it."""

    def __init__(self, before: Callable[[str], None], **settings: Any) -> None:
        self._before = before
        super().__init__(**settings)

    def requestJson(self, verb: str, *args: Any, **kwargs: Any) -> tuple[int, dict[str, Any], str]:  # noqa: N802
        self._before(verb)
        return super().requestJson(verb, *args, **kwargs)
