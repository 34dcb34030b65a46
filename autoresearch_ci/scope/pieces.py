"""Pure: a script as a flat list of its statements, each with where it stands, so that two scripts can be compared line by line.

Nothing here recurses: a chain of a thousand `elif` is a text like any other.
"""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, TypeAlias

from autoresearch_ci.source import node_fingerprint

SUITES: Final = ("body", "handlers", "orelse", "finalbody", "cases")
Definition: TypeAlias = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


@dataclass(frozen=True, slots=True)
class Piece:
    """A simple statement, or the header of a compound one.

    `parent`: the index of the piece that it stands in, -1 at the top. `suite`: the block of the parent, as `orelse`. `depth`: how
    many pieces are around it. `path`: the names of the functions and classes around it, and its own when it is one.
    """

    node: ast.AST
    parent: int
    suite: str
    depth: int
    path: tuple[str, ...]
    line: int

    @property
    def is_definition(self) -> bool:
        return isinstance(self.node, Definition)

    @property
    def is_compound(self) -> bool:
        return any(hasattr(self.node, suite) for suite in SUITES)

    def own(self) -> Iterator[ast.AST]:
        """The nodes of the piece itself, without the statements inside of it."""
        for name in self.node._fields:
            value = getattr(self.node, name, None)
            for item in () if name in SUITES else value if isinstance(value, list) else [value]:
                if isinstance(item, ast.AST):
                    yield from ast.walk(item)

    def fingerprint(self) -> str:
        """The SHA-256 of the piece itself; comments, formatting and docstrings do not matter."""
        if not self.is_compound:
            return node_fingerprint(self.node)
        digest = hashlib.sha256(type(self.node).__name__.encode())
        for name in self.node._fields:
            value = getattr(self.node, name, None)
            for item in (
                () if name in SUITES or name == "type_comment" else value if isinstance(value, list) else [value]
            ):
                text = node_fingerprint(item) if isinstance(item, ast.AST) else ascii(item)
                digest.update(f"{name}:{text};".encode())
        return digest.hexdigest()


def pieces(tree: ast.Module) -> list[Piece]:
    """Every statement of the script in the order of the text, docstrings left out."""
    found: list[Piece] = []
    stack: list[tuple[ast.AST, int, str]] = [(node, -1, "body") for node in reversed(_statements(tree, "body"))]
    while stack:
        node, parent, suite = stack.pop()
        around = found[parent] if parent >= 0 else None
        path = around.path if around else ()
        line = getattr(node, "lineno", 0) or getattr(getattr(node, "pattern", None), "lineno", 1)  # of a `case`
        index = len(found)
        found.append(
            Piece(
                node=node,
                parent=parent,
                suite=suite,
                depth=around.depth + 1 if around else 0,
                path=(*path, node.name) if isinstance(node, Definition) else path,
                line=int(line),
            )
        )
        for name in reversed(SUITES):
            stack.extend((child, index, name) for child in reversed(_statements(node, name)))
    return found


def _statements(node: ast.AST, suite: str) -> list[ast.AST]:
    statements = getattr(node, suite, [])
    if not isinstance(statements, list):  # the body of a lambda or of `x if y else z` is an expression
        return []
    first = statements[0] if statements else None
    if suite == "body" and isinstance(node, ast.Module | Definition) and isinstance(first, ast.Expr):
        value = first.value
        if isinstance(value, ast.Constant) and isinstance(value.value, str):
            return list(statements[1:])
    return list(statements)


def bound(piece: Piece) -> Iterator[tuple[str, ...]]:
    """What the piece gives a value, or takes it from: dotted names, as `("Block", "forward")` for `Block.forward = f`."""
    node = piece.node
    if isinstance(node, Definition):
        yield (node.name,)
    elif isinstance(node, ast.Import | ast.ImportFrom):
        yield from (((alias.asname or alias.name).split(".")[0],) for alias in node.names)
    targets: list[ast.AST] = [*getattr(node, "targets", ())]  # of an assignment or a `del`
    targets += [target for target in [getattr(node, "target", None)] if target is not None]
    targets += [item.optional_vars for item in getattr(node, "items", ()) if item.optional_vars is not None]
    targets += [item.target for item in piece.own() if isinstance(item, ast.NamedExpr)]
    for target in targets:
        for item in ast.walk(target):
            if isinstance(item, ast.Name | ast.Attribute | ast.Subscript) and not isinstance(item.ctx, ast.Load):
                yield dotted(item)


def dotted(node: ast.AST) -> tuple[str, ...]:
    """The names of `torch.optim.Adam`, and of calls and items on the way, as in `model().head[0]`; empty for another expression."""
    names: list[str] = []
    while True:
        match node:
            case ast.Attribute(value=value, attr=attr):
                names.append(attr)
                node = value
            case ast.Call(func=func):
                node = func
            case ast.Subscript(value=value, slice=key):
                if isinstance(key, ast.Constant) and isinstance(key.value, str):
                    names.append(key.value)
                node = value
            case ast.Starred(value=value) | ast.Await(value=value):
                node = value
            case ast.Name(id=name):
                return (name, *reversed(names))
            case _:
                return ()
