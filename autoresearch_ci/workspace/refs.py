"""The names of a session's refs: the only ones that are ever written."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from autoresearch_ci.errors import SettingsError

_TAG = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")

# A report commit says so in its message. Candidates' messages cannot: their trailer is defused.
REPORT_TRAILER: Final = "Autoresearch-Report:"


@dataclass(frozen=True, slots=True)
class Refs:
    """The three ref families of one tag, and our note of the remote's (`seen_…`). SettingsError for a bad tag."""

    tag: str

    def __post_init__(self) -> None:
        # The pattern is the contract's; the rest is what `git check-ref-format` refuses of it.
        if not _TAG.fullmatch(self.tag) or ".." in self.tag or self.tag.endswith((".", ".lock")):
            raise SettingsError(
                f"`{self.tag[:80]}` cannot be a tag",
                hint="use up to 64 letters, digits, `.`, `_` and `-`, beginning with a letter or digit, without `..`",
            )

    @property
    def branch(self) -> str:
        return f"autoresearch/{self.tag}"

    @property
    def head(self) -> str:
        return f"refs/heads/autoresearch/{self.tag}"

    @property
    def state(self) -> str:
        return f"refs/autoresearch/{self.tag}"

    @property
    def journal(self) -> str:
        return f"{self.state}/journal"

    @property
    def line(self) -> str:
        """Where the branch's commits go on the remote once the branch itself could not be pushed; here it never exists.

        From then on it follows every push, also after the branch can be pushed again: what it holds is the session's head.
        """
        return f"{self.state}/branch"

    def experiment(self, number: int) -> str:
        return f"{self.state}/experiments/{number:04d}"

    @property
    def seen_head(self) -> str:
        return f"refs/seen/{self.tag}/branch"

    @property
    def seen_state(self) -> str:
        return f"refs/seen/{self.tag}/state"

    @property
    def seen_line(self) -> str:
        return f"{self.seen_state}/branch"

    def of_seen(self, seen: str) -> str:
        """The ref here that our note `seen` is about."""
        return (
            self.head if seen in (self.seen_head, self.seen_line) else self.state + seen.removeprefix(self.seen_state)
        )
