"""The tasks of `nox -s bench-search`: training scripts whose knobs `find_knobs` sees, and what a setting of the knobs gives.

Lower is better in all of them. Five are functions of the knobs on their own scales (one natural step is 1), evaluated directly and not by
running the script; where their best lies is drawn from the seed, a few steps from the script's own values. The others are real
trainings, made by executing the script's text in this process, and repeat exactly. The starter gets a fixed amount of
computation instead of seconds (`starter_text` says what is patched), so that a bigger model or batch means fewer steps, as in a session.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import io
import math
import os
import random
import sys
import types
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import autoresearch_ci
from autoresearch_ci.knobs import Knob, Value, find_knobs, set_knobs

Values = Mapping[str, Value]
STARTER = Path(autoresearch_ci.__file__).parent / "starter"


@dataclass(frozen=True)
class Outcome:
    """What a run gives: its reading (None for a crash), and the same without noise."""

    reading: float | None
    truth: float | None


@dataclass(frozen=True)
class Task:
    """A script; `prepared(seed)` gives the training: the values of the knobs and the number of the run → outcome.

    `optimum`: the loss of the best setting, None where nobody knows it.
    """

    name: str
    script: str
    prepared: Callable[[int], Callable[[Values, int], Outcome]]
    optimum: float | None = None
    held_out: bool = False


@dataclass(frozen=True)
class Landscape:
    """A function of the knobs: `knobs` by name, and where the best of each lies for this seed, on the knob's own scale."""

    knobs: Mapping[str, Knob]
    best: Mapping[str, float]

    def away(self, values: Values, name: str) -> float:
        """How many steps a knob is from its best value; 1 for the wrong choice."""
        knob = self.knobs[name]
        place = knob.coordinate(values[name])
        return float(place != self.best[name]) if knob.options else place - self.best[name]


def landscape(name: str, script: str, seed: int, spread: float = 2.0) -> Landscape:
    chance = random.Random(f"{name} {seed}")
    knobs = {knob.name: knob for knob in find_knobs(script)}
    best: dict[str, float] = {}
    for knob in knobs.values():
        if knob.options:
            best[knob.name] = float(chance.randrange(len(knob.options)))
            continue
        place = knob.coordinate(knob.value) + chance.gauss(0, spread)
        best[knob.name] = min(max(place, knob.coordinate(knob.low)), knob.coordinate(knob.high))
        if not isinstance(knob.value, float):
            best[knob.name] = knob.coordinate(knob.at(best[knob.name]))  # a whole number
    return Landscape(knobs, best)


# --- functions --------------------------------------------------------------------------------------------------------

VALLEY = """\
LEARNING_RATE = 0.02
BATCH_SIZE = 128
DEPTH = 6
WIDTH = 256
WEIGHT_DECAY = 0.1
BETA2 = 0.95
DROPOUT = 0.1
WARMUP_FRACTION = 0.2
train(LEARNING_RATE, BATCH_SIZE, DEPTH, WIDTH, WEIGHT_DECAY, BETA2, DROPOUT, WARMUP_FRACTION)
"""


def _valley(at: Landscape, values: Values) -> float:
    """A bowl in which the best learning rate depends on batch, depth and decay, and the best depth on the width."""
    away = functools.partial(at.away, values)
    rate = away("LEARNING_RATE") - 0.5 * away("BATCH_SIZE") + 0.5 * away("DEPTH") - 0.3 * away("WEIGHT_DECAY")
    size = away("DEPTH") + away("WIDTH")
    rest = 0.3 * away("WEIGHT_DECAY") ** 2 + 0.3 * away("BETA2") ** 2 + 0.1 * away("DROPOUT") ** 2
    rest += 0.1 * away("WARMUP_FRACTION") ** 2 + 0.3 * away("BATCH_SIZE") ** 2 + 0.2 * away("DEPTH") ** 2
    return math.log1p(rate**2 + 0.5 * size**2 + rest)


def _function(
    name: str,
    script: str,
    loss: Callable[[Landscape, Values], float | None],
    *,
    noise: float = 0.0,
    spread: float = 2.0,
    held_out: bool = False,
) -> Task:
    """`noise`: standard deviation of a reading, as a share of the baseline's loss."""

    def prepared(seed: int) -> Callable[[Values, int], Outcome]:
        at = landscape(name, script, seed, spread)
        start = loss(at, {knob.name: knob.value for knob in at.knobs.values()})
        assert start is not None

        def run(values: Values, number: int) -> Outcome:
            truth = loss(at, values)
            chance = random.Random(f"{name} {seed} {number}").gauss(0, noise * start)
            return Outcome(None if truth is None else truth + chance, truth)

        return run

    return Task(name, script, prepared, 0.0, held_out)


