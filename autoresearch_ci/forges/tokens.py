"""What proves to GitHub who we are: a token that somebody gives us, or a GitHub App whose tokens we mint.

An App's token lives for an hour (GitHub's docs, "Generating an installation access token"), a session for a night: it is
minted again before the hour is over.
"""

from __future__ import annotations

import datetime as dt
import re
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

import jwt
from github import Auth, GithubException

from autoresearch_ci.errors import ForgeError, SettingsError
from autoresearch_ci.forges.connection import Line
from autoresearch_ci.forges.refusals import Purpose, says

TOKEN_VARIABLES: Final = ("AUTORESEARCH_TOKEN", "GITHUB_TOKEN", "GH_TOKEN")
APP_ID_VARIABLE: Final = "AUTORESEARCH_APP_ID"
APP_KEY_VARIABLE: Final = "AUTORESEARCH_APP_PRIVATE_KEY"
JOB_TOKEN_HOURS: Final = (
    24.0  # GITHUB_TOKEN on a self-hosted runner, however long the job (GitHub's docs, GITHUB_TOKEN)
)
MINTED_EARLY_S: Final = 600.0  # a token must outlive whatever is begun with it
_AGAIN_S: Final = 60.0  # between two tries to mint while the old token still holds


class Tokens(Protocol):
    """Where the token comes from. `hours`: how long the source lives in all; None: as long as we do."""

    @property
    def hours(self) -> float | None: ...

    def current(self, line: Line) -> str: ...

    def secrets(self) -> tuple[str, ...]: ...


@dataclass(frozen=True, slots=True)
class FixedToken:
    """A token that somebody made. Raises SettingsError for one that no token can be."""

    value: str = field(repr=False)
    hours: float | None = None

    def __post_init__(self) -> None:
        # Otherwise requests would refuse it later, and quote the whole header, token and all, in its error.
        if not re.fullmatch(r"[!-~]+", self.value):
            raise SettingsError(
                "the token holds characters that no token has", hint="look for a line break or a space in the secret"
            )

    def current(self, line: Line) -> str:  # noqa: ARG002 - nothing to ask for
        return self.value

    def secrets(self) -> tuple[str, ...]:
        return (self.value,)


@dataclass(frozen=True, slots=True)
class App:
    """A GitHub App: its number (or client ID) and its private key (PEM). Raises SettingsError for a malformed one."""

    number: str
    private_key: str = field(repr=False)

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[A-Za-z0-9._-]+", self.number):
            raise SettingsError(f"{APP_ID_VARIABLE} is not the ID of a GitHub App", hint="its page on GitHub shows it")
        try:
            self.auth().create_jwt()
        # PyJWT has no error of its own for a key of another kind, or for half of one.
        except (jwt.PyJWTError, ValueError, TypeError, AttributeError) as error:
            raise SettingsError(
                f"{APP_KEY_VARIABLE} is not the private key of a GitHub App",
                hint="give the whole file that GitHub made, from `-----BEGIN` to the last `-----`",
            ) from error

    def auth(self) -> Auth.AppAuth:
        """What the App shows as itself, signed with its key."""
        return Auth.AppAuth(self.number, self.private_key)


class AppTokens:
    """The tokens of an App for one repository, each minted before the one before is over."""

    hours: None = None

    def __init__(self, app: App) -> None:
        self._app = app
        self._lock = threading.Lock()
        self._minted: tuple[str, ...] = ()  # the newest first; the one before it may still be in use
        self._expires = 0.0
        self._not_before = 0.0

    def current(self, line: Line) -> str:
        """A token that lives for ten minutes more. Raises ForgeError when there is none."""
        with self._lock:
            now = line.clock()
            if self._minted and (self._expires - now > MINTED_EARLY_S or now < self._not_before):
                return self._minted[0]
            try:
                token, self._expires = self._mint(line)
            except ForgeError:
                self._not_before = now + _AGAIN_S
                if not self._minted or self._expires - now <= _AGAIN_S:
                    raise
                return self._minted[0]  # minted early for this: there is time to try again
            self._minted = (token, *self._minted[:1])
            return token

    def secrets(self) -> tuple[str, ...]:
        return (*self._minted, self._app.private_key)

    def _mint(self, line: Line) -> tuple[str, float]:
        purpose = Purpose(
            permission="an App that may write contents and pull requests",
            missing=f"there is no App for {line.repository_url}",
        )
        with line.connect(self._app.auth(), purpose, self.secrets) as connection:
            try:
                installation = connection.ask("GET", "/installation", take=_number)
                path = f"/app/installations/{installation}/access_tokens"
                name = line.repository.split("/")[1]
                return connection.ask("POST", path, {"repositories": [name]}, take=_token)
            except GithubException as error:
                if error.status == 401 or says(error, "integration not found"):
                    raise ForgeError(
                        "GitHub does not accept the App's key",
                        hint=f"do {APP_ID_VARIABLE} and {APP_KEY_VARIABLE} belong together, and is this machine's clock right?",
                    ) from error
                if error.status == 404:
                    raise ForgeError(
                        f"the App is not installed on {line.repository_url}", hint="install it there, or use a token"
                    ) from error
                raise


def find_tokens(environ: Mapping[str, str]) -> Tokens:
    """The App of the environment, else its token. An empty variable counts as not set. Raises SettingsError."""
    number, key = environ.get(APP_ID_VARIABLE, "").strip(), environ.get(APP_KEY_VARIABLE, "")
    key = key.replace("\\n", "\n").strip()  # one line is how some secret stores keep it
    if bool(number) != bool(key):
        given, other = (APP_ID_VARIABLE, APP_KEY_VARIABLE) if number else (APP_KEY_VARIABLE, APP_ID_VARIABLE)
        raise SettingsError(
            f"{given} is set, and {other} is not", hint="a GitHub App needs both; a token needs neither"
        )
    if number:
        return AppTokens(App(number, key))
    token = next((environ[name] for name in TOKEN_VARIABLES if environ.get(name)), "").strip()
    if not token:
        raise SettingsError("there is no token for GitHub", hint="set GITHUB_TOKEN, or use `--forge local`")
    of_the_job = environ.get("GITHUB_ACTIONS") == "true" and token.startswith("ghs_")
    return FixedToken(token, JOB_TOKEN_HOURS if of_the_job else None)


def _number(answer: Any) -> int:
    return int(answer["id"])


def _token(answer: Any) -> tuple[str, float]:
    token = answer["token"]
    if not (isinstance(token, str) and re.fullmatch(r"[!-~]+", token)):
        raise TypeError("no token")
    return token, dt.datetime.fromisoformat(answer["expires_at"]).timestamp()
