from __future__ import annotations

import pytest

from tests.runner.expressions import Scope, Value

CONTEXTS = {
    "inputs": {"tag": "nov22", "empty": "", "draft": False, "number": 720},
    "steps": {"run": {"outcome": "failure", "outputs": {"a-b": "x"}}},
    "github": {
        "event": {"issue": {"pull_request": {"url": "u"}}, "comment": {"body": "/AutoResearch stop"}, "x": None}
    },
}


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
        ("inputs.draft == ''", True),
        ("inputs.draft || inputs.empty", ""),
        ("!inputs.draft && inputs.number", 720.0),
        ("startsWith(github.event.comment.body, '/autoresearch')", True),
        ("endsWith('a[bot]', '[bot]') && !startsWith(inputs.empty, 'x')", True),
        ("github.event.issue.pull_request && !github.event.issue.other && !github.event.x", True),
        ("contains('a, b', 'B')", True),
        ("contains(fromJSON('[\"report\", \"config\"]'), 'rep')", False),
        ("contains(fromJSON('[\"report\", \"config\"]'), 'Config')", True),
        ("fromJSON(inputs.number || '5')", 720.0),
        ("fromJSON('[\"a\"]')", ["a"]),
        ("format('{1}, {0} {{x}}', inputs.tag, inputs.number)", "720, nov22 {x}"),
        ("format('{0}', inputs.draft)", "false"),
        ("startsWith(inputs.tag, '[') && fromJSON(inputs.tag) || inputs.tag || fromJSON('[')", "nov22"),
    ],
)
def test_expressions(expression: str, value: Value) -> None:
    """The mini runner's expressions mean what GitHub's mean."""
    assert Scope(contexts=CONTEXTS, failed=True).evaluate(expression) == value


@pytest.mark.parametrize(
    "expression",
    [
        "",
        "inputs.tag inputs.tag",
        "(inputs.tag",
        "secrets.x",
        "hashFiles()",
        "1 + 1",
        "always('x')",
        "contains('x')",
        "format('x'",
    ],
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
    scope = Scope(contexts=CONTEXTS)
    assert scope.fill("<${{ inputs.tag }}|${{inputs.empty}}|${{ success() }}>") == "<nov22||true>"
    assert scope.fill("${{ inputs.empty || 'nightly-{date}' }}-${{ format('{0}', '}}') }}") == "nightly-{date}-}}"


def test_a_whole_text_may_be_any_value() -> None:
    """`runs-on` can be a list; within a text a list has no form."""
    scope = Scope(contexts=CONTEXTS)
    assert scope.value('${{ fromJSON(\'["a", "b"]\') }}') == ["a", "b"]
    assert scope.value("x-${{ inputs.number }}") == "x-720"


def test_a_skipped_job_is_neither_success_nor_failure() -> None:
    """A job runs after a skipped one only when its condition says so."""
    scope = Scope(contexts=CONTEXTS, skipped=True)
    assert not scope.holds(None)
    assert not scope.holds("inputs.tag")
    assert scope.holds("!failure() && !cancelled()")
