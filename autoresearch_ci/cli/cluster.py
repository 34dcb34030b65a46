"""The cluster that the settings ask for, joined and ready for a session's runs."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

from autoresearch_ci.console import Console
from autoresearch_ci.executors.ray_cluster import RayExecutor
from autoresearch_ci.executors.ray_messages import Setup, Wanted
from autoresearch_ci.settings import Settings


@contextmanager
def cluster(
    console: Console,
    environ: Mapping[str, str],
    settings: Settings,
    *,
    state: Path,
    session: str,
    requirements: bytes | None,
) -> Iterator[RayExecutor]:
    """The executor of a Ray cluster, whose nodes are checked and ready; everything of the session's there is ended at the end."""
    wanted = Wanted(
        address=settings.ray_address,
        parallel=settings.parallel,
        device_class=settings.device_class,
        allow_native=settings.allow_native,
        setup=Setup(
            session=_unique(session, state),
            cache=settings.cache,
            platform=settings.platform,
            memory=settings.memory,
            cpus=settings.cpus,
            shm_size=settings.shm_size,
            base_image=settings.base_image,
            requirements=requirements,
            build_args=dict(settings.build_args),
            registry=settings.registry,
        ),
    )
    with ExitStack() as stack:
        with console.group("Join the cluster"):
            console.info(f"asking the cluster: {settings.ray_address}")
            executor = stack.enter_context(RayExecutor(wanted, environ=environ))
            console.info(executor.ready.says)
        yield executor


def _unique(session: str, state: Path) -> str:
    """A name for folders on the nodes, which a session that goes on has again, and no other on the cluster has."""
    plain = re.sub(r"[^a-z0-9]+", "-", session.lower()).strip("-")
    return f"{plain[:40]}-{hashlib.sha256(str(state.absolute()).encode()).hexdigest()[:8]}"
