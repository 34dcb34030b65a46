"""GitHub's objects as dictionaries, with every property that the API description requires.

`base` is the URL that the API answers at for this client (host, port and prefix as the client wrote them): PyGithub
refuses an object whose `url` is on another host.
"""

from __future__ import annotations

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
        "user": user(base, "octo-bot"),
        "assignee": None,
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
