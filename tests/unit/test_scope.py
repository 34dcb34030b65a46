"""What may change: by scope, by what a plan holds, and within what it varies. Each refusal names the line."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import autoresearch_ci
from autoresearch_ci.experiment import Status
from autoresearch_ci.knobs import Scope, find_knobs, set_knobs
from autoresearch_ci.proposals import Gate
from autoresearch_ci.scope import Range, held, out_of_range, outside
from autoresearch_ci.sketches import left_out, unreadable
from autoresearch_ci.source import fingerprint
from tests.unit.histories import experiment
from tests.unit.test_knobs import KARPATHY, MNIST
from tests.unit.test_search import SCRIPT as SEARCHED

STARTER = (Path(autoresearch_ci.__file__).parent / "starter" / "train.py").read_text(encoding="utf-8")
SCRIPT = """\
import torch
import torch.nn as nn

LEARNING_RATE = 1e-3
WIDTH = 64
EPOCHS_SEEN = 0


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(WIDTH, WIDTH)

    def forward(self, x):
        return x + torch.relu(self.linear(x))


class Trainer:
    def prepare(self):
        self.seen = 0


class GPT(nn.Module):
    def forward(self, x):
        return x

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=LEARNING_RATE)


def get_lr(step):
    return LEARNING_RATE * min(1, step / 100)


def load_data():
    return torch.zeros(4, WIDTH)


def main():
    model = GPT()
    optimizer = model.configure_optimizers()
    for step in range(100):
        loss = model(load_data()).mean()
        for group in optimizer.param_groups:
            group["lr"] = get_lr(step)
        optimizer.step()
    print("val_bpb:", loss.item())


