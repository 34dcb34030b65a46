"""`doctor`: every precondition of a session, each with its remedy, before a night is spent finding out.

`doctor --sandbox`: what a hostile training script would manage where the session's runs happen.
"""

from __future__ import annotations

import importlib.util
import json
import shutil
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from autoresearch_ci import canary
from autoresearch_ci.canary import Attempt
from autoresearch_ci.cli import wiring
from autoresearch_ci.cli.environment import Place, cache_folder, environment
from autoresearch_ci.cli.forge import choose_forge
from autoresearch_ci.cli.options import Call
from autoresearch_ci.cli.signals import Signals
from autoresearch_ci.console import Console
from autoresearch_ci.errors import AutoresearchError, MachineError, SettingsError
from autoresearch_ci.experiment import Ending
from autoresearch_ci.runs import Interrupt, RunRequest
from autoresearch_ci.settings import Loaded, Settings
from autoresearch_ci.workspace import Checkout, inspect_repository

ENOUGH_DISK_GB: Final = 5.0  # a torch image is about 2 GB on CPU and 8 GB with CUDA; runs and logs come on top
CANARY_TIMEOUT_S: Final = 300.0


@dataclass(frozen=True, slots=True)
class Finding:
    """One precondition: whether it holds, what was seen, and what to do when it does not."""

    name: str
    exit_code: int
    seen: str
    remedy: str = ""


def examine(call: Call, *, as_json: bool) -> int:
    """Checks everything that can be checked without training; the exit code of the first thing that is wrong, else 0."""
    loaded: Loaded | None = None
    checkout: Checkout | None = None
    findings: list[Finding] = []

    def check(name: str, look: Callable[[], str]) -> None:
        try:
            findings.append(Finding(name, 0, look()))
        except AutoresearchError as error:
            findings.append(Finding(name, error.exit_code, error.message, error.hint))

    def settings() -> str:
        nonlocal loaded
        loaded = call.load()
        return f"{loaded.settings.direction.value} {loaded.settings.metric}"

    def repository() -> str:
        nonlocal checkout
        script = loaded.settings.training_script if loaded else "train.py"
        checkout = inspect_repository(call.directory, script)
        return f"{checkout.script} at {checkout.base_commit[:7]}"

    check("settings", settings)
    check("repository", repository)
    if loaded is not None:
        chosen = loaded
        check("executor", lambda: _executor(chosen, call.environ))
        check("data cache", lambda: str(cache_folder(chosen.settings)))
        if checkout is not None:
            here = checkout
            check("state folder", lambda: _state(call.directory, here, chosen))
            check("forge", lambda: _forge(call.environ, here, chosen, call.directory))
    if as_json:
        rows = [{"check": f.name, "ok": f.exit_code == 0, "seen": f.seen, "remedy": f.remedy} for f in findings]
        call.console.data(json.dumps(rows, indent=2, ensure_ascii=False))
    else:
        shown = [(f.name, "ok" if f.exit_code == 0 else "FAILED", f.seen, f.remedy) for f in findings]
        call.console.table("Doctor", ("Check", "", "Seen", "Remedy"), shown)
    return next((f.exit_code for f in findings if f.exit_code), 0)


def _executor(loaded: Loaded, environ: Mapping[str, str]) -> str:
    settings = loaded.settings
    if settings.executor == "ray":
        from autoresearch_ci.executors.ray_cluster import check_address, check_installed

        check_installed()
        return f"ray, {check_address(settings.ray_address, environ)}"
    if settings.executor == "native" or (
        settings.executor == "auto" and (sys.platform == "darwin" or settings.platform == "mps")
    ):
        if settings.requirements is None and importlib.util.find_spec("torch") is None:
            return f"native, {sys.executable}, without torch"
        return f"native, {sys.executable}"
    from autoresearch_ci.executors.engine import connect

    return f"container, Docker Engine {connect().version()['Version']}"


