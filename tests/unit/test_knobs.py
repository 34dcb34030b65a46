"""The tunable literals of a script: which there are, what they may become, and that nothing else changes."""

from __future__ import annotations

import ast
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoresearch_ci.experiment import Category
from autoresearch_ci.knobs import Knob, Value, find_knobs, halve_batch, set_knobs
from autoresearch_ci.knobs.rules import Kind

KARPATHY = '''\
"""Pretraining, in the manner of karpathy/autoresearch — é."""
import torch, torch.nn as nn, torch.nn.functional as F
from dataclasses import dataclass

@dataclass
class GPTConfig:
    n_layer: int = 12
    n_embd: int = 768
    window_pattern: str = "SSSL"

class MLP(nn.Module):
    def __init__(self, config):
        self.c_fc = nn.Linear(config.n_embd, 4 * config.n_embd, bias=False)
        self.c_proj = nn.Linear(4 * config.n_embd, config.n_embd, bias=False)

    def forward(self, x):
        return self.c_proj(F.relu(self.c_fc(x)).square().mean(dim=1))

class GPT(nn.Module):
    def init(self):
        torch.nn.init.normal_(self.wte.weight, mean=0.0, std=0.02)
        self.register(softcap=15)

    def setup_optimizer(self, matrix_lr=0.02, scalar_lr=0.5, adam_betas=(0.8, 0.95)):
        return [dict(kind="adamw", lr=matrix_lr, betas=adam_betas, eps=1e-10, momentum=0.95)]

# Model architecture
ASPECT_RATIO = 64       # model_dim = depth * ASPECT_RATIO
HEAD_DIM = 128          # target head dimension for attention
WINDOW_PATTERN = "SSSL" # S=half context

# Optimization
TOTAL_BATCH_SIZE = 2**19 # ~524K tokens per optimizer step
MATRIX_LR = 0.04        # (Muon)
WEIGHT_DECAY = 0.0
ADAM_BETAS = (0.8, 0.95) # Adam beta1, beta2
WARMUP_RATIO = 0.0
USE_ROPE = True
DEPTH = 8               # number of transformer layers
DEVICE_BATCH_SIZE = 128  # reduce if OOM
EVAL_BATCH_SIZE = 64
TIME_BUDGET = 300
SEED = 42
GROUPS = -1
UNUSED_WIDTH = 64

torch.manual_seed(SEED)
config = GPTConfig(n_layer=DEPTH, n_embd=ASPECT_RATIO, window_pattern=WINDOW_PATTERN)
GPT(config).setup_optimizer(matrix_lr=MATRIX_LR, adam_betas=ADAM_BETAS)
use(HEAD_DIM, TOTAL_BATCH_SIZE, WEIGHT_DECAY, WARMUP_RATIO, USE_ROPE, DEVICE_BATCH_SIZE)
use(EVAL_BATCH_SIZE, TIME_BUDGET, GROUPS)
step = 0
while True:
    step += 1
'''
MNIST = """\
import argparse
from torch import nn, optim

ACTS = {"relu": 1, "gelu": 2}


class Net(nn.Module):
    def __init__(self, hidden=128, dropout=0.1, activation="relu", depth=2):
        self.a = nn.Sequential(nn.Linear(64, hidden), nn.ReLU(), nn.Dropout(0.25), nn.ReLU())
        self.b = nn.TransformerEncoderLayer(d_model=64, nhead=4, dim_feedforward=256, activation='relu')
        self.act = make(act_layer=nn.GELU)


def evaluate(model, batch_size=512):
    lr = 3e-4
    return DataLoader(model, batch_size=1000), lr


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument('--batch-size', '-b', type=int, default=64, metavar='N')
    parser.add_argument("--accum-steps", type=int, default=2)
    parser.add_argument('--test-batch-size', type=int, default=1000)
    parser.add_argument('--epochs', type=int, default=3)
    parser.add_argument('--lr', type=float, default=1)
    parser.add_argument('--use-skip', action='store_true', default=False)
    parser.add_argument('--nothing')
    args = parser.parse_args()
    warmup_steps = 4 * 1024
    width: int = 1_024
    count_layers = 0
    count_layers += 1
    for depth in range(3):
        loader = DataLoader(test_set, batch_size=1000)
        loader = DataLoader(train_set, batch_size=(0x20))
    model = Net(hidden=width, depth=4)
    optimizer = optim.Adam(model.parameters(), lr=3e-4, betas=(0.9, 0.999), weight_decay=0)
    second = optim.AdamW(model.parameters(), 1E-3, amsgrad=True)
    third = optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    group = {"params": [], "lr": 1e-2, "seed": 7}
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    return warmup_steps, optimizer, second, third, loader, group
"""


