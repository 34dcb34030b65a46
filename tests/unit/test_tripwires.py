"""What a changed training script shows to a reviewer, and what it does not."""

from __future__ import annotations

import time
from importlib.resources import files

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoresearch_ci.experiment import Category, Direction, Experiment, History, Session, Status, Verdict
from autoresearch_ci.proposers.search import SearchProposer
from autoresearch_ci.source import fingerprint
from autoresearch_ci.tripwires import MAX_TEXT, MAX_TRIPWIRES, Kind, Tripwire, tripped

STARTER = files("autoresearch_ci").joinpath("starter/train.py").read_text(encoding="utf-8")
PROTECTED = ("prepare.py", "data/answers.json", "holdout/*.bin", "*.secret", "README.md")
BEFORE = """\
import datetime
import os
import random
import sys
import time
from pathlib import Path

import numpy as np
import prepare
import torch
import torch.nn.functional as F
from prepare import evaluate

SEED = int(os.environ.get("AUTORESEARCH_SEED", "42"))
OUT = Path(os.environ["AUTORESEARCH_OUTPUT_DIR"])
torch.manual_seed(SEED)
LR = 0.1
torch.save({}, OUT / "old.pt")
print(f"val_bpb: {evaluate(LR)}")
"""

# What is added to BEFORE: the kind that it trips.
ATTACKS = [
    # seeds
    ("torch.manual_seed(7)", Kind.SEED),
    ("random.seed(7)", Kind.SEED),
    ("np.random.default_rng(7)", Kind.SEED),
    ("DATA_SEED = 3", Kind.SEED),
    ("split(LR, random_state=3)", Kind.SEED),
    ("def sample(n, *, seed=1, other=None): pass", Kind.SEED),
    ("def sample(n, seed=1): pass", Kind.SEED),
    # the clock
    ("time.time = lambda: 0", Kind.CLOCK),
    ("setattr(time, 'time', lambda: 0)", Kind.CLOCK),
    ("setattr(time, 'ti' + 'me', lambda: 0)", Kind.CLOCK),
    ("datetime.datetime = None", Kind.CLOCK),
    ("from mine import fake as time", Kind.CLOCK),
    ("def perf_counter(): return 0", Kind.CLOCK),
    ("time = mine", Kind.CLOCK),
    ("from time import time as now\nnow = lambda: 0", Kind.CLOCK),
    ("from time import time as now\nnow.x = 0", Kind.CLOCK),
    # the import system
    ("sys.modules['prepare'] = None", Kind.MODULES),
    ("from sys import modules", Kind.MODULES),
    ("m = torch.sys.modules", Kind.MODULES),
    ("sys.path.insert(0, '/tmp')", Kind.MODULES),
    ("import importlib", Kind.MODULES),
    ("__import__('os').system('x')", Kind.MODULES),
    # patches
    ("prepare.evaluate = lambda m: 0", Kind.PATCH),
    ("prepare.TABLE['a'] += 1", Kind.PATCH),
    ("del prepare.evaluate", Kind.PATCH),
    ("setattr(prepare, 'evaluate', None)", Kind.PATCH),
    ("p = prepare.Config\np.size = 1", Kind.PATCH),
    ("F.cross_entropy = lambda *a: 0", Kind.PATCH),
    ("torch.Tensor.item = lambda self: 0.0", Kind.PATCH),
    ("sys.stdout = None", Kind.PATCH),
    ("import builtins\nbuiltins.print = None", Kind.PATCH),
    ("def print(*a): pass", Kind.PATCH),
    ("def evaluate(m): return 0", Kind.PATCH),
    ("evaluate = lambda m: 0", Kind.PATCH),
    ("for evaluate in []: pass", Kind.PATCH),
    ("from mine import evaluate", Kind.PATCH),
    ("from unittest import mock", Kind.PATCH),
    ("from unittest.mock import patch\npatch('time.time')", Kind.PATCH),
    ("__builtins__.float = None", Kind.PATCH),
    # the evaluation
    ("prepare.load('val')", Kind.EVALUATION),
    ("x = prepare.ANSWERS", Kind.EVALUATION),
    ("from prepare import answers", Kind.EVALUATION),
    ("evaluate(LR)", Kind.EVALUATION),
    ("open('data/answers.json')", Kind.EVALUATION),
    ("open('/workspace/data/answers.json')", Kind.EVALUATION),
    ("p = Path('data') / 'answers'", Kind.EVALUATION),
    ("p = 'x/holdout/1.bin'", Kind.EVALUATION),
    ("p = 'my.secret'", Kind.EVALUATION),
    ("run('cat prepare.py')", Kind.EVALUATION),
    # the metric
    ("print('val_bpb: 0.1')", Kind.METRIC),
    ("print(f'val_bpb: {0.5}')", Kind.METRIC),
    ("sys.stdout.write('val_bpb: %f' % x)", Kind.METRIC),
    ("val_bpb = 0.1", Kind.METRIC),
    ("val_bpb *= 0.5", Kind.METRIC),
    ("line = 'val_bpb: 1'", Kind.METRIC),
    ("for line in ['val_bpb: 1']: pass", Kind.METRIC),
    # the environment
    ("os.environ['X'] = '1'", Kind.ENVIRONMENT),
    ("os.environ.update(X='1')", Kind.ENVIRONMENT),
    ("os.putenv('X', '1')", Kind.ENVIRONMENT),
    ("os.getenv('AUTORESEARCH_DEVICE')", Kind.ENVIRONMENT),
    ("x = dict(os.environ)", Kind.ENVIRONMENT),
    ("os.environ.get('AUTO' + 'RESEARCH_SEED')", Kind.ENVIRONMENT),
    ("del os.environ['AUTORESEARCH_SEED']", Kind.ENVIRONMENT),
    ("if os.environ: pass", Kind.ENVIRONMENT),
    # processes, native code, network, code
    ("import subprocess as sp\nsp.run(['x'])", Kind.PROCESS),
    ("from os import system\nsystem('x')", Kind.PROCESS),
    ("os.fork()", Kind.PROCESS),
    ("os.execv('x', [])", Kind.PROCESS),
    ("o = os\no.system('x')", Kind.PROCESS),
    ("getattr(os, 'system')('x')", Kind.PROCESS),
    ("torch.os.system('x')", Kind.PROCESS),
    ("import pty", Kind.PROCESS),
    ("import torch.multiprocessing as mp", Kind.PROCESS),
    ("from concurrent.futures import ProcessPoolExecutor", Kind.PROCESS),
    ("import ctypes.util", Kind.NATIVE),
    ("from cffi import FFI", Kind.NATIVE),
    ("from torch.utils.cpp_extension import load_inline", Kind.NATIVE),
    ("import socket", Kind.NETWORK),
    ("import urllib.request", Kind.NETWORK),
    ("import random, requests", Kind.NETWORK),
    ("torch.hub.load('a', 'b')", Kind.NETWORK),
    ("eval('1')", Kind.CODE),
    ("run = exec", Kind.CODE),
    ("compile('1', '', 'eval')", Kind.CODE),
    ("import pickle\npickle.loads(b'')", Kind.CODE),
    ("import marshal", Kind.CODE),
    ("torch.load('x.pt')", Kind.CODE),
    # beside or after the training
    ("import atexit", Kind.HOOK),
    ("import threading", Kind.HOOK),
    ("sys.settrace(None)", Kind.HOOK),
    ("import signal\nsignal.signal(1, None)", Kind.HOOK),
    ("os._exit(0)", Kind.HOOK),
    # hidden names, and the interpreter
    ("getattr(os, 'sys' + 'tem')('x')", Kind.HIDDEN),
    ("from prepare import *", Kind.HIDDEN),
    ("o = os", Kind.HIDDEN),
    ("vars(os)['system']('x')", Kind.HIDDEN),
    ("[os][0].system('x')", Kind.HIDDEN),
    ("import inspect\ninspect.stack()", Kind.STACK),
    ("sys._getframe(1)", Kind.STACK),
    ("import gc\ngc.get_objects()", Kind.STACK),
    ("x = f.f_back.f_locals", Kind.STACK),
    ("().__class__.__bases__[0].__subclasses__()", Kind.STACK),
    ("prepare.__dict__['evaluate'] = None", Kind.STACK),
    ("globals()['evaluate'] = None", Kind.STACK),
    ("getattr(evaluate, '__globals__')", Kind.STACK),
    ("evaluate.__code__ = None", Kind.STACK),
    # comparisons
    ("class A:\n    def __eq__(self, o): return True", Kind.COMPARISON),
    ("class A(float):\n    def __format__(self, o): return '0'", Kind.COMPARISON),
    ("class A:\n    __lt__ = lambda s, o: True", Kind.COMPARISON),
    ("A.__eq__ = None", Kind.COMPARISON),
    # writing
    ("open('x', 'w')", Kind.WRITE),
    ("open('x', mode='a')", Kind.WRITE),
    ("open('x', m)", Kind.WRITE),
    ("open(*x)", Kind.WRITE),
    ("open('x', **k)", Kind.WRITE),
    ("w = open", Kind.WRITE),
    ("import io\nio.open('x', 'r+')", Kind.WRITE),
    ("Path('x').write_text('y')", Kind.WRITE),
    ("Path.write_text(p, 'y')", Kind.WRITE),
    ("Path('x').open('w')", Kind.WRITE),
    ("Path('x').replace('y')", Kind.WRITE),
    ("os.remove('x')", Kind.WRITE),
    ("os.rename(OUT / 'x', 'y')", Kind.WRITE),
    ("os.symlink('x', OUT / 'y')", Kind.WRITE),
    ("list(map(os.remove, x))", Kind.WRITE),
    ("import shutil\nshutil.copy('x', 'y')", Kind.WRITE),
    ("torch.save(m, 'x.pt')", Kind.WRITE),
    ("torch.save(m, f='x.pt')", Kind.WRITE),
    ("torch.save(m)", Kind.WRITE),
    ("np.save('x', m)", Kind.WRITE),
    ("m.tofile('x')", Kind.WRITE),
    ("torch.save(m, OUT / '../x.pt')", Kind.WRITE),
    ("torch.save(m, OUT / '/x.pt')", Kind.WRITE),
    ("ELSE = OUT\nELSE = Path('x')\ntorch.save(m, ELSE / 'x.pt')", Kind.WRITE),
]  # fmt: skip

