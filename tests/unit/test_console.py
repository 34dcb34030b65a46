from __future__ import annotations

import io
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from autoresearch_ci.console import MAX_LINE, MAX_SUMMARY, Console, inert, printable


def plain() -> tuple[Console, io.StringIO, io.StringIO]:
    out, err = io.StringIO(), io.StringIO()
    return Console.detect({}, out, err), out, err


def actions(folder: Path) -> tuple[Console, io.StringIO]:
    environ = {
        "GITHUB_ACTIONS": "true",
        "GITHUB_OUTPUT": str(folder / "output"),
        "GITHUB_STEP_SUMMARY": str(folder / "summary"),
    }
    err = io.StringIO()
    return Console.detect(environ, io.StringIO(), err), err


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_data_is_on_stdout_and_the_rest_on_stderr() -> None:
    """What a command was asked for can be piped."""
    console, out, err = plain()
    console.data("{}\n")
    console.info("working")
    with console.group("Group"):
        console.notice("Kept", "better")
    console.warning("careful")
    console.error("wrong", "do this")
    console.table("Title", ("a", "b"), [("x", "[red]y")])
    assert out.getvalue() == "{}\n"
    said = err.getvalue()
    assert said.startswith("working\n▸ Group\nKept: better\nwarning: careful\nerror: wrong\nhint: do this\n")
    assert "[red]y" in said


def test_a_terminal_gets_colours_and_no_color_is_obeyed() -> None:
    """Rich only where somebody looks."""
    terminal = Terminal()
    console = Console.detect({"TERM": "xterm"}, io.StringIO(), terminal)
    assert console.rich
    console.error("wrong [bold]")
    assert "wrong [bold]" in terminal.getvalue()
    assert not Console.detect({"NO_COLOR": "1"}, io.StringIO(), Terminal()).rich
    assert not Console.detect({"TERM": "dumb"}, io.StringIO(), Terminal()).rich


def test_actions_gets_groups_and_annotations(tmp_path: Path) -> None:
    """Groups, notices, warnings and errors are workflow commands, with their data escaped."""
    console, err = actions(tmp_path)
    with console.group("Experiment 1: 100%\n::x"):
        console.info("inside")
    console.notice("Kept: a, b", "50%")
    console.warning("careful")
    console.error("wrong", "do this")
    assert err.getvalue().splitlines() == [
        "::group::Experiment 1: 100%25 ::x",
        "inside",
        "::endgroup::",
        "::notice title=Kept%3A a%2C b::50%25",
        "::warning::careful",
        "::error::wrong — hint: do this",
    ]


def test_a_group_ends_also_after_an_error(tmp_path: Path) -> None:
    """Otherwise the rest of the log would be folded into it."""
    console, err = actions(tmp_path)
    try:
        with console.group("g"):
            raise ValueError
    except ValueError:
        pass
    assert err.getvalue().splitlines()[-1] == "::endgroup::"


def test_ten_notices_and_no_more(tmp_path: Path) -> None:
    """GitHub shows ten; the others are plain lines."""
    console, err = actions(tmp_path)
    for number in range(12):
        console.notice("Kept", str(number))
    assert err.getvalue().count("::notice") == 10
    assert "Kept: 11" in err.getvalue()


def test_what_a_script_printed_is_not_obeyed(tmp_path: Path) -> None:
    """Its lines stand between stop-commands and a token that it cannot know, which changes every time."""
    console, err = actions(tmp_path)
    console.untrusted(["::set-output name=x::y", "\x1b[31mred\x07"])
    console.untrusted(["again"])
    lines = err.getvalue().splitlines()
    token = lines[0].removeprefix("::stop-commands::")
    assert len(token) == 32
    assert lines[1:4] == ["::set-output name=x::y", "red", f"::{token}::"]
    assert lines[4] != lines[0]


def obeyed(line: str) -> bool:
    """Whether the runner takes the line for a command: TryParseV2 and TryParse of actions/runner's ActionCommand.cs."""
    return line.lstrip().startswith("::") or "##[" in line


@given(st.lists(st.sampled_from(["::", "##[", "#", "[", "]", "a", " ", "\n", "\r", "\x1b[0m", "\u2028"])).map("".join))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_quoted_reason_or_description_is_no_command(tmp_path: Path, text: str) -> None:
    """A crash's reason holds the last line of its log: `##[set-output name=x]y` in it is text, wherever it stands."""
    console, err = actions(tmp_path)
    console.info(text)
    console.info(f"loss — · crash · {text}")
    console.table("Settings", ("Name", "Value"), [(text, text), ("x" * 100, text * 9)])
    for _ in range(11):
        console.notice(text, text)
    said = err.getvalue().splitlines()
    assert not [line for line in said if obeyed(line) and not line.startswith("::notice title=")]
    assert not [line for line in inert(text).split("\n") if obeyed(line)]


def test_a_command_in_a_reason_is_still_readable(tmp_path: Path) -> None:
    """Nothing is taken away: a person sees what the script printed."""
    console, err = actions(tmp_path)
    console.info("crash · ##[add-mask]a\n ::error::b")
    assert err.getvalue().replace("\u200b", "") == "crash · ##[add-mask]a\n ::error::b\n"


