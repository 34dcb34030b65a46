"""What a changed script says of itself, for those proposers that did not choose its knobs: which knobs moved, and in short words."""

from __future__ import annotations

import difflib
from typing import Final

from autoresearch_ci.experiment import Scalar
from autoresearch_ci.knobs import ALSO, as_parameters, find_knobs, moved_knobs, set_knobs
from autoresearch_ci.source import fingerprint

MAX_KNOBS: Final = 20


def noted(before: str, after: str, wish: str = "") -> dict[str, Scalar]:
    """The parameters of a proposal: the knobs that moved, whether more than that changed, and the wish that it fulfils."""
    moves = moved_knobs(before, after)
    parameters: dict[str, Scalar] = {"wish": wish} if wish else {}
    if not moves or len(moves) > MAX_KNOBS:
        return parameters
    parameters |= as_parameters(moves)
    if fingerprint(set_knobs(before, {name: new for name, (_, new) in moves.items()})) != fingerprint(after):
        parameters[ALSO] = "other code"
    return parameters


def described(before: str, after: str) -> str:
    """A change whose author did not describe it: `LR 0.1 → 0.2`, else how many lines changed."""
    written = {knob.name: knob for knob in find_knobs(before)}
    moves = moved_knobs(before, after)
    if 0 < len(moves) <= 3:
        return ", ".join(
            f"{name} {written[name].written(a)} → {written[name].written(b)}" for name, (a, b) in moves.items()
        )
    delta = [line for line in difflib.ndiff(before.splitlines(), after.splitlines()) if line[:2] in ("+ ", "- ")]
    added = sum(line.startswith("+ ") for line in delta)
    return f"{added} lines added, {len(delta) - added} removed"
