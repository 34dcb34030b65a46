"""A plan says what to vary, hold and try; everything that cannot be meant is an error with a hint, before anything runs."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoresearch_ci.errors import SettingsError
from autoresearch_ci.proposers.plan import MAX_BYTES, Plan, read_plan, read_wish
from autoresearch_ci.scope import Range

SCRIPT = "LEARNING_RATE = 0.1\nWIDTH = 64\nBIAS = True\n\n\ndef evaluate():\n    return LEARNING_RATE * WIDTH\n\n\nprint(evaluate(), BIAS)\n"
FILES = {
    "other.diff": b"--- a/prepare.py\n+++ b/prepare.py\n@@ -1 +1 @@\n-a\n+b\n",
    "new.diff": b"--- /dev/null\n+++ b/train.py\n@@ -0,0 +1 @@\n+b\n",
    "moved.diff": b"diff --git a/old.py b/train.py\nsimilarity index 90%\nrename from old.py\nrename to train.py\n--- a/old.py\n+++ b/train.py\n@@ -1 +1 @@\n-a\n+b\n",
    "bare.diff": b"--- a/train.py\n+++ b/train.py\n@@ -3,0 +4 @@\n+DEPTH = 3\n",
    "empty.diff": b"nothing\n",
    "broken.diff": b"--- a/train.py\n+++ b/train.py\n@@ -1,9 +1,9 @@\n-a\n",
    "binary.diff": b"\xff\xfe",
}


def plan(text: str, name: str = "plan.yaml") -> Plan:
    return read_plan(text.encode(), name, script=SCRIPT, script_name="train.py", files=FILES.get)


def test_a_whole_plan() -> None:
    """Ranges, holds, things to try in order, and who goes on."""
    found = plan(
        """
vary:
  LEARNING_RATE: [0.01, 0.3]
  WIDTH: {values: [32, 64, 128]}
hold: [evaluate]
try:
  - a wider layer with half the rate
  - WIDTH=128
  - {LEARNING_RATE: 0.05, BIAS: false}
