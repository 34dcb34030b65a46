"""Proposals that are made while runs are on, and wait until there is a slot for them."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import NamedTuple

from autoresearch_ci.carrying import Merge, carried
from autoresearch_ci.console import Console
from autoresearch_ci.experiment import Experiment, Proposal
from autoresearch_ci.proposals import Gate
from autoresearch_ci.runs import Workspace


class Ready(NamedTuple):
    """A proposal, and the commit that it was made for."""

    proposal: Proposal
    based_on: str


@dataclass(slots=True, kw_only=True)
class Waiting:
    """The proposals that wait, first come, first served; each is always a change of the incumbent."""

    gate: Gate
    workspace: Workspace
    merge: Merge
    console: Console
    dropped: tuple[Proposal, ...] = ()  # since somebody was told
    _ready: list[tuple[Ready, str]] = field(default_factory=list)  # with the commit that each is a change of by now

    def __len__(self) -> int:
        return len(self._ready)

    @property
    def proposals(self) -> tuple[Proposal, ...]:
        return tuple(ready.proposal for ready, _ in self._ready)

    def add(self, proposal: Proposal, based_on: str, incumbent: Experiment) -> None:
        """`based_on`: the commit that it is a change of, which need not be the incumbent any more."""
        self._ready.append((Ready(proposal, based_on), based_on))
        self.carry_over(incumbent)

    def next(self) -> Ready:
        """The one that has waited longest. IndexError when nothing waits."""
        return self._ready.pop(0)[0]

    def carry_over(self, incumbent: Experiment) -> None:
        """Puts what waits on the incumbent, once that has moved. What does not fit it, or was tried by now, is dropped, aloud."""
        still: list[tuple[Ready, str]] = []
        for ready, at in self._ready:
            if at == incumbent.commit:
                still.append((ready, at))
                continue
            now = self.workspace.script(incumbent.commit)
            self.gate.release(ready.proposal.script)
            script, why = carried(self.workspace.script(at), now, ready.proposal.script, self.merge)
            why = why or self.gate.admit(script, now)
            if why:
                self.dropped += (ready.proposal,)
                self.console.info(f"dropped what waited, `{ready.proposal.description}`, for {incumbent.label}: {why}")
                continue
            note = f"proposed for {ready.based_on[:7]}, put on {incumbent.label}"
            proposal = replace(ready.proposal, script=script, notes=(*ready.proposal.notes, note))
            still.append((Ready(proposal, ready.based_on), incumbent.commit))
        self._ready = still
