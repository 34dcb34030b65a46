"""Pure: in which direction a model is sent next, from what came of the directions so far.

A bandit over the categories (UCB1: Auer, Cesa-Bianchi, Fischer, Machine Learning 47, 2002, with a keep as the reward), and the
skill's discipline: near what was just kept, and away from what failed again and again.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from autoresearch_ci.experiment import Category, History, Status
from autoresearch_ci.knobs import Scope

CATEGORIES: Final = (Category.ARCHITECTURE, Category.OPTIMIZER, Category.TRAINING, Category.SIMPLIFICATION)


class Mode(StrEnum):
    """How strictly the direction is meant."""

    SUGGESTED = "suggested"
    NEAR = "near"  # the last keep
    DIFFERENT = "different"  # from everything since the last keep


@dataclass(frozen=True, slots=True)
class Course:
    """Where to go: `category`, how strictly, and why in one line."""

    category: Category
    mode: Mode
    why: str


@dataclass(slots=True)
class Courses:
    """The directions in which proposals are being made at this moment, each other than those before it where that pays."""

    scope: Scope
    stuck_after: int
    taken: list[Course] = field(default_factory=list)

    @contextmanager
    def next(self, history: History, wish: str = "") -> Iterator[tuple[Course, Sequence[Course]]]:
        """The next direction and those of the others. It is taken meanwhile; but not by a person's wish, which goes its own way."""
        others = tuple(self.taken)
        course = next_course(history, scope=self.scope, stuck_after=self.stuck_after, taken=others)
        if wish:
            yield course, others
            return
        self.taken.append(course)
        try:
            yield course, others
        finally:
            self.taken.remove(course)


def next_course(history: History, *, scope: Scope = "all", stuck_after: int, taken: Sequence[Course] = ()) -> Course:
    """The direction of the next experiment beside those `taken`; the same for the same history.

    What is under way counts as tried, and not as kept: so those who are sent at the same time do not all go the same way.
    """
    after = history.tried
    misses = next((n for n, e in enumerate(reversed(after)) if e.status is Status.KEEP), len(after))
    open_to = [c for c in CATEGORIES if scope in ("all", "hyperparameters") or c.value == scope]
    if after and misses == 0 and all(course.mode is not Mode.NEAR for course in taken):
        kept = after[-1]
        category = kept.category if kept.category in open_to else open_to[0]
        return Course(category, Mode.NEAR, f"experiment {kept.number} was just kept: {kept.description}")
    tries = Counter(e.category for e in after)
    keeps = Counter(e.category for e in after if e.status is Status.KEEP)
    under_way = (*(proposal.category for proposal in history.pending), *(course.category for course in taken))
    sent = tries + Counter(under_way)
    ranked = sorted(open_to, key=lambda c: -_worth(keeps[c], sent[c], sent.total()))
    if misses >= stuck_after and len(open_to) > 1:
        recent = Counter(e.category for e in after[-misses:])
        tired = max(open_to, key=lambda c: recent[c])
        fresh = next(c for c in ranked if c is not tired)
        return Course(
            fresh, Mode.DIFFERENT, f"{misses} experiments since the last keep, {recent[tired]} of them in {tired}"
        )
    if misses >= stuck_after:
        return Course(ranked[0], Mode.DIFFERENT, f"{misses} experiments since the last keep")
    best = ranked[0]
    return Course(best, Mode.SUGGESTED, f"{keeps[best]} of its {tries[best]} experiments were kept")


def _worth(keeps: int, tries: int, total: int) -> float:
    """The upper confidence bound of the share of keeps; what was never tried comes first."""
    return math.inf if tries == 0 else keeps / tries + math.sqrt(2 * math.log(total) / tries)
