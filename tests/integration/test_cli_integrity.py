"""What the script says of itself, what scores it instead, and what it may not touch: whole sessions."""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
from pathlib import Path

import docker
import pytest

from autoresearch_ci import journal
from autoresearch_ci.executors.image import Image
from autoresearch_ci.experiment import History
from autoresearch_ci.forges.local import TEXT_NAME
from tests.forge.fixtures import TRAIN
from tests.integration.conftest import BASE_IMAGE
from tests.project import Project
from tests.unit.test_hostile_bytes import obeyed

# The honest result lies in the output folder; what is printed is a lie, and says whether the answers were in reach.
LIAR = """\
import os
import pathlib

GUESS = 3
out = pathlib.Path(os.environ["AUTORESEARCH_OUTPUT_DIR"])
(out / "guess.txt").write_text(str(GUESS))
(out / "answer.txt").symlink_to("/workspace/answers/secret.txt")
print("answers in reach:", os.path.exists("answers"), len(list(pathlib.Path(".").rglob("secret*"))))
print("val_bpb: 0.000001")
"""
EVALUATE = """\
import os
import pathlib

import train_settings

out = pathlib.Path(os.environ["AUTORESEARCH_OUTPUT_DIR"])
print("left:", sorted(p.name for p in out.iterdir()))
try:
    (out / "more.txt").write_text("7")
    print("the outputs can be changed")
except OSError:
    pass
print("val_bpb:", abs(int((out / "guess.txt").read_text()) - int(open("answers/secret.txt").read())) + train_settings.OFFSET)
"""


IN_CONTAINERS = (
    "--executor", "container", "--platform", "cpu", "--base-image", BASE_IMAGE,
    "--build-args", "TORCH_VERSION=,TORCH_INDEX_URL=,PIP_FIND_LINKS=http://127.0.0.1:9/",
)  # fmt: skip


def recorded(project: Project) -> History:
    return journal.parse(next((project.home / "state").rglob("journal.jsonl")).read_bytes())


def logs(project: Project) -> str:
    return "".join(path.read_text() for path in sorted((project.home / "state").rglob("logs/*/*.log")))


