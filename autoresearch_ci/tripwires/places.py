"""The places of a script that trip where they are new, and what the next script should have too."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from autoresearch_ci.tripwires.protected import Protected
from autoresearch_ci.tripwires.rules import (
    CLOCK_NAMES,
    CLOCKS,
    ENVIRONMENT,
    FILE_METHODS,
    INTERNALS,
    NOT_REBOUND,
    NUMBER_LINE,
    OPENERS,
    OUR_SEED,
    OUR_VARIABLES,
    OUTPUTS,
    OVERLOADS,
    PATH_METHODS,
    PLACES,
    RULES,
    SEEDERS,
    SEEDS,
    SETTABLE,
    WRITERS,
    Kind,
)
from autoresearch_ci.tripwires.script import SIMPLE, Script, is_foreign, literal

DEFINITIONS: Final = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)


@dataclass(frozen=True, slots=True)
class Place:
    """`key` is the same in two scripts where nothing changed about it."""

    kind: Kind
    line: int
    text: str
    key: tuple[str, ...]


class Places:
    """Of one script. Raises what `Script` raises, also while it looks."""

    def __init__(self, text: str, protected: Sequence[str], metric: str) -> None:
        self._script = Script(text)
        self._protected = Protected(protected)
        self._metric = metric
        self._said = re.compile(rf"(?<!\w){re.escape(metric)}(?!\w)") if metric else NUMBER_LINE

    def found(self) -> Iterator[Place]:
        """Every place that trips where it is new, in no order."""
        yield from self._imports()
        for node in self._script.nodes:
            match node:
                case ast.Attribute(ctx=ast.Load()) | ast.Name(ctx=ast.Load()):
                    yield from self._mentioned(node)
                case ast.Attribute() | ast.Subscript():
                    yield from self._stored(node)
                case (
                    ast.Name(id=name)
                    | ast.FunctionDef(name=name)
                    | ast.AsyncFunctionDef(name=name)
                    | ast.ClassDef(name=name)
                ):
                    yield from self._bound(node, name)
                case ast.Call():
                    yield from self._called(node)
                    yield from self._written(node)
                case ast.Constant(value=str(text)) if not self._script.unused(node):
                    yield from self._string(node, text)
            if isinstance(node, ast.Constant | ast.JoinedStr | ast.Name):
                yield from self._metric_said(node)
            yield from self._seeded(node)

    def expected(self) -> Iterator[tuple[Kind, str]]:
        """Seeds, variables of ours that are read, and what is used of the protected modules."""
        for node in self._script.nodes:
            for place in self._seeded(node):
                yield place.kind, place.text
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and not self._script.unused(node):
                for name in OUR_VARIABLES.findall(node.value):
                    yield (Kind.SEED if name == OUR_SEED else Kind.ENVIRONMENT), name
            if isinstance(node, ast.Attribute | ast.Name) and self._script.is_whole(node):
                name = self._script.name(node)
                if self._protected.module(name):
                    yield Kind.EVALUATION, name

    def _place(self, kind: Kind, node: ast.AST, text: str = "", key: str = "") -> Place:
        """At this node; `key`: what it is told by, where that is not its text."""
        text = text or ast.unparse(node)
        return Place(kind, getattr(node, "lineno", 1), text, (kind.value, key or text))

    def _imports(self) -> Iterator[Place]:
        """Modules by their names; and imports that give a name another meaning."""
        origins: dict[str, str] = {}
        for local, name, node in self._script.imported():
            full = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [name]
            kind = next((kind for each in full if (kind := _kind(each))), None)
            if kind is not None:
                yield self._place(kind, node)
            if any(self._protected.module(each) for each in full):
                yield self._place(Kind.EVALUATION, node, key=f"import {name}")
            if local == "*":
                yield self._place(Kind.HIDDEN, node)
            elif local in CLOCK_NAMES and not CLOCKS.search(name):
                yield self._place(Kind.CLOCK, node)
            elif origins.setdefault(local, name) != name:
                yield self._place(Kind.PATCH, node)

    def _mentioned(self, node: ast.Attribute | ast.Name) -> Iterator[Place]:
        """Something that is read, called or passed on."""
        script = self._script
        if isinstance(node, ast.Attribute) and node.attr in INTERNALS:
            yield self._place(Kind.STACK, node)
        if not script.is_whole(node):
            return
        name, parent = script.name(node), script.parent(node)
        call = parent if isinstance(parent, ast.Call) and parent.func is node else None
        kind = _kind(name)
        if kind is not None:
            yield self._place(kind, call or node)
        elif isinstance(node, ast.Name) and node.id in script.modules:
            yield self._place(Kind.HIDDEN, script.statement(node))
        if self._protected.module(name):
            # Its numbers may change, its strings may not: `load("train")` is not `load("val")`.
            words = [ast.unparse(each) for each in _arguments(call) if _is_string(each)] if call else []
            yield self._place(Kind.EVALUATION, call or node, key=f"{name}({', '.join(words)})")
        if ENVIRONMENT.search(name) and not self._is_plain_read(node, name):
            yield self._place(Kind.ENVIRONMENT, script.statement(node))
        if call is None and any(pattern.search(name) for pattern in (OPENERS, *(each for each, _ in WRITERS))):
            yield self._place(Kind.WRITE, node)

    def _is_plain_read(self, node: ast.AST, name: str) -> bool:
        """Whether one variable is read whose name is written out; our own are found by that name."""
        match self._script.parent(node):
            case ast.Call(func=function, args=[ast.Constant(value=str()), *_]) if function is node:
                return name.endswith((".environ.get", ".getenv"))
            case ast.Subscript(ctx=ast.Load(), slice=ast.Constant(value=str())):
                return True
            case ast.Compare(left=ast.Constant(value=str())):
                return True
        return False

    def _stored(self, node: ast.Attribute | ast.Subscript) -> Iterator[Place]:
        """An attribute or an item that is set or deleted."""
        if isinstance(node.ctx, ast.Load):
            return
        name = self._script.name(node if isinstance(node, ast.Attribute) else node.value)
        attribute = node.attr if isinstance(node, ast.Attribute) else ""
        if attribute in OVERLOADS:
            yield self._place(Kind.COMPARISON, self._script.statement(node))
        elif attribute in INTERNALS:
            yield self._place(Kind.STACK, self._script.statement(node))
        elif is_foreign(name, builtins=True) and not SETTABLE.search(name):
            yield self._place(Kind.CLOCK if CLOCKS.search(name) else Kind.PATCH, self._script.statement(node))

    def _bound(self, node: ast.AST, name: str) -> Iterator[Place]:
        """A name that is given a meaning: one that was imported gets another, and a class what compares or prints it."""
        owner = self._script.parent(node)
        if isinstance(owner, ast.ClassDef) and isinstance(node, DEFINITIONS):
            if name in OVERLOADS:
                yield self._place(Kind.COMPARISON, node, f"def {owner.name}.{name}")
            return
        text = f"{'class' if isinstance(node, ast.ClassDef) else 'def'} {name}" if isinstance(node, DEFINITIONS) else ""
        where = node if text else self._script.statement(node)
        if name in CLOCK_NAMES or CLOCKS.search(self._script.imports.get(name, "")):
            yield self._place(Kind.CLOCK, where, text)
        elif name in self._script.imports or name in NOT_REBOUND:
            yield self._place(Kind.PATCH, where, text)
        elif name in OVERLOADS:
            yield self._place(Kind.COMPARISON, where, text)

    def _called(self, node: ast.Call) -> Iterator[Place]:
        """`getattr` and `setattr`, as far as they are another way to write an attribute."""
        function = node.func.id if isinstance(node.func, ast.Name) else ""
        if function not in {"getattr", "setattr", "delattr"} or not node.args:
            return
        subject = self._script.name(node.args[0])
        taken = literal(node, 1)
        if function != "getattr":
            if is_foreign(subject) or taken in OVERLOADS | INTERNALS:
                yield self._place(Kind.CLOCK if CLOCKS.search(subject) else Kind.PATCH, node)
        elif not taken:
            if is_foreign(subject):
                yield self._place(Kind.HIDDEN, node)
        elif taken in INTERNALS:
            yield self._place(Kind.STACK, node)
        elif kind := _kind(self._script.name(node)):
            yield self._place(kind, node)

    def _written(self, node: ast.Call) -> Iterator[Place]:
        """A call that writes a file, but for those whose place is made from the output folder's variable."""
        name = self._script.name(node.func)
        method = node.func.attr if isinstance(node.func, ast.Attribute) else ""
        place: ast.expr | None = None
        writer = next(((index,) for pattern, index in WRITERS if pattern.search(name)), None)
        if writer is not None:
            place = None if writer[0] is None else _argument(node, writer[0])
        elif OPENERS.search(name):
            if not _is_for_writing(node, 1):
                return
            place = _argument(node, 0)
        elif method in PATH_METHODS or (not is_foreign(name) and _is_path_method(node, method)):
            place = node.func
        elif method in FILE_METHODS:
            place = _argument(node, 0)
        else:
            return
        if place is None or not self._script.made_from_outputs(place):
            key = f"{name or method} {'' if place is None else ast.unparse(place)}"
            yield self._place(Kind.WRITE, node, key=key)

    def _string(self, node: ast.Constant, text: str) -> Iterator[Place]:
        """Our variables and protected files, by name."""
        for name in OUR_VARIABLES.findall(text):
            if name != OUTPUTS:
                yield self._place(Kind.ENVIRONMENT, self._script.statement(node), key=name)
        if self._protected.named_by(text):
            yield self._place(Kind.EVALUATION, self._script.statement(node), key=repr(text))

    def _metric_said(self, node: ast.Constant | ast.JoinedStr | ast.Name) -> Iterator[Place]:
        """The call that prints the metric, and the variable that has its name."""
        if isinstance(node, ast.Name):
            if self._metric and node.id == self._metric and not isinstance(node.ctx, ast.Load):
                yield self._place(Kind.METRIC, self._script.statement(node))
            return
        inside = isinstance(self._script.parent(node), ast.JoinedStr)
        if inside or self._script.unused(node) or not self._said.search(_rendered(node)):
            return
        around: ast.AST = node
        while not isinstance(around, (ast.Call, *SIMPLE)):
            parent = self._script.parent(around)
            if not isinstance(parent, (ast.expr, ast.keyword, *SIMPLE)):
                break
            around = parent
        yield self._place(Kind.METRIC, around)

    def _seeded(self, node: ast.AST) -> Iterator[Place]:
        """Where randomness gets its seed."""
        match node:
            case ast.Call(func=ast.Attribute(attr=function) | ast.Name(id=function)) if function in SEEDERS:
                arguments = ", ".join(ast.unparse(argument) for argument in _arguments(node))
                yield self._place(Kind.SEED, node, f"{ast.unparse(node.func)}({arguments})")
            case ast.Name(ctx=ast.Store() | ast.Del()) if SEEDS.search(node.id):
                yield self._place(Kind.SEED, self._script.statement(node))
            case ast.keyword(arg=str(name), value=value) if SEEDS.search(name):
                yield self._place(Kind.SEED, value, f"{name}={ast.unparse(value)}")
            case ast.arguments():
                positional = [*node.posonlyargs, *node.args][::-1]
                pairs = [
                    *zip(positional, node.defaults[::-1], strict=False),
                    *zip(node.kwonlyargs, node.kw_defaults, strict=True),
                ]
                for argument, default in pairs:
                    if default is not None and SEEDS.search(argument.arg):
                        yield self._place(Kind.SEED, default, f"{argument.arg}={ast.unparse(default)}")


