"""Pure: what a changed training script has that the one before it had not, and that a reviewer should see before merging.

A tripwire proves nothing and stops nothing: the walls do that. It points at the lines where a script that cheats has to be
different from one that trains. The kinds are what was seen in the wild: models patched the scorer's clock, copied the
reference's answers by a symlink, overloaded `__eq__` and walked the stack to the answer (METR, "Recent frontier models are
reward hacking", 2025-06); loops kept changed seeds as gains (karpathy/autoresearch, issues 131, 251 and 466).

Read statically, so a script that wants to hide from it can: what hides (a computed attribute, `exec`, a module passed on) is
a tripwire itself. What both scripts have, moved or not, trips nothing; nor does another number, name or string elsewhere.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Final

from autoresearch_ci.tripwires.places import Place, Places
from autoresearch_ci.tripwires.rules import Kind

__all__ = ["Kind", "Tripwire", "tripped"]

MAX_TRIPWIRES: Final = 20  # of one change
MAX_TEXT: Final = 120
MAX_PLACES: Final = 2000  # of one script: more is no training script
# Null bytes, lone surrogates, numbers of 5,000 digits, too long; nested too deeply.
NOT_READABLE: Final = (ValueError, RecursionError, MemoryError)


@dataclass(frozen=True, slots=True)
class Tripwire:
    """`line`: in the new script, from 1; 0 for what is no longer there. `text`: one visible line of at most 120 characters."""

    kind: Kind
    line: int
    text: str


def tripped(before: str, after: str, *, protected: Sequence[str] = (), metric: str = "") -> tuple[Tripwire, ...]:
    """What `after` has that `before` has not, by line; at most 20, the last of which says how many more there are.

    `protected`: paths or globs of files that the script may not change, or not see. `metric`: the name under which it is
    printed; without it only a number that is written out is found. Never raises, whatever the texts are.
    """
    if before == after:
        return ()
    try:
        new, stays = _read(after, protected, metric)
    except SyntaxError as error:
        return (Tripwire(Kind.UNREADABLE, max(1, error.lineno or 1), _visible(f"it does not parse: {error.msg}")),)
    except NOT_READABLE:
        return (Tripwire(Kind.UNREADABLE, 1, "it is too long, nested too deeply, or no text that Python reads"),)
    try:
        old, stayed = _read(before, protected, metric)
    except (SyntaxError, *NOT_READABLE):
        old, stayed = [], {}
    known = Counter(place.key for place in old)
    found: dict[tuple[Kind, int, str], Tripwire] = {}
    for place in sorted(new, key=lambda place: place.line):
        known[place.key] -= 1
        if known[place.key] < 0:  # one of a kind and line is enough
            found.setdefault((place.kind, place.line, ""), Tripwire(place.kind, place.line, _visible(place.text)))
    for kind, text in stayed:
        if (kind, text) not in stays:
            found[kind, 0, text] = Tripwire(kind, 0, _visible(f"no longer there: {text}"))
    return _bounded(list(found.values()))


def _read(script: str, protected: Sequence[str], metric: str) -> tuple[list[Place], dict[tuple[Kind, str], None]]:
    """The places of a script that may trip, and what the next script should have too, in order."""
    places = Places(script, protected, metric)
    found = list(islice(places.found(), MAX_PLACES + 1))
    if len(found) > MAX_PLACES:
        raise ValueError("too many places")
    return found, dict.fromkeys(places.expected())


def _bounded(found: list[Tripwire]) -> tuple[Tripwire, ...]:
    """All, or 19 of them: the first of every kind before the second of any, so that many of one kind hide no other."""
    if len(found) <= MAX_TRIPWIRES:
        return tuple(found)
    seen: Counter[Kind] = Counter()
    ranked = []
    for order, each in enumerate(found):
        seen[each.kind] += 1
        ranked.append((seen[each.kind], order))
    chosen = sorted(order for _, order in sorted(ranked)[: MAX_TRIPWIRES - 1])
    more = Tripwire(Kind.MORE, 0, f"{len(found) - len(chosen)} that are not listed")
    return (*(found[order] for order in chosen), more)


def _visible(text: str) -> str:
    """One line, with characters that are not seen spelled out, and cut."""
    line = " ".join(text[: 4 * MAX_TEXT].split())
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in line)
    return shown if len(shown) <= MAX_TEXT else shown[: MAX_TEXT - 1] + "…"