# What is added to BEFORE: and it trips nothing.
HARMLESS = [
    "LR = 0.2",
    "x = os.environ.get('LOCAL_RANK')",
    "x = os.environ['HOME'] if 'HOME' in os.environ else ''",
    "x = os.getenv('HOME')",
    "started = time.perf_counter()",
    "print(f'loss: {x}')",
    "print(f'epoch {1} of {n}')",
    "'''val_bpb: 0.1, AUTORESEARCH_SEED, data/answers.json'''",
    "torch.backends.cudnn.benchmark = True",
    "torch.backends.cuda.matmul.allow_tf32 = True",
    "torch._inductor.config.coordinate_descent_tuning = True",
    "model.forward = torch.compile(model)",
    "import gc\ngc.collect()",
    "import inspect\nfused = 'fused' in inspect.signature(torch.optim.AdamW).parameters",
    "from scipy.signal import lfilter",
    "def forward(self, x, time=None): return F.relu(x)",
    "class A:\n    def evaluate(self): pass\n    def __repr__(self): return ''",
    "act = getattr(model, name)\nsetattr(model, name, act)",
    "getattr(torch, 'relu')",
    "x = 'a-b'.replace('-', '_')",
    "open('notes.txt')",
    "Path('x').open()",
    "with open(OUT / 'log.txt', 'w') as log: pass",
    "open(os.path.join(os.environ['AUTORESEARCH_OUTPUT_DIR'], 'x'), 'w')",
    "open(f'{OUT}/x', 'w')",
    "best = OUT / 'best'\nbest.mkdir()\nbest.rename(OUT / 'b')\n(best / 'x').write_text('y')\ntorch.save(m, best / 'm.pt')",
    "deeper: Path = OUT\ndeeper = deeper / 'a'\nnp.save(deeper, m)\nm.tofile(deeper)",
    "x.read_me = 'the answers of the readme'",
    "class B:\n    def __init__(self): self.time = 0",
    "x[0] = 1; x.y = 2; del x",
    "optimizer = 'adamw'",
]  # fmt: skip


