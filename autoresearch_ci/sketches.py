"""Pure: whether a text is a whole script, or a sketch of one with parts left out."""

from __future__ import annotations

import ast
import re
from typing import Final

from autoresearch_ci.source import code_lines, parse

MAX_CHARACTERS: Final = 1_000_000
MAX_SHRINK: Final = 0.6  # of the lines of code: who deletes more has left something out
FEW_LINES: Final = 20  # a script so short may lose more
# Bidirectional controls as well: with them, code reads otherwise than it runs (CVE-2021-42574).
_CONTROL: Final = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\u202a-\u202e\u2066-\u2069]")
_ELISION: Final = re.compile(
    r"^\s*(?:#+|\.\.\.\s*#)\s*(?:\.\.\.|…)|^\s*\.\.\.\s*#|"
    r"(?:#|\.\.\.|…).*\b(?:existing code|rest of (?:the|your)|remaining (?:code|part)|unchanged (?:code|part)|omitted|"
    r"same as (?:before|above)|"
    r"(?:code|lines?|rest|everything|file) (?:is |are |remains? |stays? )?(?:unchanged|the same|as before))\b",
    re.IGNORECASE,
)


def unreadable(text: str, script: str) -> str:
    """Why `text` is not even looked at, in one line; empty when it can be. Any text may be asked about."""
    if len(text) > MAX_CHARACTERS:
        return f"it has {len(text)} characters: no training script has"
    for found in _CONTROL.finditer(text):
        if found[0] not in script:
            line = text.count("\n", 0, found.start()) + 1
            return f"line {line}: it holds the control character U+{ord(found[0]):04X}"
    return ""


def left_out(text: str, script: str) -> str:
    """Why `text` is no whole script to stand in the place of `script`, in one line; empty when it is. Both must parse."""
    known = set(script.splitlines())
    for number, line in enumerate(text.splitlines(), start=1):
        if line not in known and _ELISION.search(line):
            return f"line {number}: code is left out there: write all of it"
    old, new = _bodies(script), _bodies(text)
    for name, body in new.items():
        was = old.get(name, [])
        if body and _is_stub(body) and was and not _is_stub(was):
            return f"line {body[0].lineno}: {f'`{name}`' if name else 'the script'} has lost its code"
        if not _is_stub(body) and (gaps := _gaps(body)) and len(gaps) > len(_gaps(was)):
            return f"line {gaps[0]}: code is left out there: write all of it"
    before, after = code_lines(script), code_lines(text)
    if before > FEW_LINES and after < (1 - MAX_SHRINK) * before:
        return f"it has {after} lines of code instead of {before}: something is left out"
    return ""


def _bodies(text: str) -> dict[str, list[ast.stmt]]:
    """The bodies of the script, of its classes and of its functions, by name; that of the script under no name."""
    found: dict[str, list[ast.stmt]] = {}
    stack: list[tuple[ast.AST, str]] = [(parse(text), "")]
    while stack:
        node, name = stack.pop()
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            name = name if isinstance(node, ast.Module) else f"{name}.{node.name}".lstrip(".")
            found[name] = node.body
        stack += [(child, name) for child in ast.iter_child_nodes(node) if isinstance(child, ast.stmt)]
    return found


def _is_stub(body: list[ast.stmt]) -> bool:
    """Nothing but a docstring, `pass` and `...`."""
    return all(isinstance(s, ast.Pass) or (isinstance(s, ast.Expr) and isinstance(s.value, ast.Constant)) for s in body)


def _gaps(body: list[ast.stmt]) -> list[int]:
    """The lines with a bare `...`."""
    return [s.lineno for s in body if isinstance(s, ast.Expr) and getattr(s.value, "value", None) is Ellipsis]
