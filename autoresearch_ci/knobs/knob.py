"""What a knob is: a tunable literal of a training script, the values it can take and how they are written."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from autoresearch_ci.experiment import Category
from autoresearch_ci.knobs.rules import Kind

Value = bool | int | float | str
Scope = Literal["all", "architecture", "hyperparameters", "optimizer"]


@dataclass(frozen=True, slots=True)
class Site:
    """One place of a knob: the bytes `[start, end)` of the UTF-8 text, `text`, and what to write for each choice."""

    start: int
    end: int
    text: str
    choices: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Knob:
    """A tunable literal: its value now, the range to search, and all the places that hold it.

    `rank`: 0 is what a person would try first. `low` and `high` are for numbers, `choices` for the kind `choice`.
    """

    name: str
    kind: Kind
    value: Value
    category: Category
    rank: int
    sites: tuple[Site, ...]
    low: float = 0.0
    high: float = 1.0
    zero: bool = False
    choices: tuple[str, ...] = ()

    @property
    def options(self) -> tuple[Value, ...]:
        """Every value of a boolean or a choice; empty for numbers."""
        return (False, True) if self.kind is Kind.BOOLEAN else self.choices

    def coordinate(self, value: Value) -> float:
        """Where `value` lies on the knob's own scale, on which 1 is a natural first step."""
        match self.kind:
            case Kind.BOOLEAN | Kind.CHOICE:
                return float(self.options.index(value)) if value in self.options else -1.0
            case Kind.LOG | Kind.DOUBLING:
                # "off" lies one step beyond the smallest value that is not
                return math.log2(float(value)) if float(value) > 0 else math.log2(self.low) - 1
            case Kind.DECAY:
                return -math.log2(max(1 - float(value), 1e-6))
            case Kind.UNIT:
                return 10 * float(value)
            case Kind.INTEGER:
                return 2 * math.log2(float(value) + 1)

    def at(self, coordinate: float) -> Value:
        """The value at a place on the scale: clipped to the range, and as short as a person would write it."""
        if not self.options:
            coordinate = min(max(coordinate, self.coordinate(self.low) - 1), self.coordinate(self.high) + 1)
        match self.kind:
            case Kind.BOOLEAN | Kind.CHOICE:
                return self.options[min(max(round(coordinate), 0), len(self.options) - 1)]
            case Kind.LOG:
                if self.zero and coordinate < math.log2(self.low) - 0.5:
                    return 0.0
                return _short(min(max(2**coordinate, self.low), self.high))
            case Kind.DOUBLING:
                odd = _odd_part(int(self.value))
                power = round(min(max(coordinate, math.log2(self.low)), math.log2(self.high)) - math.log2(odd))
                return int(odd * 2 ** max(power, 0))
            case Kind.DECAY:
                return round(1 - _short(1 - min(max(1 - 2**-coordinate, self.low), self.high)), 6)
            case Kind.UNIT:
                return round(min(max(coordinate / 10, self.low), self.high), 2)
            case Kind.INTEGER:
                return round(min(max(2 ** (coordinate / 2) - 1, self.low), self.high))

    def written(self, value: Value) -> str:
        """The value as it would stand in the script; a choice by its name."""
        return str(value) if self.kind is Kind.CHOICE else render(self.sites[0], value, self.value)

    def in_scope(self, scope: Scope) -> bool:
        """Whether the `scope` setting lets this knob be changed; `hyperparameters` means every number."""
        if scope == "hyperparameters":
            return self.kind not in (Kind.BOOLEAN, Kind.CHOICE)
        return scope == "all" or self.category.value == scope


def render(site: Site, value: Value, current: Value) -> str:
    """The value in the style of the text that it replaces: `2**19` → `2**20`, `4 * 1024` → `8 * 1024`, `3e-4` → `6e-4`.

    In plain digits where that style cannot say it.
    """
    if value == current and type(value) is type(current):
        return site.text
    if site.choices:
        return site.choices[str(value)]
    if isinstance(value, bool | str) or not math.isfinite(value):
        return repr(value)
    if isinstance(value, int):
        if re.fullmatch(r"2\s*\*\*\s*\d+", site.text) and value > 0 and value & (value - 1) == 0:
            return re.sub(r"\d+$", str(value.bit_length() - 1), site.text)
        product = re.fullmatch(r"(\d+)(\s*\*\s*)(\d+)", site.text)
        if product is not None and int(product[3]) and value % int(product[3]) == 0:
            return f"{value // int(product[3])}{product[2]}{product[3]}"
        return f"{value:_}" if "_" in site.text else str(value)
    if "e" in site.text.lower() and value:
        mantissa, exponent = f"{value:e}".split("e")
        return f"{float(mantissa):g}e{int(exponent)}"
    return repr(value)


def _short(value: float) -> float:
    """Two significant digits."""
    return float(f"{value:.1e}")


def _odd_part(value: int) -> int:
    return value // (value & -value)
