"""The workers of a session on the nodes of a cluster: started, taken for a run, given back, lost and replaced.

A worker is an actor of Ray on one node, which holds the cores and the GPU of one run. Any run takes any free worker: when a node
is gone, the runs that it had room for wait until another one is free, or a node comes.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Final

import ray
from ray.exceptions import GetTimeoutError, RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from autoresearch_ci.errors import AutoresearchError, MachineError, SettingsError
from autoresearch_ci.executors.ray_messages import About, Kind, Ready, Refused, Wanted
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
from autoresearch_ci.executors.ray_worker import Worker
from autoresearch_ci.platforms import PROBE, Detection, parse_probe

START_S: Final = 120.0  # for a worker that has room: Ray starts a process, which imports this package
GROW_EVERY_S: Final = 5.0  # between two looks for a node that can replace a lost one
BUILD_S: Final = 4 * 3600.0  # for a node to pull or build what its runs need, as `image.py` allows
PROBE_S: Final = 330.0
CLOSE_S: Final = 15.0  # for workers to remove what they left
TICK_S: Final = 0.1
THREADS: Final = 3  # of a worker: the run, a look at its log, an interrupt


class LostError(Exception):
    """A worker, its node or what it was to hand back is gone. The run can be made again."""


def get(reference: Any, timeout_s: float) -> Any:
    """What a worker hands back; LostError when it is gone, or does not answer in time."""
    try:
        return ray.get(reference, timeout=timeout_s)
    except GetTimeoutError as error:
        raise LostError(f"no answer in {timeout_s:.0f} s") from error
    except RayError as error:
        raise LostError(_short(error)) from error


@dataclass(slots=True, eq=False)
class Place:
    """A worker and its node."""

    actor: Any
    node: Node


@dataclass(slots=True)
class Pool:
    """`prepare`: brings a node that joins later to where the others are, before its first run."""

    wanted: Wanted
    here: About
    prepare: Callable[[Place], None] = lambda _place: None
    kind: Kind = "native"
    device_class: str = ""
    size: int = 0
    _wall: str = ""
    _number: int = 0
    _free: list[Place] = field(default_factory=list)
    _living: list[Place] = field(default_factory=list)
    _seen: dict[str, Detection] = field(default_factory=dict)  # by the id of a node that was found fit
    _unfit: dict[str, str] = field(default_factory=dict)
    _changed: threading.Condition = field(default_factory=threading.Condition)
    _growing: bool = False
    _alone_since: float = field(default_factory=time.monotonic)  # since when no worker has lived
    _grow_at: float = 0.0

    def open(self) -> Ready:
        """Starts the workers and checks that they are what is wanted, and the same; raises what a person can act on."""
        setup = self.wanted.setup
        nodes = self._nodes()
        self.device_class, usable = choose(nodes, self.wanted.device_class, platform=setup.platform)
        places = spread(usable, self.wanted.parallel)
        self.size = len(places)
        with ThreadPoolExecutor(min(64, self.size)) as pool:
            started = list(pool.map(self._start, places))
            deadline = time.monotonic() + max(START_S, self.wanted.patience_s)
            abouts = {
                place.node.name: about
                for place, about in zip(started, pool.map(lambda p: self._about(p, deadline), started), strict=True)
            }
            check_versions(abouts, self.here)
            self.kind = self._choose_kind(abouts)
            self._wall = next(iter(set(pool.map(self._open, started))))
            one_each = list({place.node.id: place for place in started}.values())
            probed = list(pool.map(lambda place: self.probe(place, PROBE), one_each))
        seen = [parse_probe(text) for text in probed]
        self._seen = {place.node.id: detection for place, detection in zip(one_each, seen, strict=True)}
        check_same({place.node.name: detection for place, detection in zip(one_each, seen, strict=True)})
        with self._changed:
            self._living, self._free = list(started), list(started)
            self._changed.notify_all()
        return Ready(
            slots=self.size,
            kind=self.kind,
            device_class=self.device_class,
            says=_says(
                self.device_class, one_each, self.size, [n for n in nodes if n.device_class != self.device_class]
            ),
            wall="" if self.kind == "container" else self._wall,
            probed=probed[0],
        )

    def one_each(self) -> list[Place]:
        """Takes one worker of every node; for what is done before the first run, when all are free."""
        with self._changed:
            chosen = list({place.node.id: place for place in self._free}.values())
            self._free = [place for place in self._free if place not in chosen]
        return chosen

    def take(self, interrupted: Callable[[], bool]) -> Place | None:
        """A free worker, waited for while any lives, or may come; None when interrupted.

        MachineError when none has lived for the patience of the session.
        """
        while not interrupted():
            with self._changed:
                if self._free:
                    return self._free.pop(0)
                now = time.monotonic()
                if not self._living and now - self._alone_since > self.wanted.patience_s:
                    raise MachineError(
                        f"no node of class `{self.device_class}` has had room for {self.wanted.patience_s:.0f} s"
                        + "".join(f"; {why}" for why in list(self._unfit.values())[:1]),
                        hint="look at the cluster with `ray status`; the session goes on with the same command",
                    )
                grow = len(self._living) < self.size and not self._growing and now >= self._grow_at
                if not grow:
                    self._changed.wait(TICK_S)
                    continue
                self._growing = True
            try:
                self._grow()
            finally:
                with self._changed:
                    self._growing, self._grow_at = False, time.monotonic() + GROW_EVERY_S
        return None

    def give_back(self, place: Place) -> None:
        with self._changed:
            self._free.append(place)
            self._changed.notify()

    def lost(self, place: Place) -> None:
        """Lets a worker go that does not do what it should; another one is started where there is room."""
        with self._changed:
            self._living.remove(place)
            if not self._living:
                self._alone_since = time.monotonic()
            self._grow_at = 0.0
        _kill(place)

    def close(self) -> None:
        """Ends all workers, and removes what they left."""
        with self._changed:
            living, self._living, self._free = self._living, [], []
        for reference in [place.actor.close.remote() for place in living]:
            try:
                get(reference, CLOSE_S)
            except LostError:
                continue

    def _nodes(self) -> list[Node]:
        cpus = self.wanted.setup.cpus or 1.0
        return named_apart([node_of(facts, cpus=cpus) for facts in ray.nodes() if facts["Alive"]])

    def _start(self, node: Node) -> Place:
        """Asks Ray for a worker there; whether it comes shows when it is asked something."""
        setup, gpu = self.wanted.setup, self.device_class != "cpu"
        with self._changed:
            self._number += 1
            number = self._number
        made = ray.remote(Worker).options(
            num_cpus=setup.cpus or 1,
            num_gpus=1 if gpu else 0,
            memory=setup.memory,
            resources=resources_of(self.device_class),
            scheduling_strategy=NodeAffinitySchedulingStrategy(node_id=node.id, soft=False),
            max_concurrency=THREADS,
            max_restarts=0,
            max_task_retries=0,
        )
        return Place(made.remote(setup.session, number, gpu=gpu), node)

    def _about(self, place: Place, deadline: float) -> About:
        try:
            about = get(place.actor.about.remote(), max(1.0, deadline - time.monotonic()))
        except LostError as error:
            why = str(error)
            if "ModuleNotFoundError" in why or "ImportError" in why or "AttributeError" in why:
                raise MachineError(
                    f"node {place.node.name} cannot import autoresearch-ci {self.here.version}",
                    hint=f'install it there: `pip install "autoresearch-ci[ray]=={self.here.version}"`',
                ) from error
            raise MachineError(
                f"node {place.node.name} starts no worker: {why}",
                hint="look at it with `ray status`: other jobs may hold its cores",
            ) from error
        assert isinstance(about, About)
        return about

    def _choose_kind(self, abouts: Mapping[str, About]) -> Kind:
        without = [(name, about.engine) for name, about in abouts.items() if about.engine]
        if self.wanted.kind == "container" or (self.wanted.kind == "auto" and not without):
            if without:
                name, why = without[0]
                raise MachineError(f"node {name}: {why}", hint="start Docker there, or allow native runs")
            return "container"
        if not self.wanted.allow_native:
            where = f"node {without[0][0]} has no container engine" if without else "no container is used"
            raise SettingsError(
                f"native runs need your leave: {where}",
                hint="start Docker on every node, or set `allow-native: true` where that is acceptable",
            )
        return "native"

    def _open(self, place: Place) -> str:
        try:
            wall = get(place.actor.open.remote(self.wanted.setup, self.kind), BUILD_S)
        except LostError as error:
            raise MachineError(f"node {place.node.name} was lost: {error}", hint="see `ray status`") from error
        if isinstance(wall, Refused):
            raise Refused(
                message=f"node {place.node.name}: {wall.message}", hint=wall.hint, settings=wall.settings
            ).error()
        return str(wall)

    def probe(self, place: Place, script: str) -> str:
        try:
            said = get(place.actor.probe.remote(script), PROBE_S)
        except LostError as error:
            raise MachineError(f"node {place.node.name} was lost: {error}", hint="see `ray status`") from error
        if isinstance(said, Refused):
            raise Refused(message=f"node {place.node.name}: {said.message}", hint=said.hint).error()
        return str(said)

    def _grow(self) -> None:
        """Starts one worker where there is room, on a node that is as the others are."""
        with self._changed:
            held = [place.node.id for place in self._living]
        for node in self._nodes():
            if node.device_class != self.device_class or node.id in self._unfit or held.count(node.id) >= node.slots:
                continue
            place = self._start(node)
            try:
                check_versions({node.name: self._about(place, time.monotonic() + START_S)}, self.here)
                self._open(place)
                if node.id not in self._seen:
                    detection = parse_probe(self.probe(place, PROBE))
                    check_same({"the cluster": next(iter(self._seen.values())), node.name: detection})
                    self.prepare(place)
                    self._seen[node.id] = detection
            except AutoresearchError as error:
                self._unfit[node.id] = error.message
                _kill(place)
                continue
            with self._changed:
                self._living.append(place)
                self._free.append(place)
                self._changed.notify()
            return


def _kill(place: Place) -> None:
    try:
        ray.kill(place.actor)
    except RayError:  # it is gone
        return


def _says(device_class: str, places: list[Place], slots: int, others: list[Node]) -> str:
    """Which nodes are used, and which are not."""
    names = ", ".join(place.node.name for place in places[:4]) + (" …" if len(places) > 4 else "")
    said = f"{slots} slot{'' if slots == 1 else 's'} of class `{device_class}` on {len(places)} node"
    said += f"{'' if len(places) == 1 else 's'} ({names})"
    if others:
        classes = ", ".join(sorted({f"`{node.device_class}`" for node in others}))
        said += f"; {len(others)} of class {classes} not used"
    return said


def _short(error: BaseException) -> str:
    """The last line of what Ray says that tells anything, or its first."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    telling = next((line for line in reversed(lines) if "Error" in line), lines[0] if lines else type(error).__name__)
    return telling[:300]