main()
"""


def check(old: str, new: str, scope: Scope, **classify: str) -> str:
    assert old in SCRIPT
    return outside(SCRIPT, SCRIPT.replace(old, new, 1), scope, classify)


OPTIMIZER_CHANGES = [
    ("LEARNING_RATE = 1e-3", "LEARNING_RATE = 2e-3"),
    ("step / 100", "step / 50 if step else 0"),
    ("torch.optim.AdamW", "torch.optim.NAdam"),
    (
        "        optimizer.step()\n",
        "        torch.nn.utils.clip_grad_norm_(optimizer.param_groups, 1.0)\n        optimizer.step()\n",
    ),
    ("def load_data", "class Lion(torch.optim.Optimizer):\n    pass\n\n\ndef load_data"),
    ('group["lr"] = get_lr(step)', 'group["lr"] = 0.5 * get_lr(step)'),
    ("import torch\n", "import math\nimport torch\n"),
]
ARCHITECTURE_CHANGES = [
    ("WIDTH = 64", "WIDTH = 128"),
    ("torch.relu(self.linear(x))", "torch.relu(self.linear(x)).square()"),
    ("model = GPT()", "model = nn.Sequential(GPT(), Block())"),
    ("class Trainer", "class RMSNorm(nn.Module):\n    pass\n\n\nclass Trainer"),
    (
        "    def forward(self, x):\n        return x\n",
        "    def forward(self, x):\n        y = 2 * x\n        return y\n",
    ),
]
OTHER_CHANGES = [
    ("torch.zeros(4, WIDTH)", "torch.ones(4, 64)"),
    ('print("val_bpb:", loss.item())', 'print("val_bpb:", 0.0)'),
    ("self.seen = 0", "self.seen = 1"),
]


@pytest.mark.parametrize(("old", "new"), OPTIMIZER_CHANGES)
def test_changes_of_the_optimizer(old: str, new: str) -> None:
    """Are in its scope, and not in that of the architecture (imports are in both)."""
    assert check(old, new, "optimizer") == ""
    assert bool(check(old, new, "architecture")) == ("import math" not in new)


@pytest.mark.parametrize(("old", "new"), ARCHITECTURE_CHANGES)
def test_changes_of_the_architecture(old: str, new: str) -> None:
    """Are in its scope, and not in that of the optimizer."""
    assert check(old, new, "architecture") == ""
    reason = check(old, new, "optimizer")
    assert "the scope is optimizer" in reason
    assert reason.startswith("line ")


@pytest.mark.parametrize(("old", "new"), OTHER_CHANGES)
@pytest.mark.parametrize("scope", ["architecture", "optimizer"])
def test_changes_of_what_is_neither(old: str, new: str, scope: Scope) -> None:
    """Data, printing and the unknown are in neither scope; the reason names the line."""
    reason = check(old, new, scope)
    line = SCRIPT[: SCRIPT.index(old)].count("\n") + 1
    assert reason.startswith(f"line {line}: ")
    assert check(old, new, "all") == ""


def test_a_person_says_what_belongs_where() -> None:
    """`classify` wins over the names."""
    assert check("torch.zeros(4, WIDTH)", "torch.ones(4, 64)", "architecture", load_data="architecture") == ""
    assert check("step / 100", "step / 50 if step else 0", "optimizer", get_lr="training")
    assert check("self.seen = 0", "self.seen = 1", "optimizer", Trainer="optimizer") == ""


def test_what_is_removed() -> None:
    """A line that is gone is a change like any other."""
    assert check("        optimizer.step()\n", "", "optimizer") == ""
    assert "without `optimizer.step()`" in check("        optimizer.step()\n", "", "architecture")


@pytest.mark.parametrize(
    ("old", "new", "allowed"),
    [
        ("1e-3", "-2", True),
        ("WIDTH = 64", "WIDTH = 2**7", True),
        ('"val_bpb:"', '"val_loss:"', True),
        ("step / 100", "step / 200", True),
        ("step / 100", "step * 100", False),
        ("return x\n", "return x + 1\n", False),
        ("import torch\n", "import math\nimport torch\n", False),
    ],
)
def test_hyperparameters(old: str, new: str, allowed: bool) -> None:
    """Values of literals may change, and nothing else."""
    reason = check(old, new, "hyperparameters")
    assert (reason == "") == allowed
    assert allowed or f"line {SCRIPT[: SCRIPT.index(old)].count(chr(10)) + 1}: " in reason


SCRIPTS = {"starter": STARTER, "own": SCRIPT, "karpathy": KARPATHY, "mnist": MNIST, "search": SEARCHED}


@pytest.mark.parametrize("scope", ["hyperparameters", "optimizer", "architecture"])
@pytest.mark.parametrize("script", SCRIPTS.values(), ids=SCRIPTS)
def test_every_knob_of_a_scope_may_move(scope: Scope, script: str) -> None:
    """What the search moves under a scope is never refused by it, also where the new value makes a knob no knob any more."""
    knobs = find_knobs(script)
    chosen = [knob for knob in knobs if knob.in_scope(scope)]
    assert chosen
    for knob in chosen:
        here = knob.coordinate(knob.value)
        for value in knob.options or {knob.at(here + step) for step in (-40, -2, -1, 1, 2, 40)}:
            changed = set_knobs(script, {knob.name: value}, knobs)
            assert outside(script, changed, scope, {}) == "", (knob.name, value)


@pytest.mark.parametrize(
    ("old", "new", "scope", "says"),
    [
        ("nn.utils.clip_grad_norm_(model.parameters(), GRAD_CLIP)", "nn.utils.clip_grad_value_(model.parameters(), 0.5)", "optimizer", ""),
        ("    optimizer.step(", "    if step > 10:\n        optimizer.step(", "optimizer", ""),
        ("optimizer = Optimizer(model.parameters())", "matrices = [p for p in model.parameters() if p.dim() == 2]\noptimizer = Optimizer(matrices)", "optimizer", ""),
        ("EPSILON = 1e-8\n", "EPSILON = 1e-8\nPOWER = 2.0\n", "optimizer", "`POWER = 2.0`: belongs to no part that is known"),
        ('    "tanh": torch.tanh,\n', '    "tanh": torch.tanh,\n    "mish": F.mish,\n', "architecture", ""),
        ("std=0.02", "std=0.01", "architecture", ""),
        ('print("---")', 'print("---")\nprint("val_bpb:", LEARNING_RATE)', "optimizer", "line 194: `print('val_bpb:', LEARNING_RATE)`"),
        ("val_bpb = evaluate_bpb(model, DEVICE)", "val_bpb = model.fake()", "architecture", "line 191: `val_bpb = model.fake()`"),
        ("torch.manual_seed(SEED)", "torch.manual_seed(SEED + 1)", "architecture", "line 148: "),
        ("import math\n", "import math\nfrom prepare import *\n", "optimizer", "line 8: an import gives another meaning to `*`"),
        ("import math\n", "import math\nfrom cheats import fast as evaluate_bpb\n", "optimizer", "another meaning to `evaluate_bpb`"),
        ("update = mean.sign()", "update = mean.sign() * 2", "architecture", "line 119: `update = mean.sign() * 2` in `Optimizer.step`: belongs to optimizer"),
        ("torch.randint(len(data)", "torch.randint(3 + len(data)", "optimizer", "line 155: "),
        ("synchronize()\n    training_seconds", "training_seconds", "optimizer", "line 180: without `synchronize()`"),
    ],
)  # fmt: skip
def test_what_a_model_may_try_on_the_starter(old: str, new: str, scope: Scope, says: str) -> None:
    """What a statement calls and where it stands decide; what is measured, printed or seeded is in no scope."""
    assert old in STARTER
    reason = outside(STARTER, STARTER.replace(old, new, 1), scope, {})
    assert says in reason
    assert bool(reason) == bool(says)


def test_helpers_belong_to_what_uses_them() -> None:
    """A new function or constant is of the part that alone uses it; one that was there stays what it was."""
    helper = SCRIPT.replace(
        "class Block", "POWER = 2\n\n\ndef squash(x):\n    return x.clamp(-POWER, POWER)\n\n\nclass Block"
    )
    used = helper.replace("torch.relu(self.linear(x))", "squash(self.linear(x))")
    assert outside(SCRIPT, used, "architecture", {}) == ""
    assert "`POWER = 2`" in outside(SCRIPT, used, "optimizer", {})
    stolen = SCRIPT.replace("model(load_data()).mean()", "model(None).mean()").replace(
        "return x\n", "return load_data()\n"
    )
    assert "load_data" in outside(SCRIPT, stolen.replace("torch.zeros", "torch.ones"), "architecture", {})


def test_a_knob_that_a_person_classified() -> None:
    """`classify` moves a constant out of a scope, and into it."""
    change = ("LEARNING_RATE = 1e-3", "LEARNING_RATE = 2e-3")
    assert check(*change, "optimizer", LEARNING_RATE="training")
    assert check(*change, "architecture", LEARNING_RATE="architecture") == ""


@pytest.mark.parametrize("scope", ["optimizer", "hyperparameters"])
def test_a_thousand_branches(scope: Scope) -> None:
    """A long chain of `elif`, a tower of operators and a number of 5,000 digits are judged like anything else."""
    chain = "if a:\n    b = 1\n" + "".join(f"elif a == {n}:\n    b = {n}\n" for n in range(1200))
    assert bool(outside(chain, chain.replace("b = 5\n", "b = 7\n"), scope, {})) == (scope == "optimizer")
    for text in ("f" + ".a" * 900 + "\n", "x = " + "-" * 900 + "1\n", "x = 0x" + "f" * 5000 + "\n"):
        gate = Gate(scope=scope, hold=("x",), vary={"x": Range(0, 1)})
        assert gate.refusal(text, "x = 1\n").startswith("line 1: ")


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("LEARNING_RATE", "LEARNING_RATE = 1e-3", "LEARNING_RATE = 2e-3"),
        ("load_data", "torch.zeros(4, WIDTH)", "torch.ones(4, WIDTH)"),
        ("Block", "torch.relu", "torch.tanh"),
        ("GPT.configure_optimizers", "AdamW", "NAdam"),
        ("WIDTH", "WIDTH = 64\n", "WIDTH = 64\nWIDTH = 32\n"),
        ("WIDTH", "def main():\n", "def main():\n    global WIDTH\n    for WIDTH in (3,): pass\n"),
        ("WIDTH", "import torch\n", "import torch\nfrom math import pi as WIDTH\n"),
        ("Block.forward", "\n\nmain()", "\n\nBlock.forward = None\nmain()"),
        ("Block", "\n\nmain()", "\n\ndel Block\nmain()"),
        ("WIDTH", "\n\nmain()", "\n\nwith open('x') as (WIDTH, y): pass\nmain()"),
        ("WIDTH", "\n\nmain()", "\n\nprint(WIDTH := 3)\nmain()"),
    ],
)
def test_what_is_held(name: str, old: str, new: str) -> None:
    """Constants, functions, classes and methods that a plan holds stay as they are."""
    changed = SCRIPT.replace(old, new, 1)
    assert f"`{name}` is held by the plan" in held(SCRIPT, changed, [name])
    assert held(SCRIPT, changed, ["get_lr", "Trainer", "nobody"]) == ""
    assert held(SCRIPT, SCRIPT + "# a comment\n", [name]) == ""


def test_what_is_held_and_gone() -> None:
    """Taking it away is a change."""
    assert (
        held(SCRIPT, SCRIPT.replace("def load_data", "def other"), ["load_data"])
        == "line 35 of the incumbent: `load_data` is held by the plan, and is gone"
    )


def test_a_held_knob_that_is_no_name() -> None:
    """A keyword of a call is held by the name of its knob."""
    script = "import torch.nn as nn\nlayer = nn.Dropout(p=0.1)\n"
    (name,) = [knob.name for knob in find_knobs(script)]
    assert name in held(script, script.replace("0.1", "0.2"), [name])
    assert held(script, script.replace("layer", "drop"), [name]) == ""
    assert held(script, script.replace("0.1", "0.2"), [name]).startswith("line 2: ")
    assert "is gone" in held(script, "import torch.nn as nn\nlayer = nn.Identity()\n", [name])


def test_ranges() -> None:
    """A knob keeps to the range, or to the values, that a plan gives."""
    vary = {"WIDTH": Range(32, 128), "LEARNING_RATE": Range(values=(1e-3, 3e-3))}
    assert out_of_range(SCRIPT, SCRIPT, vary) == ""
    assert (
        out_of_range(SCRIPT, SCRIPT.replace("WIDTH = 64", "WIDTH = 256"), vary)
        == "line 5: `WIDTH` is 256, and the plan varies it within 32 to 128"
    )
    assert "0.001 or 0.003" in out_of_range(SCRIPT, SCRIPT.replace("1e-3", "2e-3"), vary)
    assert out_of_range(SCRIPT, SCRIPT, {}) == ""
    odd = SCRIPT.replace("WIDTH = 64", "WIDTH = 8")
    assert out_of_range(odd, odd.replace("1e-3", "3e-3"), vary) == ""  # what is out of range already may stay
    assert not Range(0, 1).holds("relu")
    assert not Range(values=(1,)).holds(True)


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("    return x\n", "    # ... existing code ...\n    return x\n", "code is left out"),
        ("main()\n", "main()\n# rest of the file unchanged\n", "code is left out"),
        ("    return torch.zeros(4, WIDTH)", "    ...", "`load_data` has lost its code"),
        ("    return torch.zeros(4, WIDTH)", '    """Loads."""\n    pass', "`load_data` has lost its code"),
        ("main()\n", "main()\n# ...\n", "code is left out"),
        ("        self.seen = 0\n", "        self.seen = 0\n        ...\n", "line 21: code is left out"),
        (
            "class Trainer:\n    def prepare(self):\n        self.seen = 0\n",
            "class Trainer: ...\n",
            "`Trainer` has lost",
        ),
    ],
)
def test_a_sketch_is_no_script(old: str, new: str, reason: str) -> None:
    """Elisions and emptied functions are seen before any time is spent."""
    assert old in SCRIPT
    assert reason in left_out(SCRIPT.replace(old, new, 1), SCRIPT)


def test_new_stubs_are_code() -> None:
    """What had no code before has lost none."""
    assert left_out(SCRIPT.replace("class Trainer", "class Empty: ...\n\n\nclass Trainer"), SCRIPT) == ""
    assert "the script has lost its code" in left_out("pass\n", SCRIPT)


@pytest.mark.parametrize("control", ["\x00", "\x01", "\x1b", "\u202e", "\u2066"])
def test_control_characters(control: str) -> None:
    """Also those that make code read otherwise than it runs; what the script has already may stay."""
    assert unreadable(SCRIPT.replace("WIDTH = 64", f"WIDTH = 64 # {control}"), SCRIPT) == (
        f"line 5: it holds the control character U+{ord(control):04X}"
    )
    assert unreadable(f"# {control}\n", f"# {control}\nx = 1\n") == ""


def test_a_script_that_lost_most_of_itself() -> None:
    """More than 60 % less code is not a simplification."""
    assert "something is left out" in left_out("print('val_bpb:', 1)\n", SCRIPT)
    assert left_out(SCRIPT.replace("class Trainer:\n    def prepare(self):\n        self.seen = 0\n", ""), SCRIPT) == ""
    assert "characters" in unreadable("x = 1\n" * 200_000, SCRIPT)


def test_the_gate() -> None:
    """One place decides: parses, changes something, new, whole, in scope, held, in range."""
    gate = Gate(scope="optimizer", hold=("get_lr",), vary={"LEARNING_RATE": Range(0, 0.01)})
    better = SCRIPT.replace("1e-3", "2e-3")
    assert gate.refusal(better, SCRIPT) == ""
    assert "does not parse" in gate.refusal("x = (", SCRIPT)
    assert gate.refusal(SCRIPT + "# x\n", SCRIPT) == "it changes nothing"
    assert "the scope is optimizer" in gate.refusal(SCRIPT.replace("64", "65"), SCRIPT)
    assert "held" in gate.refusal(SCRIPT.replace("step / 100", "step / 99"), SCRIPT)
    assert "varies it" in gate.refusal(SCRIPT.replace("1e-3", "1.0"), SCRIPT)
    gate.remember(experiment(1, 1.0, Status.DISCARD, fingerprint=fingerprint(better)))
    assert gate.refusal(better, SCRIPT) == "it was tried before"


PIECES = st.sampled_from(
    [
        "x = 1",
        "def f():\n    pass",
        "class A(nn.Module):\n    y = 2",
        "for i in a:\n    lr = i",
        "try:\n    a()\nexcept E:\n    b",
        "match a:\n    case 1:\n        c()",
        "@d\nasync def g(): ...",
        "x: int",
        "lr += 1",
        "(" * 60 + ")" * 60,
        "9" * 5000,
        "with a as b:\n    model = 1",
    ]
)
TEXTS = st.lists(PIECES, max_size=6).map("\n".join)


@settings(max_examples=150, deadline=None)
@given(TEXTS, TEXTS, st.sampled_from(["all", "architecture", "hyperparameters", "optimizer"]))
def test_any_two_scripts_have_an_answer(before: str, after: str, scope: Scope) -> None:
    """Whatever stands in the place of a script that parses is judged, in one line, and the same script is always in scope."""
    try:
        fingerprint(before)
    except ValueError:
        return
    gate = Gate(scope=scope, hold=("x", "f", "A.y"), vary={"lr": Range(0, 1)})
    assert "\n" not in gate.refusal(after, before)
    assert outside(before, before, scope, {}) == ""
