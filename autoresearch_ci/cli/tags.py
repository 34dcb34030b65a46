"""Which session is meant: by its tag, by the date in it, as the latest one; and its next generation, once one was merged."""

from __future__ import annotations

import datetime as dt
import re
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from autoresearch_ci.errors import SettingsError
from autoresearch_ci.forges.pull_request import PullStanding, PullState
from autoresearch_ci.settings import DATE, Settings, default_tag
from autoresearch_ci.workspace import Remote, list_sessions

LATEST: Final = "latest"  # the file in the state folder with the tag that was started last here


def starting_tag(settings: Settings, today: dt.date, latest: Callable[[str], str]) -> str:
    """The tag of a session that is to begin or to go on. `latest(template)`: the latest tag like the template's."""
    if settings.resume == "require" and (not settings.tag or DATE in settings.tag):
        return latest(settings.tag)
    return settings.tag.replace(DATE, today.isoformat()) or default_tag(today)


def recorded_tag(tag: str, latest: Callable[[str], str]) -> str:
    """The tag of a session that was there before: `tag` itself, or the latest one like it."""
    return tag if tag and DATE not in tag else latest(tag)


def latest_tag(state: Path, remote: Remote | None, template: str = "") -> str:
    """The tag of the session that was started last: in this state folder, else of all that the remote knows.

    `template`: one with `{date}`, which only such tags fit; empty: any. SettingsError when there is none.
    """
    fits = re.compile(
        re.escape(template).replace(re.escape(DATE), r"\d{4}-\d\d-\d\d") + r"(-\d+)?" if template else ".+"
    )
    here = (state / LATEST).read_text(encoding="utf-8").strip() if (state / LATEST).is_file() else ""
    if fits.fullmatch(here):
        return here
    found = [tag for tag, _ in _on_remote(remote) if fits.fullmatch(tag)] if remote else []
    if not found:
        raise SettingsError(
            "no session was started from this repository",
            hint="`autoresearch-ci run` starts one; `--tag` names another",
        )
    return found[-1]


def generation(tag: str, standing: Callable[[str], PullStanding], remote: Remote) -> tuple[str, PullStanding]:
    """The tag under which a session goes on, and how its pull request stands: `tag`, or `tag-2` once the first was merged.

    A merged pull request ends its session: what comes after it starts from the new base, on a branch of its own, for ours are never
    moved back. `standing(branch)` is asked at most three times.
    """
    found = standing(f"autoresearch/{tag}")
    if found.state is not PullState.MERGED:
        return tag, found
    last = _last_generation(tag, [name for name, _ in _on_remote(remote)])
    if last > 1:
        found = standing(f"autoresearch/{tag}-{last}")
        if found.state is not PullState.MERGED:
            return f"{tag}-{last}", found
    following = f"{tag}-{last + 1}"
    return following, standing(f"autoresearch/{following}")


def _last_generation(tag: str, known: Sequence[str]) -> int:
    """The highest number without a gap below it: `night-20` by itself is somebody's own tag, not the 20th of `night`."""
    number = 1
    while f"{tag}-{number + 1}" in known:
        number += 1
    return number


def _on_remote(remote: Remote) -> list[tuple[str, dt.datetime]]:
    with tempfile.TemporaryDirectory(prefix="autoresearch-tags-") as folder:
        return list_sessions(remote, Path(folder))
