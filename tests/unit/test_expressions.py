from __future__ import annotations

import pytest

from tests.runner.expressions import Scope, Value

CONTEXTS = {"inputs": {"tag": "nov22", "empty": ""}, "steps": {"run": {"outcome": "failure", "outputs": {"a-b": "x"}}}}


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("inputs.tag", "nov22"),
        ("inputs.missing", ""),
        ("steps.run.outputs.a-b || 'y'", "x"),
        ("steps.none.outputs.a-b || 'it''s'", "it's"),
        ("inputs.empty != '' && 'a' || 'b'", "b"),
        ("always() && (steps.run.outcome == 'FAILURE' || inputs.empty)", True),
        ("!inputs.empty", True),
        ("success()", False),
        ("failure()", True),
        ("cancelled()", False),
        ("true == inputs.tag", False),
    ],
)
def test_expressions(expression: str, value: Value) -> None:
    """The mini runner's expressions mean what GitHub's mean."""
    assert Scope(contexts=CONTEXTS, failed=True).evaluate(expression) == value


@pytest.mark.parametrize(
    "expression", ["", "inputs.tag inputs.tag", "(inputs.tag", "secrets.x", "hashFiles()", "1 + 1"]
)
def test_what_it_does_not_know_is_an_error(expression: str) -> None:
    """An expression outside the known part fails a test instead of meaning something else."""
    with pytest.raises(ValueError, match=r".+"):
        Scope(contexts=CONTEXTS).evaluate(expression)


@pytest.mark.parametrize(
    ("condition", "runs"),
    [
        (None, (True, False, False)),
        ("inputs.tag != ''", (True, False, False)),
        ("${{ always() }}", (True, True, True)),
        ("failure()", (False, True, False)),
        ("cancelled()", (False, False, True)),
    ],
)
def test_conditions(condition: str | None, runs: tuple[bool, bool, bool]) -> None:
    """Without a status function a step runs only while all is well."""
    states = [{}, {"failed": True}, {"cancelled": True}]
    assert tuple(Scope(contexts=CONTEXTS, **state).holds(condition) for state in states) == runs


def test_texts_are_filled() -> None:
    """Every expression in a text is replaced."""
    assert Scope(contexts=CONTEXTS).fill("<${{ inputs.tag }}|${{inputs.empty}}|${{ success() }}>") == "<nov22||true>"
