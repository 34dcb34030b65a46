"""Pure: what a person may ask of a session, by a comment or a dispatch, and how it is written.

A comment is anybody's text: it is read by these few patterns, bounded, and nothing of it is ever passed on but what they matched.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final

from autoresearch_ci.errors import SettingsError

COMMAND: Final = "/autoresearch"
COMMENT: Final = "comment"  # not a task itself: the comment that started the job says which
MAX_TEXT: Final = 600  # characters of a request
MAX_EXPERIMENTS: Final = 10_000
MAX_RUNS: Final = 100  # of each commit, in one verification
MAX_DROPPED: Final = 8

_ASKED: Final = re.compile(rf"{COMMAND}(?:[ \t]+(?P<text>.*))?")
_ANSWER: Final = re.compile(r"(?P<text>.*?)\s+#(?P<number>[0-9]{1,9})", re.DOTALL)
_HASH: Final = re.compile(r"[0-9a-f]{7,64}")


class Kind(StrEnum):
    """What can be asked for."""

    CONTINUE = "continue"
    DROP = "drop"
    VERIFY = "verify"
    MERGE = "merge"
    STOP = "stop"
    REPORT = "report"
    CONFIG = "config"


# What a comment can say, with what it does: shown to whoever wrote something else.
EXAMPLES: Final = {
    "continue 20": "20 more experiments",
    "drop a1b2c3d": "a new branch and pull request without this commit, measured",
    "verify 5": "base and best are run 5 times each, and the pull request says what came of it",
    "report": "the report is made again, without running anything",
    "stop": "the run that is on ends; it saves, pushes and reports",
    "merge squash": "merges this pull request; `rebase` and `merge` are the other ways",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One thing that was asked for.

    `count`: experiments of `continue`, runs of each commit of `verify`. `commits`: hashes of `drop`, 7 characters or more.
    `method`: of `merge`. `answer_to`: the pull request on which a comment asked for it, and where the outcome is told.
    """

    kind: Kind
    count: int = 0
    commits: tuple[str, ...] = ()
    method: str = ""
    answer_to: int | None = None

    @property
    def text(self) -> str:
        """As `parse` reads it: `continue 20`, and `continue 20 #4` when pull request 4 waits for the outcome."""
        words = [self.kind.value, str(self.count) if self.count else "", *self.commits, self.method]
        answer = f"#{self.answer_to}" if self.answer_to is not None else ""
        return " ".join(word for word in (*words, answer) if word)


def asked(body: str) -> str | None:
    """What stands behind `/autoresearch` on a comment's first line; None when the comment is about something else."""
    match = _ASKED.fullmatch(body.partition("\n")[0].strip("\r \t"))
    return None if match is None else (match["text"] or "").strip()


def parse(text: str) -> Task:
    """The task that `text` asks for, such as `continue 20`; SettingsError, with an example, for anything else."""
    if len(text) > MAX_TEXT:
        raise SettingsError("the request is too long", hint=_listed())
    answer = _ANSWER.fullmatch(text.strip())
    words = (answer["text"] if answer else text).lower().split()
    kind = next((kind for kind in Kind if words and words[0] == kind.value), None)
    if kind is None:
        raise SettingsError("it is not understood what to do", hint=_listed())
    task = _complete(kind, words[1:])
    return replace(task, answer_to=int(answer["number"])) if answer else task


def _complete(kind: Kind, rest: list[str]) -> Task:
    match kind:
        case Kind.CONTINUE:
            return Task(kind=kind, count=_number(kind, rest, MAX_EXPERIMENTS, "20"))
        case Kind.VERIFY:
            return Task(kind=kind, count=_number(kind, rest, MAX_RUNS, "5"))
        case Kind.DROP:
            if not 1 <= len(rest) <= MAX_DROPPED or not all(_HASH.fullmatch(word) for word in rest):
                raise _unclear(
                    kind, f"needs one to {MAX_DROPPED} commits, 7 characters or more of each hash", "a1b2c3d"
                )
            return Task(kind=kind, commits=tuple(rest))
        case Kind.MERGE:
            if len(rest) != 1 or rest[0] not in ("squash", "rebase", "merge"):
                raise _unclear(kind, "needs `squash`, `rebase` or `merge`", "squash")
            return Task(kind=kind, method=rest[0])
        case Kind.STOP | Kind.REPORT | Kind.CONFIG:
            if rest:
                raise _unclear(kind, "stands alone", "")
            return Task(kind=kind)


def _number(kind: Kind, rest: list[str], most: int, example: str) -> int:
    found = int(rest[0]) if len(rest) == 1 and re.fullmatch(r"[0-9]{1,6}", rest[0]) else 0
    if not 1 <= found <= most:
        raise _unclear(kind, f"needs one number, from 1 to {most}", example)
    return found


def _unclear(kind: Kind, needs: str, example: str) -> SettingsError:
    return SettingsError(f"`{kind.value}` {needs}", hint=f"for example `{f'{kind.value} {example}'.strip()}`")


def _listed() -> str:
    return "one of " + ", ".join(f"`{example}`" for example in EXAMPLES)
