from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from autoresearch_ci import results
from autoresearch_ci.errors import SettingsError
from autoresearch_ci.experiment import Direction, Status
from tests.unit.histories import experiment, history

KEEP, DISCARD, CRASH = Status.KEEP, Status.DISCARD, Status.CRASH
KARPATHY = (
    "commit\tval_bpb\tmemory_gb\tstatus\tdescription\n"
    "baseline\t0.997900\t44.0\tkeep\tbaseline\n"
    "d4e5f6g\t0.993200\t44.2\tkeep\tincrease LR to 0.04\n"
    "b2c3d4e\t0.000000\t0.0\tcrash\tdouble model width (OOM)\n"
    "c3d4e5f\t1.005000\t44.0\tdiscard\tswitch to GeLU activation\n"
)


def test_the_contract_s_form() -> None:
    """Header, baseline row, 7 characters of the hash, and a crash without numbers."""
    text = results.write(history((0.9979, KEEP), (0.9821, KEEP), (None, CRASH)))
    assert text == (
        "commit\tval_bpb\tmem_gb\tstatus\tdescription\n"
        "baseline\t0.9979\t1.5\tkeep\tBaseline — no modifications\n"
        "0000000\t0.9821\t1.5\tkeep\tKNOB 1 → 2\n"
        "0000000\t—\t—\tcrash\tKNOB 2 → 3\n"
    )


def test_karpathys_file_is_read() -> None:
    """`memory_gb`, a commit that is no hash, and `0.000000` in a crash row, which is never the best value."""
    read = results.read(KARPATHY)
    assert read.session.metric == "val_bpb"
    assert read.session.direction is Direction.MINIMIZE
    assert [e.metric for e in read.experiments] == [0.9979, 0.9932, None, 1.005]
    assert read.best is not None
    assert read.best.commit == "d4e5f6g"
    assert read.experiments[2].memory_gb is None
    assert read.experiments[1].memory_gb == 44.2


@pytest.mark.parametrize(
    "text",
    [
        "\ufeff" + KARPATHY.replace("\n", "\r\n"),
        KARPATHY.rstrip("\n"),
        KARPATHY.replace("\n", "\n\n"),
        KARPATHY.replace("\tkeep\t", "\tKEEP \t"),
        "\n\n" + KARPATHY,
    ],
)
def test_lenient_about_form(text: str) -> None:
    """A byte-order mark, CRLF, blank lines, a missing last newline and capitals change nothing."""
    assert [e.metric for e in results.read(text).experiments] == [0.9979, 0.9932, None, 1.005]


def test_columns_in_another_order_and_more_of_them() -> None:
    """Columns are found by their names."""
    read = results.read("status\tacc\tcommit\tnote\tmem_gb\nkeep\t0.5\tabc\tx\t—\n")
    assert read.session.metric == "acc"
    assert (read.experiments[0].metric, read.experiments[0].commit) == (0.5, "abc")


@pytest.mark.parametrize(
    ("metric", "direction"),
    [
        ("val_loss", "minimize"), ("logloss", "minimize"), ("val_bpb", "minimize"), ("valPerplexity", "minimize"),
        ("WER", "minimize"), ("error_rate", "minimize"), ("rmse", "minimize"), ("losses", "minimize"),
        ("accuracy", "maximize"), ("f1", "maximize"), ("valAcc", "maximize"), ("mAP50", "maximize"),
        ("terrain_score", "maximize"), ("estimated_reward", "maximize"), ("recall@10", "maximize"),
    ],
)  # fmt: skip
def test_direction_is_guessed_from_the_name(metric: str, direction: str) -> None:
    """Losses go down, scores go up."""
    read = results.read(f"commit\t{metric}\tmem_gb\tstatus\tdescription\nbaseline\t1\t1\tkeep\tx\n")
    assert read.session.direction == direction


@pytest.mark.parametrize("metric", ["zeta", "uptime", "terrain", "vaccine", "error_score", "f1_loss"])
def test_an_unknown_direction_is_asked_for(metric: str) -> None:
    """A name that says nothing, or both, is not guessed, also when `err` or `acc` hides inside a word."""
    with pytest.raises(SettingsError) as caught:
        results.read(f"commit\t{metric}\tmem_gb\tstatus\tdescription\nbaseline\t1\t1\tkeep\tx\n")
    assert "--direction" in caught.value.hint


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "line 1"),
        ("hello\n", "line 1"),
        ("commit\tm\tmem_gb\tstatus\tdescription\na\t1\t1\tmaybe\tx\n", "line 2: `maybe` is no status"),
        ("commit\tloss\tmem_gb\tstatus\tdescription\na\tx\t1\tkeep\tx\n", "line 2: `x` is no value"),
        ("commit\tloss\tmem_gb\tstatus\tdescription\na\tnan\t1\tdiscard\tx\n", "line 2: `nan` is no value"),
        ("commit\tm\tmem_gb\tstatus\tdescription\r\na\t1\t1\tkeep\tx\r\nb\t1\t1\tmaybe\tx\r\n", "line 3: `maybe`"),
        ("\n\nhello\n", "line 3 is not the header"),
        ("commit\tmem_gb\tstatus\tdescription\na\t1\tkeep\tx\n", "no column"),
    ],
)
def test_what_is_no_table_is_said_with_its_line(text: str, says: str) -> None:
    """Wrong input is one line with a hint, and exit code 2."""
    with pytest.raises(SettingsError) as caught:
        results.read(text, direction=Direction.MINIMIZE)
    assert says in caught.value.message


def test_a_named_metric_column() -> None:
    """`--metric` chooses another column than the second."""
    text = "commit\tloss\tacc\tstatus\tdescription\na\t1\t0.5\tkeep\tx\n"
    assert results.read(text, metric="acc").experiments[0].metric == 0.5
    with pytest.raises(SettingsError, match="no column `f1`"):
        results.read(text, metric="f1")


@given(st.text(st.characters(), max_size=400))
@example("\ud800")
@example("\ufeff=1+1")
def test_a_description_stays_in_its_cell(text: str) -> None:
    """No description breaks the table or its encoding, hides characters or begins a spreadsheet's formula."""
    line = results.row(experiment(1, 0.5, KEEP, description=text))
    assert line.encode()
    assert line.count("\t") == 4
    assert line.count("\n") == 1
    assert len(line.splitlines()) == 1
    assert not line.split("\t")[4].startswith(("=", "+", "-", "@"))


@given(
    st.lists(
        st.tuples(st.floats(allow_nan=False, allow_infinity=False), st.sampled_from([KEEP, DISCARD])),
        min_size=1,
        max_size=20,
    )
)
def test_what_is_written_is_read(rows: list[tuple[float, Status]]) -> None:
    """Every metric comes back exactly."""
    read = results.read(results.write(history(*rows)), direction=Direction.MINIMIZE)
    assert [(e.metric, e.status) for e in read.experiments] == rows


@given(st.text(max_size=300))
def test_any_text_is_read_or_refused(text: str) -> None:
    """Nothing but a SettingsError comes out of a file that is no results.tsv."""
    try:
        results.read(text, direction=Direction.MINIMIZE)
    except SettingsError as error:
        assert error.message
