"""Whether a run is worth its time: the curve rule, and the watch over a real log."""

from __future__ import annotations

import itertools
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoresearch_ci.early_stop import HANGING_S, LOOK_BYTES, LOOK_EVERY_S, MAX_POINTS, Curve, Watch, hopeless
from autoresearch_ci.executors.log import CappedLog
from autoresearch_ci.executors.native import NativeExecutor
from autoresearch_ci.experiment import Direction, Ending
from autoresearch_ci.runs import RunRequest

DIRECTIONS = st.sampled_from(Direction)


class Interrupt:
    """A person's wish to stop, which may be set."""

    def __init__(self) -> None:
        self.wished = False

    def requested(self) -> bool:
        return self.wished


class Bench:
    """A log that is written, the watch over it, and a clock that is set by hand."""

    def __init__(self, folder: Path, rival: Curve | None = None, pattern: str | None = None) -> None:
        self.log = folder / "run.log"
        self.interrupt = Interrupt()
        self.clock = 100.0
        self.watch = Watch(
            self.interrupt,
            self.log,
            "val_bpb",
            direction=Direction.MINIMIZE,
            rival=rival,
            pattern=pattern,
            now=lambda: self.clock,
        )

    @property
    def values(self) -> list[float]:
        return [value for _, value in self.watch.curve]

    def look(self, text: str = "", after_s: float = LOOK_EVERY_S) -> bool:
        """Writes `text`, lets time pass, and asks."""
        with self.log.open("ab") as file:
            file.write(text.encode())
        self.clock += after_s
        return self.watch.requested()


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def falling(floor: float, *, speed: float = 1.0, points: int = 20) -> Curve:
    """A loss over 100 s: a power law that ends a little above `floor`."""
    times = [100 * (index + 1) / points for index in range(points)]
    return tuple((at, floor + (1 + speed * at) ** -0.5) for at in times)


def mirrored(curve: Curve) -> Curve:
    return tuple((at, -value) for at, value in curve)


# The curve rule


def test_far_behind_is_hopeless() -> None:
    """A run that is worse at half the time than the incumbent ever was since a quarter of it is stopped, and it is said why."""
    reason = hopeless(falling(1.5)[:10], falling(1.0), Direction.MINIMIZE)
    assert reason.startswith("hopeless after 50 s: 1.64")
    assert "\n" not in reason


@pytest.mark.parametrize(
    ("curve", "rival", "why"),
    [
        (falling(1.5)[:6], falling(1.0), "before a third of the time"),
        (falling(1.5)[:19], falling(1.0), "when it is nearly over"),
        (falling(1.5)[:10], falling(1.0)[-2:], "beside a rival of two readings"),
        (((20.0, 9.0), (50.0, 9.0)), falling(1.0), "of two readings"),
        (tuple((50 + at / 10, 9.0) for at in range(3)), falling(1.0), "of readings that span too little time"),
        (falling(1.5)[:10], falling(1.0)[8:], "beside a rival whose first reading is later than half the time"),
        (falling(0.8, speed=0.3)[:10], falling(1.0), "that is slower and will be better"),
        (falling(1.0, speed=0.6)[:10], falling(1.0), "that has more than half of the incumbent's speed"),
        (
            tuple((at, 1.25) for at in (40.0, 45.0, 50.0)),
            falling(1.0, points=5),
            "that is no worse than a rival read seldom",
        ),
        ((*falling(1.5)[:9], (50.0, 1.1)), falling(1.0), "whose last reading is good"),
        ((), falling(1.0), "without a reading"),
        (falling(1.5)[:10], (), "without a rival"),
    ],
)
def test_what_may_still_win_goes_on(curve: Curve, rival: Curve, why: str) -> None:
    """Nothing is stopped where there is too little to say."""
    assert hopeless(curve, rival, Direction.MINIMIZE) == "", why


