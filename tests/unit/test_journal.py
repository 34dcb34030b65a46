from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from autoresearch_ci import journal
from autoresearch_ci.errors import GitError, MachineError
from autoresearch_ci.experiment import Ending, History, Measurement, Reading, Run, Status
from autoresearch_ci.journal import SEGMENT, Journal
from autoresearch_ci.scrubber import Scrubber
from tests.unit.histories import START, experiment, history

KEEP, DISCARD, CRASH = Status.KEEP, Status.DISCARD, Status.CRASH
SOME = history((1.0, KEEP), (0.9, KEEP), (None, CRASH))


def written(folder: Path, of: History) -> Journal:
    record = Journal(folder)
    done = record.begin(History(session=of.session))
    for one in of.experiments:
        done = record.append(done, one)
    if of.ended:
        record.end(done, of.ended)
    return record


def test_what_is_written_comes_back(tmp_path: Path) -> None:
    """Every field of a session and its experiments survives the journal, measurements and all."""
    run = Run(ending=Ending.EXITED, exit_code=0, wall_s=1.5, peak_memory_mb=10.0)
    reading = Reading(metric=0.5, numbers={"num_steps": 3.0}, last_line="ende — ü")
    full = experiment(
        1, 0.5, KEEP, parameters={"LR": 0.1, "ACT": "gelu", "ON": True, "N": 3, "X": None},
        measurements=(Measurement(commit="a" * 40, seed=42, run=run, reading=reading, log="00/0001-1.log"),),
    )  # fmt: skip
    whole = History(session=SOME.session, experiments=(SOME.experiments[0], full), ended="done")
    assert journal.parse(written(tmp_path, whole).load()) == whole


def test_a_second_lifetime_goes_on(tmp_path: Path) -> None:
    """A resumed session has one start, the new settings and no old end."""
    record = written(tmp_path, history((1.0, KEEP), ended="enough"))
    again = journal.parse(record.load())
    assert again.ended == "enough"
    record.begin(again)
    resumed = journal.parse(record.load())
    assert resumed.ended == ""
    assert resumed.session.started_at == START
    assert len(resumed.experiments) == 1


def test_an_end_is_recorded_once(tmp_path: Path) -> None:
    """Finalizing twice leaves one line."""
    record = Journal(tmp_path)
    done = record.end(record.begin(SOME), "enough")
    before = record.load()
    record.end(done, "enough")
    assert record.load() == before


@given(cut=st.integers(min_value=1))
@hypothesis_settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_line_cut_off_by_death_is_forgotten(tmp_path: Path, cut: int) -> None:
    """However many bytes of the last line are missing, the lines before it are whole."""
    record = Journal(tmp_path)
    record.restore(b"")
    whole = written(tmp_path, SOME)
    data = whole.load()
    last_line = data.splitlines(keepends=True)[-1]
    whole.path.write_bytes(data[: len(data) - 1 - cut % len(last_line)])
    recovered = journal.parse(whole.load())
    assert recovered.experiments == SOME.experiments[:2]
    whole.restore(whole.load())
    whole.append(recovered, SOME.experiments[2])
    assert journal.parse(whole.load()).experiments == SOME.experiments


@given(st.binary(max_size=400))
def test_damage_is_named_never_a_traceback(data: bytes) -> None:
    """Bytes that are no journal give a ValueError that names the line, and nothing else."""
    with pytest.raises(ValueError, match="line|no session"):
        journal.parse(data)


def test_an_experiment_in_twice_is_damage(tmp_path: Path) -> None:
    """The numbers run without a gap and without a repeat."""
    record = written(tmp_path, SOME)
    lines = record.load().splitlines(keepends=True)
    with pytest.raises(ValueError, match="line 5 is damaged: experiment 2 stands where 3 belongs"):
        journal.parse(b"".join([*lines, lines[-1]]))


def test_segments_carry_the_whole_record(tmp_path: Path) -> None:
    """What is pushed piece by piece joins to the bytes on disk; a full segment never changes again."""
    record = Journal(tmp_path)
    done = record.begin(History(session=SOME.session))
    ref: dict[str, bytes] = {}
    for number in range(2 * SEGMENT + 5):
        done = record.append(done, experiment(number, 1.0, KEEP if number == 0 else DISCARD))
        changed = record.files()
        assert len(changed) == 1
        ref |= changed
    assert sorted(ref) == ["journal/0000.jsonl", "journal/0001.jsonl", "journal/0002.jsonl"]
    assert journal.join_segments(ref) == record.load()
    assert record.all_files() == ref


def test_restoring_goes_on_in_the_right_segment(tmp_path: Path) -> None:
    """A new machine that takes the record from the remote writes the same files as the old one would have."""
    first = written(tmp_path / "a", history(*[(1.0, KEEP)] * (SEGMENT + 3)))
    second = Journal(tmp_path / "b")
    second.restore(first.load())
    assert second.load() == first.load()
    assert second.files() == first.files()
    second.restore(first.load())  # again: nothing to do
    assert second.load() == first.load()


