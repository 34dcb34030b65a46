"""Secrets, and what they become."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoresearch_ci.scrubber import Scrubber

SECRET = 'ghs_Ab3/+x"ÿ9Zq'
ENCODINGS: dict[str, Callable[[bytes], str]] = {
    "plain": lambda b: b.decode(),
    "base64": lambda b: base64.b64encode(b).decode(),
    "base64 for URLs": lambda b: base64.urlsafe_b64encode(b).decode(),
    "hex": lambda b: b.hex(),
    "HEX": lambda b: b.hex().upper(),
    "URL": lambda b: quote(b.decode(), safe=""),
    "JSON": lambda b: json.dumps(b.decode()),
    "JSON as it is": lambda b: json.dumps(b.decode(), ensure_ascii=False),
    "backwards": lambda b: b.decode()[::-1],
}


@pytest.mark.parametrize("name", ENCODINGS)
@given(before=st.text(max_size=12), after=st.text(max_size=12))
def test_no_form_of_a_secret_stays(name: str, before: str, after: str) -> None:
    """Whatever stands around it and is encoded with it: of what was there the secret's own part is gone."""
    scrubber = Scrubber.of({"MY_TOKEN": SECRET})
    encoded = ENCODINGS[name](f"{before}{SECRET}{after}".encode(errors="replace"))
    shown = scrubber.scrub(encoded)
    assert "***" in shown
    assert scrubber.scrub_bytes(encoded.encode()) == shown.encode()
    assert not any(form in shown for form in scrubber.forms)


@given(st.text())
def test_what_is_no_secret_stays(text: str) -> None:
    """Without secrets nothing is replaced, and a secret replaces nothing but itself."""
    assert Scrubber().scrub(text) == text
    if "ghs_" not in text:
        assert Scrubber.of({"GITHUB_TOKEN": "ghs_0123456789abcdef"}).scrub(text) == text


def test_which_variables_are_secret() -> None:
    """By the end of their name; a short value is a word that may occur anywhere; each line of a key is one."""
    environ = {
        "AUTORESEARCH_TOKEN": "value-of-one", "OPENAI_API_KEY": "value-of-two", "DB_PASSWORD": "value-of-three", "X_SECRET": "short",
        "ACTIONS_ID_TOKEN_REQUEST_TOKEN": "value-of-four", "TOKENIZER": "value-of-five", "PATH": "/usr/local/bin",
        "DEPLOY_KEY": "first line of it\nsecond line of it\n",
    }  # fmt: skip
    scrubber = Scrubber.of(environ, "one more value")
    shown = scrubber.scrub(
        "value-of-one value-of-two value-of-three short value-of-four value-of-five /usr/local/bin second line of it one more value"
    )
    assert shown == "*** *** *** short *** value-of-five /usr/local/bin *** ***"


def test_the_header_that_git_sends_is_scrubbed() -> None:
    """As actions/checkout writes it into a configuration."""
    token = "ghs_0123456789abcdef0123456789abcdef0123"
    header = base64.b64encode(f"x-access-token:{token}".encode()).decode()
    shown = Scrubber.of({"GITHUB_TOKEN": token}).scrub(f"AUTHORIZATION: basic {header}")
    assert shown.startswith("AUTHORIZATION: basic ")
    assert header[28:-4] not in shown
    assert "***" in shown


def test_a_scrubber_says_nothing_about_itself() -> None:
    """Its repr, which a log or a failed assertion may print, holds no secret."""
    assert "value-of-one" not in repr(Scrubber.of({"A_TOKEN": "value-of-one"}))
