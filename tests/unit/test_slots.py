"""What of the machine each slot owns."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoresearch_ci import slots
from autoresearch_ci.errors import MachineError, SettingsError
from autoresearch_ci.slots import ONLY, THREAD_VARIABLES, Machine, Slot

GIB = 2**30
CPU = Machine(platform="cpu", cores=8, cpus=tuple(range(8)), memory=64 * GIB)
GPUS = tuple((f"GPU-{name}", "NVIDIA H100") for name in "abcd")
CUDA = replace(CPU, platform="cuda", devices=GPUS)
MPS = Machine(platform="mps", cores=10, memory=32 * GIB)


def plan(
    machine: Machine,
    parallel: int | None = None,
    *,
    sharing: str = "refuse",
    cpus: float | None = None,
    memory: int | None = None,
) -> tuple[tuple[Slot, ...], tuple[str, ...]]:
    return slots.plan(machine, parallel=parallel, sharing=sharing, cpus=cpus, memory=memory)


@pytest.mark.parametrize(
    ("machine", "parallel"), [(CPU, None), (CPU, 1), (MPS, None), (CUDA, 1), (replace(CUDA, devices=GPUS[:1]), None)]
)
def test_one_slot_is_the_whole_machine(machine: Machine, parallel: int | None) -> None:
    """Nothing is taken from the only run, whatever the limits are, and nothing is warned about."""
    assert plan(machine, parallel, cpus=2.5, memory=GIB) == ((ONLY,), ())
    assert ONLY.alone


def test_every_gpu_is_a_slot() -> None:
    """`auto`: each slot has its GPU, as many cores side by side, its share of the memory, and as many threads as cores."""
    planned, warnings = plan(CUDA)
    assert warnings == ()
    assert [slot.number for slot in planned] == [1, 2, 3, 4]
    assert [slot.device for slot in planned] == ["GPU-a", "GPU-b", "GPU-c", "GPU-d"]
    assert [slot.cpus for slot in planned] == [(0, 1), (2, 3), (4, 5), (6, 7)]
    assert {(slot.threads, slot.memory, slot.alone) for slot in planned} == {(2, int(64 * GIB * 0.9) // 4, False)}


def test_cores_go_by_the_order_that_the_machine_tells() -> None:
    """Siblings of one physical core stay together: two slots on one would slow each other down."""
    planned, _ = plan(replace(CPU, cores=4, cpus=(0, 2, 1, 3)), 2)
    assert [slot.cpus for slot in planned] == [(0, 2), (1, 3)]


def test_instances_of_a_sliced_card_are_devices() -> None:
    """A slot for each MIG instance."""
    sliced = replace(CUDA, devices=(("MIG-1", "NVIDIA A100 MIG 1g.5gb"), ("MIG-2", "NVIDIA A100 MIG 1g.5gb")))
    assert [slot.device for slot in plan(sliced)[0]] == ["MIG-1", "MIG-2"]


def test_one_class_of_gpus_is_used() -> None:
    """Readings of two kinds of card cannot be compared: the kind with most cards has the slots, and it is said."""
    mixed = replace(CUDA, devices=(("GPU-x", "NVIDIA L4"), *GPUS[:2]))
    planned, (warning,) = plan(mixed)
    assert [slot.device for slot in planned] == ["GPU-a", "GPU-b"]
    assert "2 of 3 GPUs" in warning
    with pytest.raises(SettingsError, match="`parallel` is 3, and runs can use 2 GPUs of one kind"):
        plan(mixed, 3)


@pytest.mark.parametrize(
    ("machine", "parallel", "seen"),
    [
        (CUDA, 5, "4 GPUs"),
        (replace(CUDA, devices=GPUS[:1]), 2, "1 GPU"),
        (replace(CUDA, devices=()), 2, "no GPU that the driver names"),
        (MPS, 2, "1 GPU"),
    ],
)
def test_more_slots_than_gpus_are_refused_or_warned_about(machine: Machine, parallel: int, seen: str) -> None:
    """As `device-sharing` says: one line and a hint, or GPUs in turn and a warning."""
    with pytest.raises(SettingsError, match=seen) as caught:
        plan(machine, parallel)
    assert "device-sharing" in caught.value.hint
    planned, warnings = plan(machine, parallel, sharing="warn")
    assert seen in warnings[0]
    names = [name for name, _ in machine.devices]
    assert [slot.device for slot in planned] == [names[n % len(names)] if names else "" for n in range(parallel)]


def test_more_slots_than_cores_are_refused() -> None:
    """With `cpus` a slot needs that many, rounded up."""
    with pytest.raises(SettingsError, match="`parallel` is 9, and runs may use 8 cores") as caught:
        plan(CPU, 9)
    assert caught.value.hint
    assert [slot.cpus for slot in plan(CPU, 2, cpus=2.5)[0]] == [(0, 1, 2), (3, 4, 5)]
    with pytest.raises(SettingsError, match="with 3 cores each"):
        plan(CPU, 3, cpus=2.5)


def test_more_memory_than_there_is_is_refused() -> None:
    """`memory` is that of each run; without it they share what the machine may give."""
    assert plan(CPU, 2, memory=32 * GIB)[0][1].memory == 32 * GIB
    with pytest.raises(SettingsError, match="3 runs of 32 GiB do not fit into 64 GiB"):
        plan(CPU, 3, memory=32 * GIB)
    assert plan(replace(CPU, memory=None), 2)[0][0].memory is None


@pytest.mark.parametrize(("cpus", "memory", "count"), [(3.0, None, 2), (None, 20 * GIB, 3), (8.0, None, 1)])
def test_automatic_slots_are_as_many_as_fit(cpus: float | None, memory: int | None, count: int) -> None:
    """A session that asked for nothing is not refused because of its limits: fewer runs go on, and it is said."""
    planned, (warning,) = plan(CUDA, cpus=cpus, memory=memory)
    assert len(planned) == count
    assert "on 4 GPUs" in warning


def test_where_no_run_can_be_pinned_it_is_said() -> None:
    """On macOS and Windows slots have threads but no cores."""
    planned, warnings = plan(MPS, 2, sharing="warn")
    assert [(slot.cpus, slot.threads) for slot in planned] == [((), 5), ((), 5)]
    assert "its own cores" in warnings[1]


@given(st.integers(1, 64), st.integers(2, 64), st.integers(0, 8), st.floats(0.1, 70) | st.none(), st.integers(1, 2**40))
def test_no_two_slots_have_a_core_in_common(
    cores: int, parallel: int, gpus: int, cpus: float | None, memory: int
) -> None:
    """Whatever the machine: slots are as many as asked for, equal, and together within it; where it has enough cores no two share
    one, and where it has not that is said."""
    devices = tuple((f"GPU-{n}", "L4") for n in range(gpus))
    machine = Machine(
        platform="cuda" if gpus else "cpu", devices=devices, cores=cores, cpus=tuple(range(cores)), memory=memory
    )
    planned, warnings = plan(machine, parallel, sharing="warn", cpus=cpus)
    owned = [cpu for slot in planned for cpu in slot.cpus]
    assert len(planned) == parallel
    enough = parallel * math.ceil(cpus or 1) <= cores
    assert enough == (len(set(owned)) == len(owned))
    assert enough != any(f"runs may use {cores} cores" in warning for warning in warnings)
    assert len({len(slot.cpus) for slot in planned}) == 1
    assert all(slot.cpus and slot.threads == len(slot.cpus) for slot in planned)
    assert sum(slot.memory or 0 for slot in planned) <= memory


def test_the_variable_of_cuda_says_what_may_be_used() -> None:
    """By number, identifier or the beginning of one, each once; without it, all."""
    assert slots.visible(GPUS, None) == GPUS
    assert slots.visible(GPUS, "2, GPU-a,GPU-a") == (GPUS[2], GPUS[0])
    assert slots.visible((), "0") == ()
    for wrong in ("7", "-1", "GPU-z", "0,9"):
        with pytest.raises(MachineError, match="no such device") as caught:
            slots.visible(GPUS, wrong)
        assert "GPU-a" in caught.value.hint
    with pytest.raises(MachineError, match="hides every GPU"):
        slots.visible(GPUS, "")


def test_variables_of_a_slot() -> None:
    """The caps of threads give way to what the user set, the device does not; the only slot changes nothing."""
    given = {"OMP_NUM_THREADS": "7", "CUDA_VISIBLE_DEVICES": "0,1", "MINE": "x"}
    assert slots.variables(ONLY, given) == given
    seen = slots.variables(Slot(number=2, device="GPU-b", threads=2), given)
    assert seen == {
        **dict.fromkeys(THREAD_VARIABLES, "2"),
        "OMP_NUM_THREADS": "7",
        "CUDA_VISIBLE_DEVICES": "GPU-b",
        "MINE": "x",
    }
