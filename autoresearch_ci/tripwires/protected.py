"""The files that a training script may not change, or not see: what names them in a string, and what imports them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import PurePosixPath
from typing import Final

GLOB: Final = re.compile(r"[*?\[]")
WORDS: Final = re.compile(r"[/\\\s'\"=:,;()]+")
MAX_PARTS: Final = 10  # of a module's full name


class Protected:
    """`paths`: paths or globs from the repository's root."""

    def __init__(self, paths: Sequence[str]) -> None:
        self._files: set[str] = set()
        self._stems: set[str] = set()
        self._modules: set[str] = set()
        self._globs: list[str] = []
        for path in paths:
            parts = [part for part in PurePosixPath(path).parts if part != "/"]
            plain = [part for part in parts if not GLOB.search(part)]  # of `answers/*.json` the folder
            if not plain:
                self._globs += parts[-1:]
                continue
            self._files.add(plain[-1])
            if plain[-1].endswith(".py"):
                module = [part.removesuffix(".py") for part in plain if part != "__init__.py"]
                self._modules |= {".".join(module), *module[-1:]}
            else:
                self._stems.add(plain[-1].partition(".")[0] or plain[-1])

    def named_by(self, text: str) -> bool:
        """Whether a string names one: a file by its name anywhere, its stem only as a part of a path."""
        words = WORDS.split(text)
        if not self._files.isdisjoint(words):
            return True
        if any("." in word and fnmatchcase(word, glob) for glob in self._globs for word in words):
            return True
        return not re.search(r"\s", text) and any(
            part.partition(".")[0] in self._stems for part in re.split(r"[/\\]", text) if part
        )

    def module(self, name: str) -> bool:
        """Whether a full name is of one of them, or of what is in it."""
        parts = name.lstrip(".").split(".")[:MAX_PARTS]
        return any(".".join(parts[:end]) in self._modules for end in range(1, len(parts) + 1))