def _cliff(at: Landscape, values: Values) -> float | None:
    """The valley with a brink beside the best: a higher rate or a deeper model than that diverges."""
    if at.away(values, "LEARNING_RATE") + 0.5 * at.away(values, "DEPTH") > _brink(at):
        return None
    return _valley(at, values)


def _brink(at: Landscape) -> float:
    start = {knob.name: knob.value for knob in at.knobs.values()}
    return 0.5 + max(0.0, at.away(start, "LEARNING_RATE") + 0.5 * at.away(start, "DEPTH"))


CONDITIONAL = """\
OPTIMIZER = "adamw"
LEARNING_RATE = 1e-3
MOMENTUM = 0.9
BETA2 = 0.95
WEIGHT_DECAY = 0.1
USE_DROPOUT = False
DROPOUT = 0.1
WIDTH = 128
train(OPTIMIZER, LEARNING_RATE, MOMENTUM, BETA2, WEIGHT_DECAY, USE_DROPOUT, DROPOUT, WIDTH)
use(OPTIMIZER, "adamw", "sgd", "lion")
"""


def _conditional(at: Landscape, values: Values) -> float:
    """SGD is best, with a higher rate and with momentum, which nothing else uses; beta2 is AdamW's; dropout can be off."""
    away = functools.partial(at.away, values)
    rate = away("LEARNING_RATE")
    match values["OPTIMIZER"]:
        case "sgd":
            own = 0.5 * (rate - 3) ** 2 + 0.7 * away("MOMENTUM") ** 2
        case "adamw":
            own = 2 + 0.5 * rate**2 + 0.4 * away("BETA2") ** 2
        case _:
            own = 3 + 0.5 * (rate + 3) ** 2
    dropout = 0.3 * away("DROPOUT") ** 2 if values["USE_DROPOUT"] else 1.5
    return math.log1p(own + dropout + 0.4 * away("WEIGHT_DECAY") ** 2 + 0.4 * away("WIDTH") ** 2)


SPARSE = """\
EMBEDDING_LR = 0.6
MATRIX_LR = 0.04
SCALAR_LR = 0.5
WEIGHT_DECAY = 0.2
ADAM_BETAS = (0.8, 0.95)
WARMUP_RATIO = 0.1
WARMDOWN_RATIO = 0.5
FINAL_LR_FRAC = 0.05
DEPTH = 8
ASPECT_RATIO = 64
HEAD_DIM = 128
TOTAL_BATCH_SIZE = 2**19
DEVICE_BATCH_SIZE = 32
SOFTCAP = 15
DROPOUT = 0.0
GRAD_CLIP = 1.0
ACTIVATION = "relu"
train(EMBEDDING_LR, MATRIX_LR, SCALAR_LR, WEIGHT_DECAY, ADAM_BETAS, WARMUP_RATIO, WARMDOWN_RATIO, FINAL_LR_FRAC, DEPTH)
train(ASPECT_RATIO, HEAD_DIM, TOTAL_BATCH_SIZE, DEVICE_BATCH_SIZE, SOFTCAP, DROPOUT, GRAD_CLIP)
use(ACTIVATION, "relu", "gelu", "silu")
"""


def _sparse(at: Landscape, values: Values) -> float:
    """Of karpathy's many knobs four matter, which ones differs from seed to seed; with a few ripples on the way."""
    numbers = sorted(name for name, knob in at.knobs.items() if not knob.options)
    matter = random.Random(str(sorted(at.best.items()))).sample(numbers, 4)
    steps = [at.away(values, name) for name in matter]
    return sum(abs(s) + 0.2 * (1 - math.cos(3 * s)) for s in steps) + 0.5 * at.away(values, "ACTIVATION")


# --- trainings --------------------------------------------------------------------------------------------------------

DIGITS = """\
from sklearn.datasets import load_digits
from sklearn.metrics import log_loss
from sklearn.neural_network import MLPClassifier

WIDTH = 32
ACTIVATION = "relu"
OPTIMIZER = "adam"
LEARNING_RATE = 3e-4
BATCH_SIZE = 64
BETA1 = 0.9
BETA2 = 0.999
MOMENTUM = 0.9
WEIGHT_DECAY = 1e-4
EPSILON = 1e-8

images, labels = load_digits(return_X_y=True)
order = __import__("numpy").random.RandomState(SEED).permutation(len(labels))
images, labels = images[order] / 16, labels[order]
assert ACTIVATION in ("relu", "tanh") and OPTIMIZER in ("adam", "sgd")
model = MLPClassifier(
    hidden_layer_sizes=(WIDTH,), activation=ACTIVATION, solver=OPTIMIZER, learning_rate_init=LEARNING_RATE, alpha=WEIGHT_DECAY,
    batch_size=BATCH_SIZE, beta_1=BETA1, beta_2=BETA2, momentum=MOMENTUM, epsilon=EPSILON, max_iter=10, random_state=SEED,
)
model.fit(images[:600], labels[:600])
val_loss = log_loss(labels[1000:], model.predict_proba(images[1000:]), labels=range(10))
print(f"val_loss: {val_loss:.6f}")
"""

