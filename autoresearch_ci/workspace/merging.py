"""Brings a finished research branch into another branch of the user's repository, without touching a working tree.

Only where the target branch itself is checked out, and clean, is that checkout moved along, as `git merge --ff-only`
does it.
"""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path

from autoresearch_ci.errors import GitError
from autoresearch_ci.workspace.checkout import Author, Checkout
from autoresearch_ci.workspace.commands import NO_HOOKS, Git
from autoresearch_ci.workspace.refs import REPORT_TRAILER, Refs


class MergeMethod(StrEnum):
    """The three ways of GitHub's merge button."""

    SQUASH = "squash"
    REBASE = "rebase"
    MERGE = "merge"


def merge_branch(checkout: Checkout, *, tag: str, method: MergeMethod, into: str, message: str, author: Author) -> str:
    """The tip of `into`, a full hash, after `autoresearch/<tag>` was merged: the old one when it holds everything.

    GitError for conflicts (naming the files), a missing branch, or a dirty checkout of `into`. Never a force push, and
    no push.
    """
    merging = _Merging(checkout, author)
    refs = Refs(tag)
    source = merging.resolve(refs.head) or merging.resolve(f"refs/remotes/origin/{refs.branch}")
    if not source:
        raise GitError(
            f"there is no branch `{refs.branch}` here", hint=f"fetch it: `git fetch origin {refs.branch}:{refs.branch}`"
        )
    target = merging.resolve(f"refs/heads/{into}")
    if not target:
        raise GitError(f"there is no branch `{into}` here", hint="name an existing local branch")
    match method:
        case MergeMethod.SQUASH:
            merged = merging.squash(source, target, message)
        case MergeMethod.MERGE:
            merged = merging.merge(source, target, message)
        case MergeMethod.REBASE:
            merged = merging.rebase(source, target)
    if merged != target:
        merging.move(into, target, merged)
    return merged


class _Merging:
    def __init__(self, checkout: Checkout, author: Author) -> None:
        who = {"GIT_AUTHOR_NAME": author.name, "GIT_AUTHOR_EMAIL": author.email}
        who |= {"GIT_COMMITTER_NAME": author.name, "GIT_COMMITTER_EMAIL": author.email}
        self._variables = {**who, **NO_HOOKS, "GIT_TERMINAL_PROMPT": "0"}
        self._git = Git(checkout.root, self._variables)

    def resolve(self, ref: str) -> str:
        return self._git.run("rev-parse", "--verify", "--quiet", f"{ref}^{{commit}}").text

    def squash(self, source: str, target: str, message: str) -> str:
        tree = self._merged_tree(target, source)
        return target if tree == self._tree(target) else self._commit(tree, message, target)

    def merge(self, source: str, target: str, message: str) -> str:
        if self._git.run("merge-base", "--is-ancestor", source, target).code == 0:
            return target
        return self._commit(self._merged_tree(target, source), message, target, source)

    def rebase(self, source: str, target: str) -> str:
        if self._git.run("merge-base", "--is-ancestor", target, source).code == 0:
            return source
        tip = target
        # As `git rebase` does: changes that the target holds already, under another hash, are left out. So are reports but the
        # last: a merge of the base may have taken one off the branch, and is itself not repeated.
        missing = ("rev-list", "--reverse", "--no-merges", "--cherry-pick", "--right-only", f"{target}...{source}")
        outdated = set(self._git.read(*missing, f"--grep=^{REPORT_TRAILER}").text.split()[:-1])
        for commit in self._git.read(*missing).text.split():
            if commit in outdated:
                continue
            # Two throw-away commits on the commit's parent make that parent the merge base: git 2.38 has no
            # --merge-base.
            before = f"{commit}^"
            ours = self._commit(self._tree(tip), "ours", before)
            theirs = self._commit(self._tree(commit), "theirs", before)
            tree = self._merged_tree(ours, theirs)
            if tree != self._tree(tip):
                tip = self._commit(tree, self._git.read("log", "-1", "--format=%B", commit).text, tip)
        return tip

    def move(self, branch: str, old: str, new: str) -> None:
        worktree = self._worktree_of(branch)
        if worktree is None:
            self._git.read("update-ref", "-m", "autoresearch-ci merge", f"refs/heads/{branch}", new, old)
            return
        there = Git(worktree, self._variables)
        if there.read("status", "--porcelain", "--untracked-files=no").text:
            raise GitError(
                f"`{branch}` is checked out in {worktree} with changes that are not committed",
                hint="commit or stash them",
            )
        output = there.run("merge", "--ff-only", "--quiet", new, timeout_s=600.0)
        if output.code:
            raise GitError(
                f"`{branch}` cannot move in {worktree}: {output.complaint}",
                hint="move away the files that it would overwrite",
            )

    def _worktree_of(self, branch: str) -> Path | None:
        for record in self._git.read("worktree", "list", "--porcelain").text.split("\n\n"):
            lines = record.splitlines()
            if f"branch refs/heads/{branch}" in lines:
                return Path(lines[0].removeprefix("worktree "))
        return None

    def _merged_tree(self, ours: str, theirs: str) -> str:
        output = self._git.run("merge-tree", "--write-tree", "--name-only", "--no-messages", "-z", ours, theirs)
        tree, *files = output.out.decode("utf-8", "replace").rstrip("\0").split("\0")
        if output.code == 1:
            raise GitError(
                f"the merge has conflicts in {', '.join(f'`{name}`' for name in files)[:300]}",
                hint="merge by hand, or by another method",
            )
        if output.code:
            raise GitError(f"git merge-tree failed: {output.complaint}", hint="use git 2.38 or newer")
        return tree

    def _tree(self, commit: str) -> str:
        return self._git.read("rev-parse", f"{commit}^{{tree}}").text

    def _commit(self, tree: str, message: str, *parents: str) -> str:
        return self._git.read(
            "commit-tree",
            tree,
            *(part for parent in parents for part in ("-p", parent)),
            "-F",
            "-",
            data=message.encode("utf-8", "replace"),
        ).text
