"""The session's commits and refs, in the program's own bare clone."""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Self

import psutil

from autoresearch_ci.errors import GitError
from autoresearch_ci.experiment import History, Status
from autoresearch_ci.scrubber import Scrubber
from autoresearch_ci.workspace.checkout import Author, Checkout
from autoresearch_ci.workspace.clone import controlled, open_clone, remove_tree
from autoresearch_ci.workspace.commands import Git, failure, storage
from autoresearch_ci.workspace.exchange import PACK_EVERY, Exchange
from autoresearch_ci.workspace.objects import Objects, Tree
from autoresearch_ci.workspace.refs import Refs
from autoresearch_ci.workspace.remote import Remote

# A report commit says so in its message. Candidates' messages cannot: their trailer is defused.
_REPORT_TRAILER = "Autoresearch-Report:"


class Standing(StrEnum):
    """How the session's refs here stand to those of the remote."""

    ABSENT = "absent"  # the tag is new, here and there
    EQUAL = "equal"
    AHEAD = "ahead"  # the remote lacks something: the next push brings it
    BEHIND = "behind"  # another machine went on: `adopt_remote` takes it over
    UNKNOWN = "unknown"  # the remote cannot be reached


class Workspace:
    """git, on the program's own bare clone. Nothing here ever touches the user's working tree.

    The branch holds the base, one commit for each keep, and report commits. A report commit sits on top of the
    incumbent; the next candidate takes it as its git parent, so that the branch only ever moves forward, but its tree
    is again the base commit's with one file changed: an outdated report leaves the branch with the next keep, and comes
    back with the next report.
    """

    _heads: dict[str, str]
    _journal_tree: Tree
    _journal_written: str
    _settled: int

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
        self._courier = ThreadPoolExecutor(max_workers=1, thread_name_prefix="push")
        self._in_flight: Future[bool] | None = None
        self._counter = itertools.count(1)
        self._scripts: dict[str, str] = {}
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

    # What the loop needs

    def script(self, commit: str) -> str:
        """The training script's text in `commit`."""
        if commit not in self._scripts:
            blob = self._git.read("cat-file", "blob", f"{commit}:{self._checkout.script}").out
            self._remember(commit, blob.decode("utf-8", "replace"))
        return self._scripts[commit]

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
        message = message.replace(_REPORT_TRAILER, _REPORT_TRAILER.replace(":", " :"))
        commit = self._write_commit(self._candidate.write(), parent, message)
        self._parents = {commit: parent}
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
            moves[self.refs.journal] = self._write_commit(tree, self._heads.get(self.refs.journal, ""), message)
        self._move(moves)
        self._journal_written = tree
        self._settled = len(history.experiments)

    def push(self, *, now: bool = False) -> bool:
        """One atomic push of everything not pushed yet; False when the remote could not be reached (tried again later).

        After a failure the next tries wait longer and longer, up to ten minutes; `now` tries at once. GitError when the
        remote will not take it at any time: no access, a protected branch, somebody else's commits.
        """
        self._land()
        done = self._exchange.push(self._heads, tuple(self._unpushed), now=now)
        if done:
            self._unpushed.clear()
        return done

    def push_meanwhile(self) -> None:
        """The same push, beside the next run: a remote takes seconds, and nothing has to wait for it.

        What goes wrong for good is raised by the next `record` or `push`, whatever comes first.
        """
        self._land()
        self._in_flight = self._courier.submit(self._exchange.push, self._heads, tuple(self._unpushed), now=False)

    # What the beginning and the end need

    def compare(self) -> Standing:
        """Fetches the session's refs and says how they stand to those here. Nothing here moves.

        GitError when the remote's belong to no session, or have gone another way than those here.
        """
        there = self._exchange.listing()
        if there is None:
            return Standing.UNKNOWN
        journal = self._heads.get(self.refs.journal)
        if not there:
            return Standing.AHEAD if journal else Standing.ABSENT
        if self.refs.journal not in there:
            raise GitError(
                f"`{self.refs.branch}` is on the remote already, but no session made it", hint="start with another tag"
            )
        pair = (self.refs.head, self.refs.journal)
        if all(there.get(ref) == self._heads.get(ref) for ref in pair):
            return Standing.EQUAL
        if not self._exchange.fetch(there):
            return Standing.UNKNOWN
        if all(self._leads_to(self._heads.get(ref), there.get(ref)) for ref in pair):
            return Standing.BEHIND
        if all(self._leads_to(there.get(ref), self._heads.get(ref)) for ref in pair):
            return Standing.AHEAD
        raise GitError(
            f"`{self.refs.branch}` went on elsewhere: this state folder and the remote each have what the other lacks",
            hint="start with another tag, or delete the session's state folder to go on from the remote",
        )

    def adopt_remote(self) -> None:
        """Takes over the remote's refs as `compare` fetched them: how a new machine goes on with a session."""
        self._land()
        fetched = self._listed(self.refs.seen_head, f"{self.refs.seen_state}/")
        self._move({self.refs.of_seen(ref): name for ref, name in fetched.items()})
        self._load()

    def journal_files(self, *paths: str) -> dict[str, bytes]:
        """The files of the newest journal commit here by path: all, or those of `paths` that are there."""
        journal = self._heads.get(self.refs.journal)
        if journal is None:
            return {}
        rows = self._git.read("ls-tree", "-r", "-z", journal, "--", *paths).out.split(b"\0")[:-1]
        names = {os.fsdecode(row.partition(b"\t")[2]): row.partition(b"\t")[0].split(b" ")[2] for row in rows}
        stream = self._git.read("cat-file", "--batch", data=b"".join(name + b"\n" for name in names.values())).out
        files, at = {}, 0
        for path in names:
            start = stream.index(b"\n", at) + 1
            size = int(stream[at : start - 1].split(b" ")[2])
            files[path] = stream[start : start + size]
            at = start + size + 1
        return files

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
        report = self._write_commit(tree.write(), tip, f"{message.rstrip()}\n\n{_REPORT_TRAILER} {self.refs.tag}")
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
        """Every path that any commit of the branch changes, also where a later one changes it back."""
        flags = ("--format=", "--name-only", "-z", "-m", "--no-renames", "--no-ext-diff", "--ignore-submodules=none")
        names = self._git.read("log", *flags, f"{self.base_commit}..{self.tip}").out.split(b"\0")
        return list(dict.fromkeys(os.fsdecode(name) for name in names if name))

    @property
    def tip(self) -> str:
        """The branch's newest commit, empty before the baseline."""
        return self._heads.get(self.refs.head, "")

    # Inside

    def _land(self) -> None:
        """Waits for the push in flight. Until then no ref moves, so that it takes along what it was started with."""
        flight, self._in_flight = self._in_flight, None
        if flight is not None and flight.result():
            self._unpushed.clear()

    def _load(self) -> None:
        self._heads = self._listed(self.refs.head, f"{self.refs.state}/")
        self._unpushed = dict.fromkeys(self._heads)  # until the remote says otherwise
        self._settled = 0
        journal = self._heads.get(self.refs.journal)
        self._journal_written = self._tree_of(journal) if journal else ""
        self._journal_tree = Tree(self._objects, self._journal_written)
        self._reported: dict[str, str] = {}
        self._loose_refs = 0

    def _listed(self, *patterns: str) -> dict[str, str]:
        rows = self._git.read("for-each-ref", "--format=%(refname) %(objectname)", *patterns).text.splitlines()
        return dict(row.split(" ", 1) for row in rows)

    def _tip_for(self, incumbent: str) -> str:
        """Where the branch belongs: at the incumbent, or where it is when only reports lie above it."""
        tip = self._heads.get(self.refs.head)
        if tip is None or self._parents.get(incumbent) == tip:
            return incumbent
        if self._below_reports(tip) == incumbent:
            return tip
        if self._leads_to(tip, incumbent):
            return incumbent
        raise GitError(
            f"`{self.refs.branch}` has commits that the session's journal does not know", hint="start with another tag"
        )

    def _below_reports(self, tip: str) -> str:
        """The commit under the report commits at the end of the branch: the incumbent."""
        if tip not in self._reported:
            below = tip
            while _REPORT_TRAILER in (raw := self._git.read("cat-file", "commit", below).text):
                below = raw.partition("\nparent ")[2].partition("\n")[0]
            self._reported = {tip: below}
        return self._reported[tip]

    def _leads_to(self, old: str | None, new: str | None) -> bool:
        if old is None or old == new:
            return True
        return new is not None and self._git.run("merge-base", "--is-ancestor", old, new).code == 0

    def _tree_of(self, commit: str) -> str:
        return self._git.read("rev-parse", "--verify", f"{commit}^{{tree}}").text

    def _write_commit(self, tree: str, parent: str, message: str) -> str:
        signature = f"{self._author.name} <{self._author.email}> {int(self._clock())} +0000"
        head = [
            f"tree {tree}",
            *([f"parent {parent}"] if parent else []),
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
        if len(self._scripts) >= 16:
            self._scripts.pop(next(iter(self._scripts)))
        self._scripts[commit] = script
