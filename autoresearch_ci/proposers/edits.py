"""Pure: what a model answered → the next version of the training script.

An answer is a few plain lines (`HYPOTHESIS:`, `CATEGORY:`, `DESCRIPTION:`), then code in fences: search/replace blocks, or the whole
file. Never code inside JSON, and never line numbers: models are worse at both (aider's published benchmarks). What does not
fit is an `Unusable` that says how to do better, so that it can be sent back; nothing is applied by halves.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Final, Literal

from autoresearch_ci.experiment import Category
from autoresearch_ci.report.markdown import clean

EditFormat = Literal["blocks", "whole"]

MAX_DESCRIPTION: Final = 120
MAX_HYPOTHESIS: Final = 1000
CLOSEST: Final = 0.5  # how alike lines must be to be shown as what was probably meant
COMPLETE: Final = 0.5  # of the script's lines: a shorter answer without markers is a fragment, not the file
MAX_COMPARED: Final = 400  # lines of a block that are looked for by likeness
_FIELD: Final = re.compile(r"[\W_]*(HYPOTHESIS|CATEGORY|DESCRIPTION)[\W_]*:[\s*_]*(.*)", re.IGNORECASE)
_FENCE: Final = re.compile(r"\s{0,3}(`{3,}|~{3,})\s*([\w+.-]*)[^`]*")
_SEARCH: Final = re.compile(r"\s{0,3}<{5,9}\s*SEARCH\b.*")
_DIVIDER: Final = re.compile(r"\s{0,3}={5,9}\s*")
_REPLACE: Final = re.compile(r"\s{0,3}>{5,9}\s*REPLACE\b.*")
_FILE: Final = re.compile(r"[\s#*`]*(?:file(?:name)?\s*:\s*)?[*`]*([\w./-]+\.[A-Za-z]\w{0,5})[*`:\s]*", re.IGNORECASE)
_DIFF: Final = re.compile(r"(?:--- |\+\+\+ )(?:[ab]/)?(\S+)")


class Unusable(ValueError):  # noqa: N818 - it is said to a model
    """An answer from which no script can be made: the text says why, to the model that gave it."""


@dataclass(frozen=True, slots=True)
class Block:
    """One search/replace block."""

    search: str
    replace: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Suggestion:
    """A model's answer, read: the next script, and why. What it did not say is empty (`other` for the category)."""

    script: str
    hypothesis: str = ""
    description: str = ""
    category: Category = Category.OTHER


def read_answer(text: str, script: str, name: str) -> Suggestion:
    """The script that the answer makes of `script`, whose file is called `name`. Unusable when it makes none.

    Which form the answer has is seen from itself: a model that was asked for blocks may give the whole file.
    """
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    plain = script.replace("\r\n", "\n")
    fields = _fields(lines)
    blocks = _blocks(lines, name)
    new = apply_blocks(plain, blocks) if blocks else _whole(lines, plain, name)
    if "\r\n" in script:
        new = new.replace("\n", "\r\n")
    return Suggestion(
        script=new,
        hypothesis=clean(fields.get("hypothesis", ""), MAX_HYPOTHESIS),
        description=clean(fields.get("description", ""), MAX_DESCRIPTION),
        category=_category(fields.get("category", "")),
    )


def read_fields(text: str) -> tuple[str, str, Category]:
    """(hypothesis, description, category) as an agent's output ends with; empty and `other` where it does not say."""
    matches = (_FIELD.fullmatch(line[:4000]) for line in text.splitlines())
    fields = {match[1].lower(): match[2].strip(" \t*_`") for match in matches if match}
    return (
        clean(fields.get("hypothesis", ""), MAX_HYPOTHESIS),
        clean(fields.get("description", ""), MAX_DESCRIPTION),
        _category(fields.get("category", "")),
    )


def apply_blocks(script: str, blocks: Sequence[Block]) -> str:
    """The script with every block applied, in order. Unusable, with the closest lines, when one fits nowhere or twice."""
    for number, block in enumerate(blocks, start=1):
        which = f"block {number} of {len(blocks)}" if len(blocks) > 1 else "the block"
        if not block.search.strip():
            raise Unusable(f"the SEARCH part of {which} is empty: quote the lines that the new ones replace or follow")
        found = list(_places(script, block))
        if not found:
            raise Unusable(f"the SEARCH part of {which} is not in the file.\n{_closest(script, block)}")
        if len(found) > 1:
            raise Unusable(f"the SEARCH part of {which} is in the file {len(found)} times: quote more lines around it")
        start, end, new = found[0]
        script = script[:start] + new + script[end:]
    return script


def _places(script: str, block: Block) -> Iterator[tuple[int, int, str]]:
    """Where the block fits, with what to write there: exactly; else but for trailing blanks; else but for its indentation."""
    lines = script.split("\n")
    offsets = [0]
    for line in lines:
        offsets.append(offsets[-1] + len(line) + 1)
    wanted, new = block.search.split("\n"), block.replace.split("\n")
    for fits in (_exactly, _but_for_trailing_blanks, _but_for_indentation):
        any_fits = False
        for at in range(len(lines) - len(wanted) + 1):
            here = lines[at : at + len(wanted)]
            shifted = fits(here, wanted, new)
            if shifted is None:
                continue
            any_fits = True
            end = offsets[at + len(wanted)] - 1
            if block.replace:
                yield offsets[at], end, "\n".join(shifted)
            else:  # deleted with its line break
                yield offsets[at], min(end + 1, len(script)), ""
        if any_fits:
            return


def _exactly(here: list[str], wanted: list[str], new: list[str]) -> list[str] | None:
    return new if here == wanted else None


