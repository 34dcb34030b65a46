"""Fixtures for every test."""

pytest_plugins = ["tests.forge.fixtures", "tests.project"]
