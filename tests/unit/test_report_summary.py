from __future__ import annotations

import datetime as dt
from dataclasses import replace

from autoresearch_ci.experiment import Category, History, Purpose, Status, Verdict
from autoresearch_ci.report.progress import change, progress_report
from autoresearch_ci.report.summary import MAX_ROWS, summary
from tests.unit.histories import (
    BASE,
    BEST,
    CONFIRMED,
    FIRST,
    NOT_CONFIRMED,
    START,
    experiment,
    history,
    measured,
    noisy,
    recheck,
)

KEEP, DISCARD, CRASH = Status.KEEP, Status.DISCARD, Status.CRASH
SOME = history((1.0, KEEP), (0.9, KEEP), (1.2, DISCARD), (None, CRASH), (0.8, KEEP), ended="enough")


def with_experiments(*experiments: object, base: History = SOME) -> History:
    return replace(base, experiments=tuple(experiments))  # type: ignore[arg-type]


def test_the_skills_form() -> None:
    """Header, results, top improvements by rank, what didn't work, next steps: the skill's part 3.1."""
    lines = summary(SOME).splitlines()
    assert lines[0] == "# AutoResearch Summary"
    assert "**Research session:** autoresearch/nov22" in lines
    assert "**Platform:** CPU" in lines
    assert "**Date:** 2026-11-22" in lines
    assert "**Total iterations:** 4 (2 kept, 1 discarded, 1 crashed)" in lines
    assert "**Time budget / run:** 5 minutes" in lines
    assert "| 1 | 0.8 | -0.2 (-20.00%) | 0000000 |" in lines
    assert "| 1 | 0000000 | 0.8 | KNOB 4 → 5 |" in lines
    assert "| 2 | 0000000 | 0.9 | KNOB 1 → 2 |" in lines
    assert "| optimizer | KNOB 2 → 3 | discard: because |" in lines
    assert "| optimizer | KNOB 3 → 4 | crash: because |" in lines
    headings = [line for line in lines if line.startswith("## ")]
    assert headings == [
        "## Results",
        "## Top Improvements (kept commits)",
        "## What Didn't Work",
        "## Recommended Next Steps",
    ]


def steps(of: History) -> list[str]:
    text = summary(of)
    return [line for line in text[text.index("## Recommended") :].splitlines() if line.startswith("- ")]


def test_three_to_five_next_steps_always() -> None:
    """As the skill asks, whatever was found."""
    for rows in (
        [(1.0, KEEP)],
        [(1.0, KEEP), (0.9, KEEP)],
        [(1.0, KEEP), *[(None, CRASH)] * 8, (0.9999, DISCARD), (0.9998, KEEP)],
    ):
        assert 3 <= len(steps(history(*rows))) <= 5
    assert 3 <= len(steps(history())) <= 5


def test_next_steps_come_from_what_was_found() -> None:
    """A knob whose last step paid, near misses, categories not tried, crashes and small gains are each named."""
    paid = experiment(1, 0.9, KEEP, parameters={"from LR": 0.1, "to LR": 0.2}, description="LR 0.1 → 0.2")
    near = experiment(2, 0.9001, DISCARD, description="WIDTH 64 → 128")
    oom = experiment(3, None, CRASH, verdict=Verdict(status=CRASH, reason="out of memory: killed"))
    found = "\n".join(steps(with_experiments(SOME.experiments[0], paid, near, oom)))
    assert "Go on with LR" in found
    assert "near misses" in found
    assert "WIDTH 64 → 128" in found
    assert "architecture and training" in found
    small = history((1.0, KEEP), (0.9999, KEEP))
    assert any("1 of 1 kept gains" in step for step in steps(small))
    crashed = "\n".join(steps(history((1.0, KEEP), (None, CRASH), (None, CRASH))))
    assert "2 of 2 experiments crashed" in crashed
    assert "1 experiment ran out of memory" in "\n".join(steps(with_experiments(SOME.experiments[0], oom)))


