"""A session that is looked at without being held: its record here, or on the remote."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from autoresearch_ci import journal
from autoresearch_ci.cli import tags
from autoresearch_ci.cli.forge import Forge, github
from autoresearch_ci.cli.wiring import state_folder
from autoresearch_ci.errors import ForgeError, GitError, SettingsError
from autoresearch_ci.experiment import History
from autoresearch_ci.forges.local import LocalForge
from autoresearch_ci.journal import Journal
from autoresearch_ci.workspace import Checkout, Remote, inspect_repository, read_session


def recorded(environ: Mapping[str, str], directory: Path, values: Mapping[str, Any]) -> tuple[History, Journal] | None:
    """The session that is recorded for looking at it, without holding it; None when there is none.

    One known only to the remote is read from its refs; without a tag it is the latest, of this machine or else of the remote.
    """
    try:
        checkout = inspect_repository(directory, str(values.get("training-script") or "train.py"))
    except (GitError, SettingsError):
        return None  # a folder with nothing but a results.tsv can be reported on, too
    state = state_folder(directory, checkout.git_dir, values.get("state-dir"))
    remote = _remote_of(environ, checkout, values)
    try:
        tag = tags.recorded_tag(str(values.get("tag") or ""), partial(tags.latest_tag, state, remote))
    except SettingsError:
        return None
    record = Journal(state / tag)
    data = record.load()
    if not data and remote is not None:
        with tempfile.TemporaryDirectory(prefix="autoresearch-status-") as folder:
            data = journal.join_segments(read_session(remote, tag, Path(folder)))
    if not data:
        return None
    try:
        return journal.parse(data), record
    except ValueError as error:
        raise GitError(f"the session's journal cannot be read: {error}", hint="was it edited?") from error


def _remote_of(environ: Mapping[str, str], checkout: Checkout, values: Mapping[str, Any]) -> Remote | None:
    """Where sessions of other machines are seen; None without a token: only what is here can be looked at then."""
    forge: Forge = LocalForge(checkout.root, checkout.root)
    if values.get("forge") != "local" and checkout.origin:
        try:
            forge = github(environ, checkout)
        except (ForgeError, SettingsError):
            return None
    return Remote(url=forge.remote_url, token=lambda: forge.token)
