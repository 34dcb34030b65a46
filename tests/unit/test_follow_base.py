"""What a merge of the base means to a session's history, its comparisons and its reports."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from autoresearch_ci import journal, results
from autoresearch_ci.experiment import Experiment, History, Status
from autoresearch_ci.integrity import flags
from autoresearch_ci.journal import Journal
from autoresearch_ci.noise import Readings
from autoresearch_ci.proposers.record import Record
from autoresearch_ci.report import pull_request
from autoresearch_ci.report.again import rows, spent
from autoresearch_ci.report.chart import chart, headline, limits
from autoresearch_ci.report.kept import steps
from autoresearch_ci.report.mermaid import mermaid
from autoresearch_ci.report.progress import progress_report
from autoresearch_ci.report.proposers import by_proposer
from autoresearch_ci.report.summary import summary
from autoresearch_ci.report.table import table
from autoresearch_ci.report.trust import best_single, facts, keep_rows, trust
from autoresearch_ci.stopping import Limits, reason_to_stop
from tests.unit.histories import history, measured, measurement

KEEP, DISCARD = Status.KEEP, Status.DISCARD
NEW = "ba5e" * 10
FILES = pull_request.Files(summary="s.md", results="results.tsv", chart="c.svg")


def merge_of(number: int, base: tuple[float, ...], own: tuple[float, ...]) -> Experiment:
    """A merge of the base: with no readings of the base by itself, one that leaves nothing of the session's own."""
    made = measured(number, own, KEEP, description="Merged main at ba5eba5", proposer="base", base=NEW)
    return replace(made, measurements=(*(measurement(NEW, value) for value in base), *made.measurements))


def followed(*, base: tuple[float, ...] = (3.0, 3.0), own: tuple[float, ...] = (2.7, 2.7)) -> History:
    """1.0, kept 0.9; then the base is another, three times as large; then kept 2.4, and a discard."""
    return replace(
        history(ended="done"),
        experiments=(
            measured(0, (1.0, 1.0), KEEP),
            measured(1, (0.9,), KEEP, proposer="search"),
            merge_of(2, base, own),
            measured(3, (2.4,), KEEP, proposer="search"),
            measured(4, (2.8,), DISCARD, proposer="search"),
        ),
    )


def test_the_baseline_is_the_base_as_it_is_now() -> None:
    """Its commit, and the mean of its own readings; what was made before is compared with the base of its time."""
    made = followed(base=(3.0, 3.2))
    baseline = made.baseline
    assert baseline is not None
    assert (baseline.number, baseline.label, baseline.commit) == (0, "baseline", NEW)
    assert baseline.metric == pytest.approx(3.1)
    assert {m.commit for m in baseline.measurements} == {NEW}
    of = [made.baseline_of(e) for e in made.experiments]
    assert [each.metric for each in of if each is not None] == [1.0, 1.0, pytest.approx(3.1), *[pytest.approx(3.1)] * 2]


def test_a_merge_is_no_improvement() -> None:
    """It is on the branch and can be the incumbent, but was neither tried nor kept."""
    made = followed()
    assert [e.number for e in made.kept] == [1, 3]
    assert [e.number for e in made.tried] == [1, 3, 4]
    assert [e.number for e in made.chain] == [2, 3]
    assert [e.number for e in made.on_branch] == [0, 1, 2, 3]
    earlier = replace(made, experiments=made.experiments[:3])
    assert earlier.incumbent is earlier.best is earlier.experiments[2]
    assert reason_to_stop(made, Limits(max_iterations=4), elapsed_s=0, next_s=0) == ""
    assert reason_to_stop(made, Limits(max_iterations=3), elapsed_s=0, next_s=0)


def test_what_the_base_took_is_no_longer_the_sessions() -> None:
    """After a merge that left nothing of the branch's own, only later keeps are claimed."""
    made = followed(base=(), own=(0.9, 0.9))
    assert made.experiments[2].is_base
    assert [e.number for e in made.kept] == [3]
    assert made.baseline is not None
    assert made.baseline.metric == 0.9
    assert "(1 kept" not in summary(made)
    assert "(2 kept, 1 discarded, 0 crashed)" in summary(made)


