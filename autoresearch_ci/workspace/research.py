"""The session's commits and refs, in the program's own bare clone."""

from __future__ import annotations

import itertools
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Self

import psutil

from autoresearch_ci.errors import GitError, MachineError
from autoresearch_ci.experiment import History, Status
from autoresearch_ci.scrubber import Scrubber
from autoresearch_ci.workspace.checkout import Author, Checkout
from autoresearch_ci.workspace.clone import controlled, open_clone, remove_tree
from autoresearch_ci.workspace.commands import Git, failure, storage
from autoresearch_ci.workspace.courier import Courier
from autoresearch_ci.workspace.exchange import PACK_EVERY, Exchange
from autoresearch_ci.workspace.objects import Objects, Tree, files_of
from autoresearch_ci.workspace.refs import REPORT_TRAILER, Refs
from autoresearch_ci.workspace.remote import Remote
from autoresearch_ci.workspace.scripts import merged_script

MAX_SCRIPTS = 64  # that are remembered: the incumbent's, and those of what is in flight
_SOMEBODY = "somebody else pushed to it"
_ELSEWHERE = "it went another way on the remote"


class Standing(StrEnum):
    """How the session's refs here stand to those of the remote."""

    ABSENT = "absent"  # the tag is new, here and there
    EQUAL = "equal"
    AHEAD = "ahead"  # the remote lacks something: the next push brings it
    BEHIND = "behind"  # another machine went on: `adopt_remote` takes it over
    UNKNOWN = "unknown"  # the remote cannot be reached


