"""The step summary while a session goes on."""

from __future__ import annotations

import dataclasses
import datetime as dt
import re
import sys
from types import FrameType

from hypothesis import given, settings
from hypothesis import strategies as st

from autoresearch_ci.experiment import Direction, History, Status, Verdict
from autoresearch_ci.report.mermaid import MAX_POINTS, mermaid
from autoresearch_ci.report.running import MAX_KEPT, MAX_RECENT, running_summary

from .histories import START, experiment, history

K, D, C = Status.KEEP, Status.DISCARD, Status.CRASH
SOME = history((1.0, K), (0.9, K), (1.2, D), (None, C), (0.8, K), (0.85, D))
CONFIG = (
    ("branch", "autoresearch/nov22", "tag"),
    ("metric", "val_bpb", "autoresearch.toml"),
    ("target", "", "default"),
)
NOW = START + dt.timedelta(hours=1, minutes=5)
LIMIT = 200_000  # bytes; GitHub's own is 1,048,576


def shown(made: History = SOME, requests: str = "") -> str:
    return running_summary(made, config=CONFIG, now=NOW, requests=requests)


def on_github(made: History) -> History:
    session = dataclasses.replace(
        made.session, repository="https://github.com/o/r", run_url="https://github.com/o/r/actions/runs/7"
    )
    return dataclasses.replace(made, session=session)


def long(count: int) -> History:
    rows = [
        (1.0, K),
        *((1.0 - n / 1e6, K) if n % 3 == 0 else (None, C) if n % 3 == 1 else (2.0, D) for n in range(count)),
    ]
    return history(*rows)


def test_the_config_then_how_it_stands_then_the_table() -> None:
    """The settings with where they came from, the numbers now, the diagram, the experiments, and the calls at the end."""
    text = shown(on_github(SOME), requests="API: 12 reads, 3 writes of `200`")
    order = [
        "# AutoResearch: autoresearch/nov22",
        "**val_bpb 0.8 (−20 %), 2 kept of 5** · running since 2026-11-22 22:00 UTC · [the job's page]"
        "(https://github.com/o/r/actions/runs/7)",
        "<summary>Research Config (3 settings)</summary>",
        "| metric | val_bpb | autoresearch.toml |",
        "| target | — | default |",
        "| 0.8 ([0000000](https://github.com/o/r/commit/0000000000000000000000000000000000000005)) | -0.2 (-20.00%) "
        "| 5 of unlimited: 2 kept, 2 discarded, 1 crashed | 01:05 | 15 |",
        "**Current direction:** optimizer; 1 experiments since the last keep",
        "xychart-beta",
        "## Experiments, newest first",
        "| 5 | [0000000](https://github.com/o/r/commit/0000000000000000000000000000000000000006) | 0.85 | discard |",
        "| 4 | [0000000](https://github.com/o/r/commit/0000000000000000000000000000000000000005) | 0.8 | **keep** |",
        "| 3 | [0000000](https://github.com/o/r/commit/0000000000000000000000000000000000000004) | — | crash |",
        "API: 12 reads, 3 writes of <code>200</code>\n",
    ]
    places = [text.index(line) for line in order]
    assert places == sorted(places)
    assert text.endswith(order[-1])


def test_the_config_is_unfolded_until_there_is_a_result() -> None:
    """Before the baseline there is nothing else to read."""
    assert "<details open>\n<summary>Research Config" in shown(history())
    assert "The baseline is being measured." in shown(history())
    assert "<details>\n<summary>Research Config" in shown(SOME)
    assert "Research Config" not in running_summary(SOME, config=(), now=NOW)


def test_a_session_that_is_over_says_why() -> None:
    """No direction any more, and the clock stops with the last experiment."""
    text = shown(dataclasses.replace(SOME, ended="10 crashes in a row"))
    assert "· ended: 10 crashes in a row" in text
    assert "Current direction" not in text
    assert "| 00:29 |" in text
    assert "running" not in text


def test_old_keeps_stay_in_a_long_session() -> None:
    """The last experiments, and the last keeps with their gains; what is cut is counted."""
    text = shown(long(600))
    assert f"## The last {MAX_RECENT} experiments, newest first" in text
    assert "## Kept, newest first" in text
    assert f"… and {200 - MAX_KEPT} older ones in results.tsv" in text
    assert "| 598 | 0000000 | 0.999403 | +3e-06 (0.0003 %) | KNOB 598 → 599 |" in text
    assert "| 1 | 0000000 |" not in text
    few = [(1.0, K), (0.9, K), *[(2.0, D)] * 50]
    assert "| 1 | 0000000 | 0.9 | +0.1 (10 %) | KNOB 1 → 2 |" in shown(history(*few))
    assert "Kept, newest first" not in shown(SOME)


