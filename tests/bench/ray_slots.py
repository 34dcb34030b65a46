"""A Ray cluster on this machine, for the benchmark of the throughput."""

from __future__ import annotations

import os
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager

from autoresearch_ci.executors.ray_cluster import RayExecutor
from autoresearch_ci.executors.ray_messages import LOCAL, Setup, Wanted


@contextmanager
def ray_executor(slots: int) -> Iterator[RayExecutor]:
    """One that makes runs natively in so many workers, whatever number of cores there is; each has one to itself on paper."""
    with tempfile.TemporaryDirectory(prefix="autoresearch-bench-") as cache:
        setup = Setup(session=f"bench-{uuid.uuid4().hex[:8]}", cache=cache)
        wanted = Wanted(address=LOCAL, setup=setup, parallel=slots, kind="native", allow_native=True, local_cpus=slots)
        with RayExecutor(wanted, environ=os.environ) as executor:
            yield executor