def test_a_rival_that_got_worse_is_no_promise() -> None:
    """Where the incumbent ended worse than it stood, what it lost is not expected of a candidate."""
    rival = tuple((10.0 * at, 1.0 + at / 100) for at in range(1, 11))
    assert hopeless(tuple((10.0 * at, 2.0) for at in range(1, 7)), rival, Direction.MINIMIZE)


@st.composite
def curves(draw: st.DrawFn) -> Curve:
    """Any readings of a run, some of them as those of real ones fall."""
    count = draw(st.integers(0, 40))
    steps = draw(st.lists(st.floats(0.1, 30), min_size=count, max_size=count))
    values = draw(st.lists(st.floats(-5, 5), min_size=count, max_size=count))
    slope = draw(st.sampled_from([0.0, 1.0, 20.0]))
    times = list(itertools.accumulate(steps))
    return tuple((at, value + slope / (1 + at)) for at, value in zip(times, values, strict=True))


@st.composite
def far_apart(draw: st.DrawFn) -> tuple[Curve, Curve]:
    """A candidate and a rival for which both answers of the rule are common."""
    points = draw(st.integers(5, 40))
    candidate = falling(draw(st.floats(0, 3)), speed=draw(st.floats(0.05, 2)), points=points)
    return candidate[: draw(st.integers(0, points))], falling(1.0, points=draw(st.integers(3, 40)))


PAIRS = far_apart() | st.tuples(curves(), curves())


@given(PAIRS)
def test_the_rule_is_symmetric_in_its_direction(pair: tuple[Curve, Curve]) -> None:
    """A metric to maximize is judged as its negative is to minimize."""
    curve, rival = pair
    judged = hopeless(mirrored(curve), mirrored(rival), Direction.MAXIMIZE)
    assert bool(judged) == bool(hopeless(curve, rival, Direction.MINIMIZE))


@given(curves(), st.lists(st.floats(0, 3), min_size=40, max_size=40), DIRECTIONS, st.integers(1, 40))
def test_what_is_never_worse_is_never_stopped(
    rival: Curve, gains: list[float], direction: Direction, length: int
) -> None:
    """A run that is as good as the incumbent, or better, at every time goes on."""
    sign = -1 if direction is Direction.MINIMIZE else 1
    curve = tuple((at, value + sign * gain) for (at, value), gain in zip(rival, gains, strict=False))
    assert hopeless(curve[:length], rival, direction) == ""


@given(PAIRS, st.floats(0, 10), DIRECTIONS)
def test_a_better_last_reading_never_stops(pair: tuple[Curve, Curve], gain: float, direction: Direction) -> None:
    """If a run goes on, it also goes on had its last reading been better."""
    curve, rival = pair if direction is Direction.MINIMIZE else (mirrored(pair[0]), mirrored(pair[1]))
    if curve and not hopeless(curve, rival, direction):
        at, value = curve[-1]
        improved = value - gain if direction is Direction.MINIMIZE else value + gain
        assert hopeless((*curve[:-1], (at, improved)), rival, direction) == ""


@given(PAIRS, DIRECTIONS)
def test_a_reading_better_than_the_incumbents_end_never_stops(pair: tuple[Curve, Curve], direction: Direction) -> None:
    """Whatever was before: a run that is now as good as the incumbent ended goes on."""
    curve, rival = pair
    if curve and rival:
        assert hopeless((*curve, (curve[-1][0] + 1, rival[-1][1])), rival, direction) == ""


# What is stopped at once


