"""Finds the knobs of a training script: walks its libcst tree, and tells which literals count and in what range."""

from __future__ import annotations

import ast
import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import libcst as cst
from libcst.metadata import ByteSpanPositionProvider

from autoresearch_ci.experiment import Category
from autoresearch_ci.knobs.knob import Knob, Site
from autoresearch_ci.knobs.rules import (
    FUNCTIONS,
    MODULES,
    OPTIMIZER_ARGUMENTS,
    OPTIMIZERS,
    POSITIONAL,
    SHARE,
    STRING_NAMES,
    STRINGS,
    UNKNOWN_RANK,
    WINDOW_PATTERNS,
    Kind,
    Rule,
    forbidden,
    rule_for,
    snake_case,
    unknown_rule,
)

LIMIT = 2**53  # above it an int is not a count that anybody tunes, and floats skip integers


@dataclass(frozen=True, slots=True)
class _Candidate:
    """A literal that has been seen, before the rest of the script tells whether it counts.

    `owner`: the callable whose default it is; `parameter` and `position` are how a call would override it.
    `variable`: the scope and name that must be assigned only here.
    """

    knob: Knob
    owner: str = ""
    parameter: str = ""
    position: int = -1
    variable: tuple[str, str] | None = None


class Finder(cst.CSTVisitor):
    METADATA_DEPENDENCIES = (ByteSpanPositionProvider,)

    def __init__(self, script: str, module: cst.Module) -> None:
        super().__init__()
        self.data = script.encode()
        self.module = module
        self.words = Counter(re.findall(r"\w+", script))
        self.strings = {text.strip("\"'") for text in re.findall(r"'\w+'|\"\w+\"", script)}
        self.scopes: list[tuple[str, Literal["class", "config", "function"]]] = []
        self.candidates: list[_Candidate] = []
        self.stores: Counter[tuple[str, str]] = Counter()
        self.given: dict[str, set[str]] = defaultdict(set)  # callable → the parameters that calls pass
        self.passed: Counter[str] = Counter()  # callable → how many positional arguments calls pass
        self.groups: dict[tuple[str, str, str], list[Site]] = defaultdict(list)

    # --- where we are -------------------------------------------------------------------------------------------------

    @property
    def scope(self) -> str:
        return ".".join(name for name, _ in self.scopes)

    def visit_ClassDef(self, node: cst.ClassDef) -> bool:  # noqa: N802 - libcst's names
        bases = " ".join(self.module.code_for_node(item) for item in (*node.decorators, *node.bases))
        config = re.search(r"dataclass|NamedTuple|BaseModel|TrainingArguments", bases) is not None
        config = config or re.search(r"config|args|hyper|param|settings", node.name.value, re.IGNORECASE) is not None
        self.scopes.append((node.name.value, "config" if config else "class"))
        return True

    def leave_ClassDef(self, original_node: cst.ClassDef) -> None:  # noqa: N802, ARG002
        self.scopes.pop()

    def visit_FunctionDef(self, node: cst.FunctionDef) -> bool:  # noqa: N802
        owner = self.scopes[-1][0] if node.name.value == "__init__" and self.scopes else node.name.value
        positions = [*node.params.posonly_params, *node.params.params]
        shift = 1 if positions and positions[0].name.value in ("self", "cls") else 0
        self.scopes.append((node.name.value, "function"))
        for index, parameter in enumerate([*positions, *node.params.kwonly_params]):
            if parameter.default is not None:
                name = parameter.name.value
                position = index - shift if index < len(positions) else -1
                annotation = self.code(parameter.annotation.annotation) if parameter.annotation else ""
                for knob in self.literals(f"{owner}.{name}", name, parameter.default, annotation, known=True):
                    self.candidates.append(_Candidate(knob, owner, name, position))
        return True

    def leave_FunctionDef(self, original_node: cst.FunctionDef) -> None:  # noqa: N802, ARG002
        self.scopes.pop()

    # --- assignments --------------------------------------------------------------------------------------------------

    def visit_Assign(self, node: cst.Assign) -> None:  # noqa: N802
        if len(node.targets) == 1:
            self.assignment(node.targets[0].target, node.value, "")

    def visit_AnnAssign(self, node: cst.AnnAssign) -> None:  # noqa: N802
        self.stored(node.target)
        if node.value is not None:
            self.assignment(node.target, node.value, self.code(node.annotation.annotation))

    def visit_AssignTarget(self, node: cst.AssignTarget) -> None:  # noqa: N802
        self.stored(node.target)

    def visit_AugAssign(self, node: cst.AugAssign) -> None:  # noqa: N802
        self.stored(node.target, 2)

    def visit_For(self, node: cst.For) -> None:  # noqa: N802
        self.stored(node.target, 2)

    def visit_NamedExpr(self, node: cst.NamedExpr) -> None:  # noqa: N802
        self.stored(node.target, 2)

    def visit_Global(self, node: cst.Global) -> None:  # noqa: N802
        for item in node.names:
            self.stores["", item.name.value] += 2

    def stored(self, target: cst.BaseExpression, times: int = 1) -> None:
        if isinstance(target, cst.Name):
            self.stores[self.scope, target.value] += times
        elif isinstance(target, cst.Tuple | cst.List):
            for element in target.elements:
                self.stored(element.value, times)

    def assignment(self, target: cst.BaseExpression, value: cst.BaseExpression, annotation: str) -> None:
        if not isinstance(target, cst.Name) or self.words[target.value] < 2:
            return  # an attribute, or a constant that nothing reads
        name = target.value
        kind = self.scopes[-1][1] if self.scopes else "module"
        if kind == "class":
            return
        label = name if kind == "module" else f"{self.scopes[-1][0]}.{name}"
        for knob in self.literals(label, name, value, annotation, known=kind == "function"):
            if kind == "config":
                self.candidates.append(_Candidate(knob, self.scopes[-1][0], name, variable=(self.scope, name)))
            else:
                self.candidates.append(_Candidate(knob, variable=(self.scope, name)))

    # --- calls and dictionaries ---------------------------------------------------------------------------------------

    def visit_Call(self, node: cst.Call) -> None:  # noqa: N802
        function = self.code(node.func)
        name = function.rsplit(".", 1)[-1]
        positional = [arg for arg in node.args if arg.keyword is None and not arg.star]
        self.passed[name] = max(self.passed[name], len(positional))
        self.given[name] |= {arg.keyword.value for arg in node.args if arg.keyword is not None}
        if name in ("add_argument", "option"):
            self.option(node)
        elif not self.measures(function, positional):
            for arg in node.args:
                if arg.keyword is not None:
                    self.argument(function, arg.keyword.value, arg.value)
            index, key = POSITIONAL.get(name, (-1, ""))
            if 0 <= index < len(positional):
                self.argument(function, key, positional[index].value)
            self.expansion(name, positional)
            self.function_reference(node)
            self.class_reference(node, node.func, [arg.keyword.value if arg.keyword else "" for arg in node.args])

    def visit_Arg(self, node: cst.Arg) -> None:  # noqa: N802
        self.class_reference(node, node.value, [])  # `act_layer=nn.GELU`

    def visit_DictElement(self, node: cst.DictElement) -> None:  # noqa: N802
        if isinstance(node.key, cst.SimpleString):
            key = node.key.value.strip("\"'")
            self.candidates += (_Candidate(knob) for knob in self.literals(key, key, node.value, "", known=True))

    def measures(self, function: str, positional: Sequence[cst.Arg]) -> bool:
        """Whether the call evaluates, or loads what is evaluated: its numbers belong to the measurement."""
        if forbidden(function) or re.search(r"generate|sample", function) is not None:
            return True
        return "oader" in function and any(forbidden(self.code(arg.value)[:200]) for arg in positional)

    def argument(self, function: str, key: str, value: cst.BaseExpression) -> None:
        name = function.rsplit(".", 1)[-1]
        known = {"p": "dropout", "std": "init_std"}.get(key, key)
        if known != key and name not in POSITIONAL and not name.endswith("normal_"):
            return
        rule = rule_for(known)
        library = re.match(r"(?:torch|nn|F|np)\.", function) is not None or function[:1].islower()
        free = name == "dict" or known in ("init_std", "dim_feedforward", "num_layers")
        if rule is not None and rule.category is Category.ARCHITECTURE and library and not free:
            return  # the size of one layer has to fit its neighbours
        for knob in self.literals(f"{name}.{key}", known, value, "", known=True):
            self.candidates.append(_Candidate(knob))

    def option(self, node: cst.Call) -> None:
        """`parser.add_argument("--learning-rate", "--lr", default=1e-3, type=float)` → `learning_rate`."""
        flags = [
            arg.value.value.strip("\"'")
            for arg in node.args
            if isinstance(arg.value, cst.SimpleString) and not arg.keyword
        ]
        keywords = {arg.keyword.value: arg.value for arg in node.args if arg.keyword is not None}
        if flags and "default" in keywords:
            name = snake_case(next((flag for flag in flags if flag.startswith("--")), flags[0]))
            annotation = self.code(keywords["type"]) if "type" in keywords else ""
            for knob in self.literals(name, name, keywords["default"], annotation, known=False):
                self.candidates.append(_Candidate(knob))

    # --- what a literal is --------------------------------------------------------------------------------------------

    def code(self, node: cst.CSTNode) -> str:
        return self.module.code_for_node(node)

    def site(self, node: cst.CSTNode, choices: Mapping[str, str] | None = None) -> Site:
        span = self.get_metadata(ByteSpanPositionProvider, node)
        end = span.start + span.length
        return Site(span.start, end, self.data[span.start : end].decode(), choices or {})

    def literals(
        self, label: str, name: str, node: cst.BaseExpression, annotation: str, *, known: bool
    ) -> Iterator[Knob]:
        """The knobs of a named value: none, one, or two for a pair of betas. `known`: only names that a rule knows."""
        if forbidden(name) or any(forbidden(scope) for scope, _ in self.scopes):
            return
        if isinstance(node, cst.Tuple) and len(node.elements) == 2 and snake_case(name).endswith("betas"):
            for index, element in enumerate(node.elements, start=1):
                yield from self.literals(f"{label}.beta{index}", f"beta{index}", element.value, "", known=True)
        elif isinstance(node, cst.SimpleString):
            yield from self.string(label, name, node)
        elif isinstance(node, cst.Name) and node.value in ("True", "False"):
            rule = None if known else unknown_rule(name)
            if rule is not None:
                yield Knob(
                    name=label,
                    kind=Kind.BOOLEAN,
                    value=node.value == "True",
                    category=rule.category,
                    rank=4,
                    sites=(self.site(node),),
                )
        else:
            value = _number(node)
            rule = rule_for(name) or (None if known else unknown_rule(name))
            if value is not None and rule is not None:
                knob = _number_knob(label, name, rule, value, annotation, self.site(node))
                if knob is not None:
                    yield knob

    def string(self, label: str, name: str, node: cst.SimpleString) -> Iterator[Knob]:
        value = node.raw_value
        words = snake_case(name)
        choices: tuple[str, ...] = ()
        category = Category.ARCHITECTURE
        if "window_pattern" in words and set(value) <= {"S", "L"}:
            choices = WINDOW_PATTERNS
        else:
            kind = next((kind for kind, pattern in STRING_NAMES.items() if pattern.search(words)), "")
            # Only what the script itself mentions: a name it does not know would crash.
            choices = tuple(text for text in STRINGS.get(kind, ()) if text in self.strings)
            category = Category.OPTIMIZER if kind in ("optimizer", "schedule") else category
            if label.startswith("Transformer") and value in ("relu", "gelu"):
                choices = ("relu", "gelu")  # all that torch's layer takes as a name
        if value in choices and len(choices) > 1 and not node.prefix:
            texts = {choice: f"{node.quote}{choice}{node.quote}" for choice in choices}
            yield _choice(label, value, choices, category, (self.site(node, texts),))

    def expansion(self, name: str, positional: Sequence[cst.Arg]) -> None:
        """`4 * width` in the linear layers of one class: how much wider the inside of its MLP is."""
        for arg in positional:
            product = arg.value
            if not isinstance(product, cst.BinaryOperation) or not isinstance(product.operator, cst.Multiply):
                continue
            if "inear" in name and isinstance(product.left, cst.Integer) and _number(product.right) is None:
                self.groups["expansion", self.scope, self.code(product)].append(self.site(product.left))

    def function_reference(self, node: cst.Call) -> None:
        """`F.relu(x)`, with or without `.square()`, exchanged for the other activations of the same class."""
        function = node.func
        if not isinstance(function, cst.Attribute) or function.attr.value not in FUNCTIONS:
            return
        if self.code(function.value) not in ("F", "nn", "nn.functional", "torch.nn.functional"):
            return
        if len(node.args) != 1 or node.args[0].keyword is not None or node.args[0].star:
            return
        end = self.site(node).end
        suffix = ".square()" if self.data.startswith(b".square()", end) else ""
        current = f"{function.attr.value}{'2' if suffix else ''}"
        if current in FUNCTIONS:
            squares = {choice: ".square()" if choice == "relu2" else "" for choice in FUNCTIONS}
            group = self.groups["function", self.scopes[0][0] if self.scopes else "", current]
            group += [self.site(function.attr, FUNCTIONS), Site(end, end + len(suffix), suffix, squares)]

    def class_reference(self, node: cst.CSTNode, reference: cst.BaseExpression, arguments: Sequence[str]) -> None:
        """`nn.GELU`, and `torch.optim.Adam` where the arguments are common to all that may replace it."""
        if not isinstance(reference, cst.Attribute):
            return
        prefix, name = self.code(reference.value), reference.attr.value
        choices: tuple[str, ...] = ()
        if prefix in ("nn", "torch.nn") and name in MODULES and set(arguments) <= {"inplace"}:
            choices = tuple(module for module in MODULES if module != "GELU" or not arguments)
        elif prefix in ("optim", "torch.optim") and name in OPTIMIZERS and isinstance(node, cst.Call):
            keywords = {argument for argument in arguments if argument}
            if arguments.count("") <= 2 and not any(arg.star for arg in node.args):
                choices = OPTIMIZERS if keywords <= OPTIMIZER_ARGUMENTS else ("Adam", "AdamW")
        if name in choices:
            kind = "optimizer" if name in OPTIMIZERS else "module"
            texts = {choice: choice for choice in choices}
            self.groups[kind, self.scopes[0][0] if self.scopes else "", name].append(self.site(reference.attr, texts))

    # --- the end ------------------------------------------------------------------------------------------------------

    def found(self) -> list[Knob]:
        """The knobs that count, by their place in the text."""
        knobs = [
            candidate.knob
            for candidate in self.candidates
            if candidate.parameter not in self.given[candidate.owner]
            and not 0 <= candidate.position < self.passed[candidate.owner]
            and (candidate.variable is None or self.stores[candidate.variable] == 1)
        ]
        for (kind, scope, text), sites in self.groups.items():
            label = f"{scope.split('.')[0]}." if scope else ""
            if kind == "expansion":
                rule = rule_for("expansion")
                knob = (
                    _number_knob(f"{label}expansion", "expansion", rule, int(sites[0].text), "int", sites[0])
                    if rule
                    else None
                )
                if knob is not None and len(sites) > 1:  # one alone has no partner that grows with it
                    knobs.append(replace(knob, sites=tuple(sites)))
            elif kind == "optimizer":
                knobs.append(
                    _choice(f"{label}optimizer", text, tuple(sites[0].choices), Category.OPTIMIZER, tuple(sites))
                )
            else:
                choices = tuple(choice for choice in sites[0].choices if all(choice in site.choices for site in sites))
                knobs.append(_choice(f"{label}activation", text, choices, Category.ARCHITECTURE, tuple(sites)))
        return sorted(knobs, key=lambda knob: knob.sites[0].start)


