"""The capped log."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoresearch_ci.errors import MachineError
from autoresearch_ci.executors.log import CappedLog

NOTICE = re.compile(rb"\[(\d+) bytes of this log were dropped here, its end is kept\]\n")


def test_what_fits_is_kept_as_it_is(tmp_path: Path) -> None:
    """A log within its cap holds exactly what was written, and can be read while it is written."""
    path = tmp_path / "run.log"
    with CappedLog(path, 100) as log:
        log.write(b"one\n")
        assert path.read_bytes() == b"one\n"
        log.write(b"two")
    assert path.read_bytes() == b"one\ntwo"


def test_the_end_is_kept_and_the_first_line_says_what_is_missing(tmp_path: Path) -> None:
    """Of a log far beyond its cap the last whole lines are kept, and the first line counts the dropped bytes."""
    path = tmp_path / "run.log"
    lines = b"".join(b"line %06d\n" % number for number in range(10_000))
    with CappedLog(path, 1000) as log:
        for start in range(0, len(lines), 77):
            log.write(lines[start : start + 77])
            assert path.stat().st_size <= 2 * 1000 + 200
    text = path.read_bytes()
    notice = NOTICE.match(text)
    assert notice is not None
    kept = text[notice.end() :]
    assert lines.endswith(kept)
    assert kept.startswith(b"line ")
    assert int(notice[1]) + len(kept) == len(lines)


def test_one_endless_line_is_cut_too(tmp_path: Path) -> None:
    """A line that is longer than the cap does not escape it."""
    path = tmp_path / "run.log"
    with CappedLog(path, 10_000) as log:
        log.write(b"x" * 1_000_000 + b"\nval_bpb: 1.5\n")
    text = path.read_bytes()
    assert text.endswith(b"x\nval_bpb: 1.5\n")
    assert len(text) < 10_200


@given(chunks=st.lists(st.binary(max_size=50), max_size=30), cap_bytes=st.integers(1, 60))
def test_nothing_is_lost_uncounted(
    chunks: list[bytes], cap_bytes: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """For any bytes in any portions: the end of what was written is kept, within the cap, and the rest is counted."""
    path = tmp_path_factory.mktemp("log") / "run.log"
    with CappedLog(path, cap_bytes) as log:
        for chunk in chunks:
            log.write(chunk)
    written, text = b"".join(chunks), path.read_bytes()
    if len(written) <= cap_bytes and text == written:
        return
    notice = NOTICE.match(text)
    assert notice is not None
    kept = text[notice.end() :]
    assert written.endswith(kept)
    assert len(kept) <= cap_bytes
    assert int(notice[1]) + len(kept) == len(written)


def test_a_log_that_cannot_be_written_is_a_machine_error(tmp_path: Path) -> None:
    """A missing folder is told in one line with a hint."""
    with pytest.raises(MachineError, match=r"run\.log"):
        CappedLog(tmp_path / "missing" / "run.log")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs the device that is always full")
def test_a_full_disk_is_a_machine_error() -> None:
    """A log for which there is no room is told in one line with a hint."""
    with pytest.raises(MachineError, match="No space left"):
        CappedLog(Path("/dev/full")).write(b"x")


def test_closing_twice_is_harmless(tmp_path: Path) -> None:
    """`close` may be called on every path."""
    log = CappedLog(tmp_path / "run.log")
    log.close()
    log.close()
