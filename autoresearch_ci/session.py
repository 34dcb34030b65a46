"""THE LOOP, readable on one screen, and the Protocols of what it needs from outside."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from autoresearch_ci.experiment import Experiment, History, Proposal, Run


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRequest:
    """One run to be made: everything an executor needs to know.

    `tree`: a fresh export of the commit, owned by this run. `command`: a shell-free command line, split by the executor's
    platform rules. `variables`: what the script sees besides what only the executor knows (PATH, HOME,
    AUTORESEARCH_OUTPUT_DIR, AUTORESEARCH_CACHE). `timeout_s`: when the whole tree gets SIGTERM, and SIGKILL 10 s later.
    `log`: where stdout and stderr, merged, are streamed to. `name`: unique, `[a-z0-9-]`, for the container and the scratch.
    """

    name: str
    tree: Path
    script: str
    command: str
    variables: Mapping[str, str]
    timeout_s: float
    log: Path


class Interrupt(Protocol):
    """Whether a person (or the runner) asked to stop. Executors look at it at least every 0.1 s while a run is on."""

    def requested(self) -> bool: ...


class Executor(Protocol):
    """Where runs happen."""

    def run(self, request: RunRequest, interrupt: Interrupt) -> Run:
        """Makes the run and waits for its end. A crash is a value; MachineError only when no run can be made at all."""


class Proposer(Protocol):
    """What makes proposals."""

    def propose(self, history: History, script: str) -> Proposal | None:
        """The next proposal, a change of `script` (the incumbent's text); None when nothing is left to try."""


class Workspace(Protocol):
    """git, on the program's own bare clone."""

    def script(self, commit: str) -> str:
        """The training script's text in `commit`."""

    def commit(self, parent: str, script: str, message: str) -> str:
        """Writes blob, tree and commit (no ref moves); the full hash of the commit."""

    def export(self, commit: str) -> AbstractContextManager[Path]:
        """A fresh folder with the commit's tree, removed at the end."""

    def record(self, history: History, files: Mapping[str, bytes]) -> None:
        """Moves the refs to what `history` says and writes `files` as the journal's newest commit. Idempotent."""

    def push(self) -> bool:
        """One atomic push of everything not pushed yet; False when the remote could not be reached (tried again later)."""
