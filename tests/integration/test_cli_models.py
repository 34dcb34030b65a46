"""Whole sessions with a model: the real program, the real SDK, and a local endpoint that says what a script tells it."""

from __future__ import annotations

import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator

import pytest

from autoresearch_ci import journal
from autoresearch_ci.experiment import History, Status
from tests.models.server import ModelServer, Reply, Request, error, in_turn
from tests.project import Project, wait_for

KEY = "sk-proj-0123456789abcdefABCDEF"
FOUR = ("--parallel", "4", "--device-sharing", "warn")  # also on two cores


@pytest.fixture
def server() -> Iterator[ModelServer]:
    with ModelServer(in_turn([])) as made:
        yield made


def recorded(project: Project) -> History:
    return journal.parse(next((project.home / "state").rglob("journal.jsonl")).read_bytes())


def research(project: Project, server: ModelServer, proposer: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """A session that goes well, with the server's model."""
    done = project.run(
        "run",
        "--proposer",
        proposer,
        "--model",
        "m",
        "--base-url",
        server.url,
        "--verify-runs",
        "0",
        *arguments,
        timeout_s=120,
    )
    assert done.returncode == 0, done.stderr
    return done


def block(search: str, replace: str, description: str = "A change") -> str:
    return (
        f"HYPOTHESIS: it may help\nCATEGORY: optimizer\nDESCRIPTION: {description}\n\n```python\n<<<<<<< SEARCH\n{search}\n=======\n"
        f"{replace}\n>>>>>>> REPLACE\n```\n"
    )


def current(request: Request, name: str) -> str:
    """The line of a constant in the script that the model was shown last."""
    (*_, line) = re.findall(rf"^{name} = .*$", request.body["messages"][1]["content"], re.MULTILINE)
    return str(line)


class Night:
    """40 experiments' worth of answers: of every 20 first answers one is a no-op, two are broken, two fit nowhere, one is out of
    scope and one a repeat; what is sent back is answered well, but for every third of them, which stays as bad as it is."""

    BAD = ("no-op", "broken", "mismatch", "broken", "mismatch", "scope", "repeat")

    def __init__(self) -> None:
        self.first = 0
        self.values = 0
        self.bad = 0
        self.kind = "good"
        self.stubborn = False

    def __call__(self, request: Request) -> Reply:
        if len(request.body["messages"]) == 2:  # a new question, not a correction
            place = self.first % 20
            self.kind = self.BAD[place // 2] if place % 2 == 1 and place // 2 < len(self.BAD) else "good"
            self.first += 1
            self.bad += self.kind != "good"
            self.stubborn = self.bad % 3 == 0
        elif not self.stubborn:
            self.kind = "good"
        return Reply(self.text(request))

    def text(self, request: Request) -> str:
        rate = current(request, "LEARNING_RATE")
        match self.kind:
            case "no-op":
                return block(rate, f"{rate}  # tuned")
            case "broken":
                return block(rate, "LEARNING_RATE = (")
            case "mismatch":
                return block("LEARNING_RATE = 12345\nWIDTH = none", "LEARNING_RATE = 1")
            case "scope":
                return block("import math", "import math\nimport json")
            case "repeat":  # of the version before the last
                return block(rate, f"LEARNING_RATE = {0.05 + 0.002 * (self.values - 1):.4f}")
        self.values += 1
        if self.values == 1:
            return block(current(request, "WIDTH"), "WIDTH = 65")
        return block(rate, f"LEARNING_RATE = {0.05 + 0.002 * self.values:.4f}", f"Rate number {self.values}")


def test_forty_experiments_and_no_time_for_what_cannot_run(project: Project, server: ModelServer) -> None:
    """No-ops, broken code, blocks that fit nowhere, repeats and what is out of scope cost a question and never a run."""
    night = Night()
    server.answers = night
    done = project.run(
        "run", "--tag", "night", "--proposer", "llm", "--model", "scripted", "--base-url", server.url, "--scope",
        "hyperparameters", "--max-iterations", "40", "--verify-runs", "1", "--price-input", "1", "--price-output", "10",
        timeout_s=400,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert night.bad >= 12
    history = recorded(project)
    after = history.experiments[1:]
    assert len(after) == 40
    assert history.of(Status.CRASH) == ()
    fingerprints = [e.fingerprint for e in history.experiments]
    assert len(set(fingerprints)) == len(fingerprints)
    assert all(len({m.fingerprint for m in e.measurements if m.commit == e.commit}) == 1 for e in after)
    proposers = {e.proposer for e in after}
    assert proposers == {"llm", "search"}  # where the model stayed bad, the search took over
    notes = "\n".join(note for e in after for note in e.notes)
    for reason in (
        "it changes nothing",
        "does not parse",
        "not in the file",
        "the scope is hyperparameters",
        "tried before",
    ):
        assert reason in notes
    asked = sum(e.usage.calls for e in after)
    assert asked == len(server.requests)
    assert sum(e.usage.input_tokens for e in after) == 1000 * asked
    assert sum(e.usage.cost or 0 for e in after) == pytest.approx(asked * (1000 * 1 + 100 * 10) / 1e6)
    for kept in history.kept:
        message = project.git("log", "-1", "--format=%B", kept.commit)
        assert f"Autoresearch-Proposer: {kept.proposer}" in message
    assert {e.proposer for e in history.kept} >= {"llm"}
    status = project.run("status", "--tag", "night").stdout
    assert re.search(r"Kept by proposer:\*\* .*llm \d+ of \d+.* · \*\*by category:", status)
    assert f"**Models:** {asked} calls, " in status
    page = next((project.home / "state").rglob("pull-requests/**/*.html")).read_text()
    assert "<h2>Proposers</h2>" in page
    assert f"Models: {asked} calls" in page
    summary = project.git("show", "autoresearch/night:autoresearch-summary.md")
    assert "### Kept by proposer" in summary
    assert "$" in summary[summary.index("## Proposers") :]


def first_error(project: Project, *arguments: str, code: int, timeout_s: float = 60, **environment: str) -> str:
    """The one line and the hint of a session that could not begin, or go on."""
    done = project.run("run", "--max-iterations", "2", *arguments, timeout_s=timeout_s, **environment)
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    assert KEY not in done.stderr + done.stdout
    lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    return done.stderr[done.stderr.index("error: ") :]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--model", "m"), "OPENAI_API_KEY is not set"),
        (("--model", "claude-x"), "ANTHROPIC_API_KEY is not set"),
        (("--base-url", "http://127.0.0.1:9/v1"), "`model` must be set"),
        (("--model", "m", "--base-url", "https://models.github.ai/inference"), "retired in July 2026"),
        (("--model", "m", "--base-url", "htp:/x"), "no http or https address"),
        (("--model", "m", "--max-cost", "1"), "`price-input`"),
        (("--model", "m", "--base-url", "http://127.0.0.1:9/v1", "--plan", "none.yaml"), "no `none.yaml`"),
    ],
)
def test_settings_that_cannot_work(project: Project, arguments: tuple[str, ...], says: str) -> None:
    """Exit code 2 before anything is trained."""
    message = first_error(project, "--proposer", "llm", *arguments, code=2)
    assert says in message
    assert "Baseline" not in message


@pytest.mark.parametrize(
    ("reply", "says"),
    [
        (error(401, "Incorrect API key provided: " + KEY), "401"),
        (error(404, "The model `m` does not exist"), "404"),
        (Reply(status=200, raw=b"<html>login</html>", headers={"content-type": "text/html"}), "web page"),
    ],
    ids=["wrong key", "unknown model", "web page"],
)
def test_an_endpoint_that_cannot_be_used(project: Project, server: ModelServer, reply: Reply, says: str) -> None:
    """Exit code 5, with what to look at; the baseline stays recorded."""
    server.answers = in_turn([reply])
    message = first_error(
        project,
        "--proposer",
        "llm",
        "--model",
        "m",
        "--base-url",
        server.url,
        "--api-key-env",
        "MY_KEY",
        code=5,
        MY_KEY=KEY,
    )
    assert says in message
    assert len(recorded(project).experiments) == 1
    for file in (project.home / "state").rglob("*"):
        assert not file.is_file() or KEY.encode() not in file.read_bytes(), file


def test_an_endpoint_that_is_busy_all_night(project: Project, server: ModelServer) -> None:
    """429 without end: each experiment goes to the search after the time limit, and the journal says why."""
    server.answers = lambda _: error(429, "slow down", retry_after="600")
    research(project, server, "llm", "--max-iterations", "2", "--model-timeout", "1s")
    after = recorded(project).experiments[1:]
    assert [e.proposer for e in after] == ["search", "search"]
    assert all("no answer in 1 s" in note for e in after for note in e.notes)


HOSTILE: dict[str, Callable[[Request], str]] = {
    "another language": lambda _: "Ich würde die Lernrate erhöhen, aber ohne Code.",
    "the same file": lambda r: (
        "```python\n" + re.findall(r"```python\n(.*?)```", r.body["messages"][1]["content"], re.DOTALL)[0] + "```"
    ),
    "another file": lambda _: "prepare.py\n" + block('"""Nothing to prepare."""', "EVIL = 1"),
    "NUL": lambda r: block(current(r, "WIDTH"), "WIDTH = 6\x005"),
    "ten megabytes": lambda _: "x" * 10_000_000,
    "workflow commands": lambda _: "::set-output name=x::y\n##[group]z\n\x1b[31m",
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_answers(project: Project, server: ModelServer, kind: str) -> None:
    """None of them is run; the search takes over, and the session ends well."""
    server.answers = lambda request: Reply(HOSTILE[kind](request))
    done = research(project, server, "llm", "--max-iterations", "1")
    (made,) = recorded(project).experiments[1:]
    assert made.proposer == "search"
    assert made.notes
    assert not re.search(r"^(::set-output|##\[group\])", done.stderr + done.stdout, re.MULTILINE)
    assert "\x1b[31m" not in done.stderr


def test_a_stream_that_is_cut(project: Project, server: ModelServer) -> None:
    """It is asked again, and the second answer counts."""
    replies = iter([True, False])
    server.answers = lambda r: Reply(block(current(r, "WIDTH"), "WIDTH = 128"), cut=next(replies, False))
    research(project, server, "llm", "--max-iterations", "1")
    (made,) = recorded(project).experiments[1:]
    assert (made.proposer, made.usage.calls) == ("llm", 2)


def test_a_limit_is_reached(project: Project, server: ModelServer) -> None:
    """After `max-calls` the search goes on alone; a resumed session has not forgotten what was spent."""
    values = iter(range(100, 200))
    server.answers = lambda r: Reply(block(current(r, "WIDTH"), f"WIDTH = {next(values)}"))
    for experiments in ("1", "4"):
        research(project, server, "llm", "--tag", "t", "--max-calls", "2", "--max-iterations", experiments)
    assert [e.proposer for e in recorded(project).experiments[1:]] == ["llm", "llm", "search", "search"]
    assert len(server.requests) == 2


def test_a_crash_is_mended_within_its_experiment(project: Project, server: ModelServer) -> None:
    """`repair-attempts`: the version with the mistake and the one without are runs of the same experiment."""

    def answer(request: Request) -> Reply:
        if "crashed:" in request.body["messages"][1]["content"]:
            assert "NameError" in request.last
            return Reply(block("WIDTH = wide", "WIDTH = 128"))
        return Reply(block(current(request, "WIDTH"), "WIDTH = wide", "A wider layer"))

    server.answers = answer
    research(project, server, "llm", "--max-iterations", "1", "--repair-attempts", "1")
    (made,) = recorded(project).experiments[1:]
    assert (made.status, made.description) == (Status.KEEP, "A wider layer (mended)")
    assert [m.run.exit_code for m in made.measurements] == [1, 0]
    assert made.usage.calls == 2


def test_hybrid_shares_and_both_learn(project: Project, server: ModelServer) -> None:
    """The model has its share; it is shown what the optimizer found, and its moves are the optimizer's record as well."""
    values = iter([100, 128, 160, 200, 256, 300])
    server.answers = lambda r: Reply(block(current(r, "WIDTH"), f"WIDTH = {next(values)}"))
    research(project, server, "hybrid", "--max-iterations", "10")
    made = [e.proposer for e in recorded(project).experiments[1:]]
    assert made.count("llm") == 3
    assert made.count("search") == 7
    assert "An optimizer works on the same script" in server.requests[0].body["messages"][1]["content"]
    assert all("to WIDTH" in e.parameters for e in recorded(project).experiments[1:] if e.proposer == "llm")


PLAN = """\
vary:
  WIDTH: [64, 256]
  LEARNING_RATE: [0.01, 0.3]
hold: [DROPOUT, budget]
try:
  - a schedule would help here
  - {WIDTH: 128, LEARNING_RATE: 0.08}
then: search
"""


def test_a_plan_from_a_lead_researcher(project: Project, server: ModelServer) -> None:
    """Words go to the model, values are set, and whoever goes on keeps to what is varied and held."""
    project.commit({"plan.yaml": PLAN.replace("then: search", "then: llm")})
    asked: list[str] = []  # the plan's own `then` says who goes on, whatever the setting

    def answer(request: Request) -> Reply:
        asked.append(request.body["messages"][1]["content"])
        if "The person who started this asks" in asked[-1]:
            return Reply(block(current(request, "LEARNING_RATE"), "LEARNING_RATE = 0.06"))
        name = "DROPOUT" if len(asked) % 2 else "WIDTH"
        return Reply(block(current(request, name), f"{name} = {5000 + len(asked)}"))

    server.answers = answer
    research(
        project, server, "queue", "--plan", "plan.yaml", "--max-iterations", "5", "--hypothesis", "LEARNING_RATE=0.05"
    )
    after = recorded(project).experiments[1:]
    assert [e.proposer for e in after] == ["queue", "llm", "queue", "search", "search"]
    assert "a schedule would help here" in asked[0]
    assert "These stay exactly as they are: `DROPOUT`" in server.requests[0].body["messages"][0]["content"]
    assert [e.parameters.get("wish") for e in after][:3] == [
        "LEARNING_RATE=0.05", "a schedule would help here", "WIDTH=128, LEARNING_RATE=0.08",
    ]  # fmt: skip
    notes = " ".join(note for e in after for note in e.notes)
    assert "is held by the plan" in notes
    assert "varies it within 64 to 256" in notes
    moved = {key for e in after[3:] for key in e.parameters}
    assert moved <= {"from WIDTH", "to WIDTH", "from LEARNING_RATE", "to LEARNING_RATE"}


def test_a_plan_that_only_holds(project: Project) -> None:
    """With `then: none` and nothing to try the baseline is all there is."""
    project.commit({"plan.yml": "hold: [DROPOUT]\nthen: none\n"})
    done = project.run("run", "--plan", "plan.yml")
    assert done.returncode == 0, done.stderr
    assert len(recorded(project).experiments) == 1
    assert "nothing is left to try" in done.stderr


def test_a_slow_model_feeds_four_slots(project: Project, server: ModelServer) -> None:
    """A proposal for every slot is made at once; none is made twice or for nothing, and the journal knows what all of them took."""
    values, asked = iter(range(100, 200)), list[float]()

    def answer(request: Request) -> Reply:
        asked.append(time.monotonic())
        return Reply(
            block(current(request, "WIDTH"), f"WIDTH = {next(values)}"), wait_s=15.0 if len(asked) <= 4 else 0.1
        )

    server.answers = answer
    research(project, server, "llm", *FOUR, "--max-iterations", "6", "--prefetch", "0")
    assert asked[3] - asked[0] < 15.0, "the fourth was not asked before the first one answered"
    made = recorded(project).experiments[1:]
    assert [e.proposer for e in made] == ["llm"] * 6
    assert len({e.fingerprint for e in made}) == 6
    assert sum(e.usage.calls for e in made) == len(server.requests)
    told = [r.prompt.count("somebody else thinks of something in this direction") for r in server.requests[:4]]
    assert sorted(told) == [0, 1, 2, 3]


def test_ctrl_c_while_four_models_think(project: Project, server: ModelServer) -> None:
    """All four questions are dropped at once."""
    server.answers = lambda _: Reply("late", wait_s=60)
    process = project.start("run", "--proposer", "llm", "--model", "m", "--base-url", server.url, *FOUR)
    wait_for(lambda: len(server.requests) == 4)
    start = time.monotonic()
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert time.monotonic() - start < 20
    assert recorded(project).ended == "stopped by hand"


def test_ctrl_c_while_the_model_thinks(project: Project, server: ModelServer) -> None:
    """The question is dropped, everything decided is saved and reported."""
    server.answers = lambda _: Reply("late", wait_s=60)
    process = project.start("run", "--proposer", "llm", "--model", "m", "--base-url", server.url)
    wait_for(lambda: bool(server.requests))
    start = time.monotonic()
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert time.monotonic() - start < 20
    assert len(recorded(project).experiments) == 1
    assert recorded(project).ended == "stopped by hand"
