from __future__ import annotations

import dataclasses
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from autoresearch_ci.errors import MachineError, SettingsError
from autoresearch_ci.executors.published import (
    MACHINES,
    TORCH_CPU_INDEX,
    TORCH_VERSION,
    Recipe,
    outputs,
    recipe_of,
    reference,
    registry_for,
    standard_arguments,
    standard_recipe,
)
from autoresearch_ci.executors.pulling import PATIENCE, Progress
from autoresearch_ci.settings import Settings

ROOT = Path(__file__).parents[2]
WORKFLOW = ROOT / ".github/workflows/images.yml"
GHCR = "ghcr.io/autoresearch-ci"


@pytest.fixture(scope="module")
def job() -> Any:
    """The job that publishes."""
    return yaml.load(WORKFLOW.read_text(encoding="utf-8"), yaml.BaseLoader)["jobs"]["publish"]


def step(job: Any, action: str) -> Any:
    return next(step for step in job["steps"] if step.get("uses", "").startswith(f"{action}@"))


@pytest.mark.parametrize(
    "changes",
    [
        {"platform": "cuda"},
        {"dockerfile": "FROM scratch"},
        {"arguments": {"BASE_IMAGE": "b", "TORCH_VERSION": "2"}},
        {"arguments": {"BASE_IMAGE": "a", "TORCH_VERSION": "3"}},
        {"arguments": {"BASE_IMAGE": "a", "TORCH_VERSION": "2", "TORCH_INDEX_URL": ""}},
    ],
)
def test_whatever_determines_an_environment_is_in_its_name(changes: dict[str, Any]) -> None:
    """Another platform, Dockerfile, base, torch or index: another name. The order of the arguments does not count."""
    recipe = Recipe("cpu", "FROM a", {"BASE_IMAGE": "a", "TORCH_VERSION": "2"})
    same = Recipe("cpu", "FROM a", {"TORCH_VERSION": "2", "BASE_IMAGE": "a"})
    assert reference(GHCR, recipe) == reference(GHCR, same)
    assert re.fullmatch(r"ghcr\.io/autoresearch-ci/cpu:[0-9a-f]{16}", reference(GHCR, recipe))
    assert reference(GHCR, dataclasses.replace(recipe, **changes)) != reference(GHCR, recipe)


@pytest.mark.parametrize("platform", sorted(MACHINES))
def test_a_session_that_sets_nothing_is_what_is_published(platform: str) -> None:
    """The defaults fit, also when a user writes them down; torch and its index are among them."""
    plain = recipe_of(platform, base_image=None, arguments=standard_arguments(platform))
    written = recipe_of(platform, base_image="python:3.11-slim-bookworm", arguments=standard_arguments(platform))
    assert registry_for(plain, GHCR) == registry_for(written, GHCR) == GHCR
    assert registry_for(plain, "none") is None
    assert plain.arguments["TORCH_VERSION"] == TORCH_VERSION
    assert plain.arguments.get("TORCH_INDEX_URL") == (TORCH_CPU_INDEX if platform == "cpu" else None)


@pytest.mark.parametrize(
    ("base_image", "changes"),
    [
        ("debian:bookworm", {}),
        (None, {"TORCH_VERSION": ""}),
        (None, {"TORCH_VERSION": "2.12.0"}),
        (None, {"TORCH_INDEX_URL": ""}),
        (None, {"PIP_INDEX_URL": "https://packages.example.org/simple"}),
    ],
)
def test_an_environment_of_ones_own_is_in_no_registry(base_image: str | None, changes: dict[str, str]) -> None:
    """A base or an argument of the user's own: nobody publishes that."""
    recipe = recipe_of("cpu", base_image=base_image, arguments={**standard_arguments("cpu"), **changes})
    assert registry_for(recipe, GHCR) is None


def test_a_platform_without_containers_has_no_recipe() -> None:
    """MPS has no container image, and the error says what to use."""
    with pytest.raises(MachineError, match="mps") as caught:
        recipe_of("mps", base_image=None, arguments={})
    assert "native" in caught.value.hint


