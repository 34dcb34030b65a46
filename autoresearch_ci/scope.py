"""Pure: whether a change stays within `scope`, what a plan holds, and the ranges that it gives. A refusal names the line.

What belongs to the optimizer and what to the architecture is told by the names of definitions and of what a statement uses, by the
same rules as knobs; where that is wrong, `classify` says so explicitly.
"""

from __future__ import annotations

import ast
import difflib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Final

from autoresearch_ci.experiment import Category
from autoresearch_ci.knobs import Scope, Value, find_knobs, set_knobs
from autoresearch_ci.knobs.rules import rule_for, snake_case, whole_words
from autoresearch_ci.source import fingerprint, node_fingerprint, parse, words

OPTIMIZER: Final = whole_words(
    "optim|optimizer|optimizers|optimiser|adam|adamw|muon|sgd|lion|rmsprop|adagrad|lr|lrs|learning_rate|schedule|scheduler|"
    "warmup|warmdown|cooldown|momentum|betas|weight_decay|clip_grad|clip_grad_norm|param_groups|param_group|zeropower|newton|"
    "newtonschulz|polar|orthogonalize|zero_grad|grad_clip|max_norm"
)
ARCHITECTURE: Final = whole_words(
    "model|block|blocks|attention|attn|selfattention|mlp|feedforward|ffn|gpt|net|network|transformer|module|layer|layers|norm|"
    "rmsnorm|layernorm|embedding|embeddings|embed|rotary|rope|forward|head|heads|activation|residual|conv|encoder|decoder|"
    "init_weights|kv|linear|gate|unembed|lm"
)
MODULES: Final = ("Module", "Block", "Layer", "Model", "Net")  # how bases of parts of a model end
SUITES: Final = ("body", "orelse", "finalbody", "handlers", "cases")


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


def outside(before: str, after: str, scope: Scope, classify: Mapping[str, str]) -> str:
    """Why the change is not within the scope, in one line; empty when it is. Both texts must parse."""
    if scope == "all":
        return ""
    if scope == "hyperparameters":
        return _other_code(parse(before), parse(after))
    before = _with_allowed_knobs(before, after, scope, classify)
    old, new = parse(before), parse(after)
    for statement, category, is_new in _changes(old.body, new.body, None, classify):
        if category != scope:
            line = statement.lineno if is_new else min(statement.lineno, len(after.splitlines()))
            what = (
                f"belongs to {category}"
                if category
                else "belongs to no part that is known (`classify` can say to which)"
            )
            return f"line {line}: {'' if is_new else 'without '}{_named(statement)}: {what}, and the scope is {scope}"
    return ""


def held(before: str, after: str, hold: Sequence[str]) -> str:
    """Which of the held names is not as it was, in one line; empty when all are. Both texts must parse."""
    old, new = _definitions(parse(before), hold), _definitions(parse(after), hold)
    for name in hold:
        if name not in old:
            was = {knob.name: knob.value for knob in find_knobs(before)}
            if name in was and {knob.name: knob.value for knob in find_knobs(after)}.get(name) != was[name]:
                return f"`{name}` is held by the plan, and changes"
            continue
        if name not in new:
            return f"`{name}` is held by the plan, and is gone"
        for was_node, node in zip_longest(old[name], new[name]):
            if was_node is None or node is None or node_fingerprint(was_node) != node_fingerprint(node):
                return f"line {(node or new[name][-1]).lineno}: `{name}` is held by the plan, and changes"
    return ""


def out_of_range(before: str, after: str, vary: Mapping[str, Range]) -> str:
    """Which changed knob has a value that the plan does not allow, in one line; empty when none has."""
    if not vary:
        return ""
    was = {knob.name: knob.value for knob in find_knobs(before)}
    for knob in find_knobs(after):
        if knob.name in vary and knob.value != was.get(knob.name) and not vary[knob.name].holds(knob.value):
            return f"`{knob.name}` is {knob.value}, and the plan varies it within {vary[knob.name]}"
    return ""


def unknown_names(script: str, names: Sequence[str]) -> list[str]:
    """Those names that the script neither defines nor assigns, and that are no knob of it."""
    known = {*_definitions(parse(script), names), *(knob.name for knob in find_knobs(script))}
    return [name for name in names if name not in known]


def _other_code(before: ast.Module, after: ast.Module) -> str:
    """Where anything but a literal differs."""
    line = 1
    for old, new in zip_longest(words(before, blank=True), words(after, blank=True)):
        line = new[1] if new else line
        if old is None or new is None or old[0] != new[0]:
            return f"line {line}: the code changes, and the scope is hyperparameters: only values of literals may"
    return ""


def _with_allowed_knobs(before: str, after: str, scope: Scope, classify: Mapping[str, str]) -> str:
    """The script with those knobs moved as `after` has them that are in scope: what is left of the change is judged by its code."""
    old = find_knobs(before)
    new = {knob.name: knob.value for knob in find_knobs(after)}
    moved = {
        knob.name: new[knob.name]
        for knob in old
        if new.get(knob.name, knob.value) != knob.value and classify.get(knob.name, knob.category.value) == scope
    }
    if not moved or fingerprint(before) == fingerprint(after):
        return before
    try:
        return set_knobs(before, moved, old)
    except ValueError:  # a choice that only the other script has
        return before


