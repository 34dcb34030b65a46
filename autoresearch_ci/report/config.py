"""The Research Config, in the form of the skill's phase 0: what a person confirms before anything runs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from autoresearch_ci.report.markdown import NO_VALUE, cell

# The skill's names of its parameters; settings that it does not know follow under their own.
PARAMETERS: Final = {
    "training-script": "Training script",
    "read-only": "Read-only script",
    "time-budget": "Time budget / run",
    "metric": "Metric",
    "max-iterations": "Max iterations",
    "scope": "Modification scope",
    "tag": "Branch",
    "results-file": "Results file",
}
TOLD_WITH_METRIC: Final = "direction"


def rows(values: Mapping[str, tuple[str, str]], *, platform: str = "") -> list[tuple[str, str, str]]:
    """(parameter, value, source), as plain text: the skill's parameters, the platform if known, then whatever else is set.

    `values`: value and source of every setting, by its kebab-case name. Defaults that are empty are left out.
    """
    found = [
        (parameter, _value(name, values), values[name][1]) for name, parameter in PARAMETERS.items() if name in values
    ]
    if platform:
        found.append(("Platform", platform, "detected"))
    others = [(name, *values[name]) for name in values if name not in PARAMETERS and name != TOLD_WITH_METRIC]
    return found + [row for row in others if row[1] or row[2] != "default"]


def research_config(values: Mapping[str, tuple[str, str]], *, platform: str = "") -> str:
    """The same as a Markdown document with the skill's heading; a value says where it came from when somebody set it."""
    lines = ["## AutoResearch Config", "", "| Parameter | Value | From |", "|---|---|---|"]
    for parameter, value, source in rows(values, platform=platform):
        lines.append(f"| {cell(parameter)} | {cell(value) or NO_VALUE} | {cell(source)} |")
    return "\n".join(lines) + "\n"


def _value(name: str, values: Mapping[str, tuple[str, str]]) -> str:
    value = values[name][0]
    if name == "metric" and TOLD_WITH_METRIC in values:
        return f"{value} ({values[TOLD_WITH_METRIC][0]})"
    return f"autoresearch/{value}" if name == "tag" and value else value
