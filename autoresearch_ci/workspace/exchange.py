"""Moves a session's refs between our clone and the remote: listing, fetching, and one atomic push, with patience."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from autoresearch_ci.workspace.clone import connected
from autoresearch_ci.workspace.commands import NO_HOOKS, Git, Output
from autoresearch_ci.workspace.refs import Refs
from autoresearch_ci.workspace.remote import Remote

PACK_EVERY = 128  # moved refs: while they are single files, each of 2,000 costs every git command a file to read
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 15.0, 600.0
_MANY_REFS = 100  # above it one wildcard is pushed instead of a longer command line


class Exchange:
    """What passes between the clone and the remote. Every method raises GitError when the remote refuses for good."""

    def __init__(self, clone: Path, refs: Refs, remote: Remote, clock: Callable[[], float]) -> None:
        self._git = Git(clone, {**connected(clone), **remote.variables})
        self._refs = refs
        self._remote = remote
        self._clock = clock
        self._failures, self._next_try = 0, 0.0
        self._pushed: dict[str, str] | None = None  # what the remote has; None: not known yet
        self._moved = PACK_EVERY  # the first push of a process tidies up once

    def push(self, heads: Mapping[str, str], moved: Sequence[str], *, now: bool) -> bool:
        """Brings the refs `moved` of `heads` to the remote, all or none; False when it could not be reached.

        After a failure nothing is tried for a while, longer each time up to ten minutes, unless `now` is set.
        """
        if not now and self._clock() < self._next_try:
            return False
        pushed = self._pushed if self._pushed is not None else self.listing()
        if pushed is None:
            return self._pause()
        missing = [ref for ref in moved if pushed.get(ref) != heads[ref]]
        if missing:
            if self._talk(*self._push_command(missing, pushed)) is None:
                return self._pause()
            pushed.update((ref, heads[ref]) for ref in missing)
            self._tidy_up(len(missing))
        self._failures, self._next_try = 0, 0.0
        return True

    def listing(self) -> dict[str, str] | None:
        """The session's refs on the remote; None when it cannot be reached."""
        head, state = self._refs.head, self._refs.state
        output = self._talk("ls-remote", "--quiet", *self._remote.upload_options, self._remote.url, head, f"{state}/*")
        if output is None:
            return None
        rows = (row.split("\t", 1) for row in output.text.splitlines())
        self._pushed = {ref: name for name, ref in rows if ref == head or ref.startswith(f"{state}/")}
        return self._pushed

    def fetch(self, there: Mapping[str, str]) -> bool:
        """Brings the remote's refs, `there`, to the `seen` refs; False when it could not be reached."""
        specs = [f"+{self._refs.state}/*:{self._refs.seen_state}/*"]
        if self._refs.head in there:
            specs.append(f"+{self._refs.head}:{self._refs.seen_head}")
        options = ("--quiet", "--prune", "--no-tags", "--no-write-fetch-head", "--no-auto-maintenance")
        return self._talk("fetch", *options, *self._remote.upload_options, self._remote.url, *specs) is not None

    def _push_command(self, refs: Sequence[str], pushed: Mapping[str, str]) -> list[str]:
        names = list(refs)
        if len(names) > _MANY_REFS:
            names = [*(ref for ref in names if ref == self._refs.head), f"{self._refs.state}/*"]
        shown = sorted({ref.removesuffix("/*") for ref in (*names, self._refs.head, self._refs.journal)})
        options = self._remote.receive_options(shown, known=self._refs.head in pushed)
        specs = [f"{ref}:{ref}" for ref in names]
        return ["push", "--porcelain", "--atomic", "--no-verify", *options, self._remote.url, *specs]

    def _talk(self, *arguments: str) -> Output | None:
        output = self._remote.scrub(self._git.run(*arguments, timeout_s=self._remote.timeout_s))
        if output.code == 0:
            return output
        error = self._remote.refusal(output, self._refs.branch)
        if error is not None:
            raise error
        return None

    def _tidy_up(self, moved: int) -> None:
        self._moved += moved
        if self._moved >= PACK_EVERY and self._remote.is_local:
            self._moved = 0
            # Only a matter of speed: when the user's repository is busy, the next round does it.
            Git(Path(self._remote.url), NO_HOOKS).run("pack-refs", "--all")

    def _pause(self) -> bool:
        self._failures += 1
        self._next_try = self._clock() + min(_FIRST_PAUSE_S * 2 ** (self._failures - 1), _LONGEST_PAUSE_S)
        return False
