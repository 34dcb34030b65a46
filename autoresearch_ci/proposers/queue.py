"""The `queue` proposer: what was asked for, in order, before another proposer goes on by itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Protocol

from autoresearch_ci.errors import SettingsError
from autoresearch_ci.experiment import Category, History, Proposal, Usage
from autoresearch_ci.knobs import as_parameters, find_knobs, set_knobs
from autoresearch_ci.proposals import Declined, Gate, Proposer, TooEarly
from autoresearch_ci.proposers.changes import described, noted
from autoresearch_ci.proposers.patches import DoesNotFit, apply_hunks
from autoresearch_ci.proposers.plan import Wish
from autoresearch_ci.report.markdown import clean
from autoresearch_ci.source import fingerprint

WISH = "wish"  # the parameter that says which wish a proposal fulfils


class Author(Protocol):
    """What reads a wish in words."""

    def propose(self, history: History, script: str, *, wish: str = "") -> Proposal | None: ...


class QueueProposer:
    """Proposes each wish once, then what `then` proposes (nothing when it is None); matches the `Proposer` protocol.

    `stopping`: whether a person wants to stop, so that no further author is asked.
    Raises SettingsError at once when a wish cannot be fulfilled: words without an `author`, a patch that does not fit `script`, a
    change that the scope or the plan forbids.
    """

    def __init__(
        self,
        wishes: Sequence[Wish],
        *,
        script: str,
        gate: Gate,
        author: Author | None = None,
        then: Proposer | None = None,
        stopping: Callable[[], bool] = lambda: False,
    ) -> None:
        for wish in wishes:
            _check(wish, script, gate, author)
        self._wishes = wishes
        self._gate = gate
        self._author = author
        self._then = then
        self._stopping = stopping
        self._is_read = False  # whether an author is at the words of a wish
        self._asked: set[str] = set()
        self._skipped: tuple[str, ...] = ()  # why wishes came to nothing, until somebody was told
        self._spent = Usage()  # on words that came to nothing

    def propose(self, history: History, script: str) -> Proposal | None:
        """The next wish that was not asked for yet and may be run; the notes tell of those that were passed over.

        Declined once at the end when wishes were passed over and nothing follows. TooEarly as long as an author is at a wish: what
        comes after it is proposed after it.
        """
        if self._is_read:
            raise TooEarly
        proposal = self._next_wish(history, script)
        if proposal is None and self._then is not None:
            proposal = self._then.propose(history, script)
        notes, spent = self._skipped, self._spent
        self._skipped, self._spent = (), Usage()
        if proposal is None and notes:
            raise Declined(notes[-1], usage=spent, notes=notes)
        return replace(proposal, usage=spent + proposal.usage, notes=(*notes, *proposal.notes)) if proposal else None

    def _next_wish(self, history: History, script: str) -> Proposal | None:
        self._asked -= {str(proposal.parameters.get(WISH)) for proposal in history.dropped}
        done = {parameters.get(WISH) for parameters in history.parameters}
        for wish in self._wishes:
            if wish.text in done or wish.text in self._asked:
                continue
            self._asked.add(wish.text)
            if wish.is_words:
                assert self._author is not None  # checked at the beginning
                if self._stopping():
                    raise Declined("interrupted")
                self._is_read = True
                try:
                    proposal = self._author.propose(history, script, wish=wish.text)
                except TooEarly:
                    self._asked.discard(wish.text)
                    raise
                except Declined as no:
                    self._spent += no.usage
                    self._skipped += (*no.notes, f"passed over `{clean(wish.text, 80)}`: {clean(no.reason, 200)}")
                    continue
                finally:
                    self._is_read = False
                if proposal is not None:
                    return replace(proposal, parameters={**proposal.parameters, WISH: wish.text})
                continue
            try:
                proposal = _fulfilled(wish, script)
                reason = self._gate.refusal(proposal.script, script)
            except DoesNotFit as error:
                reason = f"it does not fit the script any more: {error}"
            if not reason:
                return proposal
            self._skipped += (f"passed over `{clean(wish.text, 80)}`: {clean(reason, 200)}",)
        return None


def _fulfilled(wish: Wish, script: str) -> Proposal:
    """The script with the wish's values, or with its patch. DoesNotFit when it lacks the knobs, or the lines."""
    if wish.hunks:
        text = apply_hunks(script, wish.hunks)
        return Proposal(
            script=text,
            description=f"{clean(wish.text, 80)}: {described(script, text)}",
            category=Category.OTHER,
            rationale=f"asked for: {wish.text}",
            proposer="queue",
            parameters=noted(script, text, wish.text),
        )
    knobs = {knob.name: knob for knob in find_knobs(script)}
    if missing := [name for name in wish.values if name not in knobs]:
        raise DoesNotFit(f"there is no knob `{missing[0]}`")
    moves = {name: (knobs[name].value, value) for name, value in wish.values.items()}
    categories = {knobs[name].category for name in moves}
    return Proposal(
        script=set_knobs(script, wish.values, tuple(knobs.values())),
        description=", ".join(
            f"{name} {knobs[name].written(old)} → {knobs[name].written(new)}" for name, (old, new) in moves.items()
        ),
        category=categories.pop() if len(categories) == 1 else Category.OTHER,
        rationale=f"asked for: {wish.text}",
        proposer="queue",
        parameters={WISH: wish.text, **as_parameters(moves)},
    )


def _check(wish: Wish, script: str, gate: Gate, author: Author | None) -> None:
    if wish.is_words:
        if author is None:
            raise SettingsError(
                f"`{wish.text[:80]}` is not something to try: it is no `KNOB=value`, and no model is there to read it",
                hint="write it as `KNOB=value`, or choose a `proposer` (or `then`) of llm, agent or hybrid",
            )
        return
    try:
        text = _fulfilled(wish, script).script
        fingerprint(text)
        reason = gate.broken_rule(text, script)
    except ValueError as error:  # it does not fit, or is no Python afterwards
        reason = str(error)
    if reason:
        raise SettingsError(
            f"`{wish.text[:80]}` cannot be tried: {reason}", hint="change the plan (`try`, `hold`, `vary`) or `scope`"
        )
