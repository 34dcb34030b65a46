"""Is a run that is still on worth its time: watched by what is new in its log.

Two kinds of reasons. A loss that is not finite, or an accelerator's error that leaves a process hanging: nothing good can come
any more, the run is a crash. And, where the incumbent's curve is given, a metric that stays hopelessly behind it: a discard.
Everything here errs towards going on: a run stopped wrongly is a lost gain, one not stopped costs some minutes.
"""

from __future__ import annotations

import math
import os
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeAlias

from autoresearch_ci import metrics
from autoresearch_ci.experiment import Direction

if TYPE_CHECKING:
    from autoresearch_ci.runs import Interrupt

Curve: TypeAlias = tuple[tuple[float, float], ...]  # (seconds since the start, metric), oldest first

MAX_POINTS: Final = 64  # of a curve: enough to compare, little enough to journal
LOOK_EVERY_S: Final = 0.25
LOOK_BYTES: Final = 32_768  # read at a look; of a flood only the end is seen
MAX_LINE: Final = 4096  # bytes of a line that is not over yet; a longer one holds nothing for us
MAX_NAMES: Final = 64  # of losses that were finite once
HANGING_S: Final = 10.0  # of silence after an error that nothing survives; a process that ends by itself says more

# The curve rule, by `python -m tests.bench.early_stop`.
MIN_POINTS: Final = 3
START: Final = 1 / 3  # of the incumbent's duration: before it, warmup and compilation decide
END: Final = 0.9  # of it: after it nothing is saved
PERSISTENCE: Final = 0.1  # of it: how long a candidate must have been behind
# How many times the gain that the incumbent still made may be hoped for. 1 would save 13 % of the time instead of 8 %, but stop
# 16 % instead of 2 % of the winners of the hardest kind: those whose learning rate falls later than the incumbent's.
PATIENCE: Final = 1.5


def hopeless(curve: Curve, rival: Curve, direction: Direction) -> str:
    """Why a run with this `curve` so far cannot end better than the finished `rival`, in one line; empty to go on.

    To end better, a run has to gain, in the time left, the incumbent's final value minus its own. It is called hopeless when
    that is more than PATIENCE times what the incumbent still gained from where it stood at half the time (from the worst of its
    readings since then: readings are noisy). So it is slower than half the incumbent's speed, and would have to become faster
    than the incumbent ever was. This must hold for every reading of the last tenth of the incumbent's duration, three at least,
    and it is only asked between a third and nine tenths of that duration.

    The share of the better-ending runs that this stops is measured by `python -m tests.bench.early_stop`. Comparing at the same
    time with what finished runs had is the idea of the median stopping rule (Golovin et al., Google Vizier, KDD 2017, 3.2.1); a
    median would stop half of everything, and here each candidate has one rival that it must beat in the end.
    """
    if len(curve) < MIN_POINTS or len(rival) < MIN_POINTS:
        return ""
    duration, final = rival[-1]
    seconds, value = curve[-1]
    if not START * duration <= seconds <= END * duration:
        return ""
    recent = _recent(curve, PERSISTENCE * duration)
    if not recent or any(_within_reach(point, rival, final, direction) for point in recent):
        return ""
    return f"hopeless after {seconds:.0f} s: {value:g}, worse than the incumbent at half the time, which ended with {final:g}"


def _recent(curve: Curve, span_s: float) -> Curve:
    """The last points that are MIN_POINTS or more and reach `span_s` back; none while there are not so many."""
    for first in range(len(curve) - MIN_POINTS, -1, -1):
        if curve[-1][0] - curve[first][0] >= span_s:
            return curve[first:]
    return ()


def _within_reach(point: tuple[float, float], rival: Curve, final: float, direction: Direction) -> bool:
    """Whether what is missing at `point` can still be gained; True where the rival was not known at half the time."""
    seconds, value = point
    before = [reading for at, reading in rival if at <= seconds / 2]
    if not before:
        return True
    since = [before[-1], *(reading for at, reading in rival if seconds / 2 < at <= seconds)]
    gained_yet = max(direction.gain(reading, final) for reading in since)
    return not direction.gain(value, final) > PATIENCE * max(gained_yet, 0.0)


