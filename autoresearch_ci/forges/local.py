"""The forge on this machine: the branch appears in the user's repository, the pull request as a folder."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Literal

from autoresearch_ci.errors import ForgeError
from autoresearch_ci.forges.counting import Requests
from autoresearch_ci.forges.pull_request import Operation, PullRequest, PullStanding, PullState, with_note

TEXT_NAME = "pull-request.md"
PAGE_NAME = "pull-request.html"


@dataclass(frozen=True, slots=True)
class LocalForge:
    """Publishes into `folder`; `repository` is the user's checkout (or bare repository), which the branch is pushed to.

    `base_branch`: what a person merges into. `token` and `repository_url` are empty: there is no server.
    """

    repository: Path
    folder: Path
    base_branch: str = "main"
    token: str = ""
    repository_url: str = ""
    token_hours: float | None = None
    requests: Requests = field(default_factory=Requests)

    def secrets(self) -> tuple[str, ...]:
        """None: there is no server."""
        return ()

    def within(self, patience_s: float) -> LocalForge:  # noqa: ARG002 - as every forge's
        """The same forge: a folder keeps nobody waiting."""
        return self

    def permission(self, user: str) -> str:  # noqa: ARG002 - as every forge's
        """Raises ForgeError: a job on a runner has people behind it whom a folder does not know."""
        raise _nobody_to_ask()

    def is_public(self) -> bool:
        """The same."""
        raise _nobody_to_ask()

    def is_from_fork(self, number: int) -> bool:  # noqa: ARG002 - as every forge's
        """The same."""
        raise _nobody_to_ask()

    def pull_head(self, number: int) -> tuple[str, str]:  # noqa: ARG002 - as every forge's
        """The same."""
        raise _nobody_to_ask()

    def comment(self, number: int, text: str) -> None:  # noqa: ARG002 - as every forge's
        """The same."""
        raise _nobody_to_ask()

    def react(self, comment_id: int, content: Literal["eyes", "+1", "confused", "rocket"]) -> None:  # noqa: ARG002
        """The same."""
        raise _nobody_to_ask()

    def dispatch(self, workflow: str, ref: str, inputs: Mapping[str, str]) -> None:  # noqa: ARG002
        """The same."""
        raise _nobody_to_ask()

    def run_status(self, run_id: int) -> str:  # noqa: ARG002 - as every forge's
        """The same."""
        raise _nobody_to_ask()

    def cancel_run(self, run_id: int) -> None:  # noqa: ARG002 - as every forge's
        """The same."""
        raise _nobody_to_ask()

    def merge_pull(self, number: int, *, method: Literal["squash", "rebase", "merge"], head_sha: str = "") -> str:  # noqa: ARG002
        """The same; `autoresearch-ci merge` merges here."""
        raise _nobody_to_ask()

    def set_status(
        self, commit: str, *, state: Literal["pending", "success", "failure", "error"], description: str, url: str = ""
    ) -> None:
        """Nothing: nobody looks at a commit's status here."""

    def standing(self, branch: str, base: str = "") -> PullStanding:  # noqa: ARG002 - as every forge's
        """Open from the first publication on: nothing here closes or merges it."""
        text = self._folder(branch) / TEXT_NAME
        if not text.exists():
            return PullStanding(state=PullState.NONE)
        page = text.with_name(PAGE_NAME)
        return PullStanding(state=PullState.OPEN, url=(page if page.exists() else text).as_uri())

    def default_branch(self) -> str:
        """The branch that a pull request goes to unless told otherwise."""
        return self.base_branch

    @property
    def remote_url(self) -> str:
        """What git pushes to: the path of the user's repository."""
        return str(self.repository.resolve())

    def publish(
        self,
        *,
        branch: str,
        base: str,
        title: str,
        body: str,
        draft: bool,
        labels: tuple[str, ...],
        attachments: Mapping[str, bytes | str],
        reviewers: tuple[str, ...] = (),  # noqa: ARG002 - nobody looks at a folder because it asks
        assignees: tuple[str, ...] = (),  # noqa: ARG002
        note: str = "",
    ) -> PullRequest:
        """Writes `pull-request.md` and every attachment into the branch's folder; safe to repeat.

        The URL is that of the attachment `pull-request.html`, or of the text when there is none. Raises ForgeError when
        the folder cannot be written. Every file is complete or absent, and the text comes last.
        """
        folder = self._folder(branch)
        text = folder / TEXT_NAME
        operation = Operation.UPDATED if text.exists() else Operation.CREATED
        facts = [f"`{branch}` → `{base}`", *(["draft"] if draft else []), *labels]
        try:
            for name, content in attachments.items():
                _write(folder / _checked(name), content)
            _write(text, f"# {title}\n\n{' · '.join(facts)}\n\n{with_note(body, note)}\n")
        except OSError as error:
            raise ForgeError(
                f"the pull request cannot be written to `{folder}`: {error.strerror or error}",
                hint=f"make the folder writable, then run `autoresearch-ci finalize`; `{branch}` holds the work",
            ) from error
        page = folder / PAGE_NAME
        shown = page if PAGE_NAME in attachments else text
        return PullRequest(number=None, url=shown.as_uri(), operation=operation)

    def _folder(self, branch: str) -> Path:
        return (self.folder / _slug(branch)).resolve()


def _slug(branch: str) -> str:
    """The folder's name: the branch without our prefix, and without anything that means something to a file system."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", branch.removeprefix("autoresearch/")).strip(".-") or "branch"


def _checked(name: str) -> PurePosixPath:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name or ":" in name or not path.parts:
        raise ForgeError(f"`{name}` is not a name for a file beside the pull request")
    return path


def _write(path: Path, content: bytes | str) -> None:
    """Writes `path` so that a reader sees the old content or the new one, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
        Path(name).chmod(0o644)  # mkstemp gives 0600; the page is for anybody who may read the folder
        Path(name).replace(path)
    except OSError:
        with suppress(OSError):
            Path(name).unlink()
        raise


def _nobody_to_ask() -> ForgeError:
    return ForgeError("there is no server to ask", hint="use `--forge github` in a job")
