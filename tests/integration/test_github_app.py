"""A GitHub App as the source of tokens: looked up, minted, minted again, and what can be wrong with it."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from autoresearch_ci.errors import ForgeError, SettingsError
from autoresearch_ci.forges.github import GitHubForge
from autoresearch_ci.forges.pull_request import Operation
from autoresearch_ci.forges.tokens import App, AppTokens
from tests.forge.client import BRANCH, at, publish, refusal_of
from tests.forge.fixtures import TOKEN, Checkout, git_environment
from tests.forge.server import Forge

START = 1_800_000_000.0
ORIGIN = "git@github.com:octo/research.git"


def pem(
    key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey, encryption: KeySerializationEncryption | None = None
) -> str:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption or NoEncryption()).decode()


KEY = rsa.generate_private_key(public_exponent=65_537, key_size=2048)
PRIVATE = pem(KEY)
PUBLIC = KEY.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


class Clock:
    """One clock for the forge and the client."""

    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(forge: Forge) -> Clock:
    """The forge's clock too; App 7 is installed."""
    clock = Clock()
    forge.api.clock = clock
    forge.api.apps.register("7", PUBLIC)
    return clock


def app(forge: Forge, clock: Clock, number: str = "7", key: str = PRIVATE) -> GitHubForge:
    return at(forge, token=AppTokens(App(number, key)), clock=clock)


def test_an_apps_token_is_minted_and_used(forge: Forge, checkout: Checkout, clock: Clock, tmp_path: Path) -> None:
    """One look and one mint for a whole night's first call; git takes the token, too."""
    checkout.push_branch(BRANCH)
    github = app(forge, clock)
    assert publish(github).operation is Operation.CREATED
    (token,) = forge.api.apps.minted
    assert github.token == token
    assert (github.requests.total, len(forge.requests)) == (5, 5)
    environment = git_environment(forge.server_url, token, home=tmp_path)
    assert "refs/heads/main" in checkout.git("ls-remote", "origin", environment=environment)


def test_an_apps_token_is_minted_again_early(forge: Forge, checkout: Checkout, clock: Clock, tmp_path: Path) -> None:
    """With more than ten minutes left it stays; then there is a new one, and the old one works until its hour is over."""
    github = app(forge, clock)
    first = github.token
    clock.now += 3000 - 1
    assert github.token == first
    clock.now += 1
    second = github.token
    assert second != first
    assert github.secrets() == (second, first, PRIVATE)
    for token, works in ((first, True), (second, True)):
        assert works_at(checkout, forge, token, tmp_path) is works
    clock.now += 600
    assert works_at(checkout, forge, first, tmp_path) is False
    assert github.default_branch() == "main"


def works_at(checkout: Checkout, forge: Forge, token: str, home: Path) -> bool:
    try:
        checkout.git("ls-remote", "origin", environment=git_environment(forge.server_url, token, home=home))
    except subprocess.CalledProcessError:
        return False
    return True


@pytest.mark.usefixtures("checkout")
def test_a_night_of_many_hours_needs_no_person(forge: Forge, clock: Clock) -> None:
    """A call every 45 minutes, for thirty hours: every second one finds the token over."""
    github = app(forge, clock)
    for _ in range(40):
        assert github.default_branch() == "main"
        clock.now += 2700
    assert len(forge.api.apps.minted) == 20
    assert len(github.secrets()) == 3


@pytest.mark.usefixtures("checkout")
def test_a_mint_that_fails_early_is_tried_again_while_the_old_token_works(forge: Forge, clock: Clock) -> None:
    """Not at every call; and with nothing left it is an error."""
    github = app(forge, clock)
    first = github.token
    clock.now += 3100
    forge.fail_next("POST", "/access_tokens$", 502, "<html>Unicorn!</html>", times=8)
    assert (github.token, github.token) == (first, first)
    assert len([seen for seen in forge.requests if seen.path.endswith("/installation")]) == 2
    clock.now += 500
    assert "out of order" in refusal_of(lambda: github.token).message
    clock.now += 61
    assert github.token != first


@pytest.mark.usefixtures("checkout")
@pytest.mark.parametrize("after", [False, True])
def test_a_mint_whose_answer_is_lost_is_repeated(forge: Forge, clock: Clock, after: bool) -> None:
    """Two tokens do no harm."""
    forge.fail_next("POST", "/access_tokens$", None, after=after)
    assert app(forge, clock).default_branch() == "main"


