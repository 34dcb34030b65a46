"""Pure: whether a text is a whole script, or a sketch of one with parts left out."""

from __future__ import annotations

import ast
import re
from typing import Final

from autoresearch_ci.source import code_lines, parse

MAX_CHARACTERS: Final = 1_000_000
MAX_SHRINK: Final = 0.6  # of the lines of code: who deletes more has left something out
FEW_LINES: Final = 20  # a script so short may lose more
_CONTROL: Final = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
_ELISION: Final = re.compile(
    r"(?:#|\.\.\.|…).*\b(?:existing code|rest of (?:the|your)|remaining (?:code|part)|unchanged (?:code|part)|omitted|"
    r"same as (?:before|above)|"
    r"(?:code|lines?|rest|everything|file) (?:is |are |remains? |stays? )?(?:unchanged|the same|as before))\b",
    re.IGNORECASE,
)


def left_out(text: str, script: str) -> str:
    """Why `text` is no whole script to stand in the place of `script`, in one line; empty when it is. Both must parse."""
    if len(text) > MAX_CHARACTERS:
        return f"it has {len(text)} characters: no training script has"
    if control := _CONTROL.search(text):
        return f"line {text.count(chr(10), 0, control.start()) + 1}: it holds a control character"
    known = set(script.splitlines())
    for number, line in enumerate(text.splitlines(), start=1):
        if line not in known and _ELISION.search(line):
            return f"line {number}: code is left out there: write all of it"
    bodies = _bodies(script)
    for name, body in _bodies(text).items():
        if _is_stub(body) and name in bodies and not _is_stub(bodies[name]):
            return f"line {body[0].lineno}: `{name}` has lost its code"
    before, after = code_lines(script), code_lines(text)
    if before > FEW_LINES and after < (1 - MAX_SHRINK) * before:
        return f"it has {after} lines of code instead of {before}: something is left out"
    return ""


def _bodies(text: str) -> dict[str, list[ast.stmt]]:
    """The body of every function, by name."""
    nodes = ast.walk(parse(text))
    return {node.name: node.body for node in nodes if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}


def _is_stub(body: list[ast.stmt]) -> bool:
    """Nothing but a docstring, `pass` and `...`."""
    return all(isinstance(s, ast.Pass) or (isinstance(s, ast.Expr) and isinstance(s.value, ast.Constant)) for s in body)
