"""`demo`: a short real session on the starter, on a fresh machine, without a key, GitHub or a GPU."""

from __future__ import annotations

import datetime as dt
import importlib.util
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

from autoresearch_ci.cli.options import Call
from autoresearch_ci.cli.research import run_session
from autoresearch_ci.cli.setup import starter_files
from autoresearch_ci.console import Console
from autoresearch_ci.errors import MachineError, SettingsError
from autoresearch_ci.settings import default_tag
from autoresearch_ci.workspace import new_repository


def run_demo(
    console: Console, environ: Mapping[str, str], *, experiments: int, budget: str, folder: Path | None
) -> int:
    """Makes the starter a repository in `folder` (default: a new temporary one), runs a session in it with the local forge, and
    prints the path of the pull request's page. The folder stays."""
    if importlib.util.find_spec("torch") is None:
        raise MachineError(
            "the starter trains with torch, which is not installed here", hint="`pip install 'autoresearch-ci[torch]'`"
        )
    project = _project(folder)
    project.mkdir(parents=True, exist_ok=True)
    for file in starter_files():
        shutil.copyfile(file, project / file.name)
    new_repository(project, message="The starter")
    console.info(f"the demo's project: {project}")
    flags = {
        "time_budget": budget,
        "timeout": "5m",  # a first `import torch` from a cold disk takes far longer than a few seconds
        "metric": "val_bpb",
        "direction": "minimize",
        "max_iterations": str(experiments),
        "tag": f"demo-{default_tag(dt.datetime.now(dt.UTC).date())}",
        "forge": "local",
        "open_pr": "always",
        "state_dir": str(project.parent / f"{project.name}-state"),
        "cache": str(project.parent / f"{project.name}-cache"),
    }
    # The demo's settings are embedded: nothing of the caller's environment reaches them.
    clean = {name: value for name, value in environ.items() if not name.startswith("AUTORESEARCH_")}
    return run_session(Call(console, clean, project, None, flags), finalize_after=True, native_when_no_container=True)


def _project(folder: Path | None) -> Path:
    if folder is None:
        return Path(tempfile.mkdtemp(prefix="autoresearch-demo-")) / "project"
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise SettingsError(f"{folder} is there already and not empty", hint="name a new folder")
    return folder.absolute()
