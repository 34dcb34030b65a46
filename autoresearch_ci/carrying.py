"""Carries a change over to a newer incumbent: a three-way merge of the one file, and never a guess."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeAlias

from autoresearch_ci.experiment import Scalar
from autoresearch_ci.knobs import ALSO, as_parameters, moved_knobs, set_knobs

# (base, ours, theirs) → ours with what theirs changed since base; None when both changed the same lines.
Merge: TypeAlias = Callable[[str, str, str], str | None]


def carried(before: str, now: str, changed: str, merge: Merge) -> tuple[str, str]:
    """`now` with the change that makes `changed` of `before`, and why that cannot be, in one line: one of the two is empty.

    Two changes of one knob, or of the same lines, are not put together: nobody proposed what would come out.
    """
    both = moved_knobs(before, now).keys() & moved_knobs(before, changed).keys()
    if both:
        return "", f"`{min(both)}` was changed meanwhile, too"
    merged = merge(before, now, changed)
    if merged is None:
        return "", "the same lines were changed meanwhile"
    return merged, ""


def moved_again(parameters: Mapping[str, Scalar], before: str, changed: str) -> dict[str, Scalar]:
    """The proposer's note about a change, whose script is now one of `before`: which knobs it moves, and whether that is all."""
    moves = moved_knobs(before, changed)
    others = {
        name: value for name, value in parameters.items() if not name.startswith(("from ", "to ")) and name != ALSO
    }
    if set_knobs(before, {name: new for name, (_, new) in moves.items()}) != changed:
        others[ALSO] = "other code"
    return others | as_parameters(moves)
