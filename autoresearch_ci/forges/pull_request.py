"""The pull request as a value, and the part of its text that is ours.

A person may write above and below our part, the island between two hidden markers; an update replaces the island only.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

ISLAND_START = "<!-- autoresearch:start -->"
ISLAND_END = "<!-- autoresearch:end -->"


class Operation(StrEnum):
    """What was done to the pull request, as the action's output `pull-request-operation` spells it."""

    CREATED = "created"
    UPDATED = "updated"
    NONE = "none"


@dataclass(frozen=True, slots=True, kw_only=True)
class PullRequest:
    """The outcome of publishing.

    `number` is None and `url` empty where there is nothing to show; a local pull request has a `file:` URL and no
    number. `warnings`: one line each, about what could not be done and does not matter enough to fail.
    """

    number: int | None
    url: str
    operation: Operation
    warnings: tuple[str, ...] = ()


class PullState(StrEnum):
    """What became of a branch's pull request."""

    NONE = "none"
    OPEN = "open"
    CLOSED = "closed"
    MERGED = "merged"


@dataclass(frozen=True, slots=True, kw_only=True)
class PullStanding:
    """What the forge says of the pull request that is about what a branch holds; without a number there is none."""

    state: PullState
    number: int | None = None
    url: str = ""
    draft: bool = False


def with_note(body: str, note: str) -> str:
    """`body` with `note` as a paragraph before it; as it is without a note."""
    return f"{note}\n\n{body}" if note else body


def island(body: str) -> str:
    """`body` between the markers. Markers inside `body` lose their meaning, so that there is one island."""
    return f"{ISLAND_START}\n{body.replace('<!-- autoresearch:', '<!-- autoresearch ')}\n{ISLAND_END}"


def with_island(existing: str, body: str) -> str:
    """`existing` with its island replaced by `body`'s, or with the island appended when it has none.

    Text outside the island stays, also when a person deleted one of the markers.
    """
    first = existing.find(ISLAND_START)
    end = existing.find(ISLAND_END, first) if first >= 0 else -1
    if end < 0:
        # Without this, a lone start marker and our new end marker would swallow a person's text at the next update.
        human = existing.replace(ISLAND_START, "").rstrip()
        return f"{human}\n\n{island(body)}" if human else island(body)
    start = existing.rfind(ISLAND_START, 0, end)
    return existing[:start] + island(body) + existing[end + len(ISLAND_END) :]
