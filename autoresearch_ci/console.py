"""All output: plain, a rich terminal, or GitHub Actions (groups, annotations, outputs, the step summary).

Data goes to stdout, everything else to stderr. In Actions both are parsed for workflow commands, so what a training script
printed is shown only between `::stop-commands::` and a random token, without control characters; and in a line of our own,
which may quote a description or the end of a log, nothing that looks like a command is one. No secret is ever said.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Self, TextIO

from autoresearch_ci.scrubber import Scrubber

MAX_NOTICES: Final = 10  # GitHub shows ten of each kind per step (runner, ExecutionContext.cs)
MAX_SUMMARY: Final = 1_000_000  # bytes; above 1 MiB GitHub drops the whole summary
MAX_LINE: Final = 4000

_CONTROL: Final = re.compile(
    r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)?|\x1b[@-Z\\^_]"  # escape sequences: CSI, OSC, others
    r"|[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"  # what is left of them, bidi, surrogates
)
# The runner obeys `::command::` at a line's start and, from its first days, `##[command]` anywhere in a line
# (actions/runner, ActionCommand.cs: TryParseV2 and TryParse).
_COMMAND: Final = re.compile(r"^(?=\s*::)|(?<=##)(?=\[)", re.MULTILINE)


def printable(line: str) -> str:
    """One line without escape sequences and control characters, and of bounded length."""
    return _CONTROL.sub("", line.replace("\n", " "))[:MAX_LINE]


def inert(text: str) -> str:
    """The text, over as many lines as it has, without escape sequences and without a workflow command."""
    return _COMMAND.sub("\u200b", "\n".join(_CONTROL.sub("", line) for line in text.split("\n")))


@dataclass(slots=True)
class Console:
    """Where the program speaks. `environ` gives GitHub's files; `in_actions` and `rich` are the flavour."""

    out: TextIO
    err: TextIO
    environ: Mapping[str, str] = field(default_factory=dict)
    in_actions: bool = False
    rich: bool = False
    scrubber: Scrubber = field(default_factory=Scrubber)
    _notices: int = 0

    @classmethod
    def detect(cls, environ: Mapping[str, str], out: TextIO, err: TextIO) -> Self:
        """The flavour that fits: Actions, a terminal, or plain."""
        in_actions = environ.get("GITHUB_ACTIONS") == "true"
        rich = not in_actions and err.isatty() and "NO_COLOR" not in environ and environ.get("TERM") != "dumb"
        return cls(out, err, environ, in_actions, rich, Scrubber.of(environ))

    def data(self, text: str) -> None:
        """What the command was asked for, on stdout."""
        print(self.scrubber.scrub(text.rstrip("\n")), file=self.out, flush=True)

    def info(self, text: str) -> None:
        self._say(inert(text))

    @contextmanager
    def group(self, title: str) -> Iterator[None]:
        """What is said inside belongs to `title`: a fold in Actions, a heading elsewhere."""
        if self.in_actions:
            self._say(f"::group::{_data(self._line(title))}")
            try:
                yield
            finally:
                self._say("::endgroup::")
        else:
            self._styled(f"▸ {self._line(title)}", "bold")
            yield

    def notice(self, title: str, message: str) -> None:
        """Something a person wants to see; the first ten are annotations in Actions."""
        self._notices += 1
        if self.in_actions and self._notices <= MAX_NOTICES:
            self._say(f"::notice title={_property(self._line(title))}::{_data(self._line(message))}")
        else:
            self._styled(f"{self._line(title)}: {self._line(message)}", "green")

    def warning(self, message: str) -> None:
        if self.in_actions:
            self._say(f"::warning::{_data(self._line(message))}")
        else:
            self._styled(f"warning: {self._line(message)}", "yellow")

    def error(self, message: str, hint: str = "") -> None:
        """One line that says what is wrong, and one that says what to do."""
        if self.in_actions:
            self._say(f"::error::{_data(self._line(message + (f' — hint: {hint}' if hint else '')))}")
            return
        self._styled(f"error: {self._line(message)}", "bold red")
        if hint:
            self._styled(f"hint: {self._line(hint)}", "cyan")

    def table(self, title: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
        """A table, on stderr: it is for reading, not for parsing."""
        from rich import box
        from rich.console import Console as RichConsole
        from rich.table import Table
        from rich.text import Text

        table = Table(title=Text(self._line(title)), title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
        for column in columns:
            table.add_column(Text(self._line(column)), overflow="fold")
        for row in rows:
            table.add_row(*(Text(self._line(cell)) for cell in row))
        width = None if self.rich else 160
        console = RichConsole(file=self.err, width=width, no_color=not self.rich, highlight=False, legacy_windows=False)
        if not self.in_actions:
            console.print(table)
            return
        with console.capture() as drawn:  # a cell may be folded anywhere: what the runner reads is made inert
            console.print(table)
        self._say(inert(drawn.get().rstrip("\n")))

    @contextmanager
    def running(self, title: str) -> Iterator[None]:
        """On a terminal, one line with `title` and the time since the start, gone at the end; nothing elsewhere."""
        if not self.rich:
            yield
            return
        from rich.console import Console as RichConsole
        from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

        with Progress(
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            TimeElapsedColumn(),
            console=RichConsole(file=self.err, highlight=False),
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
        ) as progress:
            progress.add_task(self._line(title), total=None)
            yield

    def untrusted(self, lines: Iterable[str]) -> None:
        """Lines that a training script or a build printed: shown, never obeyed."""
        with self.quoting() as quote:
            for line in lines:
                quote(line)

    @contextmanager
    def quoting(self) -> Iterator[Callable[[str], None]]:
        """Gives a function that shows untrusted lines one by one, as they come."""
        token = secrets.token_hex(16)
        if self.in_actions:
            self._say(f"::stop-commands::{token}")
        try:
            yield lambda line: self._say(self._line(line))
        finally:
            if self.in_actions:
                self._say(f"::{token}::")

    def mask(self, scrubber: Scrubber | None = None) -> None:
        """Keeps every secret that is known by now, in all its forms, out of what later steps print in an Actions log.

        `scrubber` knows more than the environment's: from here on it is this console's.
        """
        self.scrubber = scrubber or self.scrubber
        if self.in_actions:
            for form in self.scrubber.forms:
                print(f"::add-mask::{_data(form)}", file=self.err, flush=True)

    def set_outputs(self, values: Mapping[str, str]) -> None:
        """The step's outputs in Actions; nothing elsewhere. The delimiter is random, so that no value can end its own."""
        path = self.environ.get("GITHUB_OUTPUT")
        if not self.in_actions or not path:
            return
        with Path(path).open("a", encoding="utf-8") as file:
            for name, value in values.items():
                end = f"end-{secrets.token_hex(16)}"
                file.write(f"{name}<<{end}\n{self.scrubber.scrub(value)}\n{end}\n")

    def step_summary(self, markdown: str) -> None:
        """The step's summary in Actions, in place of what it was before, and always below GitHub's limit."""
        path = self.environ.get("GITHUB_STEP_SUMMARY")
        if not self.in_actions or not path:
            return
        data = self.scrubber.scrub(markdown).encode()
        if len(data) > MAX_SUMMARY:
            data = (
                data[:MAX_SUMMARY].decode(errors="ignore").encode()
                + b"\n\n... cut: the branch holds the whole summary\n"
            )
        Path(path).write_bytes(data)

    def _line(self, text: str) -> str:
        """One printable line without a secret. It is cut after that: a cut would leave a piece of one that nothing finds."""
        return printable(self.scrubber.scrub(_CONTROL.sub("", text)))

    def _say(self, text: str) -> None:
        print(self.scrubber.scrub(text), file=self.err, flush=True)

    def _styled(self, text: str, style: str) -> None:
        if not self.rich:
            self._say(inert(text))
            return
        from rich.console import Console as RichConsole

        RichConsole(file=self.err, highlight=False).print(
            self.scrubber.scrub(text), style=style, markup=False, soft_wrap=True
        )


def _data(text: str) -> str:
    """Escaped as the runner wants the message of a workflow command."""
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")
