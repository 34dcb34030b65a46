"""A parsed training script: which node is in which, and what its names stand for."""

from __future__ import annotations

import ast
import warnings
from collections.abc import Iterator
from typing import Final

from autoresearch_ci.tripwires.rules import BUILTINS, OUTPUTS

MAX_SCRIPT: Final = 1_000_000  # characters
MAX_NAME: Final = 1000  # of a full name
PASSES: Final = 10  # through the assignments: names of names of names
SIMPLE: Final = (ast.Assign, ast.AugAssign, ast.AnnAssign, ast.Delete, ast.Expr, ast.Return, ast.Raise, ast.Assert)
HEADS: Final = (ast.stmt, ast.mod, ast.arguments, ast.withitem, ast.comprehension, ast.ExceptHandler)


class Script:
    """SyntaxError or ValueError when the text is no script; RecursionError or MemoryError when it is nested too deeply.

    `nodes`: all of them, outer before inner. `imports`: full names by local name. `modules`: the local names that are modules.
    `outputs`: names that every assignment makes from the output folder's variable.
    """

    def __init__(self, text: str) -> None:
        if len(text) > MAX_SCRIPT:
            raise ValueError("too long")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # an invalid escape in somebody's script is not our message
            tree = ast.parse(text.removeprefix("\ufeff"))
        self.nodes = list(ast.walk(tree))
        self._parents = {child: node for node in self.nodes for child in ast.iter_child_nodes(node)}
        self.imports = {local: name for local, name, _ in self.imported()}
        self.modules = {local for local, _, node in self.imported() if isinstance(node, ast.Import)}
        assigned: dict[str, list[ast.expr]] = {}
        for target, value in self._assignments():
            assigned.setdefault(target, []).append(value)
        self._names = dict(self.imports)
        self.outputs: frozenset[str] = frozenset()
        for _ in range(PASSES):
            known = (len(self._names), len(self.outputs))
            self._names |= self._other_names(assigned)
            self.outputs |= self._made_from_outputs(assigned)
            if known == (len(self._names), len(self.outputs)):
                break

    def parent(self, node: ast.AST) -> ast.AST | None:
        return self._parents.get(node)

    def statement(self, node: ast.AST) -> ast.AST:
        """The simple statement that a node is in; in the head of a compound one, the outermost expression."""
        while (parent := self._parents.get(node)) is not None:
            if isinstance(parent, SIMPLE):
                return parent
            if isinstance(parent, HEADS):
                break
            node = parent
        return node

    def unused(self, node: ast.AST) -> bool:
        """Whether it is a docstring, or another value that nobody uses."""
        return isinstance(self._parents.get(node), ast.Expr)

    def imported(self) -> Iterator[tuple[str, str, ast.Import | ast.ImportFrom]]:
        """Every imported thing as (local name, full name, where)."""
        for node in self.nodes:
            if isinstance(node, ast.Import):
                for alias in node.names:
                    top = alias.name.partition(".")[0]
                    yield alias.asname or top, alias.name if alias.asname else top, node
            elif isinstance(node, ast.ImportFrom):
                for alias in node.names:
                    yield alias.asname or alias.name, f"{'.' * node.level}{node.module or ''}.{alias.name}", node

    def name(self, node: ast.AST) -> str:
        """The full name of what an expression stands for; `?` for the part that is no known name, empty for no name at all."""
        parts: list[str] = []
        while True:
            if isinstance(node, ast.Attribute):
                parts.append(node.attr)
                node = node.value
            elif isinstance(node, ast.Call) and (taken := literal_getattr(node)):
                parts.append(taken)
                node = node.args[0]
            else:
                break
        root = "?"
        if isinstance(node, ast.Name):
            root = self._names.get(node.id, f"builtins.{node.id}" if node.id in BUILTINS else "?")
        name = ".".join([root, *reversed(parts)])
        if len(name) > MAX_NAME:
            raise ValueError("a name that is too long")
        return "" if name == "?" else name

    def is_whole(self, node: ast.AST) -> bool:
        """Whether no attribute is taken of a name: `os.environ.get`, not the `os.environ` in it."""
        parent = self._parents.get(node)
        if isinstance(parent, ast.Attribute):
            return False
        return not (isinstance(parent, ast.Call) and literal_getattr(parent) and parent.args[0] is node)

    def made_from_outputs(self, value: ast.expr) -> bool:
        """Whether a path is made from the output folder's, and does not lead out of it again."""
        for node in ast.walk(value):
            if not isinstance(node, ast.Constant) or not isinstance(node.value, str):
                continue
            parent = self._parents.get(node)
            joined = isinstance(parent, ast.Call) or (isinstance(parent, ast.BinOp) and isinstance(parent.op, ast.Div))
            if ".." in node.value or (joined and node.value.startswith(("/", "~"))):
                return False
        return _mentions(value, self.outputs)

    def _assignments(self) -> Iterator[tuple[str, ast.expr]]:
        for node in self.nodes:
            targets: list[ast.expr] = []
            if isinstance(node, ast.Assign):
                targets = node.targets
            elif isinstance(node, ast.AnnAssign | ast.NamedExpr):
                targets = [node.target]
            value = getattr(node, "value", None)
            for target in targets:
                if isinstance(target, ast.Name) and isinstance(value, ast.expr):
                    yield target.id, value

    def _other_names(self, assigned: dict[str, list[ast.expr]]) -> dict[str, str]:
        """`run = subprocess.run` makes `run` another name of it, where nothing else is called `run`."""
        found = {}
        for target, values in assigned.items():
            names = {self.name(value) for value in values}
            if len(names) == 1 and target not in self.imports and is_foreign(name := names.pop(), builtins=True):
                found[target] = name
        return found

    def _made_from_outputs(self, assigned: dict[str, list[ast.expr]]) -> frozenset[str]:
        return frozenset(
            name
            for name, values in assigned.items()
            if any(_mentions(value, self.outputs) for value in values)
            and all(_mentions(value, self.outputs | {name}) for value in values)
        )


def is_foreign(name: str, *, builtins: bool = False) -> bool:
    """Whether a full name is of something imported; with `builtins`, also of a function that needs no import."""
    return bool(name) and not name.startswith("?") and (builtins or not name.startswith("builtins."))


def literal_getattr(node: ast.Call) -> str:
    """The attribute that `getattr` takes, where its name is written out; else empty."""
    return literal(node, 1) if isinstance(node.func, ast.Name) and node.func.id == "getattr" else ""


def literal(node: ast.Call, index: int) -> str:
    """An argument that is a string and written out; else empty."""
    argument = node.args[index] if len(node.args) > index else None
    return argument.value if isinstance(argument, ast.Constant) and isinstance(argument.value, str) else ""


def _mentions(value: ast.expr, names: frozenset[str]) -> bool:
    """Whether it holds the output folder's variable, or one of these names."""
    return any(
        (isinstance(node, ast.Constant) and node.value == OUTPUTS) or (isinstance(node, ast.Name) and node.id in names)
        for node in ast.walk(value)
    )