def kinds(before: str, after: str) -> set[Kind]:
    return {each.kind for each in tripped(before, after, protected=PROTECTED, metric="val_bpb")}


@pytest.mark.parametrize(("code", "kind"), ATTACKS)
def test_what_a_cheat_needs_trips(code: str, kind: Kind) -> None:
    """Each of these, new in a script, is shown with its kind and the line that it is on."""
    found = tripped(BEFORE, BEFORE + code + "\n", protected=PROTECTED, metric="val_bpb")
    [first, *_] = [each for each in found if each.kind is kind]
    start = BEFORE.count("\n") + 1
    assert start <= first.line <= start + code.count("\n")


@pytest.mark.parametrize("code", HARMLESS)
def test_what_training_needs_does_not(code: str) -> None:
    """None of these, new in a script, is shown: a reviewer who sees many alarms sees none."""
    assert tripped(BEFORE, BEFORE + code + "\n", protected=PROTECTED, metric="val_bpb") == ()


@pytest.mark.parametrize(("code", "kind"), ATTACKS)
def test_what_was_there_before_does_not_trip(code: str, kind: Kind) -> None:
    """A script that had it already trips nothing when it moves to another line, with other spaces and quotes, or another number."""
    before = f"{BEFORE}{code}\n"
    after = f"\n# moved\n{BEFORE}\n\n{code}\nLR = 0.3\n".replace("'", '"')
    assert kind in kinds("", before)
    assert kinds(before, after) == set()


