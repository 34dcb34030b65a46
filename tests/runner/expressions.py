"""The part of GitHub's expressions that the action and the workflows need.

Names, texts, `||`, `&&`, `!`, `==`, `!=`, the status functions, and `startsWith`, `endsWith`, `contains`, `format`, `fromJSON`. Values
compare as on GitHub: texts whatever their case, two kinds of value by the number that each would be.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

_TOKEN = re.compile(
    r"\s*(?:(?P<text>'(?:[^']|'')*')|(?P<name>[A-Za-z_][\w.-]*)(?P<call>\()?|(?P<sign>\|\||&&|==|!=|!|\(|\)|,))"
)
_PLACE = re.compile(r"\$\{\{((?:[^'}]|'[^']*'|\}(?!\}))*)\}\}")  # a text may hold braces
_STATUS = re.compile(r"\b(always|success|failure|cancelled)\(\)")

Value = str | bool | float | Mapping[str, Any] | list[Any]
Later = Callable[[], Value]


@dataclass(frozen=True, slots=True, kw_only=True)
class Scope:
    """What an expression can see: the contexts (nested by the dots of a name), and how the job stands.

    `skipped`: a job that this one needs was skipped, which is neither a success nor a failure.
    """

    contexts: Mapping[str, Any]
    failed: bool = False
    cancelled: bool = False
    skipped: bool = False

    def fill(self, text: str) -> str:
        """`text` with every `${{ … }}` replaced by its value."""
        return _PLACE.sub(lambda match: text_of(self.evaluate(match[1])), text)

    def value(self, text: str) -> Value:
        """`text` filled; the value itself, such as a list, where the whole text is one `${{ … }}`."""
        whole = _PLACE.fullmatch(text.strip())
        return self.evaluate(whole[1]) if whole else self.fill(text)

    def holds(self, condition: str | None) -> bool:
        """Whether a step or job with this `if:` runs. Without a status function, `success()` is understood."""
        succeeding = self.call("success", [])
        if condition is None:
            return succeeding is True
        inner = _PLACE.fullmatch(condition.strip())
        expression = inner[1] if inner else condition
        implied = not _STATUS.search(expression)
        return (succeeding is True or not implied) and _truth(self.evaluate(expression))

    def evaluate(self, expression: str) -> Value:
        """The value of one expression. ValueError for what this runner does not know."""
        parser = _Parser(_tokens(expression), self)
        value = parser.alternatives()
        if parser.tokens:
            raise ValueError(f"cannot read `{parser.tokens[0]}` in `{expression}`")
        return value()

    def call(self, name: str, arguments: list[Value]) -> Value:
        """What a function gives; ValueError for an unknown one, or another number of arguments than it takes."""
        match name.lower(), arguments:
            case "always", []:
                return True
            case "success", []:
                return not self.failed and not self.cancelled and not self.skipped
            case "failure", []:
                return self.failed and not self.cancelled
            case "cancelled", []:
                return self.cancelled
            case "startswith", [text, start]:
                return text_of(text).lower().startswith(text_of(start).lower())
            case "endswith", [text, end]:
                return text_of(text).lower().endswith(text_of(end).lower())
            case "contains", [list() as items, item]:
                return any(_equal(each, item) for each in items)
            case "contains", [text, part]:
                return text_of(part).lower() in text_of(text).lower()
            case "format", [text, *values]:
                return _format(text_of(text), [text_of(value) for value in values])
            case "fromjson", [text]:
                return _known(json.loads(text_of(text)))
        raise ValueError(f"unknown function `{name}` of {len(arguments)} arguments")

    def look_up(self, name: str) -> Value:
        """The value of `inputs.tag` and the like; an unknown property of a known context is empty, as on GitHub."""
        if name in ("true", "false"):
            return name == "true"
        first, *rest = name.split(".")
        if first not in self.contexts:
            raise ValueError(f"unknown context `{first}`")
        value: Any = self.contexts[first]
        for part in rest:
            value = value.get(part, "") if isinstance(value, Mapping) else ""
        return _known(value)


def text_of(value: Value) -> str:
    """How a value is written where a text is wanted."""
    match value:
        case bool():
            return str(value).lower()
        case float() | int():
            return f"{value:.15g}"
        case str():
            return value
        case list():
            return "Array"
        case _:
            return "Object"


def _known(value: Any) -> Value:
    if value is None:
        return ""
    return float(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _format(text: str, values: list[str]) -> str:
    """`{0}` is the first value, `{{` a brace. IndexError for a value that is not there."""
    return re.sub(
        r"\{\{|\}\}|\{(\d+)\}", lambda match: values[int(match[1])] if match[1] is not None else match[0][0], text
    )


def _tokens(expression: str) -> list[str]:
    tokens, position = [], 0
    while expression[position:].strip():
        match = _TOKEN.match(expression, position)
        if match is None:
            raise ValueError(f"cannot read `{expression[position:]}`")
        tokens.append(match[0].strip())
        position = match.end()
    return tokens


@dataclass(slots=True)
class _Parser:
    """Reads an expression into a function: as on GitHub, what does not decide the value is not evaluated."""

    tokens: list[str]
    scope: Scope

    def alternatives(self) -> Later:
        value = self._conjunction()
        while self._take("||"):
            value = _either(value, self._conjunction(), stops_at=True)
        return value

    def _conjunction(self) -> Later:
        value = self._comparison()
        while self._take("&&"):
            value = _either(value, self._comparison(), stops_at=False)
        return value

    def _comparison(self) -> Later:
        value = self._operand()
        for sign, wanted in (("==", True), ("!=", False)):
            if self._take(sign):
                return _compared(value, self._operand(), wanted)
        return value

    def _operand(self) -> Later:
        if not self.tokens:
            raise ValueError("the expression ends too early")
        token = self.tokens.pop(0)
        if token == "!":
            operand = self._operand()
            return lambda: not _truth(operand())
        if token == "(":
            value = self.alternatives()
            self._expect(")")
            return value
        if token.startswith("'"):
            return lambda: token[1:-1].replace("''", "'")
        if token.endswith("("):
            arguments = self._arguments()
            return lambda: self.scope.call(token[:-1], [argument() for argument in arguments])
        return lambda: self.scope.look_up(token)

    def _arguments(self) -> list[Later]:
        if self._take(")"):
            return []
        arguments = [self.alternatives()]
        while self._take(","):
            arguments.append(self.alternatives())
        self._expect(")")
        return arguments

    def _expect(self, sign: str) -> None:
        if not self._take(sign):
            raise ValueError(f"`{sign}` is missing")

    def _take(self, sign: str) -> bool:
        if self.tokens and self.tokens[0] == sign:
            self.tokens.pop(0)
            return True
        return False


def _compared(one: Later, other: Later, wanted: bool) -> Later:
    return lambda: _equal(one(), other()) is wanted


def _either(one: Later, other: Later, *, stops_at: bool) -> Later:
    """The value of `one` where its truth is `stops_at`, else that of `other`."""

    def value() -> Value:
        first = one()
        return first if _truth(first) is stops_at else other()

    return value


def _truth(value: Value) -> bool:
    """False, 0 and the empty text are false; objects and lists are true, also empty ones."""
    return value not in (0, "")


def _equal(one: Value, other: Value) -> bool:
    if isinstance(one, str) and isinstance(other, str):
        return one.lower() == other.lower()
    return _number(one) == _number(other)


def _number(value: Value) -> float:
    match value:
        case bool() | float() | int():
            return float(value)
        case str():
            try:
                return float(value.strip() or 0)
            except ValueError:
                return math.nan
        case _:
            return math.nan
