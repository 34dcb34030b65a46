"""What is tried next: asked of the proposer, and never twice."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Final, Protocol

from autoresearch_ci import source
from autoresearch_ci.console import Console
from autoresearch_ci.errors import ProposerError
from autoresearch_ci.experiment import NEAR_MISS, Experiment, History, Proposal
from autoresearch_ci.judge import near_miss
from autoresearch_ci.runs import Workspace

MAX_REFUSALS: Final = 20  # proposals refused in a row before the proposer counts as failed


class Proposer(Protocol):
    """What makes proposals."""

    def propose(self, history: History, script: str) -> Proposal | None:
        """The next proposal, a change of `script` (the incumbent's text); None when nothing is left to try."""


@dataclass(slots=True, kw_only=True)
class Proposals:
    """The proposals of one session. `relieve` halves a script's device batch, None when it has none."""

    proposer: Proposer
    relieve: Callable[[str], str | None]
    workspace: Workspace
    console: Console
    _tried: set[str] = field(default_factory=set)

    def remember(self, experiment: Experiment) -> None:
        """What was run is not tried again."""
        self._tried.add(experiment.fingerprint)
        self._tried.update(m.fingerprint for m in experiment.measurements)

    def following(self, history: History) -> Proposal | None:
        """A proposal that parses and was never tried; None when nothing is left.

        With nothing new to try there is time for what looked better but was not sure. ProposerError after MAX_REFUSALS
        useless proposals in a row.
        """
        incumbent = history.incumbent
        assert incumbent is not None  # the baseline is one
        script = self.workspace.script(incumbent.commit)
        refusal = ""
        for _ in range(MAX_REFUSALS):
            proposal = self.proposer.propose(replace(history, rechecks=()), script)  # blind to the holdout
            if proposal is None:
                return self._near_miss(history, incumbent)
            refusal = self._refusal(proposal, script)
            if not refusal:
                return proposal
            self.console.info(f"refused `{proposal.description}`: {refusal}")
        raise ProposerError(
            f"{MAX_REFUSALS} proposals in a row were refused, the last because {refusal}",
            hint="widen `scope`, or try another `proposer`",
        )

    def relieved(self, proposal: Proposal) -> Proposal | None:
        """The same with half the device batch; None when its script has none to halve, or that was tried."""
        script = self.relieve(proposal.script)
        if script is None or source.fingerprint(script) in self._tried:
            return None
        return replace(proposal, script=script, description=f"{proposal.description} (half the device batch)")

    def _near_miss(self, history: History, incumbent: Experiment) -> Proposal | None:
        """What looked better than the incumbent but was not sure: once more, by fresh runs alone."""
        again = {e.parameters.get(NEAR_MISS) for e in history.experiments}
        for experiment in history.experiments:
            fresh = experiment.number not in again and NEAR_MISS not in experiment.parameters
            if fresh and experiment.parent == incumbent.commit and near_miss(experiment):
                return Proposal(
                    script=self.workspace.script(experiment.commit),
                    description=f"Again: {experiment.description}",
                    category=experiment.category,
                    rationale=f"experiment {experiment.number} looked better, but was not sure",
                    proposer=experiment.proposer,
                    parameters={NEAR_MISS: experiment.number},
                )
        return None

    def _refusal(self, proposal: Proposal, script: str) -> str:
        try:
            fingerprint = source.fingerprint(proposal.script)
        except ValueError as error:
            return f"it does not parse ({error})"
        if fingerprint == source.fingerprint(script):
            return "it changes nothing"
        return "it was tried before" if fingerprint in self._tried else ""
