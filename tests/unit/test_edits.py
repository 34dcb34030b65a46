"""A model's answer becomes exactly the script it says, or a reason that helps the model."""

from __future__ import annotations

import textwrap

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoresearch_ci.experiment import Category
from autoresearch_ci.proposers.edits import Block, Unusable, apply_blocks, read_answer, read_fields

SCRIPT = """\
import math

LEARNING_RATE = 0.1
WIDTH = 64


def loss(x):
    if x > 0:
        return x * LEARNING_RATE
    return 0.0


for step in range(10):
    value = loss(step)
print("val_bpb:", value)
"""


def answer(
    *blocks: tuple[str, str], head: str = "HYPOTHESIS: it helps\nCATEGORY: optimizer\nDESCRIPTION: a change"
) -> str:
    code = "\n".join(f"<<<<<<< SEARCH\n{old}\n=======\n{new}\n>>>>>>> REPLACE" for old, new in blocks)
    return f"{head}\n\n```python\n{code}\n```\n"


def refused(text: str, script: str = SCRIPT) -> str:
    with pytest.raises(Unusable) as caught:
        read_answer(text, script, "train.py")
    return str(caught.value)


def test_a_block_and_its_reasons() -> None:
    """Hypothesis, category and description are read, and the block is applied."""
    found = read_answer(answer(("LEARNING_RATE = 0.1", "LEARNING_RATE = 0.2")), SCRIPT, "train.py")
    assert found.script == SCRIPT.replace("0.1", "0.2")
    assert (found.hypothesis, found.category, found.description) == ("it helps", Category.OPTIMIZER, "a change")


def test_fields_as_models_write_them() -> None:
    """Bold, lower case and decoration are read; fields after the code are not."""
    assert read_fields("**Hypothesis:** because\n- category: `Training`\n## DESCRIPTION: **Wider**\n") == (
        "because", "Wider", Category.TRAINING,
    )  # fmt: skip
    assert read_fields("Ich ändere nur die Breite.") == ("", "", Category.OTHER)
    late = answer(("WIDTH = 64", "WIDTH = 128"), head="Gern!") + "\nDESCRIPTION: late\n"
    assert read_answer(late, SCRIPT, "train.py").description == ""


def test_several_blocks_are_applied_in_order() -> None:
    """A later block sees what an earlier one wrote."""
    found = read_answer(answer(("WIDTH = 64", "WIDTH = 96"), ("WIDTH = 96", "WIDTH = 128")), SCRIPT, "train.py")
    assert "WIDTH = 128" in found.script


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("WIDTH = 64   ", "WIDTH = 65", "WIDTH = 65"),
        ("if x > 0:\n    return x * LEARNING_RATE", "if x > 1:\n    return x", "    if x > 1:\n        return x\n"),
        ("        value = loss(step)", "        value = 2", "\n    value = 2\n"),
        ("import math\n", "", "LEARNING_RATE"),
    ],
    ids=["trailing blanks", "indented too little", "indented too much", "deleted"],
)
def test_blanks_that_do_not_matter(old: str, new: str, expected: str) -> None:
    """Trailing blanks and a uniform indentation do not keep a block from fitting; the new lines are indented as the file is."""
    found = read_answer(answer((old, new)), SCRIPT, "train.py").script
    assert expected in found
    assert found != SCRIPT
    compile(found, "train.py", "exec")


def test_a_block_that_fits_nowhere_shows_the_closest_lines() -> None:
    """What was probably meant is quoted, so that the model can quote it."""
    reason = refused(answer(("def loss(x):\n    if x >= 0:\n        return x * RATE", "pass")))
    assert "not in the file" in reason
    assert "    if x > 0:\n        return x * LEARNING_RATE" in reason


def test_one_block_of_several_that_fits_nowhere_applies_none() -> None:
    """The reason names the block; nothing is applied by halves."""
    reason = refused(answer(("WIDTH = 64", "WIDTH = 65"), ("no such line at all, anywhere", "x")))
    assert "block 2 of 2" in reason


def test_a_block_that_fits_twice_is_refused() -> None:
    """Which place was meant is not guessed."""
    assert "2 times" in refused(answer(("x = 1", "x = 2")), "x = 1\ny = 2\nx = 1\n")
    assert apply_blocks("x = 1 \nx = 1\n", [Block("x = 1", "x = 2")]) == "x = 1 \nx = 2\n"


def test_an_empty_search_is_refused() -> None:
    """Nothing says where the lines belong."""
    assert "empty" in refused(answer(("", "x = 1")))