@pytest.mark.parametrize(
    "line",
    [
        "loss: nan\n",
        "Loss: NaN\r",
        "train/loss=inf\n",
        "train_loss: -inf\n",
        "training loss: Infinity\n",
        "\rstep 00012 (3.4%) | loss: nan | lrm: 1.00 | dt: 300ms",
        "Step 300 | Loss: nan, lr 1e-3\n",
        "step:12/100 train_loss:nan train_time:12ms\n",
        "lr 1e-3 loss: nan\n",
        "{'loss': nan, 'grad_norm': 1.0, 'epoch': 0.1}\n",
        '{"train/loss": NaN}\n',
        "  0%|  | 5/1563 [00:01<00:20, loss=nan]\n",
        "1563/1563 [====] - 5s 3ms/step - loss: nan - accuracy: 0.0100\n",
        "loss: tensor(nan, device='cuda:0')\n",
        "iter 10: loss nan, time 20ms\n",
        "step 250: train loss nan, val loss 3.2\n",
        "step 250: train loss 3.1, val loss nan\n",
        "val_bpb: nan\n",
        "  val_bpb:     inf\n",
        "val_loss: 3.1\nval_loss: nan\n",
        "step 1 | val_bpb: 1.2 | x\nstep 2 | val_bpb: nan | x\n",
        "total_loss: +inf \n",
    ],
)
def test_a_loss_that_is_not_finite_stops_at_once(bench: Bench, line: str) -> None:
    """NaN or infinity in the loss of the training, in the metric, or in a loss that was finite before."""
    assert not bench.look("starting\n")
    assert bench.look(line)
    assert "not finite" in bench.watch.stopped_because
    assert "\n" not in bench.watch.stopped_because
    assert not bench.watch.hopeless


@pytest.mark.parametrize(
    "line",
    [
        "loss: nanoseconds\n",
        "loss: info\n",
        "no loss: none\n",
        "no loss: nan\n",
        "loss: nan check is on\n",
        "loss: nan/inf are caught\n",
        "info: nan\n",
        "glossary=inf\n",
        "lossy: nan\n",
        "nan\n",
        "grad_norm: nan\n",
        "accuracy: nan\n",
        "best_loss: inf\n",
        "best loss: inf\n",
        "early stopping (best_val_loss=inf, patience=3)\n",
        "step 0 | loss: 5.1 | val_loss: nan | dt: 1ms\n",
        "step 0 | val_bpb: nan | dt: 1ms\n",
        "abort if loss nan, else go on\n",
        "warning: train loss nan, skipped\n",
        "loss: 1.5\n",
        "loss: nan",
        "loss: inf",
        "xval_bpb: nan\n",
    ],
)
def test_other_words_do_not_stop(bench: Bench, line: str) -> None:
    """What only looks like it goes on: other names, other words, placeholders, and a line that may be cut."""
    assert not bench.look(line)
    assert not bench.look("", after_s=10 * HANGING_S)
    assert bench.watch.stopped_because == ""


def test_a_line_cut_in_the_middle_is_read_when_it_is_whole(bench: Bench) -> None:
    """Neither `loss: inf` of `loss: info` nor `val_bpb: 1` of `val_bpb: 12` is taken for what it is not."""
    assert not bench.look("val_bpb: 1")
    assert bench.values == []
    assert not bench.look("2\nloss: inf")
    assert not bench.look("o\nlo")
    assert bench.look("ss: inf\n")
    assert bench.values == [12]


def test_a_pattern_may_read_what_is_not_finite(tmp_path: Path) -> None:
    """With `metric-pattern`, its group is the metric, and other groups that are no number are none."""
    bench = Bench(tmp_path, pattern=r"bpb (\S+)|(bits)")
    assert not bench.look("bits\nbpb 3.5 now\nbpb nanometres\n")
    assert bench.values == [3.5]
    assert bench.look("bpb NaN now\n")


