"""A model is sent where keeps are likely, near what paid, and away from what failed."""

from __future__ import annotations

from dataclasses import replace

from autoresearch_ci.experiment import Category, History, Status
from autoresearch_ci.proposers.directions import CATEGORIES, Mode, next_course
from tests.unit.histories import history

KEEP, DISCARD = Status.KEEP, Status.DISCARD
ARCHITECTURE, OPTIMIZER, TRAINING, SIMPLIFICATION = CATEGORIES


def after(*rows: tuple[Category, Status]) -> History:
    made = history((1.0, KEEP), *((1.0, status) for _, status in rows))
    experiments = [replace(e, category=c) for e, (c, _) in zip(made.experiments[1:], rows, strict=True)]
    return replace(made, experiments=(made.experiments[0], *experiments))


def test_every_direction_is_tried_before_any_twice() -> None:
    """What was never tried comes first, in a fixed order."""
    rows: list[tuple[Category, Status]] = []
    seen = []
    for _ in CATEGORIES:
        seen.append(next_course(after(*rows), stuck_after=9).category)
        rows.append((seen[-1], DISCARD))
    assert tuple(seen) == CATEGORIES


def test_what_pays_is_preferred() -> None:
    """With as many tries, the direction with more keeps is next."""
    rows = [
        (c, KEEP if c is TRAINING else DISCARD)
        for _ in range(5)
        for c in (TRAINING, ARCHITECTURE, OPTIMIZER, SIMPLIFICATION)
    ]
    course = next_course(after(*rows), stuck_after=9)
    assert (course.category, course.mode) == (TRAINING, Mode.SUGGESTED)
    assert course.why == "5 of its 5 experiments were kept"


def test_near_what_was_just_kept() -> None:
    """After a keep: its own direction, and its description."""
    course = next_course(after((OPTIMIZER, DISCARD), (SIMPLIFICATION, KEEP)), stuck_after=1)
    assert (course.category, course.mode) == (SIMPLIFICATION, Mode.NEAR)
    assert "KNOB 2 → 3" in course.why


def test_stuck() -> None:
    """After so many failures the direction that failed most is not the next one."""
    rows = [(ARCHITECTURE, KEEP), *[(ARCHITECTURE, DISCARD)] * 4, (OPTIMIZER, DISCARD)]
    assert next_course(after(*rows), stuck_after=6).mode is Mode.SUGGESTED
    course = next_course(after(*rows), stuck_after=5)
    assert course.mode is Mode.DIFFERENT
    assert course.category is not ARCHITECTURE
    assert course.why == "5 experiments since the last keep, 4 of them in architecture"


def test_within_the_scope() -> None:
    """A scope of one category leaves that one, also when stuck."""
    rows = [(OPTIMIZER, DISCARD)] * 6
    course = next_course(after(*rows), scope="optimizer", stuck_after=5)
    assert (course.category, course.mode) == (OPTIMIZER, Mode.DIFFERENT)
    assert next_course(after((Category.OTHER, KEEP)), scope="architecture", stuck_after=5).category is ARCHITECTURE
    assert next_course(history(), stuck_after=5).category is ARCHITECTURE
