"""The commands that a report hands to its reader: every word is quoted for a shell and cut to a bounded length."""

from __future__ import annotations

import posixpath
import shlex
from typing import Final

from autoresearch_ci.experiment import Session
from autoresearch_ci.report.markdown import clean

MAX_NAME: Final = 100  # of a branch or a file inside a command


def merge_commands(session: Session) -> tuple[str, str]:
    """The two ways to merge."""
    command = f"autoresearch-ci merge --tag {shlex.quote(clean(session.tag, MAX_NAME))} --method"
    return f"{command} squash", f"{command} rebase"


def reproduce_commands(session: Session) -> tuple[str, str]:
    """Get the branch, and run its script as it was run."""
    branch = shlex.quote(clean(session.branch, MAX_NAME))
    checkout = (
        f"git fetch origin {branch} && git checkout FETCH_HEAD" if session.repository else f"git checkout {branch}"
    )
    variables = dict(session.adjustments)
    if session.time_budget_s is not None:
        variables = {"AUTORESEARCH_TIME_BUDGET": f"{session.time_budget_s:g}", **variables}
    words = [f"{clean(k, 60)}={shlex.quote(clean(v, 60))}" for k, v in list(variables.items())[:20]]
    script = session.settings.get("training-script", session.training_script)
    command = shlex.split(session.settings.get("command", "python {training-script}"))
    words += [shlex.quote(clean(word.replace("{training-script}", script), MAX_NAME)) for word in command]
    # Runs start in the folder that the settings are relative to; the session has the script's path from the root.
    folder, inside, rest = session.training_script.rpartition(f"/{posixpath.normpath(script)}")
    start = f"cd {shlex.quote(clean(folder, MAX_NAME))} && " if inside and not rest else ""
    return checkout, start + " ".join(words)


def show_command(session: Session, experiment_number: int) -> str:
    """Show an experiment's change, also a discarded one's."""
    ref = shlex.quote(clean(f"refs/autoresearch/{session.tag}/experiments/{experiment_number:04d}", MAX_NAME))
    return f"git fetch origin {ref} && git show FETCH_HEAD" if session.repository else f"git show {ref}"
