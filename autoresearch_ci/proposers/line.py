"""Several proposers in line: the next one takes over for the experiments for which the one before it has nothing."""

from __future__ import annotations

from dataclasses import replace

from autoresearch_ci.experiment import History, Proposal, Usage
from autoresearch_ci.proposals import Declined, Proposer


class Line:
    """Asks each of the proposers in turn; matches the `Proposer` protocol."""

    def __init__(self, *proposers: Proposer) -> None:
        self._proposers = proposers

    def propose(self, history: History, script: str) -> Proposal | None:
        """The first proposal that one of them has, with what was spent and said by those before it.

        None when nothing is left for any of them; Declined when only some of them have nothing now.
        """
        usage, reason = Usage(), ""
        notes: tuple[str, ...] = ()
        for proposer in self._proposers:
            try:
                proposal = proposer.propose(history, script)
            except Declined as no:
                usage, notes, reason = usage + no.usage, (*notes, *no.notes), no.reason
                continue
            if proposal is not None:
                return replace(proposal, usage=usage + proposal.usage, notes=(*notes, *proposal.notes))
        if reason:
            raise Declined(reason, usage=usage, notes=notes)
        return None
