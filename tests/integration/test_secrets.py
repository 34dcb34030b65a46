"""Tokens live in the orchestrator only: a session in which everything tries to give one away."""

from __future__ import annotations

import subprocess
import sys
import threading
import zlib
from pathlib import Path

import psutil
import pytest

from autoresearch_ci.scrubber import Scrubber
from autoresearch_ci.workspace.commands import Git
from tests.forge.fixtures import TOKEN, Checkout
from tests.forge.server import Forge

# The script knows the token, whoever told it, and prints it in every way. In the base commit it is disguised.
DISGUISED = [ord(c) ^ 1 for c in TOKEN]
SCRIPT = f"""\
import base64
import json
import os
import pathlib

LEARNING_RATE = 0.1
TOKEN = "".join(chr(c ^ 1) for c in {DISGUISED})
for text in (TOKEN, base64.b64encode(b"x-access-token:" + TOKEN.encode()).decode(), TOKEN.encode().hex(), json.dumps([TOKEN])):
    print("found:", text)
print(f"val_bpb: {{LEARNING_RATE}}")
if LEARNING_RATE > 1:
    raise SystemExit(f"the token is {{TOKEN}}")
"""
# A proposer that quotes it wherever a proposal has a text.
LEAK = """\
import base64
import os
import sys

from autoresearch_ci.cli import main, research
from autoresearch_ci.cli.proposing import Proposing
from autoresearch_ci.executors import image
from autoresearch_ci.experiment import Category, Proposal
from autoresearch_ci.proposals import Gate

TOKEN = os.environ["GITHUB_TOKEN"]
BASIC = base64.b64encode(f"x-access-token:{TOKEN}".encode()).decode()


class Leak:
    def __init__(self):
        self.values = [0.08, 5.0, 0.07]

    def propose(self, history, script):
        if not self.values:
            return None
        value = self.values.pop(0)
        return Proposal(
            script=script.replace("= 0.1", f"= {value}").replace("= 0.08", f"= {value}") + f"# {TOKEN} {BASIC}\\n",
            description=f"set by {TOKEN}",
            rationale=f"because of {BASIC}",
            category=Category.OTHER,
            parameters={"note": TOKEN},
        )


research.Preparation.finish = lambda self, place: Proposing(proposer=Leak(), gate=Gate(), patience=self._patience)
image.native_requirements = lambda: ""  # in a job the environment is made new: here without torch, from nowhere
sys.argv = ["autoresearch-ci", *sys.argv[1:]]
main()
"""


def objects(repository: Path) -> bytes:
    """The content of every object of a repository."""
    done = subprocess.run(
        ["git", "-C", str(repository), "cat-file", "--batch-all-objects", "--batch"], capture_output=True, check=True
    )
    return done.stdout


@pytest.mark.skipif(sys.platform == "win32", reason="argv of others")
def test_a_token_that_everything_gives_away_stays_where_it_is(
    forge: Forge, checkout: Checkout, runner_environment: dict[str, str], tmp_path: Path
) -> None:
    """Printed by the script, quoted by the proposer: in no object, journal, log, page, output, request, and in nobody's argv."""
    (checkout.path / "train.py").write_text(SCRIPT)
    checkout.git("commit", "--quiet", "--all", "-m", "a script that knows too much")
    checkout.git("push", "--quiet")
    files = {name: tmp_path / name.lower() for name in ("GITHUB_OUTPUT", "GITHUB_STEP_SUMMARY")}
    for file in files.values():
        file.touch()
    environment = runner_environment | {name: str(file) for name, file in files.items()}
    environment |= {
        "XDG_STATE_HOME": str(tmp_path / "state"),
        "HOME": str(tmp_path),
        "PYTHONPATH": str(Path(__file__).parents[2]),
    }
    environment |= {"AUTORESEARCH_CACHE": str(tmp_path / "cache"), "GITHUB_ACTIONS": "true"}
    arguments = [
        "run", "--tag", "night", "--time-budget", "20s", "--metric", "val_bpb", "--direction", "minimize", "--executor", "native",
        "--allow-native",
    ]  # fmt: skip
    secrets = Scrubber.of({"GITHUB_TOKEN": TOKEN}).forms
    seen: list[str] = []
    process = subprocess.Popen(
        [sys.executable, "-c", LEAK, *arguments], cwd=checkout.path, env=environment, text=True, stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip

    def watch() -> None:
        while process.poll() is None:
            for child in psutil.process_iter(["cmdline"]):
                line = " ".join(child.info["cmdline"] or ())
                if any(secret in line for secret in secrets):
                    seen.append(line)

    watcher = threading.Thread(target=watch)
    watcher.start()
    out, err = process.communicate(timeout=180)
    watcher.join()
    assert process.returncode == 0, err
    assert seen == []
    said = "\n".join(line for line in err.splitlines() if not line.startswith("::add-mask::"))
    texts = {
        "stdout": out, "stderr": said, **{name: file.read_text() for name, file in files.items()},
        "pull request": str(forge.api.pulls), "remote": objects(forge.repository).decode(errors="replace"),
    }  # fmt: skip
    for path in (tmp_path / "state").rglob("*"):
        if path.is_file() and not path.is_symlink():
            data = path.read_bytes()
            if path.parent.parent.name == "objects" and len(path.parent.name) == 2:
                data = zlib.decompress(data)
            texts[str(path)] = data.decode(errors="replace")
    clones = list((tmp_path / "state").rglob("repository.git"))
    texts |= {str(clone): objects(clone).decode(errors="replace") for clone in clones}
    assert clones
    leaks = [f"{name}: {form}" for name, text in texts.items() for form in secrets if form in text]
    assert leaks == []
    assert "set by ***" in texts["remote"]
    assert "found: ***" in next(text for name, text in texts.items() if name.endswith("0000-1.log"))


def test_git_sees_no_secret_of_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run without a wall can read the environment of our children: there is none of our tokens and keys in it."""
    for name in ("AUTORESEARCH_TOKEN", "AUTORESEARCH_APP_PRIVATE_KEY", "OPENAI_API_KEY"):
        monkeypatch.setenv(name, f"value-of-{name}")
    seen = Git(tmp_path, {}).run("-c", "alias.ours=!env", "ours").text
    assert "PATH=" in seen
    assert "value-of-" not in seen
