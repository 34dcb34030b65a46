"""The `hybrid` proposer: an optimizer proposes, a model overrides a share of the experiments, and both learn from all results.

After Centaur (Ferreira et al., "Can LLMs Beat Classical Hyperparameter Optimization Algorithms?", arXiv 2603.24647): there CMA-ES
proposes over a fixed space, and in 30 % of the trials a model that is shown its state gives another point of that space; more of
the model made it worse. What is otherwise here: the optimizer is `search`, the model sees what `search` has found and would try
next, and it edits the code, so it may leave the space. The knobs that its change still has come back to `search` by the journal.
"""

from __future__ import annotations

from typing import Protocol

from autoresearch_ci.experiment import History, Proposal


class Optimizer(Protocol):
    """What proposes, and can tell what it has found."""

    def propose(self, history: History, script: str) -> Proposal | None: ...

    def outlook(self, history: History, script: str) -> str: ...


class Author(Protocol):
    """What overrides."""

    def propose(self, history: History, script: str, *, wish: str = "", outlook: str = "") -> Proposal | None: ...


class HybridProposer:
    """The model has its turn in `share` of the experiments, evenly spread; matches the `Proposer` protocol."""

    def __init__(self, optimizer: Optimizer, author: Author, *, share: float) -> None:
        self._optimizer = optimizer
        self._author = author
        self._share = share

    def propose(self, history: History, script: str, *, wish: str = "") -> Proposal | None:
        """The turn's proposal: the model's, the optimizer's, or the model's again when the optimizer has tried everything.

        Declined when the model had its turn and nothing came of it: the line then goes on with the optimizer.
        """
        ahead = len(history.pending) + history.being_made
        if wish or self._is_the_models(len(history.experiments) + ahead):
            return self._author.propose(history, script, wish=wish, outlook=self._optimizer.outlook(history, script))
        proposal = self._optimizer.propose(history, script)
        if proposal is None and self._share > 0:
            return self._author.propose(history, script)
        return proposal

    def _is_the_models(self, number: int) -> bool:
        """Whether experiment `number` (from 1) is the model's: the same in every process."""
        return int(number * self._share + 1e-9) > int((number - 1) * self._share + 1e-9)