def test_a_running_experiment_is_one_line_on_a_terminal(tmp_path: Path) -> None:
    """Its name and the elapsed time, wiped at the end; a log file and Actions get nothing."""
    terminal = Terminal()
    with Console.detect({"TERM": "xterm"}, io.StringIO(), terminal).running("Experiment 3: [red]LR"):
        pass
    assert "Experiment 3: [red]LR" in terminal.getvalue()
    assert "0:00:00" in terminal.getvalue()
    assert terminal.getvalue().endswith("\x1b[2K")
    console, _, err = plain()
    with console.running("Experiment 3"):
        pass
    in_actions, actions_err = actions(tmp_path)
    with in_actions.running("Experiment 3"):
        pass
    assert (err.getvalue(), actions_err.getvalue()) == ("", "")


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        ("\x1b[1;31mred\x1b[0m", "red"),
        ("\x1b]0;title\x07text", "text"),
        ("\x1b]8;;http://x\x1b\\link\x1b]8;;\x1b\\", "link"),
        ("a\rb\x00c\td\ne", "abc\td e"),
        ("a\u202eb\ud800", "ab"),
    ],
)
def test_what_a_terminal_would_obey_is_left_out(line: str, shown: str) -> None:
    """Escape sequences with their payload, control and direction characters; a tab and the words stay."""
    assert printable(line) == shown


def test_outputs_cannot_end_themselves(tmp_path: Path) -> None:
    """A value with newlines and delimiters stays one value."""
    console, _ = actions(tmp_path)
    console.set_outputs({"a": "1\nEOF\nb=2", "c": ""})
    lines = (tmp_path / "output").read_text().splitlines()
    assert lines[0].startswith("a<<end-")
    assert lines[1:4] == ["1", "EOF", "b=2"]
    assert lines[4] == lines[0].removeprefix("a<<")


def test_the_step_summary_is_replaced_and_bounded(tmp_path: Path) -> None:
    """It never grows: GitHub drops a summary above 1 MiB whole."""
    console, _ = actions(tmp_path)
    console.step_summary("é" * MAX_SUMMARY)
    assert (tmp_path / "summary").stat().st_size < 1024 * 1024
    console.step_summary("short")
    assert (tmp_path / "summary").read_text() == "short"


def test_outside_actions_there_are_no_files() -> None:
    """Outputs and summaries are Actions' alone."""
    console, out, err = plain()
    console.set_outputs({"a": "1"})
    console.step_summary("x")
    console.mask()
    console.untrusted(["line"])
    assert (out.getvalue(), err.getvalue()) == ("", "line\n")


@given(st.text())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_text_starts_a_command(tmp_path: Path, text: str) -> None:
    """Whatever a message holds, it is one workflow command and one line."""
    console, err = actions(tmp_path)
    console.warning(text)
    assert err.getvalue().count("\n") == 1
    assert "\r" not in err.getvalue()
    assert "\x1b" not in printable(text)


def test_no_secret_is_said(tmp_path: Path) -> None:
    """Not in a line, a table, a summary, an output or what a command was asked for; every form of it is masked first."""
    token = "ghs_0123456789abcdef"
    environ = {
        "GITHUB_TOKEN": token, "GITHUB_ACTIONS": "true", "GITHUB_OUTPUT": str(tmp_path / "output"),
        "GITHUB_STEP_SUMMARY": str(tmp_path / "summary"),
    }  # fmt: skip
    out, err = io.StringIO(), io.StringIO()
    console = Console.detect(environ, out, err)
    console.mask()
    masked = err.getvalue().splitlines()
    assert f"::add-mask::{token}" in masked
    assert f"::add-mask::{token.encode().hex()}" in masked
    err.truncate(0)
    console.data(f"data {token}")
    console.info(f"info {token}")
    console.notice(token, token)
    console.warning(token)
    console.error(token, token)
    console.table(token, (token,), [(token,)])
    console.untrusted([f"printed {token}"])
    console.set_outputs({"a": token})
    console.step_summary(f"# {token}")
    with console.group(token):
        pass
    rich = Terminal()
    Console.detect({"GITHUB_TOKEN": token, "TERM": "xterm"}, io.StringIO(), rich).warning(token)
    said = [
        out.getvalue(),
        err.getvalue(),
        rich.getvalue(),
        *((tmp_path / n).read_text() for n in ("output", "summary")),
    ]
    assert all("***" in text for text in said)
    assert not any(token in text for text in said)


@pytest.mark.parametrize("width", range(MAX_LINE - 25, MAX_LINE + 2))
def test_a_line_is_not_cut_through_a_secret(width: int) -> None:
    """A long line that ends within a token, or has an escape sequence or a line break in it, shows no piece of it."""
    token = "ghs_0123456789abcdef"
    for written in (token, f"{token[:9]}\x1b[0m{token[9:]}", f"{token[:9]}\n{token[9:]}"):
        err, terminal = io.StringIO(), Terminal()
        Console.detect({"GITHUB_TOKEN": token}, io.StringIO(), err).untrusted(["." * width + written])
        with Console.detect({"GITHUB_TOKEN": token, "TERM": "xterm"}, io.StringIO(), terminal).running(written):
            pass
        for said in (err.getvalue(), terminal.getvalue()):
            assert token[:8] not in said