# A loss is named by the metric's name, or by one that ends in `loss`, whatever is around it in a progress line. The value must
# be a whole word with the end of its field behind it: `nanoseconds`, `info`, `none` and `nan found` are none. A line that is
# not over yet may lack that end, so nothing is misread where a line is cut.
_NOT_FINITE: Final = r"[+-]?(?:nan|inf|infinity)"
_VALUE: Final = rf"(?:tensor\()?(?:(?P<finite>[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:e[+-]?[0-9]{{1,4}})?)|{_NOT_FINITE})"
_FIELD_END: Final = r"(?=[ \t]{0,8}(?:[\n,;|)\]}]|-[ \t])|[ \t]{1,8}[a-z_][\w./@-]{0,63}[ \t]{0,8}[:=])"
_LOSS_NAME: Final = r"(?<![\w./@-])(?:\w[\w./@-]{0,31}[ ])?[\w./@-]{0,63}loss"
# What is printed for a loss of the training itself is never a placeholder. `val_loss: nan` before the first evaluation and
# `best_loss: inf` may be: of these only a value that had been finite counts. A number before the name is another field's.
_OF_TRAINING: Final = re.compile(
    r"(?:[0-9][\w./@-]*[ ])?(?:(?:train|training|step|batch|total)[ _./-]?)?loss", re.ASCII
)
# nanoGPT's `step 250: train loss nan, val loss nan`: without a colon only in a line that counts its steps, never in prose.
_COUNTED: Final = re.compile(
    rf"^[ \t]{{0,8}}(?:iter|step|epoch)[ \t:]{{1,4}}[0-9]{{1,12}}[^\n]{{0,200}}?\bloss[ \t]{{1,8}}{_NOT_FINITE}(?=[,\n])",
    re.MULTILINE | re.IGNORECASE | re.ASCII,
)

# Errors after which a process cannot go on, but may stay. Each is believed as its library writes it, not where a text speaks of
# it. CUDA: those of which the runtime's documentation of cudaError_t says that the process is left inconsistent and must be
# ended; every later call fails, and an exit may wait for the device. NCCL: the other ranks wait for the one that failed. A
# fault of one process of several: torchrun, a data loader or a shell may wait for the dead one.
_DEAD: Final = re.compile(
    r"""
      ^ (?:\[rank\ ?[0-9]+\]:\ ?)? (?:[\w.]{0,64}Error:\ |\ {0,4}what\(\):\ {1,4})? CUDA\ error:\ (?:
            device-side\ assert\ triggered | an\ illegal\ memory\ access\ was\ encountered | unspecified\ launch\ failure
            | misaligned\ address | an\ illegal\ instruction\ was\ encountered)
    | rank\ ?[0-9]+\]\ Watchdog\ caught\ collective\ operation\ timeout
    | NCCL\ error(?:\ in)?:[^\n]{0,300}?\ unhandled\ (?:cuda|system)\ error
    | ^ (?:Fatal\ Python\ error:\ |[^\n:]{0,200}:\ line\ [0-9]{1,9}:\ {1,4}[0-9]{1,9}\ )? Segmentation\ fault\b
    """,
    re.VERBOSE | re.MULTILINE | re.IGNORECASE | re.ASCII,
)