def test_a_bare_table_says_no_more_than_it_knows() -> None:
    """Without categories nothing is called untried; a crash that its description blames on memory is counted."""
    other = {"category": Category.OTHER, "verdict": Verdict(status=CRASH, reason="")}
    first = experiment(1, None, CRASH, description="double model width (OOM)", **other)
    second = experiment(2, None, CRASH, description="BLOOM filter", **other)
    found = "\n".join(steps(with_experiments(SOME.experiments[0], first, second)))
    assert "was tried" not in found
    assert "1 experiment ran out of memory" in found
    assert "2 of 2 experiments crashed" in found


def test_how_sure_it_is() -> None:
    """Noise, confirmed gain, keeps by evidence, what was run again and why, and the ablation: after the results."""
    ablation = recheck(Purpose.ABLATE, (BEST, (0.9, 0.91)), ("a" * 40, (0.9, 0.91)), reverted=FIRST)
    failed = recheck(Purpose.ABLATE, (BEST, (0.9,)), ("b" * 40, (None,)), reverted=BEST)
    text = summary(noisy(CONFIRMED, ablation, failed))
    headings = [line for line in text.splitlines() if line.startswith("##")]
    assert headings[:6] == [
        "## Results",
        "## How sure this is",
        "### Keeps by evidence",
        "### What was run again, and why",
        "### Ablation",
        "## Top Improvements (kept commits)",
    ]
    assert "\n**Confirmed gain:** 0.100 (95 % CI 0.0" in text
    assert "\n- **Noise of one reading:** standard deviation " in text
    assert "| 1 | 0000000 | +0.060 ± 0.010 | 0.020 | 2 | 3 | better |" in text
    assert "| baseline | 2 | 0 | to know the noise |" in text
    assert "| ablate, without 0000000 | 2 | 2 | whether a kept commit still matters |" in text
    assert "2 runs of each) | no longer | KNOB 1 → 2 |" in text
    assert "| 0000000 | — | could not be measured | KNOB 4 → 5 |" in text


def test_a_bare_table_is_not_called_sure_or_unsure() -> None:
    """Nothing is claimed of what was not measured."""
    for claim in ("How sure", "onfirmed", "Noise"):
        assert claim not in summary(SOME)


def test_evidence_replaces_guesses_in_the_next_steps() -> None:
    """What was not confirmed, what no longer matters and near misses by their readings; not by the size of a gain."""
    ablation = recheck(Purpose.ABLATE, (BEST, (0.9, 0.91)), ("a" * 40, (0.9, 0.91)), reverted=FIRST)
    found = "\n".join(steps(noisy(NOT_CONFIRMED, ablation)))
    assert "the gain was not confirmed" in found
    assert "`autoresearch-ci finalize --tag nov22 --drop 0000000`." in found
    assert "Try the near misses again, or together: KNOB 2 → 3." in found
    small = measured(1, (0.9999, 0.9998), KEEP)
    exact = with_experiments(measured(0, (1.0, 1.0), KEEP), replace(small, measurements=small.measurements[:1]))
    assert not any("kept gains are below" in step for step in steps(exact))
    once = with_experiments(measured(0, (1.0,), KEEP), replace(small, measurements=small.measurements[:1]))
    assert any("1 of 1 kept gains are below" in step for step in steps(once))
    failed = recheck(Purpose.VERIFY, (BASE, (1.0,)), (BEST, (None,)))
    assert "**Not confirmed:** no fresh reading of both commits" in summary(noisy(failed))


def test_progress_has_the_noise_and_the_repeats() -> None:
    """One line, where anything was measured."""
    report = progress_report(noisy(), now=START)
    assert "**Noise of one reading:** standard deviation " in report
    assert "· 4 of 9 runs were repeats\n" in report
    assert "Noise" not in progress_report(SOME, now=START)


def test_nothing_kept_is_said() -> None:
    """A normal night: no change was better."""
    text = summary(history((1.0, KEEP), (1.1, DISCARD)))
    assert "Nothing was kept" in text
    assert "| 1 | 1 | +0 (+0.00%) | baseline |" in text