def _but_for_trailing_blanks(here: list[str], wanted: list[str], new: list[str]) -> list[str] | None:
    return new if [line.rstrip() for line in here] == [line.rstrip() for line in wanted] else None


def _but_for_indentation(here: list[str], wanted: list[str], new: list[str]) -> list[str] | None:
    """All lines moved by the same blanks; the new ones are then moved as well."""
    pairs = [(line.rstrip(), want.rstrip()) for line, want in zip(here, wanted, strict=True)]
    if any(line.lstrip() != want.lstrip() for line, want in pairs):
        return None
    margins = [(_margin(line), _margin(want)) for line, want in pairs if want]
    added = {line.removesuffix(want) for line, want in margins if line.endswith(want)}
    removed = {want.removesuffix(line) for line, want in margins if want.endswith(line)}
    if len(added) == 1 and all(line.endswith(want) for line, want in margins):
        (margin,) = added
        return [margin + line if line.strip() else line for line in new]
    if len(removed) == 1 and all(want.endswith(line) for line, want in margins):
        (margin,) = removed
        if all(line.startswith(margin) or not line.strip() for line in new):
            return [line.removeprefix(margin) for line in new]
    return None


def _margin(line: str) -> str:
    return line[: len(line) - len(line.lstrip())]


def _closest(script: str, block: Block) -> str:
    """What the model probably meant, for it to quote."""
    lines, wanted = script.split("\n"), block.search.strip("\n").split("\n")[:MAX_COMPARED]
    matcher = difflib.SequenceMatcher(autojunk=False)
    matcher.set_seq2([line.strip() for line in wanted])
    best, where = CLOSEST, -1
    for at in range(max(1, len(lines) - len(wanted) + 1)):
        matcher.set_seq1([line.strip() for line in lines[at : at + len(wanted)]])
        if matcher.quick_ratio() > best and (ratio := matcher.ratio()) > best:
            best, where = ratio, at
    if where < 0 and (near := difflib.get_close_matches(wanted[0], lines, n=1, cutoff=CLOSEST)):
        where = lines.index(near[0])
    if where < 0:
        return "No lines of the file are like it: quote them exactly as the file has them."
    quoted = "\n".join(lines[where : where + len(wanted)])
    return f"The closest lines of the file are:\n```\n{quoted}\n```"


def _fields(lines: list[str]) -> dict[str, str]:
    """The first of each field, before any code."""
    found: dict[str, str] = {}
    for line in lines:
        if _FENCE.fullmatch(line) or _SEARCH.fullmatch(line):
            break
        match = _FIELD.fullmatch(line[:4000])
        if match:
            found.setdefault(match[1].lower(), match[2].strip(" \t*_`"))
    return found


def _category(said: str) -> Category:
    words = said.lower()
    return next((category for category in Category if category.value in words), Category.OTHER)


def _blocks(lines: list[str], name: str) -> list[Block]:
    """All search/replace blocks. Unusable when one is not complete, or stands under the name of another file."""
    blocks: list[Block] = []
    at = 0
    while at < len(lines):
        if not _SEARCH.fullmatch(lines[at]):
            at += 1
            continue
        _check_file(lines, at, name)
        divider = next((i for i in range(at + 1, len(lines)) if _DIVIDER.fullmatch(lines[i])), None)
        end = next((i for i in range((divider or at) + 1, len(lines)) if _REPLACE.fullmatch(lines[i])), None)
        if divider is None or end is None:
            raise Unusable(
                "a search/replace block has no end: write `=======` and `>>>>>>> REPLACE` on lines of their own"
            )
        blocks.append(Block("\n".join(lines[at + 1 : divider]), "\n".join(lines[divider + 1 : end])))
        at = end + 1
    return blocks


def _check_file(lines: list[str], at: int, name: str) -> None:
    """The lines above a block may name its file, as many models do; it must be ours."""
    for line in lines[max(0, at - 2) : at]:
        match = _FILE.fullmatch(line)
        if match and PurePosixPath(match[1]).name != PurePosixPath(name).name:
            raise Unusable(f"it changes {match[1][:80]}, and only {name} may be changed")


def _whole(lines: list[str], script: str, name: str) -> str:
    """The file, from the longest fence."""
    fences = list(_fences(lines))
    if not fences:
        raise Unusable("there is no code in the answer: put it between lines of ``` as the task says")
    start, end = max(fences, key=lambda fence: fence[1] - fence[0])
    body = lines[start:end]
    diffs = [match[1] for line in body if (match := _DIFF.match(line))]
    if diffs and any(line.startswith("@@") for line in body):
        others = [path for path in diffs if PurePosixPath(path).name not in (PurePosixPath(name).name, "null")]
        if others:
            raise Unusable(f"it is a patch of {others[0][:80]}, and only {name} may be changed")
        raise Unusable("it is a unified diff: write search/replace blocks or the whole file instead")
    _check_file(lines, start - 1, name)
    text = "\n".join(body).strip("\n") + "\n"
    if len(body) < COMPLETE * len(script.rstrip("\n").split("\n")) and len(text) < COMPLETE * len(script):
        raise Unusable(
            "the code is a fragment: give search/replace blocks, or the whole file without leaving anything out"
        )
    return text


def _fences(lines: list[str]) -> Iterator[tuple[int, int]]:
    """(first line, end) of what stands between fences; the last one may be open, as in an answer that was cut."""
    at = 0
    while at < len(lines):
        match = _FENCE.fullmatch(lines[at])
        if not match:
            at += 1
            continue
        fence = match[1]
        end = next((i for i in range(at + 1, len(lines)) if lines[i].strip() == fence), len(lines))
        yield at + 1, end
        at = end + 1
