"""Coding agents: whatever one does, only a good script of its comes back, and nothing of it stays behind."""

from __future__ import annotations

import io
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from autoresearch_ci import journal
from autoresearch_ci.agents import AgentRequest, AgentRun
from autoresearch_ci.console import Console
from autoresearch_ci.errors import MachineError, SettingsError
from autoresearch_ci.executors.agents import ContainerAgents, NativeAgents
from autoresearch_ci.executors.image import Image
from autoresearch_ci.executors.owner import Owner
from autoresearch_ci.executors.process_tree import MARKER
from autoresearch_ci.experiment import Category, Direction, Ending, Proposal, Status, Usage
from autoresearch_ci.proposals import Declined, Gate, Proposals
from autoresearch_ci.proposers.agent import PROMPT_NAME, AgentProposer, check_agent
from autoresearch_ci.proposers.agent_presets import PRESETS, preset
from autoresearch_ci.proposers.budget import Budget
from autoresearch_ci.proposers.prompt import Prompts
from autoresearch_ci.runs import Interrupt
from tests.interrupts import After, Never
from tests.project import Project, wait_for
from tests.unit.histories import history
from tests.unit.test_session import BASE, FakeWorkspace

if sys.platform != "linux":
    pytest.skip("the stand-in agents use what Linux has", allow_module_level=True)

SCRIPT = "LEARNING_RATE = 0.1\nWIDTH = 64\nprint('val_bpb:', LEARNING_RATE * WIDTH)\n"
HISTORY = history((1.0, Status.KEEP))
GOOD = """
from pathlib import Path
script = Path("train.py")
script.write_text(script.read_text().replace("0.1", "0.2"))
print("HYPOTHESIS: faster")
print("CATEGORY: optimizer")
print("DESCRIPTION: Double the rate")
"""


@dataclass
class Bench:
    """An agent that is a Python program, and a project of three files."""

    folder: Path

    def proposer(self, program: str, **values: Any) -> AgentProposer:
        agent = self.folder / "agent.py"
        agent.write_text(textwrap.dedent(program))
        prompts = Prompts(
            script_name="train.py", metric="val_bpb", direction=Direction.MINIMIZE, time_budget_s=60, scope="all",
            tokens=8000, log=lambda _: "",
        )  # fmt: skip
        defaults: dict[str, Any] = {
            "preset": preset(None, f"{sys.executable} {agent}"), "launcher": NativeAgents(self.folder / "scratch"),
            "interrupt": Never(), "export": self.export, "script_name": "train.py", "directory": ".", "gate": Gate(),
            "budget": Budget(), "prompts": prompts, "environ": dict(os.environ), "timeout_s": 20.0,
        }  # fmt: skip
        return AgentProposer(**{**defaults, **values})

    @contextmanager
    def export(self, _commit: str) -> Iterator[Path]:
        tree = Path(tempfile.mkdtemp(prefix="tree-", dir=self.folder))
        (tree / "train.py").write_text(SCRIPT)
        (tree / "prepare.py").write_text("READY = True\n")
        try:
            yield tree
        finally:
            shutil.rmtree(tree)

    def run(self, program: str, **values: Any) -> Proposal:
        return self.proposer(program, **values).propose(HISTORY, SCRIPT)

    def declined(self, program: str, **values: Any) -> Declined:
        with pytest.raises(Declined) as caught:
            self.run(program, **values)
        assert "\n" not in caught.value.reason
        assert list((self.folder / "scratch").iterdir()) == []
        return caught.value


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def test_a_good_agent(bench: Bench) -> None:
    """Its script is the proposal, with what it says of it."""
    proposal = bench.run(GOOD)
    assert proposal.script == SCRIPT.replace("0.1", "0.2")
    assert (proposal.description, proposal.category, proposal.rationale) == (
        "Double the rate",
        Category.OPTIMIZER,
        "faster",
    )
    assert (proposal.proposer, proposal.usage, proposal.notes) == ("agent", Usage(calls=1), ())
    assert proposal.parameters == {"from LEARNING_RATE": 0.1, "to LEARNING_RATE": 0.2}


