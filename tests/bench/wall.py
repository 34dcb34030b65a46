"""What the wall costs a run: the executor's options against a container that has none of them.

python -m tests.bench.wall [runs]. Both make the same calls (create, attach, start, wait, remove) with the same image, one
after the other in turn, so that what else the machine does falls on both. At most 50 ms are allowed.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import docker

from autoresearch_ci.executors.container import ContainerExecutor
from autoresearch_ci.executors.engine import connect
from autoresearch_ci.executors.image import Image, ensure_image
from autoresearch_ci.runs import RunRequest
from tests.integration.conftest import BASE_IMAGE
from tests.interrupts import Never

RUNS: Final = 25
ALLOWED_MS: Final = 50.0
COMMAND: Final = "python -c pass"
PLAIN: Final = "plain `docker run`"


def plain(client: docker.DockerClient, image: Image, network: str | None = None) -> None:
    """The same container without an option, but for the network where one is named."""
    container = client.containers.create(image.id, COMMAND.split(), network_mode=network)
    try:
        output = container.attach(stdout=True, stderr=True, stream=True)
        container.start()
        for _ in output:
            pass
        container.wait()
    finally:
        container.remove(v=True, force=True)


def timed_ms(function: Callable[[], object]) -> float:
    started = time.perf_counter()
    function()
    return (time.perf_counter() - started) * 1000


def row(name: str, times_ms: list[float], base_ms: float) -> str:
    low, median, high = statistics.quantiles(times_ms, n=4)
    return f"| {name} | {median:.0f} ms | {low:.0f} to {high:.0f} ms | {median - base_ms:+.0f} ms |"


def main(runs: int) -> int:
    client = connect()
    image = ensure_image(
        client,
        platform="cpu",
        base_image=BASE_IMAGE,
        requirements=None,
        torch_version="",
        build_args={"PIP_FIND_LINKS": "http://127.0.0.1:9/"},
        on_line=print,
    )
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for inner in ("tree", "cache", "outputs"):
            (folder / inner).mkdir()
        (folder / "tree" / "train.py").write_text("pass\n")
        (folder / "tree" / "prepare.py").write_text("pass\n")
        with ContainerExecutor(client, image, session="bench", cache=folder / "cache", platform="cpu") as executor:

            def run(outputs: Path | None) -> object:
                return executor.run(
                    RunRequest(
                        name="bench",
                        tree=folder / "tree",
                        script="train.py",
                        command=COMMAND,
                        variables={},
                        timeout_s=60,
                        log=folder / "log",
                        outputs=outputs,
                    ),
                    Never(),
                )

            ways: dict[str, Callable[[], object]] = {
                PLAIN: lambda: plain(client, image),
                "plain, without a network": lambda: plain(client, image, "none"),
                "with the wall": lambda: run(None),
                "with the wall, outputs wanted": lambda: run(folder / "outputs"),
            }
            times: dict[str, list[float]] = {way: [] for way in ways}
            for number in range(runs + 1):
                for way, function in ways.items():
                    took = timed_ms(function)
                    if number:  # the first of each warms what is cold
                        times[way].append(took)
    base = statistics.median(times[PLAIN])
    print(f"\n| `{COMMAND}`, {runs} runs each | median | quartiles | more than plain |\n|---|---|---|---|")
    for way, taken in times.items():
        print(row(way, taken, base))
    cost = statistics.median(times["with the wall"]) - base
    print(f"\nallowed: {ALLOWED_MS:.0f} ms; {'kept' if cost <= ALLOWED_MS else 'NOT KEPT'}")
    return 0 if cost <= ALLOWED_MS else 1


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else RUNS))