DEATHS = [
    "RuntimeError: CUDA error: device-side assert triggered\n",
    "torch.AcceleratorError: CUDA error: an illegal memory access was encountered\nCUDA kernel errors might be\n",
    "[rank3]: RuntimeError: CUDA error: unspecified launch failure\n",
    "terminate called\n  what():  CUDA error: device-side assert triggered\n",
    "[rank0]:[E1218 20:27:21.4 ProcessGroupNCCL.cpp:629] [Rank 0] Watchdog caught collective operation timeout: Work\n",
    "[PG ID 0 PG GUID 0(default_pg) Rank 1] Watchdog caught collective operation timeout: WorkNCCL(SeqNum=1)\n",
    "torch.distributed.DistBackendError: NCCL error in: ../ProcessGroupNCCL.cpp:1970, unhandled system error\n",
    "RuntimeError: NCCL error: unhandled cuda error, NCCL version 2.7.8\n",
    "Fatal Python error: Segmentation fault\n",
    "run.sh: line 3:   812 Segmentation fault      (core dumped) python train.py\n",
    "Segmentation fault (core dumped)\n",
]


@pytest.mark.parametrize("line", DEATHS)
def test_a_process_that_hangs_after_a_fatal_error_is_stopped(bench: Bench, line: str) -> None:
    """Once it was silent for a while; before, it may still end by itself and say more."""
    assert not bench.look(line)
    assert not bench.look("Traceback of all threads\n", after_s=HANGING_S - 1)
    assert not bench.look("", after_s=HANGING_S - 1)
    assert bench.look("", after_s=1)
    assert bench.watch.stopped_because.startswith("hanging after its error: ")
    assert not bench.watch.hopeless


@pytest.mark.parametrize("line", DEATHS)
def test_a_run_that_goes_on_after_an_error_goes_on(bench: Bench, line: str) -> None:
    """A metric that is read after the error shows that the run survived it."""
    assert not bench.look(line)
    assert not bench.look("val_bpb: 1.5\n")
    assert not bench.look("", after_s=10 * HANGING_S)


@pytest.mark.parametrize(
    "line",
    [
        "hint: after `CUDA error: device-side assert triggered` set CUDA_LAUNCH_BLOCKING\n",
        "RuntimeError: CUDA error: out of memory\n",
        "we handle unhandled system error\n",
        "no Segmentation fault so far\n",
        "Watchdog caught collective operation timeout is what NCCL says\n",
    ],
)
def test_a_text_that_speaks_of_an_error_is_none(bench: Bench, line: str) -> None:
    """Only the form in which a library reports its error counts."""
    assert not bench.look(line)
    assert not bench.look("", after_s=10 * HANGING_S)


# The watch


def test_a_hopeless_run_is_stopped_by_its_curve(tmp_path: Path) -> None:
    """With a rival the metric lines are compared while they come, and the stop is the curve's."""
    bench = Bench(tmp_path, rival=falling(1.0))
    asked = [bench.look(f"val_bpb: {value}\nnum_steps: 3\n", after_s=5) for _, value in falling(1.5)[:10]]
    stopped = asked.index(True)
    assert 0.3 < bench.watch.curve[stopped][0] / 100 < 0.5
    assert bench.watch.hopeless
    assert bench.watch.stopped_because.startswith("hopeless after")


def test_without_a_rival_no_curve_is_judged(bench: Bench) -> None:
    """A bad metric alone is no reason."""
    assert not any(bench.look(f"val_bpb: {at}\n", after_s=5) for at in range(30))


def test_the_wish_of_a_person_comes_first(bench: Bench) -> None:
    """The wrapped interrupt is passed on, and it is no reason of the watch."""
    bench.interrupt.wished = True
    assert bench.look("loss: nan\n")
    assert bench.watch.stopped_because == ""


def test_a_stop_stays(bench: Bench) -> None:
    """Once there is a reason it is not looked for again."""
    assert bench.look("loss: nan\n")
    assert bench.look("loss: 1.0\nval_bpb: 1.0\n")
    assert bench.values == []


def test_time_starts_with_the_log(bench: Bench) -> None:
    """A log that is not there yet is waited for; the curve counts from when it was first seen."""
    assert not bench.watch.requested()
    bench.watch.finish()
    bench.clock += 50
    bench.look("", after_s=50)
    bench.look("val_bpb: 2\n", after_s=7)
    assert bench.watch.curve == ((7.0, 2.0),)


