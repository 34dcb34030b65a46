"""The flags of the commands, made from the one declaration of the settings."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from autoresearch_ci import settings
from autoresearch_ci.console import Console
from autoresearch_ci.errors import SettingsError
from autoresearch_ci.settings import CONFIG_NAME, Loaded, Settings

Command = TypeVar("Command", bound=Callable[..., Any])

Config = Annotated[
    Path | None,
    typer.Option("--config", metavar="FILE", help=f"The settings file; default: `{CONFIG_NAME}` if it is there"),
]
Json = Annotated[bool, typer.Option("--json", help="Print data as JSON on stdout")]


def with_settings(*names: str) -> Callable[[Command], Command]:
    """Gives a command one flag per setting (all of them, or the named ones) in place of its `**flags` parameter.

    Flags are text and checked by the settings' own declaration, so that a wrong value gives the same message from everywhere.
    """

    def decorate(command: Command) -> Command:
        signature = inspect.signature(command, eval_str=True)
        parameters = [p for p in signature.parameters.values() if p.kind is not inspect.Parameter.VAR_KEYWORD]
        for field_name, field in Settings.model_fields.items():
            name = field.alias or field_name
            if names and name not in names:
                continue
            switch = field.annotation is bool
            flag = f"--{name}/--no-{name}" if switch else f"--{name}"
            option = typer.Option(flag, help=field.description, metavar=None if switch else "VALUE", show_default=False)
            annotation = Annotated[(bool if switch else str) | None, option]  # type: ignore[valid-type]
            parameters.append(
                inspect.Parameter(field_name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)
            )
        command.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
        command.__annotations__ = {p.name: p.annotation for p in parameters} | {"return": None}
        return command

    return decorate


@dataclass(frozen=True, slots=True)
class Call:
    """A command as it was called: where it speaks, its environment and folder, and what it was given."""

    console: Console
    environ: Mapping[str, str]
    directory: Path
    config: Path | None
    flags: Mapping[str, Any]

    def given(self) -> dict[str, Any]:
        """The flags that were on the command line, by the settings' kebab-case names."""
        return {settings.setting_name(name): value for name, value in self.flags.items() if value is not None}

    def load(self) -> Loaded:
        """The complete settings, from every source."""
        return settings.load(file=self.config_file(), environ=self.environ, flags=self.given())

    def values(self) -> dict[str, Any]:
        """The settings that were given anywhere: looking back needs none of those that a session must have."""
        file = self.config_file()
        in_file = settings.read_file(file) if file else {}
        return {**in_file, **settings.read_environment(self.environ), **self.given()}

    def config_file(self) -> Path | None:
        """The settings file that counts: the named one, which must be there, or `autoresearch.toml` when it is."""
        if self.config is not None:
            file = self.directory / self.config
            if not file.is_file():
                raise SettingsError(
                    f"there is no settings file {self.config}", hint="`autoresearch-ci init` writes one"
                )
            return file
        default = self.directory / CONFIG_NAME
        return default if default.is_file() else None