@pytest.mark.parametrize(
    "text",
    [
        "<<<<<<< SEARCH\nWIDTH = 64\n=======\nWIDTH = 65\n",
        "<<<<<<< SEARCH\nWIDTH = 64\n>>>>>>> REPLACE\n",
        "<<<<<<< SEARCH",
    ],
)
def test_a_block_without_an_end_is_refused(text: str) -> None:
    """A stream that was cut leaves no half of a change."""
    assert "no end" in refused(text)


@pytest.mark.parametrize("line", ["prepare.py", "**data/prepare.py**", "# file: prepare.py", "`prepare.py`:"])
def test_a_block_for_another_file_is_refused(line: str) -> None:
    """The name above a block is that of its file."""
    assert "prepare.py" in refused(
        f"{line}\n```python\n<<<<<<< SEARCH\nWIDTH = 64\n=======\nWIDTH = 65\n>>>>>>> REPLACE\n```"
    )


def test_the_name_of_the_script_above_a_block() -> None:
    """Many models write it, also with its folder."""
    text = "src/train.py\n```python\n<<<<<<< SEARCH\nWIDTH = 64\n=======\nWIDTH = 65\n>>>>>>> REPLACE\n```"
    assert "WIDTH = 65" in read_answer(text, SCRIPT, "src/train.py").script


def test_the_whole_file() -> None:
    """The longest fence is the file, also where blocks were asked for."""
    new = SCRIPT.replace("64", "96")
    text = f"DESCRIPTION: wider\n\n```bash\npython train.py\n```\n\n```python\n{new}```\nDone."
    found = read_answer(text, SCRIPT, "train.py")
    assert (found.script, found.description) == (new, "wider")


def test_a_fragment_is_not_the_file() -> None:
    """A few lines without markers would delete the rest."""
    assert "fragment" in refused("```python\nWIDTH = 65\n```")


def test_no_code() -> None:
    """An answer in words alone, also in another language, is refused."""
    assert "no code" in refused("Je propose d'augmenter la largeur.")
    assert "no code" in refused("")


def test_a_unified_diff() -> None:
    """A diff is refused, by the name of the other file if it is for one."""
    diff = "```diff\n--- a/{0}\n+++ b/{0}\n@@ -1,2 +1,2 @@\n-WIDTH = 64\n+WIDTH = 65\n```"
    assert "unified diff" in refused(diff.format("train.py"))
    assert "prepare.py" in refused(diff.format("prepare.py"))


def test_line_ends_stay() -> None:
    """A script with CRLF has CRLF afterwards, whatever the model wrote."""
    script = SCRIPT.replace("\n", "\r\n")
    found = read_answer(answer(("WIDTH = 64", "WIDTH = 65\nDEPTH = 2")), script, "train.py").script
    assert found == SCRIPT.replace("WIDTH = 64", "WIDTH = 65\nDEPTH = 2").replace("\n", "\r\n")


def test_a_fence_inside_of_the_file() -> None:
    """A longer fence holds text with fences."""
    new = SCRIPT + '"""\n```\nx\n```\n"""\n'
    assert read_answer(f"````python\n{new}````", SCRIPT, "train.py").script == new


LINES = st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\r\n"), max_size=8), min_size=1, max_size=12)


@given(LINES, st.data())
def test_any_block_quoted_from_the_file_lands_there(lines: list[str], data: st.DataObject) -> None:
    """Replacing lines that the file has once gives the file with exactly those lines replaced."""
    script = "\n".join(lines)
    start = data.draw(st.integers(0, len(lines) - 1))
    end = data.draw(st.integers(start + 1, len(lines)))
    search = "\n".join(lines[start:end])
    times = sum(lines[at : at + end - start] == lines[start:end] for at in range(len(lines)))
    if not search.strip() or times != 1:
        return
    assert apply_blocks(script, [Block(search, "NEW")]) == "\n".join([*lines[:start], "NEW", *lines[end:]])


PIECES = ("<<<<<<< SEARCH", "=======", ">>>>>>> REPLACE", "```", "WIDTH = 64", "\n", "\n", " ", "x", "@@", "--- a/p")


@given(st.lists(st.sampled_from(PIECES), max_size=40).map("".join))
def test_any_answer_is_a_script_or_a_reason(text: str) -> None:
    """No answer is anything else."""
    try:
        read_answer(text, SCRIPT, "train.py")
    except Unusable as reason:
        assert textwrap.shorten(str(reason), 80)
