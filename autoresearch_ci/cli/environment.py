"""Where a session's runs happen: the environment that the settings ask for, built if needed, and probed.

The executors are imported where they are chosen: a native session does not wait for the docker library.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import typer

from autoresearch_ci import slots as slot_plan
from autoresearch_ci.console import Console
from autoresearch_ci.errors import MachineError, SettingsError
from autoresearch_ci.experiment import Run
from autoresearch_ci.platforms import PROBE, Adjustments, Detection, Platform, adjustments, parse_probe, resolve
from autoresearch_ci.runs import Executor, Interrupt, RunRequest
from autoresearch_ci.settings import Settings
from autoresearch_ci.slots import ONLY, Slot

if TYPE_CHECKING:
    from autoresearch_ci.executors.container import ContainerExecutor
    from autoresearch_ci.executors.native import NativeExecutor
    from autoresearch_ci.executors.ray_cluster import RayExecutor


class Environment(Executor, Protocol):
    """An executor that can also say what it sees, and run the user's `prepare` command."""

    def probe(self, script: str) -> str: ...

    def prepare(self, request: RunRequest, interrupt: Interrupt) -> Run: ...


@dataclass(frozen=True, slots=True)
class Place:
    """Where runs happen: the executor, why it is this one, and what it can see. `wall`: what holds natively, in one line. `slots`:
    how many runs go on at the same time, and what each of them owns."""

    executor: Environment
    kind: str
    why: str
    platform: Platform
    detection: Detection
    adjustments: Adjustments
    wall: str = ""
    slots: tuple[Slot, ...] = (ONLY,)

    @property
    def device(self) -> str:
        """What each run trains on, as a person calls it: the slots are all of one class."""
        slot, seen = self.slots[0], self.detection
        if slot.device:
            names = dict(zip(seen.device_ids, seen.device_names, strict=True))
            seen = replace(seen, devices=tuple(names.get(each, each) for each in slot.device.split(",")))
        return (seen if slot.threads is None else replace(seen, cores=slot.threads)).name


@contextmanager
def environment(
    console: Console,
    environ: Mapping[str, str],
    settings: Settings,
    *,
    state: Path,
    session: str,
    requirements: bytes | None,
    native_when_no_container: bool = False,
    ask_native: bool = False,
) -> Iterator[Place]:
    """The environment that the settings ask for, built if needed, probed, and torn down at the end.

    `native_when_no_container`: `auto` may then fall back to native runs, and says why; else it raises MachineError.
    `ask_native`: native runs need `allow-native` or a person's yes at a terminal; SettingsError without.
    """
    kind, why = settings.executor, "asked for"
    if kind == "auto":
        kind, why = "container", "an engine answers"
        if sys.platform == "darwin" or settings.platform == "mps":
            kind, why = "native", "no Linux container can see MPS"
    wall, memory = "", None
    nodes: RayExecutor | None = None
    with ExitStack() as stack:
        executor: Environment
        if kind == "container":
            try:
                executor = container = stack.enter_context(_container(console, settings, session, requirements))
                memory = container.machine_bytes
            except MachineError as error:
                if not native_when_no_container:
                    raise
                kind, why = "native", f"no container: {error.message[:120]}"
        if kind == "native":
            if ask_native and not settings.allow_native:
                _confirm_native(environ)
            executor = native = stack.enter_context(_native(console, environ, settings, state, requirements))
            wall = native.wall.says
        if kind == "ray":
            from autoresearch_ci.cli.cluster import cluster

            joined = cluster(console, environ, settings, state=state, session=session, requirements=requirements)
            executor = nodes = stack.enter_context(joined)
            why, wall = nodes.ready.says, nodes.ready.wall
        detection = parse_probe(executor.probe(PROBE))
        platform = resolve(settings.platform, detection)
        if kind == "native" and detection.memory_mb is not None:
            memory = detection.memory_mb * 2**20
        slots = nodes.slots if nodes else _slots(console, environ, settings, detection, platform, memory)
        yield Place(executor, kind, why, platform, detection, adjustments(platform, detection), wall, slots)


