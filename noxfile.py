"""The project's tasks: `nox` checks and tests everything, `nox -s bench` measures, `nox -s generate` writes tables."""

from __future__ import annotations

from pathlib import Path

import nox

nox.needs_version = ">=2025.2"
nox.options.sessions = ["lint", "typing", "imports", "tests"]
nox.options.reuse_venv = "yes"

PROJECT = nox.project.load_toml("pyproject.toml")
WORKFLOWS = sorted(str(path) for path in Path(".github/workflows").glob("*.yml"))
DOCUMENTS = ("README.md", "action/README.md", "action/action.yml")


# One process per core, and tests of one file together: they share what is costly to make.
PARALLEL = ("--numprocesses=auto", "--dist=loadfile")


def install(session: nox.Session, group: str, *project: str) -> None:
    """The named dependency group and, if given, the project. By nox, since an older pip does not know `--group`."""
    session.install(*project, *nox.project.dependency_groups(PROJECT, group))


@nox.session
def lint(session: nox.Session) -> None:
    """Style and form of the Python files, the action and the workflows."""
    install(session, "lint")
    session.run("ruff", "check")
    session.run("ruff", "format", "--check")
    session.run("zizmor", "--offline", "--persona=pedantic", ".github", "action")
    session.run("check-jsonschema", "--builtin-schema", "vendor.github-workflows", *WORKFLOWS)
    session.run("check-jsonschema", "--builtin-schema", "vendor.github-actions", "action/action.yml")
    session.run("check-jsonschema", "--builtin-schema", "vendor.dependabot", ".github/dependabot.yml")


@nox.session
def typing(session: nox.Session) -> None:
    """Types, as each of the three systems sees them."""
    install(session, "typing", "-e", ".[openai,anthropic]")
    for platform in ("linux", "darwin", "win32"):
        session.run("mypy", "--platform", platform, "autoresearch_ci", "tests", "noxfile.py")


@nox.session
def imports(session: nox.Session) -> None:
    """The layer rule. Nothing is imported, so that the project's own dependencies are not needed."""
    install(session, "imports")
    session.run("lint-imports")


@nox.session
def tests(session: nox.Session) -> None:
    """All tests, and the coverage of unit and integration tests together. With arguments: those tests, no coverage."""
    install(session, "tests", "-e", ".[torch,openai,anthropic,ray]")
    if session.posargs:
        session.run("pytest", *session.posargs)
        return
    session.run(
        "pytest",
        *PARALLEL,
        "--cov",
        "--cov-report=term-missing:skip-covered",
        "--cov-fail-under=95",
        "tests/unit",
        "tests/integration",
    )
    session.run("pytest", *PARALLEL, "tests/end_to_end")


@nox.session
def bench(session: nox.Session) -> None:
    """Measures what the program adds to the training itself, and prints a table."""
    install(session, "tests", "-e", ".[torch,openai,anthropic]")
    session.run("python", "-m", "tests.bench.overhead", *session.posargs)
    session.run("python", "-m", "tests.bench.wall")


@nox.session(name="bench-judge")
def bench_judge(session: nox.Session) -> None:
    """Measures in simulated sessions how often a kept change is none, and a run is stopped wrongly; prints tables."""
    install(session, "tests", "-e", ".")
    session.run("python", "-m", "tests.bench.early_stop")
    session.run("python", "-m", "tests.bench.judging", *session.posargs)


@nox.session(name="bench-search")
def bench_search(session: nox.Session) -> None:
    """Compares `search` with random search, TPE and CMA-ES at equal runs, and prints a table; about ten minutes on two cores."""
    install(session, "bench", "-e", ".[torch]")
    session.run("python", "-m", "tests.bench.search", *session.posargs)


@nox.session(name="bench-throughput")
def bench_throughput(session: nox.Session) -> None:
    """Measures how much of a machine's time becomes runs: one slot, several, a Ray cluster; about eight minutes on two cores."""
    install(session, "tests", "-e", ".[ray]")
    session.run("python", "-m", "tests.bench.throughput", *session.posargs)


@nox.session
def generate(session: nox.Session) -> None:
    """Writes the tables, the action's inputs and the schema from the one declaration of the settings."""
    install(session, "tests", "-e", ".")
    session.run("cog", "-n", "utf-8", "-I", ".", "-r", *DOCUMENTS)
    session.run("python", "-m", "autoresearch_ci.settings_docs")