@pytest.mark.parametrize(
    "registry", ["ghcr.io/owner", "127.0.0.1:5000", "localhost:5000/a/b", "docker.io/some_one.else"]
)
def test_a_registry_is_a_host_and_a_path(registry: str) -> None:
    """What docker itself takes before the name of an image is taken."""
    assert reference(registry, standard_recipe("cpu")).startswith(f"{registry}/cpu:")


@pytest.mark.parametrize(
    "registry", ["", "https://ghcr.io/owner", "ghcr.io/", "ghcr.io/Owner", "a b", "-a", "ghcr.io/o\n"]
)
def test_what_cannot_be_a_registry_is_a_mistake_in_the_settings(registry: str) -> None:
    """An address with a scheme, capitals or blanks is told before anything is asked for."""
    with pytest.raises(SettingsError, match="registry"):
        reference(registry, standard_recipe("cpu"))


def test_the_workflow_publishes_what_sessions_look_for(job: Any) -> None:
    """Every container platform, under the owner's name on the registry that is the setting's default."""
    assert sorted(job["strategy"]["matrix"]["platform"]) == sorted(MACHINES)
    default = Settings.model_fields["registry"].default
    assert default == GHCR
    recipe = next(step for step in job["steps"] if step.get("id") == "recipe")
    assert recipe["env"]["REGISTRY"] == "ghcr.io/${{ github.repository_owner }}"
    owner = default.rpartition("/")[2]  # the one whose action the reusable workflow names
    assert f"uses: {owner}/" in (ROOT / ".github/workflows/research.yml").read_text(encoding="utf-8")
    login = step(job, "docker/login-action")["with"]
    assert login["registry"] == default.partition("/")[0]


def test_the_workflow_takes_everything_from_the_code(job: Any) -> None:
    """Name, machines, arguments and labels are the outputs of our own command, each of them used; the context is the folder."""
    recipe = next(step for step in job["steps"] if step.get("id") == "recipe")
    assert recipe["run"].startswith('python3 -m autoresearch_ci.executors.published "$PLATFORM" "$REGISTRY" |')
    build = step(job, "docker/build-push-action")["with"]
    assert build["context"] == "images/${{ matrix.platform }}"
    for name, key in (
        ("reference", "tags"),
        ("machines", "platforms"),
        ("build-args", "build-args"),
        ("labels", "labels"),
    ):
        assert f"${{{{ steps.recipe.outputs.{name} }}}}" in build[key]
    used = set(re.findall(r"steps\.recipe\.outputs\.([\w-]+)", WORKFLOW.read_text(encoding="utf-8")))
    assert used == set(outputs("cpu", GHCR))
    assert (build["push"], build["sbom"], build["provenance"]) == ("true", "true", "mode=max")


def test_the_workflow_starts_when_a_name_may_have_changed() -> None:
    """A change of a Dockerfile, of the code that computes the name, or of the workflow publishes; so does a release."""
    on = yaml.load(WORKFLOW.read_text(encoding="utf-8"), yaml.BaseLoader)["on"]
    assert set(on["push"]["paths"]) == {
        "images/**", "autoresearch_ci/executors/published.py", ".github/workflows/images.yml",
    }  # fmt: skip
    assert all((ROOT / path.removesuffix("/**")).exists() for path in on["push"]["paths"])
    assert on["push"]["tags"] == ["v*"]
    assert "workflow_dispatch" in on


@pytest.mark.parametrize("platform", sorted(MACHINES))
def test_a_dockerfile_needs_nothing_but_its_arguments(platform: str) -> None:
    """It declares every argument that it is given and copies no file: the workflow's context is the folder as it is."""
    dockerfile = (ROOT / "images" / platform / "Dockerfile").read_text(encoding="utf-8")
    for name in standard_recipe(platform).arguments:
        assert re.search(rf"^ARG {name}\b", dockerfile, re.MULTILINE), name
    assert f"ARG TORCH_VERSION={TORCH_VERSION}\n" in dockerfile
    assert not re.search(r"^(COPY|ADD)\b", dockerfile, re.MULTILINE)


