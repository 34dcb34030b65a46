from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from pathlib import Path

import pytest

from autoresearch_ci import settings
from autoresearch_ci.cli import tags
from autoresearch_ci.errors import SettingsError
from autoresearch_ci.forges.pull_request import PullStanding, PullState
from autoresearch_ci.settings import Settings
from autoresearch_ci.workspace import Remote

BASICS = {"time-budget": "5m", "metric": "val_bpb", "direction": "minimize"}
TODAY = dt.date(2026, 11, 22)


def made(**flags: str) -> Settings:
    return settings.load(flags=BASICS | flags).settings


def nobody(template: str) -> str:
    raise AssertionError(f"the latest tag like `{template}` is not needed")


def test_the_tag_of_a_session_that_begins() -> None:
    """As it is set, with today's date in it, or the date alone."""
    assert tags.starting_tag(made(tag="deep"), TODAY, nobody) == "deep"
    assert tags.starting_tag(made(tag="nightly-{date}"), TODAY, nobody) == "nightly-2026-11-22"
    assert tags.starting_tag(made(), TODAY, nobody) == "nov22"


def test_going_on_without_a_tag_is_the_latest_session() -> None:
    """`resume: require` says that there is one; a date in the tag is then that of any night."""
    asked: list[str] = []

    def latest(template: str) -> str:
        asked.append(template)
        return "found"

    assert tags.starting_tag(made(resume="require"), TODAY, latest) == "found"
    assert tags.starting_tag(made(resume="require", tag="n-{date}"), TODAY, latest) == "found"
    assert tags.starting_tag(made(resume="require", tag="deep"), TODAY, latest) == "deep"
    assert tags.recorded_tag("n-{date}", latest) == "found"
    assert tags.recorded_tag("deep", latest) == "deep"
    assert asked == ["", "n-{date}", "n-{date}"]


@pytest.mark.parametrize("wrong", ["{day}", "a{date}{date}{date}{date}{date}{date}{date}", "{date}.lock", "-{date}"])
def test_a_tag_that_no_date_makes_one_is_refused(wrong: str) -> None:
    """Before anything is built, and with what a tag is."""
    with pytest.raises(SettingsError, match="tag"):
        made(tag=wrong)


def test_the_latest_tag_here(tmp_path: Path) -> None:
    """The file in the state folder says it; one that the template does not fit is somebody else's session."""
    (tmp_path / tags.LATEST).write_text("nightly-2026-11-21-2", encoding="utf-8")
    assert tags.latest_tag(tmp_path, None) == "nightly-2026-11-21-2"
    assert tags.latest_tag(tmp_path, None, "nightly-{date}") == "nightly-2026-11-21-2"
    with pytest.raises(SettingsError, match="no session"):
        tags.latest_tag(tmp_path, None, "weekly-{date}")
    with pytest.raises(SettingsError, match="no session"):
        tags.latest_tag(tmp_path / "nowhere", None)


class Merged:
    """The pull requests of branches by their state, and the tags that the remote knows."""

    def __init__(self, states: Mapping[str, PullState]) -> None:
        self.states = states
        self.asked: list[str] = []

    def standing(self, branch: str) -> PullStanding:
        self.asked.append(branch)
        return PullStanding(state=self.states.get(branch.removeprefix("autoresearch/"), PullState.NONE))


@pytest.mark.parametrize(
    ("states", "known", "expected"),
    [
        ({}, [], ("night", PullState.NONE)),
        ({"night": PullState.OPEN}, ["night", "night-2"], ("night", PullState.OPEN)),
        ({"night": PullState.CLOSED}, ["night"], ("night", PullState.CLOSED)),
        ({"night": PullState.MERGED}, ["night"], ("night-2", PullState.NONE)),
        ({"night": PullState.MERGED, "night-2": PullState.OPEN}, ["night", "night-2"], ("night-2", PullState.OPEN)),
        ({"night": PullState.MERGED, "night-2": PullState.CLOSED}, ["night", "night-2"], ("night-2", PullState.CLOSED)),
        ({"night": PullState.MERGED, "night-2": PullState.MERGED}, ["night", "night-2"], ("night-3", PullState.NONE)),
        ({"night": PullState.MERGED}, ["night", "night-20"], ("night-2", PullState.NONE)),
    ],
)
def test_the_next_generation(
    states: Mapping[str, PullState],
    known: list[str],
    expected: tuple[str, PullState],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A merged session is followed by the next number, a closed one by none; a number with a gap before it is another's tag."""
    forge = Merged(states)
    monkeypatch.setattr(tags, "_on_remote", lambda _: [(name, dt.datetime.now(dt.UTC)) for name in known])
    tag, found = tags.generation("night", forge.standing, Remote(url="nowhere"))
    assert (tag, found.state) == expected
    assert len(forge.asked) <= 3
