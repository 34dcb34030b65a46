"""The environments that this project publishes, and the names they have: `<registry>/<platform>:<hash of the recipe>`.

A session and the publishing workflow compute the same name, each by itself, from what determines the environment: the
Dockerfile's text, the base image's name and the build arguments. Nothing is built, pulled or asked for that. The base counts
by its name, not by its digest: a digest would have to be looked up in a registry. So what is published stays as it was until
an input changes or somebody publishes it again; see images/README.md.

    python -m autoresearch_ci.executors.published cpu ghcr.io/autoresearch-ci

prints what the workflow needs as a step's outputs; the standard library is enough for it.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from autoresearch_ci.errors import MachineError, SettingsError

TORCH_VERSION: Final = "2.13.0"
# The CPU builds of torch; without it pip takes the default build, which brings gigabytes of CUDA.
TORCH_CPU_INDEX: Final = "https://download.pytorch.org/whl/cpu"
MACHINES: Final = {
    "cpu": ("linux/amd64", "linux/arm64"),
    "cuda": ("linux/amd64",),
}  # what each platform is published for
RECIPE_LABEL: Final = "autoresearch-ci.recipe"
PLATFORM_LABEL: Final = "autoresearch-ci.platform"
NONE: Final = "none"
_REGISTRY: Final = re.compile(r"[a-z0-9][a-z0-9.-]*(:\d+)?(/[a-z0-9][a-z0-9._-]*)*", re.ASCII)


@dataclass(frozen=True, slots=True)
class Recipe:
    """What determines a platform's environment. `arguments`: every build argument, `BASE_IMAGE` among them."""

    platform: str
    dockerfile: str
    arguments: Mapping[str, str]

    @property
    def base(self) -> str:
        return self.arguments["BASE_IMAGE"]

    @property
    def digest(self) -> str:
        """A hash of everything in it: 16 hexadecimal digits."""
        return short_hash({"dockerfile": self.dockerfile, "arguments": dict(self.arguments)})

    @property
    def labels(self) -> dict[str, str]:
        """What an image that follows this recipe says of itself."""
        return {RECIPE_LABEL: self.digest, PLATFORM_LABEL: self.platform}


def short_hash(inputs: Mapping[str, object]) -> str:
    """A hash of values that JSON can say: 16 hexadecimal digits, which is enough where nobody gains by a collision."""
    return hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()[:16]


def recipe_of(platform: str, *, base_image: str | None, arguments: Mapping[str, str]) -> Recipe:
    """The recipe with this base, the Dockerfile's own when None. Raises MachineError for a platform without containers."""
    try:
        dockerfile = (images_folder() / platform / "Dockerfile").read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise MachineError(
            f"there is no container image for the platform {platform}", hint='use `executor = "native"` on it'
        ) from error
    return Recipe(platform, dockerfile, {**arguments, "BASE_IMAGE": base_image or default_base(dockerfile)})


def standard_arguments(platform: str) -> dict[str, str]:
    """The build arguments of the published environment, which are the ones of a session that sets none."""
    index = {"TORCH_INDEX_URL": TORCH_CPU_INDEX} if platform == "cpu" else {}
    return {"TORCH_VERSION": TORCH_VERSION, **index}


def standard_recipe(platform: str) -> Recipe:
    """The recipe that is published."""
    return recipe_of(platform, base_image=None, arguments=standard_arguments(platform))


def registry_for(recipe: Recipe, registry: str) -> str | None:
    """Where this recipe's environment may be found ready-made; None when nobody publishes it, or `registry` is `none`."""
    return None if registry == NONE or recipe != standard_recipe(recipe.platform) else registry


def reference(registry: str, recipe: Recipe) -> str:
    """The name of the recipe's environment in a registry. Raises SettingsError for what cannot be a registry."""
    if not _REGISTRY.fullmatch(registry):
        raise SettingsError(
            f"`registry` cannot be {registry[:100]!r}", hint="write it as `ghcr.io/owner`, in lower case, or `none`"
        )
    return f"{registry}/{recipe.platform}:{recipe.digest}"


def images_folder(package: Path = Path(__file__).parents[1]) -> Path:
    """The folder with one folder for each platform: inside the installed package, or beside it in a checkout."""
    for folder in (package / "_images", package.parent / "images"):
        if folder.is_dir():
            return folder
    raise MachineError("this installation has no `images` folder", hint="install autoresearch-ci again")


def default_base(dockerfile: str) -> str:
    """The base image that a Dockerfile of ours names itself."""
    match = re.search(r"^ARG BASE_IMAGE=(\S+)$", dockerfile, re.MULTILINE)
    assert match is not None, "every Dockerfile of ours names its base"
    return match[1]


def outputs(platform: str, registry: str) -> dict[str, str]:
    """What the publishing workflow builds: the image's name, for which machines, the build arguments and labels, one a line."""
    recipe = standard_recipe(platform)
    return {
        "reference": reference(registry.lower(), recipe),
        "machines": ",".join(MACHINES[platform]),
        "build-args": _lines(recipe.arguments),
        "labels": _lines(recipe.labels),
    }


def _lines(values: Mapping[str, str]) -> str:
    return "\n".join(f"{name}={value}" for name, value in values.items())


def main(argv: Sequence[str] | None = None) -> None:
    """Prints the outputs in the form of GITHUB_OUTPUT; the values are this project's own, so that the delimiter can be a word."""
    parser = argparse.ArgumentParser(
        prog="published", description="What a platform's published environment is built from"
    )
    parser.add_argument("platform", choices=sorted(MACHINES))
    parser.add_argument("registry", help="as ghcr.io/autoresearch-ci")
    given = parser.parse_args(argv)
    for name, value in outputs(given.platform, given.registry).items():
        print(f"{name}<<end-of-value\n{value}\nend-of-value")


if __name__ == "__main__":
    main()
