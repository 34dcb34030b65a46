"""Brings two versions of the training script together, as texts."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Final

from autoresearch_ci.source import fingerprint
from autoresearch_ci.workspace.clone import controlled
from autoresearch_ci.workspace.commands import Git, failure, storage

# git calls changes of two neighbouring lines a conflict, and the constants that a search moves stand one below the other.
# With this line between any two, only changes of the same line are one.
_BETWEEN: Final = "\x01 autoresearch \x01"


def merged_script(base: str, ours: str, theirs: str) -> str | None:
    """`ours` with what `theirs` changed since `base`; None when both changed the same lines, or the result is not Python.

    With `base` the script of a commit and `theirs` that of its parent, it is `ours` without the commit's change.
    """
    with storage(Path(tempfile.gettempdir())), tempfile.TemporaryDirectory(prefix="autoresearch-merge-") as name:
        folder = Path(name)
        for side, text in (("ours", ours), ("base", base), ("theirs", theirs)):
            (folder / side).write_bytes(f"\n{_BETWEEN}\n".join(text.split("\n")).encode("utf-8", "replace"))
        output = Git(folder, controlled(folder)).run("merge-file", "--stdout", "--quiet", "ours", "base", "theirs")
    if output.code > 127:
        raise failure(output, "two versions of the script cannot be merged", folder)
    if output.code:  # the number of conflicts
        return None
    merged = "\n".join(line for line in output.out.decode("utf-8", "replace").split("\n") if line != _BETWEEN)
    try:
        fingerprint(merged)
    except ValueError:
        return None
    return merged
