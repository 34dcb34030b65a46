"""The pull request of a local session as a page."""

from __future__ import annotations

import dataclasses
import re
from html.parser import HTMLParser

from hypothesis import given, settings
from hypothesis import strategies as st

from autoresearch_ci.experiment import History, Purpose, Status, Verdict
from autoresearch_ci.report.page import page

from .histories import BASE, BEST, CONFIRMED, NOT_CONFIRMED, history, noisy, recheck

K, D, C = Status.KEEP, Status.DISCARD, Status.CRASH
ROWS = history((1.0, K), (1.2, D), (0.9, K), (None, C), (0.8, K), ended="max-iterations reached")
DIFF = "diff --git a/t b/t\n--- a/t\n+++ b/t\n@@ -1 +1 @@\n-LR = 1\n+LR = '<b>\u202e'\n"


class Tags(HTMLParser):
    """Every tag and attribute of a page, and its text outside the styles."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.seen: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def made(rows: History = ROWS, title: str = "val_bpb 1 → 0.8") -> str:
    return page(rows, title=title, base="main", diffs={e.commit: DIFF for e in rows.kept})


def test_what_is_on_it() -> None:
    """The page has the numbers, the branch, the chart, the keeps, the failures, all experiments and the commands."""
    session = dataclasses.replace(
        ROWS.session,
        settings={"tag": "nov22"},
        adjustments={"AUTORESEARCH_COMPILE": "0"},
        device="a CPU",
        executor="native",
    )
    tags = Tags(made(dataclasses.replace(ROWS, session=session)))
    for text in (
        "autoresearch/nov22 → main", "ended: max-iterations reached", "Baseline 1 val_bpb", "Best 0.8 experiment 4",
        "Kept 2 of 4 tried", "Crashed 1 1 discarded", "Time 00:24", "+0.1 (10 %)", "KNOB 2 → 3", "because (2×)", "tag nov22",
        "AUTORESEARCH_COMPILE 0", "autoresearch-ci merge --tag nov22 --method squash", "a CPU · native",
    ):  # fmt: skip
        assert text in tags.text, text
    assert sum(tag == "svg" for tag, _ in tags.seen) == 1


def test_it_loads_nothing() -> None:
    """No tag of the page fetches anything or runs a script, and the page forbids it."""
    tags = Tags(made())
    assert not {tag for tag, _ in tags.seen} & {"script", "link", "img", "iframe", "object", "embed", "form", "base"}
    links = [
        value or "" for _, attrs in tags.seen for name, value in attrs.items() if name in {"src", "href", "xlink:href"}
    ]
    assert all(link.startswith("#") for link in links)
    assert re.search(r"Content-Security-Policy\" content=\"default-src 'none'", made())


def test_a_diff_is_coloured_and_shows_hidden_characters() -> None:
    """Added and removed lines are marked, and a direction character in the code is spelled out."""
    text = made()
    assert '<span class="removed">-LR = 1</span><span class="added">+LR = &#39;&lt;b&gt;\\u202e&#39;</span>' in text
    assert "\u202e" not in text


def test_a_long_diff_is_cut() -> None:
    """Of a long diff 400 lines are shown, and how many there are besides."""
    long = "diff --git a/t b/t\n@@ -1 +1 @@\n" + "+x\n" * 1000
    text = page(ROWS, title="t", base="main", diffs={ROWS.kept[0].commit: long})
    assert text.count('<span class="added">') == 398
    assert "… and 602 more lines" in text


def test_how_sure_it_is_is_on_it() -> None:
    """The confirmed gain, its evidence and the noise; a gain that was not confirmed says so; a bare table says neither."""
    sure = Tags(made(noisy(CONFIRMED))).text
    assert "Confirmed gain 0.100 95 % CI 0.083 to 0.117, 3 runs of each" in sure
    assert "Noise of one reading standard deviation 0.0094" in sure
    assert "+0.060 ± 0.010 (5.94 %)" in sure
    assert "not confirmed" not in sure
    assert "One run per experiment" not in sure
    unsure = Tags(made(noisy(NOT_CONFIRMED))).text
    assert "not confirmed The base and the best were measured again" in unsure
    assert "Not confirmed 0.002" in unsure
    failed = Tags(made(noisy(recheck(Purpose.VERIFY, (BASE, (1.0,)), (BEST, (None,)))))).text
    assert "Not confirmed —" in failed
    bare = Tags(made()).text
    assert "One run per experiment" in bare
    assert "onfirmed" not in bare


def test_nothing_kept_and_nothing_at_all() -> None:
    """Sessions without keeps, without a baseline and without experiments have a page that says so."""
    for rows in (history(), history((1.0, K), (1.1, D)), history((None, C)), history((1.0, K))):
        assert "Nothing was kept" in Tags(made(rows)).text
    assert "What did not work" not in made(history((1.0, K)))
    assert '<td class="number gain">—</td>' in made(history((1.0, K), (None, K)))


def test_many_experiments_are_cut() -> None:
    """Of many experiments the last 500 and of many keeps the last 200 are shown, and the page says so."""
    text = Tags(made(history(*((1.0 - n / 1000, K) for n in range(601))))).text
    assert "The last 500; 101 earlier ones are in results.tsv." in text
    assert "The last 200; 400 earlier ones are in results.tsv." in text


@settings(max_examples=10)
@given(st.text(max_size=100))
def test_no_text_makes_a_tag(words: str) -> None:
    """No description, reason, setting or title adds a tag or an attribute."""
    nasty = f"</span>{words}<script>alert(1)</script>\" onload='x'"
    changed = tuple(
        dataclasses.replace(e, description=nasty, verdict=Verdict(status=e.status, reason=nasty))
        for e in ROWS.experiments
    )
    plain = dataclasses.replace(ROWS, session=dataclasses.replace(ROWS.session, settings={"a": "b"}))
    session = dataclasses.replace(ROWS.session, settings={nasty: nasty}, metric=nasty)
    text = made(History(session=session, experiments=changed, ended=nasty), title=nasty)
    moved = recheck(Purpose.MACHINE, (BASE, (1.0,)), (BEST, (0.9,)), note=nasty)
    sure = dataclasses.replace(
        noisy(moved), experiments=tuple(dataclasses.replace(e, description=nasty) for e in noisy().experiments)
    )
    assert "<script" not in made(sure, title=nasty)
    chart = re.compile(r"<svg.*</svg>", re.DOTALL)  # its identifiers hang on its texts
    assert "<script" not in text
    assert Tags(chart.sub("", text)).seen == Tags(chart.sub("", made(plain))).seen
