"""Whether two scripts are the same program, and how many lines of code a script has."""

from __future__ import annotations

import ast
import textwrap

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoresearch_ci.source import code_lines, fingerprint

SCRIPT = '''\
"""What this script does."""
import math

LR = 0.04  # matrix


def scale(x, *, y=None):
    """Scales."""
    return {**x, "a": [1, 2.5, -3j, b"q", None, ..., f"{x!r:>{y}}"]}


class Net:
    """A net."""

    depth: int = 4
    text = """two

    lines"""
'''
REFORMATTED = """\
import math
LR = (0.04)
def scale(x, *,
          y = None):
    # another comment
    return {
        **x, 'a': [1, 2.50, -3j, b'q', None, ..., f'{x!r:>{y}}',],
    }
class Net:
    depth: int = 0x4
    text = 'two\\n\\n    lines'
"""


def test_formatting() -> None:
    """Comments, docstrings, quotes and layout do not change the fingerprint."""
    assert fingerprint(SCRIPT) == fingerprint(REFORMATTED) == fingerprint("\ufeff" + SCRIPT.replace("\n", "\r\n"))
    assert fingerprint("u'a'") != fingerprint("u'a'; u'a'")


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("x = 1", "x = 2"),
        ("x = 1", "x = 1.0"),
        ("x = 1", "x = True"),
        ("x = 1", "x = '1'"),
        ("x = 1", "y = 1"),
        ("x = a - (b - c)", "x = a - b - c"),
        ("f(a, b)", "f([a, b])"),
        ("if a:\n  b\nc", "if a:\n  b\n  c"),
        ("def f(a, *, b): return", "def f(a, b): return"),
        ("return_ = None", "return_ = ..."),
        ("x = 'a'; 'b'", "x = 'a'"),
        ("x = -0.0", "x = 0.0"),
        ("{**a, b: c}", "{a: b, **c}"),
    ],
)
def test_difference(one: str, other: str) -> None:
    """Programs that are not the same have different fingerprints."""
    assert fingerprint(one) != fingerprint(other)


def test_stable() -> None:
    """The fingerprint is the same on every version of Python: a session may move between machines."""
    assert fingerprint(SCRIPT) == "1db714e6f106830972d64799f20bf0a950b6b75400ad81df65a12fb6e2056451"


@pytest.mark.parametrize(
    "text",
    ["def f(:", "x = '", "\0", "x = '\ud800'", "(" * 5000, "-" * 20_000 + "1", " x", "a" * 10 + "\x01", "1" * 5000],
)
def test_not_python(text: str) -> None:
    """A text that is not Python has no fingerprint, and its lines are counted all the same."""
    with pytest.raises(ValueError):  # noqa: PT011 - the message is the parser's own
        fingerprint(text)
    assert code_lines(text) == 1


def test_place() -> None:
    """The refusal names the line."""
    with pytest.raises(ValueError, match=r"^line 2: "):
        fingerprint("x = 1\ny = = 2\n")


def test_odd_python() -> None:
    """Very long numbers, lone surrogates in escapes and deep but legal nesting are Python too."""
    for text in ("x = 0x" + "f" * 6000, "x = '\\ud800'", "x = " + "-" * 500 + "1", "x = '\\d'", ""):
        assert len(fingerprint(text)) == 64


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        (SCRIPT, 9),
        (SCRIPT.replace("\n", "\r\n"), 9),
        ("\ufeff" + SCRIPT, 9),
        (REFORMATTED, 10),
        ("", 0),
        ("# only\n\n", 0),
        ('"""doc"""; x = 1\n', 1),
        ('def f(): "doc"\n', 1),
        ('def f():\n    """doc\n\n    more"""\n', 1),
        ("x = f'''a\n{1}\nb'''\n", 3),
        ("x = 1 + \\\n    2\n", 2),
        ("x = (\n    # why\n    1,\n)\n", 3),
        ("x = (\n# no end\n", 1),
    ],
)
def test_code_lines(text: str, lines: int) -> None:
    """Lines of code are those that are not blank, a comment or a docstring."""
    assert code_lines(text) == lines


@given(st.text() | st.text("abc01=():\n\t #'\"\\.,[]"))
def test_any_text(text: str) -> None:
    """No text breaks either function: a fingerprint or ValueError, and a count no higher than the lines there are."""
    assert 0 <= code_lines(text) <= text.count("\n") + text.count("\r") + len(text.splitlines()) + 1
    try:
        known = fingerprint(text)
    except ValueError:
        return
    assert fingerprint(text + "\n# comment\n") == known or text.rstrip().endswith("\\")


@given(st.lists(st.sampled_from(textwrap.dedent(SCRIPT).split("\n\n")), max_size=5))
def test_unparse(parts: list[str]) -> None:
    """A script written again from its own syntax tree keeps its fingerprint."""
    text = "\n\n".join(parts)
    try:
        again = ast.unparse(ast.parse(text))
    except SyntaxError:
        return
    assert fingerprint(again) == fingerprint(text)