def _choice(label: str, value: str, choices: tuple[str, ...], category: Category, sites: tuple[Site, ...]) -> Knob:
    return Knob(name=label, kind=Kind.CHOICE, value=value, category=category, rank=2, choices=choices, sites=sites)


def _number_knob(label: str, name: str, rule: Rule, value: int | float, annotation: str, site: Site) -> Knob | None:
    """Types and bounds a number; None for one that is not what its name says, such as a negative sentinel."""
    whole = isinstance(value, int) and annotation != "float"
    unknown = rule.rank == UNKNOWN_RANK
    kind = rule.kind
    if kind is None:
        share = SHARE.search(snake_case(name)) is not None or (not unknown and rule.high > 1)
        kind = Kind.INTEGER if whole else Kind.UNIT if share and value <= 1 else Kind.LOG
        if kind is Kind.INTEGER and unknown:
            if value < 2:
                return None  # a flag or an index
            kind = Kind.DOUBLING if value >= 32 and int(value).bit_count() == 1 else kind
    if kind is Kind.LOG and annotation == "int":
        kind = Kind.INTEGER
    if not max(rule.least, 0) <= value <= LIMIT or (
        kind in (Kind.INTEGER, Kind.DOUBLING) and not isinstance(value, int)
    ):
        return None
    if (
        (kind is Kind.DECAY and value >= 1)
        or (kind is Kind.UNIT and value > 1)
        or (kind is Kind.DOUBLING and value < 1)
    ):
        return None
    low, high = _bounds(kind, rule, value)
    return Knob(
        name=label,
        kind=kind,
        value=value,
        category=rule.category,
        rank=rule.rank,
        sites=(site,),
        low=low,
        high=high,
        zero=rule.zero,
    )