def liar(project: Project, *arguments: str) -> History:
    project.commit(
        {
            "train.py": LIAR,
            "score.py": EVALUATE,
            "train_settings.py": "OFFSET = 1\n",
            "answers/secret.txt": "7\n",
            "plan.txt": "GUESS=5\nGUESS=6\nGUESS=1\n",
        }
    )
    done = project.run(
        "run", "--tag", "night", "--proposer", "queue", "--plan", "plan.txt", "--verify-runs", "1",
        "--evaluate", "python score.py", "--evaluate-only", "answers", *arguments, timeout_s=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return recorded(project)


def test_only_the_reading_of_evaluate_counts(project: Project) -> None:
    """Natively: what the script prints is no value, the answers are not in its export, its link is left behind."""
    history = liar(project)
    assert [e.metric for e in history.experiments] == [5.0, 3.0, 2.0, 7.0]
    assert [e.status.value for e in history.experiments] == ["keep", "keep", "keep", "discard"]
    text = logs(project)
    assert "answers in reach: False 0" in text
    assert "answers in reach: True" not in text
    assert "left: ['guess.txt']" in text


def test_evaluate_runs_in_a_container_of_its_own(
    project: Project, cpu_image: Image, engine: docker.DockerClient
) -> None:
    """In containers: the outputs come back as regular files, and the evaluation cannot change them either."""
    history = liar(project, *IN_CONTAINERS)
    assert [e.metric for e in history.experiments] == [5.0, 3.0, 2.0, 7.0]
    text = logs(project)
    assert "answers in reach: False 0" in text
    assert "answers in reach: True" not in text
    assert "left: ['guess.txt']" in text
    assert "the outputs can be changed" not in text
    assert engine.volumes.list(filters={"label": "autoresearch-ci.session=night"}) == []


@pytest.mark.parametrize(
    ("score", "says"),
    [
        ("raise SystemExit('no answers here')", "`evaluate` failed (exit code 1): no answers here"),
        ("print('nothing')", "no finite `val_bpb` in the log: nothing"),
    ],
)
def test_an_evaluation_that_fails_is_told(project: Project, score: str, says: str) -> None:
    """On the baseline it ends the session, with the evaluation's own last words."""
    project.commit({"score.py": score})
    done = project.run("run", "--evaluate", "python score.py")
    assert done.returncode == 3
    assert says in done.stderr
    assert "Traceback" not in done.stderr


def test_a_script_that_changes_a_read_only_file_is_a_crash(project: Project) -> None:
    """It dies on the wall, or, where there is none, the digests of its export say what it did: its metric is no value."""
    spoil = "EVIL = False\nif EVIL:\n    os.chmod('prepare.py', 0o600)\n    open('prepare.py', 'w').write('x = 1')\n"
    project.commit({"train.py": TRAIN + spoil, "plan.txt": "EVIL=True\nLEARNING_RATE=0.08\n"})
    done = project.run("run", "--proposer", "queue", "--plan", "plan.txt")
    assert done.returncode == 0, done.stderr
    history = recorded(project)
    assert [e.status.value for e in history.experiments] == ["keep", "crash", "keep"]
    assert "prepare.py" in history.experiments[1].verdict.reason


def test_the_journal_holds_the_digests_of_every_other_file(project: Project) -> None:
    """As `sha256sum` reads them, on the journal's ref, and their own digest in the session's line."""
    project.commit({"plan.txt": "LEARNING_RATE=0.08\n"})
    done = project.run("run", "--tag", "night", "--proposer", "queue", "--plan", "plan.txt")
    assert done.returncode == 0, done.stderr
    sums = project.git("show", "refs/autoresearch/night/journal:files.sha256") + "\n"
    assert f"{hashlib.sha256(b'').hexdigest()}  prepare.py\n" in sums
    assert "train.py" not in sums
    assert recorded(project).session.files_digest == hashlib.sha256(sums.encode()).hexdigest()


def test_a_branch_that_changes_another_file_gets_no_pull_request(
    project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`finalize` looks at the branch's whole difference from its base: exit code 6, the file and what to do."""
    project.commit({"plan.txt": "LEARNING_RATE=0.08\n"})
    done = project.run("run", "--tag", "night", "--proposer", "queue", "--plan", "plan.txt", "--open-pr", "never")
    assert done.returncode == 0, done.stderr
    # Somebody puts a commit under the report, in the program's own clone: as an attack on it would.
    clone = next((project.home / "state").rglob("repository.git"))
    tip = project.git("-C", str(clone), "rev-parse", "refs/heads/autoresearch/night")
    blob = project.git("-C", str(clone), "hash-object", "-w", "--", str(project.path / "autoresearch.toml"))
    with monkeypatch.context() as patch:
        patch.setenv("GIT_INDEX_FILE", str(tmp_path / "index"))
        project.git("-C", str(clone), "read-tree", tip)
        project.git("-C", str(clone), "update-index", "--add", "--cacheinfo", f"100644,{blob},prepare.py")
        tree = project.git("-C", str(clone), "write-tree")
    message = project.git("-C", str(clone), "log", "-1", "--format=%B", tip)
    evil = project.git("-C", str(clone), "commit-tree", tree, "-p", tip, "-m", message)
    project.git("-C", str(clone), "update-ref", "refs/heads/autoresearch/night", evil)
    done = project.run("finalize", "--tag", "night")
    assert done.returncode == 6, done.stderr
    assert "changes `prepare.py`, and only the training script may change" in done.stderr
    assert "hint:" in done.stderr


CHEAT = """\
import sys

from autoresearch_ci.cli import main, research
from autoresearch_ci.cli.proposing import Proposing
from autoresearch_ci.experiment import Category, Proposal
from autoresearch_ci.proposals import Gate


class Cheat:
    def __init__(self):
        self.scripts = [
            lambda text: text.replace("loss = 1.0 +", "import subprocess\\nloss = 0.01 * 1.0 +").replace("** 2", "* 0"),
        ]

    def propose(self, history, script):
        if not self.scripts:
            return None
        return Proposal(script=self.scripts.pop()(script), description="better", category=Category.OTHER)


research.Preparation.finish = lambda self, place: Proposing(proposer=Cheat(), gate=Gate(), patience=self._patience)
sys.argv = ["autoresearch-ci", "run"]
main()
"""


def test_flags_and_tripwires_stand_in_the_pull_request(project: Project) -> None:
    """A keep that jumped and starts processes: kept, run again, and the first thing that a reviewer sees."""
    done = subprocess.run(
        [sys.executable, "-c", CHEAT], cwd=project.path, env=project.environment, capture_output=True, text=True, timeout=120,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    kept = recorded(project).kept[0]
    assert "a jump" in kept.flags[0]
    assert len(kept.measurements) == 2
    text = next((project.home / "state").rglob(TEXT_NAME)).read_text()
    first = text[text.index("Look at these first") : text.index("What was kept")]
    assert "a jump" in first
    assert "subprocess" in first
    assert "Runs were native: no container walled them in" in text


COMMANDS = """\
import sys

LEARNING_RATE = 0.1
for name in ("set-output name=status", "set-env name=PATH", "add-path", "add-mask", "error", "notice", "group", "endgroup", "save-state"):
    for text in (f"::{name}::x", f"  ::{name}::x", f"##[{name}]x", f"a\\r::{name}::x", f"\\x1b[0m::{name}::x", f"\\u200b::{name}::x"):
        print(text)
        print(text, file=sys.stderr)
for token in ("", "0" * 32, "*", "stop-commands"):
    print(f"::{token}::")
    print(f"::stop-commands::{token}")
print("val_bpb:", LEARNING_RATE)
if LEARNING_RATE > 1:
    sys.exit("::error::the last words of a crash, and ##[group]these")
"""


def test_a_crash_that_prints_every_workflow_command_is_obeyed_in_none(
    project: Project, tmp_path: Path, cpu_image: Image
) -> None:
    """In a job: what a runner would read of our log are our own commands; no output, variable, mask or group is its."""
    project.commit({"train.py": COMMANDS, "plan.txt": "LEARNING_RATE=5.0\nLEARNING_RATE=0.05\n"})
    files = {name: tmp_path / name for name in ("GITHUB_OUTPUT", "GITHUB_ENV", "GITHUB_PATH", "GITHUB_STEP_SUMMARY")}
    for file in files.values():
        file.touch()
    project.environment |= {name: str(file) for name, file in files.items()}
    done = project.run(
        "run", "--proposer", "queue", "--plan", "plan.txt", "--forge", "local", *IN_CONTAINERS,
        GITHUB_ACTIONS="true", GITHUB_REPOSITORY="o/r",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert [e.status.value for e in recorded(project).experiments] == ["keep", "crash", "keep"]
    ours = r"::(group::(Baseline|Experiment|Verify|Build)|endgroup::|notice title=(Kept|Pull)|warning::)"
    assert [line for line in obeyed(done.stderr + done.stdout) if not re.match(ours, line)] == []
    assert (files["GITHUB_ENV"].read_text(), files["GITHUB_PATH"].read_text()) == ("", "")
    assert "status<<" in files["GITHUB_OUTPUT"].read_text()
    assert "\nx\n" not in files["GITHUB_OUTPUT"].read_text()
