"""What a reviewer should look at first, in every report; who measured, and behind what wall."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoresearch_ci.experiment import History, Purpose, Status
from autoresearch_ci.report.page import page
from autoresearch_ci.report.pull_request import Files, body
from autoresearch_ci.report.review import NO_TRIPWIRES, flagged_elsewhere, measured_by, suspects, wall
from autoresearch_ci.report.summary import summary
from autoresearch_ci.tripwires import Kind, Tripwire

from .histories import BASE, BEST, CONFIRMED, FIRST, flagged, history, measured, noisy, recheck
from .test_report_page import Tags

FILES = Files(summary="autoresearch-summary.md", results="results.tsv", chart="chart.svg")
SEED = Tripwire(Kind.SEED, 7, "torch.manual_seed(43)")
GONE = Tripwire(Kind.SEED, 0, "no longer there: torch.manual_seed(SEED)")
MORE = Tripwire(Kind.MORE, 0, "4 that are not listed")
WIRES = {BEST: (SEED, GONE, MORE)}
ODD = flagged(noisy(CONFIRMED), 1, "2 lines give the metric", every=False)


def shown(made: History, tripwires: Mapping[str, Sequence[Tripwire]] = NO_TRIPWIRES) -> dict[str, str]:
    """The text of every report, by its name."""
    return {
        "pull request": body(made, files=FILES, base="main", diffs={}, tripwires=tripwires),
        "page": page(made, title="t", base="main", diffs={}, tripwires=tripwires),
        "summary": summary(made, tripwires=tripwires),
    }


def test_flags_and_tripwires_of_kept_commits() -> None:
    """A flagged keep has its flags and how each of its runs went, one with tripwires every one of them; others are left alone."""
    first, best = suspects(ODD, WIRES)
    assert (first.experiment.number, best.experiment.number) == (1, 4)
    assert first.reasons == [("2 lines give the metric · 1 of 2 runs flagged: 0.94 (flagged), 0.96", "")]
    assert best.reasons == [
        ("line 7, a changed seed", "torch.manual_seed(43)"),
        ("a changed seed", "no longer there: torch.manual_seed(SEED)"),
        ("more", "4 that are not listed"),
    ]
    assert suspects(noisy(CONFIRMED), {}) == []
    assert suspects(history(), {}) == []


def test_flags_of_the_baseline_and_of_the_last_check() -> None:
    """The baseline's flags are shown, and those that fresh runs of a commit got at the end, with all the runs of it."""
    [baseline] = suspects(flagged(noisy(), 0, "odd"), {})
    assert baseline.reasons == [("odd · 2 of 2 runs flagged: 1 (flagged), 1.02 (flagged)", "")]
    verify = recheck(Purpose.VERIFY, (BASE, (1.0,)), (BEST, (0.9,)))
    runs = tuple(dataclasses.replace(m, flags=("odd",)) if m.commit == BEST else m for m in verify.measurements)
    [best] = suspects(noisy(dataclasses.replace(verify, measurements=runs)), {})
    assert best.reasons == [("odd · 1 of 2 runs flagged: 0.9, 0.9 (flagged)", "")]
    many = noisy()
    again = dataclasses.replace(many.experiments[4], measurements=many.experiments[4].measurements * 12)
    [long] = suspects(flagged(dataclasses.replace(many, experiments=(*many.experiments[:4], again)), 4, "odd"), {})
    assert long.reasons[0][0].endswith("0.9 (flagged) and 4 more")
    [alone] = suspects(flagged(noisy(), 4, "odd"), {})
    assert alone.reasons == [("odd · 1 of 1 run flagged: 0.9 (flagged)", "")]


def test_every_report_shows_them_before_what_was_kept() -> None:
    """The pull request, the page and the summary have the section, and a mark in the table of what was kept."""
    for name, text in shown(ODD, WIRES).items():
        assert text.index("Look at these first") < text.index("How sure this is" if name == "page" else "0.95"), name
        plain = Tags(text).text if name == "page" else text
        assert "2 lines give the metric · 1 of 2 runs flagged: 0.94 (flagged), 0.96" in plain, name
        assert "line 7, a changed seed" in plain, name
        assert "<code>torch.manual_seed(43)</code>" in text, name
        assert "4 that are not listed" in plain, name
    made = shown(ODD, WIRES)
    assert "| 1 | ⚠ 0000000 |" in made["pull request"]
    assert "| 4 | ⚠ 0000000 |" in made["pull request"]
    assert "⚠ <code>0000000</code></td>" in made["page"]


