"""Moves a session's refs between our clone and the remote: listing, fetching, and one atomic push, with patience."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final

from autoresearch_ci.errors import ForgeError
from autoresearch_ci.workspace.clone import connected, controlled
from autoresearch_ci.workspace.commands import NO_HOOKS, Git, Output
from autoresearch_ci.workspace.refs import Refs
from autoresearch_ci.workspace.remote import RefusedError, Remote, is_no_entry, is_unauthorized, scrub

PACK_EVERY = 128  # moved refs: while they are single files, each of 2,000 costs every git command a file to read
HURRY_S: Final = 4.0  # of the 7.5 s that GitHub's runner leaves after a signal: stopping the run takes some, too
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 15.0, 600.0
_ATTACH_PAUSE_S = 600.0  # before a branch that a rule protects is tried again
_MANY_REFS = 100  # above it one wildcard is pushed instead of a longer command line


class Exchange:
    """What passes between the clone and the remote. Every method raises GitError when the remote refuses for good.

    Once the session has begun there, a refusal of the branch alone is not the end: the session is `detached`, one line that
    says why and where the branch's commits are now (see `Refs.line`), until a push of the branch is taken again.
    `on_remote`: the branch's tip as the last push left it there. `trouble`: why nothing came through since the last push that did.
    """

    def __init__(self, clone: Path, refs: Refs, remote: Remote, clock: Callable[[], float]) -> None:
        self._git = Git(clone, connected(clone))
        self._inside = Git(clone, controlled(clone))
        self._refs = refs
        self._remote = remote
        self._clock = clock
        self._pause_s, self._next_try = _FIRST_PAUSE_S, 0.0
        self._pushed: dict[str, str] | None = None  # what the remote has; None: not known yet
        self._moved = PACK_EVERY  # the first push of a process tidies up once
        self._began = 0.0  # monotonic: the transfers since then share the time that a hurry leaves
        self._hurried_at: float | None = None
        self._protected_at: str | None = None
        self._next_attach = 0.0
        self._accepted = False  # whether the remote took a push of this process
        self.detached = ""
        self.on_remote = ""
        self.trouble = ""

    def hurry(self) -> None:
        """From now on listing, fetching and pushing have HURRY_S in all each time, also what is under way: it has them from now.

        Nothing but a number is set: safe in a signal handler.
        """
        self._hurried_at = time.monotonic()

    def begin(self) -> None:
        """What follows shares the time that a hurry leaves."""
        self._began = time.monotonic()

    @property
    def hurried(self) -> bool:
        return self._hurried_at is not None

    @property
    def longest_s(self) -> float:
        """What a push may take in all."""
        return HURRY_S + 0.5 if self._hurried_at is not None else 8 * self._remote.timeout_s

    def push(self, heads: Mapping[str, str], moved: Sequence[str], *, now: bool, began: float | None = None) -> bool:
        """Brings the refs `moved` of `heads` to the remote, all or none; False when it could not be reached.

        After a failure nothing is tried for a while, longer each time up to ten minutes, unless `now` is set. `began`
        (monotonic): since when the caller has been waiting.
        """
        if not now and self._clock() < self._next_try:
            return False
        self._began = time.monotonic() if began is None else began
        # What somebody did to the branch is looked for only where it matters.
        there = self.listing() if self._pushed is None or self.detached else self._pushed
        if there is None or not self._bring(heads, moved, there, now=now):
            return self._pause()
        self._pause_s, self._next_try = _FIRST_PAUSE_S, 0.0
        self.on_remote, self.trouble = heads.get(self._refs.head, ""), ""
        return True

    def listing(self) -> dict[str, str] | None:
        """The session's refs on the remote; None when it cannot be reached."""
        head, state = self._refs.head, self._refs.state
        wanted = ("HEAD", head, f"{state}/*")
        output = self._talk("ls-remote", "--quiet", *self._remote.upload_options, self._remote.url, *wanted)
        if output is None:
            return None
        if not output.out and self._remote.is_http:
            # git takes a page of one line for a repository without refs, and a session for a new one would be made of that.
            self.trouble = "a proxy answered in the remote's place, or the repository is empty"
            return None
        rows = (row.split("\t", 1) for row in output.text.splitlines())
        self._pushed = {ref: name for name, ref in rows if ref == head or ref.startswith(f"{state}/")}
        return self._pushed

    def fetch(self, there: Mapping[str, str]) -> bool:
        """Brings the remote's refs, `there`, to the `seen` refs; False when it could not be reached.

        Where the session's commits have a ref of their own, what somebody made of the branch is left where it is.
        """
        specs = [f"+{self._refs.state}/*:{self._refs.seen_state}/*"]
        if self._refs.head in there and self._refs.line not in there:
            specs.append(f"+{self._refs.head}:{self._refs.seen_head}")
        options = ("--quiet", "--prune", "--no-tags", "--no-write-fetch-head", "--no-auto-maintenance")
        return self._talk("fetch", *options, *self._remote.upload_options, self._remote.url, *specs) is not None

    def detach(self, why: str, *, protected_at: str | None = None) -> None:
        """From now on the branch's commits go to the line. `protected_at`: where the remote's branch was when a rule was against
        moving it, empty where it was to be made."""
        branch, line = self._refs.branch, self._refs.line
        self._protected_at, self._next_attach = protected_at, self._clock() + _ATTACH_PAUSE_S
        self.detached = f"`{branch}` is not pushed any more: {why}. Its commits are there: `git fetch origin {line}`"

    def branch_is_at(self, commit: str) -> bool:
        """Whether the remote's branch was at `commit` when it was last looked at."""
        return self._pushed is not None and self._pushed.get(self._refs.head) == commit

    # Inside

    def _bring(self, heads: Mapping[str, str], moved: Sequence[str], there: dict[str, str], *, now: bool) -> bool:
        head = self._refs.head
        if self.detached and head in heads:
            moved = tuple(dict.fromkeys((*moved, head)))
            if not self._may_attach(heads[head], there.get(head, ""), now=now):
                return self._send(heads, moved, there, branch=False)
        try:
            sent = self._send(heads, moved, there, branch=True)
        except RefusedError as refused:
            if not self._only_the_branch(refused, moved, there):
                raise
            return self._send_beside(heads, moved, there, refused)
        if sent and head in moved:
            self.detached = ""
        return sent

    def _may_attach(self, ours: str, theirs: str, *, now: bool) -> bool:
        """Whether the branch can be tried again: what somebody put on it is gone; against a rule only now and then."""
        tried = theirs == self._protected_at and not now and self._clock() < self._next_attach
        return not tried and self._inside.leads_to(theirs, ours)

    def _only_the_branch(self, refused: RefusedError, moved: Sequence[str], there: Mapping[str, str]) -> bool:
        """Whether the rest of the session may still be taken: it was before, and nobody else pushed to it."""
        head = self._refs.head
        return (
            head in moved
            and self._refs.journal in there
            and refused.moved <= {head}
            and (head in refused.moved or head in refused.declined)
        )

    def _send_beside(
        self, heads: Mapping[str, str], moved: Sequence[str], there: dict[str, str], refused: RefusedError
    ) -> bool:
        """The same push with the line in place of the branch. Only when that is taken was the branch what was refused."""
        try:
            sent = self._send(heads, moved, there, branch=False)
        except RefusedError:
            raise refused from None
        if sent:
            head = self._refs.head
            self.detach(refused.why, protected_at=None if head in refused.moved else there.get(head, ""))
        return sent

    def _send(self, heads: Mapping[str, str], moved: Sequence[str], there: dict[str, str], *, branch: bool) -> bool:
        """One push of what is missing, the branch's commits to itself (`branch`), to the line, or to both; False: unreachable."""
        line = not branch or self._refs.line in there
        pairs = {ref: ref for ref in moved if ref != self._refs.head or branch}
        if line and self._refs.head in moved:
            pairs[self._refs.line] = self._refs.head
        missing = {target: ref for target, ref in pairs.items() if there.get(target) != heads[ref]}
        if missing:
            if self._talk(*self._push_command(missing, known=self._refs.head in there and branch)) is None:
                return False
            self._accepted = True
            there.update((target, heads[ref]) for target, ref in missing.items())
            self._tidy_up(len(missing))
        return True

    def _push_command(self, refs: Mapping[str, str], *, known: bool) -> list[str]:
        specs = [f"{ref}:{target}" for target, ref in refs.items()]
        shown: Iterable[str] = refs
        if len(refs) > _MANY_REFS:
            everything = f"{self._refs.state}/*"
            specs = [f"{ref}:{target}" for target, ref in refs.items() if ref == self._refs.head]
            specs.append(f"{everything}:{everything}")
            shown = (self._refs.state,)
        options = self._remote.receive_options(sorted({*shown, self._refs.head, self._refs.journal}), known=known)
        return ["push", "--porcelain", "--atomic", "--no-verify", *options, self._remote.url, *specs]

    def _talk(self, *arguments: str) -> Output | None:
        output = self._run(*arguments)
        if output is not None and is_unauthorized(output):
            output = self._run(*arguments)  # with a token that is newer, if there is one
        if output is None:
            return None
        if output.code == 0:
            return output
        error = self._remote.refusal(output, self._refs.branch)
        # Who was let in once is let in again: a limit, or a token that somebody renews. Until then everything is here.
        if error is not None and not (self._accepted and is_no_entry(output)):
            raise error
        self.trouble = output.complaint
        return None

    def _run(self, *arguments: str) -> Output | None:
        """One transfer; None when there is no time or no token for it."""
        token = None if self._late() else self._token()
        if token is None or self._late():
            return None
        output = self._git.run(
            *arguments,
            variables=self._remote.variables(token),
            timeout_s=self._remote.timeout_s,
            give_up=lambda: f"given up after {HURRY_S:g} s in a hurry" if self._late() else "",
        )
        return scrub(output, token)

    def _token(self) -> str | None:
        """The token, asked for in time: that of a GitHub App may have to be fetched first."""
        answers: list[str] = []

        def ask() -> None:
            try:
                answers.append(self._remote.token())
            except ForgeError as error:  # the network, most of the time: the next push asks again
                self.trouble = error.message

        if self._hurried_at is None:
            ask()
        else:
            asking = threading.Thread(target=ask, daemon=True)
            asking.start()
            asking.join(max(0.0, self._ends() - time.monotonic()))
        return answers[0] if answers else None

    def _ends(self) -> float:
        """When a hurry ends what is under way (monotonic)."""
        return max(self._began, self._hurried_at or 0.0) + HURRY_S

    def _late(self) -> bool:
        return self._hurried_at is not None and time.monotonic() > self._ends()

    def _tidy_up(self, moved: int) -> None:
        self._moved += moved
        if self._moved >= PACK_EVERY and self._remote.is_local and self._hurried_at is None:
            self._moved = 0
            # Only a matter of speed: when the user's repository is busy, the next round does it.
            Git(Path(self._remote.url), NO_HOOKS).run("pack-refs", "--all")

    def _pause(self) -> bool:
        self._next_try = self._clock() + self._pause_s
        self._pause_s = min(2 * self._pause_s, _LONGEST_PAUSE_S)
        return False
