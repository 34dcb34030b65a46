"""Pure: what a training script says, apart from how it is written: is it the same program, and how long is it.

"The same change is never tried twice" and "equal with fewer lines of code is kept" are decided on these two answers.
"""

from __future__ import annotations

import ast
import hashlib
import io
import tokenize
import warnings
from collections.abc import Iterator

# Fields that never change what a program does: load/store context, the `u` of `u"…"`, type comments.
_SILENT = frozenset({"ctx", "kind", "type_comment", "type_ignores"})
MAX_ARITHMETIC = 50  # nodes of one literal
_LAYOUT = frozenset(
    {
        tokenize.COMMENT,
        tokenize.NL,
        tokenize.NEWLINE,
        tokenize.INDENT,
        tokenize.DEDENT,
        tokenize.ENDMARKER,
    }
)


def fingerprint(script: str) -> str:
    """The SHA-256 of the script's normalised syntax tree: comments, formatting and docstrings do not matter.

    The same on every Python that parses the script, because a session may be resumed on another machine. ValueError,
    with the place, when the script is not Python.
    """
    return node_fingerprint(parse(script))


def node_fingerprint(node: ast.AST) -> str:
    """The same, of a part of a syntax tree."""
    digest = hashlib.sha256()
    for word, _ in words(node):
        digest.update(word.encode())
    return digest.hexdigest()


def code_lines(script: str) -> int:
    """How many lines hold code: not blank, not only a comment, not part of a docstring.

    Never raises: of a text that is not Python, the lines that are neither blank nor a comment are counted.
    """
    try:
        docstrings = _docstring_lines(parse(script))
        lines: set[int] = set()
        for token in tokenize.generate_tokens(io.StringIO(script.removeprefix("\ufeff"), newline=None).readline):
            if token.type in _LAYOUT:
                continue
            covered = range(token.start[0], token.end[0] + 1)
            if token.type == tokenize.STRING and docstrings.issuperset(covered):
                continue
            lines.update(covered)
        return len(lines)
    except (ValueError, SyntaxError, tokenize.TokenError):
        return sum(1 for line in script.splitlines() if line.strip() and not line.lstrip().startswith("#"))


def parse(script: str) -> ast.Module:
    """The syntax tree, or ValueError: also for NUL, lone surrogates, and nesting deeper than the parser goes."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # an invalid escape in somebody's script is not our message
        try:
            return ast.parse(script.removeprefix("\ufeff"))
        except SyntaxError as error:
            raise ValueError(f"line {error.lineno or 1}: {error.msg}") from error
        except (RecursionError, MemoryError) as error:
            raise ValueError("nested too deeply to be parsed") from error


def words(tree: ast.AST, *, blank: bool = False) -> Iterator[tuple[str, int]]:
    """The tree in prefix order, each item with its length, so that two different trees never give the same words; and the line
    that each stands on. `blank`: every literal is the same, whatever its value; so is one written as `-1` or `2**10`.

    Not `ast.dump`: its text changes between Python versions (empty fields), and it recurses.
    """
    stack: list[object] = [tree]
    line = 1
    while stack:
        item = stack.pop()
        if isinstance(item, ast.AST):
            line = getattr(item, "lineno", line)
            if blank and _is_literal(item):
                yield "literal", line
                continue
            docstring = _docstring(item)
            fields: list[tuple[str, object]] = []
            for name in item._fields:
                value = getattr(item, name, None)
                if docstring is not None and name == "body":
                    value = value[1:] if isinstance(value, list) else value
                if name not in _SILENT and value is not None and value != []:
                    fields.append((name, value))
            yield f"{type(item).__name__}({','.join(name for name, _ in fields)})", line
            stack.extend(value for _, value in reversed(fields))
        elif isinstance(item, list):
            yield f"[{len(item)}]", line
            stack.extend(reversed(item))
        elif isinstance(item, int):
            yield (
                f"{type(item).__name__}:{item:x};",
                line,
            )  # decimal digits of a very long integer are refused by Python
        else:
            yield f"{type(item).__name__}:{item!a};", line


def _is_literal(node: ast.AST) -> bool:
    """A constant, also with a sign, or arithmetic of constants; bounded, for a text may be nested without end."""
    stack, steps = [node], 0
    while stack and steps < MAX_ARITHMETIC:
        item, steps = stack.pop(), steps + 1
        if isinstance(item, ast.UnaryOp):
            stack.append(item.operand)
        elif isinstance(item, ast.BinOp):
            stack += [item.left, item.right]
        elif not isinstance(item, ast.Constant):
            return False
    return not stack


def _docstring(node: ast.AST) -> ast.Expr | None:
    """The docstring statement of a module, class or function."""
    if not isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) or not node.body:
        return None
    first = node.body[0]
    if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str):
        return first
    return None


def _docstring_lines(tree: ast.Module) -> set[int]:
    lines: set[int] = set()
    for node in ast.walk(tree):
        docstring = _docstring(node)
        if docstring is not None:
            lines.update(range(docstring.lineno, (docstring.end_lineno or docstring.lineno) + 1))
    return lines
