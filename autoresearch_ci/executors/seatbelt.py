"""The wall of native runs on macOS: `sandbox-exec` with a profile made for the run.

The profile's language is not documented by Apple; the rules here are those that the system's own profiles in
/System/Library/Sandbox/Profiles and /usr/share/sandbox use. The last rule that matches decides.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from autoresearch_ci.errors import MachineError
from autoresearch_ci.executors.confinement import (
    Confinement,
    NativeWall,
    NoWall,
    python_folders,
    read_only_entries,
)
from autoresearch_ci.executors.environment import ask

PROGRAM: Final = "/usr/bin/sandbox-exec"
# Metal compiles its shaders in a service, and asks the GPU's driver; both are neither files nor the network.
_DEVICES: Final = ("/dev/null", "/dev/zero", "/dev/random", "/dev/urandom", "/dev/dtracehelper", "/dev/tty")


@dataclass(frozen=True, slots=True)
class Seatbelt:
    """`sandbox-exec`. `home`: the user's. `python`: the folders of the Python that trains."""

    home: Path
    python: tuple[Path, ...]
    leads: bool = False  # it becomes the command

    @property
    def says(self) -> str:
        return "sandbox-exec: no network, no home, writes only to its scratch"

    def arguments(self, confinement: Confinement) -> list[str]:
        return [PROGRAM, "-p", profile(self.home, self.python, confinement)]


def find(python: Path, scratch: Path, variables: Mapping[str, str]) -> NativeWall:
    """The wall, when `sandbox-exec` lets `python` start in `scratch`; else NoWall with the reason. MachineError as `ask` has it."""
    if not Path(PROGRAM).exists():
        return NoWall("sandbox-exec is gone from this system")
    wall = Seatbelt(Path.home(), python_folders(python, variables))
    try:
        ask(python, "", variables, behind=wall.arguments(Confinement(scratch=scratch, program=python)))
    except MachineError as error:
        return NoWall(f"sandbox-exec does not work here: {error.message[:200]}")
    return wall


def profile(home: Path, python: tuple[Path, ...], confinement: Confinement) -> str:
    """The rules of a run: everything but the network, other processes, the user's home, and writing beside its scratch."""
    scratch, tree = confinement.scratch, confinement.tree
    writable = [scratch / "home", scratch / "tmp"]
    readable = [scratch, confinement.program, *python, *confinement.readable]
    if not confinement.given:
        writable.append(scratch / "outputs")
    if confinement.cache is not None:
        (writable if confinement.preparing else readable).append(confinement.cache)
    if tree is not None:
        writable.append(tree)
    lines = [
        "(version 1)",
        "(allow default)",
        "(deny network*)" if not confinement.preparing else "(allow network*)",
        "(deny file-write*)",
        f"(allow file-write* {_rules('literal', map(Path, _DEVICES))})",
        f"(deny file-read* {_rules('subpath', [home])})",
        # A path is walked from the root: the folders on the way may be asked for their properties, not for their names.
        f"(allow file-read-metadata {_rules('literal', _above(home, [*readable, *writable]))})",
        f"(allow file-read* {_rules('subpath', [*readable, *writable])})",
        f"(allow file-write* {_rules('subpath', writable)})",
    ]
    entries = list(read_only_entries(tree, confinement.directory)) if tree is not None else []
    if entries:
        lines.append(f"(deny file-write* {_rules('subpath', entries)})")
    lines += ["(deny signal)", "(allow signal (target same-sandbox))", "(deny process-info* (target others))"]
    return "\n".join(lines) + "\n"


def quoted(path: Path) -> str:
    """A path as a string of the profile's language, Scheme's."""
    return '"' + str(path).replace("\\", "\\\\").replace('"', '\\"') + '"'


def _rules(kind: str, paths: Iterable[Path]) -> str:
    """The paths by both their names: /tmp and /var are links there, and the kernel compares what they lead to."""
    both = {name for path in paths for name in (path, path.resolve())}
    return " ".join(f"({kind} {quoted(path)})" for path in sorted(both))


def _above(home: Path, paths: Iterable[Path]) -> list[Path]:
    folders = {folder for path in paths for folder in path.parents if folder.is_relative_to(home)}
    return sorted(folders | {home})