def test_a_crash_without_a_baseline_and_a_table_without_times() -> None:
    """Odd histories have a summary too."""
    assert "no baseline yet" in shown(history((None, C)))
    timeless = dataclasses.replace(experiment(0, 1.0, K), started_at=None, finished_at=None)
    assert "| 01:05 | — |" in shown(History(session=SOME.session, experiments=(timeless,)))


def calls(made: History) -> int:
    """How many functions the summary calls."""
    count = 0

    def called(frame: FrameType, event: str, argument: object) -> None:
        nonlocal count
        count += event == "call"

    before = sys.getprofile()
    sys.setprofile(called)
    try:
        shown(made)
    finally:
        sys.setprofile(before)
    return count


def test_the_2000th_costs_what_an_early_one_costs() -> None:
    """It is written after every experiment, so neither its size nor its work grows with them."""
    early, late = long(250), long(2000)
    assert len(shown(late)) < 1.1 * len(shown(early))
    assert calls(late) - calls(early) < 2 * (2000 - 250)  # one look at each verdict; a row costs a hundred calls


@given(st.integers(1, 300), st.sampled_from(Direction))
def test_the_diagram_is_bounded_and_ends_where_the_session_stands(count: int, direction: Direction) -> None:
    """Its last point is the best of all, and it has a bounded number of them along the experiments."""
    rows = [(1.0, K), *((1.0 + (n * 7919 % 101 - 50) / 100, K if n % 4 == 0 else D) for n in range(count))]
    made = history(*rows, direction=direction)
    lines = mermaid(made)
    best = min if direction is Direction.MINIMIZE else max
    kept = [e.metric for e in made.of(K) if e.metric is not None]
    if len(set(kept)) == 1:
        assert lines == []
    if lines:
        points = [float(p) for p in re.findall(r"[-\d.]+", next(line for line in lines if line.startswith("  line")))]
        assert len(points) <= MAX_POINTS
        assert points[0] == 1.0
        assert abs(points[-1] - best(kept)) < 1e-5
        assert f'  x-axis "experiment" 0 --> {count}' in lines


@settings(max_examples=4)
@given(st.text(max_size=300), st.sampled_from(["@", "&", "<|>", "`", "文", "😀"]))
def test_far_below_githubs_limit(anything: str, often: str) -> None:
    """However many experiments and settings there are, and whatever stands in them: GitHub drops a longer summary whole."""
    nasty = anything + often * 300
    base = SOME.experiments[0]
    many = tuple(
        dataclasses.replace(
            base, number=n, description=nasty, metric=1.0 - n / 1e6, commit=f"{n:040x}",
            verdict=Verdict(status=(K, D, C)[n % 3], reason=nasty),
        )
        for n in range(2000)
    )  # fmt: skip
    session = dataclasses.replace(on_github(SOME).session, metric=nasty, tag=nasty, run_url=nasty)
    made = History(session=session, experiments=many, ended=nasty)
    text = running_summary(made, config=[(nasty, nasty, nasty)] * 500, now=NOW, requests=nasty)
    assert len(text.encode("utf-8", "surrogatepass")) < LIMIT


@settings(max_examples=20)
@given(st.text(max_size=100))
def test_it_does_nothing(words: str) -> None:
    """Nobody is mentioned, nothing closed, no tag, marker or row added by what others wrote."""
    nasty = f"{words} @octocat fixes #1 <img src=x> <!-- autoresearch:end --> ` | x\n# heading\n```"
    changed = tuple(
        dataclasses.replace(e, description=nasty, verdict=Verdict(status=e.status, reason=nasty))
        for e in SOME.experiments
    )
    session = dataclasses.replace(SOME.session, metric=nasty, run_url=f"https://x/{nasty}")
    made = History(session=session, experiments=changed)
    text = running_summary(made, config=[(nasty, nasty, nasty)] * len(CONFIG), now=NOW, requests=nasty)
    for active in ("@octocat", "fixes #1", "<img", "<!--", "\n# heading", "https://x"):
        assert active not in text
    assert len(text.splitlines()) == len(shown(SOME, requests="x").splitlines())
