from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoresearch_ci.forges.origin import api_url_of, parse_origin

word = st.from_regex(r"[A-Za-z0-9_-]{1,12}", fullmatch=True)
host = st.from_regex(r"[a-z][a-z0-9]{1,8}\.[a-z]{2,5}", fullmatch=True)
form = st.sampled_from(
    [
        "https://{host}/{owner}/{name}",
        "https://{host}/{owner}/{name}.git",
        "https://user:secret@{host}/{owner}/{name}.git/",
        "git@{host}:{owner}/{name}.git",
        "{host}:{owner}/{name}",
        "ssh://git@{host}/{owner}/{name}.git",
        "ssh://git@{host}:2222/{owner}/{name}",
        "git://{host}/{owner}/{name}.git",
    ]
)


@given(form=form, host=host, owner=word, name=word)
def test_every_form_of_a_remote_names_its_repository(form: str, host: str, owner: str, name: str) -> None:
    """https, ssh, git and scp-like URLs give server and repository, and never the password in them."""
    assert parse_origin(form.format(host=host, owner=owner, name=name)) == (f"https://{host}", f"{owner}/{name}")


@given(st.text())
def test_any_other_text_is_no_repository_or_a_well_formed_one(text: str) -> None:
    """No text makes the parser fail, and what it finds has one owner and one name."""
    found = parse_origin(text)
    assert found is None or (found[0].startswith("http") and found[1].count("/") == 1)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "/srv/git/research.git",
        "../research",
        "C:\\research\\train",
        "C:/research/train",
        "file:///srv/git/a/b.git",
        "https://github.com/only-owner",
        "https://github.com/a/b/c",
        "https://github.com:port/a/b",
        "https:///a/b",
        "github.com:owner",
    ],
)
def test_a_remote_that_is_not_on_a_forge_is_none(url: str) -> None:
    """Paths, drives and URLs without owner and name are no repository on GitHub."""
    assert parse_origin(url) is None


@pytest.mark.parametrize(
    ("url", "server"),
    [
        ("http://127.0.0.1:8080/octo/research.git", "http://127.0.0.1:8080"),
        ("ssh://git@ssh.github.com:443/octo/research.git", "https://github.com"),
        ("git@GitHub.com:octo/research.git", "https://github.com"),
    ],
)
def test_the_server_of_a_remote_is_where_its_pages_are(url: str, server: str) -> None:
    """A web port stays, an ssh port goes, and GitHub's second ssh door leads to github.com."""
    assert parse_origin(url) == (server, "octo/research")


@pytest.mark.parametrize(
    ("server", "api"),
    [
        ("https://github.com", "https://api.github.com"),
        ("https://octo.ghe.com", "https://api.octo.ghe.com"),
        ("https://git.example.invalid:8443", "https://git.example.invalid:8443/api/v3"),
    ],
)
def test_each_kind_of_server_has_its_api(server: str, api: str) -> None:
    """github.com, data residency and Enterprise servers keep their API in three different places."""
    assert api_url_of(server) == api
