"""The `queue` proposer: what was asked for, in order, before another proposer goes on by itself."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from autoresearch_ci.errors import SettingsError
from autoresearch_ci.experiment import Category, History, Proposal, Scalar
from autoresearch_ci.knobs import as_parameters, find_knobs, set_knobs
from autoresearch_ci.proposals import Declined, Gate, Proposer
from autoresearch_ci.proposers.changes import described, noted
from autoresearch_ci.proposers.edits import Unusable, apply_blocks
from autoresearch_ci.proposers.plan import Wish
from autoresearch_ci.report.markdown import clean
from autoresearch_ci.scope import held, out_of_range

WISH = "wish"  # the parameter that says which wish a proposal fulfils


class Author(Protocol):
    """What reads a wish in words."""

    def propose(self, history: History, script: str, *, wish: str = "") -> Proposal | None: ...


class QueueProposer:
    """Proposes each wish once, then what `then` proposes (nothing when it is None); matches the `Proposer` protocol.

    Raises SettingsError at once when a wish cannot be fulfilled: words without an `author`, a value that the plan forbids.
    """

    def __init__(
        self,
        wishes: Sequence[Wish],
        *,
        script: str,
        gate: Gate,
        author: Author | None = None,
        then: Proposer | None = None,
    ) -> None:
        for wish in wishes:
            _check(wish, script, gate, author)
        self._wishes = wishes
        self._gate = gate
        self._author = author
        self._then = then
        self._asked: set[str] = set()

    def propose(self, history: History, script: str) -> Proposal | None:
        """The next wish that was not asked for yet and changes something; Declined when it came to nothing."""
        done = {experiment.parameters.get(WISH) for experiment in history.experiments}
        for wish in self._wishes:
            if wish.text in done or wish.text in self._asked:
                continue
            self._asked.add(wish.text)
            proposal = self._fulfil(wish, history, script)
            if proposal is not None:
                return proposal
        return self._then.propose(history, script) if self._then else None

    def _fulfil(self, wish: Wish, history: History, script: str) -> Proposal | None:
        """None for knobs that the script has not any more, that have these values already, or had them in vain."""
        if wish.is_words:
            assert self._author is not None  # checked at the beginning
            return self._author.propose(history, script, wish=wish.text)
        if wish.blocks:
            return _patched(wish, script)
        knobs = {knob.name: knob for knob in find_knobs(script)}
        moves = {name: (knobs[name].value, value) for name, value in wish.values.items() if name in knobs}
        if len(moves) < len(wish.values) or all(before == after for before, after in moves.values()):
            return None
        words = (
            f"{name} {knobs[name].written(old)} → {knobs[name].written(new)}" for name, (old, new) in moves.items()
        )
        text = set_knobs(script, wish.values, tuple(knobs.values()))
        if self._gate.tried(text):
            return None
        parameters: dict[str, Scalar] = {WISH: wish.text}
        return Proposal(
            script=text,
            description=", ".join(words),
            category=knobs[next(iter(moves))].category,
            rationale=f"asked for: {wish.text}",
            proposer="queue",
            parameters=parameters | as_parameters(moves),
        )


def _patched(wish: Wish, script: str) -> Proposal:
    """The script with the patch applied; Declined when it does not fit the script as it is by now."""
    try:
        text = apply_blocks(script.replace("\r\n", "\n"), wish.blocks)
    except Unusable as error:
        reason = f"{wish.text} does not apply any more: {clean(str(error), 200)}"
        raise Declined(reason, notes=(reason,)) from error
    text = text.replace("\n", "\r\n") if "\r\n" in script else text
    return Proposal(
        script=text,
        description=f"{clean(wish.text, 80)}: {described(script, text)}",
        category=Category.OTHER,
        rationale=f"asked for: {wish.text}",
        proposer="queue",
        parameters=noted(script, text, wish.text),
    )


def _check(wish: Wish, script: str, gate: Gate, author: Author | None) -> None:
    if wish.is_words and author is None:
        raise SettingsError(
            f"`{wish.text[:80]}` is not something to try: it is no `KNOB=value`, and no model is there to read it",
            hint="write it as `KNOB=value`, or choose a `proposer` (or `then`) of llm, agent or hybrid",
        )
    if wish.values:
        knobs = find_knobs(script)
        text = set_knobs(script, wish.values, knobs)
        if reason := held(script, text, gate.hold) or out_of_range(script, text, gate.vary):
            raise SettingsError(f"`{wish.text[:80]}` cannot be tried: {reason}", hint="change `try`, `hold` or `vary`")
