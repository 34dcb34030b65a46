"""Pure: whether a change stays within `scope`, what a plan holds, and the ranges that it gives. A refusal names the line.

`hyperparameters`: with its literals blanked, the code is the same. `optimizer` and `architecture`: with all that belongs there taken
out, and the values of its knobs blanked, the code is the same.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Final, TypeAlias

from autoresearch_ci.knobs import Knob, Scope, Value, find_knobs
from autoresearch_ci.scope.categories import categories, uses
from autoresearch_ci.scope.pieces import Piece, bound, pieces
from autoresearch_ci.source import parse, words

_NUMBER: Final = rb"[0-9][0-9a-fA-FxX_.+* -]{0,40}"
Key: TypeAlias = tuple[object, ...]


@dataclass(frozen=True, slots=True)
class Range:
    """What a knob may be: a number from `low` to `high`, or one of `values` where there are any."""

    low: float = float("-inf")
    high: float = float("inf")
    values: tuple[Value, ...] = ()

    def holds(self, value: Value) -> bool:
        if self.values:
            return any(value == each and isinstance(value, bool) == isinstance(each, bool) for each in self.values)
        return not isinstance(value, str) and self.low <= value <= self.high

    def __str__(self) -> str:
        return " or ".join(map(str, self.values)) if self.values else f"{self.low:g} to {self.high:g}"


# --- scope ------------------------------------------------------------------------------------------------------------


def outside(before: str, after: str, scope: Scope, classify: Mapping[str, str]) -> str:
    """Why the change is not within the scope, in one line; empty when it is. Both texts must parse."""
    if scope == "all":
        return ""
    if scope == "hyperparameters":
        return _other_code(parse(before), parse(after))
    old_knobs = _in_scope(before, scope, classify)
    if _only_moves(before, after, old_knobs):
        return ""
    return _other_parts(
        pieces(_blanked(before, old_knobs)),
        pieces(_blanked(after, _in_scope(after, scope, classify))),
        after,
        scope,
        classify,
    )


def _other_code(before: ast.Module, after: ast.Module) -> str:
    """Where anything but a literal differs."""
    line = 1
    for old, new in zip_longest(words(before, blank=True), words(after, blank=True)):
        line = new[1] if new else line
        if old is None or new is None or old[0] != new[0]:
            return f"line {line}: the code changes, and the scope is hyperparameters: only values of literals may"
    return ""


def _other_parts(
    old: Sequence[Piece], new: Sequence[Piece], after: str, scope: Scope, classify: Mapping[str, str]
) -> str:
    """Where anything differs that does not belong to the scope."""
    old_categories = categories(old, classify, {})
    new_categories = categories(new, classify, uses(old, old_categories))
    left = [(p, c) for p, c in zip(old, old_categories, strict=True) if c != scope and not _is_import(p)]
    right = [(p, c) for p, c in zip(new, new_categories, strict=True) if c != scope and not _is_import(p)]
    keys, new_keys = [_key(piece) for piece, _ in left], [_key(piece) for piece, _ in right]
    end = len(after.splitlines())
    for index in range(max(len(left), len(right))):
        if keys[index : index + 1] == new_keys[index : index + 1]:
            continue
        gone = index >= len(right) or new_keys[index] in keys[index:]
        line = right[index][0].line if index < len(right) else end
        piece, category = left[index] if gone else right[index]
        what = (
            f"belongs to {category}" if category else "belongs to no part that is known (`classify` can say to which)"
        )
        return f"line {line}: {'without ' if gone else ''}{_named(piece)}: {what}, and the scope is {scope}"
    return _rebound(old, new)


def _rebound(old: Sequence[Piece], new: Sequence[Piece]) -> str:
    """An import is in every scope, as long as it gives no other meaning to a name that the script has."""
    imports = {alias for piece in old for alias in _aliases(piece)}
    names = {name[0] for piece in old for name in bound(piece) if name}
    for piece in new:
        for module, name, known_as in _aliases(piece):
            if (module, name, known_as) not in imports and (name == "*" or (known_as or name).split(".")[0] in names):
                return f"line {piece.line}: an import gives another meaning to `{known_as or name}`"
    return ""


def _aliases(piece: Piece) -> Iterable[tuple[str, str, str]]:
    node = piece.node
    if isinstance(node, ast.Import | ast.ImportFrom):
        module = f"{'.' * node.level}{node.module or ''}" if isinstance(node, ast.ImportFrom) else ""
        yield from ((module, alias.name, alias.asname or "") for alias in node.names)


def _is_import(piece: Piece) -> bool:
    return isinstance(piece.node, ast.Import | ast.ImportFrom)


def _key(piece: Piece) -> Key:
    return (piece.depth, piece.suite, piece.path, piece.fingerprint())


def _named(piece: Piece) -> str:
    """How a person finds the piece: a definition by its name, a statement by its beginning."""
    match piece.node:
        case ast.ClassDef(name=name):
            return f"`class {name}`"
        case ast.FunctionDef() | ast.AsyncFunctionDef():
            return f"`def {'.'.join(piece.path)}`"
    try:
        text = " ".join(ast.unparse(piece.node).split())
    except (RecursionError, ValueError):
        text = "…"
    where = f" in `{'.'.join(piece.path)}`" if piece.path else ""
    return f"`{text[:60]}`{where}"


def _in_scope(script: str, scope: Scope, classify: Mapping[str, str]) -> list[Knob]:
    return [knob for knob in find_knobs(script) if classify.get(knob.name, knob.category.value) == scope]


def _blanked(script: str, knobs: Iterable[Knob]) -> ast.Module:
    """The tree of the script with these knobs at a value that says nothing."""
    data = script.removeprefix("\ufeff").encode()
    edits = [
        (site.start, site.end, site.choices[min(knob.choices)] if site.choices else "1")
        for knob in knobs
        for site in knob.sites
    ]
    for start, end, new in sorted(edits, reverse=True):
        data = data[:start] + new.encode() + data[end:]
    try:
        return parse(data.decode())
    except ValueError:  # `1if x` may be Python where another digit is not
        return parse(script)


def _only_moves(before: str, after: str, knobs: Iterable[Knob]) -> bool:
    """Whether `after` is `before` with other values of these knobs; also of one that is no knob any more with its new value."""
    data = before.removeprefix("\ufeff").encode()
    pattern, position = b"", 0
    for site, knob in sorted(((s, k) for k in knobs for s in k.sites), key=lambda pair: pair[0].start):
        choices = [
            text.encode()
            for text in (site.text, *site.choices.values(), *map(str, () if site.choices else knob.options))
        ]
        texts = [re.escape(text) for text in dict.fromkeys(choices)] + ([] if knob.options else [_NUMBER])
        pattern += re.escape(data[position : site.start]) + b"(?:" + b"|".join(texts) + b")"
        position = site.end
    return re.fullmatch(pattern + re.escape(data[position:]), after.removeprefix("\ufeff").encode()) is not None


# --- a plan -----------------------------------------------------------------------------------------------------------


def held(before: str, after: str, hold: Sequence[str]) -> str:
    """Which of the held names is not as it was, in one line; empty when all are. Both texts must parse."""
    if not hold:
        return ""
    old, new = _definitions(pieces(parse(before))), _definitions(pieces(parse(after)))
    old_knobs, new_knobs = ({knob.name: knob for knob in find_knobs(text)} for text in (before, after))
    for name in hold:
        was, now = old.get(name, []), new.get(name, [])
        for index, (_, key) in enumerate(was):
            if index >= len(now):
                return f"line {was[index][0]} of the incumbent: `{name}` is held by the plan, and is gone"
            if now[index][1] != key:
                return f"line {now[index][0]}: `{name}` is held by the plan, and changes"
        if len(now) > len(was):
            return f"line {now[len(was)][0]}: `{name}` is held by the plan, and changes"
        knob = old_knobs.get(name)
        if knob is None:
            continue
        if name not in new_knobs and not now:
            return f"line {_line(before, knob)} of the incumbent: `{name}` is held by the plan, and is gone"
        if name in new_knobs and new_knobs[name].value != knob.value:
            return f"line {_line(after, new_knobs[name])}: `{name}` is held by the plan, and changes"
    return ""


def out_of_range(before: str, after: str, vary: Mapping[str, Range]) -> str:
    """Which changed knob has a value that the plan does not allow, in one line; empty when none has."""
    if not vary:
        return ""
    was, now = ({knob.name: knob for knob in find_knobs(text)} for text in (before, after))
    for name, allowed in vary.items():
        if (
            name in now
            and (name not in was or now[name].value != was[name].value)
            and not allowed.holds(now[name].value)
        ):
            return f"line {_line(after, now[name])}: `{name}` is {now[name].value}, and the plan varies it within {allowed}"
    return ""


def unknown_names(script: str, names: Sequence[str]) -> list[str]:
    """Those names that the script neither defines nor assigns, and that are no knob of it."""
    known = {*_definitions(pieces(parse(script))), *(knob.name for knob in find_knobs(script))}
    return [name for name in names if name not in known]


def _definitions(script: Sequence[Piece]) -> dict[str, list[tuple[int, str]]]:
    """Every name that is defined or assigned, also as `Class.method`, with the lines that do it and what they say, in order."""
    found: dict[str, list[tuple[int, str]]] = {}
    inside = [piece.fingerprint() for piece in script]
    for index, piece in enumerate(script):
        says = inside[index]
        if piece.is_definition:
            last = index + 1
            while last < len(script) and script[last].depth > piece.depth:
                last += 1
            says = "".join(
                f"{p.depth - piece.depth}{p.suite}{inside[n]}" for n, p in enumerate(script[index:last], index)
            )
        around = piece.path[:-1] if piece.is_definition else piece.path
        for name in dict.fromkeys(bound(piece)):
            for spelled in dict.fromkeys((".".join(name), ".".join((*around, *name)))):
                found.setdefault(spelled, []).append((piece.line, says))
    return found


def _line(script: str, knob: Knob) -> int:
    return script.removeprefix("\ufeff").encode()[: knob.sites[0].start].count(b"\n") + 1
