"""Issues in the test forge, which pull requests are as well: comments, reactions, assignees."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tests.forge import objects
from tests.forge.answers import Answer, Handler, NotFoundError, Request, page
from tests.forge.objects import Json, validation_failed

if TYPE_CHECKING:
    from tests.forge.api import Api

BODY_LIMIT = 65_536


@dataclass
class Comment:
    """What somebody said; `reactions`: who reacted, and how."""

    id: int
    number: int
    login: str
    body: str
    at: float
    reactions: list[tuple[str, str]] = field(default_factory=list)


class Issues:
    """`titles`: of the issues that are no pull requests, by number. `comments`: by ID."""

    def __init__(self, api: Api) -> None:
        self._api = api
        self._ids = itertools.count(501)
        self.titles: dict[int, str] = {}
        self.comments: dict[int, Comment] = {}
        self.handlers: Mapping[tuple[str, str], Handler] = {
            ("GET", "/repos/{owner}/{repo}/issues/{issue_number}/comments"): self._list_comments,
            ("POST", "/repos/{owner}/{repo}/issues/{issue_number}/comments"): self._comment,
            ("GET", "/repos/{owner}/{repo}/issues/comments/{comment_id}"): self._get_comment,
            ("POST", "/repos/{owner}/{repo}/issues/comments/{comment_id}/reactions"): self._react,
            ("POST", "/repos/{owner}/{repo}/issues/{issue_number}/assignees"): self._assign,
        }

    # What a person does, and sees, for tests.

    def open(self, title: str) -> int:
        """A new issue; its number."""
        number = self._api.next_number()
        self.titles[number] = title
        return number

    def say(self, number: int, login: str, body: str) -> int:
        """A comment by `login`; its ID."""
        comment = Comment(next(self._ids), number, login, body, self._api.clock())
        self.comments[comment.id] = comment
        return comment.id

    def said(self, number: int) -> list[str]:
        """The texts of an issue's comments, in order."""
        return [comment.body for comment in self.comments.values() if comment.number == number]

    # The API.

    def _list_comments(self, request: Request) -> Answer:
        number, since = self._number(request), objects.seconds(request.first("since", objects.EPOCH))
        found = [c for c in self.comments.values() if c.number == number and c.at >= since]
        return page(request, [self._shown(request, comment) for comment in found])

    def _comment(self, request: Request) -> Answer:
        number, body = self._number(request), request.body["body"]
        if len(body) > BODY_LIMIT:
            message = f"body is too long (maximum is {BODY_LIMIT} characters)"
            return Answer(422, validation_failed({"resource": "IssueComment", "code": "custom", "message": message}))
        return Answer(201, self._shown(request, self.comments[self.say(number, objects.BOT, body)]))

    def _get_comment(self, request: Request) -> Answer:
        return Answer(200, self._shown(request, self._named(request)))

    def _react(self, request: Request) -> Answer:
        comment, content = self._named(request), request.body["content"]
        reaction = (objects.BOT, content)
        known = reaction in comment.reactions
        if not known:
            comment.reactions.append(reaction)
        shown = objects.reaction(request.base, comment.reactions.index(reaction) + 1, *reaction)
        return Answer(200 if known else 201, shown)

    def _assign(self, request: Request) -> Answer:
        number = self._number(request)
        pull = self._api.pulls.get(number)
        if pull is None:
            raise NotFoundError
        for login in request.body["assignees"]:
            # Who may not be assigned is left out without a word.
            if self._api.permissions.get(login, "none") != "none" and login not in pull["assignees"]:
                pull["assignees"].append(login)
        people = [objects.user(request.base, login) for login in pull["assignees"]]
        return Answer(201, objects.issue(request.base, self._api.full_name, pull, people))

    def _number(self, request: Request) -> int:
        number = request.operation.parameters["issue_number"]
        if not number.isdigit() or int(number) not in self._api.pulls.keys() | self.titles.keys():
            raise NotFoundError
        return int(number)

    def _named(self, request: Request) -> Comment:
        found = request.operation.parameters["comment_id"]
        if not found.isdigit() or int(found) not in self.comments:
            raise NotFoundError
        return self.comments[int(found)]

    def _shown(self, request: Request, comment: Comment) -> Json:
        return objects.comment(
            request.base, self._api.full_name, comment.id, comment.number, comment.login, comment.body, comment.at
        )
