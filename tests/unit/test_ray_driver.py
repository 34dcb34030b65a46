"""The child that speaks to Ray, as far as no cluster is needed."""

from __future__ import annotations

import pytest

pytest.importorskip("ray")

from autoresearch_ci.executors.ray_driver import MAX_EXPORTS, Exports


def test_an_export_is_put_once_for_every_version() -> None:
    """However many runs there are of it; one that is changed is another, and the oldest unused one is let go."""
    put: list[bytes] = []

    def store(export: bytes) -> str:
        put.append(export)
        return f"reference {len(put)}"

    exports = Exports(store)
    assert exports.put(b"one") == exports.put(b"one") == "reference 1"
    assert exports.put(b"two") == "reference 2"
    for number in range(MAX_EXPORTS - 1):
        exports.put(b"one")
        exports.put(f"more {number}".encode())
    exports.put(b"one")
    assert put.count(b"one") == 1
    exports.put(b"two")
    assert put.count(b"two") == 2
    exports.forget()
    assert exports.put(b"one") != "reference 1"
