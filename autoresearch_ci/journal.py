"""The durable, complete record of a session: one JSON object a line, appended and fsynced before anything else moves.

On disk, in the session's state folder:

    journal.jsonl       `session` lines (one per process lifetime), `experiment`, `recheck` and `ended` lines
    running.json        what is running now, for `status` (`live`); not part of the record
    logs/00/0003-1.log  the log of experiment 3's first run

The record travels as files on the journal ref, in segments of 20 experiments, so that the 2,000th experiment does not cost
more than the 10th; a segment that is full never changes again. `results.tsv` is the public extract.
"""

from __future__ import annotations

import datetime as dt
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any, Final, TypeVar

from pydantic import TypeAdapter, ValidationError

from autoresearch_ci import live
from autoresearch_ci.errors import GitError, MachineError
from autoresearch_ci.experiment import Experiment, History, Measurement, Recheck, Session
from autoresearch_ci.live import Live, LiveNote
from autoresearch_ci.scrubber import Scrubber

T = TypeVar("T")

SEGMENT: Final = 20  # experiments per file on the journal ref
LOG_TAIL: Final = 64 * 1024  # bytes of every log that are pushed with the journal
LOG_READ: Final = 4 * 1024 * 1024  # bytes of a log, from its end, that are searched for the metric


@cache
def _adapter(kind: type[Any]) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


def _line(kind: str, value: Mapping[str, Any]) -> bytes:
    return json.dumps({"type": kind, **value}, ensure_ascii=False, allow_nan=False).encode() + b"\n"


def parse(data: bytes) -> History:
    """The history that journal lines tell; ValueError, with the line's number, when one of them is damaged."""
    session: Session | None = None
    experiments: list[Experiment] = []
    rechecks: list[Recheck] = []
    ended = ""
    for number, line in enumerate(data.splitlines(), start=1):
        try:
            value = json.loads(line)
            kind = value.pop("type")
            if kind == "session":
                latest: Session = _adapter(Session).validate_python(value)
                session = latest if session is None else replace(latest, started_at=session.started_at)
                ended = ""
            elif kind == "experiment":
                experiment: Experiment = _adapter(Experiment).validate_python(value)
                if experiment.number != len(experiments):
                    raise ValueError(f"experiment {experiment.number} stands where {len(experiments)} belongs")
                experiments.append(experiment)
                session, ended = session and _on_base_of(session, experiment), ""
            elif kind == "recheck":
                rechecks.append(_adapter(Recheck).validate_python(value))
            elif kind == "ended":
                ended = str(value["reason"])
            else:
                raise ValueError(f"`{kind}` is no kind of line")
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            problem = "not of its form" if isinstance(error, ValidationError) else str(error)
            raise ValueError(f"line {number} is damaged: {problem}") from error
    if session is None:
        raise ValueError("there is no session line")
    return History(session=session, experiments=tuple(experiments), rechecks=tuple(rechecks), ended=ended)


def _on_base_of(session: Session, experiment: Experiment) -> Session:
    """The session after the experiment: a merge makes another commit its base, whose files the next `session` line tells."""
    if not experiment.base:
        return session
    return replace(session, base_commit=experiment.base, files_digest="")


def join_segments(files: Mapping[str, bytes]) -> bytes:
    """The journal's bytes from the files of a journal ref; empty when it holds none."""
    return b"".join(files[name] for name in sorted(files) if name.startswith("journal/") and name.endswith(".jsonl"))


def newest(local: bytes, remote: bytes) -> bytes:
    """The longer of two copies of one journal; GitError when neither continues the other."""
    if local.startswith(remote):
        return local
    if remote.startswith(local):
        return remote
    raise GitError(
        "the journal here and the one on the remote have both gone on",
        hint="another machine ran this tag: start a new `tag`, or remove the local state folder to take the remote's",
    )


def _now() -> dt.datetime:
    return dt.datetime.now(dt.UTC)


