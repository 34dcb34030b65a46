"""GitHub's objects as dictionaries, with every property that the API description requires.

`base` is the URL that the API answers at for this client (host, port and prefix as the client wrote them): PyGithub
refuses an object whose `url` is on another host.
"""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote, urlsplit

Json = dict[str, Any]

_USER_LINKS = [
    "events_url",
    "followers_url",
    "following_url",
    "gists_url",
    "organizations_url",
    "received_events_url",
    "repos_url",
    "starred_url",
    "subscriptions_url",
]
_REPOSITORY_LINKS = [
    "archive",
    "assignees",
    "blobs",
    "branches",
    "collaborators",
    "comments",
    "commits",
    "compare",
    "contents",
    "contributors",
    "deployments",
    "downloads",
    "events",
    "forks",
    "git_commits",
    "git_refs",
    "git_tags",
    "hooks",
    "issue_comment",
    "issue_events",
    "issues",
    "keys",
    "labels",
    "languages",
    "merges",
    "milestones",
    "notifications",
    "pulls",
    "releases",
    "stargazers",
    "statuses",
    "subscribers",
    "subscription",
    "tags",
    "teams",
    "trees",
]
EPOCH = "2026-11-01T00:00:00Z"
BOT = "octo-bot"  # who the client is


def web_of(base: str) -> str:
    """Where people look: the server's root."""
    parts = urlsplit(base)
    return f"{parts.scheme}://{parts.netloc}"


def user(base: str, login: str) -> Json:
    url = f"{base}/users/{login}"
    return {
        "login": login,
        "id": 1,
        "node_id": "U_1",
        "avatar_url": f"{web_of(base)}/{login}.png",
        "gravatar_id": "",
        "url": url,
        "html_url": f"{web_of(base)}/{login}",
        **{name: f"{url}/{name.removesuffix('_url')}" for name in _USER_LINKS},
        "type": "User",
        "site_admin": False,
    }


def private_user(base: str, login: str) -> Json:
    numbers = ["followers", "following", "public_gists", "public_repos"]
    texts = ["bio", "blog", "company", "email", "location", "name"]
    return {
        **user(base, login),
        **dict.fromkeys(numbers, 0),
        **dict.fromkeys(texts, None),
        "hireable": None,
        "created_at": EPOCH,
        "updated_at": EPOCH,
    }


def repository(base: str, full_name: str, default_branch: str) -> Json:
    owner, name = full_name.split("/")
    url = f"{base}/repos/{full_name}"
    html = f"{web_of(base)}/{full_name}"
    return {
        "id": 1,
        "node_id": "R_1",
        "name": name,
        "full_name": full_name,
        "owner": user(base, owner),
        "private": False,
        "fork": False,
        "url": url,
        "html_url": html,
        "clone_url": f"{html}.git",
        "git_url": f"git://{urlsplit(base).netloc}/{full_name}.git",
        "ssh_url": f"git@{urlsplit(base).hostname}:{full_name}.git",
        "svn_url": html,
        "mirror_url": None,
        **{f"{link}_url": f"{url}/{link.replace('_', '/')}" for link in _REPOSITORY_LINKS},
        "default_branch": default_branch,
        "description": None,
        "homepage": None,
        "language": None,
        "license": None,
        **dict.fromkeys(["forks", "forks_count", "open_issues", "open_issues_count", "size"], 0),
        **dict.fromkeys(["stargazers_count", "watchers", "watchers_count", "network_count", "subscribers_count"], 0),
        **dict.fromkeys(["has_issues", "has_projects", "has_wiki", "has_downloads"], True),
        **dict.fromkeys(["has_pages", "has_discussions", "archived", "disabled"], False),
        **dict.fromkeys(["pushed_at", "created_at", "updated_at"], EPOCH),
    }


def label(base: str, full_name: str, name: str, color: str, description: str) -> Json:
    return {
        "id": sum(name.encode()),
        "node_id": f"LA_{name}",
        "url": f"{base}/repos/{full_name}/labels/{quote(name)}",
        "name": name,
        "description": description,
        "color": color,
        "default": False,
    }


def commit(base: str, full_name: str, sha: str, tree: str, parents: list[str], message: str) -> Json:
    url = f"{base}/repos/{full_name}/commits/{sha}"
    git_url = f"{base}/repos/{full_name}/git"
    person = {"name": "octo", "email": "octo@example.invalid", "date": EPOCH}
    return {
        "sha": sha,
        "node_id": f"C_{sha}",
        "url": url,
        "html_url": f"{web_of(base)}/{full_name}/commit/{sha}",
        "comments_url": f"{url}/comments",
        "author": None,
        "committer": None,
        "parents": [{"sha": parent, "url": f"{base}/repos/{full_name}/commits/{parent}"} for parent in parents],
        "commit": {
            "author": person,
            "committer": person,
            "comment_count": 0,
            "message": message,
            "tree": {"sha": tree, "url": f"{git_url}/trees/{tree}"},
            "url": f"{git_url}/commits/{sha}",
        },
    }


