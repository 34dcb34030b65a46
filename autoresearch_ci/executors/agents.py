"""Starts coding agents: as processes of this machine, or in a container of an image that the user names.

An agent has the network, for its model is there, and nothing of ours: an explicit environment, a home of its own that is thrown
away, an export of its own. The user chose it, so there is no other wall natively; what its model makes it do is bounded in time,
processes and disk as a run is.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import requests.exceptions

from autoresearch_ci.agents import AgentRequest, AgentRun
from autoresearch_ci.errors import MachineError, SettingsError
from autoresearch_ci.executors.child import Child
from autoresearch_ci.executors.environment import NETWORK_VARIABLES, WINDOWS_VARIABLES, taken_from_here
from autoresearch_ci.executors.limits import MAX_FILE_BYTES, MAX_PROCESSES, Disk
from autoresearch_ci.executors.log import CappedLog
from autoresearch_ci.executors.owner import Owner
from autoresearch_ci.executors.process_tree import (
    KILL_TIMEOUT_S,
    MARKER,
    ProcessTree,
    adopting_orphans,
    kill_marked,
    unreadable,
)
from autoresearch_ci.executors.watching import Output, Watch
from autoresearch_ci.experiment import Ending

if TYPE_CHECKING:
    from autoresearch_ci.runs import Interrupt

OUTPUT_BYTES: Final = 4 * 2**20  # of what an agent prints, from its end
LOOK_S: Final = 0.1
MEMORY: Final = 4 * 2**30  # bytes of an agent's container
SESSION: Final = "agents"  # in the labels of their containers
PLAIN: Final = {"TERM": "dumb", "NO_COLOR": "1"}
_PREFIX: Final = "agent-"  # of a home's name


class NativeAgents:
    """Agents as process trees, each killed on every path. `scratch`: a folder for their homes, this session's alone.

    What a process that died has left of them there is ended and removed.
    """

    def __init__(self, scratch: Path) -> None:
        self._scratch = scratch.absolute()
        left = list(self._scratch.glob(f"{_PREFIX}*"))
        if left:
            kill_marked(str(self._scratch))
        for folder in left:
            shutil.rmtree(folder, ignore_errors=True)

    def has(self, program: str) -> bool:
        """Whether it is on our PATH."""
        return shutil.which(program) is not None

    def launch(self, request: AgentRequest, interrupt: Interrupt) -> AgentRun:
        """Runs the agent. SettingsError when it cannot be started."""
        with _home(self._scratch) as home:
            log_path = home / "output.log"
            variables = {
                **taken_from_here((*NETWORK_VARIABLES, *WINDOWS_VARIABLES, "PATH", "LANG", "LC_ALL")),
                "HOME": str(home / "home"), "TMPDIR": str(home / "tmp"), MARKER: str(home),
                **PLAIN, **request.variables,
            }  # fmt: skip
            stdin = home / "prompt"
            stdin.write_text(request.prompt, encoding="utf-8")
            with (
                adopting_orphans() as adopting,
                CappedLog(log_path, OUTPUT_BYTES) as log,
                unreadable(),
                stdin.open("rb") as prompt,
                ProcessTree(variables[MARKER], adopting=adopting) as tree,
            ):
                process = tree.begin(partial(_start, request, variables, prompt))
                output, deadline = Output(process.stdout), time.monotonic() + request.timeout_s
                disk = Disk((home, request.tree))
                watch = Watch(process, tree, output, disk, log.write, interrupt, deadline, None)
                try:
                    ending = watch.until_the_end()
                finally:
                    tree.kill()
                    process.wait(KILL_TIMEOUT_S)
                    output.drain(log.write)
            text = log_path.read_text(encoding="utf-8", errors="replace")
        return AgentRun(
            ending=ending,
            exit_code=process.returncode if ending is Ending.EXITED else None,
            output=text,
            stopped_because=watch.stopped_because if ending is Ending.STOPPED else "",
        )


class ContainerAgents:
    """Agents in containers of `image`: no capability, no privilege, our user, and of the machine's files the export alone.

    What a process that died has left of them is removed. MachineError when there is no such image.
    """

    def __init__(self, client: Any, image: str) -> None:
        import docker.errors

        from autoresearch_ci.executors.engine import talking
        from autoresearch_ci.executors.shelf import remove

        self._client = client
        self._image = image
        with talking("to find the agent's image"):
            try:
                client.images.get(image)
            except docker.errors.ImageNotFound as error:
                raise MachineError(
                    f"there is no image `{image}` for the agent", hint="build or pull it first"
                ) from error
            left = client.containers.list(all=True, filters={"label": Owner.FILTER}, ignore_removed=True)
        for container in left:
            if Owner.is_gone(container.labels):
                remove(container)

    def has(self, _program: str) -> bool:
        """What the image holds is known when it is started."""
        return True

    def launch(self, request: AgentRequest, interrupt: Interrupt) -> AgentRun:
        """Runs the agent in a container of its own, which is gone afterwards. MachineError when the engine cannot do it."""
        from autoresearch_ci.executors.engine import talking
        from autoresearch_ci.executors.shelf import remove

        with tempfile.TemporaryDirectory(prefix="autoresearch-agent-") as folder:
            Path(folder, "prompt").write_text(request.prompt, encoding="utf-8")
            with talking("to make the agent's container"):
                container = self._create(request, folder)
            try:
                with talking("to run the agent"):
                    return self._watched(container, request, interrupt)
            finally:
                remove(container)

    def _create(self, request: AgentRequest, folder: str) -> Any:
        import docker.types

        options: dict[str, Any] = {}
        if sys.platform != "win32":
            options["user"] = f"{os.getuid()}:{os.getgid()}"
        proxies = tuple(name for name in NETWORK_VARIABLES if name.lower().endswith("_proxy"))
        return self._client.containers.create(
            self._image,
            # A shell only to give the prompt; the command's words are passed as they are.
            ["sh", "-c", 'exec "$@" < /agent/prompt', "agent", *request.command],
            entrypoint="",
            name=f"autoresearch-agent-{uuid.uuid4().hex[:12]}",
            labels=Owner.of_this_process(SESSION).labels(),
            environment={**taken_from_here(proxies), "HOME": "/tmp", **PLAIN, **request.variables},
            volumes={
                str(request.tree): {"bind": "/workspace", "mode": "rw"},
                folder: {"bind": "/agent", "mode": "ro"},
            },
            working_dir=f"/workspace/{request.directory}".removesuffix("/."),
            cap_drop=["ALL"],
            security_opt=["no-new-privileges"],
            mem_limit=MEMORY,
            pids_limit=MAX_PROCESSES,
            ulimits=[docker.types.Ulimit(name="fsize", soft=MAX_FILE_BYTES, hard=MAX_FILE_BYTES)],
            init=True,
            log_config={"type": "json-file", "config": {"max-size": "8m", "max-file": "2"}},
            **options,
        )

    def _watched(self, container: Any, request: AgentRequest, interrupt: Interrupt) -> AgentRun:
        import docker.errors

        container.start()
        deadline, ending, code = time.monotonic() + request.timeout_s, Ending.EXITED, None
        while code is None and ending is Ending.EXITED:
            try:
                code = int(container.wait(timeout=LOOK_S)["StatusCode"])
            except (requests.exceptions.ReadTimeout, requests.exceptions.ConnectionError):
                if interrupt.requested():
                    ending = Ending.INTERRUPTED
                elif time.monotonic() > deadline:
                    ending = Ending.TIMEOUT
        if code is None:
            with suppress(docker.errors.APIError):  # it has just ended by itself
                container.kill()
        text = container.logs(tail=20_000)[-OUTPUT_BYTES:].decode("utf-8", errors="replace")
        return AgentRun(ending=ending, exit_code=code, output=text)


@contextmanager
def _home(scratch: Path) -> Iterator[Path]:
    """A home of its own for one agent, removed at the end."""
    try:
        scratch.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=scratch))
        for name in ("home", "tmp"):
            (folder / name).mkdir()
    except OSError as error:
        raise MachineError(
            f"no folder can be made for the agent: {error.strerror}", hint="make room on the disk"
        ) from error
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _start(request: AgentRequest, variables: Mapping[str, str], prompt: Any) -> Child:
    program = shutil.which(request.command[0], path=variables.get("PATH")) or request.command[0]
    flags: dict[str, Any] = {"start_new_session": True}
    if sys.platform == "win32":
        flags = {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP}
    try:
        return Child(
            subprocess.Popen(
                [program, *request.command[1:]],
                bufsize=0,
                cwd=request.tree / request.directory,
                env=dict(variables),
                stdin=prompt if request.prompt else subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                **flags,
            )
        )
    except (OSError, ValueError) as error:
        raise SettingsError(
            f"the agent `{request.command[0][:80]}` cannot be started: {getattr(error, 'strerror', None) or error}",
            hint="check `agent` or `agent-command`",
        ) from error