def _state(directory: Path, checkout: Checkout, loaded: Loaded) -> str:
    folder = wiring.state_folder(directory, checkout.git_dir, loaded.settings.state_dir)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        free_gb = shutil.disk_usage(folder).free / 2**30
        (folder / ".doctor").write_bytes(b"")
        (folder / ".doctor").unlink()
    except OSError as error:
        raise MachineError(
            f"{folder} cannot be written: {error.strerror}", hint="point `state-dir` at a folder that can be written"
        ) from error
    if free_gb < ENOUGH_DISK_GB:
        raise MachineError(f"{free_gb:.1f} GB free at {folder}", hint=f"free some: {ENOUGH_DISK_GB:g} GB are wanted")
    return f"{folder}, {free_gb:.0f} GB free"


def _forge(environ: Mapping[str, str], checkout: Checkout, loaded: Loaded, directory: Path) -> str:
    state = wiring.state_folder(directory, checkout.git_dir, loaded.settings.state_dir)
    forge = choose_forge(environ, loaded.settings, checkout, state)
    return f"{forge.repository_url or 'local'}, default branch {forge.default_branch()}"


def examine_sandbox(call: Call, *, as_json: bool) -> int:
    """Runs the canary where the session's runs would happen, with its settings; 0 when nothing got through, else 4.

    Native runs need no leave for this: the canary is ours, and harmless. Raises MachineError when it cannot be run or does
    not come to its end.
    """
    settings = call.load().settings
    checkout = inspect_repository(call.directory, settings.training_script)
    state = wiring.state_folder(call.directory, checkout.git_dir, settings.state_dir) / "doctor"
    with (
        Signals() as signals,
        environment(
            call.console,
            call.environ,
            settings,
            state=state,
            session="doctor",
            requirements=_requirements(call.directory, settings),
        ) as place,
    ):
        call.console.info(f"executor: {place.kind} ({place.wall or place.why})")
        attempts = run_canary(place, settings, state, signals)
    if signals.requested():
        return signals.exit_code
    report_attempts(call.console, attempts, as_json=as_json)
    return 0 if all(attempt.managed is False for attempt in attempts) else MachineError.exit_code


def run_canary(place: Place, settings: Settings, state: Path, interrupt: Interrupt) -> list[Attempt]:
    """What the canary says of a run in a small tree, which has the variables of the session's runs."""
    state.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="canary-", dir=state) as folder:
        tree, log = Path(folder, "tree"), Path(folder, "run.log")
        (tree / "data").mkdir(parents=True)
        (tree / "train.py").write_text(canary.PROGRAM, encoding="utf-8")
        (tree / "prepare.py").write_text("READY = True\n", encoding="utf-8")
        (tree / "data" / "answers.txt").write_text("42\n", encoding="utf-8")
        request = RunRequest(
            name="doctor-canary",
            tree=tree,
            script="train.py",
            command="python train.py",
            variables={**place.adjustments.variables(), **settings.env},
            timeout_s=CANARY_TIMEOUT_S,
            log=log,
        )
        run = place.executor.run(request, interrupt)
        attempts = canary.parse(log.read_text(encoding="utf-8", errors="replace"))
        if not attempts and run.ending is not Ending.INTERRUPTED:
            raise MachineError(
                f"the canary did not speak: it {run.ending.value} with exit code {run.exit_code}",
                hint="it needs Python 3.8 or newer as `python`; try `autoresearch-ci doctor` first",
            )
    return attempts


def report_attempts(console: Console, attempts: Sequence[Attempt], *, as_json: bool) -> None:
    """The canary's attempts as a table on stderr, or as JSON on stdout; and in one line what they come to."""
    results = {False: "refused", True: "GOT THROUGH", None: "unknown"}
    if as_json:
        rows = [{"attempt": a.name, "got_through": a.managed, "detail": a.detail} for a in attempts]
        console.data(json.dumps(rows, indent=2, ensure_ascii=False))
    else:
        shown = [(a.name, results[a.managed], a.detail) for a in attempts]
        console.table("Sandbox", ("The training script tried to", "", "Detail"), shown)
    through = [attempt for attempt in attempts if attempt.managed is not False]
    if through:
        console.warning(f"{len(through)} of {len(attempts)} attempts were not refused")
    else:
        console.info(f"all {len(attempts)} attempts were refused")


def _requirements(directory: Path, settings: Settings) -> bytes | None:
    if settings.requirements is None:
        return None
    try:
        return (directory / settings.requirements).read_bytes()
    except OSError as error:
        raise SettingsError(
            f"`{settings.requirements}` cannot be read: {error.strerror}", hint="change `requirements`"
        ) from error