def pull_request(base: str, repo: Json, pull: Mapping[str, Any], labels: list[Json]) -> Json:
    """A pull request as lists show it; `pull` holds what the server knows about it."""
    full_name, number = repo["full_name"], pull["number"]
    url = f"{base}/repos/{full_name}/pulls/{number}"
    issue = f"{base}/repos/{full_name}/issues/{number}"
    html = f"{web_of(base)}/{full_name}/pull/{number}"
    statuses = f"{base}/repos/{full_name}/statuses/{pull['head_sha']}"
    links = {
        "comments": f"{issue}/comments",
        "commits": f"{url}/commits",
        "statuses": statuses,
        "html": html,
        "issue": issue,
        "review_comments": f"{url}/comments",
        "review_comment": f"{base}/repos/{full_name}/pulls/comments{{/number}}",
        "self": url,
    }

    def side(ref: str, sha: str) -> Json:
        owner = repo["owner"]
        return {"label": f"{owner['login']}:{ref}", "ref": ref, "sha": sha, "repo": repo, "user": owner}

    return {
        "id": number,
        "node_id": f"PR_{number}",
        "number": number,
        "url": url,
        "html_url": html,
        "diff_url": f"{html}.diff",
        "patch_url": f"{html}.patch",
        "issue_url": issue,
        "comments_url": links["comments"],
        "commits_url": links["commits"],
        "statuses_url": statuses,
        "review_comment_url": links["review_comment"],
        "review_comments_url": links["review_comments"],
        "_links": {name: {"href": link} for name, link in links.items()},
        "state": pull["state"],
        "title": pull["title"],
        "body": pull["body"],
        "draft": pull["draft"],
        "locked": False,
        "user": user(base, BOT),
        "assignee": None,
        "assignees": [user(base, login) for login in pull["assignees"]],
        "requested_reviewers": [user(base, login) for login in pull["reviewers"]],
        "requested_teams": [team(base, repo["owner"]["login"], slug) for slug in pull["teams"]],
        "author_association": "CONTRIBUTOR",
        "auto_merge": None,
        "milestone": None,
        "labels": labels,
        "head": side(pull["head"], pull["head_sha"]),
        "base": side(pull["base"], pull["base_sha"]),
        "created_at": EPOCH,
        "updated_at": EPOCH,
        "closed_at": pull["closed_at"],
        "merged_at": pull["merged_at"],
        "merge_commit_sha": pull["merge_commit_sha"],
    }


def whole_pull_request(listed: Json, *, additions: int, deletions: int, changed_files: int, commits: int) -> Json:
    """A pull request as it is shown alone."""
    merged = listed["merged_at"] is not None
    return {
        **listed,
        "additions": additions,
        "deletions": deletions,
        "changed_files": changed_files,
        "commits": commits,
        "comments": 0,
        "review_comments": 0,
        "mergeable": None,
        "mergeable_state": "unknown",
        "merged": merged,
        "merged_by": listed["user"] if merged else None,
        "maintainer_can_modify": False,
    }


def team(base: str, organization: str, slug: str) -> Json:
    url = f"{base}/organizations/1/team/{slug}"
    return {
        "id": 1,
        "node_id": f"T_{slug}",
        "url": url,
        "members_url": f"{url}/members{{/member}}",
        "repositories_url": f"{url}/repos",
        "html_url": f"{web_of(base)}/orgs/{organization}/teams/{slug}",
        "name": slug,
        "slug": slug,
        "description": None,
        "permission": "push",
        "parent": None,
        "type": "organization",
        "organization_id": 1,
    }


def issue(base: str, full_name: str, pull: Mapping[str, Any], assignees: list[Json]) -> Json:
    """A pull request as the issue that it is, too."""
    url = f"{base}/repos/{full_name}/issues/{pull['number']}"
    return {
        "id": pull["number"],
        "node_id": f"PR_{pull['number']}",
        "number": pull["number"],
        "url": url,
        "repository_url": f"{base}/repos/{full_name}",
        "html_url": f"{web_of(base)}/{full_name}/pull/{pull['number']}",
        "labels_url": f"{url}/labels{{/name}}",
        **{f"{name}_url": f"{url}/{name}" for name in ("comments", "events")},
        "state": pull["state"],
        "title": pull["title"],
        "user": user(base, BOT),
        "assignee": assignees[0] if assignees else None,
        "assignees": assignees,
        "labels": [],
        "locked": False,
        "milestone": None,
        "comments": 0,
        "created_at": EPOCH,
        "updated_at": EPOCH,
        "closed_at": pull["closed_at"],
        "author_association": "CONTRIBUTOR",
    }


