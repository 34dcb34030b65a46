"""`doctor`: every precondition of a session, each with its remedy, before a night is spent finding out."""

from __future__ import annotations

import importlib.util
import json
import shutil
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from autoresearch_ci.cli import wiring
from autoresearch_ci.cli.environment import cache_folder
from autoresearch_ci.cli.options import Call
from autoresearch_ci.errors import AutoresearchError, MachineError
from autoresearch_ci.settings import Loaded
from autoresearch_ci.workspace import Checkout, inspect_repository

ENOUGH_DISK_GB: Final = 5.0  # a torch image is about 2 GB on CPU and 8 GB with CUDA; runs and logs come on top


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
        check("executor", lambda: _executor(chosen))
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


def _executor(loaded: Loaded) -> str:
    settings = loaded.settings
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
    forge = wiring.choose_forge(environ, loaded.settings, checkout, state)
    return f"{forge.repository_url or 'local'}, default branch {forge.default_branch()}"
