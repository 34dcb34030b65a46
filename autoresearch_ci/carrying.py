"""Carries a change over to a newer incumbent: a three-way merge of the one file, and never a guess."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from autoresearch_ci.knobs import moved_knobs

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
