from __future__ import annotations

import dataclasses
import itertools
import shutil
import subprocess
import sysconfig
from pathlib import Path
from typing import Any

import pytest
import yaml

from autoresearch_ci import settings
from autoresearch_ci.errors import SettingsError
from autoresearch_ci.workflow_template import NIGHTLY, PROJECT, SCHEMA_URL, TIMEZONE, Answers, _check_timezone, render
from tests.runner import Event, Job, Started, start

ROOT = Path(__file__).parents[2]
BASICS = {"time-budget": "5m", "metric": "val_bpb", "direction": "minimize"}
ACTION = f"{PROJECT}/action"
REUSABLE = (ROOT / ".github/workflows/research.yml").read_text(encoding="utf-8")
INPUTS = set(yaml.safe_load((ROOT / "action/action.yml").read_text(encoding="utf-8"))["inputs"])


def make(flags: dict[str, str] | None = None, **answers: Any) -> str:
    return render(settings.load(flags=BASICS | (flags or {})).settings, Answers(**answers))


def parse(text: str) -> Any:
    return yaml.load(text, yaml.BaseLoader)  # every value a text, and `on` a key rather than a boolean


def dispatch(text: str, **inputs: str) -> Started:
    return start(text, Event(trigger="workflow_dispatch", inputs={k.replace("_", "-"): v for k, v in inputs.items()}))


def comment(text: str, body: str, *, on_pull_request: bool = True) -> Started:
    issue = {"number": 7} | ({"pull_request": {"url": "…"}} if on_pull_request else {})
    return start(text, Event(trigger="issue_comment", payload={"issue": issue, "comment": {"body": body}}))


NIGHT = Event(trigger="schedule")


def handed(job: Job) -> dict[str, str]:
    """What the action is told beside what is always said."""
    usual = {"job-timeout", "max-hours", "working-directory"}
    return {name: value for name, value in job.arguments[ACTION].items() if value and name not in usual}


SETTINGS: list[dict[str, str]] = [
    {},
    {"max-hours": "40", "scope": "optimizer", "platform": "cuda", "continue": "true"},
    {"metric": "a'b\"c${{x}}", "proposer": "hybrid", "tag": "exp-{date}"},
]
ANSWERS: list[dict[str, Any]] = [
    {},
    {"cron": None},
    {"cron": None, "comments": False},
    {"cron": "7 3 * * 1-5", "timezone": "Europe/Berlin", "runs_on": ("self-hosted", "gpu"), "nights": "one"},
    {"environment": "research"},
    {"environment": "my research", "confirm_nights": True, "nights": "one", "small_runs_on": ("self-hosted", "small")},
    {"environment": "research", "cron": None, "comments": False, "runs_on": ("ubuntu-latest",)},
    {"comments": False, "runs_on": ("my: odd label",)},
]
COMBINATIONS = list(itertools.product(SETTINGS, ANSWERS))


def test_every_workflow_is_valid_and_safe(tmp_path: Path) -> None:
    """Whatever was answered, the workflow passes GitHub's schema and zizmor's strictest persona."""
    assert len(COMBINATIONS) >= 20
    folder = tmp_path / ".github/workflows"
    folder.mkdir(parents=True)
    for number, (flags, answers) in enumerate(COMBINATIONS):
        (folder / f"{number}.yml").write_text(make(flags, **answers), encoding="utf-8")
    files = [str(file) for file in sorted(folder.iterdir())]
    check(["check-jsonschema", "--builtin-schema", "vendor.github-workflows", *files])
    check(["zizmor", "--offline", "--persona=pedantic", str(tmp_path)])


def test_what_we_ship_is_valid_and_safe() -> None:
    """So do this project's own workflows and its action."""
    check(["zizmor", "--offline", "--persona=pedantic", str(ROOT / ".github"), str(ROOT / "action")])
    files = [str(file) for file in sorted((ROOT / ".github/workflows").glob("*.yml"))]
    check(["check-jsonschema", "--builtin-schema", "vendor.github-workflows", *files])
    check(["check-jsonschema", "--builtin-schema", "vendor.github-actions", str(ROOT / "action/action.yml")])


