from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from pathlib import Path

import jsonschema
import pytest
import yaml

from autoresearch_ci import settings_docs
from autoresearch_ci.settings import NAMES, REQUIRED, variable

ROOT = Path(__file__).parents[2]
OUTPUTS = (
    *("branch", "head-sha", "pull-request-number", "pull-request-url", "pull-request-operation", "baseline-metric"),
    *("best-metric", "improvement", "iterations", "kept", "status", "results-file", "summary-file"),
)
ACTION = yaml.safe_load((ROOT / "action/action.yml").read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", ["README.md", "action/README.md", "action/action.yml"])
def test_documents_agree_with_the_declaration(name: str) -> None:
    """The tables and inputs in the documents are those of the settings; `nox -s generate` makes them so."""
    command = [sys.executable, "-m", "cogapp", "-n", "utf-8", "-I", str(ROOT), "--check", "--diff", str(ROOT / name)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "[[[cog" in (ROOT / name).read_text(encoding="utf-8")


def test_the_schema_file_agrees_with_the_declaration() -> None:
    """The schema that editors read is the one of the settings."""
    file = ROOT / "autoresearch_ci" / settings_docs.SCHEMA_NAME
    assert file.read_text(encoding="utf-8") == settings_docs.json_schema()


def test_every_setting_has_a_row() -> None:
    """The table has one row for each setting, in the order of the contract."""
    rows = settings_docs.settings_table().splitlines()[2:]
    assert [row.split("`")[1] for row in rows] == list(NAMES)
    assert [row.split("`")[1] for row in rows if row.split("|")[2].strip() == "required"] == list(REQUIRED)


def test_every_setting_is_an_input_without_a_default() -> None:
    """An input that is left out is empty, so that the settings file counts."""
    inputs = yaml.safe_load(settings_docs.action_inputs())
    assert list(inputs) == list(NAMES)
    assert all("default" not in spec and not spec["required"] and spec["description"] for spec in inputs.values())


def test_every_setting_reaches_both_steps() -> None:
    """The action hands every input to `run` and to `finalize` by its variable; to the second with the tag that the first chose."""
    expected = {variable(name): f"${{{{ inputs.{name} }}}}" for name in NAMES}
    assert yaml.safe_load(settings_docs.action_environment()) == expected
    steps = {step["id"]: step["env"] for step in ACTION["runs"]["steps"] if "env" in step}
    assert expected.items() <= steps["run"].items()
    expected["AUTORESEARCH_TAG"] = "${{ steps.run.outputs.tag }}"
    assert expected.items() <= steps["finalize"].items()


def test_the_action_has_the_outputs_of_the_contract() -> None:
    """Every output comes from the last step that knows it."""
    assert tuple(ACTION["outputs"]) == OUTPUTS
    for name in OUTPUTS:
        value = ACTION["outputs"][name]["value"]
        assert value == f"${{{{ steps.finalize.outputs.{name} || steps.run.outputs.{name} }}}}"
    readme = (ROOT / "action/README.md").read_text(encoding="utf-8")
    assert all(f"| `{name}` |" in readme for name in [*OUTPUTS, "token", "config", "working-directory"])


def test_pipes_do_not_break_the_table() -> None:
    """A `|` in a description is escaped."""
    assert settings_docs._cell("a|b") == "a\\|b"


REQUIRED_LINES = 'time-budget = "5m"\nmetric = "m"\ndirection = "minimize"\n'


@pytest.mark.parametrize(
    "line",
    [
        "",
        "timeout = 700",
        'timeout = "1h30m"',
        'memory = "8g"',
        'labels = ["a", "b"]',
        'labels = "a, b"',
        'env = { A = "1" }',
        'env = "A=1"',
        'max-iterations = "unlimited"',
        "max-iterations = 20",
        "draft = true",
    ],
)
def test_the_schema_takes_what_the_reader_takes(line: str) -> None:
    """An editor does not underline a spelling that the program reads."""
    jsonschema.validate(tomllib.loads(REQUIRED_LINES + line), json.loads(settings_docs.json_schema()))


@pytest.mark.parametrize("line", ["time-budgets = 3", 'scope = "everything"', "patience = 0", 'draft = "perhaps"'])
def test_the_schema_refuses_what_the_reader_refuses(line: str) -> None:
    """An editor underlines unknown names and impossible values."""
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(tomllib.loads(REQUIRED_LINES + line), json.loads(settings_docs.json_schema()))