@pytest.mark.parametrize("how", ["stdin", "{prompt}", "{prompt-file}"])
def test_how_the_prompt_is_given(bench: Bench, how: str) -> None:
    """On standard input, which ends; as an argument; or in a file, which is no part of its work."""
    program = """
    import sys
    from pathlib import Path
    text = sys.stdin.read() if len(sys.argv) == 1 else sys.argv[1] if len(sys.argv[1]) > 100 else Path(sys.argv[1]).read_text()
    assert "LEARNING_RATE = 0.1" in text and "DESCRIPTION:" in text and "try more" in text
    Path("train.py").write_text(Path("train.py").read_text().replace("64", "128"))
    """
    command = f"{sys.executable} {bench.folder / 'agent.py'} {'' if how == 'stdin' else how}"
    proposal = bench.proposer(program, preset=preset(None, command)).propose(HISTORY, SCRIPT, wish="try more")
    assert proposal.description == "WIDTH 64 → 128"
    assert proposal.parameters["wish"] == "try more"
    assert proposal.notes == ()


def write(text: str) -> str:
    return f"from pathlib import Path\nPath('train.py').write_bytes({text})\n"


@pytest.mark.parametrize(
    ("program", "reason"),
    [
        ("print('all done!')", "no change"),
        (write(repr(SCRIPT.encode())), "no change"),
        (write(repr((SCRIPT + "# only a comment\n").encode())), "it changes nothing"),
        ("import sys\nprint('no credit')\nsys.exit(3)", "exit code 3: no credit"),
        (GOOD + "raise SystemExit(1)", "exit code 1"),
        ("import os\nos.remove('train.py')", "the script is gone"),
        ("import os\nos.remove('train.py')\nos.symlink('/etc/passwd', 'train.py')", "no regular file"),
        ("import os\nos.remove('train.py')\nos.mkfifo('train.py')", "no regular file"),
        ("import os\nos.remove('train.py')\nos.mkdir('train.py')", "no regular file"),
        (write("b'x = 1\\n' * 2_000_000"), "bytes: no training script has"),
        (write("b'\\xff\\xfe'"), "not UTF-8"),
        (write("b'x = \\x001'"), "control character"),
        (write("b'x = ('"), "does not parse"),
        ("import os, signal\nos.kill(os.getpid(), signal.SIGKILL)", "exit code -9"),
    ],
)
def test_what_is_no_proposal(bench: Bench, program: str, reason: str) -> None:
    """Each has its own reason, and costs a call."""
    declined = bench.declined(program)
    assert reason in declined.reason
    assert declined.usage.calls == 1
    assert any(reason in note for note in declined.notes)


def test_a_folder_that_becomes_a_link(bench: Bench) -> None:
    """Nothing is read through it: what lies there is not the agent's work."""
    outside = bench.folder / "outside"
    outside.mkdir()
    (outside / "train.py").write_text(SCRIPT.replace("0.1", "0.2"))

    @contextmanager
    def export(commit: str) -> Iterator[Path]:
        with bench.export(commit) as tree:
            (tree / "src").mkdir()
            (tree / "train.py").rename(tree / "src" / "train.py")
            yield tree

    values = {"export": export, "script_name": "src/train.py"}
    assert bench.run(f"import os\nos.chdir('src')\n{GOOD}", **values).description == "Double the rate"
    for target, reason in ((outside, "the script's folder is a link now"), ("src", "the script cannot be read")):
        program = f"import os, shutil\nshutil.rmtree('src')\nos.symlink({str(target)!r}, 'src')"
        assert reason in bench.declined(program, **values).reason


def test_a_prompt_longer_than_an_argument(bench: Bench) -> None:
    """Is cut, but for what it asks for at its end."""
    program = """
    import sys
    from pathlib import Path
    assert 100_000 < len(sys.argv[1].encode()) < 128 * 1024 and "LEARNING_RATE" in sys.argv[1]
    assert "# How to work" in sys.argv[1] and sys.argv[1].rstrip().endswith("80 characters")
    Path("train.py").write_text(Path("train.py").read_text().replace("64", "128"))
    """
    made = bench.proposer(program, preset=preset(None, f"{sys.executable} {bench.folder / 'agent.py'} {{prompt}}"))
    made.prompts = replace(made.prompts, tokens=200_000)
    assert made.propose(HISTORY, SCRIPT + "# an old idea — ä\n" * 8000).description == "WIDTH 64 → 128"


