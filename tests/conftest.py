"""Fixtures for every test."""

from hypothesis import settings

pytest_plugins = ["tests.forge.fixtures", "tests.forge.client", "tests.project"]

# No test is a timed one: how long an example takes says something about the machine only.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")
