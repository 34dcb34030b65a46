"""Pure: a unified diff of the training script, and the script with it applied.

The lines around a change must be there exactly; where they stand may have moved, as for `git apply`.
"""

from __future__ import annotations

from dataclasses import dataclass

from unidiff import patch as unified
from unidiff.errors import UnidiffParseError

from autoresearch_ci.errors import SettingsError


class DoesNotFit(ValueError):  # noqa: N818 - an answer, not an error
    """The script has not the lines that a patch changes: the text says which."""


@dataclass(frozen=True, slots=True)
class Hunk:
    """`old` lines, found at line `line` (from 1) when the patch was made, and the `new` ones in their place."""

    line: int
    old: tuple[str, ...]
    new: tuple[str, ...]


def read_patch(data: bytes, path: str, script_name: str) -> tuple[Hunk, ...]:
    """The hunks of the patch in the file `path`. SettingsError when it is none, or changes anything but `script_name`."""
    shown = path[:80]
    try:
        patches = unified.PatchSet(data.decode("utf-8"))
    except (UnidiffParseError, UnicodeDecodeError) as error:
        raise SettingsError(f"`{shown}` is no unified diff", hint="make it by `git diff > FILE`") from error
    for patch in patches:
        if patch.path != script_name or patch.is_added_file or patch.is_removed_file or patch.is_rename:
            raise SettingsError(
                f"the patch `{shown}` changes `{patch.path[:80]}`", hint=f"only {script_name} may be changed"
            )
    hunks = tuple(_hunk(hunk) for patch in patches for hunk in patch)
    if not hunks:
        raise SettingsError(f"the patch `{shown}` changes nothing", hint="make it by `git diff > FILE`")
    if not all(hunk.old for hunk in hunks):
        raise SettingsError(
            f"the patch `{shown}` has no lines around a change", hint="make it by `git diff > FILE`, without `-U0`"
        )
    return hunks


def apply_hunks(script: str, hunks: tuple[Hunk, ...]) -> str:
    """The script with every hunk applied, each at the place nearest to where it was made. DoesNotFit when one fits nowhere."""
    lines = script.replace("\r\n", "\n").split("\n")
    moved, start = 0, 0
    for hunk in hunks:
        size = len(hunk.old)
        expected = hunk.line - 1 + moved
        places = [n for n in range(start, len(lines) - size + 1) if tuple(lines[n : n + size]) == hunk.old]
        if not places:
            raise DoesNotFit(f"the lines of the patch from line {hunk.line} are not there")
        place = min(places, key=lambda n: abs(n - expected))
        lines[place : place + size] = hunk.new
        start = place + len(hunk.new)
        moved = start - (hunk.line - 1 + size)
    return ("\r\n" if "\r\n" in script else "\n").join(lines)


def _hunk(hunk: unified.Hunk) -> Hunk:
    lines = [(line.line_type, line.value.rstrip("\r\n")) for line in hunk]
    return Hunk(
        line=hunk.source_start,
        old=tuple(text for kind, text in lines if kind in (" ", "-")),  # not `\ No newline at end of file`
        new=tuple(text for kind, text in lines if kind in (" ", "+")),
    )