def check(command: list[str]) -> None:
    program = shutil.which(command[0], path=sysconfig.get_path("scripts"))
    assert program is not None
    result = subprocess.run([program, *command[1:]], capture_output=True, text=True, timeout=120, check=False)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize(("flags", "answers"), COMBINATIONS)
def test_every_start_hands_over_only_what_the_action_has(flags: dict[str, str], answers: dict[str, Any]) -> None:
    """Started in each of its ways, no job tells the action anything under a name that it does not know."""
    text = make(flags, **answers)
    triggers = set(parse(text)["on"])
    for event in (Event(trigger="workflow_dispatch"), NIGHT, Event(trigger="issue_comment")):
        if event.trigger in triggers:
            for job in start(text, event).jobs.values():
                assert job.arguments[ACTION].keys() <= INPUTS
    expected = {"workflow_dispatch"}
    expected |= {"schedule"} if answers.get("cron", NIGHTLY) else set()
    expected |= {"issue_comment"} if answers.get("comments", True) else set()
    assert triggers == expected


QUICK_STARTS: list[tuple[dict[str, str], dict[str, str], str]] = [
    ({}, {}, "autoresearch"),
    (
        {"hypothesis": "LEARNING_RATE=3e-4"},
        {"hypothesis": "LEARNING_RATE=3e-4"},
        "autoresearch, first LEARNING_RATE=3e-4",
    ),
    ({"max-iterations": "20"}, {"max-iterations": "20"}, "autoresearch, 20 experiments"),
    ({"tag": "nov22", "resume": "require"}, {"tag": "nov22", "resume": "require"}, "autoresearch nov22 goes on"),
    ({"task": "report"}, {"task": "report"}, "autoresearch: report"),
]


@pytest.mark.parametrize("text", [make(), REUSABLE], ids=["of init", "reusable"])
@pytest.mark.parametrize(("inputs", "told", "name"), QUICK_STARTS)
def test_the_quick_starts(text: str, inputs: dict[str, str], told: dict[str, str], name: str) -> None:
    """Each of the skill's five ways to begin is a dispatch, tells the action just that, and is named after it."""
    started = start(text, Event(trigger="workflow_dispatch", inputs=inputs))
    assert started.running == ["research"]
    assert handed(started.jobs["research"]) == told
    assert started.run_name == name.replace("autoresearch", parse(text)["name"])


