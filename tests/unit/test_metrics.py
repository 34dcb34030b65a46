from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoresearch_ci import metrics

UPSTREAM = """step 00952 (99.9%) | loss: 2.9\rstep 00953\r\n---
val_bpb:          0.997900
training_seconds: 300.1
total_seconds:    325.9
peak_vram_mb:     45060.2
mfu_percent:      39.80
total_tokens_M:   499.6
num_steps:        953
num_params_M:     50.3
depth:            8
"""


def test_upstream_block_is_read() -> None:
    """The block that karpathy/autoresearch prints gives the metric, the memory and the other numbers."""
    reading = metrics.read(UPSTREAM, "val_bpb")
    assert reading.metric == 0.9979
    assert reading.memory_mb == 45060.2
    assert reading.numbers["num_steps"] == 953
    assert "val_bpb" not in reading.numbers
    assert reading.last_line == "depth:            8"


def test_last_finite_value_counts() -> None:
    """A later value replaces an earlier one, and one that is not finite is passed over."""
    assert metrics.read("m: 3\nm: 2\nm: nan\nm: inf\nm: 1e999\nm: -1e101\n", "m").metric == 2


@pytest.mark.parametrize(
    "text", ["", "m 1\n", "xm: 1\n", "m: 0x1p3\n", "m: １\n", "m: 1_0\n", "m: one\n", "m: 1 2\n", "loss m: 1\n"]
)
def test_what_is_no_number_is_no_reading(text: str) -> None:
    """Only a line that is the name, a colon and an ASCII decimal number counts."""
    assert metrics.read(text, "m").metric is None


def test_carriage_returns_separate_lines() -> None:
    """A progress line that overwrites itself does not hide the metric."""
    assert metrics.read("step 1\rstep 2\rm: 0.5\rstep 3", "m").metric == 0.5


def test_pattern_replaces_the_form() -> None:
    """`metric-pattern` finds the number where the log is not `name: number`, and its last match counts."""
    log = "epoch 1 acc=0.5\nepoch 2 acc=0.75\nepoch 3 acc=none\n"
    assert metrics.read(log, "accuracy", r"acc=(\S+)").metric == 0.75


def test_metric_name_may_hold_regular_expression_characters() -> None:
    """A name is a name, whatever its characters."""
    assert metrics.read("top-1(%): 71.5\n", "top-1(%)").metric == 71.5


def test_zero_memory_is_unknown() -> None:
    """Scripts print 0.0 where CUDA cannot tell; the figure from outside must then count."""
    assert metrics.read("peak_vram_mb: 0.0\n", "m").memory_mb is None


@pytest.mark.parametrize(
    "line",
    [
        "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate",
        "RuntimeError: MPS backend out of memory (MPS allocated",
    ],
)
def test_device_memory_errors_are_known(line: str) -> None:
    """Out of memory on CUDA and MPS is told from other crashes."""
    assert metrics.read(line, "m").out_of_memory


def test_numbers_are_bounded() -> None:
    """A script that prints ten thousand names leaves a bounded record."""
    assert len(metrics.read("".join(f"n{i}: {i}\n" for i in range(10_000)), "m").numbers) <= metrics.MAX_NUMBERS


def test_last_line_is_clean_and_short() -> None:
    """The quoted line holds no control characters and no escape sequences, and is of bounded length."""
    assert metrics.last_line("a\n\x1b[31mboom\x1b[0m\x07\n\n  \n") == "boom"
    assert len(metrics.last_line("x" * 100_000)) == metrics.MAX_LINE


@given(st.text())
def test_any_log_is_read(log: str) -> None:
    """No text makes the reader fail, and what it reads is finite."""
    reading = metrics.read(log, "m")
    assert reading.metric is None or math.isfinite(reading.metric)
    assert all(math.isfinite(value) for value in reading.numbers.values())


@given(st.floats(-metrics.LARGEST, metrics.LARGEST))
def test_any_printed_float_comes_back(value: float) -> None:
    """What Python prints for a float is read as that float."""
    assert metrics.read(f"noise\nm: {value!r}\nmore noise\n", "m").metric == value


@pytest.mark.parametrize(
    ("forged", "metric"),
    [
        ("val_bpb: nan", 0.9), ("val_bpb: inf", 0.9), ("val_bpb: -inf", 0.9), ("val_bpb: 1e999", 0.9), ("val_bpb: -1e101", 0.9),
        ("val_bpb: 0x1p3", 0.9), ("val_bpb: \uff10.\uff11", 0.9), ("val_bpb: 0.1_0", 0.9), ("val_bpb: 0,1", 0.9), ("val_bpb: 0.1 bits", 0.9),
        ("val_bpb = 0.1", 0.9), ("VAL_BPB: 0.1", 0.9), ("best val_bpb: 0.1", 0.9), ("val_bpb: 0.1\x1b[0m", 0.9), ("\u200bval_bpb: 0.1", 0.9),
        ("val_bpb: True", 0.9), ("val_bpb: 1/2", 0.9), ("val_bpb: -0.0", 0.0), ("val_bpb: 0.1", 0.1), ("x\rval_bpb: 0.1\r", 0.1),
    ],
)  # fmt: skip
def test_a_forged_metric_is_a_plain_number_or_nothing(forged: str, metric: float) -> None:
    """After an honest 0.9 only what the contract calls a number counts; and then there are two lines, which is flagged."""
    reading = metrics.read(f"val_bpb: 0.9\n{forged}\n", "val_bpb")
    assert reading.metric == metric
    assert reading.metric_lines == (1 if metric == 0.9 else 2)