def test_one_more_of_the_same_trips() -> None:
    """What the old script does once and the new one twice is new."""
    assert kinds(BEFORE, BEFORE + "torch.manual_seed(SEED)\n") == {Kind.SEED}
    assert kinds(BEFORE + "exec(x)\n", BEFORE + "exec(x)\nexec(x)\n") == {Kind.CODE}


def test_a_changed_seed_shows_what_is_gone() -> None:
    """A seed that is another is shown twice: what is new with its line, and what is no longer there without one."""
    after = BEFORE.replace("torch.manual_seed(SEED)", "torch.manual_seed(1)")
    assert tripped(BEFORE, after) == (
        Tripwire(Kind.SEED, 16, "torch.manual_seed(1)"),
        Tripwire(Kind.SEED, 0, "no longer there: torch.manual_seed(SEED)"),
    )
    fixed = BEFORE.replace('int(os.environ.get("AUTORESEARCH_SEED", "42"))', "1337")
    assert Tripwire(Kind.SEED, 0, "no longer there: AUTORESEARCH_SEED") in tripped(BEFORE, fixed)


def test_a_time_budget_that_is_no_longer_read_is_shown() -> None:
    """A script that takes its own time budget no longer reads ours."""
    after = STARTER.replace('float(os.environ.get("AUTORESEARCH_TIME_BUDGET", "10"))', "600")
    assert tripped(STARTER, after) == (Tripwire(Kind.ENVIRONMENT, 0, "no longer there: AUTORESEARCH_TIME_BUDGET"),)


def test_an_evaluation_of_its_own_is_shown() -> None:
    """A script that no longer uses the read-only evaluation is shown, whatever it uses instead."""
    after = BEFORE.replace("from prepare import evaluate\n", "").replace("evaluate(LR)", "mine(LR)")
    found = tripped(BEFORE, after, protected=PROTECTED)
    assert found == (Tripwire(Kind.EVALUATION, 0, "no longer there: prepare.evaluate"),)


@pytest.mark.parametrize(
    ("old", "new", "kind"),
    [
        ('load("train")', 'load("val")', Kind.EVALUATION),
        ("{val_bpb:.6f}", "{val_bpb * 0.9:.6f}", Kind.METRIC),
        ("evaluate_bpb(model, DEVICE)", "evaluate_bpb(model, DEVICE) / 2", Kind.METRIC),
        ("manual_seed(SEED)\ndata", "manual_seed(43)\ndata", Kind.SEED),
        ("import time\n", "import time\ntime.time = lambda t=[0.0]: t[0]\n", Kind.CLOCK),
        ("from prepare import", "from prepare import corpus,", Kind.EVALUATION),
    ],
)  # fmt: skip
def test_the_cheats_that_the_starter_invites(old: str, new: str, kind: Kind) -> None:
    """Training on the validation split, a better number than was measured, another seed, a clock that stands still."""
    assert old in STARTER
    assert kind in kinds(STARTER, STARTER.replace(old, new))


