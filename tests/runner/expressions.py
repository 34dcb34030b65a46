"""The part of GitHub's expressions that the action needs: names, texts, `||`, `&&`, `!`, `==`, `!=`, `always()`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

_TOKEN = re.compile(
    r"\s*(?:(?P<text>'(?:[^']|'')*')|(?P<name>[A-Za-z_][\w.-]*)(?P<call>\(\))?|(?P<sign>\|\||&&|==|!=|!|\(|\)))"
)
_PLACE = re.compile(r"\$\{\{(.*?)\}\}", re.DOTALL)

Value = str | bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Scope:
    """What an expression can see: the contexts (nested by the dots of a name), and how the job stands."""

    contexts: Mapping[str, Any]
    failed: bool = False
    cancelled: bool = False

    def fill(self, text: str) -> str:
        """`text` with every `${{ … }}` replaced by its value."""
        return _PLACE.sub(lambda match: _text(self.evaluate(match[1])), text)

    def holds(self, condition: str | None) -> bool:
        """Whether a step with this `if:` runs. Without a status function, `success()` is understood."""
        succeeding = not self.failed and not self.cancelled
        if condition is None:
            return succeeding
        inner = _PLACE.fullmatch(condition.strip())
        expression = inner[1] if inner else condition
        implied = not re.search(r"\b(always|success|failure|cancelled)\(\)", expression)
        return (succeeding or not implied) and _truth(self.evaluate(expression))

    def evaluate(self, expression: str) -> Value:
        """The value of one expression. ValueError for what this runner does not know."""
        parser = _Parser(_tokens(expression), self)
        value = parser.alternatives()
        if parser.tokens:
            raise ValueError(f"cannot read `{parser.tokens[0]}` in `{expression}`")
        return value

    def call(self, name: str) -> bool:
        match name:
            case "always":
                return True
            case "success":
                return not self.failed and not self.cancelled
            case "failure":
                return self.failed and not self.cancelled
            case "cancelled":
                return self.cancelled
        raise ValueError(f"unknown function `{name}()`")

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
        return value if isinstance(value, bool) else str(value)


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
    tokens: list[str]
    scope: Scope

    def alternatives(self) -> Value:
        value = self._conjunction()
        while self._take("||"):
            other = self._conjunction()
            value = value if _truth(value) else other
        return value

    def _conjunction(self) -> Value:
        value = self._comparison()
        while self._take("&&"):
            other = self._comparison()
            value = other if _truth(value) else value
        return value

    def _comparison(self) -> Value:
        value = self._operand()
        if self._take("=="):
            return _text(value).lower() == _text(self._operand()).lower()
        if self._take("!="):
            return _text(value).lower() != _text(self._operand()).lower()
        return value

    def _operand(self) -> Value:
        if not self.tokens:
            raise ValueError("the expression ends too early")
        token = self.tokens.pop(0)
        if token == "!":
            return not _truth(self._operand())
        if token == "(":
            value = self.alternatives()
            if not self._take(")"):
                raise ValueError("a parenthesis is not closed")
            return value
        if token.startswith("'"):
            return token[1:-1].replace("''", "'")
        return self.scope.call(token[:-2]) if token.endswith("()") else self.scope.look_up(token)

    def _take(self, sign: str) -> bool:
        if self.tokens and self.tokens[0] == sign:
            self.tokens.pop(0)
            return True
        return False


def _truth(value: Value) -> bool:
    return value if isinstance(value, bool) else value != ""


def _text(value: Value) -> str:
    return str(value).lower() if isinstance(value, bool) else value
