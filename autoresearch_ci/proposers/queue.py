"""The `queue` proposer: what a person asked for, in order, before another proposer goes on by itself."""

from __future__ import annotations

import ast
import difflib
from collections.abc import Sequence
from typing import Protocol

from autoresearch_ci.errors import SettingsError
from autoresearch_ci.experiment import History, Proposal
from autoresearch_ci.knobs import Knob, Value, as_parameters, find_knobs, set_knobs
from autoresearch_ci.source import fingerprint


class Successor(Protocol):
    """What goes on when the queue is empty."""

    def propose(self, history: History, script: str) -> Proposal | None: ...


class QueueProposer:
    """Proposes each `KNOB=value` of `wishes` once, then what `then` proposes (nothing when it is None).

    Raises SettingsError at once when `script` has no such knob, so that a misspelt wish costs no time budget.
    """

    def __init__(self, wishes: Sequence[str], *, script: str, then: Successor | None) -> None:
        knobs = {knob.name: knob for knob in find_knobs(script)}
        self._wishes = [(wish, *_parse(wish, knobs)) for wish in wishes]
        self._then = then
        self._asked: set[str] = set()

    def propose(self, history: History, script: str) -> Proposal | None:
        """The next wish that is neither tried nor what the script says already."""
        tried = {experiment.fingerprint for experiment in history.experiments} | {fingerprint(script)}
        knobs = {knob.name: knob for knob in find_knobs(script)}
        for wish, name, value in self._wishes:
            knob = knobs.get(name)
            if knob is None or wish in self._asked:
                continue
            self._asked.add(wish)
            text = set_knobs(script, {name: value}, tuple(knobs.values()))
            if fingerprint(text) not in tried:
                return Proposal(
                    script=text,
                    description=f"{name} {knob.written(knob.value)} → {knob.written(value)}",
                    category=knob.category,
                    rationale=f"asked for: {wish}",
                    proposer="queue",
                    parameters=as_parameters({name: (knob.value, value)}),
                )
        return self._then.propose(history, script) if self._then else None


def _parse(wish: str, knobs: dict[str, Knob]) -> tuple[str, Value]:
    name, equals, text = (part.strip() for part in wish.partition("="))
    if not equals or not text:
        raise SettingsError(
            f"`{wish[:80]}` is not something to try", hint="write it as `KNOB=value`, as `LEARNING_RATE=3e-4`"
        )
    if name not in knobs:
        nearest = difflib.get_close_matches(name, list(knobs), n=1)
        hint = f"did you mean `{nearest[0]}`?" if nearest else f"its knobs are {', '.join(list(knobs)[:12]) or 'none'}"
        raise SettingsError(f"the training script has no knob `{name[:80]}`", hint=hint)
    knob = knobs[name]
    if knob.choices:
        value: Value = text.strip("'\"")
        if value not in knob.choices:
            raise SettingsError(f"`{name}` cannot be `{value}`", hint=f"one of {', '.join(knob.choices)}")
        return name, value
    try:
        number = ast.literal_eval(text)
    except (ValueError, SyntaxError, RecursionError, MemoryError) as error:
        raise SettingsError(
            f"`{text[:80]}` is no value for `{name}`", hint="write a number, `True` or `False`"
        ) from error
    if isinstance(knob.value, bool) != isinstance(number, bool) or not isinstance(number, int | float):
        raise SettingsError(f"`{text[:80]}` is no value for `{name}`", hint=f"it is {knob.value!r} now")
    if isinstance(knob.value, int) and not isinstance(knob.value, bool) and number == int(number):
        number = int(number)
    return name, number
