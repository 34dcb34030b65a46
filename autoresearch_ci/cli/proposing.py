"""Builds what proposes from the settings: the gate, the model, the optimizer, and who takes over from whom.

In two steps: what can be wrong with the settings is found before anything is built or trained; the rest is known when the machine is.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from autoresearch_ci.agents import Launcher
from autoresearch_ci.cli.conclusion import in_repository
from autoresearch_ci.cli.environment import Place
from autoresearch_ci.cli.wiring import Opened
from autoresearch_ci.errors import SettingsError
from autoresearch_ci.executors.agents import ContainerAgents, NativeAgents
from autoresearch_ci.proposals import Floor, Gate, Patience, Proposer, Repair
from autoresearch_ci.proposers.agent import AgentProposer, check_agent
from autoresearch_ci.proposers.agent_presets import Preset, preset
from autoresearch_ci.proposers.budget import Budget
from autoresearch_ci.proposers.hybrid import HybridProposer
from autoresearch_ci.proposers.line import Line
from autoresearch_ci.proposers.llm import LLMProposer
from autoresearch_ci.proposers.models import Model
from autoresearch_ci.proposers.models.connecting import check_address, connect, is_local
from autoresearch_ci.proposers.plan import Plan, read_plan, read_wish
from autoresearch_ci.proposers.prompt import MAX_LOG, Prompts
from autoresearch_ci.proposers.queue import QueueProposer
from autoresearch_ci.proposers.search import SearchProposer
from autoresearch_ci.runs import Interrupt

SEARCH_SEED: Final = 0
READMES: Final = ("README.md", "README.rst", "README.txt", "README")
MAX_READ_ONLY: Final = 20  # files that are shown to a model


@dataclass(slots=True, kw_only=True)
class Proposing:
    """What proposes in a session. `takes_time`: whether a model or an agent is asked, so that it pays to ask in advance, and for
    several proposals at the same time."""

    proposer: Proposer
    gate: Gate
    patience: Patience
    floor: Floor = field(default_factory=Floor)
    repair: Repair | None = None
    takes_time: bool = False


class Preparation:
    """The first step: the settings can work. SettingsError when they cannot."""

    def __init__(self, environ: Mapping[str, str], opened: Opened, interrupt: Interrupt) -> None:
        settings = opened.settings
        self._environ = environ
        self._patience, self._floor = Patience(interrupt), Floor()
        self._opened = opened
        self._script = opened.workspace.script(opened.workspace.base_commit)
        self._plan = self._read_plan()
        self._gate = Gate(
            scope=settings.scope, classify=settings.classify, hold=self._plan.hold, vary=dict(self._plan.vary)
        )
        named = settings.then if settings.proposer == "queue" else settings.proposer
        self._then = self._plan.then or named
        self._model: Model | None = None
        if self._then in ("llm", "hybrid"):
            self._model = connect(
                speaks=settings.speaks,
                model=settings.model,
                base_url=settings.base_url,
                key_variable=settings.key_variable,
                environ=environ,
                timeout_s=settings.model_timeout,
                interrupted=self._patience.requested,
            )

        self._agent: tuple[Preset, Launcher] | None = None
        if self._then == "agent":
            check_address(settings.base_url)
            self._agent = preset(settings.agent, settings.agent_command), self._launcher()
            check_agent(*self._agent, more=settings.agent_env)

    def finish(self, place: Place) -> Proposing:
        """The second step, with the machine."""
        settings, gate = self._opened.settings, self._gate
        search = SearchProposer(direction=settings.direction, scope=settings.scope, seed=SEARCH_SEED, gate=gate)
        llm = self._llm(place) if self._model else None
        author: LLMProposer | HybridProposer | AgentProposer | None = llm or self._agent_proposer(place)
        proposer: Proposer | None = search if self._then != "none" else None
        if llm is not None and self._then == "hybrid":
            author = HybridProposer(search, llm, share=settings.llm_share)
        if author is not None:
            proposer = Line(author, search)
        if self._plan.wishes or proposer is None:
            proposer = QueueProposer(
                self._plan.wishes,
                script=self._script,
                gate=gate,
                author=author,
                then=proposer,
                stopping=self._patience.requested,
            )
        return Proposing(
            proposer=proposer,
            gate=gate,
            patience=self._patience,
            floor=self._floor,
            repair=llm.repair if llm else None,
            takes_time=author is not None,
        )

    def _read_plan(self) -> Plan:
        """The plan, with the hypothesis as its first wish."""
        settings, workspace = self._opened.settings, self._opened.workspace
        first = (read_wish(settings.hypothesis, script=self._script),) if settings.hypothesis else ()
        if settings.plan is None:
            return Plan(wishes=first)
        data = workspace.read_base(in_repository(self._opened, settings.plan))
        if data is None:
            raise SettingsError(f"the base commit has no `{settings.plan}`", hint="commit it, or change `plan`")
        plan = read_plan(
            data,
            settings.plan,
            script=self._script,
            script_name=self._opened.checkout.script,
            files=lambda path: workspace.read_base(in_repository(self._opened, path)),
        )
        return replace(plan, wishes=(*first, *plan.wishes))

    def _llm(self, place: Place) -> LLMProposer:
        settings = self._opened.settings
        assert self._model is not None
        return LLMProposer(
            model=self._model,
            name=settings.model or "",
            gate=self._gate,
            floor=self._floor,
            budget=self._budget(),
            prompts=self._prompts(place),
            edit_format=settings.edit_format,
            local=is_local(settings.base_url),
            answer_tokens=settings.answer_tokens,
            stuck_after=settings.stuck_after,
            scope=settings.scope,
        )

    def _launcher(self) -> Launcher:
        """Where agents are started: on this machine, or in a container of `agent-image`."""
        image = self._opened.settings.agent_image
        if image is None:
            return NativeAgents(self._opened.folder / "agents")
        from autoresearch_ci.executors.engine import connect as connect_engine

        return ContainerAgents(connect_engine(), image)

    def _agent_proposer(self, place: Place) -> AgentProposer | None:
        opened, settings = self._opened, self._opened.settings
        if self._agent is None:
            return None
        chosen, launcher = self._agent
        return AgentProposer(
            preset=chosen,
            launcher=launcher,
            interrupt=self._patience,
            export=opened.workspace.export,
            script_name=opened.checkout.script,
            directory=opened.directory,
            gate=self._gate,
            floor=self._floor,
            budget=self._budget(),
            prompts=self._prompts(place),
            environ=self._environ,
            timeout_s=settings.agent_timeout,
            model=settings.model,
            base_url=settings.base_url,
            more=settings.agent_env,
            stuck_after=settings.stuck_after,
            scope=settings.scope,
        )

    def _budget(self) -> Budget:
        settings = self._opened.settings
        return Budget(
            max_cost=settings.max_cost,
            max_tokens=settings.max_tokens,
            max_calls=settings.max_calls,
            price_input=settings.price_input,
            price_output=settings.price_output,
        )

    def _prompts(self, place: Place) -> Prompts:
        opened, settings = self._opened, self._opened.settings
        readme = next((text for name in READMES if (text := self._text(name))), "")
        return Prompts(
            script_name=opened.checkout.script,
            metric=settings.metric,
            direction=settings.direction,
            time_budget_s=settings.time_budget,
            scope=settings.scope,
            tokens=settings.prompt_tokens,
            log=lambda name: opened.journal.read_log(name, 2 * MAX_LOG),
            readme=readme,
            read_only={path: text for path in self._read_only() if (text := self._text(path, in_folder=False))},
            platform=(f"{place.platform.value}: {place.detection.name}", *place.adjustments.lines()),
            hold=self._gate.hold,
            vary=[f"{name}: {allowed}" for name, allowed in self._gate.vary.items()],
        )

    def _read_only(self) -> list[str]:
        """The files of the base commit that `read-only` names, without the training script."""
        patterns = [in_repository(self._opened, pattern) for pattern in self._opened.settings.read_only]
        paths = self._opened.workspace.base_paths()
        found = [p for pattern in patterns for p in paths if fnmatch.fnmatchcase(p, pattern)]
        return [p for p in dict.fromkeys(found) if p != self._opened.checkout.script][:MAX_READ_ONLY]

    def _text(self, name: str, *, in_folder: bool = True) -> str:
        """A file of the base commit without secrets; empty when there is none, or it is no text."""
        path = in_repository(self._opened, name) if in_folder else name
        data = self._opened.workspace.read_base(path) or b""
        return "" if b"\0" in data else self._opened.scrubber.scrub(data.decode("utf-8", errors="replace"))
