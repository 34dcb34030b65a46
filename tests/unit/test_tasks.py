"""What can be asked for by a comment or a dispatch, and what cannot."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoresearch_ci.errors import SettingsError
from autoresearch_ci.tasks import COMMAND, EXAMPLES, MAX_TEXT, Kind, Task, asked, parse


@pytest.mark.parametrize(
    ("text", "task"),
    [
        ("continue 20", Task(kind=Kind.CONTINUE, count=20)),
        ("  Continue   20 ", Task(kind=Kind.CONTINUE, count=20)),
        ("continue 20 #4", Task(kind=Kind.CONTINUE, count=20, answer_to=4)),
        ("verify 5", Task(kind=Kind.VERIFY, count=5)),
        ("drop A1B2C3D", Task(kind=Kind.DROP, commits=("a1b2c3d",))),
        ("drop a1b2c3d e4f5a6b #12", Task(kind=Kind.DROP, commits=("a1b2c3d", "e4f5a6b"), answer_to=12)),
        ("merge rebase", Task(kind=Kind.MERGE, method="rebase")),
        ("stop", Task(kind=Kind.STOP)),
        ("report", Task(kind=Kind.REPORT)),
        ("config", Task(kind=Kind.CONFIG)),
    ],
)
def test_what_is_understood(text: str, task: Task) -> None:
    """Every task as a person writes it; what a task is written as is read as the same task."""
    assert parse(text) == task
    assert parse(task.text) == task


@pytest.mark.parametrize(
    "text",
    [
        "", "#4", "delete everything", "continue", "continue 0", "continue -1", "continue 20 30", "continue 1e3", "continue ٣",
        "continue 999999", "verify 101", "drop", "drop abc", "drop zzzzzzz", "drop --force", f"drop {'a1b2c3d ' * 9}", "merge",
        "merge --admin", "merge squash now", "stop it", "report /etc/passwd", "config x", "stop #-1", "stop #99999999999",
        "continue 20; rm -rf /", "$(stop)", "x" * (MAX_TEXT + 1), "stop\nmerge squash",
    ],
)  # fmt: skip
def test_what_is_not_understood(text: str) -> None:
    """Anything else is an error with an example of what can be said; nothing of the text is in it."""
    with pytest.raises(SettingsError) as found:
        parse(text)
    assert "`" in found.value.hint
    for word in ("rm -rf", "passwd", "--admin", "--force", "delete"):
        assert word not in found.value.message + found.value.hint


def test_the_examples_are_understood() -> None:
    """What an answer offers works when it is copied."""
    for example in EXAMPLES:
        assert parse(example).text == example


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ("/autoresearch continue 20", "continue 20"),
        ("/autoresearch stop\r\nthank you", "stop"),
        ("  /autoresearch\tstop  ", "stop"),
        ("/autoresearch", ""),
        ("/autoresearch\nstop", ""),
        ("please /autoresearch stop", None),
        ("> /autoresearch stop", None),
        ("`/autoresearch stop`", None),
        ("thank you\n/autoresearch stop", None),
        ("\n/autoresearch stop", None),
        ("/autoresearcher stop", None),
        ("/Autoresearch stop", None),
        ("", None),
    ],
)
def test_only_the_first_line_of_a_comment_counts(body: str, text: str | None) -> None:
    """A quotation, a mention in a sentence or a later line asks for nothing."""
    assert asked(body) == text


@given(st.text(max_size=MAX_TEXT + 50))
def test_any_text_is_a_task_or_a_settings_error(text: str) -> None:
    """Whatever stands in a comment, the parser ends; and a task that it made is made of its own words only."""
    try:
        task = parse(text)
    except SettingsError:
        return
    assert parse(task.text) == task
    assert task.text.isascii()


@given(st.text(max_size=200))
def test_any_comment_is_read(rest: str) -> None:
    """What stands behind the command is one line."""
    found = asked(f"{COMMAND} {rest}")
    assert found is None or "\n" not in found
