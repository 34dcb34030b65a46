"""The `agent` proposer: a coding agent edits the script in an export of its own; only the bytes of that one file come back."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from autoresearch_ci.agents import AgentRequest, AgentRun, Launcher
from autoresearch_ci.errors import SettingsError
from autoresearch_ci.experiment import Ending, History, Proposal, Usage
from autoresearch_ci.knobs import Scope
from autoresearch_ci.proposals import Declined, Floor, Gate
from autoresearch_ci.proposers.agent_presets import FORBIDDEN, MAX_ARGUMENT, PROMPT, PROMPT_FILE, Preset
from autoresearch_ci.proposers.budget import Budget
from autoresearch_ci.proposers.changes import described, noted
from autoresearch_ci.proposers.directions import Courses
from autoresearch_ci.proposers.edits import read_fields
from autoresearch_ci.proposers.prompt import Prompts
from autoresearch_ci.report.markdown import clean
from autoresearch_ci.runs import Interrupt

MAX_BYTES: Final = 1_000_000  # of the script that comes back
MAX_NAMED: Final = 10  # other files that a note names
MAX_LOOKED_AT: Final = 20_000  # files of an export that are compared
PROMPT_NAME: Final = ".autoresearch-prompt.md"
TASK: Final = """\
# How to work
You are in a copy of the project. Edit `{script}` in place, and nothing else: whatever else you change is thrown away. Do not run the
training, do not install anything, do not commit. When the file is as it shall be, end with three plain lines:

HYPOTHESIS: one or two sentences: why this should make the metric better
CATEGORY: architecture, optimizer, training or simplification
DESCRIPTION: what changes, in at most 80 characters
"""


@dataclass(slots=True, kw_only=True)
class AgentProposer:
    """Asks a coding agent for one change after another; matches the `Proposer` protocol.

    `export`: a fresh folder with a commit's tree. `script_name`: the training script's path in it. `environ`: where the agent's own
    key is taken from; `more`: names of further variables that it may see.
    """

    preset: Preset
    launcher: Launcher
    interrupt: Interrupt
    export: Callable[[str], AbstractContextManager[Path]]
    script_name: str
    directory: str
    gate: Gate
    budget: Budget
    prompts: Prompts
    environ: Mapping[str, str]
    timeout_s: float
    model: str | None = None
    base_url: str | None = None
    more: tuple[str, ...] = ()
    stuck_after: int = 5
    scope: Scope = "all"
    floor: Floor = field(default_factory=Floor)
    courses: Courses = field(init=False)

    def __post_init__(self) -> None:
        """SettingsError when a variable that the agent would see holds a token that can write, under another name."""
        self.courses = Courses(self.scope, self.stuck_after)
        forbidden = {value for name in FORBIDDEN if (value := self.environ.get(name))}
        for name in (*self.preset.keys, *self.more):
            if self.environ.get(name) in forbidden:
                raise SettingsError(
                    f"{name} holds the job's own token, which can write to the repository",
                    hint="give the agent a token of its own, with no right but that to ask its model",
                )

    def propose(self, history: History, script: str, *, wish: str = "", outlook: str = "") -> Proposal:
        """The agent's next change; Declined, with the reason, when it made none that may be run."""
        self.budget.begin(history)
        if refusal := self.budget.refusal_of_agent():
            raise Declined(refusal, notes=(refusal,))
        with self.courses.next(history, wish) as (course, others):
            try:
                task = self.prompts.task(history, script, course, wish=wish, outlook=outlook, others=others, form=None)
            except ValueError as error:
                raise Declined(str(error)) from error
            text = self.prompts.system(None) + "\n" + task + "\n" + TASK.format(script=self.script_name)
            with self.budget.in_flight(self.budget.expected), self.floor.left():
                run, changed, problem, notes = self._worked(history, text)
        report = self.preset.report(run.output)
        usage = self.budget.add(report.usage)
        problem = _failure(run, report.text) or problem
        if not problem and changed == script:
            problem = "no change"
        if not problem:
            problem = self.gate.refusal(changed, script)
        if problem:
            notes = (*notes, f"refused: {clean(problem, 200)}")
            raise Declined(f"the agent's work cannot be run: {clean(problem, 200)}", usage=usage, notes=notes)
        return self._proposal(report.text, changed, script, wish, usage, notes)

    def _worked(self, history: History, text: str) -> tuple[AgentRun, str, str, tuple[str, ...]]:
        """The agent's run in an export of its own, the script as it left it, what is wrong with that, and what else it changed."""
        incumbent = history.incumbent
        assert incumbent is not None  # the baseline is one
        with self.export(incumbent.commit) as tree:
            request = self._request(tree, text)
            before = _digests(tree)
            run = self.launcher.launch(request, self.interrupt)
            changed, problem = _read(tree, self.script_name)
            return run, changed, problem, _others(before, _digests(tree), self.script_name)

    def _request(self, tree: Path, prompt: str) -> AgentRequest:
        words, variables = [*self.preset.command], dict(self.preset.fixed)
        folder = tree / self.directory
        if self.base_url is not None:
            for name, content in self.preset.files.items():
                if not (folder / name).exists():
                    (folder / name).parent.mkdir(parents=True, exist_ok=True)
                    (folder / name).write_text(content, encoding="utf-8")
            arguments, more = self.preset.endpoint(self.base_url, self.model or "")
            words = _insert(words, arguments)
            variables |= more
        if self.model is not None:
            words = _insert(words, tuple(word.replace("{model}", self.model) for word in self.preset.model))
        names = (*self.preset.keys, *self.more)
        variables |= {
            name: self.environ[name] for name in names if self.environ.get(name) and name.upper() not in FORBIDDEN
        }
        stdin = ""
        joined = " ".join(words)
        if PROMPT_FILE in joined:
            (folder / PROMPT_NAME).write_text(prompt, encoding="utf-8")
        elif PROMPT not in joined:
            stdin = prompt
        relative = os.path.relpath(self.script_name, self.directory)
        filled = (
            word.replace("{training-script}", relative)
            .replace(PROMPT_FILE, PROMPT_NAME)
            .replace(PROMPT, _argument(prompt))
            for word in words
        )
        return AgentRequest(
            command=tuple(filled),
            tree=tree,
            directory=self.directory,
            variables=variables,
            prompt=stdin,
            timeout_s=self.timeout_s,
        )

    def _proposal(self, said: str, text: str, script: str, wish: str, usage: Usage, notes: tuple[str, ...]) -> Proposal:
        hypothesis, description, category = read_fields(said)
        return Proposal(
            script=text,
            description=description or described(script, text),
            category=category,
            rationale=hypothesis,
            proposer="agent",
            parameters=noted(script, text, wish),
            usage=usage,
            notes=notes,
        )