def test_between_two_looks_nothing_is_read(bench: Bench) -> None:
    """Executors ask ten times a second, the file is looked at less often."""
    bench.look()
    assert not bench.look("loss: nan\n", after_s=LOOK_EVERY_S / 2)
    assert bench.look("", after_s=LOOK_EVERY_S / 2)


def test_the_last_words_are_on_the_curve(bench: Bench) -> None:
    """`finish` adds what was printed after the last look, with or without a newline, and judges nothing."""
    bench.look("val_bpb: 2\n")
    with bench.log.open("a") as file:
        file.write("loss: nan\nval_bpb: 1")
    bench.clock += 3
    bench.watch.finish()
    assert bench.watch.curve[-1] == (3.0, 1.0)
    assert not bench.watch.requested()


@settings(max_examples=20)
@given(count=st.integers(0, 600))
def test_a_curve_is_thinned_evenly(tmp_path_factory: pytest.TempPathFactory, count: int) -> None:
    """At most MAX_POINTS points: the first, the last, and between them none that is missing twice as long as the others."""
    bench = Bench(tmp_path_factory.mktemp("curve"))
    bench.look()
    for index in range(count):
        bench.look(f"val_bpb: {index}\n")
    values = bench.values
    assert len(values) == min(count, MAX_POINTS) or MAX_POINTS // 2 <= len(values) <= MAX_POINTS
    if count:
        assert (values[0], values[-1]) == (0, count - 1)
        assert len({b - a for a, b in itertools.pairwise(values[:-1])}) <= 1


def test_a_log_that_loses_its_front_is_followed(tmp_path: Path) -> None:
    """The cap rewrites the file while it is watched: no reading is lost at its end, and no half line is read."""
    bench = Bench(tmp_path)
    values = []
    with CappedLog(bench.log, cap_bytes=4000) as log:
        for index in range(400):
            log.write(f"best_val_bpb: 0.5 {'x' * (index % 50)}\nval_bpb: {1000 - index}\n".encode())
            assert not bench.look()
            values.append(bench.values[-1])
    assert values == [1000 - index for index in range(400)]
    bench.look("loss: nan\n")
    assert bench.watch.stopped_because


def test_of_a_flood_only_the_end_is_read(bench: Bench) -> None:
    """Work per look is bounded, and what is skipped is never read as half a line."""
    assert not bench.look("loss: nan\n" + "x" * (3 * LOOK_BYTES) + "loss: nan\nval_bpb: 4\n")
    assert bench.values == [4]
    assert not bench.look("y" * (3 * LOOK_BYTES))
    assert not bench.look("val_bpb: 1\nval_bpb: 3\n")
    assert bench.values == [4, 3]


def test_where_a_flood_is_cut_no_half_line_is_read(bench: Bench) -> None:
    """`val_bpb: 1` that is the end of `best_val_bpb: 1` is no reading."""
    line = "val_bpb: 1\n"
    bench.look("best_" + line + "\n" * (LOOK_BYTES - len(line)))
    assert bench.values == []


def test_an_endless_line_costs_nothing(bench: Bench) -> None:
    """A line that never ends is not kept, and the next one is read again."""
    for _ in range(20):
        assert not bench.look("loss: x" * 1000)
    assert not bench.look(" | loss: nan | ")
    assert not bench.look("val_bpb: 1\n")
    assert bench.values == []
    assert bench.look("loss: nan\n")


@given(st.binary(max_size=300), st.lists(st.integers(0, 300), max_size=5))
def test_any_bytes_in_any_portions_are_read(
    tmp_path_factory: pytest.TempPathFactory, data: bytes, cuts: list[int]
) -> None:
    """Where portions begin does not change what is read, whatever the bytes are."""
    bench = Bench(tmp_path_factory.mktemp("bytes"))
    data += b"\nval_bpb: 2\nloss: nan\n"
    bench.log.touch()
    for start, end in itertools.pairwise([0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]):
        with bench.log.open("ab") as file:
            file.write(data[start:end])
        bench.look()
    assert bench.watch.stopped_because
    assert bench.values == [2.0]


