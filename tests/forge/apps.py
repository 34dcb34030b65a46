"""GitHub Apps in the test forge: who shows a token signed with the App's key gets tokens for the repository, which expire."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import TYPE_CHECKING

import jwt

from tests.forge import objects
from tests.forge.answers import Answer, Handler, NotFoundError, Request
from tests.forge.objects import refusal, validation_failed

if TYPE_CHECKING:
    from tests.forge.api import Api

_LONGEST_S = 600  # GitHub: an App's own token may not be made for longer


class Apps:
    """`minted`: every token that an App got, with the time it is over. `life_s`: how long the next ones live."""

    def __init__(self, api: Api) -> None:
        self._api = api
        self._count = itertools.count(1)
        self._keys: dict[str, str] = {}
        self._installed: dict[str, int] = {}
        self.minted: dict[str, float] = {}
        self.life_s = 3600.0
        self.handlers: Mapping[tuple[str, str], Handler] = {
            ("GET", "/repos/{owner}/{repo}/installation"): self._find,
            ("POST", "/app/installations/{installation_id}/access_tokens"): self._mint,
        }

    @property
    def templates(self) -> frozenset[str]:
        """The paths that an App asks for as itself."""
        return frozenset(template for _, template in self.handlers)

    def register(self, number: str, public_key: str, *, installed: bool = True) -> None:
        """An App by its ID and the public half of its key (PEM), installed on the repository or not."""
        self._keys[number] = public_key
        if installed:
            self._installed[number] = 70_000 + int(number)

    def holds(self, token: str) -> bool:
        """Whether it is a minted token that is not over yet."""
        return self.minted.get(token, 0.0) > self._api.clock()

    def sender_of(self, token: str) -> str:
        """The ID of the App that signed `token`, else nothing."""
        try:
            number = str(jwt.decode(token, options={"verify_signature": False})["iss"])
            claims = jwt.decode(token, self._keys[number], algorithms=["RS256"], options={"require": ["iat", "exp"]})
        except (jwt.PyJWTError, KeyError):
            return ""
        return number if claims["exp"] - claims["iat"] <= _LONGEST_S + 60 else ""

    def _find(self, request: Request) -> Answer:
        if not request.app:
            return _not_an_app()
        if request.app not in self._installed:
            raise NotFoundError
        return Answer(
            200, objects.installation(request.base, self._api.full_name, self._installed[request.app], request.app)
        )

    def _mint(self, request: Request) -> Answer:
        if not request.app:
            return _not_an_app()
        if str(self._installed.get(request.app)) != request.operation.parameters["installation_id"]:
            raise NotFoundError
        if request.body["repositories"] != [self._api.full_name.split("/")[1]]:
            message = (
                "There is at least one repository that does not exist or is not accessible to the parent installation."
            )
            return Answer(422, validation_failed(message=message))
        token = f"ghs_MintedForApp{request.app}Number{next(self._count):08}"
        self.minted[token] = self._api.clock() + self.life_s
        return Answer(201, {"token": token, "expires_at": objects.moment(self.minted[token])})


def _not_an_app() -> Answer:
    return Answer(401, refusal(401, "A JSON web token could not be decoded"))