def test_without_flags_nothing_is_shown() -> None:
    """A clean session has no such section and no mark; only the keep with a tripwire is marked in another."""
    for name, text in shown(noisy(CONFIRMED)).items():
        assert "Look at these first" not in text, name
        assert "⚠" not in text, name
    text = shown(noisy(CONFIRMED), {FIRST: (SEED,)})["pull request"]
    assert "| 1 | ⚠ 0000000 |" in text
    assert "| 4 | 0000000 |" in text


def test_flagged_and_not_kept_is_counted() -> None:
    """What was flagged and discarded is in no diff, so it is only counted."""
    assert flagged_elsewhere(ODD) == ""
    assert flagged_elsewhere(flagged(ODD, 2, "odd")) == "1 more was flagged and not kept."
    both = flagged(flagged(ODD, 2, "odd"), 3, "odd")
    for name, text in shown(both).items():
        assert "2 more were flagged and not kept." in text, name


def test_what_does_not_fit_is_counted() -> None:
    """The pull request shows eight reasons of a commit and so many commits; how many more there are, and where, is said."""
    rows = tuple(measured(n, (1.0 - n / 1000,), Status.KEEP) for n in range(250))
    made = dataclasses.replace(noisy(), experiments=rows)
    wires = {e.commit: (SEED,) * 12 for e in rows[1:]}
    texts = shown(made, wires)
    assert "  - … and 4 more in [autoresearch-summary.md]" in texts["pull request"]
    listed = texts["pull request"].count("\n- ⚠ ")
    cut = 249 - listed
    assert f"\n… and {cut} more commits with {12 * cut} reasons in [autoresearch-summary.md]" in texts["pull request"]
    assert listed > 5
    assert len(texts["pull request"]) < 60_000
    assert "… and 49 more commits" in texts["page"]
    assert texts["summary"].count("\n- ⚠ ") == 249
    assert len(texts["summary"].encode()) < 1024 * 1024


def test_who_measures() -> None:
    """The script itself; or the command `evaluate`, and where it does."""
    session = dataclasses.replace(ODD.session, executor="container")
    assert measured_by(session) == "The training script prints val_bpb itself."
    assert measured_by(dataclasses.replace(session, settings={"evaluate": ""})) == measured_by(session)
    scored = dataclasses.replace(session, settings={"evaluate": "python score.py"})
    sentence = (
        "The metric is scored by “python score.py” from the base commit, in a container that the script never ran in."
    )
    assert measured_by(scored) == sentence
    assert "in a process that" in measured_by(dataclasses.replace(scored, executor="native"))
    for name, text in shown(dataclasses.replace(ODD, session=scored)).items():
        assert sentence in (Tags(text).text if name == "page" else text), name
        assert "itself." not in text, name


@pytest.mark.parametrize(
    "made", [ODD, dataclasses.replace(ODD, experiments=(measured(0, (1.0,), Status.KEEP),), rechecks=())]
)
def test_native_runs_are_said_to_be(made: History) -> None:
    """Every report of native runs says that no container walled them in; none of others does."""
    native = dataclasses.replace(made, session=dataclasses.replace(made.session, executor="native"))
    said = "Runs were native: no container walled them in; review what the script does."
    for name, text in shown(native).items():
        assert said in (Tags(text).text if name == "page" else text), name
    for name, text in shown(made).items():
        assert "native" not in text, name
    assert wall(replace(native.session, wall="bubblewrap: no network")) == said.replace(
        "in;", "in (bubblewrap: no network);"
    )


@settings(max_examples=10, deadline=None)
@given(st.text(max_size=60), st.sampled_from(["@", "&", "<|>", "`", "文", "_*"]))
def test_words_of_others_do_nothing(words: str, often: str) -> None:
    """Neither a flag nor a tripwire's text, nor the command that scores, mentions anybody, adds a tag or a row, or is too long."""
    nasty = f"{words} @octocat fixes #1 <img src=x> </code><script> | x\n## heading {often * 200}"
    session = dataclasses.replace(ODD.session, settings={"evaluate": nasty}, metric=nasty, executor="native")
    odd = flagged(dataclasses.replace(ODD, session=session), 4, nasty, f"{nasty} again")
    made = shown(odd, {BEST: (Tripwire(Kind.CODE, 1, nasty),) * 20, FIRST: (SEED,)})
    for name in ("pull request", "summary"):
        assert "@octocat" not in made[name], name
        assert "fixes #1" not in made[name], name
        assert "\n## heading" not in made[name], name
    for name, text in made.items():
        assert "<img" not in text, name
        assert "<script" not in text, name
        assert text.count("</code>") == text.count("<code>"), name
    assert len(made["pull request"]) < 60_000
    assert "\n- ⚠ " in made["pull request"]
