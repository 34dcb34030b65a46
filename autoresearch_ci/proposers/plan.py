"""Pure: what a person, or another system, hands in to be tried: `hypothesis` and `plan`.

A plan whose name ends in `.yaml` or `.yml` is YAML with `vary`, `hold`, `try` and `then`; any other holds one thing to try a line.
Everything that can be wrong with it is found here, against the base commit's script, before anything is run.
"""

from __future__ import annotations

import ast
import difflib
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any, Final

import yaml

from autoresearch_ci.errors import SettingsError
from autoresearch_ci.knobs import Knob, Value, find_knobs
from autoresearch_ci.proposers.patches import Hunk, read_patch
from autoresearch_ci.scope import Range, unknown_names

KEYS: Final = ("vary", "hold", "try", "then")
FOLLOWERS: Final = ("none", "search", "llm", "agent", "hybrid")
MAX_BYTES: Final = 256 * 1024
MAX_WISHES: Final = 1000
MAX_NUMBER: Final = 2**53  # above it floats skip integers, and nobody tunes
MAX_DIGITS: Final = 100
MAX_DEPTH: Final = 10  # of lists and mappings in each other
_ASSIGNMENT: Final = re.compile(r"([A-Za-z_][\w.#:\[\]-]*)\s*=(?!=)\s*(.*)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """One thing to try. `values`: knobs to set. `hunks`: of a patch. With neither, `text` is for a model to read."""

    text: str
    values: Mapping[str, Value] = field(default_factory=dict)
    hunks: tuple[Hunk, ...] = ()

    @property
    def is_words(self) -> bool:
        return not self.values and not self.hunks


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What to try in order, within which ranges, without touching what; and who goes on, empty where the plan does not say."""

    wishes: tuple[Wish, ...] = ()
    vary: Mapping[str, Range] = field(default_factory=dict)
    hold: tuple[str, ...] = ()
    then: str = ""


def read_plan(data: bytes, name: str, *, script: str, script_name: str, files: Callable[[str], bytes | None]) -> Plan:
    """The plan in `data`, for `script`, whose file is `script_name`. `files` reads a file of the base commit by its path.

    SettingsError, with a hint, for everything that cannot be meant.
    """
    if len(data) > MAX_BYTES:
        raise SettingsError(f"the plan `{name}` has {len(data)} bytes", hint=f"at most {MAX_BYTES // 1024} KiB")
    text = data.decode("utf-8", errors="replace").removeprefix("\ufeff")
    reader = _Reader(find_knobs(script), script_name, files)
    if PurePosixPath(name).suffix not in (".yaml", ".yml"):
        lines = (re.sub(r"(?:^|\s)#.*", "", line).strip() for line in text.splitlines())
        return Plan(wishes=tuple(reader.wish(line) for line in lines if line))
    tree = _load(text, name)
    for key in tree:
        if key not in KEYS:
            raise SettingsError(
                f"the plan `{name}` has no key `{str(key)[:80]}`",
                hint=_nearest(str(key), KEYS) or "its keys are vary, hold, try and then",
            )
    hold = tuple(str(item) for item in _list(tree, "hold"))
    if unknown := unknown_names(script, hold):
        hint = "name constants, functions, classes, `Class.method` or knobs of the training script"
        raise SettingsError(f"the plan holds `{unknown[0][:80]}`, which the training script has not", hint=hint)
    then = tree.get("then", "")
    if then not in ("", *FOLLOWERS):
        raise SettingsError(f"`then` cannot be `{str(then)[:80]}`", hint=f"one of {', '.join(FOLLOWERS)}")
    items = _list(tree, "try")
    if len(items) > MAX_WISHES:
        raise SettingsError(f"the plan tries {len(items)} things", hint=f"at most {MAX_WISHES}")
    return Plan(
        wishes=tuple(reader.item(item) for item in items), vary=reader.vary(tree.get("vary")), hold=hold, then=then
    )


def read_wish(text: str, *, script: str) -> Wish:
    """One thing to try, as `hypothesis` says it: `KNOB=value`, or words."""
    return _Reader(find_knobs(script), "", lambda _: None).wish(text)


class _Reader:
    """Reads the parts of a plan against the script's knobs."""

    def __init__(self, knobs: Iterable[Knob], script_name: str, files: Callable[[str], bytes | None]) -> None:
        self._knobs = {knob.name: knob for knob in knobs}
        self._script_name = script_name
        self._files = files

    def wish(self, text: str) -> Wish:
        match = _ASSIGNMENT.fullmatch(text.strip())
        if match is None:
            return Wish(text=text.strip())
        knob = self._knob(match[1])
        if not match[2]:
            raise SettingsError(
                f"`{text[:80]}` is not something to try", hint="write it as `KNOB=value`, as `LEARNING_RATE=3e-4`"
            )
        return Wish(text=text.strip(), values={knob.name: _value(knob, match[2])})

    def item(self, item: Any) -> Wish:
        """An item of `try`: text, `KNOB: value` pairs that are tried together, or `patch: path`."""
        if isinstance(item, str) and item.strip():
            return self.wish(item)
        if not isinstance(item, dict) or not item:
            raise SettingsError(
                f"`{str(item)[:80]}` is not something to try",
                hint="write words, `KNOB=value`, `KNOB: value` or `patch: path`",
            )
        if "patch" in item:
            if len(item) > 1:
                raise SettingsError("a `patch` is tried alone", hint="make it an item of its own under `try`")
            return self._patch(str(item["patch"]))
        values = {}
        for name, value in item.items():
            knob = self._knob(str(name))
            values[knob.name] = _value(knob, value if isinstance(value, str) else repr(value))
        return Wish(text=", ".join(f"{name}={value}" for name, value in values.items()), values=values)

    def vary(self, tree: Any) -> dict[str, Range]:
        if tree is None:
            return {}
        if not isinstance(tree, dict):
            raise SettingsError("`vary` is not a list of knobs with ranges", hint="write `KNOB: [low, high]`")
        knobs = [(self._knob(str(name)), said) for name, said in tree.items()]
        return {knob.name: _range(knob, said) for knob, said in knobs}

    def _knob(self, name: str) -> Knob:
        knob = self._knobs.get(name)
        if knob is None:
            known = list(self._knobs)
            hint = _nearest(name, known) or f"its knobs are {', '.join(known[:12]) or 'none'}"
            raise SettingsError(f"the training script has no knob `{name[:80]}`", hint=hint)
        return knob

    def _patch(self, path: str) -> Wish:
        data = self._files(path)
        if data is None:
            raise SettingsError(f"the base commit has no patch `{path[:80]}`", hint="commit it, or change the plan")
        return Wish(text=f"patch {path}", hunks=read_patch(data, path, self._script_name))


class _Loader(yaml.SafeLoader):
    """YAML without what makes a small file a huge one, or a short one slow: aliases, and lists in lists without end."""

    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("it uses aliases: write every value out")
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise yaml.YAMLError(f"it is nested more than {MAX_DEPTH} deep")
        node = super().compose_node(parent, index)
        self.depth -= 1
        if isinstance(node, yaml.ScalarNode) and node.tag.endswith(":int") and len(node.value) > MAX_DIGITS:
            raise yaml.YAMLError(f"a number has {len(node.value)} digits")
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        found = super().construct_mapping(node, deep=deep)
        if len(found) < len(node.value):
            raise yaml.MarkedYAMLError(problem="a key is there twice", problem_mark=node.start_mark)
        return found


def _load(text: str, name: str) -> dict[Any, Any]:
    """The YAML mapping; SettingsError for anything else."""
    try:
        tree = yaml.load(text, _Loader)
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f" at line {mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or (str(error) if type(error) is yaml.YAMLError else "")
        raise SettingsError(
            f"the plan `{name}` is not valid YAML{where}: {str(problem or 'it cannot be read')[:120]}",
            hint="see README, part Plans",
        ) from error
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise SettingsError(f"the plan `{name}` has no keys", hint=f"it holds {', '.join(f'`{key}:`' for key in KEYS)}")
    return tree


def _list(tree: Mapping[Any, Any], key: str) -> Sequence[Any]:
    value = tree.get(key)
    if value is None:
        return []
    if not isinstance(value, list):
        raise SettingsError(
            f"`{key}` in the plan is not a list", hint="write each item on a line of its own, after `- `"
        )
    return value


def _range(knob: Knob, said: Any) -> Range:
    """`[low, high]`, `{min: low, max: high}`, `{values: [...]}`, or a list of anything but two numbers."""
    name = knob.name
    hint = f"write `{name}: [low, high]` or `{name}: {{values: [...]}}`"
    ends: Sequence[Any] = ()
    if isinstance(said, dict) and said and set(said) <= {"min", "max"}:
        ends = (said.get("min", -math.inf), said.get("max", math.inf))
    elif isinstance(said, list) and len(said) == 2 and None not in map(_number, said):
        ends = said
    if ends:
        low, high = map(_number, ends)
        if low is None or high is None or low > high:
            raise SettingsError(f"`{name}` cannot vary from {str(ends[0])[:40]} to {str(ends[1])[:40]}", hint=hint)
        return Range(low, high)
    values = said.get("values") if isinstance(said, dict) and set(said) == {"values"} else said
    if not isinstance(values, list) or not values:
        raise SettingsError(f"`{name}` cannot vary within `{str(said)[:80]}`", hint=hint)
    return Range(values=tuple(_value(knob, v if isinstance(v, str) else repr(v)) for v in values))


def _number(value: Any) -> float | None:
    """The number that is meant; None for anything else. `3e-4` is text to YAML, whose numbers have a point."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return None if math.isnan(number) else number


def _value(knob: Knob, text: str) -> Value:
    """What the text says the knob is to be."""
    if knob.choices:
        choice = text.strip("'\" ")
        if choice not in knob.choices:
            raise SettingsError(f"`{knob.name}` cannot be `{choice[:80]}`", hint=f"one of {', '.join(knob.choices)}")
        return choice
    try:
        number = ast.literal_eval(text.strip().capitalize() if text.strip() in ("true", "false") else text.strip())
    except (ValueError, SyntaxError, RecursionError, MemoryError, TypeError) as error:
        raise SettingsError(
            f"`{text[:80]}` is no value for `{knob.name}`", hint="write a number, `True` or `False`"
        ) from error
    if isinstance(knob.value, bool) != isinstance(number, bool) or not isinstance(number, int | float):
        raise SettingsError(f"`{text[:80]}` is no value for `{knob.name}`", hint=f"it is {knob.value!r} now")
    if abs(number) > MAX_NUMBER:
        raise SettingsError(f"`{text[:80]}` is no value for `{knob.name}`", hint=f"numbers go up to {MAX_NUMBER}")
    whole = isinstance(knob.value, int) and not isinstance(number, bool) and number == int(number)
    return int(number) if whole else number


def _nearest(name: str, known: Sequence[str]) -> str:
    nearest = difflib.get_close_matches(name, list(known), n=1)
    return f"did you mean `{nearest[0]}`?" if nearest else ""
