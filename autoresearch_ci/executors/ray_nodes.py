"""Which nodes of a cluster a session uses, and whether they are the same where it matters. Policy: Ray is not asked here."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from autoresearch_ci.errors import MachineError, SettingsError
from autoresearch_ci.executors.ray_messages import About
from autoresearch_ci.platforms import Detection

CPU: Final = "cpu"
GPU: Final = "gpu"  # the class of nodes whose GPUs Ray knows no name of
_TYPE: Final = "accelerator_type:"  # how Ray spells what kind of accelerator a node has


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """A node of the cluster. `device_class`: what its runs compute on, by Ray's name for it. `slots`: runs that it has room for."""

    id: str
    name: str
    device_class: str
    slots: int


def node_of(facts: Mapping[str, Any], *, cpus: float) -> Node:
    """One of `ray.nodes()`; a run takes `cpus` cores of it, and a GPU where there are GPUs."""
    resources = facts["Resources"]
    cores, gpus = float(resources.get("CPU", 0)), int(resources.get("GPU", 0))
    types = sorted(name.removeprefix(_TYPE) for name in resources if name.startswith(_TYPE))
    device_class = (types[0] if types else GPU) if gpus else CPU
    room = int(cores // cpus)
    return Node(
        id=str(facts["NodeID"]),
        name=str(facts.get("NodeName") or facts["NodeManagerAddress"])[:100],
        device_class=device_class,
        slots=min(room, gpus) if gpus else room,
    )


def named_apart(nodes: Sequence[Node]) -> list[Node]:
    """The nodes, with a part of their id where several have one name, as several on one machine do."""
    names = Counter(node.name for node in nodes)
    return [replace(node, name=f"{node.name}/{node.id[:6]}") if names[node.name] > 1 else node for node in nodes]


def resources_of(device_class: str) -> dict[str, float]:
    """Ray's custom resources that hold a run to the class."""
    return {} if device_class in (CPU, GPU) else {f"{_TYPE}{device_class}": 0.001}


def choose(nodes: Sequence[Node], wanted: str | None, *, platform: str) -> tuple[str, list[Node]]:
    """The class to use and its nodes: the one that is `wanted`; else the one with the most slots, GPUs before cores.

    Nodes of different classes are never mixed: readings of different devices cannot be compared. SettingsError when there is no
    such class, or none at all with room for a run.
    """
    room: dict[str, int] = {}
    for node in nodes:
        room[node.device_class] = room.get(node.device_class, 0) + node.slots
    room = {name: slots for name, slots in room.items() if slots > 0}
    there = ", ".join(f"`{name}` ({slots})" for name, slots in sorted(room.items(), key=lambda item: -item[1]))
    if wanted is not None:
        found = [name for name in room if _same(wanted, name)]
        if not found:
            raise SettingsError(
                f"`device-class` is `{wanted}`, and the cluster has no node of it with room for a run",
                hint=f"it has, with their slots: {there}"
                if there
                else "does a node have as many cores as `cpus` says?",
            )
        chosen = found[0]
    else:
        fitting = [name for name in room if platform not in ("cpu", "cuda") or (name == CPU) == (platform == "cpu")]
        if not fitting:
            raise SettingsError(
                "the cluster has no node with room for a run"
                + (f" on `{platform}`" if platform in ("cpu", "cuda") else ""),
                hint=f"it has, with their slots: {there}"
                if there
                else "does a node have as many cores as `cpus` says?",
            )
        chosen = max(fitting, key=lambda name: (name != CPU, room[name], name))
    return chosen, [node for node in nodes if node.device_class == chosen and node.slots > 0]


def _same(wanted: str, name: str) -> bool:
    """Whether a person's words mean Ray's name: `NVIDIA H100` is `H100`, and `nvidia a100-40g` is `A100-40G`."""
    words = [word for word in re.split(r"\s+", wanted.strip().lower()) if word]
    return name.lower() == wanted.strip().lower() or name.lower() in words


def spread(nodes: Sequence[Node], parallel: int | None) -> list[Node]:
    """The node of every slot: each has as many as it has room for, or `parallel` in all, evenly. SettingsError without room."""
    room = sum(node.slots for node in nodes)
    if parallel is not None and parallel > room:
        raise SettingsError(
            f"`parallel` is {parallel}, and the cluster has room for {room} run{'' if room == 1 else 's'} at a time",
            hint=f"set `parallel` to `auto` or at most {room}, lower `cpus`, or add nodes of the same class",
        )
    places: list[Node] = []
    left = {node.id: node.slots for node in nodes}
    while len(places) < (room if parallel is None else parallel):
        for node in nodes:
            if left[node.id] and len(places) < (room if parallel is None else parallel):
                left[node.id] -= 1
                places.append(node)
    return places


def check_versions(abouts: Mapping[str, About], here: About) -> None:
    """Whether every node has this program and Python as they are here; MachineError names the first that has not."""
    for name, about in abouts.items():
        if about.version != here.version:
            raise MachineError(
                f"node {name} has autoresearch-ci {about.version}, and here is {here.version}",
                hint=f'install the same one there: `pip install "autoresearch-ci[ray]=={here.version}"`',
            )
        if about.python.split(".")[:2] != here.python.split(".")[:2]:
            raise MachineError(
                f"node {name} has Python {about.python}, and here is {here.python}",
                hint="use the same minor version of Python on every node",
            )


def check_same(seen: Mapping[str, Detection]) -> None:
    """Whether what trains is the same on every node, as comparing readings needs it; MachineError names the first that differs."""
    (first, reference), *others = seen.items()
    for name, detection in others:
        for what, one, other in (
            ("torch", reference.torch or "none", detection.torch or "none"),
            ("CUDA", reference.cuda or "none", detection.cuda or "none"),
            ("the device", _device(reference), _device(detection)),
        ):
            if one != other:
                raise MachineError(
                    f"the nodes differ in {what}: {first} has {one}, {name} has {other}",
                    hint="install the same on both"
                    if what != "the device"
                    else "keep them apart: `ray start --resources='{\"accelerator_type:NAME\": 1}'`, and `device-class: NAME`",
                )


def _device(detection: Detection) -> str:
    return detection.devices[0] if detection.devices else detection.chip or "a CPU"
