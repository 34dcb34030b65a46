from __future__ import annotations

import io
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from autoresearch_ci.console import MAX_SUMMARY, Console, printable


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
    console.mask("secret")
    assert err.getvalue().splitlines() == [
        "::group::Experiment 1: 100%25%0A::x",
        "inside",
        "::endgroup::",
        "::notice title=Kept%3A a%2C b::50%25",
        "::warning::careful",
        "::error::wrong — hint: do this",
        "::add-mask::secret",
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
    console.mask("secret")
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