def _slots(
    console: Console,
    environ: Mapping[str, str],
    settings: Settings,
    detection: Detection,
    platform: Platform,
    memory: int | None,
) -> tuple[Slot, ...]:
    """What of the machine belongs to each run at the same time. `memory`: bytes of the machine where runs happen."""
    every = tuple(zip(detection.device_ids, detection.device_names, strict=True)) if platform is Platform.CUDA else ()
    named = settings.env.get(slot_plan.DEVICE_VARIABLE, environ.get(slot_plan.DEVICE_VARIABLE))
    devices = slot_plan.visible(every, named)
    machine = slot_plan.Machine(
        platform=platform.value, devices=devices, cores=detection.cores, cpus=detection.cpus, memory=memory
    )
    planned, warnings = slot_plan.plan(
        machine,
        parallel=settings.parallel,
        sharing=settings.device_sharing,
        cpus=settings.cpus,
        memory=settings.memory,
    )
    for warning in warnings:
        console.warning(warning)
    if planned == (ONLY,) and len(devices) < len(every):
        return (Slot(device=",".join(identifier for identifier, _ in devices)),)
    return planned


def _confirm_native(environ: Mapping[str, str]) -> None:
    """Asks the person at the terminal whether the training script may run on this machine itself; SettingsError unless yes."""
    hint = "pass `--allow-native` or set `allow-native: true` where that is acceptable, or start a container engine"
    if environ.get("GITHUB_ACTIONS") == "true" or not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise SettingsError("native runs need your leave: no container walls the training script in", hint=hint)
    risk = "No container: the training script, and whatever rewrites it, runs on this machine as you. Go on?"
    try:
        agreed = typer.confirm(risk, default=False, err=True)
    except typer.Abort:  # the terminal is gone
        agreed = False
    if not agreed:
        raise SettingsError("native runs were refused", hint=hint)


def _container(console: Console, settings: Settings, session: str, requirements: bytes | None) -> ContainerExecutor:
    """The container executor with its image; the platform of the image is what the machine itself can see."""
    from autoresearch_ci.executors import image, published
    from autoresearch_ci.executors.container import ContainerExecutor
    from autoresearch_ci.executors.engine import connect
    from autoresearch_ci.executors.environment import probe

    client = connect()
    platform = settings.platform
    if platform == "auto":
        platform = parse_probe(probe(Path(sys.executable), PROBE)).platform.value
    arguments = {**published.standard_arguments(platform), **settings.build_args}
    recipe = published.recipe_of(platform, base_image=settings.base_image, arguments=arguments)
    with console.group(f"Build the {platform} environment"):
        with console.quoting() as quote:
            built = image.ensure_image(
                client,
                platform=platform,
                base_image=settings.base_image,
                requirements=requirements,
                torch_version=None,
                build_args=arguments,
                on_line=quote,
                registry=published.registry_for(recipe, settings.registry),
            )
        console.info(str(built))
    return ContainerExecutor(
        client,
        built,
        session=session,
        cache=cache_folder(settings),
        platform=platform,
        memory=settings.memory,
        cpus=settings.cpus,
        shm_size=settings.shm_size,
    )


def _native(
    console: Console, environ: Mapping[str, str], settings: Settings, state: Path, requirements: bytes | None
) -> NativeExecutor:
    """The native executor. Its Python is the one that runs this program; or, where that is the Action's own environment or
    `requirements` is set, one made for the training."""
    from autoresearch_ci.executors import image
    from autoresearch_ci.executors.environment import ensure_environment
    from autoresearch_ci.executors.native import NativeExecutor

    python = Path(sys.executable)
    if requirements is not None or environ.get("GITHUB_ACTIONS") == "true":
        with console.group("Build the native environment"), console.quoting() as quote:
            python = ensure_environment(
                state,
                requirements=requirements,
                torch_requirement=image.native_requirements(),
                python=sys.executable,
                on_line=quote,
            )
    return NativeExecutor(scratch=state / "native", cache=cache_folder(settings), memory=settings.memory, python=python)


def cache_folder(settings: Settings) -> Path:
    """The data cache, made when it is missing."""
    folder = Path(settings.cache).expanduser()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise MachineError(
            f"cannot make the data cache {folder}: {error.strerror}",
            hint="point `cache` at a folder that can be written",
        ) from error
    return folder