def by_name(script: str) -> dict[str, Knob]:
    return {knob.name: knob for knob in find_knobs(script)}


def test_upstream() -> None:
    """In a script in upstream's manner the knobs are its constants and literals, and nothing that is measured by."""
    assert list(by_name(KARPATHY)) == [
        "MLP.expansion",
        "MLP.activation",
        "normal_.std",
        "setup_optimizer.scalar_lr",
        "dict.eps",
        "dict.momentum",
        "ASPECT_RATIO",
        "HEAD_DIM",
        "WINDOW_PATTERN",
        "TOTAL_BATCH_SIZE",
        "MATRIX_LR",
        "WEIGHT_DECAY",
        "ADAM_BETAS.beta1",
        "ADAM_BETAS.beta2",
        "WARMUP_RATIO",
        "USE_ROPE",
        "DEPTH",
        "DEVICE_BATCH_SIZE",
    ]


def test_ordinary() -> None:
    """In an ordinary script: defaults that no call overrides, options, and arguments of optimizers and layers."""
    assert list(by_name(MNIST)) == [
        "Net.dropout",
        "Net.activation",
        "Net.activation#2",
        "Dropout.p",
        "TransformerEncoderLayer.dim_feedforward",
        "TransformerEncoderLayer.activation",
        "Net.activation#3",
        "batch_size",
        "accum_steps",
        "lr",
        "use_skip",
        "main.warmup_steps",
        "main.width",
        "DataLoader.batch_size",
        "Net.depth",
        "main.optimizer",
        "Adam.lr",
        "Adam.betas.beta1",
        "Adam.betas.beta2",
        "Adam.weight_decay",
        "main.optimizer#2",
        "AdamW.lr",
        "SGD.lr",
        "SGD.momentum",
        "lr#2",
        "clip_grad_norm_.max_norm",
    ]


@pytest.mark.parametrize(
    ("name", "kind", "category", "low", "high"),
    [
        ("MATRIX_LR", Kind.LOG, Category.OPTIMIZER, 0.04 / 30, 1.2),
        ("WEIGHT_DECAY", Kind.LOG, Category.OPTIMIZER, 0.05 / 30, 1.5),
        ("ADAM_BETAS.beta2", Kind.DECAY, Category.OPTIMIZER, 0.5, 0.9999),
        ("WARMUP_RATIO", Kind.UNIT, Category.OPTIMIZER, 0, 1),
        ("TOTAL_BATCH_SIZE", Kind.DOUBLING, Category.TRAINING, 2**17, 2**21),
        ("DEPTH", Kind.INTEGER, Category.ARCHITECTURE, 2, 32),
        ("USE_ROPE", Kind.BOOLEAN, Category.ARCHITECTURE, 0, 1),
        ("MLP.activation", Kind.CHOICE, Category.ARCHITECTURE, 0, 1),
    ],
)
def test_kinds(name: str, kind: Kind, category: Category, low: float, high: float) -> None:
    """Each kind of literal has its own scale and range."""
    knob = by_name(KARPATHY)[name]
    assert (knob.kind, knob.category) == (kind, category)
    assert (knob.low, knob.high) == pytest.approx((low, high))


