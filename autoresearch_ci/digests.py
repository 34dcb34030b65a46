"""What must not change: every file of the base commit but the training script, by its SHA-256.

Taken once, from an export of the base commit, and kept in the journal in the form that `sha256sum --check` reads. Each run's
own export is compared with them before and after it.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Final

DIGESTS_FILE: Final = "files.sha256"


def take(tree: Path, script: str) -> dict[str, str]:
    """The digest of every file in `tree` but `script`, by its path; of a link, of where it points to."""
    found: dict[str, str] = {}
    for folder, folders, names in os.walk(tree):
        links = [name for name in folders if Path(folder, name).is_symlink()]
        for name in (*names, *links):
            path = Path(folder, name)
            where = path.relative_to(tree).as_posix()
            if where != script:
                found[where] = _digest(path)
    return dict(sorted(found.items()))


def changed(tree: Path, digests: Mapping[str, str], absent: Sequence[str] = ()) -> list[str]:
    """The paths whose file in `tree` is not what `digests` says, or is gone; those in `absent` are known to be."""
    missing = frozenset(absent)
    return [where for where, digest in digests.items() if where not in missing and _digest(tree / where) != digest]


def hide(tree: Path, patterns: Sequence[str], digests: Mapping[str, str]) -> list[str]:
    """Removes from `tree` what one of the patterns names (a path, a folder or a glob); the paths of its files."""
    if not patterns:
        return []
    hidden = [where for where in digests if any(_named(PurePosixPath(where), pattern) for pattern in patterns)]
    for where in hidden:
        (tree / where).unlink()
    for pattern in patterns:  # an empty folder would still tell that there is something
        folder = tree / pattern
        if folder.is_dir() and not folder.is_symlink():
            shutil.rmtree(folder)
    return hidden


def write(digests: Mapping[str, str]) -> bytes:
    """The digests as `sha256sum` writes them: a name with a newline or a backslash is escaped, and its line says so."""
    lines = []
    for where, digest in digests.items():
        name = where.replace("\\", "\\\\").replace("\n", "\\n").replace("\r", "\\r")
        lines.append(f"{digest}  {name}\n" if name == where else f"\\{digest}  {name}\n")
    return os.fsencode("".join(lines))


def _named(where: PurePosixPath, pattern: str) -> bool:
    return any(path.match(pattern) or str(path) == pattern.rstrip("/") for path in (where, *where.parents[:-1]))


def _digest(path: Path) -> str:
    """Of a file's bytes, of a link's target; of anything else, and of nothing, a text that is no digest."""
    try:
        if path.is_symlink():
            return hashlib.sha256(os.fsencode(os.readlink(path))).hexdigest()  # noqa: PTH115 - its bytes, as they are
        if not path.is_file():  # a fifo would be waited for
            return "no file"
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return "unreadable"