class Recorder:
    """A launcher that starts nothing."""

    def __init__(self) -> None:
        self.requests: list[AgentRequest] = []

    def has(self, _program: str) -> bool:
        return True

    def launch(self, request: AgentRequest, _interrupt: Interrupt) -> AgentRun:
        self.requests.append(request)
        return AgentRun(ending=Ending.STOPPED, exit_code=None, output="", stopped_because="it wrote too much")


@pytest.mark.parametrize(
    ("agent", "end"),
    [
        ("claude", ["--model", "m", "-p", "--output-format", "json"]),
        ("codex", ["--model", "m", "-"]),
        ("gemini", ["--model", "m"]),
        ("copilot", ["--model", "m", "-p"]),
        ("opencode", ["--model", "m"]),
        ("aider", ["--model", "m", "--message-file", PROMPT_NAME, "train.py"]),
    ],
)
def test_command_lines(bench: Bench, agent: str, end: list[str]) -> None:
    """A model and an address stand among the options, not behind the prompt; a key is in no argument."""
    recorder = Recorder()
    keys = dict.fromkeys(PRESETS[agent].keys, "sk-0123456789")
    values = {"preset": preset(agent, None), "launcher": recorder, "environ": keys, "model": "m"}
    with pytest.raises(Declined, match="it wrote too much"):
        bench.run("", **values, base_url="http://127.0.0.1:1/v1")
    (request,) = recorder.requests
    words = list(request.command)
    at = words.index("--model")
    assert words[at : at + len(end)] == end
    assert "sk-0123456789" not in " ".join(words)
    assert keys.items() <= request.variables.items()
    assert "http://127.0.0.1:1/v1" in " ".join((*words[:at], *request.variables.values()))
    given = ("LEARNING_RATE" in request.prompt, "LEARNING_RATE" in words[-1], PROMPT_NAME in words)
    assert given.count(True) == 1


def test_files_for_another_address(bench: Bench) -> None:
    """What a preset needs in its folder is laid there, unless the repository has its own, and is no change of the agent's."""
    settings = '{"a": 1}'
    chosen = replace(preset("gemini", None), command=(sys.executable, str(bench.folder / "agent.py")), model=(), files={".gemini/settings.json": settings, "prepare.py": "x"})  # fmt: skip
    program = f"{GOOD}\nassert Path('.gemini/settings.json').read_text() == {settings!r}\nassert 'READY' in Path('prepare.py').read_text()"
    proposal = bench.run(program, preset=chosen, base_url="http://127.0.0.1:1")
    assert (proposal.description, proposal.notes) == ("Double the rate", ())
    assert "exit code 1" in bench.declined(program, preset=chosen).reason


def test_what_else_it_changed(bench: Bench) -> None:
    """Is named and dropped: other files, new ones, a repository of its own with a commit."""
    program = GOOD + textwrap.dedent(
        """
        import os, subprocess
        Path("prepare.py").write_text("READY = False")
        Path("notes").mkdir()
        for n in range(12):
            Path("notes", f"{n}.md").write_text("x")
        subprocess.run(["git", "init", "-q"], check=True)
        subprocess.run(["git", "-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qam", "mine", "--allow-empty"], check=True)
        os.symlink("/etc/passwd", "link")
        """
    )
    proposal = bench.run(program)
    (note,) = proposal.notes
    assert note.startswith("dropped what else the agent changed: .git, link, notes/0.md")
    assert note.endswith("and 5 more")


