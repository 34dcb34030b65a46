"""The REST half of the test forge: GitHub's rules on a real bare repository.

Only pull requests and labels are stored here and not in git.
"""

from __future__ import annotations

import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path

from tests.forge import objects
from tests.forge.actions import Actions
from tests.forge.answers import Answer, Handler, NotFoundError, Request, page
from tests.forge.apps import Apps
from tests.forge.git import git
from tests.forge.issues import Issues
from tests.forge.objects import Json, refusal, validation_failed
from tests.forge.openapi import Operation
from tests.forge.pulls import Pulls

LOGIN = objects.BOT


class Api:
    """GitHub's answers about one repository, `full_name`, whose commits are in the bare repository `path`.

    What a token may not do is in `forbidden`: `contents`, `pull_requests`, `issues`, `statuses`, `actions`. `clock`:
    seconds since the epoch.
    """

    def __init__(self, full_name: str, path: Path) -> None:
        self.full_name = full_name
        self.path = path
        self.clock: Callable[[], float] = time.time
        self.pulls: dict[int, Json] = {}
        self.labels: dict[str, tuple[str, str]] = {}  # colour and description
        self.statuses: dict[str, list[Json]] = {}  # by commit
        self.forbidden: set[str] = set()
        self.may_create_pulls = True
        self.may_label = True
        self.permissions: dict[str, str] = {}  # of users; who is not in it is nobody here
        self.teams: set[str] = set()
        self.private = True
        self.forks: dict[int, str] = {}  # of pull requests whose branch is in another repository: which
        self.drafts_supported = True
        self.merge_methods = {"merge", "squash", "rebase"}
        self.merge_refusal = ""  # why no pull request may be merged now, in the words of a branch's rules
        self.issues = Issues(self)
        self.actions = Actions(self)
        self.apps = Apps(self)
        self._pulls = Pulls(self)
        self._lock = threading.RLock()
        self._handlers: dict[tuple[str, str], Handler] = {
            ("GET", "/user"): self._get_user,
            ("GET", "/rate_limit"): self._get_rate_limit,
            ("GET", "/repos/{owner}/{repo}"): self._get_repository,
            ("GET", "/repos/{owner}/{repo}/collaborators/{username}/permission"): self._get_permission,
            ("GET", "/repos/{owner}/{repo}/branches/{branch}"): self._get_branch,
            ("GET", "/repos/{owner}/{repo}/commits/{ref}"): self._get_commit,
            ("GET", "/repos/{owner}/{repo}/compare/{basehead}"): self._compare,
            ("POST", "/repos/{owner}/{repo}/statuses/{sha}"): self._set_status,
            ("GET", "/repos/{owner}/{repo}/labels"): self._list_labels,
            ("POST", "/repos/{owner}/{repo}/labels"): self._create_label,
            ("GET", "/repos/{owner}/{repo}/labels/{name}"): self._get_label,
            **self._pulls.handlers,
            **self.issues.handlers,
            **self.actions.handlers,
            **self.apps.handlers,
        }

    def answer(self, request: Request) -> Answer:
        """The answer to a request that was found valid; 501 for what the description has and this forge has not."""
        operation = request.operation
        handler = self._handlers.get((operation.method, operation.template))
        if handler is None:
            return Answer(501, refusal(501, f"the test forge has no {operation}"))
        named = operation.parameters
        with self._lock:
            if "repo" in named and f"{named['owner']}/{named['repo']}".lower() != self.full_name.lower():
                return Answer(404, refusal(404, "Not Found"))
            if _area(operation) in self.forbidden:
                return Answer(403, refusal(403, "Resource not accessible by integration"))
            try:
                return handler(request)
            except NotFoundError:
                return Answer(404, refusal(404, "Not Found"))

    def graphql(self, asked: Json) -> Json:
        """The answer to the one mutation that REST has not, and to nothing else."""
        with self._lock:
            return self._pulls.mark_ready(asked)

    def next_number(self) -> int:
        """Issues and pull requests are numbered together."""
        return max(0, *self.pulls, *self.issues.titles) + 1 if self.pulls or self.issues.titles else 1

    # What a person does, for tests.

    def close_pull(self, number: int) -> None:
        with self._lock:
            self._pulls.close(number)

    def merge_pull(self, number: int, *, squash: bool = False) -> str:
        """Merges as the button does; the hash of the merge commit."""
        with self._lock:
            return self._pulls.merge(self.pulls[number], "squash" if squash else "merge")

    def review_pull(self, number: int, login: str) -> None:
        """Gives a review, after which nobody waits for this person's any more."""
        with self._lock:
            self._pulls.review(number, login)

    # Repository, commits.

    def _get_user(self, request: Request) -> Answer:
        return Answer(200, objects.private_user(request.base, LOGIN))

    def _get_rate_limit(self, _: Request) -> Answer:
        limit = {"limit": 5000, "remaining": 4999, "reset": 2_000_000_000, "used": 1}
        return Answer(200, {"rate": limit, "resources": {"core": limit, "search": limit}})

    def _get_repository(self, request: Request) -> Answer:
        return Answer(200, self.repository(request))

    def _get_permission(self, request: Request) -> Answer:
        name = request.operation.parameters["username"]
        if name not in self.permissions:
            raise NotFoundError
        found = self.permissions[name]
        return Answer(200, {"permission": found, "role_name": found, "user": None})

    def _get_branch(self, request: Request) -> Answer:
        name = request.operation.parameters["branch"]
        url = f"{request.base}/repos/{self.full_name}/branches/{name}"
        return Answer(
            200,
            {
                "name": name,
                "commit": self.commit(request, self.sha(f"refs/heads/{name}")),
                "_links": {"self": url, "html": f"{objects.web_of(request.base)}/{self.full_name}/tree/{name}"},
                "protected": False,
                "protection": {},
                "protection_url": f"{url}/protection",
            },
        )

    def _get_commit(self, request: Request) -> Answer:
        return Answer(200, self.commit(request, self.sha(request.operation.parameters["ref"])))

    def _compare(self, request: Request) -> Answer:
        left, _, right = request.operation.parameters["basehead"].partition("...")
        base, head = self.sha(left), self.sha(right)
        try:
            common = git(self.path, "merge-base", base, head)
        except subprocess.CalledProcessError as error:
            raise NotFoundError from error  # GitHub: "No common ancestor"
        behind, ahead = (
            int(n) for n in git(self.path, "rev-list", "--left-right", "--count", f"{base}...{head}").split()
        )
        names = {(False, False): "identical", (True, False): "ahead", (False, True): "behind", (True, True): "diverged"}
        commits = git(self.path, "rev-list", "--reverse", f"{base}..{head}").split()
        per_page, page = int(request.first("per_page", "250")), int(request.first("page", "1"))
        shown = commits[(page - 1) * per_page : page * per_page]
        url = f"{request.base}/repos/{self.full_name}/compare/{left}...{right}"
        html = f"{objects.web_of(request.base)}/{self.full_name}/compare/{left}...{right}"
        return Answer(
            200,
            {
                "url": url,
                "html_url": html,
                "permalink_url": html,
                "diff_url": f"{html}.diff",
                "patch_url": f"{html}.patch",
                "base_commit": self.commit(request, base),
                "merge_base_commit": self.commit(request, common),
                "status": names[bool(ahead), bool(behind)],
                "ahead_by": ahead,
                "behind_by": behind,
                "total_commits": len(commits),
                "commits": [self.commit(request, sha) for sha in shown],
            },
        )

    def _set_status(self, request: Request) -> Answer:
        sha = request.operation.parameters["sha"]
        try:
            known = self.sha(sha)
        except NotFoundError:
            return Answer(422, validation_failed(message=f"No commit found for SHA: {sha}"))
        statuses = self.statuses.setdefault(known, [])
        statuses.append(dict(request.body))
        return Answer(201, objects.status(request.base, self.full_name, known, len(statuses), request.body))

    # Labels.

    def _list_labels(self, request: Request) -> Answer:
        return page(request, [self.label(request, name) for name in self.labels])

    def _get_label(self, request: Request) -> Answer:
        return Answer(200, self.label(request, request.operation.parameters["name"]))

    def _create_label(self, request: Request) -> Answer:
        if not self.may_label:
            return Answer(403, refusal(403, "Resource not accessible by integration"))
        name = request.body["name"]
        if name.lower() in map(str.lower, self.labels):
            taken = {"resource": "Label", "code": "already_exists", "field": "name"}
            return Answer(422, validation_failed(taken))
        self.labels[name] = (request.body.get("color", "ededed"), request.body.get("description", ""))
        return Answer(201, self.label(request, name))

    # What the answers are made of.

    def repository(self, request: Request) -> Json:
        branch = git(self.path, "symbolic-ref", "--short", "HEAD")
        return objects.repository(request.base, self.full_name, branch) | {"private": self.private}

    def commit(self, request: Request, sha: str) -> Json:
        tree, parents, message = git(self.path, "show", "--no-patch", "--format=%T%n%P%n%B", sha).split("\n", 2)
        return objects.commit(request.base, self.full_name, sha, tree, parents.split(), message)

    def label(self, request: Request, name: str) -> Json:
        spelled = next((known for known in self.labels if known.lower() == name.lower()), None)
        if spelled is None:
            raise NotFoundError
        color, description = self.labels[spelled]
        return objects.label(request.base, self.full_name, spelled, color, description)

    def sha(self, name: str) -> str:
        try:
            return git(self.path, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{name}^{{commit}}")
        except subprocess.CalledProcessError as error:
            raise NotFoundError from error


def _area(operation: Operation) -> str:
    """The permission that a write needs; none for what only looks."""
    if operation.method == "GET":
        return ""
    parts = operation.template.removeprefix("/repos/{owner}/{repo}/").split("/")
    if parts[-1] == "merge":
        return "contents"
    return {"pulls": "pull_requests", "labels": "issues"}.get(parts[0], parts[0])
