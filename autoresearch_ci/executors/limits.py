"""What a native run may use of the machine. The memory is the executor's own setting."""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

from autoresearch_ci.executors.process_tree import ProcessTree

MAX_PROCESSES: Final = 2048  # as in a container
MAX_FILE_BYTES: Final = 4 * 2**30  # of one file; as the scratch of a container
MAX_DISK_BYTES: Final = 4 * 2**30  # of all files that a run leaves in its scratch and its export, or holds open
DISK_TICK_S: Final = 1.0
_ENTRY_BYTES: Final = 4096  # each name counts at least that: a million empty files are no small thing
_BLOCK_BYTES: Final = 512  # POSIX: of `ulimit -f`, and of `st_blocks`


def limited(arguments: list[str], *, largest_file: bool) -> list[str]:
    """The command behind a shell that forbids it memory dumps, and files above MAX_FILE_BYTES, and becomes it.

    By a shell and not by `preexec_fn`, which may hang a program that has threads. What a shell exports by itself is removed.
    """
    if sys.platform == "win32":
        return arguments
    size = str(MAX_FILE_BYTES // _BLOCK_BYTES) if largest_file else "unlimited"
    script = 'ulimit -c 0; ulimit -f "$0"; exec /usr/bin/env -u _ -u PWD -u OLDPWD -u SHLVL "$@"'
    return ["/bin/sh", "-c", script, size, *arguments]


class Disk:
    """What a run writes into these folders of its own. Make it before the run: what is there already does not count."""

    def __init__(self, folders: tuple[Path, ...]) -> None:
        self._folders = folders
        self._devices = {folder.stat().st_dev for folder in folders}
        self._before = sum(map(_entry_bytes, self._entries()))

    def used_bytes(self, tree: ProcessTree) -> int:
        """Counts no further than a little above MAX_DISK_BYTES."""
        used = -self._before
        for status in self._entries():
            used += _entry_bytes(status)
            if used > MAX_DISK_BYTES:
                return used
        return used + self._nameless_bytes(tree)

    def _entries(self) -> Iterator[os.stat_result]:
        for top in self._folders:
            for folder, names, files in os.walk(top):
                for name in (*names, *files):
                    with suppress(OSError):
                        yield os.lstat(os.path.join(folder, name))  # noqa: PTH118 - a Path for each is slow

    def _nameless_bytes(self, tree: ProcessTree) -> int:
        """Of files that the run has removed and still holds open; only Linux tells."""
        if sys.platform != "linux":
            return 0
        found: dict[tuple[int, int], int] = {}
        for process in tree.members():
            with suppress(OSError):
                for descriptor in Path(f"/proc/{process.pid}/fd").iterdir():
                    with suppress(OSError):
                        status = descriptor.stat()
                        if stat.S_ISREG(status.st_mode) and status.st_nlink == 0 and status.st_dev in self._devices:
                            found[status.st_dev, status.st_ino] = status.st_blocks * _BLOCK_BYTES
        return sum(found.values())


def _entry_bytes(status: os.stat_result) -> int:
    return max(_ENTRY_BYTES, getattr(status, "st_blocks", 0) * _BLOCK_BYTES)