@dataclass(slots=True)
class Journal:
    """The record in `folder`. One process at a time writes it (cli holds a lock); any number may read. `scrubber` keeps secrets out.

    What is running now may be told from any thread; the record is written by one. `now` says when a run is over.
    Every method that writes raises MachineError when the disk does not take it (full, read-only).
    """

    folder: Path
    scrubber: Scrubber = field(default_factory=Scrubber)
    now: Callable[[], dt.datetime] = _now
    _segment: bytes = b""
    _segment_number: int = 0
    _in_segment: int = 0
    _note: LiveNote = field(init=False)

    def __post_init__(self) -> None:
        self._note = LiveNote(self.folder, self.scrubber, self.now)

    @property
    def path(self) -> Path:
        return self.folder / "journal.jsonl"

    def load(self) -> bytes:
        """The bytes of the record, without a line that a dying machine left half-written."""
        try:
            data = self.path.read_bytes()
        except FileNotFoundError:
            return b""
        except OSError as error:
            raise _disk_error(self.path, error) from error
        return data[: data.rfind(b"\n") + 1]

    def restore(self, data: bytes) -> None:
        """Makes the record on disk exactly `data` (what `newest` chose) and goes on from there."""
        self._segment, self._segment_number, self._in_segment = b"", 0, 0
        for line in data.splitlines(keepends=True):
            self._remember(line)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            if self.path.exists() and self.path.read_bytes() == data:
                return
            fresh = self.path.with_suffix(".new")
            with fresh.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            fresh.replace(self.path)
        except OSError as error:
            raise _disk_error(self.path, error) from error

    def begin(self, history: History) -> History:
        """Records that a process takes up the session; the history without its old end."""
        self._append("session", _adapter(Session), history.session)
        return replace(history, ended="")

    def append(self, history: History, experiment: Experiment) -> History:
        """Records an experiment for good: when this returns, it is on the disk. The history has it as it stands there.

        A merge of the base changes what the session is based on by this line alone.
        """
        recorded = self._append("experiment", _adapter(Experiment), experiment)
        session = _on_base_of(history.session, recorded)
        return replace(history, session=session, experiments=(*history.experiments, recorded))

    def append_recheck(self, history: History, recheck: Recheck) -> History:
        """Records a recheck for good: when this returns, it is on the disk."""
        recorded = self._append("recheck", _adapter(Recheck), recheck)
        return replace(history, rechecks=(*history.rechecks, recorded))

    def end(self, history: History, reason: str) -> History:
        """Records why the session is over; nothing when that is recorded already."""
        if history.ended == reason:
            return history
        self._append("ended", _adapter(dict), {"reason": reason})
        return replace(history, ended=reason)

    def _append(self, kind: str, adapter: TypeAdapter[T], value: T) -> T:
        """Writes the line; what it says, which is `value` without secrets."""
        dumped = adapter.dump_python(value, mode="json")
        clean = self.scrubber.scrub_json(dumped)
        self._write(_line(kind, clean))
        return value if clean == dumped else adapter.validate_python(clean)

    def _write(self, line: bytes) -> None:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with self.path.open("ab") as file:
                start = file.tell()
                try:
                    file.write(line)
                    file.flush()
                    os.fsync(file.fileno())
                except OSError:
                    file.truncate(start)  # a full disk may have taken half a line
                    raise
        except OSError as error:
            raise _disk_error(self.path, error) from error
        self._remember(line)

    def _remember(self, line: bytes) -> None:
        if line.startswith(b'{"type": "experiment"'):
            if self._in_segment == SEGMENT:
                self._segment, self._in_segment, self._segment_number = b"", 0, self._segment_number + 1
            self._in_segment += 1
        self._segment += line

    def files(self, made: Experiment | Recheck | None = None) -> dict[str, bytes]:
        """What has changed on the journal ref since the last line: the segment, and the tails of the logs of what was made."""
        files = {f"journal/{self._segment_number:04}.jsonl": self._segment}
        for measurement in made.measurements if made else ():
            files[f"logs/{measurement.log}"] = self.read_log(measurement.log, LOG_TAIL).encode()
        return files

    def all_files(self) -> dict[str, bytes]:
        """Every file of the journal ref that can be made again from the record on disk: for a ref that fell behind."""
        again = Journal(self.folder, self.scrubber)
        files: dict[str, bytes] = {}
        for line in self.load().splitlines(keepends=True):
            again._remember(line)
            files |= again.files()
        return files

    def log_name(self, number: int, attempt: int) -> str:
        """The name of a run's log inside the journal: `00/0003-1.log`."""
        return f"{number // SEGMENT:02}/{number:04}-{attempt}.log"

    def log_name_in_flight(self, slot: int, attempt: int) -> str:
        """The name of a log as long as nobody knows which experiment its run will belong to: `in-flight/2-1.log`."""
        return f"in-flight/{slot}-{attempt}.log"

    def settle_logs(self, measurements: Sequence[Measurement], number: int) -> list[Measurement]:
        """The measurements with the names of their logs in experiment `number`, which is decided now; the logs are moved there."""
        settled = []
        for attempt, measurement in enumerate(measurements, start=1):
            name = self.log_name(number, attempt)
            old, new = self.log_path(measurement.log), self.log_path(name)
            try:
                if old.exists():
                    old.replace(new)
                else:  # a run that was killed at once may have written none
                    new.unlink(missing_ok=True)
            except OSError as error:
                raise _disk_error(new, error) from error
            settled.append(replace(measurement, log=name))
        return settled

    def recheck_log_name(self, number: int, attempt: int) -> str:
        """The name of the log of a run beside the experiments: `recheck/00-1.log`."""
        return f"recheck/{number:02}-{attempt}.log"

    def log_path(self, name: str) -> Path:
        path = self.folder / "logs" / name
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise _disk_error(path, error) from error
        return path

    def read_log(self, name: str, limit: int = LOG_READ) -> str:
        """The last `limit` bytes of a log as text; what is not UTF-8 is replaced, a missing log is empty."""
        try:
            with (self.folder / "logs" / name).open("rb") as file:
                margin = self.scrubber.longest  # what the cut leaves of a secret lies in it
                start = max(0, file.seek(0, os.SEEK_END) - limit - margin)
                file.seek(start)
                data = self.scrubber.scrub_bytes(file.read(limit + margin))
                return data[margin if start else 0 :][-limit:].decode("utf-8", errors="replace")
        except FileNotFoundError:
            return ""
        except OSError as error:
            raise _disk_error(self.folder / "logs" / name, error) from error

    def scrub_log(self, name: str) -> None:
        """Replaces the secrets in the log of a run that is over: one without a wall may have found some."""
        path = self.log_path(name)
        try:
            data = path.read_bytes()
            if (clean := self.scrubber.scrub_bytes(data)) != data:
                path.write_bytes(clean)
        except FileNotFoundError:
            return
        except OSError as error:
            raise _disk_error(path, error) from error

    def slots(self, devices: Sequence[str]) -> None:
        """Tells other terminals how many slots there are, by the device of each (empty: none of its own). Once, at the start."""
        with self._noting():
            self._note.slots(devices)

    def running(self, number: int, description: str, started_at: dt.datetime, *, slot: int = 1) -> None:
        """Tells other terminals what is running in a slot now."""
        with self._noting():
            self._note.running(number, description, started_at, slot)

    def waiting(self, descriptions: Sequence[str]) -> None:
        """Tells other terminals which proposals wait for a slot, the next one first."""
        with self._noting():
            self._note.waiting(descriptions)

    def idle(self, *, slot: int | None = None) -> None:
        """Tells other terminals that nothing runs in a slot; None: nothing anywhere, and nothing waits."""
        with self._noting():
            self._note.idle(slot)

    def now_running(self) -> Live | None:
        """What the process that writes here, or one that died, last told; None when nothing runs."""
        return live.read(self.folder)

    @contextmanager
    def _noting(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise _disk_error(self.folder / live.FILE, error) from error


def _disk_error(path: Path, error: OSError) -> MachineError:
    return MachineError(
        f"cannot write the session's record: {error.strerror or error} ({path})",
        hint="free some space, or point `state-dir` at a folder that can be written",
    )
