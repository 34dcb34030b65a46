from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from autoresearch_ci.forges.pull_request import ISLAND_END, ISLAND_START, island, with_island

human = st.text().filter(lambda text: "<!--" not in text)
anything = st.lists(st.one_of(st.text(max_size=8), st.sampled_from([ISLAND_START, ISLAND_END]))).map("".join)


@given(before=human, after=human, old=anything, new=anything)
def test_an_update_replaces_the_island_and_nothing_else(before: str, after: str, old: str, new: str) -> None:
    """What a person wrote above and below our part is the same after an update."""
    assert with_island(before + island(old) + after, new) == before + island(new) + after


@given(existing=anything, body=anything)
def test_updating_twice_is_updating_once(existing: str, body: str) -> None:
    """Whatever a person did to the markers, the same report twice gives the same text."""
    once = with_island(existing, body)
    assert with_island(once, body) == once
    assert once.count(island(body)) >= 1


@given(text=human)
def test_a_text_without_an_island_gets_one_below(text: str) -> None:
    """A person who deleted our part finds it again below their own words."""
    updated = with_island(text, "report")
    assert updated.startswith(text.rstrip())
    assert updated.endswith(island("report"))


def test_a_lone_start_marker_does_not_swallow_what_a_person_wrote() -> None:
    """With the end marker deleted, the text below the start marker is still there after two updates."""
    broken = f"{ISLAND_START}\nold report\nmy own words"
    updated = with_island(with_island(broken, "first"), "second")
    assert "my own words" in updated
    assert "first" not in updated
    assert updated.count(ISLAND_START) == 1