then: search
"""
    )
    assert found.vary == {"LEARNING_RATE": Range(0.01, 0.3), "WIDTH": Range(values=(32, 64, 128))}
    assert (found.hold, found.then) == (("evaluate",), "search")
    assert [wish.text for wish in found.wishes] == [
        "a wider layer with half the rate",
        "WIDTH=128",
        "LEARNING_RATE=0.05, BIAS=False",
    ]
    assert [dict(wish.values) for wish in found.wishes] == [{}, {"WIDTH": 128}, {"LEARNING_RATE": 0.05, "BIAS": False}]
    assert [wish.is_words for wish in found.wishes] == [True, False, False]


def test_a_plan_of_lines() -> None:
    """One a line, with comments; words are allowed there as well."""
    found = plan("# first\nWIDTH=128  # wider\n\ntry cosine\n", "plan.txt")
    assert [wish.text for wish in found.wishes] == ["WIDTH=128", "try cosine"]
    assert plan("", "plan.yaml") == Plan()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("tries: [a]", "no key `tries`"),
        ("- a", "has no keys"),
        ("try: a", "`try` in the plan is not a list"),
        ("try: [[a]]", "is not something to try"),
        ("try: [5]", "is not something to try"),
        ("try: [{}]", "is not something to try"),
        ("try: [WIDHT=3]", "no knob `WIDHT`"),
        ("try: [{WIDHT: 3}]", "no knob `WIDHT`"),
        ("try: [WIDTH=]", "is not something to try"),
        ("try: [WIDTH=wide]", "no value for `WIDTH`"),
        ("try: [{WIDTH: [1]}]", "no value for `WIDTH`"),
        ("try: [{WIDTH: .inf}]", "no value for `WIDTH`"),
        ("try: [BIAS=3]", "no value for `BIAS`"),
        ("try: [{patch: none.diff}]", "no patch `none.diff`"),
        ("try: [{patch: other.diff}]", "changes `prepare.py`"),
        ("try: [{patch: new.diff}]", "changes `train.py`"),
        ("try: [{patch: empty.diff}]", "changes nothing"),
        ("try: [{patch: broken.diff}]", "is no unified diff"),
        ("try: [{patch: binary.diff}]", "is no unified diff"),
        ("try: [{patch: empty.diff, WIDTH: 3}]", "is tried alone"),
        ("vary: [WIDTH]", "not a list of knobs"),
        ("vary: {WIDTH: 5}", "cannot vary within `5`"),
        ("vary: {WIDTH: [5, 3]}", "cannot vary from 5 to 3"),
        ("vary: {WIDTH: [.nan, 3]}", "no value for `WIDTH`"),
        ("vary: {WIDTH: [big, 3, 4]}", "no value for `WIDTH`"),
        ("vary: {WIDTH: [3e-1, 2, x]}", "no value for `WIDTH`"),
        (f"vary: {{WIDTH: [1, {'9' * 400}]}}", "a number has 400 digits"),
        (f"vary: {{WIDTH: [1, 0x{'9' * 5000}]}}", "a number has 5002 digits"),
        ("try: [{WIDTH: 99999999999999999999}]", "no value for `WIDTH`"),
        ("vary: {WIDTH: {min: a}}", "cannot vary from a"),
        ("vary: {WIDTH: {low: 1}}", "cannot vary within"),
        ("vary: {WIDTH: {values: []}}", "cannot vary within"),
        ("vary: {DEPTH: [1, 3]}", "no knob `DEPTH`"),
        ("hold: [evalute]", "holds `evalute`, which the training script has not"),
        ("then: lmm", "`then` cannot be `lmm`"),
        ("try: [", "not valid YAML at line 1"),
        ("a: &x [1]\nb: *x", "uses aliases"),
        ("try: " + "[" * 200_000, "nested more than"),
        ("try: [WIDTH=32]\ntry: [WIDTH=16]", "a key is there twice"),
        ("try: [{patch: moved.diff}]", "changes `train.py`"),
        ("try: [{patch: bare.diff}]", "no lines around a change"),
        ("try:\n" + "- WIDTH=3\n" * 1001, "tries 1001 things"),
        ("x" * (MAX_BYTES + 1), "bytes"),
        ("!!python/object/apply:os.system [ls]", "not valid YAML"),
        ("\x00", "not valid YAML"),
    ],
)
def test_what_cannot_be_meant(text: str, says: str) -> None:
    """Each is one line with a hint."""
    with pytest.raises(SettingsError) as caught:
        plan(text)
    assert says in caught.value.message
    assert "\n" not in caught.value.message
    assert caught.value.hint


def test_half_a_range() -> None:
    """A range may be open at one end."""
    assert plan("vary: {WIDTH: {min: 32}}").vary["WIDTH"].holds(10**6)
    assert not plan("vary: {WIDTH: {max: 32}}").vary["WIDTH"].holds(33)


def test_numbers_as_people_write_them() -> None:
    """`3e-4` is a number, also where YAML reads it as text; values are of the knob's own type."""
    vary = plan("vary: {LEARNING_RATE: [3e-4, 3e-2], WIDTH: {min: 32, max: 1e3}, BIAS: [true]}").vary
    assert vary == {
        "LEARNING_RATE": Range(3e-4, 3e-2),
        "WIDTH": Range(32, 1000),
        "BIAS": Range(values=(True,)),
    }
    assert plan("vary: {LEARNING_RATE: {values: [1e-3, 0.1]}}").vary == {"LEARNING_RATE": Range(values=(0.001, 0.1))}


def test_the_nearest_name_is_suggested() -> None:
    """A misspelt knob or key costs one look."""
    for text, hint in (("vary: {LEARNING_RTE: [1, 2]}", "`LEARNING_RATE`"), ("vray: {}", "`vary`")):
        with pytest.raises(SettingsError) as caught:
            plan(text)
        assert hint in caught.value.hint


@given(st.text(max_size=200))
def test_any_text_is_a_plan_or_a_reason(text: str) -> None:
    """No plan is a traceback."""
    for name in ("plan.yaml", "plan.txt"):
        try:
            plan(text.encode("utf-8", "replace").decode(), name)
        except SettingsError as error:
            assert "\n" not in error.message


def test_a_hypothesis() -> None:
    """The same words as in a plan."""
    assert read_wish(" WIDTH = 128 ", script=SCRIPT).values == {"WIDTH": 128}
    assert read_wish("is a == b better?", script=SCRIPT).is_words
    assert read_wish("BIAS=false", script=SCRIPT).values == {"BIAS": False}
