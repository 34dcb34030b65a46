"""The starter: a training that runs anywhere torch runs, and speaks the protocol."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import autoresearch_ci
from autoresearch_ci import metrics

STARTER = Path(autoresearch_ci.__file__).with_name("starter")
BLOCK = """---
val_bpb:          #.######
training_seconds: #.#
total_seconds:    #.#
peak_vram_mb:     0.0
total_tokens_M:   0.0
num_steps:        #
num_params_M:     0.1
depth:            2
"""


def train(folder: Path, changes: dict[str, str], **variables: str) -> subprocess.CompletedProcess[str]:
    """One training of the starter, with some of its lines changed."""
    pytest.importorskip("torch")
    shutil.copyfile(STARTER / "prepare.py", folder / "prepare.py")
    script = (STARTER / "train.py").read_text()
    for old, new in changes.items():
        assert old in script
        script = script.replace(old, new)
    (folder / "train.py").write_text(script)
    environ = {"PATH": os.environ["PATH"], "HOME": str(folder), **variables}
    if sys.platform == "win32":
        environ["SYSTEMROOT"] = os.environ["SYSTEMROOT"]
    return subprocess.run(
        [sys.executable, "train.py"], cwd=folder, env=environ, capture_output=True, text=True, timeout=120, check=False
    )


def test_it_learns_within_its_budget_and_prints_upstreams_block(tmp_path: Path) -> None:
    """With one second it knows more than a uniform guess, obeys the budget, and ends with the lines that are read."""
    done = train(tmp_path, {}, AUTORESEARCH_TIME_BUDGET="1", AUTORESEARCH_BATCH_SCALE="0.25")
    assert done.returncode == 0, done.stderr
    reading = metrics.read(done.stdout, "val_bpb")
    assert reading.metric is not None
    assert reading.metric < 7.9
    assert 1.0 <= reading.numbers["training_seconds"] < 30
    block = done.stdout[done.stdout.index("---") :]
    for line, shape in zip(block.splitlines(), BLOCK.splitlines(), strict=True):
        pattern = re.escape(shape).replace(r"\#", "#").replace("######", "[0-9]{6}").replace("#", "[0-9]+")
        assert re.fullmatch(pattern, line), (line, shape)


def test_a_loss_that_is_not_finite_fails(tmp_path: Path) -> None:
    """A training that went astray ends with an error and without a metric."""
    done = train(tmp_path, {"std=0.02": "std=1e30"}, AUTORESEARCH_TIME_BUDGET="1")
    assert done.returncode == 1
    assert "FAIL" in done.stdout
    assert "val_bpb" not in done.stdout


@pytest.mark.parametrize("optimizer", ["sgd", "lion"])
def test_every_optimizer_that_it_names_works(tmp_path: Path, optimizer: str) -> None:
    """The search may choose any of them; one that is not there is refused."""
    done = train(tmp_path, {'OPTIMIZER = "adamw"': f'OPTIMIZER = "{optimizer}"'}, AUTORESEARCH_TIME_BUDGET="0.3")
    assert done.returncode == 0, done.stderr


def test_the_corpus_is_the_same_everywhere(tmp_path: Path) -> None:
    """The text is made in a moment, from nothing, and never differs."""
    pytest.importorskip("torch")
    code = (
        "import hashlib, prepare\nfor split in ('train', 'val'): print(hashlib.md5(prepare.corpus(split)).hexdigest())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=STARTER, capture_output=True, text=True, timeout=120, check=True
    )
    assert done.stdout.split() == ["feda3627cb33a3c78c5b8c5041a5536f", "03e7d0f622172a1767c3c36c923b6e89"]