def test_the_quick_starts_are_documented() -> None:
    """README.md shows a command for each, with these inputs."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for inputs, _, _ in QUICK_STARTS:
        flags = "".join(f" -f {name}={value}" for name, value in inputs.items())
        assert f"gh workflow run autoresearch.yml{flags}`" in readme


@pytest.mark.parametrize("text", [make(), REUSABLE], ids=["of init", "reusable"])
def test_analysing_waits_for_nothing(text: str) -> None:
    """What only reads is on another runner than the training, and in another group than the session."""
    report = dispatch(text, tag="nov22", task="report").jobs["research"]
    session = dispatch(text, tag="nov22").jobs["research"]
    assert (report.runs_on, session.runs_on) == ("ubuntu-latest", "self-hosted")
    assert report.group != session.group


def test_a_night_on_a_new_branch() -> None:
    """Each night has a tag of its own, and starts from the base."""
    started = start(make(), NIGHT)
    assert started.running == ["research"]
    assert handed(started.jobs["research"]) == {"tag": "nightly-{date}"}
    assert started.run_name == "autoresearch nightly"
    assert parse(make())["on"]["schedule"] == [{"cron": NIGHTLY, "timezone": TIMEZONE}]


def test_nights_on_one_branch() -> None:
    """One tag goes on, and follows the base; a session by hand does neither unless asked to."""
    text = make(nights="one")
    assert handed(start(text, NIGHT).jobs["research"]) == {"tag": "nightly", "follow-base": "true"}
    assert handed(dispatch(text).jobs["research"]) == {}


@pytest.mark.parametrize(
    ("tag", "nights", "night", "group", "by_hand"),
    [
        ("exp-{date}", "new", "exp-{date}", "autoresearch-exp", "autoresearch-exp"),
        ("exp", "one", "exp", "autoresearch-exp", "autoresearch-exp"),
        ("exp", "new", "nightly-{date}", "autoresearch-nightly", "autoresearch-exp"),
        ("{date}", "new", "{date}", "autoresearch-nightly", "autoresearch-{date}"),
        ("exp-{date}", "one", "nightly", "autoresearch-nightly", "autoresearch-exp-{date}"),
    ],
)
def test_a_configured_tag_is_that_of_the_nights_where_it_can_be(
    tag: str, nights: str, night: str, group: str, by_hand: str
) -> None:
    """A tag with a date fits nights on new branches, one without fits nights on one branch."""
    text = make({"tag": tag}, nights=nights)
    job = start(text, NIGHT).jobs["research"]
    assert (job.arguments[ACTION]["tag"], job.group) == (night, group)
    assert dispatch(text).jobs["research"].group == by_hand


@pytest.mark.parametrize("nights", ["new", "one"])
def test_one_after_another_for_each_tag(nights: str) -> None:
    """Sessions of one tag are in one group, also a night and what continues it; nobody in it is cancelled or replaced."""
    text = make(nights=nights)
    groups = [dispatch(text, tag=tag).jobs["research"].group for tag in ("nov22", "nov23", "")]
    assert groups == ["autoresearch-nov22", "autoresearch-nov23", "autoresearch-configured"]
    night = start(text, NIGHT).jobs["research"].group
    assert {dispatch(text, tag=tag).jobs["research"].group for tag in ("nightly-2026-11-22", "nightly-2")} == {night}
    assert dispatch(text, tag="nov22", task="continue 20").jobs["research"].group == groups[0]
    for workflow in (text, make(environment="research"), REUSABLE):
        for job in parse(workflow)["jobs"].values():
            assert (job["concurrency"]["cancel-in-progress"], job["concurrency"]["queue"]) == ("false", "max")


@pytest.mark.parametrize("text", [make(), REUSABLE.replace("on:\n  workflow", "on:\n  issue_comment:\n  workflow")])
def test_comments(text: str) -> None:
    """A comment for us on a pull request is answered, away from the runner and the groups of the sessions; no other is."""
    started = comment(text, "/autoresearch stop\n")
    assert started.running == ["comments"]
    job = started.jobs["comments"]
    assert handed(job) == {"task": "comment"}
    assert job.runs_on == "ubuntu-latest"
    assert job.group == "autoresearch-comments-7"
    assert comment(text, "well done, /autoresearch").running == []
    assert comment(text, "/autoresearch stop", on_pull_request=False).running == []
    assert "comments" not in dispatch(text).running


def test_the_words_of_a_comment_reach_no_step() -> None:
    """They decide whether a job runs, and are in nothing that it is told: the action reads the event."""
    for job in comment(make(), "/autoresearch $(touch planted)").jobs.values():
        assert "planted" not in str(job)


def test_a_person_confirms() -> None:
    """The Research Config is shown, and training waits for the environment; what goes on was confirmed when it began."""
    text = make(environment="research")
    started = dispatch(text, max_iterations="20")
    assert started.running == ["config", "research"]
    config, research = started.jobs["config"], started.jobs["research"]
    assert (config.environment, research.environment) == ("", "research")
    assert handed(config) == {"max-iterations": "20", "task": "config"}
    assert config.arguments[ACTION].items() - research.arguments[ACTION].items() == {("task", "config")}
    for inputs in ({"tag": "nov22", "resume": "require"}, {"tag": "nov22", "task": "continue 20"}, {"task": "report"}):
        started = dispatch(text, **inputs)
        assert started.running == ["research"]
        assert started.jobs["research"].environment == ""


def test_what_cannot_be_shown_cannot_be_confirmed() -> None:
    """When the config cannot be shown, nothing is trained."""
    event = Event(trigger="workflow_dispatch")
    assert start(make(environment="research"), event, {"config": "failure"}).running == ["config"]
    assert start(make(environment="research"), event, {"config": "cancelled"}).running == ["config"]


def test_a_night_waits_for_nobody() -> None:
    """Unless a person chose that, too."""
    night = start(make(environment="research"), NIGHT)
    assert (night.running, night.jobs["research"].environment) == (["research"], "")
    night = start(make(environment="research", confirm_nights=True), NIGHT)
    assert (night.running, night.jobs["research"].environment) == (["config", "research"], "research")
    assert handed(night.jobs["config"]) == {"tag": "nightly-{date}", "task": "config"}


@pytest.mark.parametrize(("hours", "minutes"), [(None, 720), ("2", 180), ("0.5", 90), ("40", 2460)])
def test_the_job_outlives_the_session(hours: str | None, minutes: int) -> None:
    """The job's limit leaves time for the report after the last hour, and the session is told what it is."""
    text = make({"max-hours": hours} if hours else {})
    for job in (dispatch(text).jobs["research"], start(text, NIGHT).jobs["research"]):
        assert job.timeout_minutes == minutes
        assert not job.arguments[ACTION].get("max-hours")  # the settings file's count
        loaded = settings.load(flags=BASICS | {"job-timeout": job.arguments[ACTION]["job-timeout"]}).settings
        assert loaded.job_timeout == minutes * 60