def test_the_requirements_on_top_come_from_where_the_rest_came_from() -> None:
    """The thin layer knows every argument of the others that says where packages are."""
    names = {"PIP_INDEX_URL", "PIP_TRUSTED_HOST", "PIP_FIND_LINKS", "TORCH_INDEX_URL"}
    for folder in ("requirements", *MACHINES):
        dockerfile = (ROOT / "images" / folder / "Dockerfile").read_text(encoding="utf-8")
        assert names <= set(re.findall(r"^ARG (\w+)", dockerfile, re.MULTILINE))


@pytest.mark.parametrize("platform", sorted(MACHINES))
def test_the_outputs_need_the_standard_library_only(platform: str) -> None:
    """On a bare Python the command prints what GITHUB_OUTPUT takes; an owner with capitals gets the registry's spelling."""
    bare = {
        name: value for name, value in os.environ.items() if name.upper() == "SYSTEMROOT"
    }  # no Python starts on Windows without
    done = subprocess.run(
        [sys.executable, "-S", "-m", "autoresearch_ci.executors.published", platform, "ghcr.io/Autoresearch-CI"],
        cwd=ROOT, env=bare, capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    said = dict(
        re.findall(r"^([\w-]+)<<(?:end-of-value)\n(.*?)\nend-of-value\n", done.stdout, re.DOTALL | re.MULTILINE)
    )
    assert said == outputs(platform, GHCR)
    assert said["reference"] == reference(GHCR, standard_recipe(platform))
    assert said["labels"].splitlines() == [
        f"autoresearch-ci.recipe={standard_recipe(platform).digest}",
        f"autoresearch-ci.platform={platform}",
    ]
    assert said["machines"].startswith("linux/amd64")
    assert ("linux/arm64" in said["machines"]) == (platform == "cpu")


def test_the_workflow_is_valid_and_safe() -> None:
    """It passes GitHub's schema and zizmor's strictest persona, without an exception."""
    for command in (
        ["check-jsonschema", "--builtin-schema", "vendor.github-workflows"],
        ["zizmor", "--offline", "--no-ignores", "--persona=pedantic"],
    ):
        program = shutil.which(command[0], path=sysconfig.get_path("scripts"))
        assert program is not None
        result = subprocess.run(
            [program, *command[1:], str(WORKFLOW)], capture_output=True, text=True, timeout=120, check=False
        )
        assert result.returncode == 0, result.stdout + result.stderr
    assert "zizmor: ignore" not in WORKFLOW.read_text(encoding="utf-8")


def test_how_far_a_pull_is_fits_in_a_line() -> None:
    """Layers count together; what was here counts for nothing; at the end it is being unpacked."""
    progress = Progress()
    progress.take({"status": "Pulling from autoresearch-ci/cpu", "id": "3f2a"})
    progress.take({"status": "Already exists", "progressDetail": {}, "id": "a"})
    progress.take({"status": "Downloading", "progressDetail": {"current": 1_000_000, "total": 30_000_000}, "id": "b"})
    progress.take({"status": "Downloading", "progressDetail": {"current": 2_000_000, "total": 20_000_000}, "id": "c"})
    assert progress.text == "3 of 50 MB"
    progress.take({"status": "Download complete", "progressDetail": {}, "id": "b"})
    assert progress.text == "32 of 50 MB"
    progress.take({"status": "Pull complete", "progressDetail": {}, "id": "c"})
    assert progress.text == "50 MB are here; unpacking"


@given(
    st.lists(
        st.fixed_dictionaries(
            {},
            optional={
                "status": st.sampled_from(["Downloading", "Download complete", "Extracting", "Waiting"]) | st.none(),
                "id": st.text(max_size=3),
                "progressDetail": st.none()
                | st.dictionaries(st.sampled_from(["current", "total"]), st.integers(0, 10**12)),
            },
        )
    )
)
def test_no_event_of_an_engine_breaks_the_progress(events: list[dict[str, Any]]) -> None:
    """Whatever an engine reports, there is a short line."""
    progress = Progress()
    for event in events:
        progress.take(event)
    assert 0 < len(progress.text) < 80


def test_the_patience_of_a_session_is_bounded() -> None:
    """A start without a network waits ten seconds for an answer at most, and a pull is never waited for without end."""
    assert PATIENCE.answer_s <= 10
    assert PATIENCE.silence_s <= 60
    assert PATIENCE.whole_s <= 3600
