"""The file system that a run in a container sees, over a read-only root.

`/workspace` is an empty, size-limited tmpfs into which each entry of the export is bind-mounted read-only. So a script
may write new files beside itself, but cannot change, rename, delete or replace anything that came from the commit, for
every entry is a mount point. What it writes dies with the container: nothing of it ever lies on the host, under any
uid, to be cleaned up. (New files inside folders of the export are refused, except on the way to the working directory.)
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import Final, TypedDict

from docker.types import Mount

WORKSPACE: Final = PurePosixPath("/workspace")
OUTPUTS: Final = PurePosixPath("/outputs")
HOME: Final = PurePosixPath("/home/runner")
CACHE: Final = HOME / ".cache/autoresearch"  # where upstream's scripts look for it, and AUTORESEARCH_CACHE
TEMPORARY: Final = PurePosixPath("/tmp")

# Of each tmpfs. What lies there counts as the run's memory, so that all of them together are bounded by its limit.
SCRATCH_BYTES: Final = 4 * 2**30
# `exec`, unlike Docker's default: torch.compile loads what it has compiled from there.
SCRATCH: Final = f"rw,exec,nosuid,nodev,mode=1777,size={SCRATCH_BYTES}"
# The same, as a volume of the engine's `local` driver: outputs that are wanted must outlive the run.
SHELF_OPTIONS: Final = {"type": "tmpfs", "device": "tmpfs", "o": f"nosuid,nodev,mode=1777,size={SCRATCH_BYTES}"}


class Mounts(TypedDict):
    """Arguments of docker-py: options by path, and what is bound to where."""

    tmpfs: dict[str, str]
    mounts: list[Mount]


def mounts(
    tree: Path | None,
    directory: str,
    cache: Path | None,
    *,
    cache_writable: bool,
    given: Path | None = None,
    shelf: str | None = None,
) -> Mounts:
    """What to mount for a run in `directory` of the export `tree`, with the data cache `cache`.

    The outputs folder is a tmpfs; or the folder `given`, which cannot be changed; or the engine's volume `shelf`.
    """
    writable = [HOME, CACHE.parent, TEMPORARY, WORKSPACE]
    bound: list[Mount] = []
    if given is not None:
        bound.append(_bind(given, OUTPUTS))
    elif shelf is not None:
        bound.append(shelf_mount(shelf))
    else:
        writable.append(OUTPUTS)
    if cache is not None:
        bound.append(_bind(cache, CACHE, read_only=not cache_writable))
    if tree is not None:
        folder, target = tree, WORKSPACE
        for part in (*PurePosixPath(directory).parts, None):
            bound += _entries(tree, folder, target, leave_out=part)
            if part is not None:
                folder, target = folder / part, target / part
                writable.append(target)
    return {"tmpfs": {str(path): SCRATCH for path in writable}, "mounts": bound}


def shelf_mount(name: str, *, read_only: bool = False) -> Mount:
    """The outputs folder as the engine's volume `name`."""
    return Mount(str(OUTPUTS), name, type="volume", read_only=read_only, no_copy=True)


def make_export_readable(tree: Path) -> None:
    """Lets the run's uid read the export, whatever umask it was written under."""
    for path in (tree, *tree.rglob("*")):
        if not path.is_symlink():
            make_readable(path)


def make_readable(path: Path) -> None:
    """Gives everybody the owner's right to read and to enter, never to write."""
    mode = path.stat().st_mode
    wanted = mode | (mode & 0o500) >> 3 | (mode & 0o500) >> 6
    if wanted != mode:
        with suppress(PermissionError):  # a cache of somebody else's: their rights, their choice
            path.chmod(wanted)


def _entries(tree: Path, folder: Path, target: PurePosixPath, *, leave_out: str | None) -> Iterator[Mount]:
    """A read-only mount for each entry of a folder of the export.

    A link stands for what it points to inside the export; one that points elsewhere is left out, for the engine would
    follow it on the host.
    """
    inside = tree.resolve()
    for entry in sorted(folder.iterdir()):
        source = entry.resolve()
        if entry.name != leave_out and source.is_relative_to(inside) and source.exists():
            yield _bind(source, target / entry.name)


def _bind(source: Path, target: PurePosixPath, *, read_only: bool = True) -> Mount:
    return Mount(str(target), str(source.resolve()), type="bind", read_only=read_only)