# Real processes


def until(done: Callable[[], bool], timeout_s: float = 20.0) -> bool:
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if done():
            return True
        time.sleep(0.02)
    return False


def test_a_flood_of_a_real_process_is_watched_cheaply(tmp_path: Path) -> None:
    """A child that writes without pause is followed to its NaN, and looking costs a small share of the time."""
    log = tmp_path / "run.log"
    program = "import sys\nfor i in range(150000): print('step', i, '| loss: 2.5 | ' + 'x' * 60)\nprint('loss: nan')"
    watch = Watch(Interrupt(), log, "val_bpb", direction=Direction.MINIMIZE)
    began, cpu = time.monotonic(), time.thread_time()
    with log.open("wb") as file, subprocess.Popen([sys.executable, "-c", program], stdout=file) as child:
        assert until(watch.requested)
        child.wait(20)
    assert time.thread_time() - cpu < 0.5 * (time.monotonic() - began) + 1
    assert watch.stopped_because == "the loss is not finite: loss: nan"


def test_a_log_written_by_a_thread_is_followed(tmp_path: Path) -> None:
    """While CappedLog shortens the file in another thread, the watch reads on to the end."""
    path = tmp_path / "run.log"
    watch = Watch(Interrupt(), path, "val_bpb", direction=Direction.MINIMIZE)

    def write() -> None:
        with CappedLog(path, cap_bytes=20_000) as log:
            for index in range(20_000):
                log.write(f"val_bpb: {index}\n".encode())
            log.write(b"loss: nan\n")

    writer = threading.Thread(target=write)
    writer.start()
    assert until(watch.requested)
    writer.join(20)
    values = [value for _, value in watch.curve]
    assert values == sorted(values)


@pytest.mark.skipif(sys.platform == "win32", reason="the native executor's tests are for POSIX")
@pytest.mark.parametrize(
    ("script", "stopped", "is_hopeless"),
    [
        ("print('loss: nan')\ntime.sleep(60)", "the loss is not finite: loss: nan", False),
        ("print('\\rstep 1 | loss: nan | lrm: 1.00', end='', flush=True)\ntime.sleep(60)", "the loss is", False),
        ("for i in range(200): print(f'val_bpb: {9 - i / 1000}'); time.sleep(0.3)", "hopeless after", True),
    ],
)
def test_a_real_run_is_stopped_early(tmp_path: Path, script: str, stopped: str, is_hopeless: bool) -> None:
    """A script that would sleep for a minute is stopped within seconds, by the executor, through its interrupt."""
    tree, cache = tmp_path / "tree", tmp_path / "cache"
    tree.mkdir()
    cache.mkdir()
    (tree / "train.py").write_text(textwrap.dedent(f"import time\n{script}\n"))
    log = tmp_path / "run.log"
    rival = tuple((second / 2, 1 + 1 / second) for second in range(1, 13))
    watch = Watch(Interrupt(), log, "val_bpb", direction=Direction.MINIMIZE, rival=rival)
    request = RunRequest(
        name="nov22-0001-1",
        tree=tree,
        script="train.py",
        command="python -u train.py",
        variables={},
        timeout_s=60.0,
        log=log,
    )
    with NativeExecutor(
        scratch=tmp_path / "scratch", cache=cache, memory=None, python=Path(sys.executable)
    ) as executor:
        run = executor.run(request, watch)
    assert run.ending is Ending.INTERRUPTED
    assert run.wall_s < 20
    assert watch.stopped_because.startswith(stopped)
    assert watch.hopeless is is_hopeless
