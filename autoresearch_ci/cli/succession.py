"""`continue`: a session that ran out of hours starts its workflow again, and the next run goes on with it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Final

from autoresearch_ci import tasks
from autoresearch_ci.cli.options import Call
from autoresearch_ci.cli.wiring import Opened
from autoresearch_ci.errors import ForgeError
from autoresearch_ci.experiment import History

REFS: Final = "refs/heads/"


def start_successor(call: Call, opened: Opened, history: History, *, made: int) -> None:
    """Dispatches this job's own workflow with its own inputs and the session's tag.

    `made`: how many experiments this process made; after none it warns instead, for the next run would make none either, and so on
    for ever. Outside Actions there is nothing to start. ForgeError when GitHub refuses.
    """
    where = call.environ.get("GITHUB_WORKFLOW_REF", "")  # octo/hello/.github/workflows/autoresearch.yml@refs/heads/main
    path, _, ref = where.partition("@")
    if call.environ.get("GITHUB_ACTIONS") != "true" or not ref:
        call.console.warning("`continue` starts a workflow again, and this is none: run the same command yourself")
        return
    if made < 1:
        call.console.warning("no experiment fitted into the hours, so `continue` starts nothing: give it more of them")
        return
    inputs = _inputs(call, opened, history)
    workflow = path.rpartition("/")[2]
    try:
        opened.forge.dispatch(workflow, ref.removeprefix(REFS), inputs)
    except ForgeError as error:
        raise ForgeError(
            f"the session is saved, but `{workflow}` could not be started again: {error.message}",
            hint="it needs `actions: write` and inputs `tag`, `resume`, `task`: `autoresearch-ci init --continue --force` writes that",
        ) from error
    call.console.notice("Continued", f"`{workflow}` was started again, and goes on with `{opened.tag}`")


def _inputs(call: Call, opened: Opened, history: History) -> dict[str, str]:
    """What the next run is started with: what this one was, for the same session; after a `continue 20`, what is left of it."""
    most, asked = history.session.max_iterations, call.environ.get("AUTORESEARCH_TASK", "").strip()
    if asked and most is not None:
        task = replace(tasks.parse(asked), count=max(1, most - len(history.tried)))
        return {"tag": opened.tag, "task": task.text}
    return {**dispatched_inputs(call.environ), "tag": opened.tag, "resume": "require"}


def dispatched_inputs(environ: Mapping[str, str]) -> dict[str, str]:
    """What the workflow was started with by hand, as text; a nightly has none. A `task` was this run's alone."""
    try:
        event = json.loads(Path(environ.get("GITHUB_EVENT_PATH", "")).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    given = event.get("inputs") if isinstance(event, dict) else None
    if not isinstance(given, dict):
        return {}
    return {str(name): _text(value) for name, value in given.items() if name != "task" and value not in (None, "")}


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
