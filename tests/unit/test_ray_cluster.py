"""The session's side of a cluster, as far as no cluster is needed."""

from __future__ import annotations

import socket
import sys

import pytest

from autoresearch_ci.errors import MachineError, SettingsError
from autoresearch_ci.executors.ray_cluster import RayExecutor, check_address, variables_of_child
from autoresearch_ci.executors.ray_messages import Setup, Wanted


def test_the_child_gets_what_it_needs_and_no_more() -> None:
    """Neither a forge's token nor a model's key, nor a variable that nobody has thought of."""
    environ = {
        "PATH": "/bin", "HOME": "/home/me", "GITHUB_TOKEN": "t", "OPENAI_API_KEY": "k", "AUTORESEARCH_TOKEN": "t",
        "RAY_AUTH_TOKEN": "the cluster's own", "RAY_RUNTIME_ENV_HOOK": "x", "PYTHONPATH": "/theirs", "WHATEVER": "w",
    }  # fmt: skip
    given = variables_of_child(environ)
    assert given.keys() == {
        "PATH", "HOME", "RAY_AUTH_TOKEN", "PYTHONPATH", "PYTHONUNBUFFERED", "RAY_USAGE_STATS_ENABLED",
    }  # fmt: skip
    assert given["PYTHONPATH"] != "/theirs"
    assert given["RAY_USAGE_STATS_ENABLED"] == "0"


def test_an_address_is_checked_before_anything_is_started() -> None:
    """What answers is taken as it is; `auto` is RAY_ADDRESS where that is set."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        assert check_address(address, {}) == address
        assert check_address("auto", {"RAY_ADDRESS": address}) == address
    with pytest.raises(MachineError, match="no Ray answers at"):
        check_address("auto", {"RAY_ADDRESS": address})
    assert check_address("auto", {"RAY_ADDRESS": " "}) == "auto"
    assert check_address("local", {"RAY_ADDRESS": address}) == "local"


@pytest.mark.parametrize("address", ["", "head", "head:0", "head:65536", "head:x", "http://head:6379", "a b:1"])
def test_what_is_no_address_is_the_settings_error(address: str) -> None:
    """It is refused without being asked for."""
    with pytest.raises(SettingsError, match="`ray-address` cannot be"):
        check_address(address, {})


def test_rays_client_protocol_is_refused_with_a_way_out() -> None:
    """It is not silently taken for something else."""
    with pytest.raises(SettingsError, match="client protocol") as caught:
        check_address("ray://head:10001", {})
    assert "ray start --address" in caught.value.hint


def test_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error says how to install it."""
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(SettingsError) as caught:
        RayExecutor(Wanted(address="local", setup=Setup(session="s", cache="c")), environ={})
    assert caught.value.hint == '`pip install "autoresearch-ci[ray]"`'