DIABETES = """\
from sklearn.datasets import load_diabetes
from sklearn.ensemble import GradientBoostingRegressor

LEARNING_RATE = 0.3
DEPTH = 4
TREES = 40
SUBSAMPLE = 1.0
LEAF_SIZE = 1
SPLIT_SIZE = 2
FEATURE_FRACTION = 1.0
HUBER_ALPHA = 0.9
PRUNING_PENALTY = 1e-3

people, disease = load_diabetes(return_X_y=True)
order = __import__("numpy").random.RandomState(SEED).permutation(len(disease))
people, disease = people[order], disease[order]
model = GradientBoostingRegressor(
    learning_rate=LEARNING_RATE, max_depth=DEPTH, n_estimators=TREES, subsample=SUBSAMPLE, min_samples_leaf=LEAF_SIZE,
    min_samples_split=SPLIT_SIZE, max_features=FEATURE_FRACTION, alpha=HUBER_ALPHA, loss="huber",
    ccp_alpha=PRUNING_PENALTY, random_state=SEED,
)
model.fit(people[:250], disease[:250])
val_loss = float(abs(model.predict(people[250:]) - disease[250:]).mean())
print(f"val_loss: {val_loss:.6f}")
"""

FLOPS = 1e10  # what a run of the starter may compute: a dozen steps of the untouched script


def starter_text() -> str:
    """The starter's script, paying for its steps in floating point operations and not in seconds.

    6 for each parameter and token, and as much again as a small model's step takes for what is not arithmetic. A step that
    takes more than an eighth of all is out of memory. One thread, and a shorter evaluation (in `_prepare`).
    """
    text = (STARTER / "train.py").read_text()
    for old, new in (
        ("    training_seconds += time.time() - began\n", "    training_seconds += COST\n"),
        ("torch.set_num_threads(max(1, (os.cpu_count() or 1) // 2))\n", "torch.set_num_threads(1)\n"),
        (
            "step, training_seconds, smooth_loss = 0, 0.0, 0.0\n",
            "COST = (6 * sum(p.numel() for p in model.parameters()) * BATCH_SIZE * SEQUENCE_LENGTH + 1e8) / FLOPS\n"
            "if COST > 1 / 8:\n    raise MemoryError\n"
            "step, training_seconds, smooth_loss = 0, 0.0, 0.0\n",
        ),
    ):
        assert text.count(old) == 1
        text = text.replace(old, new)
    return text


@functools.cache
def _prepare() -> types.ModuleType:
    """The starter's prepare.py, with a sixth of its evaluation, and its corpus made once."""
    spec = importlib.util.spec_from_file_location("prepare", STARTER / "prepare.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    made: Any = module
    made.EVALUATION_SEQUENCES = 64
    made.corpus = functools.cache(made.corpus)
    return module


def _training(name: str, script: str, metric: str, *, held_out: bool = False) -> Task:
    """A script that is executed here: SEED is given to it, and what it leaves in `metric` is its loss."""
    knobs = find_knobs(script)

    def prepared(seed: int) -> Callable[[Values, int], Outcome]:
        def run(values: Values, number: int) -> Outcome:
            loss = executed(set_knobs(script, values, knobs), metric, seed)
            return Outcome(loss, loss)

        return run

    return Task(name, script, prepared, None, held_out)


def executed(text: str, metric: str, seed: int) -> float | None:
    """What the script left in `metric`; None when it crashed, whatever of, or that is no number."""
    os.environ |= {"AUTORESEARCH_TIME_BUDGET": "1", "AUTORESEARCH_SEED": str(seed), "AUTORESEARCH_DEVICE": "cpu"}
    sys.modules["prepare"] = _prepare()
    space: dict[str, Any] = {"__name__": "script", "SEED": seed, "FLOPS": FLOPS}
    with contextlib.redirect_stdout(io.StringIO()):
        try:
            exec(compile(text, "train.py", "exec"), space)  # our own script
        except (Exception, SystemExit):  # noqa: BLE001 - whatever it is, it is a crash
            return None
    loss = float(space[metric])
    return loss if math.isfinite(loss) else None


TASKS = (
    _training("starter", starter_text(), "val_bpb"),
    _function("valley", VALLEY, _valley),
    _function("noise", VALLEY, _valley, noise=0.05),
    _function("cliff", VALLEY, _cliff),
    _function("conditional", CONDITIONAL, _conditional),
    _training("digits", DIGITS, "val_loss"),
    _function("sparse", SPARSE, _sparse, held_out=True),
    _training("diabetes", DIABETES, "val_loss", held_out=True),
)
