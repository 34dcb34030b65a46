"""Finds the tunable literals of a training script and sets them, leaving every other byte as it is.

libcst says where the literals are; a script is changed by replacing those bytes, so comments and formatting survive and
setting a knob costs no parsing.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Final

import libcst as cst
from libcst.metadata import MetadataWrapper

from autoresearch_ci.experiment import Scalar
from autoresearch_ci.knobs.finder import Finder
from autoresearch_ci.knobs.knob import Knob, Scope, Value, render
from autoresearch_ci.knobs.rules import Kind, snake_case

__all__ = [
    "ALSO",
    "Knob",
    "Scope",
    "Value",
    "as_parameters",
    "find_knobs",
    "from_parameters",
    "halve_batch",
    "moved_knobs",
    "set_knobs",
]


ALSO: Final = "also"  # the parameter of a proposal that moved knobs, and that is not all that it changed


@lru_cache(maxsize=32)  # the same few texts are looked at again and again
def find_knobs(script: str) -> tuple[Knob, ...]:
    """The knobs of the script, in the order of the text; empty when libcst cannot read it as Python. Never raises."""
    script = script.removeprefix("\ufeff")
    try:
        wrapper = MetadataWrapper(cst.parse_module(script), unsafe_skip_copy=True)
        finder = Finder(script, wrapper.module)
        wrapper.visit(finder)
    except (cst.ParserSyntaxError, cst.CSTValidationError, UnicodeError, RecursionError, KeyError):
        return ()  # KeyError: what becomes of a RecursionError inside of libcst, as for a thousand `elif`
    names: Counter[str] = Counter()
    knobs: list[Knob] = []
    for knob in finder.found():
        names[knob.name] += 1
        number = names[knob.name]
        knobs.append(knob if number == 1 else replace(knob, name=f"{knob.name}#{number}"))
    return tuple(knobs)


def set_knobs(script: str, values: Mapping[str, Value], knobs: Sequence[Knob] | None = None) -> str:
    """The script with these values, every other byte as it was. `knobs`: those of this very text, when already found.

    KeyError for a name that is not a knob of the script, ValueError for a choice that it does not have.
    """
    known = {knob.name: knob for knob in (find_knobs(script) if knobs is None else knobs)}
    edits: list[tuple[int, int, str]] = []
    for name, value in values.items():
        knob = known[name]
        if knob.kind is Kind.CHOICE and value not in knob.choices:
            raise ValueError(f"`{name}` cannot be {value!r}")
        edits.extend((site.start, site.end, render(site, value, knob.value)) for site in knob.sites)
    text = script.removeprefix("\ufeff")
    data = text.encode()
    parts: list[bytes] = []
    position = 0
    for start, end, new in sorted(edits):
        parts += [data[position:start], new.encode()]
        position = end
    parts.append(data[position:])
    return script[: len(script) - len(text)] + b"".join(parts).decode()


def moved_knobs(before: str, after: str) -> dict[str, tuple[Value, Value]]:
    """The knobs that both scripts have and whose values differ: name → (value before, value after)."""
    old = {knob.name: knob for knob in find_knobs(before)}
    pairs = ((knob, old[knob.name]) for knob in find_knobs(after) if knob.name in old)
    return {new.name: (was.value, new.value) for new, was in pairs if new.value != was.value}


def as_parameters(moves: Mapping[str, tuple[Value, Value]]) -> dict[str, Scalar]:
    """How moved knobs stand in a proposal's parameters: `from NAME` and `to NAME`."""
    return {
        f"{word} {name}": value
        for name, pair in moves.items()
        for word, value in zip(("from", "to"), pair, strict=True)
    }


def from_parameters(parameters: Mapping[str, Scalar]) -> dict[str, tuple[Value, Value]]:
    """The moved knobs that parameters tell of: name → (value before, value after). What is not of that form is left out."""
    found: dict[str, tuple[Value, Value]] = {}
    for key, before in parameters.items():
        after = parameters.get(f"to {key.removeprefix('from ')}")
        if key.startswith("from ") and before is not None and after is not None:
            found[key.removeprefix("from ")] = (before, after)
    return found


def halve_batch(script: str) -> str | None:
    """The script with half the batch per device, for a run that was out of memory; None when there is nothing to halve.

    Where the script accumulates gradients by a constant, that is doubled, so that the batch of a step stays the same.
    karpathy's train.py derives it from TOTAL_BATCH_SIZE and DEVICE_BATCH_SIZE by itself.
    """
    knobs = [knob for knob in find_knobs(script) if isinstance(knob.value, int) and knob.kind is not Kind.BOOLEAN]
    words = {knob.name: snake_case(knob.name) for knob in knobs}
    batches = [knob for knob in knobs if "batch" in words[knob.name] or words[knob.name].endswith("bsz")]
    device = [knob for knob in batches if re.search(r"device|micro|per_gpu|local", words[knob.name])]
    batches = device or [knob for knob in batches if "total" not in words[knob.name]] or batches
    if not batches or int(batches[0].value) < 2:
        return None
    values: dict[str, Value] = {batches[0].name: int(batches[0].value) // 2}
    accumulation = next((knob for knob in knobs if "accum" in words[knob.name]), None)
    if accumulation is not None:
        values[accumulation.name] = int(accumulation.value) * 2
    return set_knobs(script, values, knobs)
