"""What a reader of the pull request can do with it: run it again, merge it, or decide by a comment."""

from __future__ import annotations

from typing import Final

from autoresearch_ci.experiment import History, Session
from autoresearch_ci.report.commands import MAX_NAME, merge_commands, reproduce_commands
from autoresearch_ci.report.markdown import cell, code
from autoresearch_ci.report.trust import Trust, ablations

PREFIX: Final = "/autoresearch"


def reproduce(session: Session) -> list[str]:
    """Two commands."""
    return ["## How to reproduce", "", *code(*reproduce_commands(session)), ""]


def merge(history: History, base: str) -> list[str]:
    """Both ways, and what a person must not do."""
    squash, rebase = merge_commands(history.session)
    merged = (
        f"The branch holds a merge of {cell(base, MAX_NAME)}, which a rebase leaves out: where the button finds conflicts "
        "in it, squash, or use the command. "
        if history.merges
        else ""
    )
    return [
        "## How to merge",
        "",
        f"{merged}Squash for one commit on {cell(base, MAX_NAME)}, rebase to keep every improvement as its own commit; "
        "by the button here, or:",
        "",
        *code(squash, rebase),
        "",
        f"Never force-push {cell(base, MAX_NAME)}. To keep the branch as it is, close this pull request.",
        "",
    ]


def stop_early(session: Session) -> list[str]:
    """The one decision while a session goes on; nothing without a repository, where nobody comments."""
    stop = f"Enough? Comment <code>{PREFIX} stop</code>: it ends after its report, and nothing is lost."
    return [stop, ""] if session.repository else []


def by_comment(history: History, found: Trust | None) -> list[str]:
    """The commands that a comment may hold; nothing without a repository, where nobody comments."""
    if not history.session.repository:
        return []
    idle = [each.experiment for each in ablations(history, found) if not each.matters] if found is not None else []
    example = [*idle, *reversed(history.kept)][:1]
    rows = [
        ("continue 20", "20 more experiments on this branch, from where it stands"),
        ("verify 5", "the base and the best commit are measured again, 5 times each"),
        *((f"drop {e.label}", "a new branch without that commit, measured") for e in example),
        ("merge squash", "merged as one commit; <code>merge rebase</code> keeps every improvement as its own"),
        ("stop", "the session that is running ends after its report; nothing is lost"),
    ]
    return [
        "### Decide by comment",
        "",
        "Only people with write access to this repository; comments of everybody else are ignored.",
        "",
        "| Comment | What happens |",
        "|---|---|",
        *(f"| <code>{PREFIX} {cell(command, MAX_NAME)}</code> | {effect} |" for command, effect in rows),
        "",
    ]