@pytest.mark.parametrize("seed", [0, 1])
def test_nothing_that_search_proposes_trips(seed: int) -> None:
    """The real proposer over the starter, sixty proposals, kept and not: no false alarm."""
    session = Session(tag="t", metric="val_bpb", direction=Direction.MINIMIZE, training_script="train.py")
    history, script, scripts = History(session=session), STARTER, {STARTER}
    proposer = SearchProposer(Direction.MINIMIZE, seed=seed)
    for number in range(31):
        proposal = proposer.propose(history, script) if number else None
        text = proposal.script if proposal else script
        assert tripped(script, text, protected=PROTECTED, metric="val_bpb") == ()
        assert tripped(STARTER, text, protected=PROTECTED) == ()
        status = Status.KEEP if number % 3 == 0 else Status.DISCARD
        made = Experiment(
            number=number, commit=f"c{number}", parent="", description="", category=Category.OTHER,
            verdict=Verdict(status=status, reason=""), metric=1.0 - number / 100 if number % 3 == 0 else 2.0, memory_gb=None,
            parameters=proposal.parameters if proposal else {}, fingerprint=fingerprint(text),
        )  # fmt: skip
        history = History(session=session, experiments=(*history.experiments, made))
        script = text if status is Status.KEEP else script
        scripts.add(text)
    assert len(scripts) == 31


def test_another_number_in_a_call_of_the_read_only_module_does_not_trip() -> None:
    """Knobs are numbers, also where the read-only module is given them."""
    before = BEFORE + "x = prepare.load('train', 64, shuffle=0.5)\n"
    assert kinds(before, before.replace("64", "128").replace("0.5", "0.25")) == set()


def test_without_a_metric_only_written_numbers_are_found() -> None:
    """A printed number that nothing measured is found without knowing the metric's name; a line that is measured is not."""
    for code in ("print('val_bpb: 0.1')", "print(f'val_bpb: {0.1}')", "print('acc = .5')"):
        assert [each.kind for each in tripped("", code)] == [Kind.METRIC], code
    for code in ("print(f'val_bpb: {x}')", "val_bpb = 1", "print('a: b')"):
        assert tripped("", code) == (), code


@pytest.mark.parametrize(
    "text",
    [
        "def (", "\0", "x = 1\n  y = 2", "\ud800", "(" * 5000, "-" * 100_000 + "1", "x" + ".a" * 50_000, "1" * 5000,
        "subprocess.run(0x" + "f" * 5000 + ")\nimport subprocess", "import os\nos." + "a" * 2000, "import subprocess\n" * 2500,
        "x = 1\n" * 200_000, "x" + ".write_text()" * 600,
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_shown_as_such(text: str) -> None:
    """What is no Python, too deep or too long is one tripwire, soon; and as the old script it hides nothing of the new one."""
    began = time.monotonic()
    [only] = tripped(BEFORE, text)
    assert only.kind is Kind.UNREADABLE
    assert only.line >= 1
    assert Kind.PROCESS in kinds(text, BEFORE + "import subprocess\n")
    assert time.monotonic() - began < 20


def test_many_of_one_kind_hide_no_other() -> None:
    """Of more than twenty the first of every kind is shown, and how many are not."""
    many = (
        "import os\n"
        + "".join(f"os.system('{n}')\n" for n in range(100))
        + "import socket\nsocket.create_connection(x)\n"
    )
    found = tripped("import os\n", many)
    assert len(found) == MAX_TRIPWIRES
    assert Tripwire(Kind.NETWORK, 102, "import socket") in found
    assert found[-1] == Tripwire(Kind.MORE, 0, "83 that are not listed")
    assert [each.line for each in found[:-1]] == sorted(each.line for each in found[:-1])


def test_the_text_is_one_bounded_visible_line() -> None:
    """Long constructs are cut, and characters that show another program than the one that ran are spelled out."""
    [long] = tripped("", f"eval({'x' * 5000!r})")
    assert len(long.text) == MAX_TEXT
    [direction] = tripped("", "eval(f'''\u202e\x1b[2J{x}\n''')")
    assert direction.text.isprintable()
    assert "\\u202e" in direction.text


@settings(max_examples=100, deadline=None)
@given(st.text(max_size=300), st.text(max_size=300), st.lists(st.text(max_size=20), max_size=3), st.text(max_size=10))
def test_no_text_makes_it_raise(before: str, after: str, protected: list[str], metric: str) -> None:
    """Whatever the two texts, the protected names and the metric are, there is an answer of a bounded size."""
    for pair in ((before, after), (BEFORE, after), (before, BEFORE)):
        found = tripped(*pair, protected=protected, metric=metric)
        assert len(found) <= MAX_TRIPWIRES
        assert all(len(each.text) <= MAX_TEXT and each.text.isprintable() for each in found)
