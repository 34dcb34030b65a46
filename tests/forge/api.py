"""The REST half of the test forge: GitHub's rules on a real bare repository.

Only pull requests and labels are stored here and not in git.
"""

from __future__ import annotations

import os
import subprocess
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.forge import objects
from tests.forge.objects import Json, refusal, validation_failed
from tests.forge.openapi import Operation

BODY_LIMIT = 65_536
LOGIN = "octo-bot"


@dataclass(frozen=True)
class Request:
    """A REST request: what it asks for, and `base`, the URL of the API as the client sees it."""

    operation: Operation
    base: str
    query: Mapping[str, list[str]]
    body: Any

    def first(self, name: str, default: str = "") -> str:
        return self.query.get(name, [default])[0]


@dataclass(frozen=True)
class Answer:
    status: int
    body: Json | list[Json] | None
    headers: Mapping[str, str] = field(default_factory=dict)


class NotFoundError(Exception):
    """The object that the path names does not exist: 404."""


def git(repository: Path, *arguments: str, text: str = "") -> str:
    """What git prints; raises CalledProcessError. No configuration of this machine or its user has a say."""
    done = subprocess.run(
        ["git", *arguments],
        cwd=repository,
        env=bare_environment(repository),
        input=text,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    return done.stdout.strip()


def bare_environment(home: Path) -> dict[str, str]:
    """The variables for a git process that must not see this machine's configuration."""
    people = {f"GIT_{role}_{part}": value for role in ("AUTHOR", "COMMITTER") for part, value in _PERSON.items()}
    return {
        "PATH": os.environ["PATH"],
        "HOME": str(home),
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_TERMINAL_PROMPT": "0",
        **people,
    }


_PERSON = {"NAME": "octo", "EMAIL": "octo@example.invalid"}


class Api:
    """GitHub's answers about one repository, `full_name`, whose commits are in the bare repository `path`."""

    def __init__(self, full_name: str, path: Path) -> None:
        self.full_name = full_name
        self.path = path
        self.pulls: dict[int, Json] = {}
        self.labels: dict[str, tuple[str, str]] = {}  # colour and description
        self.may_create_pulls = True
        self.may_label = True
        self.permissions: dict[str, str] = {}  # of users; who is not in it is nobody here
        self.private = True
        self.forks: dict[int, str] = {}  # of pull requests whose branch is in another repository: which
        self.drafts_supported = True
        self._lock = threading.RLock()
        self._handlers: dict[tuple[str, str], Callable[[Request], Answer]] = {
            ("GET", "/user"): self._get_user,
            ("GET", "/rate_limit"): self._get_rate_limit,
            ("GET", "/repos/{owner}/{repo}"): self._get_repository,
            ("GET", "/repos/{owner}/{repo}/collaborators/{username}/permission"): self._get_permission,
            ("GET", "/repos/{owner}/{repo}/branches/{branch}"): self._get_branch,
            ("GET", "/repos/{owner}/{repo}/commits/{ref}"): self._get_commit,
            ("GET", "/repos/{owner}/{repo}/compare/{basehead}"): self._compare,
            ("GET", "/repos/{owner}/{repo}/pulls"): self._list_pulls,
            ("POST", "/repos/{owner}/{repo}/pulls"): self._create_pull,
            ("GET", "/repos/{owner}/{repo}/pulls/{pull_number}"): self._get_pull,
            ("PATCH", "/repos/{owner}/{repo}/pulls/{pull_number}"): self._edit_pull,
            ("GET", "/repos/{owner}/{repo}/labels"): self._list_labels,
            ("POST", "/repos/{owner}/{repo}/labels"): self._create_label,
            ("GET", "/repos/{owner}/{repo}/labels/{name}"): self._get_label,
            ("GET", "/repos/{owner}/{repo}/issues/{issue_number}/labels"): self._list_issue_labels,
            ("POST", "/repos/{owner}/{repo}/issues/{issue_number}/labels"): self._add_issue_labels,
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
            try:
                return handler(request)
            except NotFoundError:
                return Answer(404, refusal(404, "Not Found"))

    # What a person does, for tests.

    def close_pull(self, number: int) -> None:
        with self._lock:
            self._refresh(self.pulls[number])
            self.pulls[number].update(state="closed", closed_at=objects.EPOCH)

    def merge_pull(self, number: int, *, squash: bool = False) -> str:
        """Merges as the button does; the hash of the merge commit."""
        with self._lock:
            pull = self.pulls[number]
            self._refresh(pull)
            base = self._sha(f"refs/heads/{pull['base']}")
            parents = [base] if squash else [base, pull["head_sha"]]
            flags = [flag for parent in parents for flag in ("-p", parent)]
            merged = git(self.path, "commit-tree", f"{pull['head_sha']}^{{tree}}", *flags, "-m", f"merge #{number}")
            git(self.path, "update-ref", f"refs/heads/{pull['base']}", merged)
            now = objects.EPOCH
            pull.update(state="closed", closed_at=now, merged_at=now, merge_commit_sha=merged)
            return merged

    # Repository, commits.

    def _get_user(self, request: Request) -> Answer:
        return Answer(200, objects.private_user(request.base, LOGIN))

    def _get_rate_limit(self, _: Request) -> Answer:
        limit = {"limit": 5000, "remaining": 4999, "reset": 2_000_000_000, "used": 1}
        return Answer(200, {"rate": limit, "resources": {"core": limit, "search": limit}})

    def _get_repository(self, request: Request) -> Answer:
        return Answer(200, self._repository(request))

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
                "commit": self._commit(request, self._sha(f"refs/heads/{name}")),
                "_links": {"self": url, "html": f"{objects.web_of(request.base)}/{self.full_name}/tree/{name}"},
                "protected": False,
                "protection": {},
                "protection_url": f"{url}/protection",
            },
        )

    def _get_commit(self, request: Request) -> Answer:
        return Answer(200, self._commit(request, self._sha(request.operation.parameters["ref"])))

    def _compare(self, request: Request) -> Answer:
        left, _, right = request.operation.parameters["basehead"].partition("...")
        base, head = self._sha(left), self._sha(right)
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
                "base_commit": self._commit(request, base),
                "merge_base_commit": self._commit(request, common),
                "status": names[bool(ahead), bool(behind)],
                "ahead_by": ahead,
                "behind_by": behind,
                "total_commits": len(commits),
                "commits": [self._commit(request, sha) for sha in shown],
            },
        )

    # Pull requests.

    def _list_pulls(self, request: Request) -> Answer:
        owner = self.full_name.split("/")[0]
        state, head, base = request.first("state", "open"), request.first("head"), request.first("base")
        found = [
            pull
            for pull in sorted(self.pulls.values(), key=lambda pull: int(pull["number"]))
            if state in ("all", pull["state"])
            and head in ("", f"{owner}:{pull['head']}")
            and base in ("", pull["base"])
        ]
        if request.first("direction", "desc") == "desc":
            found.reverse()
        return self._page(request, [self._pull(request, pull) for pull in found])

    def _create_pull(self, request: Request) -> Answer:
        wanted = request.body
        head, base = wanted["head"], wanted["base"]
        if not self.may_create_pulls:
            return Answer(403, refusal(403, "GitHub Actions is not permitted to create or approve pull requests."))
        problem = self._problem_with(wanted)
        if problem is not None:
            return Answer(422, problem)
        number = len(self.pulls) + 1
        self.pulls[number] = {
            "number": number,
            "title": wanted["title"],
            "body": wanted.get("body"),
            "draft": wanted.get("draft", False),
            "head": head,
            "base": base,
            "state": "open",
            "labels": [],
            "closed_at": None,
            "merged_at": None,
            "merge_commit_sha": None,
        }
        return Answer(201, self._whole_pull(request, self.pulls[number]))

    def _problem_with(self, wanted: Json) -> Json | None:
        """Why GitHub does not make this pull request: the body of its 422."""
        head, base = wanted["head"], wanted["base"]
        rule: Json = {"resource": "PullRequest", "code": "custom"}
        for name in ("base", "head"):
            try:
                self._sha(f"refs/heads/{wanted[name]}")
            except NotFoundError:
                return validation_failed({"resource": "PullRequest", "field": name, "code": "invalid"})
        if not wanted.get("title"):
            return validation_failed({"resource": "PullRequest", "field": "title", "code": "missing_field"})
        if len(wanted.get("body") or "") > BODY_LIMIT:
            return validation_failed({**rule, "message": f"body is too long (maximum is {BODY_LIMIT} characters)"})
        if wanted.get("draft") and not self.drafts_supported:
            return validation_failed(message="Draft pull requests are not supported in this repository.")
        if any((p["head"], p["base"], p["state"]) == (head, base, "open") for p in self.pulls.values()):
            owner = self.full_name.split("/")[0]
            return validation_failed({**rule, "message": f"A pull request already exists for {owner}:{head}."})
        try:
            git(self.path, "merge-base", f"refs/heads/{base}", f"refs/heads/{head}")
        except subprocess.CalledProcessError:
            message = f"The {head} branch has no history in common with {base}"
            return validation_failed({**rule, "message": message})
        if git(self.path, "rev-list", "--count", f"refs/heads/{base}..refs/heads/{head}") == "0":
            return validation_failed({**rule, "message": f"No commits between {base} and {head}"})
        return None

    def _get_pull(self, request: Request) -> Answer:
        pull = self._whole_pull(request, self._numbered(request, "pull_number"))
        if (number := pull["number"]) in self.forks:
            pull["head"]["repo"] = objects.repository(request.base, self.forks[number], pull["base"]["ref"])
        return Answer(200, pull)

    def _edit_pull(self, request: Request) -> Answer:
        pull = self._numbered(request, "pull_number")
        changes = {name: value for name, value in request.body.items() if name in ("title", "body", "state", "base")}
        if len(changes.get("body") or "") > BODY_LIMIT:
            return Answer(422, validation_failed({"resource": "PullRequest", "code": "custom", "message": "too long"}))
        pull.update(changes)
        return Answer(200, self._whole_pull(request, pull))

    # Labels.

    def _list_labels(self, request: Request) -> Answer:
        return self._page(request, [self._label(request, name) for name in self.labels])

    def _get_label(self, request: Request) -> Answer:
        return Answer(200, self._label(request, request.operation.parameters["name"]))

    def _create_label(self, request: Request) -> Answer:
        if not self.may_label:
            return Answer(403, refusal(403, "Resource not accessible by integration"))
        name = request.body["name"]
        if name.lower() in map(str.lower, self.labels):
            taken = {"resource": "Label", "code": "already_exists", "field": "name"}
            return Answer(422, validation_failed(taken))
        self.labels[name] = (request.body.get("color", "ededed"), request.body.get("description", ""))
        return Answer(201, self._label(request, name))

    def _list_issue_labels(self, request: Request) -> Answer:
        names = self._numbered(request, "issue_number")["labels"]
        return self._page(request, [self._label(request, name) for name in names])

    def _add_issue_labels(self, request: Request) -> Answer:
        if not self.may_label:
            return Answer(403, refusal(403, "Resource not accessible by integration"))
        pull = self._numbered(request, "issue_number")
        for name in request.body["labels"]:
            self.labels.setdefault(name, ("ededed", ""))
            if name not in pull["labels"]:
                pull["labels"].append(name)
        return Answer(200, [self._label(request, name) for name in pull["labels"]])

    # What the answers are made of.

    def _repository(self, request: Request) -> Json:
        branch = git(self.path, "symbolic-ref", "--short", "HEAD")
        return objects.repository(request.base, self.full_name, branch) | {"private": self.private}

    def _commit(self, request: Request, sha: str) -> Json:
        tree, parents, message = git(self.path, "show", "--no-patch", "--format=%T%n%P%n%B", sha).split("\n", 2)
        return objects.commit(request.base, self.full_name, sha, tree, parents.split(), message)

    def _label(self, request: Request, name: str) -> Json:
        spelled = next((known for known in self.labels if known.lower() == name.lower()), None)
        if spelled is None:
            raise NotFoundError
        color, description = self.labels[spelled]
        return objects.label(request.base, self.full_name, spelled, color, description)

    def _pull(self, request: Request, pull: Json) -> Json:
        self._refresh(pull)
        labels = [self._label(request, name) for name in pull["labels"]]
        return objects.pull_request(request.base, self._repository(request), pull, labels)

    def _whole_pull(self, request: Request, pull: Json) -> Json:
        listed = self._pull(request, pull)
        span = f"{pull['base_sha']}...{pull['head_sha']}"
        numbers = [line.split("\t") for line in git(self.path, "diff", "--numstat", span).splitlines()]
        return objects.whole_pull_request(
            listed,
            additions=sum(int(added) for added, _, _ in numbers if added != "-"),
            deletions=sum(int(deleted) for _, deleted, _ in numbers if deleted != "-"),
            changed_files=len(numbers),
            commits=int(git(self.path, "rev-list", "--count", span.replace("...", ".."))),
        )

    def _refresh(self, pull: Json) -> None:
        """An open pull request follows its branches; a closed one stays where it was. Its commits are never lost."""
        if pull["state"] == "open":
            for side in ("head", "base"):
                try:
                    pull[f"{side}_sha"] = self._sha(f"refs/heads/{pull[side]}")
                except NotFoundError:
                    continue
            git(self.path, "update-ref", f"refs/pull/{pull['number']}/head", pull["head_sha"])

    def _numbered(self, request: Request, parameter: str) -> Json:
        number = request.operation.parameters[parameter]
        if not number.isdigit() or int(number) not in self.pulls:
            raise NotFoundError
        return self.pulls[int(number)]

    def _sha(self, name: str) -> str:
        try:
            return git(self.path, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{name}^{{commit}}")
        except subprocess.CalledProcessError as error:
            raise NotFoundError from error

    def _page(self, request: Request, items: list[Json]) -> Answer:
        size, page = int(request.first("per_page", "30")), int(request.first("page", "1"))
        headers = {}
        if page * size < len(items):
            names = {**{name: values[0] for name, values in request.query.items()}, "page": str(page + 1)}
            path = request.operation.template.format(**request.operation.parameters)
            query = "&".join(f"{name}={value}" for name, value in names.items())
            headers["Link"] = f'<{request.base}{path}?{query}>; rel="next"'
        return Answer(200, items[(page - 1) * size : page * size], headers)