def check_agent(preset: Preset, launcher: Launcher, *, more: tuple[str, ...] = ()) -> None:
    """SettingsError when the agent is not installed, or is to see what it may not."""
    program = preset.command[0]
    if not launcher.has(program):
        hint = preset.install or "check `agent-command`"
        raise SettingsError(f"the agent `{program[:80]}` is not installed", hint=f"{hint}; or set `agent-image`")
    for name in more:
        if name.upper() in FORBIDDEN:
            raise SettingsError(f"`agent-env` cannot name {name}", hint="an agent gets no token that can write")


def _argument(prompt: str) -> str:
    """A prompt that the system takes as one argument: the longest are cut, but not what they ask for at their end."""
    data = prompt.encode()
    if len(data) <= MAX_ARGUMENT:
        return prompt
    end = data[-len(TASK.encode()) :]
    return (data[: MAX_ARGUMENT - len(end) - 5] + b"\n[..]" + end).decode("utf-8", errors="ignore")


def _insert(words: list[str], more: tuple[str, ...]) -> list[str]:
    """Options before the last words that are no options: a prompt on stdin, files."""
    at = next((i for i, word in enumerate(words) if i > 0 and (word == "-" or word in (PROMPT_FILE, "-p"))), len(words))
    if at < len(words) and words[at] == PROMPT_FILE:
        at -= 1
    return [*words[:at], *more, *words[at:]]


def _failure(run: AgentRun, said: str) -> str:
    """Why a run of the agent, which `said` this at its end, counts for nothing; empty when it ended well."""
    last = next((line for line in reversed(said.splitlines()) if line.strip()), "")
    match run.ending:
        case Ending.INTERRUPTED:
            return "interrupted"
        case Ending.TIMEOUT:
            return "it did not end in time (`agent-timeout`), and was killed"
        case Ending.STOPPED:
            return run.stopped_because
    return f"exit code {run.exit_code}: {last[:160]}" if run.exit_code else ""


def _read(tree: Path, name: str) -> tuple[str, str]:
    """(the script, what is wrong with it): a regular file of text in the tree, not a link to one, nor in a folder that is a link."""
    path = tree / name
    try:
        # Not by `Path.resolve`, which gives up on links in a circle.
        if Path(os.path.realpath(path.parent)) != Path(os.path.realpath(tree), name).parent:
            return "", "the script's folder is a link now"
        state = path.lstat()
        if not stat.S_ISREG(state.st_mode):
            return "", "the script is no regular file any more"
        if state.st_size > MAX_BYTES:
            return "", f"the script has {state.st_size} bytes: no training script has"
        flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
        with os.fdopen(os.open(path, flags), "rb") as file:
            return file.read(MAX_BYTES + 1).decode("utf-8"), ""
    except FileNotFoundError:
        return "", "the script is gone"
    except UnicodeDecodeError:
        return "", "the script is not UTF-8 text any more"
    except OSError as error:
        return "", f"the script cannot be read: {error.strerror}"


def _digests(tree: Path) -> dict[str, str]:
    """What lies in the export, by path: of regular files their SHA-256, of the others what they are."""
    found: dict[str, str] = {}
    for path in _walk(tree):
        name = path.relative_to(tree).as_posix()
        if len(found) >= MAX_LOOKED_AT:
            break
        try:
            state = path.lstat()
            if stat.S_ISREG(state.st_mode) and state.st_size <= 16 * MAX_BYTES:
                found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
            else:
                found[name] = f"{stat.S_IFMT(state.st_mode)} {state.st_size}"
        except OSError as error:
            found[name] = error.strerror or "unreadable"
    return found


def _walk(tree: Path) -> Iterator[Path]:
    for folder, names, files in os.walk(tree):
        if ".git" in names:  # one that the agent made
            names.remove(".git")
            yield Path(folder, ".git")
        for name in sorted(files):
            yield Path(folder, name)


def _others(before: Mapping[str, str], after: Mapping[str, str], script: str) -> tuple[str, ...]:
    """A note on what else the agent changed, and which was dropped; none when that is nothing."""
    names = [
        name for name in sorted(before.keys() | after.keys()) if before.get(name) != after.get(name) and name != script
    ]
    if not names:
        return ()
    named = ", ".join(clean(name, 80) for name in names[:MAX_NAMED])
    more = f" and {len(names) - MAX_NAMED} more" if len(names) > MAX_NAMED else ""
    return (f"dropped what else the agent changed: {named}{more}",)