def test_the_longer_copy_wins_and_a_fork_is_refused() -> None:
    """One copy must continue the other; two that both went on cannot be joined."""
    assert journal.newest(b"a\nb\n", b"a\n") == b"a\nb\n"
    assert journal.newest(b"a\n", b"a\nb\n") == b"a\nb\n"
    with pytest.raises(GitError) as caught:
        journal.newest(b"a\nb\n", b"a\nc\n")
    assert "tag" in caught.value.hint


def test_log_tails_travel(tmp_path: Path) -> None:
    """The end of each log goes with its experiment; a log that is gone is empty, not an error."""
    record = Journal(tmp_path)
    record.log_path("00/0001-1.log").write_bytes(b"x" * journal.LOG_TAIL + b"the end \xff")
    run = Run(ending=Ending.EXITED, exit_code=0, wall_s=1.0)
    measurements = tuple(
        Measurement(commit="c", seed=1, run=run, reading=Reading(), log=name)
        for name in ("00/0001-1.log", "00/0001-2.log")
    )
    files = record.files(experiment(1, 1.0, KEEP, measurements=measurements))
    assert files["logs/00/0001-1.log"].endswith("the end �".encode())
    assert len(files["logs/00/0001-1.log"]) <= journal.LOG_TAIL + 2
    assert files["logs/00/0001-2.log"] == b""


def test_running_is_told_and_ends(tmp_path: Path) -> None:
    """Another terminal sees what runs, and that nothing does."""
    record = Journal(tmp_path)
    assert record.now_running() is None
    record.running(3, "LR 0.1 → 0.2", START)
    note = record.now_running()
    assert note is not None
    assert note.running[0].number == 3
    record.idle()
    assert record.now_running() is None


def test_a_folder_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    """Every write to a disk that refuses ends in one line with a hint and exit code 4."""
    (tmp_path / "file").write_text("")
    record = Journal(tmp_path / "file")
    for write in (
        lambda: record.begin(SOME),
        lambda: record.restore(b"x\n"),
        lambda: record.log_path("00/0000-1.log"),
        lambda: record.running(0, "", START),
        lambda: record.slots(("",)),
        lambda: record.waiting(("LR 0.1 → 0.2",)),
        lambda: record.idle(slot=1),
        lambda: record.load(),
        lambda: record.read_log("00/0000-1.log"),
    ):
        with pytest.raises(MachineError, match="cannot write") as caught:
            write()
        assert "state-dir" in caught.value.hint


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_leaves_no_half_line(tmp_path: Path) -> None:
    """A write that the disk does not take is an error, and no half of it stays."""
    record = Journal(tmp_path)
    record.path.symlink_to("/dev/full")
    with pytest.raises(MachineError, match="No space left"):
        record.begin(SOME)


TOKEN = "nvapi-0123456789abcdef"


def test_what_is_recorded_holds_no_secret(tmp_path: Path) -> None:
    """Nor does the history that goes on with it, from which reports quote pieces; the line stays readable JSON."""
    record = Journal(tmp_path, Scrubber.of({"NGC_API_KEY": TOKEN}))
    leaking = experiment(
        0,
        1.0,
        KEEP,
        description=f"by {TOKEN}",
        rationale=f"\n{TOKEN[1:]} {TOKEN.encode().hex()}",
        parameters={TOKEN: TOKEN},
    )
    done = record.append(record.begin(History(session=SOME.session)), leaking)
    assert done.experiments[0].description == "by ***"
    assert done.experiments[0].rationale == f"\n{TOKEN[1:]} ***"
    assert done.experiments[0].parameters == {"***": "***"}
    assert journal.parse(record.load()) == done
    record.running(1, f"by {TOKEN}", START)
    record.waiting((f"with {TOKEN}",))
    note = record.now_running()
    assert note is not None
    assert note.running[0].description == "by ***"
    assert note.waiting == ("with ***",)


@pytest.mark.parametrize("cut", range(len(TOKEN) + 1))
def test_the_end_of_a_log_holds_no_piece_of_a_secret(tmp_path: Path, cut: int) -> None:
    """Wherever the cut goes through it; and afterwards the log itself has none either."""
    record = Journal(tmp_path, Scrubber.of({"NGC_API_KEY": TOKEN}))
    tail = "." * (990 - cut) + "the end of"
    record.log_path("a.log").write_text("." * 5000 + TOKEN + tail)
    shown = record.read_log("a.log", 1000)
    assert ("." * 5000 + "***" + tail).endswith(shown)
    assert 1000 >= len(shown) >= 1000 - record.scrubber.longest
    record.scrub_log("a.log")
    record.scrub_log("gone.log")
    assert (tmp_path / "logs/a.log").read_text() == "." * 5000 + "***" + tail