def test_only_jobs_have_a_limit() -> None:
    """No step ends before its job does: a step's limit would cut a night off at six hours."""
    for text in (make(environment="research"), REUSABLE):
        for job in parse(text)["jobs"].values():
            assert "timeout-minutes" in job
            assert not any("timeout-minutes" in step for step in job["steps"])


def test_labels_of_the_runner() -> None:
    """One label is a text, several are a list."""
    assert dispatch(make()).jobs["research"].runs_on == "self-hosted"
    gpu = make(runs_on=("self-hosted", "gpu"), small_runs_on=("self-hosted", "small"), environment="research")
    assert dispatch(gpu).jobs["research"].runs_on == ["self-hosted", "gpu"]
    assert dispatch(gpu).jobs["config"].runs_on == ["self-hosted", "gpu"]
    assert comment(gpu, "/autoresearch stop").jobs["comments"].runs_on == ["self-hosted", "small"]


SESSION = {"contents": "write", "pull-requests": "write", "issues": "write", "statuses": "write"}
COMMENT = {"contents": "write", "pull-requests": "write", "issues": "write", "actions": "write"}


def test_the_permissions_are_the_least() -> None:
    """Nothing at the top; each job has what its answers need, and what only shows something cannot write."""
    assert parse(make())["permissions"] == {}
    jobs = parse(make(environment="research"))["jobs"]
    assert jobs["config"]["permissions"] == {"contents": "read"}
    assert jobs["research"]["permissions"] == SESSION
    assert jobs["comments"]["permissions"] == COMMENT
    assert parse(make(comments=False))["jobs"].keys() == {"research"}
    continuing = parse(make({"continue": "true"}))["jobs"]["research"]["permissions"]
    assert continuing == SESSION | {"actions": "write"}


def test_continuing_can_be_chosen_where_it_is_permitted() -> None:
    """Without the permission to start the workflow again there is no such input."""
    assert "continue" not in parse(make())["on"]["workflow_dispatch"]["inputs"]
    text = make({"continue": "true"})
    assert handed(dispatch(text).jobs["research"]) == {"continue": "true"}
    assert handed(dispatch(text, **{"continue": "false"}).jobs["research"]) == {"continue": "false"}
    assert "continue" not in handed(start(text, NIGHT).jobs["research"])  # as configured


def test_keys_of_models_only_where_a_model_is_asked() -> None:
    """A workflow whose proposer asks none has no part in its repository's keys."""
    assert "secrets.OPENAI_API_KEY" not in make()
    assert "secrets.OPENAI_API_KEY" in make({"proposer": "llm"})
    assert "secrets.ANTHROPIC_API_KEY" in make({"proposer": "queue", "then": "agent"})


@pytest.mark.parametrize("text", [make({"continue": "true"}, environment="research"), REUSABLE])
def test_every_input_of_a_dispatch_counts(text: str) -> None:
    """None is asked in vain: each changes something of the job; and there are no more than GitHub allows."""
    inputs = parse(text)["on"]["workflow_dispatch"]["inputs"]
    plain = dispatch(text)
    values = {"boolean": "true", "number": "33", "string": "x", "environment": "other"}
    for name, spec in inputs.items():
        value = spec["options"][-1] if spec["type"] == "choice" else values[spec["type"]]
        if spec.get("default") == "true":
            value = "false"
        assert start(text, Event(trigger="workflow_dispatch", inputs={name: value})).jobs != plain.jobs, name
    assert {spec["type"] for spec in inputs.values()} == {"string", "number", "boolean", "choice", "environment"}