def test_an_app_that_is_not_known_or_not_installed_is_an_error(forge: Forge, clock: Clock) -> None:
    """The key of another App, an App that is installed elsewhere, and something that is no GitHub."""
    other = pem(rsa.generate_private_key(public_exponent=65_537, key_size=2048))
    assert "does not accept the App's key" in refusal_of(lambda: app(forge, clock, key=other).token).message
    forge.api.apps.register("8", PUBLIC, installed=False)
    error = refusal_of(lambda: app(forge, clock, "8").default_branch())
    assert error.message == f"the App is not installed on {forge.server_url}/octo/research"
    forge.fail_next("POST", "/access_tokens$", 201, {"token": "two words", "expires_at": "2027-01-01T00:00:00Z"})
    assert "does not answer as GitHub does" in refusal_of(lambda: app(forge, clock).token).message


# The environment.


def test_an_app_goes_before_a_token(forge: Forge, checkout: Checkout) -> None:
    """Both variables name it; a key on one line is taken as well; its tokens have no end of their own."""
    forge.api.apps.register("7", PUBLIC)
    environ = {
        "GITHUB_ACTIONS": "true",
        "GITHUB_TOKEN": TOKEN,
        "AUTORESEARCH_APP_ID": "7",
        "AUTORESEARCH_APP_PRIVATE_KEY": PRIVATE.replace("\n", "\\n"),
    }
    github = GitHubForge.from_environment(environ, forge.clone_url)
    assert github.secrets() == (PRIVATE.strip(),)
    assert github.default_branch() == "main"
    assert github.token.startswith("ghs_Minted")
    assert github.token_hours is None


@pytest.mark.parametrize(
    ("environ", "hours"),
    [
        ({"GITHUB_ACTIONS": "true", "GITHUB_TOKEN": "ghs_0123456789"}, 24.0),
        ({"GITHUB_ACTIONS": "true", "GITHUB_TOKEN": "ghp_0123456789"}, None),
        ({"GITHUB_TOKEN": "ghs_0123456789"}, None),
    ],
)
def test_a_jobs_own_token_lives_for_a_day(environ: dict[str, str], hours: float | None) -> None:
    """A person's does not end with the job, and outside Actions there is no job."""
    assert GitHubForge.from_environment(environ, ORIGIN).token_hours == hours


@pytest.mark.parametrize(
    ("number", "key", "expected"),
    [
        ("7", "", "AUTORESEARCH_APP_ID is set, and AUTORESEARCH_APP_PRIVATE_KEY is not"),
        ("", PRIVATE, "AUTORESEARCH_APP_PRIVATE_KEY is set, and AUTORESEARCH_APP_ID is not"),
        ("seven apps", PRIVATE, "AUTORESEARCH_APP_ID is not the ID of a GitHub App"),
        ("7", "secret words", "AUTORESEARCH_APP_PRIVATE_KEY is not the private key"),
        ("7", PRIVATE[: len(PRIVATE) // 2], "AUTORESEARCH_APP_PRIVATE_KEY is not the private key"),
        ("7", PUBLIC, "AUTORESEARCH_APP_PRIVATE_KEY is not the private key"),
        ("7", pem(ec.generate_private_key(ec.SECP256R1())), "AUTORESEARCH_APP_PRIVATE_KEY is not the private key"),
        ("7", pem(KEY, BestAvailableEncryption(b"x")), "AUTORESEARCH_APP_PRIVATE_KEY is not the private key"),
    ],
    ids=["no-key", "no-id", "no-number", "words", "half", "public", "other-kind", "locked"],
)
def test_half_an_app_or_a_malformed_one_is_a_settings_error(number: str, key: str, expected: str) -> None:
    """Before anything is sent: one line, a hint, and nothing of the key; no token stands in for it."""
    environ = {"GITHUB_TOKEN": TOKEN, "AUTORESEARCH_APP_ID": number, "AUTORESEARCH_APP_PRIVATE_KEY": key}
    with pytest.raises(SettingsError) as caught:
        GitHubForge.from_environment(environ, ORIGIN)
    assert expected in caught.value.message
    assert caught.value.hint
    lines = [line for line in key.splitlines() if line and not line.startswith("-----")]
    assert not any(line in caught.value.message + caught.value.hint for line in lines)


def test_a_key_is_in_no_repr(forge: Forge, clock: Clock) -> None:
    """Printing the App or the forge in a log or an assertion does not give it away."""
    github = app(forge, clock)
    assert PRIVATE not in repr(App("7", PRIVATE)) + repr(github) + repr(vars(github))


def test_a_forge_error_is_raised_for_git_as_well(forge: Forge, clock: Clock) -> None:
    """Who asks for the token at a push hears why there is none."""
    forge.fail_next("GET", "/installation$", 502, "<html>Unicorn!</html>", times=4)
    with pytest.raises(ForgeError, match="out of order"):
        _ = app(forge, clock).token