@pytest.mark.parametrize(
    ("script", "name", "value", "old", "new"),
    [
        (KARPATHY, "TOTAL_BATCH_SIZE", 2**20, "2**19 #", "2**20 #"),
        (KARPATHY, "TOTAL_BATCH_SIZE", 3 * 2**18, "2**19 #", "786432 #"),
        (KARPATHY, "ADAM_BETAS.beta2", 0.98, "(0.8, 0.95) #", "(0.8, 0.98) #"),
        (KARPATHY, "WINDOW_PATTERN", "SL", '"SSSL" #', '"SL" #'),
        (KARPATHY, "USE_ROPE", False, "USE_ROPE = True", "USE_ROPE = False"),
        (KARPATHY, "MLP.activation", "gelu", "F.relu(self.c_fc(x)).square()", "F.gelu(self.c_fc(x))"),
        (KARPATHY, "MLP.expansion", 6, "4 * ", "6 * "),
        (KARPATHY, "dict.eps", 1e-8, "eps=1e-10", "eps=1e-8"),
        (MNIST, "main.warmup_steps", 2048, "4 * 1024", "2 * 1024"),
        (MNIST, "main.warmup_steps", 100, "4 * 1024", "100"),
        (MNIST, "main.width", 2048, "1_024", "2_048"),
        (MNIST, "DataLoader.batch_size", 64, "(0x20)", "(64)"),
        (MNIST, "lr", 0.5, "default=1)", "default=0.5)"),
        (MNIST, "AdamW.lr", 2.5e-3, "1E-3", "2.5e-3"),
        (MNIST, "main.optimizer", "NAdam", "optim.Adam(", "optim.NAdam("),
        (MNIST, "Net.activation#2", "SiLU", "nn.ReLU()", "nn.SiLU()"),
        (MNIST, "TransformerEncoderLayer.activation", "gelu", "activation='relu')", "activation='gelu')"),
    ],
)
def test_style(script: str, name: str, value: Value, old: str, new: str) -> None:
    """A new value is written in the style of the old one, at every place that holds it, and nowhere else."""
    assert set_knobs(script, {name: value}) == script.replace(old, new)


def test_relu_squared() -> None:
    """ReLU² is written as `.square()` behind the call, nested calls included."""
    script = "import torch.nn.functional as F\ny = F.relu(F.relu(x))\nz = F.relu(x, inplace=True)\n"
    changed = set_knobs(script, {"activation": "relu2"})
    assert changed == script.replace("F.relu(F.relu(x))", "F.relu(F.relu(x).square()).square()")
    assert set_knobs(changed, {"activation": "relu"}) == script


def test_choices() -> None:
    """Choices are what can stand in the same place: strings the script knows, optimizers with the same arguments."""
    knobs = by_name(MNIST)
    assert knobs["Net.activation"].choices == ("relu", "gelu")
    assert knobs["main.optimizer"].choices == ("Adam", "AdamW", "NAdam", "RAdam")
    assert knobs["main.optimizer#2"].choices == ("Adam", "AdamW")
    with pytest.raises(ValueError, match="cannot be 'tanh'"):
        set_knobs(MNIST, {"Net.activation": "tanh"})
    with pytest.raises(KeyError):
        set_knobs(MNIST, {"no_such": 1})


def test_scope() -> None:
    """`scope` limits the knobs: by category, or to the numbers."""
    knobs = find_knobs(KARPATHY)
    assert all(knob.in_scope("all") for knob in knobs)
    assert {knob.category for knob in knobs if knob.in_scope("optimizer")} == {Category.OPTIMIZER}
    assert {knob.category for knob in knobs if knob.in_scope("architecture")} == {Category.ARCHITECTURE}
    assert {knob.name for knob in knobs if not knob.in_scope("hyperparameters")} == {
        "MLP.activation",
        "WINDOW_PATTERN",
        "USE_ROPE",
    }


