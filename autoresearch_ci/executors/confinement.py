"""What a native run may reach, and the walls that can see to it: `bubblewrap` on Linux, `seatbelt` on macOS, or none."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Protocol

from autoresearch_ci.errors import MachineError
from autoresearch_ci.executors.environment import ask


@dataclass(frozen=True, slots=True, kw_only=True)
class Confinement:
    """What one run may reach besides the system's own programs and the Python that trains.

    `scratch`: the run's own folder, with `home`, `tmp` and `outputs` in it. `program`: the first word of its command. `tree`: its
    export, in whose folder `directory` the command starts. `given`: whether its outputs folder is not to be changed. `readable`:
    further files, as those of the user's certificates. `preparing`: the `prepare` command, which has the network and fills the
    cache.
    """

    scratch: Path
    program: Path
    tree: Path | None = None
    directory: str = "."
    cache: Path | None = None
    given: bool = False
    readable: tuple[Path, ...] = ()
    preparing: bool = False


class NativeWall(Protocol):
    """What stands between a native run and the machine."""

    @property
    def says(self) -> str:
        """In one line, what holds; `none: ` and why, where nothing does."""

    @property
    def leads(self) -> bool:
        """Whether the first process of a run is the wall's own and not the command's."""

    def arguments(self, confinement: Confinement, /) -> list[str]:
        """What to put before the command."""


@dataclass(frozen=True, slots=True)
class NoWall:
    """Nothing: the run has the rights of the user."""

    why: str
    leads: bool = False

    @property
    def says(self) -> str:
        return f"none: {self.why}"

    def arguments(self, _confinement: Confinement) -> list[str]:
        return []


def read_only_entries(tree: Path, directory: str) -> Iterator[Path]:
    """What the export holds, but for links and the folders on the way to the working directory, whose entries are given instead.

    When none of these can be changed, nothing of the commit can, while a script may still make new files beside itself.
    """
    folder = tree
    for part in (*PurePosixPath(directory).parts, None):
        for entry in sorted(folder.iterdir()):
            if entry.name != part and not entry.is_symlink():
                yield entry
        if part is not None:
            folder = folder / part


def python_folders(python: Path, variables: Mapping[str, str]) -> tuple[Path, ...]:
    """The folders without which this Python does not start: its own, that of its base, and where their links lead.

    Only these, never what a `.pth` names: an editable installation may be a checkout with credentials in its `.git`. Raises
    MachineError when it cannot be asked.
    """
    answer = ask(
        python, "import json, sys; print(json.dumps([sys.prefix, sys.exec_prefix, sys.base_prefix]))", variables
    )
    try:
        told = [Path(str(folder)) for folder in json.loads(answer.splitlines()[-1])]
    except (ValueError, IndexError, TypeError) as error:
        raise MachineError(f"{python} does not say where it is installed", hint="install that Python again") from error
    folders = [folder for each in told for folder in (each, each.resolve()) if folder.is_dir()]
    return tuple(sorted({folder for folder in folders if folder.parent != folder}))