def _bounds(kind: Kind, rule: Rule, value: int | float) -> tuple[float, float]:
    """The range to search around `value`, which always lies in it (a LOG or INTEGER that is 0 is "off", below it)."""
    match kind:
        case Kind.LOG:
            middle = value or rule.typical
            return min(max(rule.low, middle / 30), middle), max(min(rule.high, middle * 30), middle)
        case Kind.DOUBLING:
            return min(max(rule.low, value / 4), value), max(min(rule.high, value * 4), value)
        case Kind.INTEGER:
            middle = value or rule.typical
            low = 0 if rule.zero or not value else max(rule.low, middle // 4, 1)
            return min(low, value), max(min(rule.high, max(middle * 4, middle + 2)), value)
        case _:
            return min(rule.low, value), max(rule.high if rule.high < 1e9 else 1.0, value)


def _number(node: cst.BaseExpression) -> int | float | None:
    """The value of a literal or of simple arithmetic on literals (`2**19`, `4 * 1024`, `-1`); None for all else."""
    if not isinstance(node, cst.Integer | cst.Float | cst.UnaryOperation | cst.BinaryOperation):
        return None
    if isinstance(node, cst.Integer | cst.Float):
        value: int | float = ast.literal_eval(node.value) if len(node.value) <= 30 else math.inf
        return value if value < LIMIT else None
    if isinstance(node, cst.UnaryOperation):
        inner = _number(node.expression)
        if inner is None or isinstance(node.operator, cst.Plus):
            return inner
        return -inner if isinstance(node.operator, cst.Minus) else None
    left, right = _number(node.left), _number(node.right)
    if left is None or right is None:
        return None
    try:
        match node.operator:
            case cst.Add():
                value = left + right
            case cst.Subtract():
                value = left - right
            case cst.Multiply():
                value = left * right
            case cst.Divide():
                value = left / right
            case cst.FloorDivide():
                value = left // right
            case cst.LeftShift() if isinstance(left, int) and isinstance(right, int) and right < 60:
                value = left << right
            case cst.Power() if abs(right) < 60:
                value = left**right
            case _:
                return None
    except (ArithmeticError, ValueError):
        return None
    return value if isinstance(value, int | float) and abs(value) < LIMIT else None
