"""What a script, a log or a proposer says is shown in a report, and does nothing."""

from __future__ import annotations

import html
import re
import unicodedata

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from autoresearch_ci.report.markdown import cell, clean, duration, number, rounded, sentence

NASTY = st.lists(
    st.sampled_from([*"@#|<>&`[]!\\*_~$:/-\n\r\t\x1b;", "gh-", "www.", "a", "1", "\u202e", "\u200b", "\u2028"])
).map("".join)


@given(st.one_of(st.text(max_size=300), NASTY))
@example("&#124;")
@example("a&#1")
@example("fixes \u200b#\u200d1")
def test_nothing_acts(text: str) -> None:
    """No mention, reference, address, tag, pipe, code, link, line break or control character survives."""
    shown = cell(text)
    rendered = html.unescape(shown)
    assert not re.search(r"@\w", rendered)
    assert not re.search(r"#\d", rendered)
    assert not re.search(r"(?i)\bgh-\d", rendered)
    assert "://" not in rendered
    assert not re.search(r"(?i)www\.", rendered)
    assert not set(shown) & set("<>|`[]\\*~$\n\r")
    assert all(re.match(r"&(?:amp|lt|gt|#\d+);", shown[m.start() :]) for m in re.finditer("&", shown))
    assert not [c for c in shown if unicodedata.category(c).startswith("C") and c != "\u200b"]


@given(st.text(max_size=500), st.integers(min_value=1, max_value=50))
def test_the_limit(text: str, limit: int) -> None:
    """At most `limit` characters are seen, however the text is escaped."""
    assert len(html.unescape(cell(text, limit)).replace("\u200b", "")) <= limit


@given(st.text(st.characters(whitelist_categories=["L", "N"], max_codepoint=0x24F), min_size=1, max_size=100))
def test_plain_words_stay(text: str) -> None:
    """Letters and digits are shown as they are."""
    assert cell(text) == text or re.search(r"(?i)www|gh", text)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("MATRIX_LR 0.04 → 0.06", "MATRIX_LR 0.04 → 0.06"),
        ("__init__", "&#95;&#95;init&#95;&#95;"),
        ("\x1b[31mred\x1b[0m", "red"),
        ("\x1b]0;title\x07text", "text"),
        ("a\nb\tc\u2028d", "a b c d"),
        ("fixes #1 @me", "fixes #\u200b1 @\u200bme"),
        ("see GH-12", "see GH-\u200b12"),
        ("<!-- x -->", "&lt;!-- x --&gt;"),
        ("![x](https://a.b)", "!&#91;x&#93;(https:\u200b//a.b)"),
        ("a | b", "a &#124; b"),
        ("", ""),
    ],
)
def test_examples(text: str, shown: str) -> None:
    """Common texts come out as a person expects."""
    assert cell(text) == shown


def test_commands_in_a_sentence_are_code() -> None:
    """What stands between backticks is code, and as harmless as the rest; spaces around it stay."""
    assert sentence("see `git fetch origin x` or `a|b` now", 200) == (
        "see <code>git fetch origin x</code> or <code>a&#124;b</code> now"
    )
    assert sentence("a ` b", 200) == "a <code> b</code>"
    assert sentence("``@me``", 200) == "@\u200bme"


@given(NASTY, st.integers(min_value=1, max_value=50))
def test_a_sentence_does_nothing(text: str, limit: int) -> None:
    """No mention, reference, tag but code, pipe or line break survives, and the limit holds."""
    shown = sentence(text, limit)
    plain = re.sub("</?code>", "", shown)
    rendered = html.unescape(plain)
    assert not re.search(r"@\w", rendered)
    assert not re.search(r"#\d", rendered)
    assert not set(plain) & set("<>|`[]\\*~$\n\r")
    assert shown.count("<code>") == shown.count("</code>")
    assert len(rendered.replace("\u200b", "")) <= limit


def test_a_long_text_is_cut() -> None:
    """A cut text ends with an ellipsis and is not longer than the limit."""
    assert cell("x" * 300, 10) == "x" * 9 + "…"
    assert len(clean("\x1b[0m" * 100_000 + "x", 100)) <= 100


@pytest.mark.parametrize(
    ("value", "shown"), [(None, "—"), (0.9979123456, "0.997912"), (0.0, "0"), (1e9, "1e+09"), (-2.5, "-2.5")]
)
def test_numbers(value: float | None, shown: str) -> None:
    """A number has six significant digits at most, and no value is a dash."""
    assert number(value) == shown


@pytest.mark.parametrize(
    ("seconds", "shown"), [(0, "00:00"), (59.9, "00:00"), (3660, "01:01"), (100 * 3600, "100:00"), (-5, "00:00")]
)
def test_durations(seconds: float, shown: str) -> None:
    """A duration is hours and minutes, also beyond a day, and never negative."""
    assert duration(seconds) == shown


def test_rounded_to_what_is_known() -> None:
    """As many decimals as the error has two digits; no negative zero; the plain form where decimals would say nothing."""
    assert rounded(0.0022, 0.0123456, -0.000001) == ("0.0123", "0.0000")
    assert rounded(30.0, 1234.5) == ("1234",)
    assert rounded(0.0, 0.123456789) == ("0.123457",)
    assert rounded(1e-12, 1e-11) == ("1e-11",)
    assert rounded(1.0, 1e300) == ("1e+300",)
    assert rounded(float("inf"), 1.0) == ("1",)
