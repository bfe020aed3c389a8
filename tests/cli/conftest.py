"""Commands run in the tests' own process, whose environment they may not change for others."""

import os
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def environment_as_it_was() -> Iterator[None]:
    """Puts the environment back: a command that meets a cluster sets what Ray reads there."""
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)
