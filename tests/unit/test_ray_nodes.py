"""Which nodes of a cluster are used, and what is refused."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoresearch_ci.errors import MachineError, SettingsError
from autoresearch_ci.executors.ray_messages import About, Refused
from autoresearch_ci.executors.ray_nodes import (
    Node,
    check_same,
    check_versions,
    choose,
    named_apart,
    node_of,
    resources_of,
    spread,
)
from autoresearch_ci.platforms import Detection, Platform


def facts(name: str, **resources: float) -> dict[str, object]:
    """A node as Ray tells of it."""
    return {"NodeID": f"id-of-{name}", "NodeName": name, "NodeManagerAddress": "10.0.0.1", "Resources": resources}


HEAD = node_of(facts("head", CPU=64), cpus=1)
H100 = node_of(facts("h", CPU=16, GPU=2, **{"accelerator_type:H100": 1}), cpus=1)
A100 = node_of(facts("a", CPU=16, GPU=8, **{"accelerator_type:A100": 1}), cpus=1)
GPU = Detection(
    source="torch", platform=Platform.CUDA, devices=("NVIDIA H100",), device_memory_mb=80_000, torch="2.13.0", cuda="13.0",
    bf16=True, flash_attention=False, can_compile=True, mig=False, unused_devices=(), python="3.12.1", system="Linux",
    chip="Xeon", cores=16, memory_mb=100_000,
)  # fmt: skip
HERE = About(version="1.2.0", python="3.11.4", engine="")


def test_a_nodes_room_is_its_gpus_or_its_cores() -> None:
    """A run takes a GPU where there are GPUs, and as many cores as `cpus` says."""
    assert (HEAD.device_class, HEAD.slots) == ("cpu", 64)
    assert (H100.device_class, H100.slots) == ("H100", 2)
    assert node_of(facts("n", CPU=10), cpus=4).slots == 2
    assert node_of(facts("n", CPU=10, GPU=8), cpus=4) == Node(id="id-of-n", name="n", device_class="gpu", slots=2)
    assert node_of(facts("n"), cpus=1).slots == 0


def test_one_class_is_used() -> None:
    """The largest, GPUs before cores however many; the others are left alone."""
    assert choose([HEAD, H100, A100], None, platform="auto") == ("A100", [A100])
    assert choose([HEAD, H100, replace(H100, name="h2", slots=7), A100], None, platform="auto")[0] == "H100"
    assert choose([HEAD, H100], None, platform="cpu") == ("cpu", [HEAD])
    assert choose([HEAD], None, platform="auto") == ("cpu", [HEAD])


@pytest.mark.parametrize("wanted", ["H100", "h100", "NVIDIA H100", "nvidia h100 80GB HBM3"])
def test_a_class_is_named_as_people_do(wanted: str) -> None:
    """The words of a device's full name mean the class that Ray has cut out of it."""
    assert choose([HEAD, H100, A100], wanted, platform="auto") == ("H100", [H100])


def test_a_class_that_is_not_there() -> None:
    """The error lists what is there."""
    with pytest.raises(SettingsError, match="`L4`") as caught:
        choose([HEAD, H100], "L4", platform="auto")
    assert caught.value.hint == "it has, with their slots: `cpu` (64), `H100` (2)"
    with pytest.raises(SettingsError, match="no node with room for a run on `cuda`"):
        choose([HEAD], None, platform="cuda")
    with pytest.raises(SettingsError, match="no node with room"):
        choose([replace(HEAD, slots=0)], None, platform="auto")


def test_resources_hold_a_run_to_its_class() -> None:
    """By the resource that Ray gives the nodes of an accelerator."""
    assert resources_of("H100") == {"accelerator_type:H100": 0.001}
    assert resources_of("cpu") == resources_of("gpu") == {}


@given(st.lists(st.integers(1, 9), min_size=1, max_size=6), st.integers(1, 60))
def test_slots_are_spread_evenly_within_the_room(rooms: list[int], parallel: int) -> None:
    """No node gets more than it has room for, and none two more than another that had room."""
    nodes = [Node(id=str(n), name=str(n), device_class="cpu", slots=room) for n, room in enumerate(rooms)]
    if parallel > sum(rooms):
        with pytest.raises(SettingsError, match=f"`parallel` is {parallel}"):
            spread(nodes, parallel)
        return
    places = spread(nodes, parallel)
    assert len(places) == parallel
    counts = {node.id: places.count(node) for node in nodes}
    assert all(counts[node.id] <= node.slots for node in nodes)
    free = [counts[node.id] for node in nodes if counts[node.id] < node.slots]
    assert not free or max(counts.values()) - min(free) <= 1
    assert len(spread(nodes, None)) == sum(rooms)


def test_nodes_of_one_machine_are_told_apart() -> None:
    """A name that several nodes have gets a part of their id."""
    one, other = replace(HEAD, id="abcdefgh"), replace(HEAD, id="12345678")
    assert [node.name for node in named_apart([one, other, H100])] == ["head/abcdef", "head/123456", "h"]


def test_versions_must_be_the_same() -> None:
    """The node that has another program or Python is named; another patch of Python is none."""
    check_versions({"a": HERE, "b": replace(HERE, python="3.11.9")}, HERE)
    with pytest.raises(MachineError, match="node b has autoresearch-ci 1.1.0, and here is 1.2.0"):
        check_versions({"a": HERE, "b": replace(HERE, version="1.1.0")}, HERE)
    with pytest.raises(MachineError, match=r"node b has Python 3\.12\.1, and here is 3\.11\.4"):
        check_versions({"b": replace(HERE, python="3.12.1")}, HERE)


def test_what_trains_must_be_the_same() -> None:
    """Another torch, CUDA or device on one node: its readings could not be compared with the others'."""
    check_same({"a": GPU, "b": replace(GPU, cores=8, memory_mb=1, python="3.12.9")})
    for other, what in (
        (replace(GPU, torch="2.9.0"), "torch: a has 2.13.0, b has 2.9.0"),
        (replace(GPU, torch=None), "torch: a has 2.13.0, b has none"),
        (replace(GPU, cuda="12.8"), "CUDA: a has 13.0, b has 12.8"),
        (replace(GPU, devices=("NVIDIA L4",)), "the device: a has NVIDIA H100, b has NVIDIA L4"),
    ):
        with pytest.raises(MachineError) as caught:
            check_same({"a": GPU, "b": other})
        assert caught.value.message == f"the nodes differ in {what}"


def test_an_error_crosses_as_it_was() -> None:
    """What a node refuses is the same kind of error here, with the node's name."""
    for kind in (MachineError, SettingsError):
        error = Refused.of(kind("no room", hint="make some"), where="node b").error()
        assert type(error) is kind
        assert (error.message, error.hint) == ("node b: no room", "make some")