def test_what_it_sees(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its own variables, and those that were named; no token, and no home of ours."""
    for name in ("GITHUB_TOKEN", "AUTORESEARCH_TOKEN", "SECRET_KEY", "OPENAI_API_KEY", "NAMED"):
        monkeypatch.setenv(name, f"value-of-{name}")
    program = "import json, os\nopen('train.py', 'a').write('SEEN = ' + repr(json.dumps(dict(os.environ))) + chr(10))"
    script = bench.run(program, environ=dict(os.environ), more=("NAMED",)).script
    assert "value-of-NAMED" in script
    assert script.count("value-of-") == 1
    assert str(Path.home()) + '"' not in script
    seen = set(json.loads(script.split("SEEN = '")[1].split("'\n")[0].replace("\\\\", "\\")))
    assert seen <= {"PATH", "HOME", "TMPDIR", "LANG", "LC_ALL", "LC_CTYPE", "TERM", "NO_COLOR", "NAMED", "AUTORESEARCH_OUTPUT_DIR",
                    *[n for n in seen if n.lower().endswith(("_proxy", "_cert_file", "_cert_dir", "_ca_bundle"))]}  # fmt: skip


def test_a_token_is_never_named(bench: Bench) -> None:
    """`agent-env` cannot hand on what can write."""
    with pytest.raises(SettingsError, match="GITHUB_TOKEN"):
        check_agent(preset(None, "python3"), NativeAgents(bench.folder), more=("GITHUB_TOKEN",))


def test_a_token_by_another_name(bench: Bench) -> None:
    """The job's own token is refused also as `COPILOT_GITHUB_TOKEN`, before anything is trained."""
    for environ, refused in (
        ({"COPILOT_GITHUB_TOKEN": "ghs_1", "GITHUB_TOKEN": "ghs_1"}, True),
        ({"COPILOT_GITHUB_TOKEN": "github_pat_2", "GITHUB_TOKEN": "ghs_1"}, False),
    ):
        values = {"preset": preset("copilot", None), "environ": environ}
        if refused:
            with pytest.raises(SettingsError, match="COPILOT_GITHUB_TOKEN holds the job's own token") as caught:
                bench.proposer("", **values)
            assert "ghs_1" not in str(caught.value) + caught.value.hint
        else:
            bench.proposer("", **values)


def test_what_a_dead_session_left(tmp_path: Path) -> None:
    """An agent whose session was killed is ended by the next one, and its home is gone."""
    home = tmp_path / "agent-abc"
    home.mkdir()
    process = subprocess.Popen(["sleep", "600"], env={**os.environ, MARKER: str(home)}, start_new_session=True)
    (tmp_path / "mine").mkdir()
    NativeAgents(tmp_path)
    assert process.wait(10) == -signal.SIGKILL
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_one_that_hangs(bench: Bench) -> None:
    """Is killed at its time limit, with all that it started, also what went into the background."""
    program = """
    import os, subprocess, sys, time
    subprocess.Popen([sys.executable, "-c", "import time; time.sleep(987)"], start_new_session=True)
    time.sleep(600)
    """
    start = time.monotonic()
    assert "did not end in time" in bench.declined(program, timeout_s=1.5).reason
    assert time.monotonic() - start < 20
    assert not [p for p in psutil.process_iter(["cmdline"]) if "time.sleep(987)" in str(p.info["cmdline"])]


def test_one_that_leaves_something_running(bench: Bench) -> None:
    """When the agent ends, so does what it left in the background."""
    program = GOOD + textwrap.dedent(
        """
        import subprocess, sys
        subprocess.Popen([sys.executable, "-c", "import time; time.sleep(986)"], start_new_session=True)
        """
    )
    assert bench.run(program).description == "Double the rate"
    assert not [p for p in psutil.process_iter(["cmdline"]) if "time.sleep(986)" in str(p.info["cmdline"])]


def test_two_at_once(bench: Bench) -> None:
    """Each works in its own export and home. The one that ends first takes what it left with it, and nothing of the other's."""
    program = f"""
    import os, subprocess, sys, time
    from pathlib import Path
    here = Path({str(bench.folder)!r})
    number = 1
    try:
        (here / "number-1").mkdir()
    except FileExistsError:
        number = 2
        (here / "number-2").mkdir()
    left = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(985)"], start_new_session=True)
    while not (here / "number-2").exists():
        time.sleep(0.02)
    while number == 2 and len(list((here / "scratch").glob("agent-*"))) > 1:  # the other one is not put away yet
        time.sleep(0.02)
    if number == 2:
        time.sleep(0.3)
        assert left.poll() is None, "the other one took it"
    script = Path("train.py")
    script.write_text(script.read_text().replace("64", f"{{64 + number}}"))
    print("DESCRIPTION: number", number)
    """
    proposer = bench.proposer(program)
    made = Proposals(
        proposer=proposer, gate=proposer.gate, relieve=lambda _: None, workspace=FakeWorkspace(SCRIPT), floor=proposer.floor,
        console=Console(io.StringIO(), io.StringIO()), interrupt=Never(),
    )  # fmt: skip
    seen = replace(HISTORY, experiments=(replace(HISTORY.experiments[0], commit=BASE),))
    with ThreadPoolExecutor(2) as pool:
        asked = [pool.submit(made.following, seen), pool.submit(made.following, seen)]
        found = [each.result(60) for each in asked]
    assert {proposal.description for proposal in found if proposal is not None} == {"number 1", "number 2"}
    assert {proposal.script for proposal in found if proposal is not None} == {
        SCRIPT.replace("64", "65"), SCRIPT.replace("64", "66"),
    }  # fmt: skip
    assert not [p for p in psutil.process_iter(["cmdline"]) if "time.sleep(985)" in str(p.info["cmdline"])]
    assert not list((bench.folder / "scratch").iterdir())


def test_one_that_floods_its_output(bench: Bench) -> None:
    """100 MB of output are not kept: its end is, with what it says there."""
    before = psutil.Process().memory_info().rss
    proposal = bench.run(
        "import sys\nfor _ in range(1000):\n    sys.stdout.write('x' * 100_000 + '\\n')\n" + GOOD, timeout_s=120.0
    )
    assert proposal.description == "Double the rate"
    assert psutil.Process().memory_info().rss - before < 100 * 2**20


def test_ctrl_c(bench: Bench) -> None:
    """Ends the agent at once."""
    start = time.monotonic()
    declined = bench.declined("import time\ntime.sleep(600)", interrupt=After(0.5))
    assert "interrupted" in declined.reason
    assert time.monotonic() - start < 10


def test_limits(bench: Bench) -> None:
    """Calls and a cost that it reports itself count; what would pass a limit is not started."""
    made = bench.proposer(GOOD, budget=Budget(max_calls=1))
    made.propose(HISTORY, SCRIPT)
    with pytest.raises(Declined, match="max-calls"):
        made.propose(HISTORY, SCRIPT)
    with pytest.raises(Declined, match="prompt-tokens"):
        bench.proposer(GOOD).propose(HISTORY, SCRIPT * 2000)


def test_one_that_is_not_there(bench: Bench) -> None:
    """Is an error with how to install it; so is a command that is none."""
    launcher = NativeAgents(bench.folder)
    empty = replace(preset("codex", None), command=("no-such-codex", "exec"))
    with pytest.raises(SettingsError, match="`no-such-codex` is not installed") as caught:
        check_agent(empty, launcher)
    assert "npm install -g @openai/codex" in caught.value.hint
    not_a_program = bench.folder / "agent.txt"
    not_a_program.write_text("x")
    with pytest.raises(SettingsError, match="cannot be started"):
        bench.run("", preset=preset(None, str(not_a_program)))
    for name, command in ((None, None), (None, " "), (None, "'")):
        with pytest.raises(SettingsError):
            preset(name, command)


@pytest.fixture
def containers(cpu_image: Image) -> ContainerAgents:
    import docker

    return ContainerAgents(docker.from_env(), cpu_image.tag)


def test_in_a_container(bench: Bench, containers: ContainerAgents) -> None:
    """With `agent-image` the agent works in a container that has the export, its key, and nothing else of the machine."""
    program = (
        "import os, sys\nassert 'LEARNING_RATE' in sys.stdin.read()\nassert not os.path.exists('/root/.ssh')\nassert os.environ['NAMED'] == 'n'\n"
        + GOOD
    )
    command = preset(None, f"python3 -c {shlex.quote(program)}")
    proposal = bench.run("", preset=command, launcher=containers, environ={"NAMED": "n"}, more=("NAMED",))
    assert proposal.description == "Double the rate"


def test_in_a_container_that_hangs(bench: Bench, containers: ContainerAgents) -> None:
    """It is killed at its limit, and gone."""
    import docker

    (bench.folder / "scratch").mkdir()
    declined = bench.declined("", preset=preset(None, "sleep 600"), launcher=containers, timeout_s=1.0)
    assert "did not end in time" in declined.reason
    declined = bench.declined("", preset=preset(None, "sleep 600"), launcher=containers, interrupt=After(0.5))
    assert "interrupted" in declined.reason
    assert mine(docker.from_env()) == []


def mine(client: Any) -> list[Any]:
    labels = Owner.of_this_process("agents").labels()
    return [c for c in client.containers.list(all=True) if c.labels.items() >= labels.items()]


def test_what_a_dead_session_left_in_the_engine(cpu_image: Image) -> None:
    """The container of an agent whose session was killed is removed by the next one; that of one that lives is not."""
    import docker

    client = docker.from_env()
    gone = subprocess.Popen(["true"])
    gone.wait()
    dead = {**Owner.of_this_process("agents").labels(), "autoresearch-ci.pid": str(gone.pid)}
    left = client.containers.create(cpu_image.tag, ["sleep", "600"], labels=dead)
    living = client.containers.create(cpu_image.tag, ["sleep", "600"], labels=Owner.of_this_process("agents").labels())
    try:
        ContainerAgents(client, cpu_image.tag)
        with pytest.raises(docker.errors.NotFound):
            left.reload()
        assert mine(client) == [living]
    finally:
        living.remove(force=True)


def test_a_container_without_the_program(bench: Bench, containers: ContainerAgents) -> None:
    """An agent that the image lacks ends with the shell's words."""
    (bench.folder / "scratch").mkdir()
    assert "exit code 127" in bench.declined("", preset=preset(None, "no-such-agent"), launcher=containers).reason


def test_an_image_that_is_not_there() -> None:
    """Is an error before anything is trained."""
    import docker

    with pytest.raises(MachineError, match="no image"):
        ContainerAgents(docker.from_env(), "no-such-image:latest")
    with pytest.raises(MachineError, match="the agent's image"):
        ContainerAgents(docker.from_env(), "No Image!")


def test_a_whole_session(project: Project, tmp_path: Path) -> None:
    """By the program: keeps are the agent's, and its commits say so; where it has nothing, the search takes over."""
    agent = tmp_path / "agent.py"
    agent.write_text(
        textwrap.dedent(
            """
            import re, sys
            from pathlib import Path
            assert "Tried so far" in sys.stdin.read()
            script = Path("train.py")
            text = script.read_text()
            width = int(re.search(r"WIDTH = (\\d+)", text)[1])
            if width < 128:
                script.write_text(text.replace(f"WIDTH = {width}", f"WIDTH = {2 * width}"))
                Path("prepare.py").write_text("x")
            print("done")
            """
        )
    )
    done = project.run(
        "run",
        "--proposer",
        "agent",
        "--agent-command",
        f"{sys.executable} {agent}",
        "--max-iterations",
        "2",
        "--verify-runs",
        "0",
        "--prefetch",
        "0",
    )
    assert done.returncode == 0, done.stderr
    after = journal.parse(next((project.home / "state").rglob("journal.jsonl")).read_bytes()).experiments[1:]
    assert (after[0].proposer, after[0].status) == ("agent", Status.KEEP)
    assert after[0].notes == ("dropped what else the agent changed: prepare.py",)
    assert after[1].proposer == "search"
    assert "refused: no change" in after[1].notes
    assert "Autoresearch-Proposer: agent" in project.git("log", "-1", "--format=%B", after[0].commit)


def test_ctrl_c_in_a_session(project: Project, tmp_path: Path) -> None:
    """The agent is gone, and everything decided is saved."""
    started = tmp_path / "started"
    agent = tmp_path / "agent.py"
    agent.write_text(f"import time\nopen({str(started)!r}, 'w').close()\ntime.sleep(601)\n")
    process = project.start("run", "--proposer", "agent", "--agent-command", f"{sys.executable} {agent}")
    wait_for(started.exists)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert not [p for p in psutil.process_iter(["cmdline"]) if str(agent) in str(p.info["cmdline"])]


def test_an_agent_that_is_not_installed(project: Project) -> None:
    """Exit code 2 before anything is trained, with how to get it."""
    for arguments, says in (
        (("--agent", "copilot"), "`copilot` is not installed"),
        ((), "there is no agent"),
        (("--agent-command", "python3", "--agent-env", "GITHUB_TOKEN"), "`agent-env` cannot name GITHUB_TOKEN"),
        (("--agent-command", "python3", "--base-url", "https://models.github.ai/inference"), "retired in July 2026"),
    ):
        done = project.run("run", "--proposer", "agent", *arguments)
        assert done.returncode == 2, done.stderr
        assert says in done.stderr
        assert "Baseline" not in done.stderr