def comment(base: str, full_name: str, number: int, issue_number: int, login: str, body: str, at: float) -> Json:
    """A comment on an issue; `at`: seconds since the epoch."""
    issue_url = f"{base}/repos/{full_name}/issues/{issue_number}"
    return {
        "id": number,
        "node_id": f"IC_{number}",
        "url": f"{base}/repos/{full_name}/issues/comments/{number}",
        "html_url": f"{web_of(base)}/{full_name}/issues/{issue_number}#issuecomment-{number}",
        "issue_url": issue_url,
        "user": user(base, login),
        "body": body,
        "created_at": moment(at),
        "updated_at": moment(at),
        "author_association": "CONTRIBUTOR",
    }


def reaction(base: str, number: int, login: str, content: str) -> Json:
    return {
        "id": number,
        "node_id": f"REA_{number}",
        "user": user(base, login),
        "content": content,
        "created_at": EPOCH,
    }


def review(base: str, full_name: str, pull_number: int, number: int, login: str) -> Json:
    pull = f"{base}/repos/{full_name}/pulls/{pull_number}"
    html = f"{web_of(base)}/{full_name}/pull/{pull_number}#pullrequestreview-{number}"
    return {
        "id": number,
        "node_id": f"PRR_{number}",
        "user": user(base, login),
        "body": "",
        "state": "COMMENTED",
        "commit_id": None,
        "html_url": html,
        "pull_request_url": pull,
        "_links": {"html": {"href": html}, "pull_request": {"href": pull}},
        "author_association": "COLLABORATOR",
        "submitted_at": EPOCH,
    }


def status(base: str, full_name: str, sha: str, number: int, wanted: Mapping[str, Any]) -> Json:
    return {
        "id": number,
        "node_id": f"SC_{number}",
        "url": f"{base}/repos/{full_name}/statuses/{sha}",
        "avatar_url": None,
        "state": wanted["state"],
        "description": wanted.get("description"),
        "target_url": wanted.get("target_url"),
        "context": wanted.get("context", "default"),
        "created_at": EPOCH,
        "updated_at": EPOCH,
        "creator": user(base, BOT),
    }


def workflow_run(base: str, repo: Json, run: Mapping[str, Any]) -> Json:
    url = f"{base}/repos/{repo['full_name']}/actions/runs/{run['id']}"
    person = {"name": "octo", "email": "octo@example.invalid"}
    return {
        "id": run["id"],
        "node_id": f"WFR_{run['id']}",
        "name": run["workflow"],
        "display_title": run["workflow"],
        "run_number": run["id"],
        "event": run["event"],
        "status": run["status"],
        "conclusion": run["conclusion"],
        "path": f".github/workflows/{run['workflow']}@{run['ref']}",
        "workflow_id": 1,
        "head_branch": run["ref"],
        "head_sha": run["sha"],
        "head_commit": {
            "id": run["sha"],
            "tree_id": run["sha"],
            "message": "a change",
            "timestamp": EPOCH,
            "author": person,
            "committer": person,
        },
        "repository": repo,
        "head_repository": repo,
        "url": url,
        "html_url": f"{web_of(base)}/{repo['full_name']}/actions/runs/{run['id']}",
        **{f"{name}_url": f"{url}/{name}" for name in ("jobs", "logs", "cancel", "rerun", "artifacts")},
        "check_suite_url": f"{base}/repos/{repo['full_name']}/check-suites/1",
        "workflow_url": f"{base}/repos/{repo['full_name']}/actions/workflows/1",
        "pull_requests": [],
        "created_at": EPOCH,
        "updated_at": EPOCH,
    }


def installation(base: str, full_name: str, number: int, app: str) -> Json:
    owner = full_name.split("/")[0]
    return {
        "id": number,
        "app_id": int(app),
        "app_slug": "autoresearch",
        "account": user(base, owner),
        "target_id": 1,
        "target_type": "Organization",
        "access_tokens_url": f"{base}/app/installations/{number}/access_tokens",
        "repositories_url": f"{base}/installation/repositories",
        "html_url": f"{web_of(base)}/organizations/{owner}/settings/installations/{number}",
        "repository_selection": "selected",
        "permissions": {"contents": "write", "pull_requests": "write"},
        "events": [],
        "single_file_name": None,
        "suspended_by": None,
        "suspended_at": None,
        "created_at": EPOCH,
        "updated_at": EPOCH,
    }


def moment(seconds_since_epoch: float) -> str:
    """As GitHub writes a time."""
    return dt.datetime.fromtimestamp(seconds_since_epoch, dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def seconds(written: str) -> float:
    """The other way round."""
    return dt.datetime.fromisoformat(written).timestamp()


def as_json(value: object) -> str:
    return json.dumps(value, separators=(",", ":"))


def validation_failed(*errors: Json, message: str = "Validation Failed") -> Json:
    """The body of a 422."""
    return {
        "message": message,
        "errors": list(errors),
        "documentation_url": "https://docs.github.com/rest",
        "status": "422",
    }


def refusal(status: int, message: str) -> Json:
    """The body of any other refusal."""
    return {"message": message, "documentation_url": "https://docs.github.com/rest", "status": str(status)}