def test_the_reusable_workflow_when_called() -> None:
    """Its inputs are those of a dispatch, and what a caller's repository may need beside them."""
    on = parse(REUSABLE)["on"]
    more = {"config", "working-directory", "app-id", "small-runs-on"}
    assert set(on["workflow_call"]["inputs"]) == set(on["workflow_dispatch"]["inputs"]) | more
    called = start(
        REUSABLE,
        Event(
            trigger="workflow_call", inputs={"tag": "t", "runs-on": '["a", "b"]', "draft": "true"}, caller="schedule"
        ),
    )
    assert called.running == ["research"]
    research = called.jobs["research"]
    assert handed(research) == {"tag": "t", "draft": "true"}
    assert (research.runs_on, research.timeout_minutes, research.environment) == (["a", "b"], 720, "")
    assert research.arguments[ACTION]["job-timeout"] == "720m"
    night = start(REUSABLE, NIGHT)
    assert night.running == ["research"]
    assert handed(night.jobs["research"]) == {}
    for job in called.jobs.values():
        assert job.arguments[ACTION].keys() <= INPUTS


def test_the_example_of_a_caller() -> None:
    """The comment on top of the reusable workflow gives every permission that a job asks for, else GitHub starts none."""
    lines = itertools.takewhile(lambda line: line.startswith("#"), REUSABLE.splitlines())
    example = yaml.safe_load("\n".join(line[4:] for line in lines if line.startswith("#   ")))["jobs"]["research"]
    asked: dict[str, str] = {}
    for job in parse(REUSABLE)["jobs"].values():
        asked |= {name: "write" for name, level in job["permissions"].items() if level == "write"}
    assert example["permissions"] == asked
    assert example["with"].keys() <= parse(REUSABLE)["on"]["workflow_call"]["inputs"].keys()


@pytest.mark.parametrize(
    "answers",
    [
        {"cron": "37 1 * *"},
        {"cron": "@daily"},
        {"cron": "60 1 * * *"},
        {"cron": "37 24 * * *"},
        {"cron": "37 1 0 * *"},
        {"cron": "37 1 * 13 *"},
        {"cron": "37 1 * * FRY"},
        {"cron": "37 1 * * 5-1"},
        {"cron": "*/0 1 * * *"},
        {"cron": "37 1 * *\n*"},
        {"cron": "37 1 * * ${{x}}"},
        {"timezone": "Berlin"},
        {"timezone": "Europe/Berlin\n"},
        {"nights": "some"},
        {"runs_on": ()},
        {"runs_on": ("it's",)},
        {"small_runs_on": ("${{ secrets.x }}",)},
        {"environment": "it's"},
        {"environment": "${{ x }}"},
        {"environment": "x" * 101},
        {"confirm_nights": True},
        {"confirm_nights": True, "environment": "research", "cron": None},
    ],
)
def test_what_github_would_not_take_is_refused(answers: dict[str, Any]) -> None:
    """With one line that says what is wrong, and one that says what would be right."""
    with pytest.raises(SettingsError) as raised:
        Answers(**answers)
    assert raised.value.message
    assert raised.value.hint
    assert "\n" not in raised.value.message + raised.value.hint


@pytest.mark.parametrize(
    ("name", "taken"), [("Europe/Berlin", True), ("UTC", True), ("Berlin", False), ("a/b/c/d", False)]
)
def test_a_machine_without_time_zones(name: str, taken: bool) -> None:
    """Where no database says which there are, the form of the name must do."""
    if taken:
        _check_timezone(name, set)
    else:
        with pytest.raises(SettingsError):
            _check_timezone(name, set)


@pytest.mark.parametrize("cron", ["7 3 * * 1-5", "*/15 0-6/2 1,15 JAN-MAR mon,WED", "0 0 31 12 6", "5-10 * * * *"])
def test_cron_lines(cron: str) -> None:
    """Lists, ranges, steps and names are taken."""
    assert dataclasses.replace(Answers(), cron=cron).cron == cron


def test_the_schema_is_where_its_address_says() -> None:
    """The address that `init` writes ends in the path of the schema in this repository."""
    assert (ROOT / SCHEMA_URL.split("/v1/")[1]).is_file()
