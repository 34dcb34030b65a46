"""What is asked of a coding agent's process, and what comes back: between the proposer that asks and the executor that starts it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from autoresearch_ci.experiment import Ending
from autoresearch_ci.runs import Interrupt


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentRequest:
    """One agent at work. `tree`: a fresh export that is its own, in whose folder `directory` it starts. `variables`: all that it sees
    of our environment besides what the launcher knows. `prompt`: for its standard input, which is closed after it; empty: closed.
    """

    command: tuple[str, ...]
    tree: Path
    directory: str = "."
    variables: Mapping[str, str] = field(default_factory=dict)
    prompt: str = ""
    timeout_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentRun:
    """How it ended. `exit_code`: None when it was killed. `output`: the end of what it printed."""

    ending: Ending
    exit_code: int | None
    output: str
    stopped_because: str = ""


class Launcher(Protocol):
    """Starts agents."""

    def has(self, program: str) -> bool:
        """Whether there is such a program where agents are started."""

    def launch(self, request: AgentRequest, interrupt: Interrupt) -> AgentRun:
        """Runs it to its end, or to its limits, and leaves no process of it behind."""
