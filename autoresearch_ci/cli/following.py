"""`follow-base`: whether the base branch went on since the session's base commit."""

from __future__ import annotations

from autoresearch_ci.cli.wiring import Opened
from autoresearch_ci.console import Console
from autoresearch_ci.experiment import History


def base_to_follow(console: Console, opened: Opened) -> str:
    """The commit that the base branch has gone on to, as the checkout has it; empty when there is nothing to follow.

    A base branch that was rewritten is not followed, with a warning: a merge would bring back to it the very commits that somebody
    took off, and to fail would end the nights of a session that can go on well from the base that it has.
    """
    history, checkout, workspace = opened.history, opened.checkout, opened.workspace
    if not opened.settings.follow_base or history is None or checkout.base_commit == workspace.base_commit:
        return ""
    session, new = history.session, checkout.base_commit
    if checkout.base_branch != session.base_branch:
        console.warning(
            f"the base is not followed: the checkout is on `{checkout.base_branch}`, and `{session.tag}` began on "
            f"`{session.base_branch}`"
        )
        return ""
    if not workspace.is_ahead(new):
        console.warning(
            f"the base is not followed: {new[:7]} does not descend from {session.base_commit[:7]}, "
            f"which `{session.tag}` is based on"
        )
        return ""
    return new


def merge_message(history: History, new: str) -> str:
    """The message of the commit that merges the base's commit `new` into the session's branch."""
    session = history.session
    return (
        f"Merge {session.base_branch or 'the base'} at {new[:7]}\n\n"
        f"Autoresearch-Session: {session.tag}\nAutoresearch-Experiment: {len(history.experiments)}\n"
    )
