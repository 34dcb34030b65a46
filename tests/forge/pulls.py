"""Pull requests in the test forge: one record each; branches and merges are real ones of the bare repository."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

from tests.forge import objects
from tests.forge.answers import Answer, Handler, NotFoundError, Request, page
from tests.forge.git import git, merged
from tests.forge.issues import BODY_LIMIT
from tests.forge.objects import Json, refusal, validation_failed

if TYPE_CHECKING:
    from tests.forge.api import Api

_READY = "markPullRequestReadyForReview"


class Pulls:
    """The handlers of pull requests; the records are the API's."""

    def __init__(self, api: Api) -> None:
        self._api = api
        self.handlers: Mapping[tuple[str, str], Handler] = {
            ("GET", "/repos/{owner}/{repo}/pulls"): self._list_pulls,
            ("POST", "/repos/{owner}/{repo}/pulls"): self._create_pull,
            ("GET", "/repos/{owner}/{repo}/pulls/{pull_number}"): self._get_pull,
            ("PATCH", "/repos/{owner}/{repo}/pulls/{pull_number}"): self._edit_pull,
            ("PUT", "/repos/{owner}/{repo}/pulls/{pull_number}/merge"): self._merge_pull,
            ("POST", "/repos/{owner}/{repo}/pulls/{pull_number}/requested_reviewers"): self._request_reviewers,
            ("GET", "/repos/{owner}/{repo}/pulls/{pull_number}/reviews"): self._list_reviews,
            ("GET", "/repos/{owner}/{repo}/issues/{issue_number}/labels"): self._list_issue_labels,
            ("POST", "/repos/{owner}/{repo}/issues/{issue_number}/labels"): self._add_issue_labels,
        }

    def close(self, number: int) -> None:
        self._refresh(self._api.pulls[number])
        self._api.pulls[number].update(state="closed", closed_at=objects.EPOCH)

    def merge(self, pull: Json, method: Literal["squash", "rebase", "merge"]) -> str:
        """The hash of the merge commit; raises ConflictError."""
        self._refresh(pull)
        base = self._api.sha(f"refs/heads/{pull['base']}")
        message = f"{pull['title']} (#{pull['number']})"
        commit = merged(self._api.path, base, pull["head_sha"], method=method, message=message)
        if commit is None:
            raise ConflictError
        git(self._api.path, "update-ref", f"refs/heads/{pull['base']}", commit)
        pull.update(state="closed", closed_at=objects.EPOCH, merged_at=objects.EPOCH, merge_commit_sha=commit)
        return commit

    def review(self, number: int, login: str) -> None:
        pull = self._api.pulls[number]
        pull["reviews"].append(login)
        pull["reviewers"] = [name for name in pull["reviewers"] if name != login]

    def mark_ready(self, asked: Json) -> Json:
        """GraphQL's answer to the mutation."""
        node = asked.get("variables", {}).get("input", {}).get("pullRequestId", "")
        pull = next((pull for pull in self._api.pulls.values() if f"PR_{pull['number']}" == node), None)
        kind, message = "", ""
        if _READY not in asked.get("query", ""):
            kind, message = "undefinedField", "the test forge has no such field"
        elif pull is None:
            kind, message = "NOT_FOUND", f"Could not resolve to a node with the global id of '{node}'"
        elif "pull_requests" in self._api.forbidden:
            kind, message = "FORBIDDEN", "Resource not accessible by integration"
        elif not pull["draft"]:
            kind, message = "UNPROCESSABLE", "Pull request is not a draft"
        if pull is None or message:
            return {"data": {_READY: None}, "errors": [{"type": kind, "path": [_READY], "message": message}]}
        pull["draft"] = False
        return {"data": {_READY: {"clientMutationId": None, "pullRequest": {"isDraft": False}}}}

    def _list_pulls(self, request: Request) -> Answer:
        owner = self._api.full_name.split("/")[0]
        state, head, base = request.first("state", "open"), request.first("head"), request.first("base")
        found = [
            pull
            for pull in sorted(self._api.pulls.values(), key=lambda pull: int(pull["number"]))
            if state in ("all", pull["state"])
            and head in ("", f"{owner}:{pull['head']}")
            and base in ("", pull["base"])
        ]
        if request.first("direction", "desc") == "desc":
            found.reverse()
        return page(request, [self._pull(request, pull) for pull in found])

    def _create_pull(self, request: Request) -> Answer:
        wanted = request.body
        head, base = wanted["head"], wanted["base"]
        if not self._api.may_create_pulls:
            return Answer(403, refusal(403, "GitHub Actions is not permitted to create or approve pull requests."))
        problem = self._problem_with(wanted)
        if problem is not None:
            return Answer(422, problem)
        number = self._api.next_number()
        self._api.pulls[number] = {
            "number": number,
            "title": wanted["title"],
            "body": wanted.get("body"),
            "draft": wanted.get("draft", False),
            "head": head,
            "base": base,
            "state": "open",
            "labels": [],
            "reviewers": [],
            "teams": [],
            "reviews": [],
            "assignees": [],
            "closed_at": None,
            "merged_at": None,
            "merge_commit_sha": None,
        }
        return Answer(201, self._whole_pull(request, self._api.pulls[number]))

    def _problem_with(self, wanted: Json) -> Json | None:
        """Why GitHub does not make this pull request: the body of its 422."""
        head, base = wanted["head"], wanted["base"]
        rule: Json = {"resource": "PullRequest", "code": "custom"}
        for name in ("base", "head"):
            try:
                self._api.sha(f"refs/heads/{wanted[name]}")
            except NotFoundError:
                return validation_failed({"resource": "PullRequest", "field": name, "code": "invalid"})
        if not wanted.get("title"):
            return validation_failed({"resource": "PullRequest", "field": "title", "code": "missing_field"})
        if len(wanted.get("body") or "") > BODY_LIMIT:
            return validation_failed({**rule, "message": f"body is too long (maximum is {BODY_LIMIT} characters)"})
        if wanted.get("draft") and not self._api.drafts_supported:
            return validation_failed(message="Draft pull requests are not supported in this repository.")
        if any((p["head"], p["base"], p["state"]) == (head, base, "open") for p in self._api.pulls.values()):
            owner = self._api.full_name.split("/")[0]
            return validation_failed({**rule, "message": f"A pull request already exists for {owner}:{head}."})
        try:
            git(self._api.path, "merge-base", f"refs/heads/{base}", f"refs/heads/{head}")
        except subprocess.CalledProcessError:
            message = f"The {head} branch has no history in common with {base}"
            return validation_failed({**rule, "message": message})
        if git(self._api.path, "rev-list", "--count", f"refs/heads/{base}..refs/heads/{head}") == "0":
            return validation_failed({**rule, "message": f"No commits between {base} and {head}"})
        return None

    def _get_pull(self, request: Request) -> Answer:
        pull = self._whole_pull(request, self._numbered(request, "pull_number"))
        if (number := pull["number"]) in self._api.forks:
            pull["head"]["repo"] = objects.repository(request.base, self._api.forks[number], pull["base"]["ref"])
        return Answer(200, pull)

    def _edit_pull(self, request: Request) -> Answer:
        pull = self._numbered(request, "pull_number")
        changes = {name: value for name, value in request.body.items() if name in ("title", "body", "state", "base")}
        if len(changes.get("body") or "") > BODY_LIMIT:
            return Answer(422, validation_failed({"resource": "PullRequest", "code": "custom", "message": "too long"}))
        pull.update(changes)
        return Answer(200, self._whole_pull(request, pull))

    def _merge_pull(self, request: Request) -> Answer:
        pull = self._numbered(request, "pull_number")
        self._refresh(pull)
        method, words = request.body.get("merge_method", "merge"), "Pull Request is not mergeable"
        if pull["draft"]:
            return Answer(405, refusal(405, "Pull Request is still a draft"))
        if pull["state"] != "open":
            return Answer(405, refusal(405, words))
        if method not in self._api.merge_methods:
            return Answer(405, refusal(405, f"{method.capitalize()} merges are not allowed on this repository."))
        if self._api.merge_refusal:
            return Answer(405, refusal(405, self._api.merge_refusal))
        if request.body.get("sha", pull["head_sha"]) != pull["head_sha"]:
            return Answer(409, refusal(409, "Head branch was modified. Review and try the merge again."))
        try:
            commit = self.merge(pull, method)
        except ConflictError:
            return Answer(405, refusal(405, words))
        return Answer(200, {"sha": commit, "merged": True, "message": "Pull Request successfully merged"})

    # People and labels.

    def _request_reviewers(self, request: Request) -> Answer:
        pull = self._numbered(request, "pull_number")
        people, teams = request.body.get("reviewers", []), request.body.get("team_reviewers", [])
        if objects.BOT in people:
            return Answer(422, validation_failed(message="Review cannot be requested from pull request author."))
        known = {name for name, permission in self._api.permissions.items() if permission != "none"}
        if set(people) - known or set(teams) - self._api.teams:
            message = (
                "Reviews may only be requested from collaborators. One or more of the users or teams you specified is not "
                f"a collaborator of the {self._api.full_name} repository."
            )
            return Answer(422, validation_failed(message=message))
        pull["reviewers"] = sorted({*pull["reviewers"], *people})
        pull["teams"] = sorted({*pull["teams"], *teams})
        return Answer(201, self._pull(request, pull))

    def _list_reviews(self, request: Request) -> Answer:
        pull = self._numbered(request, "pull_number")
        shown = [
            objects.review(request.base, self._api.full_name, pull["number"], number, login)
            for number, login in enumerate(pull["reviews"], 1)
        ]
        return page(request, shown)

    def _list_issue_labels(self, request: Request) -> Answer:
        names = self._numbered(request, "issue_number")["labels"]
        return page(request, [self._api.label(request, name) for name in names])

    def _add_issue_labels(self, request: Request) -> Answer:
        if not self._api.may_label:
            return Answer(403, refusal(403, "Resource not accessible by integration"))
        pull = self._numbered(request, "issue_number")
        for name in request.body["labels"]:
            self._api.labels.setdefault(name, ("ededed", ""))
            if name not in pull["labels"]:
                pull["labels"].append(name)
        return Answer(200, [self._api.label(request, name) for name in pull["labels"]])

    def _pull(self, request: Request, pull: Json) -> Json:
        self._refresh(pull)
        labels = [self._api.label(request, name) for name in pull["labels"]]
        return objects.pull_request(request.base, self._api.repository(request), pull, labels)

    def _whole_pull(self, request: Request, pull: Json) -> Json:
        listed = self._pull(request, pull)
        span = f"{pull['base_sha']}...{pull['head_sha']}"
        numbers = [line.split("\t") for line in git(self._api.path, "diff", "--numstat", span).splitlines()]
        return objects.whole_pull_request(
            listed,
            additions=sum(int(added) for added, _, _ in numbers if added != "-"),
            deletions=sum(int(deleted) for _, deleted, _ in numbers if deleted != "-"),
            changed_files=len(numbers),
            commits=int(git(self._api.path, "rev-list", "--count", span.replace("...", ".."))),
        )

    def _refresh(self, pull: Json) -> None:
        """An open pull request follows its branches; a closed one stays where it was. Its commits are never lost."""
        if pull["state"] == "open":
            for side in ("head", "base"):
                try:
                    pull[f"{side}_sha"] = self._api.sha(f"refs/heads/{pull[side]}")
                except NotFoundError:
                    continue
            git(self._api.path, "update-ref", f"refs/pull/{pull['number']}/head", pull["head_sha"])

    def _numbered(self, request: Request, parameter: str) -> Json:
        number = request.operation.parameters[parameter]
        if not number.isdigit() or int(number) not in self._api.pulls:
            raise NotFoundError
        return self._api.pulls[int(number)]


class ConflictError(Exception):
    """The branch and its base changed the same lines."""
