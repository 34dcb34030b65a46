"""Takes kept changes out of the branch again, on a new one. No ref of the session moves."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Final

from autoresearch_ci.errors import GitError
from autoresearch_ci.experiment import Experiment
from autoresearch_ci.workspace.checkout import Checkout
from autoresearch_ci.workspace.clone import controlled
from autoresearch_ci.workspace.commands import Git
from autoresearch_ci.workspace.exchange import Exchange
from autoresearch_ci.workspace.objects import Objects, Tree
from autoresearch_ci.workspace.refs import Refs
from autoresearch_ci.workspace.remote import Remote
from autoresearch_ci.workspace.research import Workspace
from autoresearch_ci.workspace.scripts import merged_script

MAX_NAME: Final = 64  # of a branch, after `autoresearch/`: what a tag may have, too


@dataclass(frozen=True, slots=True)
class Reduced:
    """A branch without some of the session's keeps. `commits`: those it holds, by the keep that each repeats, in order."""

    branch: str
    tip: str
    script: str
    commits: tuple[tuple[Experiment, str], ...]


def push_without(
    workspace: Workspace,
    checkout: Checkout,
    remote: Remote,
    *,
    kept: Sequence[Experiment],
    dropped: Collection[str],
) -> Reduced:
    """A new branch from the base commit with the `kept` changes in order, without those of the commits `dropped`; pushed.

    Messages, authors and times are those of the keeps, so that the same call makes the same commits again. GitError when a keep
    builds on a dropped one, or when the remote has other commits under the branch's name: they are never overwritten.
    """
    shorts = [e.commit[:7] for e in kept if e.commit in dropped]
    refs = Refs(_name(workspace.refs.tag, shorts))
    git = Git(workspace.clone, controlled(workspace.clone))
    objects = Objects(git, workspace.clone / "objects", checkout.object_format, workspace.scrubber.scrub_bytes)
    base = git.read("ls-tree", "-z", workspace.base_commit, "--", checkout.script).text
    tree, mode = Tree(objects, git.read("rev-parse", f"{workspace.base_commit}^{{tree}}").text), base.partition(" ")[0]
    tip, text = workspace.base_commit, workspace.script(workspace.base_commit)
    commits: list[tuple[Experiment, str]] = []
    for experiment in kept:
        if experiment.commit in dropped:
            continue
        after = merged_script(workspace.script(experiment.parent), text, workspace.script(experiment.commit))
        if after is None:
            before = [e.commit[:7] for e in kept if e.commit in dropped and e.number < experiment.number]
            if not before:
                raise GitError(
                    f"{experiment.commit[:7]} cannot be put on the base as it is now: the same lines are changed",
                    hint=f"drop it as well: `--drop {experiment.commit[:7]}`",
                )
            raise GitError(
                f"{experiment.commit[:7]} builds on {' or '.join(before)}: the same lines are changed",
                hint=f"drop it as well: `--drop {experiment.commit[:7]}`",
            )
        if after == text:
            continue  # it only took back what is not there now
        text = after
        tree.put(checkout.script, text.encode("utf-8", "replace"), mode)
        tip = objects.write("commit", _again(git.read("cat-file", "commit", experiment.commit).out, tree.write(), tip))
        commits.append((experiment, tip))
    _push(git, refs, tip, Exchange(workspace.clone, refs, remote, time.time))
    return Reduced(refs.branch, tip, text, tuple(commits))


def _name(tag: str, shorts: Sequence[str]) -> str:
    """The branch's name after `autoresearch/`; one that would be too long holds a digest instead of every hash."""
    name = "-".join((tag, "without", *shorts))
    if len(name) <= MAX_NAME:
        return name
    return f"{tag[:40]}-without-{hashlib.sha256(name.encode()).hexdigest()[:12]}"


def _again(commit: bytes, tree: str, parent: str) -> bytes:
    """The commit object with the same author, times and message, on another parent."""
    head, _, message = commit.partition(b"\n\n")
    who = [line for line in head.split(b"\n") if line.startswith((b"author ", b"committer "))]
    return b"\n".join((f"tree {tree}\nparent {parent}".encode(), *who)) + b"\n\n" + message


def _push(git: Git, refs: Refs, tip: str, exchange: Exchange) -> None:
    there = exchange.listing()
    if there is None:
        raise GitError("the remote cannot be reached", hint="check the network, then run the same command again")
    before = there.get(refs.head)
    if before and before != tip and git.run("merge-base", "--is-ancestor", before, tip).code:
        raise GitError(
            f"`{refs.branch}` exists already, with other commits",
            hint="rename or delete that branch, then run it again",
        )
    git.read("update-ref", refs.head, tip)
    if not exchange.push({refs.head: tip}, (refs.head,), now=True):
        raise GitError(
            f"`{refs.branch}` could not be pushed", hint="check the network, then run the same command again"
        )
