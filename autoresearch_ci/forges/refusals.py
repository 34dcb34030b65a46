"""GitHub's refusals: which pass by themselves, and what a person can do about the others. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass

from github import GithubException, RateLimitExceededException
from requests import RequestException

from autoresearch_ci.errors import ForgeError


@dataclass(frozen=True, slots=True, kw_only=True)
class Purpose:
    """What a call is for, as far as its refusal must say it.

    `permission`: what the job's token needs for it. `missing`: what a 404 means. `again`: how a person repeats it.
    `by_hand`: how a person does without, or nothing.
    """

    permission: str
    missing: str
    again: str = "try again"
    by_hand: str = ""
    branch: str = ""
    base: str = ""


def refused(error: GithubException, purpose: Purpose, secrets: Iterable[str]) -> ForgeError:
    """What a person can do about an answer that is not a success."""
    again, words = f"then {purpose.again}", reason(error, secrets)
    otherwise = f"{again}, or {purpose.by_hand}" if purpose.by_hand else again
    if limited(error):
        return ForgeError("GitHub limits our requests for now", hint=f"wait an hour, {again}")
    if says(error, "not permitted to create or approve pull requests"):
        return ForgeError(
            "the workflow may not create pull requests; the branch is pushed",
            hint="tick `Allow GitHub Actions to create and approve pull requests` in the repository's settings "
            f"(Actions, General), {otherwise}",
        )
    match error.status:
        case 401:
            return ForgeError(
                "GitHub does not accept the token", hint=f"it may have expired: give a new one as GITHUB_TOKEN, {again}"
            )
        case 403:
            return ForgeError(
                f"the token may not do this: {words}", hint=f"give the job {purpose.permission}, {otherwise}"
            )
        case 404 | 410:
            return ForgeError(
                f"{purpose.missing}, or the token may not see it",
                hint=f"look at GITHUB_REPOSITORY and at what the token may read, {again}",
            )
        case 422 if invalid(error, "head"):
            return ForgeError(f"the branch `{purpose.branch}` is not on the remote", hint=f"push it, {again}")
        case 422 if invalid(error, "base"):
            return ForgeError(
                f"there is no branch `{purpose.base}` on the remote", hint="set `base` to one that exists"
            )
        case status if status >= 500:
            return ForgeError(f"GitHub is out of order ({status})", hint=f"wait until it works again, {again}")
        case status:
            return ForgeError(f"GitHub answered {status}: {words}", hint=otherwise.removeprefix("then "))


def reason(error: GithubException, secrets: Iterable[str]) -> str:
    """GitHub's own words on one line, at most 200 characters; never a secret, whatever a proxy echoes."""
    data = error.data if isinstance(error.data, dict) else {}
    details = [e.get("message") or e.get("code") for e in _errors(error) if isinstance(e, dict)]
    message = error.message or data.get("message") or ("" if details else f"status {error.status}")
    words = " ".join(str(part) for part in (message, *details) if part)
    for secret in secrets:
        words = words.replace(secret, "***")
    return " ".join(words.split())[:200]


def passes(error: BaseException) -> bool:
    """Whether the same request may succeed in a moment."""
    if isinstance(error, GithubException):
        return error.status >= 500 or limited(error)
    return isinstance(error, RequestException)


def passes_after_push(error: BaseException) -> bool:
    """As `passes`; and GitHub needs a moment to see a branch that was just pushed (create-pull-request #4321)."""
    if passes(error):
        return True
    return isinstance(error, GithubException) and (invalid(error, "head") or says(error, "could not resolve to a node"))


def limited(error: GithubException) -> bool:
    """Whether it is about how many requests we send: the hour's, or too many at once."""
    return error.status == 429 or isinstance(error, RateLimitExceededException) or says(error, '"rate_limited"')


def says(error: GithubException, phrase: str) -> bool:
    """Whether the answer holds the words `phrase`, written small."""
    return phrase in json.dumps(error.data).lower()


def invalid(error: GithubException, name: str) -> bool:
    """Whether the field `name` of the request is what was wrong."""
    return any(isinstance(e, dict) and e.get("field") == name and e.get("code") == "invalid" for e in _errors(error))


def _errors(error: GithubException) -> list[object]:
    found = error.data.get("errors") if isinstance(error.data, dict) else None
    return found if isinstance(found, list) else []
