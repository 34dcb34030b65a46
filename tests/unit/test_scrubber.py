"""Secrets, and what they become."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoresearch_ci.scrubber import Scrubber, in_git_config

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


@pytest.mark.parametrize("width", [1, 7, 76])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_secret_broken_over_lines_is_one(width: int, end: str) -> None:
    """As `base64` and `fold` break what they print; the lines around it stay."""
    scrubber = Scrubber.of({"GITHUB_TOKEN": SECRET * 6})
    encoded = base64.b64encode(b"x-access-token:" + SECRET.encode() * 6).decode()
    printed = end.join(encoded[at : at + width] for at in range(0, len(encoded), width))
    shown = scrubber.scrub(f"before{end}{printed}{end}after{end}")
    assert shown.startswith(f"before{end}")
    assert shown.endswith(f"{end}after{end}")
    assert "***" in shown
    assert len(shown.replace("\n", "").replace("\r", "")) < 40
    assert scrubber.scrub_bytes(f"before{end}{printed}{end}after{end}".encode()) == shown.encode()


def test_a_short_number_is_no_secret() -> None:
    """Eight digits occur in metrics; replacing them would spoil a table."""
    scrubber = Scrubber.of({"DB_PASSWORD": "12345678", "A_KEY": "1234567890123456"})
    assert scrubber.scrub("0.12345678 1234567890123456") == "0.12345678 ***"


def test_what_a_git_configuration_holds() -> None:
    """Passwords and tokens in addresses, as they stand and as they are meant, and headers; a user's name is none."""
    config = """\
[remote "origin"]
	url = https://somebody:pass%2Fword-1@git.example/o/r
	pushurl = https://ghp_0123456789abcdef@github.com/o/r
[remote "other"]
	url = https://organisation@git.example/organisation/r
	url = ssh://git@git.example/o/r
[http "https://github.com/"]
	extraheader = AUTHORIZATION: basic eC1hY2Nlc3MtdG9rZW46Z2hw
"""
    header = "eC1hY2Nlc3MtdG9rZW46Z2hw"
    assert in_git_config(config) == ["pass%2Fword-1", "ghp_0123456789abcdef", header, "pass/word-1"]


def test_in_json_only_texts_are_replaced() -> None:
    """Keys too; what stays is JSON, though the secret begins with the letter of an escape."""
    scrubber = Scrubber.of({"NGC_API_KEY": "nvapi-0123456789"})
    value = {"a nvapi-0123456789": ["\nvapi-0123456789", 1.5, None, True, {"b": "nvapi-0123456789"}]}
    shown = scrubber.scrub_json(value)
    assert shown == {"a ***": ["\nvapi-0123456789", 1.5, None, True, {"b": "***"}]}
    assert json.loads(json.dumps(shown)) == shown