def test_readings_of_two_bases_are_not_compared() -> None:
    """Comparisons start anew; what is known of the noise stays."""
    readings = Readings.of(replace(followed(own=(2.7, 2.8)), experiments=followed(own=(2.7, 2.8)).experiments[:3]))
    made = followed().experiments
    assert readings.compared(made[0].commit) == ()
    assert readings.compared(made[1].commit) == ()
    assert readings.compared(made[2].commit) == (2.7, 2.8)
    assert readings.noise.degrees == 3


def test_a_jump_is_one_on_the_same_base() -> None:
    """The gains of another base say nothing about what is a jump on this one."""
    made = followed()
    small = flags(measurement("c", 2.35), made)
    assert small == ()
    assert "a jump" in flags(measurement("c", -1.0), made)[0]


def test_the_search_starts_from_the_new_script() -> None:
    """Nothing is known of the settings of the merged script but that it is where to start from."""
    record = Record(followed().session.direction)
    record.learn(replace(followed(), experiments=followed().experiments[:3]))
    assert [(dict(setting.values), setting.loss) for setting in record.settings] == [({}, 0.0)]


def test_reports_are_against_the_base_as_it_is_now() -> None:
    """Every text tells the merge, counts it for nothing, and compares what can be compared."""
    made = followed()
    assert results.write(made).splitlines()[3].endswith("keep\tMerged main at ba5eba5")
    assert "3 → 2.4 (-20 %), 2 of 3 kept" in headline(made)
    text = summary(made)
    assert "**Total iterations:** 3 (2 kept, 1 discarded, 0 crashed)" in text
    assert "| 3 | 2.4 | -0.6 (-20.00%) |" in text
    assert "it went on to ba5eba5, as experiment 2" in text
    ranking = text.partition("## Top Improvements")[2].partition("##")[0]
    assert ranking.index("2.4") < ranking.index("0.9")
    assert "What was kept before experiment 2 was measured on the base as it was then." in ranking
    body = pull_request.body(made, files=FILES, base="main", diffs={})
    assert "2 kept · 1 discarded · 0 crashed" in body
    assert "Merged main at ba5eba5" in body
    assert "which a rebase leaves out" in body
    assert [step.gain for step in steps(made, {})] == [pytest.approx(0.1), None, pytest.approx(0.3)]
    gains = [line.split(",")[3] for line in table(made, "csv").splitlines()[1:]]
    assert [float(gain) for gain in gains] == pytest.approx([0.0, 0.1, 0.3, 0.6, 0.2])
    assert [row[:3] for row in by_proposer(made)] == [("search", "3", "2")]
    assert progress_report(made, now=made.experiments[-1].finished_at or None).startswith(  # type: ignore[arg-type]
        "## AutoResearch Progress — Iteration 3"
    )
    found = trust(made)
    assert found is not None
    assert best_single(made) == 2.4
    assert [row[2] for row in keep_rows(made, found)] == ["+0.1", "+0.3"]
    assert "The base" in dict(facts(made, found))


def test_the_runs_of_a_merge_are_accounted_for() -> None:
    """They are runs beside the experiments, and stand among what was run again with the reason."""
    made = followed()
    assert spent(made).beside == 4
    assert spent(made).candidates == 1  # of the baseline
    assert ("experiment 2", "2", "2") in [row[:3] for row in rows(made)]


def test_the_chart_starts_anew() -> None:
    """The best so far, its baseline and the range shown follow the base."""
    made = followed()
    picture = chart(made)
    assert "base ba5eba5" in picture
    assert "baseline 3<" in picture
    assert limits(made)[1] > 3.0
    (line,) = (line for line in mermaid(made) if line.startswith("  line"))
    assert line == "  line [1, 0.9, 2.7, 2.4, 2.4]"


def test_the_journal_changes_the_base_by_one_line(tmp_path: Path) -> None:
    """A merge's line alone makes its commit the session's base: a kill before the next line loses nothing."""
    record, made = Journal(tmp_path), followed()
    told = record.begin(replace(history(), session=replace(made.session, files_digest="old")))
    for experiment in made.experiments[:3]:
        told = record.append(told, experiment)
    assert told.session.base_commit == NEW
    assert told.session.files_digest == ""
    assert journal.parse(record.load()) == told
    told = record.begin(replace(told, session=replace(told.session, files_digest="new")))
    assert journal.parse(record.load()).session == told.session
