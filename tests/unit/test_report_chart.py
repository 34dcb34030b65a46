"""The picture of a session."""

from __future__ import annotations

import dataclasses
import xml.etree.ElementTree as ET

import pytest

from autoresearch_ci.experiment import Direction, Status
from autoresearch_ci.report.chart import chart, headline, limits, percent, thinned

from .histories import NOT_CONFIRMED, history, noisy

K, D, C = Status.KEEP, Status.DISCARD, Status.CRASH
SMALL = history((0.9979, K), (1.01, D), (0.98, K), (None, C), (1e9, D), (0.97, K))


def words(svg: str) -> str:
    return " ".join(
        "".join(element.itertext()) for element in ET.fromstring(svg).iter() if element.tag.endswith("text")
    )


def test_the_same_bytes() -> None:
    """Two charts of one history are the same, byte for byte, and hold no date."""
    first = chart(SMALL)
    assert first == chart(SMALL)
    assert "dc:date" not in first


def test_what_is_written_on_it() -> None:
    """The chart names the metric, which way is better, the numbers and what became of every experiment."""
    seen = words(chart(SMALL))
    for text in (
        "val_bpb (lower is better)",
        "0.9979 → 0.97",
        "2 of 5 kept",
        "baseline 0.9979",
        "crashed (1)",
        "discarded (2)",
    ):
        assert text in seen
    most = dataclasses.replace(SMALL, session=dataclasses.replace(SMALL.session, direction=Direction.MAXIMIZE))
    assert "val_bpb (higher is better)" in words(chart(most))


def test_its_title_is_no_more_sure_than_the_pull_request() -> None:
    """A picture travels without its text."""
    assert "not confirmed: autoresearch/nov22: val_bpb gain 0.002" in words(chart(noisy(NOT_CONFIRMED)))


@pytest.mark.parametrize("direction", Direction)
@pytest.mark.parametrize("wild", [1e9, -1e9, 1e300])
def test_a_wild_discard_does_not_flatten_the_curve(direction: Direction, wild: float) -> None:
    """The range that is shown follows what was kept, whatever one discard measured."""
    low, high = limits(history((0.99, K), (wild, D), (0.98, D), (0.97, K), (wild, D), direction=direction))
    assert 0.9 < low < 0.97
    assert 0.99 < high < 1.1
    assert "beyond the scale" in words(chart(history((0.99, K), (wild, D), (0.97, K), direction=direction)))


def test_all_kept_points_are_in_the_range() -> None:
    """No kept experiment lies outside the range, the baseline included."""
    low, high = limits(SMALL)
    assert low < 0.97 < 0.9979 < high


@pytest.mark.parametrize(
    "rows",
    [
        (),
        ((None, C),),
        ((0.5, K),),
        ((0.0, K), (0.0, D)),
        ((None, C), (0.7, D)),
        ((0.5, K), (0.5, K)),
        ((-1e300, K), (1e300, D)),
    ],
)
def test_odd_histories_have_a_chart(rows: tuple[tuple[float | None, Status], ...]) -> None:
    """Empty, crashed and constant sessions have a chart too."""
    assert ET.fromstring(chart(history(*rows))).tag.endswith("svg")


def test_a_title_is_only_text() -> None:
    """A metric's name is neither a formula nor a tag in the chart."""
    named = dataclasses.replace(SMALL, session=dataclasses.replace(SMALL.session, metric="$\\frac{<script>"))
    assert "$\\frac{<script>" in words(chart(named))


def test_many_experiments_stay_small() -> None:
    """20,000 experiments are a file below one megabyte, with the same first and last points."""
    rows = [(1.0 - n / 1e5, K) if n % 5 == 0 else (2.0, D) if n % 5 < 4 else (None, C) for n in range(20_000)]
    assert len(chart(history(*rows)).encode()) < 1_000_000


def test_thinning() -> None:
    """A thinned series has the limit's length and keeps its ends."""
    assert thinned(range(10), 20) == list(range(10))
    assert len(thinned(range(1001), 7)) == 7
    assert (thinned(range(1001), 7)[0], thinned(range(1001), 7)[-1]) == (0, 1000)


def test_headlines() -> None:
    """The headline is honest about nothing kept and nothing measured."""
    assert headline(SMALL) == "autoresearch/nov22: val_bpb 0.9979 → 0.97 (-2.8 %), 2 of 5 kept"
    assert headline(history((0.5, K), (0.6, D))) == "autoresearch/nov22: val_bpb 0.5, nothing kept of 1 tried"
    assert headline(history()) == "autoresearch/nov22: no baseline of val_bpb yet"
    assert headline(history((0.0, K), (-1.0, K))) == "autoresearch/nov22: val_bpb 0 → -1, 1 of 1 kept"


@pytest.mark.parametrize(
    ("before", "after", "shown"), [(1.0, 0.5, "-50 %"), (-1.0, -0.5, "+50 %"), (0.0, 1.0, ""), (1.0, 101.0, "+10000 %")]
)
def test_shares(before: float, after: float, shown: str) -> None:
    """A share has the sign of the change and is left out where there is nothing to share."""
    assert percent(before, after) == shown