def test_descriptions_cannot_write_markdown() -> None:
    """What a script or a model called its change stays text."""
    words = "@everyone fixes #1 | <img src=x> `code`\n# heading"
    evil = experiment(1, 0.9, KEEP, description=words)
    sure = noisy(recheck(Purpose.MACHINE, (BASE, (1.0,)), (BEST, (0.9,)), note=words))
    missed = replace(
        sure,
        experiments=tuple(
            replace(e, description=words, verdict=replace(e.verdict, reason=words)) for e in sure.experiments
        ),
    )
    for text in (summary(with_experiments(SOME.experiments[0], evil)), summary(missed)):
        assert "@everyone" not in text
        assert "fixes #1" not in text
        assert "<img" not in text
        assert "\n# heading" not in text


def test_a_long_session_is_cut_with_a_count() -> None:
    """Top rows and how many more there are."""
    text = summary(history((1.0, KEEP), *[(2.0, DISCARD)] * (MAX_ROWS + 7)))
    assert "… and 7 more in the results file." in text


def test_a_bare_table_has_a_summary_too() -> None:
    """Platform, dates and budget that are not known are said to be unknown."""
    bare = replace(SOME, session=replace(SOME.session, platform="", time_budget_s=None, started_at=None, tag=""))
    bare = replace(bare, experiments=tuple(replace(e, finished_at=None, started_at=None) for e in bare.experiments))
    text = summary(bare)
    assert "**Platform:** unknown" in text
    assert "**Date:** unknown" in text
    assert "**Time budget / run:** unknown" in text
    assert "Run on, with a larger number" in text


def test_dates_and_short_budgets() -> None:
    """A session over midnight has two dates; a budget below a minute is in seconds."""
    late = experiment(1, 0.9, KEEP, finished_at=START + dt.timedelta(hours=5))
    text = summary(
        replace(
            with_experiments(SOME.experiments[0], late),
            session=replace(SOME.session, time_budget_s=4.0, device="M2", executor="native"),
        )
    )
    assert "**Date:** 2026-11-22 to 2026-11-23" in text
    assert "**Time budget / run:** 4 s" in text
    assert "**Platform:** CPU (M2, native)" in text


def test_progress_in_the_skills_form() -> None:
    """Best so far, against the baseline, iterations, time, the last five rows and the direction."""
    report = progress_report(SOME, now=START + dt.timedelta(hours=1, minutes=5))
    assert report.startswith(
        "## AutoResearch Progress — Iteration 4\n\n**Best so far:** 0.8 (iteration 4, commit 0000000)\n"
    )
    assert "**vs. Baseline:** -0.2 (-20.00%)" in report
    assert "**Iterations:** 4 completed / unlimited" in report
    assert "**Time elapsed:** 00:24" in report  # ended: it stopped with the last experiment
    assert report.count("\n| ") == 6
    assert "near what was just kept" in report


def test_progress_while_it_runs() -> None:
    """Time goes on, and the direction says how long nothing was kept."""
    running = history((1.0, KEEP), (0.9, KEEP), (1.2, DISCARD), (None, CRASH))
    report = progress_report(running, now=START + dt.timedelta(hours=1, minutes=5))
    assert "**Time elapsed:** 01:05" in report
    assert "optimizer; 2 experiments since the last keep" in report
    assert "the search begins" in progress_report(history((1.0, KEEP)), now=START)
    assert "Iteration 0" in progress_report(history(), now=START)


def test_change_of_zero_has_no_share() -> None:
    """Nothing is divided by zero."""
    assert change(0.0, 0.5) == "+0.5"
    assert change(-2.0, -1.0) == "+1 (+50.00%)"


def test_category_order_is_stable() -> None:
    """What failed is listed by category, then by number."""
    a = experiment(1, 2.0, DISCARD, category=Category.TRAINING)
    b = experiment(2, 2.0, DISCARD, category=Category.ARCHITECTURE)
    text = summary(with_experiments(SOME.experiments[0], a, b))
    assert text.index("KNOB 2 → 3") < text.index("KNOB 1 → 2")