def _kind(name: str) -> Kind | None:
    """What the table says about a full name."""
    return next((kind for kind, pattern in RULES if pattern.search(name)), None)


def _is_string(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


def _arguments(call: ast.Call) -> list[ast.expr]:
    """In order, the named ones last."""
    return [*call.args, *(keyword.value for keyword in call.keywords)]


def _argument(call: ast.Call, index: int) -> ast.expr | None:
    """The one that says where, by name or by place; None where that cannot be told."""
    named = next((keyword.value for keyword in call.keywords if keyword.arg in PLACES), None)
    if named is not None or any(isinstance(argument, ast.Starred) for argument in call.args):
        return named
    return call.args[index] if call.args and index < len(call.args) else None


def _is_for_writing(call: ast.Call, index: int) -> bool:
    """Whether a call of `open` may write: by its mode, also where the mode is computed or the arguments are not written out."""
    named = next((keyword.value for keyword in call.keywords if keyword.arg in {"mode", None}), None)
    if any(isinstance(argument, ast.Starred) for argument in call.args):
        return True
    mode = named if named is not None else call.args[index] if len(call.args) > index else None
    if mode is None:
        return False
    return not (isinstance(mode, ast.Constant) and isinstance(mode.value, str)) or bool(set(mode.value) & set("wax+"))


def _is_path_method(call: ast.Call, method: str) -> bool:
    """Whether a method that others have too is that of a path: `open` with a mode; a string's `replace` takes two."""
    if method == "replace":
        return len(call.args) == 1 and not call.keywords
    return method == "open" and _is_for_writing(call, 0)


def _rendered(node: ast.Constant | ast.JoinedStr) -> str:
    """The text of a string, with the numbers that are written out in an f-string; empty for what is no string."""
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, str) else ""
    pieces = (piece.value if isinstance(piece, ast.FormattedValue) else piece for piece in node.values)
    return "".join(str(piece.value) if isinstance(piece, ast.Constant) else "…" for piece in pieces)