class Workspace:
    """git, on the program's own bare clone. Nothing here ever touches the user's working tree.

    The branch holds the base, one commit for each keep, merges of what the base gained since, and report commits. A
    report commit sits on top of the incumbent; the next candidate takes it as its git parent, so that the branch only
    ever moves forward, but its tree is again the base commit's with one file changed: an outdated report leaves the
    branch with the next keep, and comes back with the next report.
    """

    _heads: dict[str, str]
    _journal_tree: Tree
    _journal_written: str
    _settled: int
    _reported: dict[str, str]

    def __init__(
        self,
        clone: Path,
        scratch: Path,
        checkout: Checkout,
        refs: Refs,
        remote: Remote,
        author: Author,
        clock: Callable[[], float],
        scrubber: Scrubber,
    ) -> None:
        self.refs = refs
        self.clone = clone
        self._scratch = scratch
        self._checkout = checkout
        self._author = author
        self._clock = clock
        self.scrubber = scrubber
        self._git = Git(clone, controlled(clone))
        self._exchange = Exchange(clone, refs, remote, clock)
        self._objects = Objects(self._git, clone / "objects", checkout.object_format, scrubber.scrub_bytes)
        self._courier = Courier()
        self._counter = itertools.count(1)
        self._scripts: dict[str, str] = {}
        self._reading = threading.RLock()  # of the scripts: runs are made in threads of their own
        self._parents: dict[str, str] = {}
        self.use_base(checkout.base_commit)
        self._load()

    @classmethod
    def open(
        cls,
        state: Path,
        checkout: Checkout,
        *,
        tag: str,
        remote: Remote,
        author: Author,
        clock: Callable[[], float] = time.time,
        scrubber: Scrubber = Scrubber(),
    ) -> Self:
        """The workspace in the folder `state`, made when there is none. The caller holds the session's lock on `state`.

        `scrubber` keeps secrets out of whatever is written into it.

        SettingsError for a bad tag, MachineError when the folder cannot be written.
        """
        refs = Refs(tag)
        clone = open_clone(state, checkout, refs)
        scratch = state / "scratch"
        with storage(scratch):
            scratch.mkdir(exist_ok=True)
            for left_over in scratch.iterdir():
                owner = left_over.name.partition("-")[0]
                if not owner.isdecimal() or int(owner) == os.getpid() or not psutil.pid_exists(int(owner)):
                    remove_tree(left_over)
        return cls(clone, scratch, checkout, refs, remote, author, clock, scrubber)

    def use_base(self, commit: str) -> None:
        """Makes `commit` the base of candidates: on resume the session's own, whatever the checkout is at by now."""
        output = self._git.run("rev-parse", "--verify", "--quiet", f"{commit}^{{tree}}")
        if output.code:
            raise GitError(
                f"the base commit {commit[:7]} is not in the repository", hint="fetch it, or start with another tag"
            )
        self.base_commit = commit
        entry = self._git.read("ls-tree", "-z", output.text, "--", self._checkout.script).text
        if not entry:
            raise GitError(
                f"the base commit {commit[:7]} has no `{self._checkout.script}`",
                hint="start with another tag, or set training-script",
            )
        self._script_mode = entry.partition(" ")[0]
        self._candidate = Tree(self._objects, output.text)
        self._reported = {}

    # What the loop needs

    def script(self, commit: str) -> str:
        """The training script's text in `commit`. For any thread."""
        with self._reading:
            if (script := self._scripts.get(commit)) is None:
                blob = self._git.read("cat-file", "blob", f"{commit}:{self._checkout.script}").out
                script = blob.decode("utf-8", "replace")
                self._remember(commit, script)
            return script

    def commit(self, parent: str, script: str, message: str) -> str:
        """Writes blob, tree and commit (no ref moves); the full hash of the commit.

        Its tree is the base commit's with one file changed, whatever else `parent` holds. When a report commit sits on
        `parent`, that becomes the git parent.
        """
        script = self.scrubber.scrub(script)
        tip = self._heads.get(self.refs.head, "")
        if tip and tip != parent and self._below_reports(tip) == parent:
            parent = tip
        self._candidate.put(self._checkout.script, script.encode("utf-8", "replace"), self._script_mode)
        message = message.replace(REPORT_TRAILER, REPORT_TRAILER.replace(":", " :"))
        commit = self._write_commit(self._candidate.write(), (parent,), message)
        self._parents = {commit: parent}
        self._remember(commit, script)
        return commit

    def is_ahead(self, commit: str) -> bool:
        """Whether `commit` is a descendant of the base commit."""
        return commit != self.base_commit and self._leads_to(self.base_commit, commit)

    def merge_base_in(self, new_base: str, message: str) -> str:
        """Takes `new_base`, a descendant of the base commit, for the base from now on; the commit that brings it to the branch.

        No ref moves. The commit is `new_base` itself where that holds the whole branch, else a merge of the branch's tip with it:
        the new base's tree, with the script as both sides changed it. GitError when they changed the same lines; the base is
        then what it was.
        """
        tip, old, path = self.tip, self.base_commit, self._checkout.script
        if self._leads_to(tip, new_base):
            self.use_base(new_base)
            return new_base
        incumbent = self._below_reports(tip)
        script = merged_script(self.script(old), self.script(incumbent), self.script(new_base))
        if script is None:
            raise GitError(
                f"the base's {new_base[:7]} and `{self.refs.branch}` changed the same lines of `{path}`, "
                "or are no Python together",
                hint="start with another tag from the base, after a merge by hand if it is worth it; "
                "or turn `follow-base` off: nothing is lost",
            )
        self.use_base(new_base)
        self._candidate.put(path, script.encode("utf-8", "replace"), self._script_mode)
        commit = self._write_commit(self._candidate.write(), (tip, new_base), message)
        self._parents = {commit: tip}
        self._remember(commit, script)
        return commit

    @contextmanager
    def export(self, commit: str) -> Iterator[Path]:
        """A fresh folder with exactly the files of the commit, byte for byte, removed at the end.

        There is no `.git` in it, submodules are empty folders, and Git LFS files are the pointers that the commit
        holds.
        """
        scratch = self._scratch / f"{os.getpid()}-{next(self._counter)}"
        tree, index = scratch / "tree", scratch / "index"
        try:
            with storage(scratch):
                tree.mkdir(parents=True)
            # In the tree itself: read-tree takes its paths from where it runs.
            output = Git(tree, controlled(self.clone)).run(
                "read-tree",
                "--reset",
                "-u",
                commit,
                variables={"GIT_WORK_TREE": str(tree), "GIT_INDEX_FILE": str(index)},
                timeout_s=600.0,
            )
            if output.code:
                raise failure(output, f"cannot export {commit[:7]}", self.clone)
            index.unlink()
            yield tree
        finally:
            remove_tree(scratch)

    def record(self, history: History, files: Mapping[str, bytes]) -> None:
        """Moves the refs to what `history` says and writes `files` as the journal's newest commit, in one transaction.

        `files` are by path; those not named stay as they were. Idempotent: after a kill at any point, the same call
        ends in the same state. The first call of a process looks at the whole history, later ones at what is new. A push
        in flight is waited for, and raises here what it found out.
        """
        self._land()
        for path, data in files.items():
            self._journal_tree.put(path, data)
        moves = {
            self.refs.experiment(experiment.number): experiment.commit
            for experiment in history.experiments[self._settled :]
            if experiment.status is not Status.KEEP
        }
        if history.incumbent is not None:
            moves[self.refs.head] = self._tip_for(history.incumbent.commit)
        tree = self._journal_tree.write()
        if tree != self._journal_written:
            message = f"journal: {len(history.experiments)} experiments"
            moves[self.refs.journal] = self._write_commit(tree, (self._heads.get(self.refs.journal, ""),), message)
        self._move(moves)
        self._journal_written = tree
        self._settled = len(history.experiments)

    def push(self, *, now: bool = False) -> bool:
        """One atomic push of everything not pushed yet; False when the remote could not be reached (tried again later).

        After a failure the next tries wait longer and longer, up to ten minutes; `now` tries at once. GitError when the
        remote will not take it at any time: no access, or somebody else's commits in the journal. When it is the branch alone
        that is not taken, the session goes on `detached`.
        """
        began = time.monotonic()
        if not self._land():
            return False
        done = self._exchange.push(self._heads, tuple(self._unpushed), now=now, began=began)
        if done:
            self._unpushed.clear()
        return done

    def push_meanwhile(self) -> None:
        """The same push, beside the next run: a remote takes seconds, and nothing has to wait for it.

        What goes wrong for good is raised by the next `record` or `push`, whatever comes first.
        """
        if self._land():
            self._courier.send(partial(self._exchange.push, self._heads, tuple(self._unpushed), now=False))

    def hurry(self) -> None:
        """After a signal, when the runner leaves 7.5 s: every push and every look at the remote has four from now on.

        A push in flight has four from this moment; its git is then ended, and the next `push` tells that it was not done.
        Nothing is lost: what was not pushed is here, and the next process pushes it. Safe in a signal handler.
        """
        self._exchange.hurry()

    def close(self) -> None:
        """Waits for the push in flight, but not in a hurry, so that the process can end. What it comes to the next one finds out."""
        if self._exchange.hurried:  # the last push has waited for it already
            return
        with suppress(GitError, MachineError):
            self._land()

    @property
    def detached(self) -> str:
        """Why the branch itself can no longer be pushed, and where its commits are now; empty when it can."""
        return self._exchange.detached

    @property
    def on_remote(self) -> str:
        """The branch's tip as the last push left it on the remote, empty before one. For any thread."""
        return self._exchange.on_remote

    @property
    def trouble(self) -> str:
        """Why nothing came through since the last push that did; empty when there is nothing to say."""
        return self._exchange.trouble

    # What the beginning and the end need

    def compare(self) -> Standing:
        """Fetches the session's refs and says how they stand to those here. Nothing here moves.

        The journal decides: where a person changed the branch on the remote, the session goes on `detached`. GitError when the
        remote's refs belong to no session, or have gone another way than those here.
        """
        self._exchange.begin()
        there = self._exchange.listing()
        if there is None:
            return Standing.UNKNOWN
        ours, journal = self._heads.get(self.refs.head), self._heads.get(self.refs.journal)
        if not there:
            return Standing.AHEAD if journal else Standing.ABSENT
        if self.refs.journal not in there:
            raise GitError(
                f"`{self.refs.branch}` is on the remote already, but no session made it", hint="start with another tag"
            )
        branch = there.get(self.refs.head)
        theirs = there.get(self.refs.line, branch)
        same = there[self.refs.journal] == journal
        if not (same and theirs == ours) and not self._exchange.fetch(there):
            return Standing.UNKNOWN
        if self.refs.line in there and not self._leads_to(branch, theirs):
            self._exchange.detach(_ELSEWHERE)
        if same and theirs == ours:
            return Standing.EQUAL
        if self._leads_to(journal, there[self.refs.journal]) and self._leads_to(ours, theirs):
            return Standing.BEHIND
        if self._leads_to(there[self.refs.journal], journal):
            if not self._leads_to(theirs, ours):
                self._exchange.detach(_ELSEWHERE)
            return Standing.AHEAD
        raise GitError(
            f"`{self.refs.branch}` went on elsewhere: this state folder and the remote each have what the other lacks",
            hint="start with another tag, or delete the session's state folder to go on from the remote",
        )

    def adopt_remote(self) -> None:
        """Takes over the remote's refs as `compare` fetched them: how a new machine goes on with a session."""
        self._land()
        fetched = self._listed(self.refs.seen_head, f"{self.refs.seen_state}/")
        if self.refs.seen_line in fetched:
            fetched.pop(self.refs.seen_head, None)  # what somebody made of the branch
        self._move({self.refs.of_seen(ref): name for ref, name in fetched.items()})
        self._load()

    def journal_files(self, *paths: str) -> dict[str, bytes]:
        """The files of the newest journal commit here by path: all, or those of `paths` that are there."""
        journal = self._heads.get(self.refs.journal)
        return {} if journal is None else files_of(self._git, journal, *paths)

    def adopt_report(self, files: Mapping[str, bytes], message: str) -> str:
        """The branch's tip, after `files` were committed on it as a report; the old one when they are there already."""
        self._land()
        tip = self._heads.get(self.refs.head)
        if tip is None:
            raise GitError(
                "there is nothing to report on: the session has no kept commit", hint="run the session first"
            )
        tree = Tree(self._objects, self._tree_of(self._below_reports(tip)))
        for path, data in files.items():
            tree.put(path, data)
        if tree.write() == self._tree_of(tip):
            return tip
        report = self._write_commit(tree.write(), (tip,), f"{message.rstrip()}\n\n{REPORT_TRAILER} {self.refs.tag}")
        self._move({self.refs.head: report})
        return report

    def read_base(self, path: str) -> bytes | None:
        """The bytes of a file in the base commit; None when it has none at `path`."""
        output = self._git.run("cat-file", "blob", f"{self.base_commit}:{path}")
        return None if output.code else output.out

    def base_paths(self) -> list[str]:
        """Every file of the base commit."""
        out = self._git.read("ls-tree", "-r", "-z", "--name-only", "--full-tree", self.base_commit).out
        return [name.decode("utf-8", "surrogateescape") for name in out.split(b"\0")[:-1]]

    def diff(self, old: str, new: str) -> str:
        """What a reviewer reads: the training script's unified diff between two commits."""
        flags = ("--no-color", "--no-ext-diff", "--no-textconv")
        return self._git.read("diff", *flags, old, new, "--", self._checkout.script).out.decode("utf-8", "replace")

    def changed_paths(self) -> list[str]:
        """Every path that any commit of the branch changes, also where a later one changes it back.

        A merge changes what differs from each of its parents: what the base changed comes from the base.
        """
        flags = ("--name-only", "-z", "--no-renames", "--no-ext-diff", "--ignore-submodules=none")
        names = self._git.read("log", "--format=", "-c", *flags, f"{self.base_commit}..{self.tip}").out.split(b"\0")
        names += self._git.read("diff-tree", "-r", *flags, self.base_commit, self.tip).out.split(b"\0")
        return list(dict.fromkeys(os.fsdecode(name) for name in names if name))

    @property
    def tip(self) -> str:
        """The branch's newest commit, empty before the baseline."""
        return self._heads.get(self.refs.head, "")

    # Inside

    def _land(self) -> bool:
        """Waits for the push in flight. Until then no ref moves, so that it takes along what it was started with.

        False: in a hurry it did not end in time, and no other can be made.
        """
        landed = self._courier.land(lambda: self._exchange.longest_s)
        if landed:
            self._unpushed.clear()
        return landed is not None

    def _load(self) -> None:
        self._heads = self._listed(self.refs.head, f"{self.refs.state}/")
        self._unpushed = dict.fromkeys(self._heads)  # until the remote says otherwise
        self._settled = 0
        journal = self._heads.get(self.refs.journal)
        self._journal_written = self._tree_of(journal) if journal else ""
        self._journal_tree = Tree(self._objects, self._journal_written)
        self._reported = {}
        self._loose_refs = 0

    def _listed(self, *patterns: str) -> dict[str, str]:
        rows = self._git.read("for-each-ref", "--format=%(refname) %(objectname)", *patterns).text.splitlines()
        return dict(row.split(" ", 1) for row in rows)

    def _tip_for(self, incumbent: str) -> str:
        """Where the branch belongs: at the incumbent, or where it is when only reports lie above it."""
        tip = self._heads.get(self.refs.head)
        if tip is None:
            return self._first_tip(incumbent)
        if self._parents.get(incumbent) == tip:
            return incumbent
        if self._below_reports(tip) == incumbent:
            return tip
        if self._leads_to(tip, incumbent):
            return incumbent
        if self._exchange.branch_is_at(tip) and self._leads_to(incumbent, tip):
            self._exchange.detach(_SOMEBODY)
            return self._last_of_ours(incumbent, tip)
        raise GitError(
            f"`{self.refs.branch}` has commits that the session's journal does not know", hint="start with another tag"
        )

    def _first_tip(self, incumbent: str) -> str:
        if self._git.run("cat-file", "-e", f"{incumbent}^{{commit}}").code:
            raise GitError(
                f"`{self.refs.branch}` was deleted on the remote, and {incumbent[:7]}, which was kept, with it",
                hint="restore the branch (the page of its pull request has a button for it), or start with another tag",
            )
        return incumbent

    def _last_of_ours(self, incumbent: str, tip: str) -> str:
        """The newest of the reports on the incumbent, or it: above it, up to `tip`, are somebody else's commits."""
        above = self._git.read("rev-list", "--reverse", "--first-parent", f"{incumbent}..{tip}").text.split()
        last = incumbent
        for commit in above:
            raw = self._git.read("cat-file", "commit", commit).text
            if REPORT_TRAILER not in raw or f"\nparent {last}\n" not in raw:
                break
            last = commit
        return last

    def _below_reports(self, tip: str) -> str:
        """The commit under the report commits at the end of the branch: the incumbent."""
        if tip not in self._reported:
            below = tip
            # A base may hold reports itself, of a session that was merged.
            while below != self.base_commit and (
                REPORT_TRAILER in (raw := self._git.read("cat-file", "commit", below).text)
            ):
                below = raw.partition("\nparent ")[2].partition("\n")[0]
            self._reported = {tip: below}
        return self._reported[tip]

    def _leads_to(self, old: str | None, new: str | None) -> bool:
        return self._git.leads_to(old, new)

    def _tree_of(self, commit: str) -> str:
        return self._git.read("rev-parse", "--verify", f"{commit}^{{tree}}").text

    def _write_commit(self, tree: str, parents: Sequence[str], message: str) -> str:
        signature = f"{self._author.name} <{self._author.email}> {int(self._clock())} +0000"
        head = [
            f"tree {tree}",
            *(f"parent {parent}" for parent in parents if parent),
            f"author {signature}",
            f"committer {signature}",
        ]
        text = "\n".join(head) + "\n\n" + message.replace("\0", "").rstrip() + "\n"
        return self._objects.write("commit", text.encode("utf-8", "replace"))

    def _move(self, moves: Mapping[str, str]) -> None:
        changed = {ref: name for ref, name in moves.items() if self._heads.get(ref) != name}
        if not changed:
            return
        nothing = "0" * len(self.base_commit)
        lines = [f"update {ref} {name} {self._heads.get(ref, nothing)}\n" for ref, name in changed.items()]
        output = self._git.run(
            "update-ref", "--stdin", data="".join(["start\n", *lines, "prepare\n", "commit\n"]).encode()
        )
        if output.code:
            raise failure(output, "the session's refs cannot be moved", self.clone)
        self._heads.update(changed)
        self._unpushed.update(dict.fromkeys(changed))
        self._loose_refs += len(changed)
        if self._loose_refs >= PACK_EVERY:
            self._git.read("pack-refs", "--all")
            self._loose_refs = 0

    def _remember(self, commit: str, script: str) -> None:
        with self._reading:
            if len(self._scripts) >= MAX_SCRIPTS:
                self._scripts.pop(next(iter(self._scripts)))
            self._scripts[commit] = script
