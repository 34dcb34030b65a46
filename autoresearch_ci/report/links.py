"""Links of a report into the repository, and to the page of the job: Markdown; plain names for a session without a repository."""

from __future__ import annotations

import re
from pathlib import PurePosixPath
from typing import Final
from urllib.parse import quote

from autoresearch_ci.experiment import Experiment, Session
from autoresearch_ci.report.commands import MAX_NAME
from autoresearch_ci.report.markdown import cell

# Of our own making; the journal that it comes back from may be anybody's. No bracket, quote or space ends the link.
ADDRESS: Final = re.compile(r"https?://[\w.:-]+(?:/[\w./%~-]*)?", re.ASCII)
MAX_ADDRESS: Final = 300


def commit_link(session: Session, experiment: Experiment) -> str:
    """An experiment's short hash; GitHub shows a commit that is on no branch too."""
    label = cell(experiment.label)
    return f"[{label}]({session.repository}/commit/{quote(experiment.commit)})" if session.repository else label


def file_link(session: Session, path: str) -> str:
    """A file of the branch by its name."""
    name = cell(PurePosixPath(path).name, MAX_NAME)
    target = quote(PurePosixPath(path).name)
    if session.repository:
        target = f"{session.repository}/blob/{quote(session.branch)}/{quote(path)}"
    return f"[{name}]({target})"


def job_link(session: Session) -> str:
    """The page of the job; empty where there is none."""
    address = session.run_url
    if not address or len(address) > MAX_ADDRESS or not ADDRESS.fullmatch(address):
        return ""
    return f"[the job's page]({address})"
