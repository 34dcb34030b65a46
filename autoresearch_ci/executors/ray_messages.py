"""What passes between the session, its driver of the cluster and the workers on the nodes: plain values, pickled.

The session never speaks to Ray itself: Ray's library ends the process that uses it when a head or a local node dies, hangs
where nothing answers, and hands its environment on to what it starts. A child without any secret does (`ray_driver.py`).
"""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import IO, TYPE_CHECKING, Any, Final, Literal, TypeAlias

from autoresearch_ci.errors import AutoresearchError, MachineError, SettingsError
from autoresearch_ci.experiment import Run

if TYPE_CHECKING:
    from autoresearch_ci.runs import RunRequest

LOCAL: Final = "local"  # the address of a cluster that is started for the session, on this machine
AUTO: Final = "auto"  # that of the one that this machine belongs to
What: TypeAlias = Literal["join", "open", "run", "prepare", "probe", "interrupt"]
Kind: TypeAlias = Literal["container", "native"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """What every worker makes its runs with: the settings that the executors here get, for the ones on the nodes.

    `session`: unique to it, for names and folders. `cache`: the data cache as it is set, on each node its own. `requirements`: the
    content of the repository's requirements file. `walled`: False leaves the wall of native runs away, for a comparison.
    """

    session: str
    cache: str
    platform: str = "auto"
    memory: int | None = None
    cpus: float | None = None
    shm_size: int | None = None
    base_image: str | None = None
    requirements: bytes | None = None
    build_args: Mapping[str, str] = field(default_factory=dict)
    registry: str = ""
    walled: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What is asked of the cluster. `parallel`: so many slots; None: as many as there is room for. `local_cpus`: of LOCAL.

    `kind`: how runs are made on the nodes; `auto`: in containers where every node has an engine. `patience_s`: how long nothing
    but waiting for room, or for a cluster that was there, may happen.
    """

    address: str
    setup: Setup
    parallel: int | None = None
    device_class: str | None = None
    kind: Kind | Literal["auto"] = "auto"
    allow_native: bool = False
    local_cpus: int | None = None
    patience_s: float = 300.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Ready:
    """The cluster, as the session uses it. `says`: which nodes, in one line for a person. `wall`: what holds natively. `probed`: what
    the probe of the platform said on the first node; it says the same on every one."""

    slots: int
    kind: Kind
    device_class: str
    says: str
    wall: str = ""
    probed: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class About:
    """What a node is, as a worker on it says. `engine`: why no container engine answers there; empty when one does."""

    version: str
    python: str
    engine: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """An error that a person can act on, on its way to the session. `settings`: it is the settings' and not the machine's."""

    message: str
    hint: str
    settings: bool = False

    @classmethod
    def of(cls, error: AutoresearchError, *, where: str = "") -> Refused:
        message = f"{where}: {error.message}" if where else error.message
        return cls(message=message, hint=error.hint, settings=isinstance(error, SettingsError))

    def error(self) -> AutoresearchError:
        kind = SettingsError if self.settings else MachineError
        return kind(self.message, hint=self.hint)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a worker hands back. `outputs`: a tar of what the run left, where it was wanted. `changed`: the files of its export
    that are not as they were."""

    run: Run
    outputs: bytes | None = None
    changed: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Tail:
    """A portion of a log that grows. `notice`: its first line where its front was dropped, and everything moved."""

    notice: bytes
    data: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """One thing that the session asks its driver. `number` is unique: the answer bears it, and an interrupt names it."""

    number: int
    what: What
    wanted: Wanted | None = None
    request: RunRequest | None = None
    script: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """`value`: a Ready, a Run or a text, as asked; or a Refused."""

    number: int
    value: Ready | Run | str | Refused


def send(stream: IO[bytes], message: Ask | Answer) -> None:
    stream.write(pickle.dumps(message))
    stream.flush()


def receive(stream: IO[bytes]) -> Any:
    """The next message; EOFError when the other side is gone, also in the middle of one."""
    try:
        return pickle.load(stream)
    except pickle.UnpicklingError as error:  # cut off
        raise EOFError from error