def _changes(
    old: Sequence[ast.stmt], new: Sequence[ast.stmt], context: str | None, classify: Mapping[str, str]
) -> Iterator[tuple[ast.stmt, str | None, bool]]:
    """(statement, its category, whether it is the new script's) of all that differs. `context`: the category around them."""
    matcher = difflib.SequenceMatcher(
        None, [node_fingerprint(s) for s in old], [node_fingerprint(s) for s in new], False
    )
    for kind, a, b, c, d in matcher.get_opcodes():
        if kind == "equal":
            continue
        left = list(old[a:b])
        for statement in new[c:d]:
            partner = next((s for s in left if _same_header(s, statement)), None)
            if partner is not None:
                left.remove(partner)
                category = context or _category(statement, classify)
                if category is None or isinstance(statement, ast.ClassDef):
                    for suite in SUITES:
                        yield from _changes(_suite(partner, suite), _suite(statement, suite), category, classify)
                    continue
            yield from _one(statement, context, classify, is_new=True)
        for statement in left:
            yield from _one(statement, context, classify, is_new=False)


def _one(
    statement: ast.stmt, context: str | None, classify: Mapping[str, str], *, is_new: bool
) -> Iterator[tuple[ast.stmt, str | None, bool]]:
    if not isinstance(statement, ast.Import | ast.ImportFrom):  # what is imported does nothing before it is used
        yield statement, _own_category(statement, context, classify), is_new


def _own_category(statement: ast.stmt, context: str | None, classify: Mapping[str, str]) -> str | None:
    """A definition by its own name where that says something, as `configure_optimizers` in a model; else by what is around it."""
    if context is not None and not isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return context
    return _category(statement, classify) or context


def _suite(statement: ast.stmt, name: str) -> list[ast.stmt]:
    """A block of a compound statement; handlers and cases as the statements in them."""
    found: list[ast.stmt] = []
    for item in getattr(statement, name, []):
        found += item.body if isinstance(item, ast.ExceptHandler | ast.match_case) else [item]
    return found


def _same_header(old: ast.stmt, new: ast.stmt) -> bool:
    """Two compound statements that differ only in what is inside of them."""
    if type(old) is not type(new) or not hasattr(new, "body"):
        return False
    fields = [name for name in new._fields if name not in SUITES and name != "type_comment"]
    return all(_header(old, name) == _header(new, name) for name in fields)


def _header(statement: ast.stmt, name: str) -> list[str]:
    value = getattr(statement, name, None)
    items = value if isinstance(value, list) else [value]
    return [node_fingerprint(item) if isinstance(item, ast.AST) else repr(item) for item in items]


def _category(statement: ast.stmt, classify: Mapping[str, str]) -> str | None:
    """What a statement belongs to, by its name or its target, else by all that it uses; None where that is not one thing."""
    names: list[str]
    value: ast.AST | None
    match statement:
        case ast.ClassDef(name=name, bases=bases):
            said = classify.get(name)
            ends = [base.attr if isinstance(base, ast.Attribute) else getattr(base, "id", "") for base in bases]
            if said is None and any(end == "Optimizer" for end in ends):
                return Category.OPTIMIZER.value
            if said is None and any(end.endswith(MODULES) for end in ends):
                return Category.ARCHITECTURE.value
            return said or _of_name(name, classify)
        case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
            return _of_name(name, classify)
        case ast.Assign(targets=targets, value=value):
            names = [node.id for target in targets for node in ast.walk(target) if isinstance(node, ast.Name)]
        case (
            ast.AnnAssign(target=ast.Name(id=name), value=value) | ast.AugAssign(target=ast.Name(id=name), value=value)
        ):
            names = [name]
        case _:
            if hasattr(statement, "body"):
                return None  # told by what is inside
            names, value = [], statement
    found = {category for name in names if (category := _of_name(name, classify))}
    if len(found) != 1 and value is not None:
        found = {category for name in _used(value) if (category := _of_name(name, classify))}
    return found.pop() if len(found) == 1 else None


def _used(node: ast.AST) -> Iterator[str]:
    for item in ast.walk(node):
        if isinstance(item, ast.Name):
            yield item.id
        elif isinstance(item, ast.Attribute):
            yield item.attr
        elif isinstance(item, ast.keyword) and item.arg:
            yield item.arg


def _of_name(name: str, classify: Mapping[str, str]) -> str | None:
    if name in classify:
        return classify[name]
    rule = rule_for(name)
    if rule is not None:
        return rule.category.value
    spelled = snake_case(name)
    optimizer, architecture = OPTIMIZER.search(spelled), ARCHITECTURE.search(spelled)
    if optimizer:
        return Category.OPTIMIZER.value
    return Category.ARCHITECTURE.value if architecture else None


def _named(statement: ast.stmt) -> str:
    match statement:
        case ast.ClassDef(name=name):
            return f"`class {name}`"
        case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
            return f"`def {name}`"
    try:
        text = ast.unparse(statement)
    except (RecursionError, ValueError):
        return "a statement"
    return f"`{' '.join(text.split())[:60]}`"


def _definitions(tree: ast.Module, names: Sequence[str]) -> dict[str, list[ast.stmt]]:
    """Every statement that defines or assigns one of the names, in order: functions, classes, `Class.method`, variables."""
    wanted = set(names)
    found: dict[str, list[ast.stmt]] = {}
    stack: list[tuple[ast.AST, str]] = [(tree, "")]
    while stack:
        node, owner = stack.pop()
        for child in ast.iter_child_nodes(node):
            inner = owner
            defined: list[str] = []
            if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                defined = [child.name, f"{owner}.{child.name}"]
                inner = child.name if isinstance(child, ast.ClassDef) else owner
            elif isinstance(child, ast.Assign | ast.AnnAssign | ast.AugAssign):
                targets = child.targets if isinstance(child, ast.Assign) else [child.target]
                defined = [n.id for target in targets for n in ast.walk(target) if isinstance(n, ast.Name)]
            for name in wanted.intersection(defined):
                assert isinstance(child, ast.stmt)
                found.setdefault(name, []).append(child)
            stack.append((child, inner))
    return {name: sorted(nodes, key=lambda n: n.lineno) for name, nodes in found.items()}