@pytest.mark.parametrize(
    ("script", "old", "new"),
    [
        (KARPATHY, "DEVICE_BATCH_SIZE = 128", "DEVICE_BATCH_SIZE = 64"),
        ("batch_size = 8\nuse(batch_size)\n", "= 8", "= 4"),
        ("TOTAL_BATCH_SIZE = 2 ** 3\nuse(TOTAL_BATCH_SIZE)\n", "2 ** 3", "2 ** 2"),
    ],
)
def test_halve_batch(script: str, old: str, new: str) -> None:
    """Out of memory: the batch per device is halved, the total one is kept where there are both."""
    assert halve_batch(script) == script.replace(old, new)


def test_halve_batch_accumulates() -> None:
    """Where gradients are accumulated by a constant, that is doubled, so that a step sees as much as before."""
    halved = halve_batch(MNIST)
    assert halved == MNIST.replace("default=64", "default=32").replace("default=2)", "default=4)")


@pytest.mark.parametrize("script", ["lr = 0.1\nuse(lr)\n", "batch_size = 1\nuse(batch_size)\n", "def (", ""])
def test_nothing_to_halve(script: str) -> None:
    """Nothing to halve is a value, not an error."""
    assert halve_batch(script) is None


@pytest.mark.parametrize(
    "line",
    [
        "lr = -1",
        "lr = 10**400",
        "lr = 2**0.5**-1000",
        "lr = (-8)**0.5",
        "lr = 1/0",
        "lr = 1e400",
        "lr = 0x" + "f" * 40,
        "lr = 1j",
        "lr = ~1",
        "lr = x + 1",
        "lr = 1 @ 2",
        "beta = 1.5",
        "beta = (1 << 62)",
        "dropout = 2.0",
        "batch_size = 0",
        "batch_size = 1.5",
        "depth = 2.5",
        "flag = 1",
        "x = 5",
        "use_cuda = True",
        "num_epochs = 10",
        "a.lr = 0.1",
        "lr = other_lr = 0.1",
        "lr: float",
        "name_lr = 0.1",
        "activation = 'unheard'",
        "activation = b'relu'",
    ],
)
def test_no_knob(line: str) -> None:
    """Sentinels, budgets, machines, sizes that do not fit their name and values that are not plain are no knobs."""
    names = "lr, beta, dropout, batch_size, depth, flag, x, use_cuda, num_epochs, name_lr, activation"
    assert find_knobs(f"{line}\nuse({names})") == ()


@pytest.mark.parametrize(
    "script",
    [
        "lr = 0.1\nlr = 0.2\nuse(lr)",
        "lr = 0.1\ndef f():\n    global lr\nuse(lr)",
        "lr = 0.1\n(lr := 2)\nuse(lr)",
        "lr = 0.1\nfor lr in []: use(lr)",
        "lr = 0.1\n[a, (lr, b)] = use(lr)",
        "def f(lr=0.1): pass\nf(2)",
        "def f(*, lr=0.1): pass\nf(lr=x)",
        "class Net:\n    lr = 0.1\nuse(lr)",
    ],
)
def test_variables(script: str) -> None:
    """A name that is assigned again, or a default that every call overrides, is no knob."""
    assert find_knobs(script) == ()


