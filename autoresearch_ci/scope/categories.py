"""Pure: what each statement of a script belongs to, by its name, by what it calls, and by where it is used.

The names are judged by the rules of the knobs first, so that what `search` moves under a scope is in that scope. What is neither
optimizer nor architecture for sure has no category, and is out of both scopes; a person can say otherwise by `classify`.
"""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Final

from autoresearch_ci.experiment import Category
from autoresearch_ci.knobs.rules import forbidden, rule_for, snake_case, whole_words
from autoresearch_ci.scope.pieces import Piece, bound, dotted

OPTIMIZER: Final = whole_words(
    "optim|optimizer|optimizers|optimiser|adam|adamw|muon|sgd|lion|rmsprop|adagrad|lr|lrs|learning_rate|schedule|scheduler|"
    "lrscheduler|warmup|warmdown|cooldown|momentum|nesterov|betas|weight_decay|clip_grad|grad_clip|max_norm|param_groups?|"
    "zeropower|newton|newtonschulz|polar|orthogonalize|zero_grad"
)
ARCHITECTURE: Final = whole_words(
    "models?|blocks?|attention|attn|selfattention|mlp|feedforward|ffn|gpt|net|network|transformer|module|layers?|norm|rmsnorm|"
    "layernorm|embeddings?|embed|rotary|rope|forward|heads?|activations?|residual|conv|encoder|decoder|init_weights|kv|linear|"
    "gate|unembed|lm"
)
CONFIGURATION: Final = whole_words("config|args|hyper|hyperparameters|params|settings")  # a class of many things
MODULES: Final = ("Module", "Block", "Layer", "Model", "Net")  # how the bases of parts of a model end
OPTIMIZERS: Final = ("Optimizer", "LRScheduler", "_LRScheduler")
ROUNDS: Final = 5  # how far use is followed: of a function by a function by a function

Found = str | None


def categories(script: Sequence[Piece], classify: Mapping[str, str], known: Mapping[str, Found]) -> list[Found]:
    """The category of every piece. `known`: what names belonged to by their use in the version before, which still counts."""
    by_use: dict[str, Found] = {}
    found: list[Found] = []
    for _ in range(ROUNDS):
        found = _by_name(script, classify, {**by_use, **known})
        users = uses(script, found)
        if users == by_use:
            break
        by_use = users
    return found


def uses(script: Sequence[Piece], found: Sequence[Found]) -> dict[str, Found]:
    """What the names at the top of the script are used for: None where that is not one thing."""
    users: dict[str, set[Found]] = defaultdict(set)
    inside = [piece.path[:1] for piece in script]
    for piece, category, around in zip(script, found, inside, strict=True):
        for item in piece.own():
            if isinstance(item, ast.Name) and isinstance(item.ctx, ast.Load) and around != (item.id,):
                users[item.id].add(category)
    top = {name[0] for piece in script if not piece.depth for name in bound(piece) if name}
    return {name: next(iter(users[name])) if len(users[name]) == 1 else None for name in top}


def _by_name(script: Sequence[Piece], classify: Mapping[str, str], by_use: Mapping[str, Found]) -> list[Found]:
    found: list[Found] = []
    fixed: list[bool] = []  # whether all that is inside of the piece belongs to it
    for piece in script:
        around = found[piece.parent] if piece.parent >= 0 and fixed[piece.parent] else None
        said = _said(piece, classify)
        if said is not None:
            category: Found = said
        elif piece.is_definition:
            category = _of_definition(piece, around, by_use)
        else:
            category = around or _of_statement(piece, classify, by_use)
        found.append(category)
        fixed.append(category is not None and (piece.is_definition or around is not None))
    children: dict[int, set[Found]] = defaultdict(set)
    for index in range(len(script) - 1, -1, -1):  # from the inside out
        piece = script[index]
        if found[index] is None and not piece.is_definition and len(children[index]) == 1:
            (found[index],) = children[index]
        if not isinstance(piece.node, ast.Pass | ast.Break | ast.Continue):
            children[piece.parent].add(found[index])
    return found


def _said(piece: Piece, classify: Mapping[str, str]) -> Found:
    """What a person said about the piece's own name, with or without those around it."""
    names = [(*piece.path[:-1], *name) if piece.is_definition else (*piece.path, *name) for name in bound(piece)]
    if not classify or not names:
        return None
    said = {classify.get(".".join(name), classify.get(name[-1])) for name in names}
    return said.pop() if len(said) == 1 else None


def _of_definition(piece: Piece, around: Found, by_use: Mapping[str, Found]) -> Found:
    node = piece.node
    assert isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
    if around is not None:  # `configure_optimizers` in a model
        return Category.OPTIMIZER.value if OPTIMIZER.search(snake_case(node.name)) else around
    if isinstance(node, ast.ClassDef):
        bases = [base[-1] for base in map(dotted, node.bases) if base]
        if any(base in OPTIMIZERS for base in bases):
            return Category.OPTIMIZER.value
        if any(base.endswith(MODULES) for base in bases):
            return Category.ARCHITECTURE.value
        if CONFIGURATION.search(snake_case(node.name)) or node.name.endswith("Config"):
            return None
        return _of_words(node.name) or by_use.get(node.name)
    return of_name(node.name) or (None if forbidden(node.name) or piece.depth else by_use.get(node.name))


def _of_statement(piece: Piece, classify: Mapping[str, str], by_use: Mapping[str, Found]) -> Found:
    node = piece.node
    calls = [dotted(item) for item in piece.own() if isinstance(item, ast.Call)]
    names = [name for name in bound(piece) if name]
    if any(forbidden(part) for name in (*calls, *names) for part in name):
        return None  # it measures, prints, loads or seeds
    match node:
        case ast.Assign() | ast.AnnAssign() | ast.AugAssign():
            found = {_of_target(name, classify, by_use, top=piece.depth == 0) for name in names}
            if len(found) == 1 and None not in found:
                return found.pop()
            return _of_dotted(dotted(node.value), classify) if node.value is not None and found == {None} else None
        case ast.Expr(value=ast.Call() as call):
            return _of_dotted(dotted(call), classify)
        case ast.For(iter=iterated) | ast.AsyncFor(iter=iterated):
            return _of_dotted(dotted(iterated), classify)
        case _:
            return None


def _of_target(name: tuple[str, ...], classify: Mapping[str, str], by_use: Mapping[str, Found], *, top: bool) -> Found:
    if len(name) > 1:
        return _of_dotted(name, classify)
    return of_name(name[0]) or (by_use.get(name[0]) if top else None)


def _of_dotted(name: tuple[str, ...], classify: Mapping[str, str]) -> Found:
    """`nn.utils.clip_grad_norm_`, `optimizer.step`, `nn.init.normal_`: by the last name that says something."""
    for part in reversed(name):
        if part in classify:
            return classify[part]
        if category := of_name(part):
            return category
    return Category.ARCHITECTURE.value if name[-2:-1] == ("init",) else None


def of_name(name: str) -> Found:
    """What a function, a variable or a constant of this name belongs to: as a knob of that name, else by its words."""
    if forbidden(name):
        return None
    rule = rule_for(name)
    return rule.category.value if rule else _of_words(name)


def _of_words(name: str) -> Found:
    words = snake_case(name)
    if OPTIMIZER.search(words):
        return Category.OPTIMIZER.value
    return Category.ARCHITECTURE.value if ARCHITECTURE.search(words) else None
