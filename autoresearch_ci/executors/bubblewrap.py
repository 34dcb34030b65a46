"""The wall of native runs on Linux, where bubblewrap is installed: new namespaces with little in them.

A run sees the system's programs and libraries, the Python that trains, its export, the data cache (none of which it can
change), and its scratch; at the same paths as outside, so that nothing must be translated. It has no network, no process but its
own, no capability, and not the system calls of `seccomp`. What a container has and it lacks: the rest of the engine's filter of
system calls, and the limits of a control group.
"""

from __future__ import annotations

import platform
import shutil
import subprocess
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from autoresearch_ci.executors import seccomp
from autoresearch_ci.executors.confinement import Confinement, NativeWall, NoWall, python_folders, read_only_entries

USER: Final = 65532  # the uid and gid that a run sees as its own: that of nobody else
SHM_BYTES: Final = 2**30  # as in a container
PROBE_TIMEOUT_S: Final = 30.0

_SYSTEM: Final = tuple(map(Path, ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/nix/store")))
_CONFIGURATION: Final = (
    "ld.so.cache", "ld.so.conf", "ld.so.conf.d", "alternatives", "localtime", "nsswitch.conf", "ssl", "pki",
    "ca-certificates",
)  # fmt: skip
# The documentation of CUDA's and ROCm's containers lists these; /dev/dxg is the one of WSL.
_ACCELERATORS: Final = ("nvidia*", "kfd", "dri", "dxg")


@dataclass(frozen=True, slots=True)
class Bubblewrap:
    """bubblewrap, as it is on this machine.

    `python`: the folders of the Python that trains. `options`: those of `bwrap --help` that older versions lack.
    """

    program: str
    python: tuple[Path, ...]
    options: frozenset[str] = frozenset()
    leads: bool = True

    @property
    def says(self) -> str:
        return "bubblewrap: no network, no home, its own processes, writes only to its scratch"

    def arguments(self, confinement: Confinement) -> list[str]:
        """The words before the command. Later ones are mounted over earlier ones."""
        filtered, namespaces = self._filter(confinement), self._namespaces(confinement)
        return [*filtered, *namespaces, *self._files(confinement), "--"]

    def _filter(self, confinement: Confinement) -> Iterator[str]:
        """bubblewrap, by a shell that opens it the filter of system calls, where this machine has one."""
        if refused := seccomp.program(platform.machine()):
            file = confinement.scratch / "seccomp"
            file.write_bytes(refused)
            yield from ("/bin/sh", "-c", 'exec "$@" 9< "$0"', str(file), self.program, "--seccomp", "9")
        else:
            yield self.program

    def _namespaces(self, confinement: Confinement) -> Iterator[str]:
        yield from ("--unshare-all", "--unshare-user", "--uid", str(USER), "--gid", str(USER), "--cap-drop", "ALL")
        yield from ("--die-with-parent", "--new-session", "--hostname", "run")
        if "--disable-userns" in self.options:
            yield "--disable-userns"
        if confinement.preparing:
            yield "--share-net"

    def _files(self, confinement: Confinement) -> Iterator[str]:
        scratch, tree = confinement.scratch, confinement.tree
        writable = [scratch / name for name in ("home", "tmp", "outputs")]
        readable = [*self.python, *_outside(self.python, confinement.program), *confinement.readable]
        if confinement.cache is not None:
            (writable if confinement.preparing else readable).append(confinement.cache.absolute())
        if tree is not None:
            writable.append(tree)
        if confinement.given:
            readable.append(scratch / "outputs")
            writable.remove(scratch / "outputs")
        for path in _SYSTEM:
            if path.is_symlink():
                yield from ("--symlink", str(path.readlink()), str(path))
            elif path.exists():
                yield from _bind(path)
        yield from self._configuration(confinement)
        # Read-only, for as root's run it would own the kernel's settings in there: they ask for the uid, not for a capability.
        yield from ("--proc", "/proc", "--remount-ro", "/proc", "--dev", "/dev")
        for pattern in _ACCELERATORS:
            for device in sorted(Path("/dev").glob(pattern)):
                yield from ("--dev-bind-try", str(device), str(device))
        yield from ("--remount-ro", "/dev", *self._sized(SHM_BYTES), "--tmpfs", "/dev/shm")
        yield from _try("/sys" if _has_accelerator() else "/sys/devices/system")
        yield from (*self._sized(SHM_BYTES), "--tmpfs", "/tmp")
        # What is bound below /tmp lies in folders that the mounts need; those must not become one more place to write to.
        needed = sorted({f"/tmp/{path.parts[2]}" for path in (*readable, *writable) if path.parts[:2] == ("/", "tmp")})
        made = [folder for folder in needed if Path(folder) not in readable + writable]
        for folder in made:
            yield from ("--tmpfs", folder)
        for path in readable:
            yield from _bind(path)
        for path in writable:
            yield from ("--bind", str(path), str(path))
        if tree is not None:
            for entry in read_only_entries(
                tree, confinement.directory
            ):  # as mount points they cannot be replaced either
                yield from _bind(entry)
            yield from ("--chdir", str(tree / confinement.directory))
        else:
            yield from ("--chdir", str(scratch / "home"))
        for folder in (*made, "/"):
            yield from ("--remount-ro", folder)

    def _configuration(self, confinement: Confinement) -> Iterator[str]:
        """The harmless part of /etc; users and hosts are the run's own."""
        for name in _CONFIGURATION:
            yield from _try(f"/etc/{name}")
        own = {
            "passwd": f"research:x:{USER}:{USER}::{confinement.scratch / 'home'}:/bin/sh\n",
            "group": f"research:x:{USER}:\n",
            "hosts": "127.0.0.1 localhost run\n::1 localhost\n",
        }
        if confinement.preparing:
            del own["hosts"]
            for name in ("hosts", "resolv.conf"):  # the second is often a link into /run
                yield from ("--ro-bind-try", str(Path("/etc", name).resolve()), f"/etc/{name}")
        for name, text in own.items():
            file = confinement.scratch / name
            file.write_text(text, encoding="utf-8")
            yield from ("--ro-bind", str(file), f"/etc/{name}")

    def _sized(self, size_bytes: int) -> tuple[str, ...]:
        return ("--size", str(size_bytes)) if "--size" in self.options else ()


def find(python: Path, scratch: Path, variables: Mapping[str, str]) -> NativeWall:
    """The wall, when it can be built on this machine; else NoWall with the reason.

    Tried once with everything a run needs, in `scratch`, which has `home`, `tmp` and `outputs`. Raises MachineError when
    `python` cannot be asked where it is installed.
    """
    program = shutil.which("bwrap")
    if program is None:
        return NoWall("bubblewrap is not installed")
    try:
        help_text = _said([program, "--help"], variables)
        options = frozenset(name for name in ("--size", "--disable-userns") if name in help_text)
        wall = Bubblewrap(program, python_folders(python, variables), options)
        _said([*wall.arguments(Confinement(scratch=scratch, program=python)), str(python), "-c", ""], variables)
    except subprocess.CalledProcessError as error:
        last = next(
            (line for line in reversed(error.stdout.splitlines()) if line.strip()), f"exit code {error.returncode}"
        )
        return NoWall(f"bubblewrap does not work here: {last[:200]}")
    except (OSError, subprocess.TimeoutExpired) as error:
        return NoWall(f"bubblewrap does not work here: {getattr(error, 'strerror', None) or 'it hangs'}")
    return wall


def _said(arguments: list[str], variables: Mapping[str, str]) -> str:
    return subprocess.run(
        arguments, env=dict(variables), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        encoding="utf-8", errors="replace", timeout=PROBE_TIMEOUT_S, check=True,
    ).stdout  # fmt: skip


def _bind(path: Path) -> tuple[str, ...]:
    return ("--ro-bind", str(path), str(path))


def _try(path: str) -> tuple[str, ...]:
    return ("--ro-bind-try", path, path)


def _has_accelerator() -> bool:
    return any(True for pattern in _ACCELERATORS for _ in Path("/dev").glob(pattern))


def _outside(folders: Iterable[Path], program: Path) -> list[Path]:
    """The command's program, where it lies in none of the folders that are bound anyway."""
    if any(program.is_relative_to(folder) for folder in (*_SYSTEM, *folders)):
        return []
    return [program]