@pytest.mark.parametrize(
    ("script", "value"),
    [
        ("lr = +0.5\nuse(lr)", 0.5),
        ("lr = 1 / 4\nuse(lr)", 0.25),
        ("lr = 9 // 4 - 1 + 0.5\nuse(lr)", 1.5),
        ("batch_size = 1 << 5\nuse(batch_size)", 32),
        ("class Config:\n    capacity = 64\nuse(capacity)", 64),
        ("mlp_ratio = 0.5\nuse(mlp_ratio)", 0.5),
        ("capacity_factor = 1.25\nuse(capacity_factor)", 1.25),
        ("warmup_steps = 0\nuse(warmup_steps)", 0),
        ("lr: int = 3\nuse(lr)", 3),
        ("if __name__ == '__main__':\n    lr = 0.1\n    use(lr)", 0.1),
    ],
)
def test_value(script: str, value: float) -> None:
    """Simple arithmetic on constants is evaluated; the value always lies in the range, or is 0 for what is off."""
    (knob,) = find_knobs(script)
    assert knob.value == value
    assert knob.low <= value <= knob.high


def test_not_python() -> None:
    """A text that libcst cannot read has no knobs."""
    assert find_knobs("def f(:") == find_knobs("x = '\ud800'") == ()


def test_byte_order_mark() -> None:
    """A byte order mark and Windows line ends stay."""
    script = "\ufefflr = 0.1  # é\r\nuse(lr)\r\n"
    assert set_knobs(script, {"lr": 0.2}) == script.replace("0.1", "0.2")


USED = [line.split(" ")[0] for line in KARPATHY.splitlines() if re.match("[A-Z_]+ = ", line)]
FRAGMENTS = (*re.split(r"\n(?=\S)", KARPATHY), *re.split(r"\n(?=\S)", MNIST))


@st.composite
def changes(draw: st.DrawFn) -> tuple[str, tuple[Knob, ...], dict[str, Value]]:
    """A script, its knobs and new values for some of them."""
    script = "\n".join(draw(st.lists(st.sampled_from(FRAGMENTS), max_size=12))) + f"\nuse({', '.join(USED)})\n"
    knobs = find_knobs(script)
    chosen = draw(st.lists(st.sampled_from(knobs), unique_by=lambda knob: knob.name)) if knobs else []
    return script, knobs, {knob.name: knob.at(draw(st.floats(-60, 60))) for knob in chosen}


def parses(script: str) -> bool:
    try:
        ast.parse(script)
    except SyntaxError:
        return False
    return True


@settings(max_examples=60)
@given(changes())
def test_only_the_literals(change: tuple[str, tuple[Knob, ...], dict[str, Value]]) -> None:
    """Any values give a script that parses, has these values, and is as it was in every other byte."""
    script, knobs, values = change
    changed = set_knobs(script, values, knobs)
    if parses(script):
        ast.parse(changed)
    data, position, pattern = script.encode(), 0, b""
    for start, end in sorted((s.start, s.end) for knob in knobs if knob.name in values for s in knob.sites):
        pattern += re.escape(data[position:start]) + rb"[^\n]*?"
        position = end
    assert re.fullmatch(pattern + re.escape(data[position:]), changed.encode())
    if any(isinstance(value, str) for value in values.values()):
        return  # another optimizer or activation gives the knobs beside it other names
    numbers = {knob.name: knob.value for knob in find_knobs(changed)}
    for name, value in values.items():
        if isinstance(value, float) and value:
            assert numbers.get(name, value) == pytest.approx(value)


@given(st.sampled_from(find_knobs(KARPATHY + MNIST)), st.floats(-2000, 2000))
def test_scale(knob: Knob, coordinate: float) -> None:
    """Any place on a knob's scale gives a value in its range that lies at that value's own place."""
    value = knob.at(coordinate)
    if knob.options:
        assert value in knob.options
    else:
        assert knob.low * 0.94 <= float(value) <= knob.high * 1.06 or (value == 0 and knob.zero)
    assert knob.at(knob.coordinate(value)) == value


@settings(max_examples=60)
@given(st.lists(st.sampled_from([line for part in FRAGMENTS for line in part.splitlines()]), max_size=20))
def test_never_raises(lines: list[str]) -> None:
    """Finding knobs raises for no text, Python or not."""
    assert isinstance(find_knobs("\n".join(lines)), tuple)
