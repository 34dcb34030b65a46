"""Untrusted text, numbers and times as they stand in a Markdown report.

Descriptions and reasons come from scripts, logs and proposers; what they say is shown, and does nothing.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Iterable, Sequence
from typing import Final

NO_VALUE: Final = "—"
MAX_PLAIN: Final = 1e9  # larger numbers are written with exponents
MAX_DECIMALS: Final = 9
BREAK: Final = "\u200b"  # zero-width space
ESCAPE_SEQUENCE: Final = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|[@-Z\\^_])")
# Of no control category, and yet invisible: fillers, grapheme joiner, blank Braille pattern, variation selectors.
INVISIBLE: Final = re.compile("[\u034f\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0\ufe00-\ufe0f\U000e0100-\U000e01ef]")
# An entity is never read as Markdown's own punctuation (CommonMark 0.31, part 2.5), so it also holds inside a table.
ENTITIES: Final = {
    "&": "&amp;", "<": "&lt;", ">": "&gt;", "|": "&#124;", "`": "&#96;", "[": "&#91;", "]": "&#93;", "\\": "&#92;",
    "*": "&#42;", "~": "&#126;", "$": "&#36;",
}  # fmt: skip
ESCAPES: Final = str.maketrans(ENTITIES)
OUTER_UNDERSCORE: Final = re.compile(r"(?<![^\W_])_|_(?![^\W_])")  # one inside a word, as in MATRIX_LR, means nothing


def clean(text: str, limit: int) -> str:
    """One line of visible characters of `text`, cut to `limit` of them with `…`; not yet safe in Markdown or HTML."""
    plain = " ".join(ESCAPE_SEQUENCE.sub("", text[: 20 * limit]).split())
    visible = INVISIBLE.sub("", plain)
    if not visible.isprintable():
        visible = "".join(c for c in visible if not unicodedata.category(c).startswith("C"))
    visible = " ".join(visible.split())
    return visible if len(visible) <= limit else visible[: limit - 1].rstrip() + "…"


def cell(text: str, limit: int = 200) -> str:
    """`text` for one Markdown table cell or line: at most `limit` visible characters that mention nobody, close
    and link nothing, and format nothing.

    GitHub looks for `@name`, `#1` and addresses in the rendered text, where an entity is a character again; there a
    zero-width space is what keeps them apart.
    """
    return _inert(clean(text, limit))


def sentence(text: str, limit: int) -> str:
    """`text` as `cell` shows it, with what stands between backticks as code."""
    parts = [_inert(part) for part in clean(text, limit).split("`")]
    return "".join(f"<code>{part}</code>" if index % 2 and part else part for index, part in enumerate(parts))


def _inert(line: str) -> str:
    escaped = line.translate(ESCAPES)
    # The numbers of our own entities (`&#124;`) are not issue numbers.
    escaped = re.sub(r"@|(?<!&)#", lambda match: match[0] + BREAK, escaped)
    escaped = re.sub(r"(?i)\b(gh-)(?=\d)", rf"\1{BREAK}", escaped)
    escaped = re.sub(r"(?i)(:)(?=//)|(www)(?=\.)", lambda match: match[0] + BREAK, escaped)
    return OUTER_UNDERSCORE.sub("&#95;", escaped)


def number(value: float | None) -> str:
    """`value` with 6 significant digits; a dash where there is none."""
    return NO_VALUE if value is None else f"{value:.6g}"


def rounded(error: float, *values: float) -> tuple[str, ...]:
    """`values` with as many decimals as `error` has two significant digits; as `number` writes them where that says nothing."""
    plain = math.isfinite(error) and error > 0 and all(math.isfinite(v) and abs(v) < MAX_PLAIN for v in values)
    decimals = max(0, 1 - math.floor(math.log10(error))) if plain else 0
    if not plain or decimals > MAX_DECIMALS:
        return tuple(number(value) for value in values)
    return tuple(f"{round(value, decimals) + 0.0:.{decimals}f}" for value in values)  # adding zero: no `-0.00`


def duration(seconds: float) -> str:
    """`seconds` as `HH:MM`, cut to the minute; hours go on beyond 24."""
    minutes = max(0, int(seconds)) // 60
    return f"{minutes // 60:02d}:{minutes % 60:02d}"


def code(*commands: str) -> list[str]:
    """Commands as a block of shell."""
    return ["```sh", *commands, "```"]


def details(heading: str, lines: Sequence[str]) -> list[str]:
    """Lines that unfold under their heading; nothing where there are none."""
    return ["<details>", f"<summary>{heading}</summary>", "", *lines, "", "</details>", ""] if lines else []


def table(headings: Sequence[str], rows: Iterable[Sequence[str]], characters: int, where: str) -> list[str]:
    """A table of cells that are already safe, cut before it has more than `characters`."""
    lines = [f"| {' | '.join(headings)} |", f"|{'---|' * len(headings)}"]
    left = characters
    cut = 0
    for row in rows:
        line = f"| {' | '.join(row)} |"
        left -= len(line) + 1
        if left < 0:
            cut += 1
        else:
            lines.append(line)
    return [*lines, "", f"… and {cut} more in {where}"] if cut else lines
