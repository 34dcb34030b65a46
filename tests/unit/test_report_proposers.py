"""Who proposed what was kept, and what models cost, as every report shows it."""

from __future__ import annotations

import datetime as dt
from dataclasses import replace

import pytest

from autoresearch_ci.experiment import Category, History, Status, Usage
from autoresearch_ci.report import pull_request
from autoresearch_ci.report.progress import progress_report
from autoresearch_ci.report.proposers import by_category, by_proposer, cost, shares, spending
from autoresearch_ci.report.summary import summary
from tests.unit.histories import START, history

KEEP, DISCARD = Status.KEEP, Status.DISCARD
FILES = pull_request.Files(summary="summary.md", results="results.tsv", chart="chart.svg")


@pytest.fixture
def night() -> History:
    made = history((1.0, KEEP), (0.9, KEEP), (1.1, DISCARD), (0.8, KEEP), (1.0, DISCARD))
    usage = Usage(calls=2, input_tokens=3000, output_tokens=100, cost=0.01)
    changed = [
        replace(e, proposer=who, category=category, usage=used)
        for e, who, category, used in zip(
            made.experiments[1:],
            ("llm", "llm", "search", "search"),
            (Category.TRAINING, Category.OPTIMIZER, Category.OPTIMIZER, Category.OPTIMIZER),
            (usage, usage, Usage(), Usage(calls=1, input_tokens=5)),
            strict=True,
        )
    ]
    return replace(made, experiments=(replace(made.experiments[0], proposer="baseline"), *changed))


def test_rows(night: History) -> None:
    """For each its experiments, keeps, their share, tokens and cost; the baseline is nobody's."""
    assert by_proposer(night) == [("llm", "2", "1", "50%", "6,200", "$0.0200"), ("search", "2", "1", "50%", "5", "—")]
    assert [row[:3] for row in by_category(night)] == [("training", "1", "1"), ("optimizer", "3", "1")]
    assert shares(by_proposer(night)) == "llm 1 of 2, search 1 of 2"


def test_spending(night: History) -> None:
    """The whole session in one line; nothing where no model was asked."""
    assert spending(night) == "5 calls, 6,205 tokens (6,005 in, 200 out), $0.0200"
    assert spending(history((1.0, KEEP))) == ""
    assert spending(replace(night, experiments=night.experiments[4:])).endswith(
        "1 call, 5 tokens (5 in, 0 out), cost not known: no price is set"
    )
    assert [cost(Usage(cost=c)) for c in (None, 0.5, 12.345)] == ["—", "$0.5000", "$12.35"]


def test_every_report_shows_it(night: History) -> None:
    """Progress, summary and pull request; a bare table, which does not say who proposed, has nothing of it."""
    texts = [
        progress_report(night, now=START + dt.timedelta(hours=1)),
        summary(night),
        pull_request.body(night, files=FILES, base="main", diffs={}),
    ]
    for text in texts:
        assert "6,205 tokens" in text
        assert "llm" in text
    bare = history((1.0, KEEP), (0.9, KEEP))
    for text in (
        progress_report(bare, now=START),
        summary(bare),
        pull_request.body(bare, files=FILES, base="main", diffs={}),
    ):
        assert "Proposers" not in text
        assert "by proposer" not in text
