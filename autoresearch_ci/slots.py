"""Where runs happen side by side: what of the machine, or of a cluster, belongs to one of them at a time."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Slot:
    """A place for one run at a time, `number` from 1.

    `device`: the identifier of the accelerator that it owns (a GPU's or MIG instance's UUID); empty: whatever there is, for the
    only slot, or none. `cpus`: the cores that it owns; empty: any. `memory`: bytes of its share; None: the session's limit.
    `threads`: what numeric libraries may start; None: what they choose by themselves.
    """

    number: int = 1
    device: str = ""
    cpus: tuple[int, ...] = ()
    memory: int | None = None
    threads: int | None = None


ONLY = Slot()  # the whole machine, for one run after another
