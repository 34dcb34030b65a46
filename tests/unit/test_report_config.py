"""The Research Config in the skill's form."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from autoresearch_ci.report.config import research_config, rows

VALUES = {
    "training-script": ("train.py", "default"),
    "read-only": ("prepare.py", "default"),
    "time-budget": ("5m", "--time-budget"),
    "metric": ("val_bpb", "autoresearch.toml"),
    "direction": ("minimize", "autoresearch.toml"),
    "max-iterations": ("unlimited", "default"),
    "scope": ("all", "default"),
    "tag": ("nov22", "default"),
    "results-file": ("results.tsv", "default"),
    "memory": ("", "default"),
    "env": ("", "AUTORESEARCH_ENV"),
    "proposer": ("search", "default"),
}


def test_the_skills_table() -> None:
    """The skill's parameters in its order and words, the platform, then the other settings; empty defaults are left out."""
    assert research_config(VALUES, platform="CPU").splitlines() == [
        "## AutoResearch Config",
        "",
        "| Parameter | Value | From |",
        "|---|---|---|",
        "| Training script | train.py | default |",
        "| Read-only script | prepare.py | default |",
        "| Time budget / run | 5m | --time-budget |",
        "| Metric | val_bpb (minimize) | autoresearch.toml |",
        "| Max iterations | unlimited | default |",
        "| Modification scope | all | default |",
        "| Branch | autoresearch/nov22 | default |",
        "| Results file | results.tsv | default |",
        "| Platform | CPU | detected |",
        "| env | — | AUTORESEARCH_ENV |",
        "| proposer | search | default |",
    ]


def test_what_is_not_known_is_not_invented() -> None:
    """Without a direction or a platform nothing is said of them, and a tag that is not chosen yet names no branch."""
    assert rows({"metric": ("acc", "--metric"), "tag": ("", "default")}) == [
        ("Metric", "acc", "--metric"),
        ("Branch", "", "default"),
    ]


@given(st.text(max_size=80), st.text(max_size=80))
def test_no_value_breaks_the_table(value: str, source: str) -> None:
    """Every row has three cells, whatever somebody wrote into a setting."""
    text = research_config({"metric": (value, source), value: (value, source)}, platform=value)
    assert {line.count("|") for line in text.splitlines()[2:]} == {4}
