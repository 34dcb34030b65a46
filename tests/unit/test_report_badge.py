"""The badge, and the line of a commit status."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoresearch_ci.experiment import History, Purpose, Status
from autoresearch_ci.report.badge import DOUBT, NOTHING, SURE, badge
from autoresearch_ci.report.standing import MAX_STATUS, busy_s, elapsed_s, per_hour, reached, status_line

from .histories import BASE, BEST, CONFIRMED, NOT_CONFIRMED, START, experiment, history, noisy, recheck

K, D, C = Status.KEEP, Status.DISCARD, Status.CRASH
SVG = "{http://www.w3.org/2000/svg}"
KEPT = history((1.0, K), (1.2, D), (0.9612, K))
UNREAD = recheck(Purpose.VERIFY, (BASE, (1.0,)), (BEST, (None,)))


def words(svg: str) -> list[str]:
    return [element.text or "" for element in ET.fromstring(svg).iter(f"{SVG}text")]


@pytest.mark.parametrize(
    ("made", "value", "title", "colour"),
    [
        (history(), "no baseline yet", "autoresearch: no baseline yet", NOTHING),
        (history((None, C)), "no baseline yet", "autoresearch: no baseline yet", NOTHING),
        (history((1.0, K), (1.1, D)), "val_bpb 1", "autoresearch: val_bpb 1, nothing kept", NOTHING),
        (KEPT, "val_bpb 0.9612 −3.88 %", "autoresearch: val_bpb 0.9612 −3.88 %, not confirmed", DOUBT),
        (
            noisy(NOT_CONFIRMED),
            "val_bpb 1.00833 −0.165 %",
            "autoresearch: val_bpb 1.00833 −0.165 %, not confirmed",
            DOUBT,
        ),
        (noisy(UNREAD), "val_bpb 0.9 −10.9 %", "autoresearch: val_bpb 0.9 −10.9 %, not confirmed", DOUBT),
        (noisy(CONFIRMED), "val_bpb 0.91 −9.9 % ✓", "autoresearch: val_bpb 0.91 −9.9 %, confirmed by fresh runs", SURE),
    ],
)
def test_what_it_says(made: History, value: str, title: str, colour: str) -> None:
    """Grey for nothing kept, orange for what is not confirmed, green for what fresh runs showed, and then by their numbers."""
    picture = badge(made)
    assert words(picture) == ["autoresearch", value]
    root = ET.fromstring(picture)
    assert (root.get("aria-label"), root.get("role")) == (title, "img")
    assert root.findtext(f"{SVG}title") == title
    fills = {element.get("fill") for element in root.iter(f"{SVG}rect")}
    assert colour in fills
    assert not {NOTHING, DOUBT, SURE} - {colour} & fills


def luminance(colour: str) -> float:
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    red, green, blue = (p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


@pytest.mark.parametrize("colour", [NOTHING, DOUBT, SURE])
def test_it_can_be_read(colour: str) -> None:
    """White on each colour has the contrast that WCAG 2.2 asks for (1.4.3)."""
    assert 1.05 / (luminance(colour) + 0.05) >= 4.5


@given(st.text(max_size=200))
def test_a_hostile_name_stays_text(name: str) -> None:
    """The badge is valid XML with the same elements, the same bytes twice, and refers to nothing outside."""
    made = replace(KEPT, session=replace(KEPT.session, metric=f"{name}</text><script>\"'&"))
    picture = badge(made)
    assert picture == badge(made)
    plain = [element.tag for element in ET.fromstring(badge(KEPT)).iter()]
    assert [element.tag for element in ET.fromstring(picture).iter()] == plain
    assert not re.search(r"(?i)<script|href|url\((?!#r\))|<!", picture)
    assert len(picture.encode("utf-8", "surrogatepass")) < 3000


def test_letters_fit_in_it() -> None:
    """A name of wide letters makes a wider badge, and both halves fill it."""
    wide = replace(KEPT, session=replace(KEPT.session, metric="指標" * 5))
    root, narrow = ET.fromstring(badge(wide)), ET.fromstring(badge(KEPT))
    assert int(root.get("width", "0")) > int(narrow.get("width", "0"))
    _, left, right = root.iter(f"{SVG}rect")
    assert int(left.get("width", "0")) + int(right.get("width", "0")) == int(root.get("width", "0"))


@pytest.mark.parametrize(
    ("made", "line"),
    [
        (history(), "val_bpb: no baseline yet"),
        (history((1.0, K), (1.1, D)), "val_bpb 1, nothing kept of 1"),
        (KEPT, "val_bpb 0.9612 (−3.88 %), 1 kept of 2"),
        (history((0.0, K), (-1.0, K)), "val_bpb -1, 1 kept of 1"),
        (noisy(CONFIRMED), "val_bpb 0.91 (−9.9 %), 2 kept of 4, confirmed"),
        (noisy(NOT_CONFIRMED), "val_bpb 1.00833 (−0.165 %), 2 kept of 4, not confirmed"),
    ],
)
def test_status_lines(made: History, line: str) -> None:
    """Where the metric is, by how much, and how much was kept; no more sure than the pull request."""
    assert status_line(made) == line


@given(st.text(), st.floats(allow_nan=False, allow_infinity=False), st.floats(allow_nan=False, allow_infinity=False))
def test_a_status_fits(name: str, before: float, after: float) -> None:
    """GitHub refuses a longer description; ours is one line."""
    made = history((before, K), (after, K))
    line = status_line(replace(made, session=replace(made.session, metric=name)))
    assert len(line) <= MAX_STATUS
    assert len(line.splitlines()) <= 1


def test_fresh_numbers_win() -> None:
    """What was measured again replaces what the search saw; without both readings it does not."""
    assert (reached(noisy(CONFIRMED)).before, reached(noisy(CONFIRMED)).after) == (1.01, 0.91)
    assert (reached(noisy(UNREAD)).before, reached(noisy(UNREAD)).after) == (1.01, 0.9)
    assert reached(noisy()).confirmed is None


def test_time_at_work() -> None:
    """The day between two nights is in what has elapsed, not in what the experiments took, and the pace is theirs."""
    day = START.replace(day=24)
    late = experiment(1, 0.9, K, started_at=day, finished_at=day.replace(minute=4))
    made = replace(KEPT, experiments=(KEPT.experiments[0], late))
    assert elapsed_s(made) == 2 * 86400 + 240
    assert elapsed_s(made, day.replace(hour=23)) == 2 * 86400 + 3600
    assert elapsed_s(replace(made, ended="enough"), day.replace(hour=23)) == 2 * 86400 + 240
    assert busy_s(made.experiments) == 480
    assert per_hour(made.experiments) == "15"
    assert per_hour(()) == ""
    assert elapsed_s(history()) == 0.0
