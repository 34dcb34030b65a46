"""The experiments as a table in four formats."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from autoresearch_ci.experiment import Direction, History, Status
from autoresearch_ci.report.markdown import clean
from autoresearch_ci.report.table import COLUMNS, FORMATS, MAX_TEXT, table

from .histories import history

THREE = history((1.0, Status.KEEP), (0.9, Status.KEEP), (None, Status.CRASH), direction=Direction.MINIMIZE)
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=80)
METRIC = st.floats(allow_nan=False, allow_infinity=False, width=32)


def described(text: str, metric: float = 0.9) -> History:
    made = history((1.0, Status.KEEP), (metric, Status.DISCARD))
    first, second = made.experiments
    return dataclasses.replace(made, experiments=(first, dataclasses.replace(second, description=text)))


@given(TEXT, METRIC)
@example("\r0", 0.9)
@example("\r", 0.9)
@example('"a",\n=1', 0.9)
@example("\x1b[0m=HYPERLINK()", 0.9)
def test_csv_parses_back(text: str, metric: float) -> None:
    """The csv module reads every row, its description as one visible line that no spreadsheet runs as a formula."""
    rows = list(csv.DictReader(io.StringIO(table(described(text, metric), "csv"), newline="")))
    assert len(rows) == 2
    assert tuple(rows[1]) == COLUMNS
    assert rows[1]["description"].removeprefix("'") == clean(text, MAX_TEXT).removeprefix("'")
    assert not rows[1]["description"].startswith(("=", "+", "-", "@"))
    assert float(rows[1]["metric"]) == metric


@given(TEXT, METRIC)
def test_json_parses_back(text: str, metric: float) -> None:
    """The JSON holds every experiment with its numbers at full precision."""
    rows = json.loads(table(described(text, metric), "json"))
    assert rows[1]["description"] == text
    assert rows[1]["metric"] == metric
    assert rows[0]["commit"] == "baseline"


@given(TEXT)
def test_markdown_keeps_its_shape(text: str) -> None:
    """Every row has the same eight cells, whatever the description."""
    assert {line.count("|") for line in table(described(text), "markdown").splitlines()} == {9}


@given(st.text("\\{}$&#%_^~<>|[]→ab \n\r%", max_size=60))
def test_latex_keeps_its_shape(text: str) -> None:
    """No description opens a group, a comment, a formula or a column in LaTeX."""
    row = table(described(text), "latex").splitlines()[-3]
    plain = re.sub(r"\\[a-z]+\{\}|\\[{}$&#%_]|\$\\rightarrow\$|\{\[\}|\{\]\}", "", row.removesuffix(r" \\"))
    assert plain.count("&") == 7
    assert not set(plain) & set("\\{}$#%_^~[]")


@given(st.text("=+-@|&\\\"',;<a\t\x1b", min_size=1, max_size=7))
@example("=1|&")
def test_a_commit_of_a_bare_table_is_text_too(commit: str) -> None:
    """A results.tsv that somebody edited may hold any commit: it breaks no column and is no formula."""
    made = described("x")
    first, second = made.experiments
    made = dataclasses.replace(made, experiments=(first, dataclasses.replace(second, commit=commit)))
    assert table(made, "markdown").splitlines()[-1].count("|") == 9
    assert len(re.findall(r"(?<!\\)&", table(made, "latex").splitlines()[-3])) == 7
    rows = list(csv.DictReader(io.StringIO(table(made, "csv"), newline="")))
    assert not rows[1]["commit"].startswith(("=", "+", "-", "@"))
    assert rows[1]["description"] == "x"


def test_latex_in_full() -> None:
    """The LaTeX table is a booktabs tabular."""
    assert table(THREE, "latex").splitlines()[1:6] == [
        r"\begin{tabular}{rlrrrlll}",
        r"\toprule",
        r"\# & Commit & val\_bpb & Gain & Memory GB & Status & Category & Description \\",
        r"\midrule",
        r"0 & baseline & 1 & 0 & 1.5 & keep & optimizer & Baseline --- no modifications \\",
    ]


def test_gain_and_crash() -> None:
    """The gain is positive for the better, and a crash has neither metric nor gain."""
    rows = json.loads(table(THREE, "json"))
    assert rows[1]["gain"] == pytest.approx(0.1)
    assert rows[2]["metric"] is None
    assert rows[2]["gain"] is None
    assert "| 2 | 0000000 | — | — | — | crash |" in table(THREE, "markdown")
    worse = dataclasses.replace(THREE, session=dataclasses.replace(THREE.session, direction=Direction.MAXIMIZE))
    assert json.loads(table(worse, "json"))[1]["gain"] == pytest.approx(-0.1)


@pytest.mark.parametrize("name", FORMATS)
def test_an_empty_history(name: str) -> None:
    """A session without experiments has a table without rows."""
    assert "baseline" not in table(history(), name)


def test_an_unknown_format() -> None:
    """A format that is not in FORMATS is refused."""
    with pytest.raises(ValueError, match="yaml"):
        table(THREE, "yaml")