@dataclass(slots=True)
class Watch:
    """An interrupt that also comes when the run whose log it watches is not worth going on.

    `interrupt`: the real one. `log` need not exist yet, may lose its front while it grows, and may grow faster than it is read.
    `metric` and `pattern`: as for `metrics.read`. `rival`: the incumbent's curve; without one no curve is judged. `now`: a
    monotonic clock in seconds. For one thread.

    `stopped_because`: the reason in one line, empty while there is none. `hopeless`: whether it is the curve's, which makes a
    discard; any other one makes a crash.
    """

    interrupt: Interrupt
    log: Path
    metric: str
    direction: Direction = field(kw_only=True)
    pattern: str | None = field(default=None, kw_only=True)
    rival: Curve | None = field(default=None, kw_only=True)
    now: Callable[[], float] = field(default=time.monotonic, kw_only=True)
    stopped_because: str = field(default="", init=False)
    hopeless: bool = field(default=False, init=False)
    _lines: _NewLines = field(init=False)
    _points: _Points = field(init=False)
    _losses: re.Pattern[str] = field(init=False)
    _own_line: re.Pattern[str] = field(init=False)
    _finite: set[str] = field(default_factory=set, init=False)  # names of losses that were finite once
    _dead: str = field(default="", init=False)
    _silent_since: float = field(default=0.0, init=False)
    _began: float = field(default=math.nan, init=False)
    _look_at: float = field(default=-math.inf, init=False)

    def __post_init__(self) -> None:
        flags = re.MULTILINE | re.IGNORECASE | re.ASCII
        metric = re.escape(self.metric)
        name = rf"(?P<name>(?<![\w./@-]){metric}|{_LOSS_NAME})"
        self._losses = re.compile(rf"{name}['\"]?[ \t]{{0,8}}[:=][ \t]{{0,16}}{_VALUE}{_FIELD_END}", flags)
        own_line = rf"^[ \t]{{0,64}}{metric}[ \t]{{0,64}}:[ \t]{{0,64}}({_NOT_FINITE})[ \t]{{0,64}}\n"
        self._own_line = re.compile(self.pattern or own_line, 0 if self.pattern else flags)
        self._lines, self._points = _NewLines(self.log), _Points()

    @property
    def curve(self) -> Curve:
        """The metric as it was seen: at most MAX_POINTS points, spread evenly, the last one always among them."""
        return self._points.curve

    def requested(self) -> bool:
        """Whether to stop: the real interrupt's wish, or a reason found. Looks at the log every LOOK_EVERY_S at most."""
        if self.interrupt.requested():
            return True
        if not self.stopped_because and self.now() >= self._look_at:
            self.stopped_because = self._look()
        return bool(self.stopped_because)

    def finish(self) -> None:
        """To be called once the run has ended by itself: adds what it printed last to the curve, and judges nothing."""
        text = self._lines.read() + self._lines.unfinished + "\n"
        if self._lines.seen:
            self._add(self.now(), text)

    def _look(self) -> str:
        now = self.now()
        self._look_at = now + LOOK_EVERY_S
        text = self._lines.read()
        if not self._lines.seen:
            return ""
        measured = self._add(now, text)
        if reason := self._not_finite(text) or self._hanging(now, text, measured):
            return reason
        if measured and self.rival is not None:
            reason = hopeless(self.curve, self.rival, self.direction)
            self.hopeless = bool(reason)
        return reason

    def _add(self, now: float, text: str) -> bool:
        """Adds the newest value of the metric in `text` to the curve; whether there was one."""
        if math.isnan(self._began):
            self._began = now
        value = metrics.read(text, self.metric, self.pattern).metric if text else None
        if value is not None:
            self._points.add((now - self._began, value))
        return value is not None

    def _not_finite(self, text: str) -> str:
        """Which loss is not finite any more. The metric on a line of its own is a reading, elsewhere it is a loss like others."""
        for match in self._own_line.finditer(text):
            if match[1] is not None and re.fullmatch(_NOT_FINITE, match[1].strip(), re.IGNORECASE):
                return f"`{self.metric}` is not finite: {metrics.last_line(match[0])}"
        text += self._lines.unfinished
        for match in self._losses.finditer(text):
            name = match["name"].lower()
            if match["finite"] is None and (name in self._finite or _OF_TRAINING.fullmatch(name)):
                return f"the loss is not finite: {metrics.last_line(match[0])}"
            if match["finite"] is not None and len(self._finite) < MAX_NAMES:
                self._finite.add(name)
        counted = _COUNTED.search(text)
        return f"the loss is not finite: {metrics.last_line(counted[0])}" if counted else ""

    def _hanging(self, now: float, text: str, measured: bool) -> str:
        """The error that nothing survives, when nothing was printed for HANGING_S after it."""
        if text:
            self._silent_since = now
            self._dead = "" if measured else self._dead  # it goes on all the same
            if error := _DEAD.search(text):
                self._dead = metrics.last_line(error[0])
        return f"hanging after its error: {self._dead}" if self._dead and now - self._silent_since >= HANGING_S else ""


@dataclass(slots=True)
class _NewLines:
    """What is new in a log that another process writes: whole lines, at most LOOK_BYTES of them, the newest."""

    path: Path
    seen: bool = False
    _offset: int = 0
    _rest: bytes = b""  # the line that is not over yet
    _inside: bool = False  # whether what comes next is the middle of a line whose start is lost

    @property
    def unfinished(self) -> str:
        """The line that is not over yet, as far as it goes."""
        return self._rest.decode(errors="replace")

    def read(self) -> str:
        """The lines since the last call, `\\r` ending a line as `\\n` does; empty when there are none, or no log yet."""
        try:
            with self.path.open("rb") as file:
                size = file.seek(0, os.SEEK_END)
                start = self._start(size)
                file.seek(start)
                data = file.read(size - start)
        except OSError:  # not there yet; a log that cannot be read at all is its writer's to report
            return ""
        self.seen = True
        self._offset = start + len(data)
        lines, end, self._rest = (self._rest + data).replace(b"\r", b"\n").rpartition(b"\n")
        if self._inside and end:
            lines, self._inside = lines.partition(b"\n")[2], False
        if self._inside or len(self._rest) > MAX_LINE:
            self._rest, self._inside = b"", True
        return (lines + end).decode(errors="replace") if lines else ""

    def _start(self, size: int) -> int:
        """Where to read on. A log that got shorter lost its front (its cap), and what is new is at its end all the same."""
        start = max(size - LOOK_BYTES, self._offset if size >= self._offset else 0)
        if start != self._offset:
            self._rest, self._inside = b"", start > 0
        return start


@dataclass(slots=True)
class _Points:
    """A curve that is thinned as it grows: every second point is dropped when there are too many."""

    _kept: list[tuple[float, float]] = field(default_factory=list)
    _last: tuple[float, float] | None = None
    _count: int = 0
    _stride: int = 1

    @property
    def curve(self) -> Curve:
        last = [self._last] if self._last is not None and self._kept[-1] != self._last else []
        return (*self._kept, *last)

    def add(self, point: tuple[float, float]) -> None:
        if self._count % self._stride == 0:
            self._kept.append(point)
        if len(self._kept) == MAX_POINTS:
            self._kept, self._stride = self._kept[::2], 2 * self._stride
        self._count += 1
        self._last = point
