"""Where runs happen side by side: what of the machine, or of a cluster, belongs to one of them at a time."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from autoresearch_ci.errors import MachineError, SettingsError

MEMORY_SHARE: Final = 0.9  # of the machine, for all slots together: they must never take the orchestrator with them
# Each of these libraries starts a thread for every core of the machine, also for those that it may not use.
THREAD_VARIABLES: Final = (
    "OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS", "VECLIB_MAXIMUM_THREADS",
)  # fmt: skip
SHARE: Final = "set `device-sharing` to `warn`: runs that share something slow each other down"
DEVICE_VARIABLE: Final = "CUDA_VISIBLE_DEVICES"


@dataclass(frozen=True, slots=True, kw_only=True)
class Slot:
    """A place for one run at a time, `number` from 1.

    `device`: the identifier of the accelerator that it owns (a GPU's or MIG instance's UUID; several with commas between them);
    empty: whatever there is, for the only slot, or none. `cpus`: the cores that it owns; empty: any. `memory`: bytes of its
    share; None: the session's limit. `threads`: what numeric libraries may start; None: what they choose by themselves, for
    nothing runs beside it.
    """

    number: int = 1
    device: str = ""
    cpus: tuple[int, ...] = ()
    memory: int | None = None
    threads: int | None = None

    @property
    def alone(self) -> bool:
        """Whether no other run is meant to go on beside this slot's."""
        return self.threads is None


ONLY = Slot()  # the whole machine, for one run after another


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """What there is to be shared out.

    `platform`: `cuda`, `cpu` or `mps`. `devices`: each GPU that runs may use, its identifier and what it is called; empty where
    the driver names none. `cores`: how many a run may use. `cpus`: their numbers, siblings side by side; empty where no run can
    be kept to some of them. `memory`: bytes that runs may use together; None: unknown.
    """

    platform: str
    devices: tuple[tuple[str, str], ...] = ()
    cores: int
    cpus: tuple[int, ...] = ()
    memory: int | None = None


def plan(
    machine: Machine, *, parallel: int | None, sharing: str, cpus: float | None, memory: int | None
) -> tuple[tuple[Slot, ...], tuple[str, ...]]:
    """The slots, and lines of warning. `parallel`: how many; None: one for each GPU of the largest class that the machine has room
    for, else one. `cpus`, `memory`: what each run may use at most, in cores and bytes. `sharing`: `refuse` or `warn` of slots
    that share a GPU or a core.

    One slot is `ONLY`. SettingsError for more slots than there are devices and cores, where sharing is refused, or memory for.
    """
    gpus, mixed = _one_class(machine.devices)
    cores = 1 if cpus is None else math.ceil(cpus)
    count = parallel or _room(machine, max(1, len(gpus)), cores, memory)
    warnings = []
    if parallel is None and count < len(gpus):
        warnings.append(
            f"runs at the same time: {count}, on {len(gpus)} GPUs: there are no cores or no memory for more"
        )
    if count == 1:
        return (ONLY,), tuple(warnings)
    warnings += mixed
    if count * cores > machine.cores:
        each = "" if cpus is None else f", with {cores} cores each"
        few = f"`parallel` is {count}{each}, and runs may use {machine.cores} cores"
        if sharing == "refuse":
            raise SettingsError(few, hint=f"lower `parallel`{'' if cpus is None else ' or `cpus`'}, or {SHARE}")
        warnings.append(f"{few}: they slow each other down, and readings say less")
    if memory is not None and machine.memory is not None and count * memory > machine.memory:
        raise SettingsError(
            f"{count} runs of {memory / 2**30:.3g} GiB do not fit into {machine.memory / 2**30:.3g} GiB of memory",
            hint="lower `parallel` or `memory`",
        )
    warnings += _shared(machine.platform, len(gpus), count, sharing)
    if not machine.cpus:
        warnings.append("no run can be kept to its own cores here: neighbours may slow each other down")
    own = min(max(1, machine.cores // count) if cpus is None else cores, machine.cores)
    ring = machine.cpus * math.ceil(count * own / max(1, len(machine.cpus)))
    share = int(machine.memory * MEMORY_SHARE) // count if machine.memory is not None else None
    return tuple(
        Slot(
            number=number + 1,
            device=gpus[number % len(gpus)] if gpus else "",
            cpus=tuple(sorted(set(ring[number * own : (number + 1) * own]))),
            memory=memory or share,
            threads=own,
        )
        for number in range(count)
    ), tuple(warnings)


def visible(devices: Sequence[tuple[str, str]], wanted: str | None) -> tuple[tuple[str, str], ...]:
    """The devices that CUDA_VISIBLE_DEVICES leaves: by number, or by identifier or the beginning of one. None: all.

    MachineError when it names one that is not there, or none.
    """
    if wanted is None or not devices:
        return tuple(devices)
    found = []
    for name in filter(None, map(str.strip, wanted.split(","))):
        chosen = [device for n, device in enumerate(devices) if name == str(n) or device[0].startswith(name)][:1]
        if not chosen:
            raise MachineError(
                f"{DEVICE_VARIABLE} names `{name[:80]}`, and there is no such device",
                hint=f"it may name {', '.join(identifier for identifier, _ in devices[:8])}",
            )
        found += [device for device in chosen if device not in found]
    if not found:
        raise MachineError(f"{DEVICE_VARIABLE} hides every GPU", hint="unset it, or set `platform` to `cpu`")
    return tuple(found)


def variables(slot: Slot, given: Mapping[str, str]) -> dict[str, str]:
    """The variables of a run in this slot, from those of its request: what the user set of the threads stays as it is."""
    threads = {} if slot.threads is None else dict.fromkeys(THREAD_VARIABLES, str(slot.threads))
    device = {DEVICE_VARIABLE: slot.device} if slot.device else {}
    return {**threads, **given, **device}


def _one_class(devices: Sequence[tuple[str, str]]) -> tuple[list[str], list[str]]:
    """The identifiers of the class that has most devices, for readings of two classes cannot be compared; and a warning."""
    names = [name for _, name in devices]
    chosen = max(names, key=names.count, default="")
    gpus = [identifier for identifier, name in devices if name == chosen]
    if len(gpus) == len(devices):
        return gpus, []
    return gpus, [f"{len(gpus)} of {len(devices)} GPUs are used: the others are no {chosen}"]


def _room(machine: Machine, wanted: int, cores: int, memory: int | None) -> int:
    """How many slots fit, at most `wanted` and at least one."""
    room = [wanted, machine.cores // cores]
    if memory is not None and machine.memory is not None:
        room.append(machine.memory // memory)
    return max(1, min(room))


def _shared(platform: str, gpus: int, count: int, sharing: str) -> list[str]:
    """A warning when slots share GPUs; SettingsError where that is refused."""
    if platform == "cpu":
        return []
    there = max(gpus, 1) if platform == "mps" else gpus
    if count <= there:
        return []
    kind = " of one kind" if there > 1 else ""
    seen = f"{there} GPU{'' if there == 1 else 's'}{kind}" if there else "no GPU that the driver names"
    if sharing == "refuse":
        raise SettingsError(
            f"`parallel` is {count}, and runs can use {seen}",
            hint=f"lower `parallel`, or {SHARE}",
        )
    return [f"{count} runs at the same time share {seen}: they slow each other down, and readings say less"]
