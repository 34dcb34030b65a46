"""The commands. The only reader of argv and the only caller of sys.exit; errors become exit codes here.

Nothing heavy is imported at the top: `--help` must not wait for torch, scipy, docker, git or matplotlib.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from autoresearch_ci import __version__
from autoresearch_ci.cli.options import Call, Config, Json, with_settings
from autoresearch_ci.cli.signals import SignalledError, awake
from autoresearch_ci.console import Console
from autoresearch_ci.errors import AutoresearchError, SettingsError

app = typer.Typer(
    name="autoresearch-ci",
    help="A repository improves its own training script overnight; the result is a pull request.",
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


def _console() -> Console:
    return Console.detect(os.environ, sys.stdout, sys.stderr)


def _call(config: Path | None, flags: dict[str, Any]) -> Call:
    awake()  # the command's modules are imported
    return Call(_console(), os.environ, Path.cwd(), config, flags)


def main(arguments: list[str] | None = None) -> None:
    """The program: runs one command and exits with the code of the contract. Never a traceback for what a person can cause."""
    console = _console()
    try:
        result = app(args=arguments, standalone_mode=False)
    except AutoresearchError as error:
        console.error(error.message, error.hint)
        sys.exit(error.exit_code)
    except typer.TyperException as error:
        console.error(error.format_message(), "see `autoresearch-ci --help`")
        sys.exit(2)
    except (SignalledError, KeyboardInterrupt, typer.Abort) as error:
        console.error("interrupted", "everything decided so far is saved; the same command goes on from there")
        sys.exit(error.exit_code if isinstance(error, SignalledError) else 128 + signal.SIGINT)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the reader left; nothing more to say to it
        sys.exit(0)
    sys.exit(result if isinstance(result, int) else 0)


def _version(shown: bool) -> None:
    if shown:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version", callback=_version, is_eager=True)
    ] = False,
) -> None:
    del version


@app.command()
@with_settings()
def run(
    config: Config = None,
    finalize: Annotated[bool, typer.Option(help="Report and open the pull request when the loop ends")] = True,
    **flags: Any,
) -> int:
    """Run the whole session: detect, build, branch or resume, baseline, loop, finalize."""
    from autoresearch_ci.cli.research import run_session

    return run_session(_call(config, flags), finalize_after=finalize)


@app.command()
@with_settings()
def finalize(
    config: Config = None,
    drop: Annotated[
        list[str] | None,
        typer.Option(
            "--drop",
            metavar="COMMIT",
            help="Instead: push a new branch without this kept commit (7 characters or more of its hash); repeatable",
        ),
    ] = None,
    measure: Annotated[
        bool,
        typer.Option(help="Verify first what was not verified yet; without, nothing is run and no environment built"),
    ] = True,
    **flags: Any,
) -> int:
    """Only the end: verify, report, push, pull request. Safe to repeat."""
    from autoresearch_ci.cli.tasks import as_recorded

    if drop:
        from autoresearch_ci.cli.dropping import drop_commits

        return drop_commits(as_recorded(_call(config, flags)), drop, measure=measure).exit_code
    from autoresearch_ci.cli.finalizing import finalize_session

    return finalize_session(as_recorded(_call(config, flags)), measure=measure)


@app.command()
@with_settings()
def task(
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="TASK",
            help="`continue 20`, `verify 5`, `drop COMMIT`, `report`, `config`, `stop` or `merge squash`; default: AUTORESEARCH_TASK",
        ),
    ] = None,
    config: Config = None,
    **flags: Any,
) -> int:
    """Do one thing with a session that is there: what a comment `/autoresearch ...` on its pull request asks for."""
    from autoresearch_ci.cli.tasks import run_task

    return run_task(_call(config, flags), words or [])


@app.command()
@with_settings()
def init(
    config: Config = None,
    yes: Annotated[bool, typer.Option("--yes", help="Ask nothing; what must be set comes from flags")] = False,
    starter: Annotated[bool, typer.Option("--starter", help="Add a tiny training project")] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace files that are there already")] = False,
    cron: Annotated[str | None, typer.Option("--cron", metavar="CRON", help="When nightly sessions start")] = None,
    no_nightly: Annotated[bool, typer.Option("--no-nightly", help="Without nightly sessions")] = False,
    timezone: Annotated[
        str | None, typer.Option("--timezone", metavar="NAME", help="Of `--cron`, as `Europe/Berlin`")
    ] = None,
    nights: Annotated[
        str | None,
        typer.Option("--nights", help="`new`: each night a branch of its own; `one`: a branch that goes on"),
    ] = None,
    runs_on: Annotated[
        str | None, typer.Option("--runs-on", metavar="LABELS", help="The runner that trains, as `self-hosted,gpu`")
    ] = None,
    small_runs_on: Annotated[
        str | None, typer.Option("--small-runs-on", metavar="LABELS", help="The runner that answers comments")
    ] = None,
    environment: Annotated[
        str | None,
        typer.Option("--environment", metavar="NAME", help="Whose reviewers confirm a session's Research Config"),
    ] = None,
    confirm_nights: Annotated[
        bool | None, typer.Option("--confirm-nights", help="Nightly sessions wait for those reviewers, too")
    ] = None,
    comments: Annotated[
        bool | None, typer.Option("--comments/--no-comments", help="Answer `/autoresearch …` on pull requests")
    ] = None,
    **flags: Any,
) -> None:
    """Ask for the parameters, show the Research Config, write autoresearch.toml and the workflow."""
    from autoresearch_ci.cli.setup import initialize

    if no_nightly and cron is not None:
        raise SettingsError("`--cron` and `--no-nightly` contradict each other", hint="give one of them")
    workflow = {
        "cron": "none" if no_nightly else cron,
        "timezone": timezone,
        "nights": nights,
        "runs-on": runs_on,
        "small-runs-on": small_runs_on,
        "environment": environment,
        "confirm-nights": confirm_nights,
        "comments": comments,
    }
    given = {name: value for name, value in workflow.items() if value is not None}
    initialize(_call(config, flags), given, yes=yes, starter=starter, force=force)


@app.command()
@with_settings("metric", "direction", "tag", "results-file", "summary-file", "state-dir", "training-script")
def report(
    results: Annotated[
        Path | None, typer.Argument(help="A results.tsv or journal.jsonl; default: this session's")
    ] = None,
    config: Config = None,
    output: Annotated[Path | None, typer.Option("--output", help="Where the summary goes; `-` for stdout")] = None,
    json: Json = False,
    **flags: Any,
) -> None:
    """Write the summary of an existing results.tsv or journal, without running anything."""
    from autoresearch_ci.cli.reading import write_report

    write_report(_call(config, flags), results=results, output=output, as_json=json)


@app.command()
@with_settings("tag", "state-dir", "forge", "training-script", "report-every")
def status(
    config: Config = None,
    json: Json = False,
    repo: Annotated[
        str | None,
        typer.Option(
            "--repo",
            metavar="OWNER/NAME",
            help="Of this repository on the server, from any folder; default: the one here",
        ),
    ] = None,
    **flags: Any,
) -> None:
    """Show the progress report, now, from another terminal or machine."""
    from autoresearch_ci.cli.reading import show_status

    show_status(_call(config, flags), as_json=json, repository=repo)


@app.command()
@with_settings("metric", "direction", "tag", "results-file", "state-dir", "training-script")
def export(
    results: Annotated[
        Path | None, typer.Argument(help="A results.tsv or journal.jsonl; default: this session's")
    ] = None,
    config: Config = None,
    format: Annotated[str, typer.Option("--format", help="markdown, latex, csv or json")] = "markdown",
    json: Annotated[bool, typer.Option("--json", help="The same as `--format json`")] = False,
    **flags: Any,
) -> None:
    """Print the experiments as a table for a paper."""
    from autoresearch_ci.cli.reading import export_table

    export_table(_call(config, flags), results=results, table_format="json" if json else format)


@app.command()
@with_settings("tag", "state-dir", "base", "training-script")
def merge(
    method: Annotated[str, typer.Option("--method", help="squash, rebase or merge")] = "squash",
    config: Config = None,
    **flags: Any,
) -> None:
    """Merge the research branch into the base branch; never a force push."""
    from autoresearch_ci.cli.merging import merge as merge_session

    merge_session(_call(config, flags), method=method)


@app.command()
@with_settings(
    "platform", "executor", "training-script", "base-image", "registry", "requirements", "build-args", "state-dir"
)
def detect(config: Config = None, json: Json = False, **flags: Any) -> None:
    """Show the platform, device, versions and adjustments."""
    from autoresearch_ci.cli.setup import show_detection

    show_detection(_call(config, flags), as_json=json)


@app.command()
@with_settings()
def doctor(
    config: Config = None,
    sandbox: Annotated[
        bool,
        typer.Option("--sandbox", help="Instead: run a hostile script as a session would, and tell what it managed"),
    ] = False,
    json: Json = False,
    **flags: Any,
) -> int:
    """Check every precondition, each with its remedy."""
    from autoresearch_ci.cli.doctor import examine, examine_sandbox

    return (examine_sandbox if sandbox else examine)(_call(config, flags), as_json=json)


@app.command()
def demo(
    experiments: Annotated[int, typer.Option("--experiments", min=1, help="How many after the baseline")] = 6,
    budget: Annotated[str, typer.Option("--time-budget", help="Per run")] = "5s",
    folder: Annotated[
        Path | None, typer.Option("--folder", help="Where the project goes; default: a new temporary one")
    ] = None,
) -> int:
    """Run a short real session on the starter: real commits, a real branch, the pull request as a local page."""
    from autoresearch_ci.cli.demo import run_demo

    awake()
    return run_demo(_console(), os.environ, experiments=experiments, budget=budget, folder=folder)
